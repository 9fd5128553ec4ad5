//! An agent that starts while operator and API server are away, on a node of its own.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod common;
mod rig;

use std::{os::unix::fs::PermissionsExt, path::PathBuf};

use axoneme_node_agent::engine::ROWS_DOCUMENT;
use axoneme_wire::{Row, RowChange, message::NodeMessage};
use common::*;
use rig::*;
use serde_json::{Value, json};

fn copy(rig: &Rig) -> PathBuf {
    rig.path("state").join(ROWS_DOCUMENT)
}

/// An agent with one pod and a copy of its rows on disk; then operator and agent are gone.
fn left_alone(rig: &mut Rig) {
    let operator = Operator::start(&rig.node(), &allowing(300..301));
    rig.start();
    rig.until("the plugin is installed", |r| r.path("net.d/05-axoneme.conflist").exists());
    let (ok, result) = rig.call("ADD", 0, "a");
    assert!(ok, "{result}");
    rig.until("the rows are on disk", |r| copy(r).exists());
    drop(operator);
    rig.kill();
}

#[test]
#[ignore = "needs root: network namespaces and a BPF filesystem"]
fn pods_are_added_behind_a_restarted_agent_while_everybody_is_away() {
    let mut rig = Rig::new();
    left_alone(&mut rig);
    let mode = std::fs::metadata(copy(&rig)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    println!(
        "start to ready, alone: {:?}; copy of {} bytes",
        rig.start(),
        std::fs::metadata(copy(&rig)).unwrap().len()
    );
    let warnings = rig.admin("/status")["warnings"].to_string();
    assert!(warnings.contains("no operator has sent rows yet"), "{warnings}");
    let (ok, result) = rig.call("ADD", 1, "b");
    assert!(ok, "{result}");
    assert!(rig.ping(0, "10.0.1.3") && rig.ping(1, "10.0.1.2"), "policy allows it");

    // an operator is back, and denies
    let operator = Operator::start(&rig.node(), &allowing(0..0));
    let (mut reported, mut acknowledged) = (false, false);
    operator.hear("an acknowledgement, and a report of the pod that came meanwhile", |m| {
        acknowledged |= matches!(m, NodeMessage::Ack(1));
        reported |= matches!(m, NodeMessage::Endpoint(e) if e.ready && e.addresses.contains(&ip("10.0.1.3")));
        acknowledged && reported
    });
    assert!(!rig.ping(0, "10.0.1.3") && !rig.ping(1, "10.0.1.2"), "policy denies it");
    assert_eq!(rig.admin("/drift"), json!([]));
}

#[test]
#[ignore = "needs root: network namespaces and a BPF filesystem"]
fn a_deny_that_is_newer_than_the_copy_stays_in_force_alone() {
    let mut rig = Rig::new();
    let operator = Operator::start(&rig.node(), &allowing(300..301));
    rig.start();
    rig.until("the plugin is installed", |r| r.path("net.d/05-axoneme.conflist").exists());
    assert!(rig.call("ADD", 0, "a").0);
    rig.until("the rows are on disk", |r| copy(r).exists());
    let before = std::fs::read(copy(&rig)).unwrap();
    operator.publish.blocking_send(vec![RowChange::Upsert(Row::Table(table(5, 0..0).into()))]).unwrap();
    operator.hear("the acknowledgement of the deny", |m| matches!(m, NodeMessage::Ack(2)));
    drop(operator);
    rig.kill();
    assert_eq!(std::fs::read(copy(&rig)).unwrap(), before, "killed before the copy was renewed");
    rig.start();
    assert!(rig.call("ADD", 1, "b").0);
    assert!(!rig.ping(0, "10.0.1.3") && !rig.ping(1, "10.0.1.2"), "what was denied last is denied");
}

#[test]
#[ignore = "needs root: network namespaces and a BPF filesystem"]
fn a_damaged_copy_is_set_aside_and_pods_wait_for_an_operator() {
    let mut rig = Rig::new();
    left_alone(&mut rig);
    let mut document = std::fs::read(copy(&rig)).unwrap();
    document.truncate(document.len() - 3);
    std::fs::write(copy(&rig), &document).unwrap();
    rig.begin(&[]);
    rig.until("the agent answers", |r| r.admin("/status")["ready"] == false);
    rig.until("it is set aside", |r| !copy(r).exists() && r.path("state/rows.broken").exists());
    let reasons = |r: &Rig| r.admin("/status")["reasons"].to_string();
    rig.until("pods wait", |r| reasons(r).contains("rows are not complete yet"));
    let operator = Operator::start(&rig.node(), &allowing(300..301));
    operator.hear("an acknowledgement", |m| matches!(m, NodeMessage::Ack(1)));
    rig.until("ready", |r| r.admin("/status")["ready"] == Value::Bool(true));
    assert!(rig.call("ADD", 1, "b").0);
    assert!(rig.ping(0, "10.0.1.3"));
}
