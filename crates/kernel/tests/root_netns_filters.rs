//! What is attached without a link (kernels before 6.6) is removed by its note, and nothing else is.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_errors_doc,
    reason = "a test fails by panicking, and reads best in one piece"
)]

mod rig;

use axoneme_kernel::{bpf::remove_filters, datapath::Hook};
use rig::Node;

/// The filters of a device, as `tc` lists them.
fn filters(node: &Node, device: &str) -> String {
    let list = |side| {
        let out = std::process::Command::new("tc").args(["filter", "show", "dev", device, side]).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    node.ns.run(|| format!("{}{}", list("ingress"), list("egress")))
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn filters_on_an_uplink_are_removed_and_those_of_others_stay() {
    let node = Node::alone();
    node.ns.ip("link add up9 type veth peer name up8");
    let ifindex = node.ns.run(|| nix::net::if_::if_nametoindex("up9").unwrap());
    node.ns.run(|| {
        rig::sh("tc qdisc add dev up9 clsact");
        // another product's, before and behind ours
        for priority in [10, 4000] {
            rig::sh(&format!("tc filter add dev up9 ingress pref {priority} bpf bytecode '1,6 0 0 0,' flowid 1:1"));
        }
        node.datapath.attach_filters(Hook::Uplink, ifindex).unwrap();
    });
    let there = filters(&node, "up9");
    assert!(there.contains("direct-action"), "{there}");
    let pin_dir = node.config.pin_dir.clone();
    let removed = node.ns.run(|| remove_filters(&pin_dir).unwrap());
    assert!(removed > 0);
    let left = filters(&node, "up9");
    assert!(!left.contains("direct-action"), "{left}");
    assert!(left.contains("pref 10 ") && left.contains("pref 4000 "), "{left}");
    // again, and after the device is gone
    assert_eq!(node.ns.run(|| remove_filters(&pin_dir).unwrap()), 0);
    node.ns.run(|| node.datapath.attach_filters(Hook::Uplink, ifindex).unwrap());
    node.ns.ip("link del up9");
    assert!(node.ns.run(|| remove_filters(&pin_dir).unwrap()) > 0);
    assert_eq!(remove_filters(std::path::Path::new("/none")).unwrap(), 0);
}
