//! What a node lacks holds the agent back, is told everywhere, and its mend needs no restart.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod common;
mod rig;

use axoneme_node_agent::gate;
use axoneme_wire::message::NodeMessage;
use rig::*;
use serde_json::Value;

/// Everything that the agent could have changed: links, addresses, routes, settings, rules, files.
fn host(rig: &Rig) -> String {
    let node = rig.node();
    sh(&format!(
        "ip netns exec {node} sh -ec '
           ip -o link | cut -d\\  -f2,3; ip -o addr; ip route; ip -6 route; nft list ruleset
           sysctl -a 2>/dev/null | grep -E \"forward|rp_filter|accept_ra\"'
         find {} -not -name agent.log -not -name admin.sock | sort",
        rig.path("").display()
    ))
}

fn held(rig: &Rig, why: &str) -> Value {
    let says = |status: &Value| status["reasons"].to_string().contains(why);
    rig.until(&format!("status says {why:?}"), |r| says(&r.admin("/status")));
    let status = rig.admin("/status");
    assert_eq!((&status["ready"], &status["node"]), (&Value::Bool(false), &Value::from("n1")), "{status:#}");
    status
}

#[test]
#[ignore = "needs root: network namespaces and a BPF filesystem"]
fn a_node_that_lacks_something_is_told_and_mended_without_a_restart() {
    let mut rig = Rig::new();
    rig.unmount_bpf();
    let before = host(&rig);
    rig.begin(&[]);
    held(&rig, "mount -t bpf");
    assert_eq!(host(&rig), before, "nothing is changed while something is lacking");

    // an operator comes: it hears that the node is not ready, and why, for an Event
    let operator = Operator::start(&rig.node(), &allowing(300..301));
    operator.hear(
        "that the node is not ready",
        |m| matches!(m, NodeMessage::Node(n) if !n.ready && n.reasons.iter().any(|r| r.contains("mount -t bpf"))),
    );
    operator.hear("an Event", |m| {
        matches!(m, NodeMessage::Event(e) if e.warning && e.reason == gate::REASON && e.message.contains("mount -t bpf"))
    });
    assert_eq!(held(&rig, "mount -t bpf")["stream"]["connected"], true);

    // the next lack takes the place of the mended one
    rig.mount_bpf();
    let newer = rig.path("bpf/axoneme/99");
    std::fs::create_dir_all(&newer).unwrap();
    held(&rig, "version 99");
    operator.hear("the next Event", |m| matches!(m, NodeMessage::Event(e) if e.message.contains("version 99")));
    assert!(newer.exists() && host(&rig).contains("bpf/axoneme/99"), "maps of a newer agent stay");

    std::fs::remove_dir(&newer).unwrap();
    rig.until("the agent begins without a restart", |r| r.admin("/status")["ready"] == true);
    let (mut ready, mut acknowledged) = (false, false);
    operator.hear("that the node is ready, and an acknowledgement", |m| {
        ready |= matches!(m, NodeMessage::Node(n) if n.ready);
        acknowledged |= matches!(m, NodeMessage::Ack(1));
        ready && acknowledged
    });
}

#[test]
#[ignore = "needs root: network namespaces and a BPF filesystem"]
fn missing_capabilities_are_told_by_a_process_that_waits() {
    for (name, why) in [("net_admin", "missing CAP_NET_ADMIN"), ("sys_admin", "missing CAP_SYS_ADMIN")] {
        let mut rig = Rig::new();
        let before = host(&rig);
        rig.begin(&["setpriv", &format!("--bounding-set=-{name}")]);
        held(&rig, why);
        assert_eq!(host(&rig), before, "nothing is changed while something is lacking");
        // and it ends when it is told to
        let agent = rig.agent.as_mut().unwrap();
        sh(&format!("kill -TERM {}", agent.id()));
        assert!(agent.wait().unwrap().success());
        assert!(!rig.path("admin.sock").exists());
    }
}
