//! The agent may die on any line.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod common;

use axoneme_cni::Command;
use axoneme_node_agent::engine::Engine;
use common::*;

/// A process that is killed after its next `effects` effects while it serves `command`. True: it got to the end.
fn killed_during(node: &Node, engine: &mut Engine, command: Command, effects: i64) -> bool {
    node.fuse.arm(effects);
    let (answer, _rx) = ask(engine, request(command, "c1", "a"));
    reap(node, engine);
    let survived = !node.fuse.is_burnt();
    if survived {
        assert!(matches!(answer, Some(axoneme_cni::Answer::Done(_))), "{answer:?}");
    }
    node.fuse.disarm();
    survived
}

fn restarted(node: &Node) -> Engine {
    let mut e = node.boot();
    e.stream(snapshot(&rows(), 2));
    reap(node, &mut e);
    e
}

/// What the runtime does after a failed ADD: DEL, then ADD in a new sandbox; the other pod is untouched.
fn the_node_is_sound(node: &Node, engine: &mut Engine) {
    assert_eq!(engine.drift().unwrap(), Vec::<String>::new());
    let again = run(engine, request(Command::Add, "c1", "a")).unwrap();
    let address = again["ips"][0]["address"].as_str().unwrap().to_owned();
    assert_ne!(address, "10.0.1.2/32", "pod b holds it");
    let links = node.network.state().owned_links().len();
    assert_eq!(links, 3, "two pods and the tunnel device");
    assert_eq!(node.datapath.kernel().endpoints.len(), 2);
    assert!(run(engine, request(Command::Check, "c1", "a")).is_ok());
    for (container, uid) in [("c1", "a"), ("c0", "b")] {
        run(engine, request(Command::Del, container, uid)).unwrap();
    }
    reap(node, engine);
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

fn with_pod_b() -> (Node, Engine) {
    let node = Node::default();
    let mut e = node.boot();
    e.stream(snapshot(&rows(), 1));
    let b = run(&mut e, request(Command::Add, "c0", "b")).unwrap();
    assert_eq!(b["ips"][0]["address"], "10.0.1.2/32");
    (node, e)
}

#[test]
fn killed_at_any_step_of_add_it_converges_and_leaks_nothing() {
    let mut steps = 0;
    for effects in 0.. {
        let (node, mut engine) = with_pod_b();
        let survived = killed_during(&node, &mut engine, Command::Add, effects);
        drop(engine);
        let mut engine = restarted(&node);
        let live = engine.view().status.endpoints.len();
        assert!(live == 1 || live == 2);
        the_node_is_sound(&node, &mut engine);
        if survived {
            break;
        }
        steps += 1;
    }
    assert!(steps >= 8, "ADD has only {steps} effects: is anything written down?");
}

#[test]
fn killed_at_any_step_of_del_it_converges_and_leaks_nothing() {
    let mut steps = 0;
    for effects in 0.. {
        let (node, mut engine) = with_pod_b();
        run(&mut engine, request(Command::Add, "c1", "a")).unwrap();
        let survived = killed_during(&node, &mut engine, Command::Del, effects);
        drop(engine);
        let mut engine = restarted(&node);
        the_node_is_sound(&node, &mut engine);
        if survived {
            break;
        }
        steps += 1;
    }
    assert!(steps >= 5, "DEL has only {steps} effects");
}

#[test]
fn an_effect_that_fails_once_is_undone_in_the_same_process() {
    // the same as dying, but the process lives on and must clean up by itself
    for effects in 0..8 {
        let (node, mut engine) = with_pod_b();
        node.fuse.arm(effects);
        let (answer, _rx) = ask(&mut engine, request(Command::Add, "c1", "a"));
        assert!(matches!(answer, Some(axoneme_cni::Answer::Failed(_))), "{effects}: {answer:?}");
        node.fuse.disarm();
        node.clock.advance(std::time::Duration::from_mins(1));
        engine.tick();
        reap(&node, &mut engine);
        assert_eq!(
            engine.view().status.endpoints.len(),
            1,
            "after {effects} effects: {:?}",
            engine.view().status.endpoints
        );
        the_node_is_sound(&node, &mut engine);
    }
}
