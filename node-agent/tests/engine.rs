//! What the engine promises, on a node in memory.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod common;

use std::{collections::BTreeSet, time::Duration};

use axoneme_cni::{Command, code};
use axoneme_kernel::{
    datapath::{Datapath, EndpointEntry, Fullness, Hook, Limit},
    net::{self, Network, OverlayKind},
};
use axoneme_model::{
    Bandwidth, Identity,
    rows::{EndpointRow, PodDevice, Routing, TableId},
};
use axoneme_node_agent::engine::{Engine, Outgoing, Part};
use axoneme_wire::{
    Resume, Row, RowChange, RowKey, RowType,
    client::{Batch, Event},
};
use common::*;

fn address(result: &serde_json::Value) -> String {
    result["ips"][0]["address"].as_str().unwrap().to_owned()
}

fn batch(revision: u64, changes: Vec<RowChange>) -> Event {
    Event::Batch(Batch { at: Resume { epoch: 1, revision }, complete: vec![], changes })
}

#[test]
fn add_gives_an_address_with_policy_live_and_del_leaves_nothing() {
    let node = Node::default();
    let mut e = node.boot();
    e.stream(snapshot(&rows(), 3));
    assert_eq!(acks(&e.take_outgoing()), [3]);
    let result = run(&mut e, request(Command::Add, "c1", "a")).unwrap();
    assert_eq!(address(&result), "10.0.1.2/32");
    assert_eq!(result["ips"][0]["gateway"], "169.254.1.1");
    assert_eq!(result["interfaces"][1]["sandbox"], "/run/netns/x");
    {
        let k = node.datapath.kernel();
        let EndpointEntry { identity, slot, .. } = k.endpoints[&ip("10.0.1.2")];
        assert_eq!(identity, 300);
        assert_eq!(k.tables[&slot].entries.len(), 4);
        assert_eq!(k.ips[&net("10.0.1.2/32")].identity, 300);
    }
    assert!(run(&mut e, request(Command::Check, "c1", "a")).is_ok());
    let reports: Vec<_> = e.take_outgoing();
    assert!(
        reports.iter().any(|o| matches!(o, Outgoing::Endpoint(r) if r.ready && r.addresses.contains(&ip("10.0.1.2"))
            && r.table == TableId(5) && &*r.container_id == "c1")),
        "{reports:?}"
    );
    assert_eq!(address(&run(&mut e, request(Command::Add, "c1", "a")).unwrap()), "10.0.1.2/32", "ADD is repeatable");
    run(&mut e, request(Command::Del, "c1", "a")).unwrap();
    reap(&node, &mut e);
    assert_eq!(node.leftovers(), Vec::<String>::new());
    run(&mut e, request(Command::Del, "c1", "a")).unwrap();
    let gone = run(&mut e, request(Command::Check, "c1", "a")).unwrap_err();
    assert_eq!(gone.code, code::UNKNOWN_CONTAINER);
    assert!(e.take_outgoing().iter().any(|o| matches!(o, Outgoing::Endpoint(r) if r.removed)));
}

#[test]
fn programs_are_attached_before_anything_can_pass() {
    let node = Node::default();
    let mut e = node.boot();
    e.stream(snapshot(&rows(), 1));
    node.datapath.kernel().log.clear();
    run(&mut e, request(Command::Add, "c1", "a")).unwrap();
    let log = node.datapath.kernel().log.clone();
    assert!(log[0].starts_with("attach Endpoint"), "{log:?}");
    assert!(log[1].starts_with("upsert_ip") && log[2].starts_with("upsert_endpoint"), "{log:?}");
}

#[test]
fn limits_follow_the_pods_row_and_outlive_the_agent() {
    let node = Node::default();
    let mut set = rows();
    let limited = |ingress, egress| EndpointRow { bandwidth: Bandwidth { ingress, egress }, ..endpoint("a", 5) };
    let changed = |revision, row: EndpointRow| batch(revision, vec![RowChange::Upsert(Row::Endpoint(row.into()))]);
    let limits = || node.datapath.kernel().limits.values().map(|l| (l.ingress, l.egress)).collect::<Vec<_>>();
    let log = || std::mem::take(&mut node.datapath.kernel().log);
    set.endpoints.insert("a".into(), limited(1000, 0));
    let mut e = node.boot();
    e.stream(snapshot(&set, 1));
    log();
    run(&mut e, request(Command::Add, "c1", "a")).unwrap();
    let at = |log: &[String], what: &str| log.iter().position(|l| l.starts_with(what)).unwrap();
    let add = log();
    assert!(at(&add, "attach Endpoint") < at(&add, "set_limit"), "{add:?}");
    assert!(at(&add, "set_limit") < at(&add, "upsert_endpoint"), "no packet comes past it: {add:?}");
    assert_eq!(limits(), [(1000, 0)]);
    assert!(node.datapath.kernel().limits.values().all(|l| l.mac != [0; 6]));
    e.stream(changed(2, limited(2000, 3000)));
    assert_eq!(limits(), [(2000, 3000)]);
    assert_eq!(log(), [log_of_limit(&node, 2000, 3000)], "nothing else is touched");
    let shown = e.view().status.endpoints[0].bandwidth.clone().unwrap();
    assert_eq!((shown.ingress_bytes_per_second, shown.egress_bytes_per_second), (2000, 3000));
    assert_eq!(e.drift().unwrap(), Vec::<String>::new());

    // another process adopts it, whether its rows are there already or not
    drop(e);
    set.endpoints.insert("a".into(), limited(2000, 3000));
    let mut e = node.boot();
    e.stream(snapshot(&set, 2));
    assert!(!log().iter().any(|l| l.starts_with("set_limit")));
    assert_eq!(limits(), [(2000, 3000)]);
    // somebody else took it away
    node.datapath.kernel().limits.clear();
    assert_eq!(e.drift().unwrap().len(), 1);
    e.repair().unwrap();
    assert_eq!(limits(), [(2000, 3000)]);

    e.stream(changed(3, limited(0, 0)));
    assert_eq!(limits(), []);
    assert!(e.view().status.endpoints[0].bandwidth.is_none());
    e.stream(changed(4, limited(0, 5)));
    log();
    run(&mut e, request(Command::Del, "c1", "a")).unwrap();
    reap(&node, &mut e);
    assert!(!log().iter().any(|l| l.starts_with("set_limit")), "it goes with the link, DEL does not wait for it");
    assert_eq!(node.leftovers(), Vec::<String>::new());
    assert_eq!(e.drift().unwrap(), Vec::<String>::new());
}

fn log_of_limit(node: &Node, ingress: u64, egress: u64) -> String {
    let ifindex = *node.datapath.kernel().limits.keys().next().unwrap();
    format!("set_limit {ifindex} {:?}", Some((ingress, egress)))
}

#[test]
fn limits_of_pods_that_went_while_no_agent_ran_are_taken_away() {
    let node = Node::default();
    let mut e = node.boot();
    let mut set = rows();
    set.endpoints
        .insert("a".into(), EndpointRow { bandwidth: Bandwidth { ingress: 0, egress: 9 }, ..endpoint("a", 5) });
    e.stream(snapshot(&set, 1));
    drop(e);
    let limit = Limit { mac: [2; 6], ingress: 1, egress: 1 };
    node.datapath.kernel().limits.insert(4711, limit);
    let mut e = node.boot();
    e.stream(snapshot(&set, 1));
    assert!(node.datapath.kernel().limits.is_empty());
}

#[test]
fn add_waits_for_its_row_and_its_table() {
    let node = Node::default();
    let mut e = node.boot();
    let mut set = rows();
    let row = set.endpoints.remove("a").unwrap();
    e.stream(snapshot(&set, 1));
    let (answer, mut rx) = ask(&mut e, request(Command::Add, "c1", "a"));
    assert!(answer.is_none());
    assert!(node.leftovers().is_empty(), "nothing is done before the row is there");
    e.stream(batch(2, vec![RowChange::Upsert(Row::Endpoint(row.into()))]));
    assert!(matches!(rx.try_recv().unwrap(), axoneme_cni::Answer::Done(_)));

    let (answer, mut rx) = ask(&mut e, request(Command::Add, "c9", "nobody"));
    assert!(answer.is_none());
    node.clock.advance(Duration::from_secs(14));
    e.tick();
    assert!(rx.try_recv().is_err());
    node.clock.advance(Duration::from_secs(1));
    e.tick();
    let axoneme_cni::Answer::Failed(f) = rx.try_recv().unwrap() else { panic!("no row, no network") };
    assert_eq!(f.code, code::TRY_AGAIN);
    assert!(f.msg.contains("no row for pod shop/web-nobody"), "{}", f.msg);
}

#[test]
fn with_nothing_to_do_nothing_is_written() {
    let node = Node::default();
    let mut e = node.boot();
    let mut set = rows();
    e.stream(snapshot(&set, 1));
    let result = run(&mut e, request(Command::Add, "c1", "a")).unwrap();
    assert_eq!(address(&result), "10.0.1.2/32");
    // the operator has learnt the address
    let row = ip_row("10.0.1.2/32", 300, "n1", "shop/web-a");
    set.ips.insert(row.prefix, row);
    let writes = node.writes();
    e.stream(snapshot(&set, 2));
    // the copy of the rows has been written
    node.clock.advance(Duration::from_secs(10));
    e.tick();
    let documents = node.store.documents.lock().unwrap().clone();
    e.stream(snapshot(&set, 3));
    node.clock.advance(Duration::from_hours(1));
    e.tick();
    assert_eq!(node.writes(), writes);
    assert_eq!(*node.store.documents.lock().unwrap(), documents);
    assert_eq!(acks(&e.take_outgoing()), [1, 2, 3]);
    assert_eq!(e.drift().unwrap(), Vec::<String>::new());
}

#[test]
fn a_restart_adopts_and_writes_nothing_but_program_updates() {
    let node = Node::default();
    let mut e = node.boot();
    e.stream(snapshot(&rows(), 1));
    run(&mut e, request(Command::Add, "c1", "a")).unwrap();
    drop(e);
    let (writes, endpoints) = (node.network.writes(), node.datapath.kernel().endpoints.clone());
    node.datapath.kernel().log.clear();
    let mut e = node.boot();
    assert_eq!(node.datapath.writes(), 0);
    e.stream(snapshot(&rows(), 1));
    let log = node.datapath.kernel().log.clone();
    assert!(log.iter().all(|l| l.starts_with("attach")), "{log:?}");
    assert_eq!(node.network.writes(), writes);
    assert_eq!(node.datapath.kernel().endpoints, endpoints);
    // the address is known to be in use
    assert_eq!(address(&run(&mut e, request(Command::Add, "c2", "b")).unwrap()), "10.0.1.3/32");
}

#[test]
fn nothing_is_pruned_before_every_input_is_complete() {
    let node = Node::default();
    let mut e = node.boot();
    let mut set = rows();
    let far = ip_row("10.0.2.9/32", 400, "n2", "shop/far");
    set.ips.insert(far.prefix, far);
    e.stream(snapshot(&set, 1));
    run(&mut e, request(Command::Add, "c1", "a")).unwrap();
    drop(e);
    let mut e = node.boot();
    let mut half = rows();
    half.endpoints.clear();
    e.stream(Event::Batch(Batch {
        at: Resume { epoch: 2, revision: 1 },
        complete: vec![RowType::Config, RowType::Node, RowType::Table],
        changes: axoneme_wire::change::upserts(&half),
    }));
    assert!(node.datapath.kernel().ips.contains_key(&net("10.0.2.9/32")), "addresses are not complete yet");
    assert!(node.datapath.kernel().endpoints.contains_key(&ip("10.0.1.2")));
    // complete, and the pod of another node is gone, the own pod's row too: the pod stays until DEL
    e.stream(snapshot(&half, 2));
    assert!(!node.datapath.kernel().ips.contains_key(&net("10.0.2.9/32")));
    assert!(node.datapath.kernel().endpoints.contains_key(&ip("10.0.1.2")));
}

#[test]
fn an_endpoint_moves_only_to_a_table_that_is_in_place() {
    let node = Node::default();
    let mut e = node.boot();
    e.stream(snapshot(&rows(), 1));
    run(&mut e, request(Command::Add, "c1", "a")).unwrap();
    node.datapath.kernel().log.clear();
    let moved = endpoint("a", 6);
    // even when the row comes before the table
    e.stream(batch(2, vec![RowChange::Upsert(Row::Endpoint(moved.into()))]));
    assert_eq!(node.datapath.writes(), 0);
    e.stream(batch(3, vec![RowChange::Upsert(Row::Table(table(6, 1..3).into()))]));
    e.stream(batch(4, vec![RowChange::Remove(RowKey::Table(TableId(5)))]));
    // pod b, which never came, would have used table 5
    let log = node.datapath.kernel().log.clone();
    assert_eq!(log, ["put_table 2", "upsert_endpoint 10.0.1.2 slot 2", "commit", "remove_table 1"]);
}

#[test]
fn a_table_that_is_too_large_is_refused_and_last_good_stays() {
    let node = Node::default();
    let mut e = node.boot();
    e.stream(snapshot(&rows(), 1));
    run(&mut e, request(Command::Add, "c1", "a")).unwrap();
    let before = node.datapath.kernel().tables.clone();
    e.take_outgoing();
    e.stream(batch(2, vec![RowChange::Upsert(Row::Table(table(5, 0..500).into()))]));
    assert_eq!(node.datapath.kernel().tables, before);
    let out = e.take_outgoing();
    let nack = out.iter().find_map(|o| if let Outgoing::Nack(n) = o { Some(n.clone()) } else { None }).unwrap();
    assert_eq!((nack.revision, nack.key), (2, Some(RowKey::Table(TableId(5)))));
    assert!(nack.reason.contains("needs 500 entries, the map holds 100"), "{}", nack.reason);
    assert_eq!(acks(&out), [2]);
    // hopeless: not tried again until it changes
    let writes = node.writes();
    node.clock.advance(Duration::from_hours(1));
    e.tick();
    assert_eq!(node.writes(), writes);
    e.stream(batch(3, vec![RowChange::Upsert(Row::Table(table(5, 0..10).into()))]));
    assert_eq!(node.datapath.kernel().tables[&1].entries.len(), 10);
}

#[test]
fn a_small_change_touches_only_what_differs() {
    let node = Node::default();
    let mut e = node.boot();
    e.stream(snapshot(&rows(), 1));
    node.datapath.kernel().log.clear();
    e.stream(batch(2, vec![RowChange::Upsert(Row::Table(table(5, 257..261).into()))]));
    assert_eq!(node.datapath.kernel().log, ["patch_table 1 +1 -1"]);
}

#[test]
fn a_pod_is_fenced_when_its_entries_are_refused() {
    let node = Node::default();
    let mut e = node.boot();
    e.stream(snapshot(&rows(), 1));
    node.datapath.kernel().fail_endpoints = true;
    let f = run(&mut e, request(Command::Add, "c1", "a")).unwrap_err();
    assert!(f.msg.contains("endpoints is full"), "{}", f.msg);
    assert_eq!(node.leftovers(), Vec::<String>::new());
    node.datapath.kernel().fail_endpoints = false;
    // a rested pool: the address was never seen by anybody, but rests all the same
    assert_eq!(address(&run(&mut e, request(Command::Add, "c1", "a")).unwrap()), "10.0.1.3/32");
}

#[test]
fn a_full_disk_is_named_and_nothing_is_half_done() {
    let node = Node::default();
    let mut e = node.boot();
    e.stream(snapshot(&rows(), 1));
    run(&mut e, request(Command::Add, "c1", "a")).unwrap();
    *node.store.full.lock().unwrap() = true;
    let f = run(&mut e, request(Command::Add, "c2", "b")).unwrap_err();
    assert!(f.msg.contains("/run/axoneme/state is full"), "{}", f.msg);
    run(&mut e, request(Command::Del, "c1", "a")).unwrap();
    reap(&node, &mut e);
    assert_eq!(node.leftovers(), Vec::<String>::new(), "a full disk keeps no pod from being removed");
}

#[test]
fn an_empty_pool_is_named() {
    let node = Node::default();
    let mut e = node.boot();
    let mut set = rows();
    set.config.as_mut().unwrap().pools.insert("default".into(), vec![net("10.0.1.4/32")]);
    e.stream(snapshot(&set, 1));
    run(&mut e, request(Command::Add, "c1", "a")).unwrap();
    let f = run(&mut e, request(Command::Add, "c2", "b")).unwrap_err();
    assert_eq!(f.code, code::POOL_EMPTY);
    assert!(f.msg.contains("pool \"default\" is empty"), "{}", f.msg);
}

#[test]
fn status_says_what_is_missing() {
    let node = Node::default();
    let mut e = node.boot();
    let f = run(&mut e, request(Command::Status, "", "")).unwrap_err();
    assert_eq!(f.code, code::UNAVAILABLE);
    assert!(f.msg.contains("no operator is connected"), "{}", f.msg);
    e.stream(snapshot(&rows(), 1));
    assert!(run(&mut e, request(Command::Status, "", "")).is_ok());
    let mut set = rows();
    set.config.as_mut().unwrap().devices = vec!["eth9".into()];
    e.stream(snapshot(&set, 2));
    let f = run(&mut e, request(Command::Status, "", "")).unwrap_err();
    assert!(f.msg.contains("eth9"), "{}", f.msg);
}

#[test]
fn gc_removes_what_the_runtime_does_not_know() {
    let node = Node::default();
    let mut e = node.boot();
    e.stream(snapshot(&rows(), 1));
    run(&mut e, request(Command::Add, "c1", "a")).unwrap();
    run(&mut e, request(Command::Add, "c2", "b")).unwrap();
    let mut gc = request(Command::Gc, "", "");
    gc.config["cni.dev/valid-attachments"] = serde_json::json!([{"containerID": "c2", "ifname": "eth0"}]);
    run(&mut e, gc).unwrap();
    reap(&node, &mut e);
    let view = e.view();
    assert_eq!(view.status.endpoints.len(), 1);
    assert_eq!(view.status.endpoints[0].container, "c2");
}

#[test]
fn a_new_identity_is_in_force_and_reported() {
    let node = Node::default();
    let mut e = node.boot();
    e.stream(snapshot(&rows(), 1));
    run(&mut e, request(Command::Add, "c1", "a")).unwrap();
    e.take_outgoing();
    let mut row = endpoint("a", 5);
    row.identity = Identity(301);
    e.stream(batch(2, vec![RowChange::Upsert(Row::Endpoint(row.into()))]));
    assert_eq!(node.datapath.kernel().endpoints[&ip("10.0.1.2")].identity, 301);
    let out = e.take_outgoing();
    assert!(
        out.iter().any(|o| matches!(o, Outgoing::Endpoint(r) if r.identity == Identity(301) && r.ready)),
        "{out:?}"
    );
}

#[test]
fn what_somebody_else_changed_is_found_and_mended() {
    let node = Node::default();
    let mut e = node.boot();
    e.stream(snapshot(&rows(), 1));
    run(&mut e, request(Command::Add, "c1", "a")).unwrap();
    node.datapath.remove_ip(net("0.0.0.0/0")).unwrap();
    node.network.state().routes.remove(&(net("10.0.2.0/24"), 10));
    assert_eq!(e.drift().unwrap().len(), 2, "{:?}", e.drift());
    e.repair().unwrap();
    assert_eq!(e.drift().unwrap(), Vec::<String>::new());
}

/// What is not in force, by kind, without the kinds of which all is.
fn differing(e: &Engine) -> Vec<(&'static str, u64)> {
    let all = e.view().drift;
    assert!(Part::ALL.iter().all(|p| all.contains_key(p.as_str())) && all.len() == Part::ALL.len(), "{all:?}");
    all.into_iter().filter(|(_, n)| *n > 0).collect()
}

#[test]
fn what_is_wanted_and_not_in_force_is_counted_by_kind() {
    let node = Node::default();
    let mut e = node.boot();
    e.stream(snapshot(&rows(), 1));
    run(&mut e, request(Command::Add, "c1", "a")).unwrap();
    assert_eq!(differing(&e), []);
    // the kernel refuses a row: known at once
    node.datapath.kernel().fail_endpoints = true;
    let mut row = endpoint("a", 5);
    row.identity = Identity(301);
    e.stream(batch(2, vec![RowChange::Upsert(Row::Endpoint(row.into()))]));
    assert_eq!(differing(&e), [("endpoint", 1)]);
    node.datapath.kernel().fail_endpoints = false;
    node.clock.advance(Duration::from_mins(1));
    e.tick();
    assert_eq!(differing(&e), []);
    // somebody else changes what is there: found when its turn has come, one kind after the other
    node.datapath.remove_ip(net("0.0.0.0/0")).unwrap();
    node.network.state().routes.remove(&(net("10.0.2.0/24"), 10));
    node.network
        .state()
        .links
        .values_mut()
        .filter(|l| l.name.starts_with("axn") && l.ifindex > 10)
        .for_each(|l| l.up = false);
    let looks = |e: &mut Engine| {
        for _ in 0..Part::ALL.len() {
            node.clock.advance(Duration::from_secs(10));
            e.tick();
        }
    };
    looks(&mut e);
    let found = e.drift().unwrap();
    assert_eq!(differing(&e), [("address", 1), ("link", 1), ("route", 1)], "{found:?}");
    looks(&mut e);
    assert_eq!(differing(&e), [("address", 1), ("link", 1), ("route", 1)], "it is not mended before it is asked for");
    node.network.state().links.values_mut().for_each(|l| l.up = true);
    e.repair().unwrap();
    assert_eq!(differing(&e), []);
    looks(&mut e);
    assert_eq!(differing(&e), []);
}

#[test]
fn another_mtu_begins_where_no_packet_can_be_too_long() {
    let node = Node::default();
    let mut e = node.boot();
    let mut set = rows();
    e.stream(snapshot(&set, 1));
    run(&mut e, request(Command::Add, "c1", "a")).unwrap();
    let pod = node.network.state().pods.keys().next().unwrap().clone();
    let mut with_mtu = |e: &mut axoneme_node_agent::engine::Engine, revision, mtu| {
        set.config.as_mut().unwrap().mtu = mtu;
        node.network.state().log.clear();
        e.stream(snapshot(&set, revision));
        node.network.state().log.clone()
    };
    assert_eq!(with_mtu(&mut e, 2, 1300), [format!("pod {pod} 1300"), "overlay 1300".to_owned()], "pods shrink first");
    assert_eq!(with_mtu(&mut e, 3, 1420), ["overlay 1420".to_owned(), format!("pod {pod} 1420")], "pods grow last");
    assert!(with_mtu(&mut e, 4, 1420).is_empty());
    // the underlay shrinks behind the agent's back
    with_mtu(&mut e, 5, 0);
    node.network.state().links.get_mut(&2).unwrap().mtu = 1280;
    node.network.state().log.clear();
    node.clock.advance(Duration::from_secs(10));
    e.tick();
    assert_eq!(node.network.state().log, [format!("pod {pod} 1230"), "overlay 1230".to_owned()]);
    // a former process died before it had changed the pod
    drop(e);
    node.network.state().links.get_mut(&2).unwrap().mtu = 1500;
    node.network.state().log.clear();
    let mut e = node.boot();
    e.stream(snapshot(&rows(), 6));
    assert_eq!(node.network.state().log, ["overlay 1450".to_owned(), format!("pod {pod} 1450")]);
    // one that cannot be changed is told, and tried again
    let hidden = node.network.state().pods.remove(&pod).unwrap();
    let mut small = rows();
    small.config.as_mut().unwrap().mtu = 1300;
    e.stream(snapshot(&small, 7));
    let warnings = e.view().status.warnings.join(" ");
    assert!(warnings.contains("pod shop/web-a keeps MTU 1450 in place of 1300"), "{warnings}");
    node.network.state().pods.insert(pod.clone(), hidden);
    node.clock.advance(Duration::from_secs(10));
    e.tick();
    assert_eq!(node.network.state().pods[&pod].mtu, 1300);
    assert_eq!(e.view().status.warnings, Vec::<String>::new());
}

#[test]
fn new_pods_get_netkit_where_the_kernel_has_it_and_others_keep_what_they_have() {
    let node = Node::default();
    let mut e = node.boot();
    let mut set = rows();
    e.stream(snapshot(&set, 1));
    run(&mut e, request(Command::Add, "c1", "a")).unwrap();
    set.config.as_mut().unwrap().pod_device = PodDevice::Netkit;
    e.stream(snapshot(&set, 2));
    let warnings = e.view().status.warnings.join(" ");
    assert!(warnings.contains("this kernel has no netkit devices"), "{warnings}");
    run(&mut e, request(Command::Add, "c2", "b")).unwrap();
    let devices = || node.network.state().pods.values().map(|p| p.device).collect::<Vec<_>>();
    assert_eq!(devices(), [net::PodDevice::Veth; 2]);
    run(&mut e, request(Command::Del, "c2", "b")).unwrap();
    reap(&node, &mut e);
    drop(e);
    // another kernel
    node.network.state().netkit = true;
    let mut e = node.boot();
    e.stream(snapshot(&set, 3));
    run(&mut e, request(Command::Add, "c2", "b")).unwrap();
    let mixed = devices();
    assert!(mixed.len() == 2 && mixed.contains(&net::PodDevice::Netkit), "{mixed:?}");
    assert!(
        run(&mut e, request(Command::Check, "c1", "a")).is_ok()
            && run(&mut e, request(Command::Check, "c2", "b")).is_ok()
    );
    assert_eq!(e.view().status.warnings, Vec::<String>::new());
}

#[test]
fn a_node_without_the_new_tunnel_serves_on_and_does_not_acknowledge_it() {
    let node = Node::default();
    node.network.state().unknown.insert(OverlayKind::Geneve);
    let mut e = node.boot();
    let mut set = rows();
    e.stream(snapshot(&set, 1));
    assert_eq!(acks(&e.take_outgoing()), [1]);
    let geneve = Routing::Geneve { port: 6081 };
    set.config.as_mut().unwrap().also = geneve.tunnel();
    e.stream(snapshot(&set, 2));
    let out = e.take_outgoing();
    assert!(acks(&out).is_empty(), "others would send what is not taken: {out:?}");
    let told = |o: &Outgoing| matches!(o, Outgoing::Event(e) if e.reason == "TunnelNotMade" && e.warning);
    assert_eq!(out.iter().filter(|o| told(o)).count(), 1, "{out:?}");
    let warnings = e.view().status.warnings.join(" ");
    assert!(warnings.contains("modprobe geneve"), "{warnings}");
    run(&mut e, request(Command::Add, "c1", "a")).unwrap();
    e.take_outgoing();
    // somebody loads the module
    node.network.state().unknown.clear();
    node.clock.advance(Duration::from_secs(90));
    e.tick();
    assert_eq!(acks(&e.take_outgoing()), [2]);
    assert_eq!(e.view().status.warnings, Vec::<String>::new());
    let hooks = || {
        let links = node.network.links().unwrap();
        let index = |kind: OverlayKind| links.iter().find(|l| l.name == kind.link()).map(|l| l.ifindex);
        let attached = node.datapath.attached().unwrap();
        OverlayKind::ALL.map(|kind| index(kind).is_some_and(|i| attached.contains(&(Hook::Overlay, i))))
    };
    assert_eq!(hooks(), [true, true]);
    let config = set.config.as_mut().unwrap();
    (config.routing, config.also) = (geneve, VXLAN.tunnel());
    e.stream(snapshot(&set, 3));
    assert_eq!((acks(&e.take_outgoing()), hooks()), (vec![3], [true, true]));
    let devices: BTreeSet<u32> = node.network.state().routes.values().map(|r| r.ifindex).collect();
    let geneve = node.network.links().unwrap().into_iter().find(|l| l.name == "axn_geneve").unwrap().ifindex;
    let vxlan = node.network.links().unwrap().into_iter().find(|l| l.name == "axn_vxlan").unwrap().ifindex;
    assert!(devices.contains(&geneve) && !devices.contains(&vxlan), "{devices:?}");
    set.config.as_mut().unwrap().also = None;
    e.stream(snapshot(&set, 4));
    assert_eq!((acks(&e.take_outgoing()), hooks()), (vec![4], [false, true]));
}

#[test]
fn settings_of_the_nodes_own_are_told_and_whether_they_are_in_force() {
    let node = Node::default();
    let mut e = node.boot();
    let mut set = rows();
    e.stream(snapshot(&set, 1));
    assert!(e.view().status.overrides.is_empty());
    let own = |setting: &str, value: &str| axoneme_model::rows::OverrideRow {
        setting: setting.into(),
        value: value.into(),
        cluster: "".into(),
        from: "CiliumNodeConfig kube-system/jumbo".into(),
    };
    let told = |e: &axoneme_node_agent::engine::Engine| {
        let status = e.view().status;
        let one = |o: &axoneme_flow::admin::OverrideView| format!("{}={} {} {}", o.setting, o.value, o.from, o.applied);
        (status.mtu, status.acknowledged, status.overrides.iter().map(one).collect::<Vec<_>>())
    };
    let config = set.config.as_mut().unwrap();
    (config.mtu, config.overrides) = (1400, vec![own("spec.mtu", "1400")]);
    e.stream(snapshot(&set, 2));
    assert_eq!(told(&e), (1400, 2, vec!["spec.mtu=1400 CiliumNodeConfig kube-system/jumbo true".to_owned()]));
    // what can't be applied is neither acknowledged nor said to be in force
    let config = set.config.as_mut().unwrap();
    (config.devices, config.overrides) = (vec!["eth9".into()], vec![own("spec.agent.devices", "eth9")]);
    e.stream(snapshot(&set, 3));
    assert_eq!(
        told(&e),
        (1400, 2, vec!["spec.agent.devices=eth9 CiliumNodeConfig kube-system/jumbo false".to_owned()])
    );
    // taken back
    let config = set.config.as_mut().unwrap();
    (config.mtu, config.devices, config.overrides) = (0, vec![], vec![]);
    e.stream(snapshot(&set, 4));
    assert_eq!(told(&e), (1450, 4, vec![]));
}

fn meddle(node: &Node, slot: u16) {
    use axoneme_kernel::datapath::{Direction, PolicyKey, PolicyValue};
    let anyone = PolicyKey { direction: Direction::Ingress, peer: 0, protocol: 0, port: 0, port_bits: 0 };
    let allow = PolicyValue { allow: true, audit: false, rule: 0, proxy_port: 0, auth: 0 };
    let mut k = node.datapath.kernel();
    let entries = &mut k.tables.get_mut(&slot).unwrap().entries;
    entries[0].1.allow = false;
    entries.push((anyone, allow));
}

#[test]
fn a_policy_entry_that_somebody_else_changed_is_found_and_mended_alone() {
    let node = Node::default();
    let mut e = node.boot();
    e.stream(snapshot(&rows(), 1));
    run(&mut e, request(Command::Add, "c1", "a")).unwrap();
    let (slot, good) = node.datapath.tables().unwrap().remove(0);
    meddle(&node, slot);
    let drift = e.drift().unwrap();
    assert_eq!(drift.len(), 1, "{drift:?}");
    assert!(drift[0].contains("policy table 0000000000000005 differs in 2 places"), "{drift:?}");
    node.datapath.kernel().log.clear();
    assert_eq!(e.repair().unwrap(), 1);
    assert_eq!(node.datapath.tables().unwrap(), [(slot, good)]);
    let log = node.datapath.kernel().log.clone();
    assert_eq!(log, [format!("patch_table {slot} +1 -1")], "only what differs is touched");
    assert_eq!(e.drift().unwrap(), Vec::<String>::new());
    // one that is gone as a whole
    node.datapath.kernel().tables.remove(&slot);
    assert!(e.drift().unwrap()[0].contains("is missing"));
    e.repair().unwrap();
    assert_eq!(e.drift().unwrap(), Vec::<String>::new());
}

#[test]
fn each_table_is_looked_at_in_its_turn_without_being_asked() {
    let node = Node::default();
    let mut e = node.boot();
    let mut set = rows();
    for id in 6..12 {
        set.tables.insert(TableId(id), table(id, 256..260));
    }
    e.stream(snapshot(&set, 1));
    run(&mut e, request(Command::Add, "c1", "a")).unwrap();
    e.tick();
    let writes = node.writes();
    for _ in 0..14 {
        node.clock.advance(Duration::from_secs(30));
        e.tick();
    }
    assert_eq!(node.writes(), writes, "a look writes nothing");
    let slots: Vec<u16> = node.datapath.tables().unwrap().iter().map(|(s, _)| *s).collect();
    assert_eq!(slots.len(), 7);
    for slot in &slots {
        meddle(&node, *slot);
    }
    e.take_outgoing();
    for left in (0..7).rev() {
        node.clock.advance(Duration::from_secs(30));
        e.tick();
        assert_eq!(e.drift().unwrap().len(), left, "one a turn");
    }
    let told = e.take_outgoing();
    let events = told.iter().filter(|o| matches!(o, Outgoing::Event(v) if v.reason == "PolicyTableChanged"));
    assert_eq!(events.count(), 7);
}

#[test]
fn a_map_that_fills_up_is_told_before_anything_is_refused() {
    let node = Node::default();
    let mut e = node.boot();
    e.stream(snapshot(&rows(), 1));
    let mut after = |used| {
        node.datapath.kernel().fullness = vec![Fullness { map: "SERVICES4", used, capacity: 200 }];
        node.clock.advance(Duration::from_secs(30));
        e.tick();
        let told = e.take_outgoing().into_iter().filter_map(|o| match o {
            Outgoing::Event(v) if v.warning => Some((v.reason, v.message)),
            _ => None,
        });
        (told.collect::<Vec<_>>(), e.view().status.maps)
    };
    assert_eq!(after(139).0, []);
    let (told, seen) = after(140);
    assert_eq!((told.len(), told[0].0.as_str()), (1, "MapFillsUp"));
    assert!(told[0].1.starts_with("map SERVICES4 is 70% full (140 of 200); when it is full: "), "{}", told[0].1);
    assert_eq!((seen[0].used, seen[0].capacity), (140, 200));
    assert_eq!(after(150).0, []);
    assert_eq!(after(199).0[0].0, "MapNearlyFull");
    assert_eq!(after(200).0, []);
}

#[test]
fn a_pod_whose_namespace_is_gone_without_a_del_is_collected_after_a_while() {
    let node = Node::default();
    let mut e = node.boot();
    e.stream(snapshot(&rows(), 1));
    for (container, uid) in [("c0", "b"), ("c1", "a")] {
        run(&mut e, request(Command::Add, container, uid)).unwrap();
    }
    let lost = node.network.state().owned_links().iter().find(|l| l.alias.contains("c1/")).unwrap().name.clone();
    axoneme_kernel::net::Network::remove_link(&*node.network, &lost).unwrap();
    let mut passed = Duration::ZERO;
    while e.view().status.endpoints.len() == 2 {
        assert!(passed < Duration::from_mins(3), "{:?}", e.view().status.endpoints);
        let step = e.wake_at().unwrap().saturating_duration_since(axoneme_runtime::clock::Clock::now(&*node.clock));
        node.clock.advance(step);
        passed += step;
        e.tick();
        reap(&node, &mut e);
    }
    assert!(passed >= Duration::from_mins(1), "a runtime has time for its DEL: {passed:?}");
    assert_eq!(e.view().status.endpoints[0].container, "c0");
    assert_eq!(node.datapath.kernel().endpoints.len(), 1);
    assert!(
        e.take_outgoing().iter().any(|o| matches!(o, Outgoing::Endpoint(r) if r.removed && &*r.container_id == "c1"))
    );
    run(&mut e, request(Command::Del, "c0", "b")).unwrap();
    reap(&node, &mut e);
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[test]
fn a_row_of_the_same_uid_but_another_name_is_not_the_pods() {
    let node = Node::default();
    let mut e = node.boot();
    e.stream(snapshot(&rows(), 1));
    let mut other = request(Command::Add, "c1", "a");
    other.args = other.args.replace("web-a", "db-a");
    let (answer, _rx) = ask(&mut e, other);
    assert!(answer.is_none(), "it waits for a row of its own: {answer:?}");
}
