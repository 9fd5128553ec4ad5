//! Blocks come to a node and go back: what its agent hands out, and what it says.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::time::Duration;

use axoneme_cni::{Answer, Command};
use axoneme_model::rows::{BlockUse, Edges, RowSet};
use axoneme_node_agent::{
    engine::{Engine, Outgoing},
    ipam::QUARANTINE,
};
use axoneme_wire::NodeReport;

use common::{Node, ask, net, reap, request, rows, run, snapshot};

/// Rows of a node that holds a block of pool `blue`, closed or not, as the CiliumNode of that version says.
fn pools(version: u64, blocks: &[&str], closed: &[&str]) -> RowSet {
    let mut set = rows();
    for row in set.endpoints.values_mut() {
        row.pool_v4 = "blue".into();
    }
    let config = set.config.as_mut().unwrap();
    config.pools = [("blue".into(), blocks.iter().map(|b| net(b)).collect())].into();
    config.blocks = BlockUse {
        version,
        releasing: closed.iter().map(|b| net(b)).collect(),
        edges: [("blue".into(), Edges::Pool { allow_first: false, allow_last: false })].into(),
        ..BlockUse::default()
    };
    set
}

fn last_report(e: &mut Engine) -> NodeReport {
    let reports = e.take_outgoing().into_iter().rev();
    reports.into_iter().find_map(|o| if let Outgoing::Node(r) = o { Some(r) } else { None }).expect("it says so")
}

fn address(answer: &serde_json::Value) -> String {
    answer["ips"][0]["address"].as_str().unwrap().to_owned()
}

#[test]
fn an_add_waits_for_its_pool_to_get_a_block() {
    let node = Node::default();
    let mut e = node.boot();
    e.stream(snapshot(&pools(1, &[], &[]), 1));
    let (answer, mut rx) = ask(&mut e, request(Command::Add, "c1", "a"));
    assert!(answer.is_none(), "more may come");
    e.stream(snapshot(&pools(2, &["10.5.0.0/30"], &[]), 2));
    let Answer::Done(done) = rx.try_recv().unwrap() else { panic!("it goes on") };
    assert_eq!(address(&done), "10.5.0.1/32", "there is no router in a block of a pool");
}

#[test]
fn an_add_that_waits_too_long_says_which_pool_is_empty_and_that_it_may_be_tried_again() {
    let node = Node::default();
    let mut e = node.boot();
    e.stream(snapshot(&pools(1, &["10.5.0.4/32"], &[]), 1));
    run(&mut e, request(Command::Add, "c1", "a")).unwrap();
    let (answer, mut rx) = ask(&mut e, request(Command::Add, "c2", "b"));
    assert!(answer.is_none());
    node.clock.advance(Duration::from_secs(15));
    e.tick();
    let Answer::Failed(f) = rx.try_recv().unwrap() else { panic!("there is no address") };
    assert_eq!(f.code, axoneme_cni::code::TRY_AGAIN);
    assert!(f.msg.contains("pod shop/web-b: pool \"blue\" is empty"), "{}", f.msg);
}

#[test]
fn a_pod_without_a_pool_is_told_why() {
    let node = Node::default();
    let mut e = node.boot();
    let mut set = pools(1, &["10.5.0.0/30"], &[]);
    set.endpoints.get_mut("a").unwrap().pool_v4 = "!no pool matches".into();
    e.stream(snapshot(&set, 1));
    let (answer, mut rx) = ask(&mut e, request(Command::Add, "c1", "a"));
    assert!(answer.is_none());
    node.clock.advance(Duration::from_secs(15));
    e.tick();
    let Answer::Failed(f) = rx.try_recv().unwrap() else { panic!("there is no pool") };
    assert!(f.msg.contains("no pool for the pod's IPv4 address: no pool matches"), "{}", f.msg);
}

#[test]
fn a_closed_block_is_given_up_when_its_last_address_has_rested_and_not_taken_from_an_older_view() {
    let node = Node::default();
    let mut e = node.boot();
    let both = ["10.5.0.0/30", "10.6.0.0/30"];
    e.stream(snapshot(&pools(1, &both, &[]), 1));
    assert_eq!(address(&run(&mut e, request(Command::Add, "c1", "a")).unwrap()), "10.5.0.1/32");
    e.take_outgoing();
    e.stream(snapshot(&pools(2, &both, &[both[0]]), 2));
    let report = last_report(&mut e);
    assert_eq!((report.blocks_version, report.released.len()), (2, 0), "an address of it is in use");
    assert_eq!(address(&run(&mut e, request(Command::Add, "c2", "b")).unwrap()), "10.6.0.1/32", "nothing more of it");
    run(&mut e, request(Command::Del, "c1", "a")).unwrap();
    reap(&node, &mut e);
    e.tick();
    assert!(e.take_outgoing().iter().all(|o| !matches!(o, Outgoing::Node(_))), "it rests");
    assert!(e.wake_at().is_some(), "it wakes by itself");
    node.clock.advance(QUARANTINE);
    e.tick();
    let report = last_report(&mut e);
    assert_eq!((report.blocks_version, report.released), (2, [net(both[0])].into()));
    // it is taken away; then a replica that is behind says it were still the node's, also after a restart
    e.stream(snapshot(&pools(3, &both[1..], &[]), 3));
    run(&mut e, request(Command::Del, "c2", "b")).unwrap();
    reap(&node, &mut e);
    let mut e = node.boot();
    e.stream(snapshot(&pools(1, &both[..1], &[]), 1));
    let (answer, _rx) = ask(&mut e, request(Command::Add, "c3", "a"));
    assert!(answer.is_none(), "another node may have it");
    e.stream(snapshot(&pools(3, &both[1..], &[]), 4));
    assert_eq!(last_report(&mut e).blocks_version, 3);
}
