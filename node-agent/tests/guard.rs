//! What guards the node itself, on a node in memory.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod common;

use std::time::Duration;

use axoneme_cni::Command;
use axoneme_kernel::datapath::NodeGuard;
use axoneme_model::{
    Safe,
    rows::{GuardRow, RowSet, TableId},
};
use axoneme_node_agent::engine::{Engine, Outgoing};
use axoneme_wire::{
    Resume, Row, RowChange, RowKey,
    client::{Batch, Event},
};
use common::*;

const GUARDING: u64 = 7;

fn guard_row(table: u64) -> GuardRow {
    GuardRow {
        table: TableId(table),
        unprotected: [Safe::Ssh].into(),
        overlay_port: 4789,
        apiserver: [ip("192.168.0.9")].into(),
    }
}

/// The rows of a node that is guarded by this table.
fn guarded(table: u64) -> RowSet {
    let mut set = rows();
    set.tables.insert(TableId(table), common::table(table, 300..303));
    set.config.as_mut().unwrap().guard = Some(guard_row(table));
    set
}

/// What makes one set of rows of another.
fn batch(revision: u64, from: &RowSet, to: &RowSet) -> Event {
    let mut changes: Vec<RowChange> = Vec::new();
    if from.config != to.config {
        changes.push(RowChange::Upsert(Row::Config(std::sync::Arc::new(to.config.clone().unwrap()))));
    }
    let new = to.tables.values().filter(|t| !from.tables.contains_key(&t.id));
    changes.extend(new.map(|t| RowChange::Upsert(Row::Table(std::sync::Arc::new(t.clone())))));
    let gone = from.tables.keys().filter(|id| !to.tables.contains_key(id));
    changes.extend(gone.map(|id| RowChange::Remove(RowKey::Table(*id))));
    Event::Batch(Batch { at: Resume { epoch: 1, revision }, complete: vec![], changes })
}

fn slot_of(node: &Node) -> Option<u16> {
    node.datapath.kernel().guard.as_ref().map(|g| g.slot)
}

fn guarding_entries(node: &Node) -> usize {
    let slot = slot_of(node).unwrap();
    node.datapath.kernel().tables[&slot].entries.len()
}

fn place(node: &Node, what: &str) -> usize {
    let log = node.datapath.kernel().log.clone();
    log.iter().position(|l| l.starts_with(what)).unwrap_or_else(|| panic!("no {what} in {log:?}"))
}

fn start(node: &Node, set: &RowSet) -> Engine {
    let mut e = node.boot();
    e.stream(snapshot(set, 1));
    e
}

#[test]
fn the_guard_is_written_last_and_taken_away_first() {
    let node = Node::default();
    let mut e = start(&node, &rows());
    assert_eq!(slot_of(&node), None);
    node.datapath.kernel().log.clear();
    e.take_outgoing();
    e.stream(batch(2, &rows(), &guarded(GUARDING)));
    let slot = slot_of(&node).expect("guarded");
    let wanted =
        NodeGuard { slot, unprotected: Safe::Ssh.bit(), overlay_port: 4789, apiservers: [ip("192.168.0.9")].into() };
    assert_eq!(node.datapath.kernel().guard, Some(wanted));
    assert_eq!(guarding_entries(&node), 3);
    assert!(place(&node, &format!("put_table {slot}")) < place(&node, "set_guard Some"));
    assert_eq!(acks(&e.take_outgoing()), [2], "told once it is in force");
    node.datapath.kernel().log.clear();
    e.stream(batch(3, &guarded(GUARDING), &rows()));
    assert_eq!(slot_of(&node), None);
    e.tick();
    assert!(place(&node, "set_guard None") < place(&node, &format!("remove_table {slot}")));
    assert_eq!(acks(&e.take_outgoing()), [3]);
    assert!(e.drift().unwrap().is_empty(), "{:?}", e.drift());
}

#[test]
fn what_guards_the_node_stays_until_the_next_table_is_there() {
    let node = Node::default();
    let mut e = start(&node, &guarded(GUARDING));
    let before = node.datapath.kernel().guard.clone();
    // the new table does not fit
    let mut next = guarded(8);
    next.tables.insert(TableId(8), common::table(8, 300..600));
    e.take_outgoing();
    e.stream(batch(2, &guarded(GUARDING), &next));
    for _ in 0..3 {
        node.clock.advance(Duration::from_secs(5));
        e.tick();
    }
    assert_eq!(node.datapath.kernel().guard, before, "the last good one stays");
    assert_eq!(guarding_entries(&node), 3);
    let refused = |out: Vec<Outgoing>| {
        out.iter().any(|o| matches!(o, Outgoing::Nack(n) if n.key == Some(RowKey::Table(TableId(8)))))
    };
    assert!(refused(e.take_outgoing()));
    // one that fits takes its place, and the former table goes
    e.stream(batch(3, &next, &guarded(9)));
    e.tick();
    assert_ne!(node.datapath.kernel().guard, before);
    assert_eq!(guarding_entries(&node), 3);
    assert_eq!(node.datapath.kernel().tables.len(), 2, "the pods' and the node's");
}

#[test]
fn a_guard_that_the_kernel_refuses_is_told_and_tried_again() {
    let node = Node::default();
    let mut e = start(&node, &rows());
    node.datapath.kernel().fail_guard = true;
    e.take_outgoing();
    e.stream(batch(2, &rows(), &guarded(GUARDING)));
    assert_eq!(slot_of(&node), None);
    let nacks = |out: &[Outgoing]| {
        out.iter().filter(|o| matches!(o, Outgoing::Nack(n) if n.key == Some(RowKey::Table(TableId(GUARDING))))).count()
    };
    let out = e.take_outgoing();
    assert_eq!((nacks(&out), acks(&out)), (1, vec![2]));
    assert!(e.wake_at().is_some());
    node.datapath.kernel().fail_guard = false;
    node.clock.advance(Duration::from_secs(2));
    e.tick();
    assert!(slot_of(&node).is_some());
    let out = e.take_outgoing();
    assert_eq!((nacks(&out), acks(&out)), (0, vec![2]), "it is in force now");
}

#[test]
fn a_dead_agent_leaves_the_guard_and_the_next_one_goes_on_with_it() {
    let node = Node::default();
    let e = start(&node, &guarded(GUARDING));
    let before = node.datapath.kernel().guard.clone();
    drop(e);
    let mut e = node.boot();
    e.tick();
    assert_eq!(node.datapath.kernel().guard, before, "without an operator");
    let guards = |node: &Node| node.datapath.kernel().log.iter().filter(|l| l.starts_with("set_guard")).count();
    assert_eq!(guards(&node), 1);
    e.stream(snapshot(&guarded(GUARDING), 5));
    assert_eq!(node.datapath.kernel().guard, before, "nothing to write");
    assert_eq!(guards(&node), 1, "nothing to write");
    // the policy went while no agent ran
    drop(e);
    let e = start(&node, &rows());
    assert_eq!(slot_of(&node), None);
    drop(e);
}

#[test]
fn addresses_of_the_nodes_devices_are_its_own_while_it_is_guarded() {
    let node = Node::default();
    let hidden = net("192.168.7.7/24");
    node.network.state().addresses.push((2, hidden));
    let of = |node: &Node| node.datapath.kernel().ips.get(&net("192.168.7.7/32")).copied();
    let mut e = start(&node, &rows());
    assert_eq!(of(&node), None);
    e.stream(batch(2, &rows(), &guarded(GUARDING)));
    e.tick();
    let entry = of(&node).expect("known");
    assert!(entry.is_node && entry.identity == 1, "{entry:?}");
    e.stream(batch(3, &guarded(GUARDING), &rows()));
    e.tick();
    assert_eq!(of(&node), None);
}

/// The process dies at every effect of guarding and of letting go; the next one brings the node where it should be.
#[test]
fn death_at_any_step_ends_with_what_the_rows_say() {
    for guarding in [true, false] {
        let (from, to) = if guarding { (rows(), guarded(GUARDING)) } else { (guarded(GUARDING), rows()) };
        let mut steps = 0;
        loop {
            let node = Node::default();
            let mut e = start(&node, &from);
            node.fuse.arm(steps);
            e.stream(batch(2, &from, &to));
            e.tick();
            let died = node.fuse.is_burnt();
            node.fuse.disarm();
            drop(e);
            let mut e = node.boot();
            e.stream(snapshot(&to, 3));
            e.tick();
            assert_eq!(slot_of(&node).is_some(), guarding, "after {steps} effects");
            if guarding {
                assert_eq!(guarding_entries(&node), 3);
            }
            assert!(e.drift().unwrap().is_empty(), "after {steps} effects: {:?}", e.drift());
            assert_eq!(node.datapath.kernel().tables.len(), 1 + usize::from(guarding), "after {steps} effects");
            if !died {
                break;
            }
            steps += 1;
        }
        assert!(steps > 2, "{steps}");
    }
}

/// Its Node object was deleted while it lives: the operator has no rows for it any more, its agent is as connected as before.
#[test]
fn a_node_of_which_the_operator_knows_nothing_keeps_its_pods_and_its_own_traffic() {
    let node = Node::default();
    let set = guarded(GUARDING);
    let mut e = start(&node, &set);
    run(&mut e, request(Command::Add, "c1", "a")).unwrap();
    let held = |node: &Node| {
        let kernel = node.datapath.kernel();
        (kernel.endpoints.clone(), kernel.tables.clone(), kernel.guard.clone(), kernel.attached.clone())
    };
    let before = held(&node);
    assert!(!before.0.is_empty() && before.2.is_some() && !before.3.is_empty());
    let links = node.network.state().links.len();
    e.stream(snapshot(&RowSet::default(), 2));
    for _ in 0..5 {
        node.clock.advance(Duration::from_mins(1));
        e.tick();
    }
    assert_eq!(held(&node), before, "who its pods are, what judges them and it, and where programs are");
    assert_eq!(node.network.state().links.len(), links);
    assert!(!e.is_ready(), "new pods go elsewhere: {:?}", e.view().status.reasons);
    // a pod that goes may go
    run(&mut e, request(Command::Del, "c1", "a")).unwrap();
    reap(&node, &mut e);
    assert!(node.datapath.kernel().endpoints.is_empty());
    // and once it is a node again all is as its rows say
    e.stream(snapshot(&set, 3));
    run(&mut e, request(Command::Add, "c2", "b")).unwrap();
    assert_eq!(guarding_entries(&node), 3);
    assert_eq!(e.drift().unwrap(), Vec::<String>::new());
}
