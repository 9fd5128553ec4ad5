//! Two nodes on an underlay: tunnel and native routing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::large_stack_arrays,
    clippy::too_many_lines,
    clippy::many_single_char_names,
    clippy::missing_errors_doc,
    reason = "a test fails by panicking, and reads best in one piece"
)]

mod rig;

use std::{
    net::{IpAddr, UdpSocket},
    process::Command,
};

use axoneme_abi::DropReason;
use axoneme_kernel::{
    datapath::{Datapath, Direction},
    net::{Netlink, Network, Overlay},
};
use rig::{
    cluster::{Cluster, Mode, another_tunnel_loses_nothing},
    deny_ingress, node_v4, node_v6, rule,
    traffic::{SHORT, Stream, ping, serve_tcp, serve_udp, tcp, udp},
};

fn everything_passes(c: &Cluster) {
    let [a, b] = &c.pods;
    serve_tcp(&b.ns, 80);
    serve_udp(&b.ns, 53);
    for to in b.addresses() {
        assert!(tcp(&a.ns, to, 80).is_some(), "TCP to {to}");
        assert_eq!(udp(&a.ns, to, 53, 100), Some(100), "UDP to {to}");
        assert_eq!(udp(&a.ns, to, 53, 20_000), Some(20_000), "fragments to {to}");
        assert!(ping(&a.ns, to), "ICMP to {to}");
    }
    // Policy at the receiving node knows the sender.
    let mut table = deny_ingress();
    table.entries.push(rule(Direction::Ingress, a.identity, 6, 80, true, 5));
    c.nodes[1].datapath.put_table(b.slot, &table).unwrap();
    for to in b.addresses() {
        assert!(tcp(&a.ns, to, 80).is_some(), "allowed by identity: {to}");
        assert_eq!(udp(&a.ns, to, 53, 10), None, "denied: {to}");
    }
    let drops = c.nodes[1].drops();
    let denied = |d: &&axoneme_abi::DropEvent| d.reason == DropReason::PolicyDenied as u8 && d.rule == 77;
    let all = drops.iter().filter(denied).count();
    assert!(all >= 2 && drops.iter().filter(denied).all(|d| d.source_identity == a.identity), "{drops:?}");
    // Nothing of the sender's but what the tunnel says comes along.
    let by_tunnel = |d: &axoneme_abi::DropEvent| d.hook == axoneme_abi::event::HookPoint::FromOverlay as u8;
    let expected = |d: &axoneme_abi::DropEvent| if by_tunnel(d) { [u64::from(a.identity), 0] } else { [0; 2] };
    assert!(drops.iter().filter(denied).all(|d| d.sender == expected(d)), "{drops:?}");
    // A node is another node's pods' remote-node.
    assert!(tcp(&c.nodes[0].ns, b.v4.into(), 80).is_none());
    c.nodes[1].datapath.patch_table(b.slot, &[rule(Direction::Ingress, 6, 6, 80, true, 8)], &[]).unwrap();
    for to in b.addresses() {
        assert!(tcp(&c.nodes[0].ns, to, 80).is_some(), "node to remote pod {to}");
    }
    serve_tcp(&c.nodes[1].ns, 9100);
    for to in [IpAddr::from(node_v4(2)), node_v6(2).into()] {
        assert!(tcp(&a.ns, to, 9100).is_some(), "pod to remote node {to}");
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn pods_reach_each_other_through_the_tunnel() {
    everything_passes(&Cluster::new(Mode::Vxlan, None));
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn pods_reach_each_other_through_a_tunnel_over_ipv6() {
    everything_passes(&Cluster::new(Mode::Vxlan6, None));
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn pods_reach_each_other_by_native_routing() {
    everything_passes(&Cluster::new(Mode::Native, None));
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn pods_reach_each_other_by_native_routing_through_a_router() {
    everything_passes(&Cluster::new(Mode::Native, Some(1500)));
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn a_router_with_a_small_link_is_heard() {
    let c = Cluster::new(Mode::Native, Some(1300));
    let [a, b] = &c.pods;
    serve_udp(&b.ns, 53);
    serve_tcp(&b.ns, 80);
    c.nodes[0].datapath.put_table(a.slot, &deny_ingress()).unwrap();
    for to in b.addresses() {
        // The first datagram is too long for the router; its word about that reaches the pod, which then fragments.
        let answered = a.ns.run(|| {
            let s = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
            s.set_read_timeout(Some(SHORT)).unwrap();
            s.connect((to, 53)).unwrap();
            (0..3).any(|_| s.send(&[7; 1400]).is_ok() && s.recv(&mut [0; 2000]).is_ok())
        });
        assert!(answered, "{to}");
        let out = Command::new("ip").args(["-n", &a.ns.name, "route", "get", &to.to_string()]).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(text.contains("mtu 1300"), "{text}");
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn nobody_on_the_underlay_speaks_for_a_pod() {
    let c = Cluster::new(Mode::Vxlan, None);
    let [a, b] = &c.pods;
    serve_udp(&b.ns, 53);
    let (bad, good) = (&c.nodes[0].ns, &c.nodes[1]);
    // The first node's host sends into the second node's pod past the tunnel: once as its own pod, once as the pod's
    // neighbour on the second node.
    bad.ip("route replace 10.2.0.0/24 via 10.201.0.2");
    let neighbour = c.nodes[1].pod(3);
    for source in [IpAddr::from(a.v4), neighbour.v4.into()] {
        bad.ip(&format!("addr add {source}/32 dev lo"));
        bad.run(|| {
            let s = UdpSocket::bind((source, 0)).unwrap();
            s.set_read_timeout(Some(SHORT)).unwrap();
            s.send_to(b"x", (b.v4, 53)).unwrap();
            assert!(s.recv(&mut [0; 8]).is_err(), "{source}");
        });
    }
    let spoofs = good.drops().iter().filter(|d| d.reason == DropReason::InvalidSourceIp as u8).count();
    assert_eq!(spoofs, 2);
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn a_change_to_another_tunnel_loses_nothing_between_nodes_that_take_both() {
    let mut c = Cluster::new(Mode::Vxlan, None);
    let other = c.also(None);
    another_tunnel_loses_nothing(&mut c, other, 500);
}

/// Whether this kernel has Geneve or not.
#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn a_kernel_without_the_tunnels_devices_is_named_with_what_mends_it() {
    let ns = rig::Namespace::new("n");
    let add = Command::new("ip").args(["-n", &ns.name, "link", "add", "probe", "type", "geneve", "external"]).output();
    let has_geneve = add.unwrap().status.success();
    // two devices of one port cannot be up
    let overlay = Overlay { port: 6082, ..Mode::Geneve.overlay().unwrap() };
    match ns.run(|| Netlink::open().unwrap().ensure_overlay(overlay)) {
        Ok(_) => assert!(has_geneve),
        Err(error) => {
            let error = error.to_string();
            assert!(!has_geneve && error.contains("cannot make axn_geneve"), "{error}");
            assert!(error.contains("modprobe geneve") && error.contains("spec.routing.overlay.protocol"), "{error}");
        }
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn restarts_of_both_nodes_lose_nothing_between_them() {
    for mode in [Mode::Vxlan, Mode::Vxlan6, Mode::Native] {
        let mut c = Cluster::new(mode, None);
        serve_udp(&c.pods[1].ns, 53);
        let to = c.pods[1].addresses();
        let streams = to.map(|to| Stream::start(&c.pods[0].ns, to, 53));
        for _ in 0..3 {
            for node in &mut c.nodes {
                node.restart();
            }
        }
        for stream in streams {
            let (sent, echoed) = stream.finish();
            let drops = || c.nodes.iter().map(rig::Node::drops).collect::<Vec<_>>();
            assert!(sent > 500 && sent == echoed, "{mode:?}: {echoed} of {sent}, dropped: {:?}", drops());
        }
        assert!(c.router.is_none());
    }
}
