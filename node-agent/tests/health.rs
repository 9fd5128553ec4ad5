//! The node's health endpoint, on a node in memory.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod common;

use std::{sync::Arc, time::Duration};

use axoneme_cni::Command;
use axoneme_kernel::net::HEALTH_LINK;
use axoneme_model::{
    Identity,
    rows::{HealthRow, RowSet},
};
use axoneme_node_agent::{
    engine::{Engine, Outgoing},
    health::{Place, Plan},
};
use axoneme_wire::{Proof, Row, RowChange};
use common::*;
use serde_json::json;

const ON: HealthRow = HealthRow { interval_seconds: 60, endpoints: true };

fn probing() -> RowSet {
    let mut set = rows();
    set.config.as_mut().unwrap().health = Some(ON);
    set
}

/// A node whose rows are in force, and the plan for probes.
fn up(node: &Node) -> (Engine, Arc<Plan>) {
    let mut e = node.boot();
    e.stream(snapshot(&probing(), 1));
    let plan = e.take_health_plan().expect("a plan");
    (e, plan)
}

fn link(node: &Node) -> Option<u32> {
    node.network.state().links.values().find(|l| l.name == HEALTH_LINK).map(|l| l.ifindex)
}

fn proofs(out: &[Outgoing]) -> Vec<Proof> {
    out.iter().filter_map(|o| if let Outgoing::Node(r) = o { Some(r.proof.clone()) } else { None }).collect()
}

#[test]
fn it_is_an_endpoint_behind_the_programs_and_open_whatever_policy_says() {
    let node = Node::default();
    let (mut e, plan) = up(&node);
    let own = ip("10.0.1.1");
    let ifindex = link(&node).expect("its link");
    {
        let k = node.datapath.kernel();
        assert_eq!((k.endpoints[&own].ifindex, k.endpoints[&own].identity), (ifindex, Identity::HEALTH.0));
        let table = &k.tables[&k.endpoints[&own].slot];
        assert!(table.ingress_default.allow && table.egress_default.allow && table.entries.is_empty());
        let attached = k.log.iter().position(|l| l.starts_with("attach Endpoint"));
        let entered = k.log.iter().position(|l| l.starts_with("upsert_endpoint"));
        assert!(attached.unwrap() < entered.unwrap(), "{:?}", k.log);
        assert_eq!(k.ips[&net("10.0.1.1/32")].identity, Identity::HEALTH.0);
        let other = k.ips[&net("10.0.2.1/32")];
        assert_eq!((other.identity, other.tunnel, other.is_node), (4, Some(ip("192.168.0.2")), false));
    }
    assert!(node.network.state().pods[HEALTH_LINK].addresses.contains(&own));
    assert!(plan.endpoint.is_some() && plan.addresses == [ip("192.168.0.1")]);
    let peers = plan.peers.as_ref().unwrap();
    let places: Vec<_> = peers.nodes["n2"].iter().map(|l| (l.place, l.address)).collect();
    assert!(places.contains(&(Place::Endpoint, ip("10.0.2.1"))) && places.contains(&(Place::Node, ip("192.168.0.2"))));
    // nobody's pod: no report, no address of the pool, nothing that GC collects
    let view = e.view().status;
    assert!(view.endpoints.is_empty() && view.pools.iter().all(|p| p.used == 0));
    assert!(!e.take_outgoing().iter().any(|o| matches!(o, Outgoing::Endpoint(_))));
    let mut gc = request(Command::Gc, "c1", "a");
    gc.config["cni.dev/valid-attachments"] = json!([]);
    run(&mut e, gc).unwrap();
    reap(&node, &mut e);
    assert_eq!(link(&node), Some(ifindex));
    assert_eq!(e.drift().unwrap(), Vec::<String>::new());
    // and with nothing to do nothing is written
    let writes = node.writes();
    e.stream(snapshot(&probing(), 2));
    node.clock.advance(Duration::from_hours(1));
    e.tick();
    assert_eq!(node.writes(), writes);
}

#[test]
fn it_goes_when_it_is_switched_off_and_moves_with_the_nodes_block() {
    let node = Node::default();
    let (mut e, _) = up(&node);
    let mut set = probing();
    set.nodes.get_mut("n1").unwrap().pod_cidrs = vec![net("10.0.7.0/24")];
    set.nodes.get_mut("n2").unwrap().pod_cidrs = vec![net("10.0.8.0/24")];
    e.stream(snapshot(&set, 2));
    reap(&node, &mut e);
    e.tick();
    {
        let k = node.datapath.kernel();
        let has: Vec<_> = k.ips.keys().filter(|p| p.prefix() == 32 && p.ip() != ip("192.168.0.1")).collect();
        assert_eq!(has, [&net("10.0.7.1/32"), &net("10.0.8.1/32")]);
        assert_eq!(k.endpoints.keys().collect::<Vec<_>>(), [&ip("10.0.7.1")]);
    }
    assert!(e.take_health_plan().unwrap().endpoint.is_some());
    set.config.as_mut().unwrap().health = None;
    e.stream(snapshot(&set, 3));
    reap(&node, &mut e);
    e.tick();
    assert_eq!(node.leftovers(), Vec::<String>::new());
    let plan = e.take_health_plan().unwrap();
    assert!(plan.peers.is_none() && plan.endpoint.is_none());
    assert_eq!(e.drift().unwrap(), Vec::<String>::new());
    assert!(node.datapath.kernel().tables.values().all(|t| !t.entries.is_empty()), "its table went, too");
}

#[test]
fn nodes_come_and_go() {
    let node = Node::default();
    let (mut e, _) = up(&node);
    let mut set = probing();
    let gone = set.nodes.remove("n2").unwrap();
    e.stream(snapshot(&set, 2));
    assert!(!node.datapath.kernel().ips.contains_key(&net("10.0.2.1/32")));
    assert_eq!(e.take_health_plan().unwrap().peers.as_ref().unwrap().nodes.len(), 1);
    let batch = axoneme_wire::client::Batch {
        at: axoneme_wire::Resume { epoch: 1, revision: 3 },
        complete: vec![],
        changes: vec![RowChange::Upsert(Row::Node(gone))],
    };
    e.stream(axoneme_wire::client::Event::Batch(batch));
    assert!(node.datapath.kernel().ips.contains_key(&net("10.0.2.1/32")));
    assert_eq!(e.take_health_plan().unwrap().peers.as_ref().unwrap().nodes.len(), 2);
    assert!(e.take_health_plan().is_none(), "nothing has changed");
}

#[test]
fn an_agent_that_dies_on_any_line_makes_it_anew() {
    for effects in 0..40 {
        let node = Node::default();
        let mut e = node.boot();
        node.fuse.arm(effects);
        e.stream(snapshot(&probing(), 1));
        let burnt = node.fuse.is_burnt();
        drop(e);
        node.fuse.disarm();
        // the kernel takes the link along with the namespace
        if let Some(ifindex) = link(&node) {
            node.network.state().links.remove(&ifindex);
        }
        let mut e = node.boot();
        e.stream(snapshot(&probing(), 1));
        recover(&node, &mut e);
        assert!(link(&node).is_some() && e.take_health_plan().unwrap().endpoint.is_some(), "after {effects}");
        assert_eq!(e.drift().unwrap(), Vec::<String>::new(), "after {effects}");
        assert_eq!(node.datapath.kernel().endpoints.len(), 1, "after {effects}");
        if !burnt {
            assert!(effects > 5);
            return;
        }
    }
    panic!("it has no end");
}

#[test]
fn the_operator_is_told_what_probes_say_and_once() {
    let node = Node::default();
    let (mut e, _) = up(&node);
    assert_eq!(proofs(&e.take_outgoing()).last(), Some(&Proof::Pending), "before anybody was probed");
    e.proven(Proof::Proven);
    e.tick();
    assert_eq!(proofs(&e.take_outgoing()), [Proof::Proven]);
    let refuted = Proof::Refuted("no answer".to_owned());
    e.proven(refuted.clone());
    let out = e.take_outgoing();
    assert_eq!(proofs(&out), [refuted]);
    assert!(out.iter().any(|o| matches!(o, Outgoing::Event(ev) if ev.warning && ev.reason == "DatapathNotProven")));
    assert!(e.is_ready(), "pods that are there, and those that come, are served all the same");
    let mut off = probing();
    off.config.as_mut().unwrap().health = None;
    e.stream(snapshot(&off, 2));
    assert_eq!(proofs(&e.take_outgoing()), [Proof::Unasked]);
}

/// Lets retries be due until there is an endpoint.
fn recover(node: &Node, e: &mut Engine) {
    for _ in 0..5 {
        node.clock.advance(Duration::from_secs(6));
        e.tick();
        reap(node, e);
        e.tick();
    }
}

#[test]
fn a_namespace_that_cannot_be_made_is_told_and_tried_again() {
    let mut refused = 0;
    for effects in 0..20 {
        let node = Node::default();
        let mut e = node.boot();
        // all that comes before is there
        e.stream(snapshot(&rows(), 1));
        e.take_outgoing();
        node.fuse.arm(effects);
        e.stream(snapshot(&probing(), 2));
        node.fuse.disarm();
        let told = proofs(&e.take_outgoing());
        let why = told.last().and_then(|p| if let Proof::Refuted(why) = p { Some(why.clone()) } else { None });
        refused += usize::from(why.is_some_and(|w| w.contains("the health endpoint is not made")));
        recover(&node, &mut e);
        assert!(link(&node).is_some(), "after {effects}");
        let told = proofs(&e.take_outgoing());
        assert!(told.last().is_none_or(|p| *p == Proof::Pending), "after {effects}: {told:?}");
        assert_eq!(e.drift().unwrap(), Vec::<String>::new(), "after {effects}");
    }
    assert!(refused >= 3, "{refused}");
}
