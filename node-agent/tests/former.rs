//! The last rows on disk: what they give an agent that starts while nobody can send it any, and what they must not.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod common;

use std::time::Duration;

use axoneme_cni::Command;
use axoneme_model::rows::{RowSet, TableId};
use axoneme_node_agent::engine::{Engine, Outgoing, ROWS_DOCUMENT};
use axoneme_wire::{
    Resume, Row, RowChange, RowKey,
    client::{Batch, Event},
};
use common::*;

fn delta(revision: u64, changes: Vec<RowChange>) -> Event {
    Event::Batch(Batch { at: Resume { epoch: 1, revision }, complete: vec![], changes })
}

/// An agent that has got these rows and written them.
fn with_copy(node: &Node, set: &RowSet) -> Engine {
    let mut e = node.boot();
    e.stream(snapshot(set, 1));
    node.clock.advance(Duration::from_secs(10));
    e.tick();
    assert!(copy(node).is_some());
    e
}

fn copy(node: &Node) -> Option<Vec<u8>> {
    node.store.documents.lock().unwrap().get(ROWS_DOCUMENT).cloned()
}

/// A process starts, and nobody sends it anything.
fn alone(node: &Node) -> Engine {
    let mut e = node.boot();
    e.tick();
    e
}

fn table_of(node: &Node, address: &str) -> axoneme_kernel::datapath::PolicyTable {
    let k = node.datapath.kernel();
    k.tables[&k.endpoints[&ip(address)].slot].clone()
}

#[test]
fn pods_are_added_while_nobody_can_send_rows() {
    let node = Node::default();
    let mut e = with_copy(&node, &rows());
    run(&mut e, request(Command::Add, "c1", "a")).unwrap();
    drop(e);
    let before = node.datapath.writes();
    let mut e = alone(&node);
    assert!(e.is_ready());
    let log = node.datapath.kernel().log.split_off(before);
    assert!(log.iter().all(|w| w.starts_with("attach")), "what the kernel held stays: {log:?}");
    let added = run(&mut e, request(Command::Add, "c2", "b")).unwrap();
    assert_eq!(added["ips"][0]["address"], "10.0.1.3/32");
    assert_eq!(table_of(&node, "10.0.1.3").entries.len(), 4);
    let out = e.take_outgoing();
    assert_eq!(acks(&out), Vec::<u64>::new(), "old rows are never acknowledged");
    let warnings = e.view().status.warnings;
    assert!(warnings.iter().any(|w| w.contains("no operator has sent rows yet")), "{warnings:?}");
    // an operator is back
    e.stream(snapshot(&rows(), 7));
    assert_eq!(acks(&e.take_outgoing()), [7]);
    assert_eq!((e.view().status.warnings, e.drift().unwrap()), (vec![], vec![]));
    for (container, uid) in [("c1", "a"), ("c2", "b")] {
        run(&mut e, request(Command::Del, container, uid)).unwrap();
        reap(&node, &mut e);
    }
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[test]
fn an_older_copy_undoes_nothing_that_came_later() {
    let node = Node::default();
    let mut set = rows();
    let remote = ip_row("10.0.2.9/32", 258, "n2", "shop/old");
    set.ips.insert(remote.prefix, remote.clone());
    let mut e = with_copy(&node, &set);
    run(&mut e, request(Command::Add, "c1", "a")).unwrap();
    let written = copy(&node);
    // nobody is allowed any more, and the remote address belongs to another pod; killed before the next copy
    let other = ip_row("10.0.2.9/32", 999, "n2", "shop/new");
    let denied = RowChange::Upsert(Row::Table(table(5, 0..0).into()));
    e.stream(delta(2, vec![denied, RowChange::Upsert(Row::Ip(other.into()))]));
    drop(e);
    assert_eq!(copy(&node), written, "the copy is older than the kernel");
    let mut e = alone(&node);
    run(&mut e, request(Command::Add, "c2", "b")).unwrap();
    for address in ["10.0.1.2", "10.0.1.3"] {
        assert_eq!(table_of(&node, address).entries, [], "{address}: the deny stays");
    }
    assert_eq!(node.datapath.kernel().ips[&net("10.0.2.9/32")].identity, 999);
    // what an operator says now is what the copy says: the kernel must follow all the same
    e.stream(snapshot(&set, 3));
    assert_eq!(node.datapath.kernel().ips[&net("10.0.2.9/32")].identity, 258);
    assert_eq!(table_of(&node, "10.0.1.2").entries.len(), 4);
    assert_eq!(e.drift().unwrap(), Vec::<String>::new());
}

#[test]
fn the_first_snapshot_removes_what_only_the_copy_had() {
    let node = Node::default();
    let mut set = rows();
    let remote = ip_row("10.0.2.9/32", 258, "n2", "shop/old");
    set.ips.insert(remote.prefix, remote.clone());
    drop(with_copy(&node, &set));
    for cleared in [false, true] {
        if cleared {
            // the pins are lost: the copy is all that is known
            *node.datapath.kernel() = Kernel { table_capacity: 100, ..Kernel::default() };
        }
        let mut e = alone(&node);
        assert_eq!(node.datapath.kernel().ips[&remote.prefix].identity, 258, "cleared: {cleared}");
        set.ips.remove(&remote.prefix);
        set.endpoints.remove("b");
        e.stream(snapshot(&set, 2));
        assert!(!node.datapath.kernel().ips.contains_key(&remote.prefix));
        let (answer, later) = ask(&mut e, request(Command::Add, "c2", "b"));
        drop(later);
        assert!(answer.is_none(), "a pod of the copy that is gone waits for a row");
        set = {
            let mut s = rows();
            s.ips.insert(remote.prefix, remote.clone());
            s
        };
        e.stream(snapshot(&set, 3));
        node.clock.advance(Duration::from_secs(20));
        e.tick();
    }
}

#[test]
fn writes_of_the_copy_are_few_and_none_without_a_change() {
    let node = Node::default();
    let mut e = with_copy(&node, &rows());
    let mut versions = std::collections::BTreeSet::new();
    for n in 0..600u32 {
        let row = ip_row(&format!("10.0.2.{}/32", n % 250), 300 + n, "n2", "shop/x");
        e.stream(delta(u64::from(n) + 2, vec![RowChange::Upsert(Row::Ip(row.into()))]));
        node.clock.advance(Duration::from_millis(100));
        versions.insert(copy(&node));
    }
    assert!((12..=14).contains(&versions.len()), "{} writes in a minute of changes", versions.len());
    node.clock.advance(Duration::from_secs(10));
    e.tick();
    assert!(e.wake_at().is_none_or(|at| at > axoneme_runtime::clock::Clock::now(&*node.clock)));
    e.finish();
    let last = copy(&node);
    e.stream(delta(1000, vec![RowChange::Remove(RowKey::Ip(net("10.0.2.9/32")))]));
    e.finish();
    assert_ne!(copy(&node), last, "an end in order loses nothing");
}

#[test]
fn a_copy_that_cannot_be_trusted_is_set_aside_and_told() {
    let good = {
        let node = Node::default();
        drop(with_copy(&node, &rows()));
        copy(&node).unwrap()
    };
    let mut turned = good.clone();
    *turned.last_mut().unwrap() ^= 1;
    let foreign = {
        let mut body = axoneme_wire::archive::encode("n2", &rows());
        let mut document = <sha2::Sha256 as sha2::Digest>::digest(&body).to_vec();
        document.append(&mut body);
        document
    };
    for (what, document) in
        [("cut", good[..good.len() / 2].to_vec()), ("turned", turned), ("empty", vec![]), ("of another node", foreign)]
    {
        let node = Node::default();
        node.store.documents.lock().unwrap().insert(ROWS_DOCUMENT.into(), document);
        let mut e = alone(&node);
        assert!(!e.is_ready(), "{what}");
        assert_eq!(copy(&node), None, "{what}: set aside");
        let told = e.take_outgoing();
        assert!(told.iter().any(|o| matches!(o, Outgoing::Event(v) if v.warning && v.reason == "RowsLost")), "{what}");
        assert_eq!(node.writes(), 0, "{what}");
        e.stream(snapshot(&rows(), 1));
        run(&mut e, request(Command::Add, "c1", "a")).unwrap();
    }
}

#[test]
fn a_full_disk_keeps_the_former_copy_and_is_told() {
    let node = Node::default();
    let mut e = with_copy(&node, &rows());
    let before = copy(&node);
    *node.store.full.lock().unwrap() = true;
    e.stream(delta(2, vec![RowChange::Upsert(Row::Table(table(5, 0..0).into()))]));
    node.clock.advance(Duration::from_secs(10));
    e.tick();
    assert_eq!(copy(&node), before);
    let warnings = e.view().status.warnings.join(" ");
    assert!(warnings.contains("the last rows are not kept on disk") && warnings.contains("is full"), "{warnings}");
    assert_eq!(acks(&e.take_outgoing()), [1, 2], "rows are in force all the same");
    *node.store.full.lock().unwrap() = false;
    node.clock.advance(Duration::from_secs(31));
    e.tick();
    assert_ne!(copy(&node), before);
    assert_eq!(e.view().status.warnings, Vec::<String>::new());
}

#[test]
fn killed_at_any_step_alone_it_converges_with_the_operator() {
    for effects in 0..60 {
        let node = Node::default();
        let mut e = with_copy(&node, &rows());
        run(&mut e, request(Command::Add, "c1", "a")).unwrap();
        drop(e);
        // dies at some step of a start, an ADD and a DEL without an operator
        node.fuse.arm(effects);
        let mut e = alone(&node);
        let (_, _later) = ask(&mut e, request(Command::Add, "c2", "b"));
        let (_, _later) = ask(&mut e, request(Command::Del, "c1", "a"));
        drop(e);
        let burnt = node.fuse.is_burnt();
        node.fuse.disarm();
        let mut e = alone(&node);
        assert!(e.is_ready(), "killed after {effects}: {:?}", e.view());
        let (added, _later) = ask(&mut e, request(Command::Add, "c2", "b"));
        assert!(added.is_some(), "killed after {effects}: {:?}", e.view().status.waiting);
        run(&mut e, request(Command::Del, "c1", "a")).unwrap();
        reap(&node, &mut e);
        e.stream(snapshot(&rows(), 2));
        assert_eq!(acks(&e.take_outgoing()), [2], "killed after {effects}");
        assert_eq!(e.drift().unwrap(), Vec::<String>::new(), "killed after {effects}");
        run(&mut e, request(Command::Del, "c2", "b")).unwrap();
        reap(&node, &mut e);
        assert_eq!(node.leftovers(), Vec::<String>::new(), "killed after {effects}");
        if !burnt {
            assert!(effects > 10, "the steps were {effects} only");
            return;
        }
    }
    panic!("more steps than tried");
}

#[test]
fn a_table_that_only_the_copy_knows_is_put_in_force_for_a_new_pod() {
    let node = Node::default();
    let mut set = rows();
    set.tables.insert(TableId(6), table(6, 400..402));
    set.endpoints.insert("b".into(), endpoint("b", 6));
    let e = with_copy(&node, &set);
    drop(e);
    {
        // nobody used it, and it went
        let mut k = node.datapath.kernel();
        let slot = *k.tables.iter().find(|(_, t)| t.entries.len() == 2).unwrap().0;
        k.tables.remove(&slot);
    }
    let mut e = alone(&node);
    run(&mut e, request(Command::Add, "c2", "b")).unwrap();
    assert_eq!(table_of(&node, "10.0.1.2").entries.len(), 2);
}
