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
use axoneme_kernel::datapath::{Datapath, Direction, Hook, IpEntry};
use rig::{
    Namespace, Node, Options, Pod, deny_ingress, node_v4, node_v6, rule,
    traffic::{SHORT, Stream, ping, serve_tcp, serve_udp, tcp, udp},
};

/// Two nodes, joined by a link or by a router between them.
struct Cluster {
    nodes: [Node; 2],
    router: Option<Namespace>,
    pods: [Pod; 2],
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Vxlan,
    Native,
}

fn index(ns: &Namespace, link: &str) -> u32 {
    ns.run(|| nix::net::if_::if_nametoindex(link).unwrap())
}

impl Cluster {
    /// `routed`: a router stands between the nodes; its link to the second one carries so many bytes.
    fn new(mode: Mode, routed: Option<u32>) -> Self {
        let spaces = [Namespace::new("n1"), Namespace::new("n2")];
        let router = routed.map(|mtu| {
            let r = Namespace::new("router");
            for (i, ns) in spaces.iter().enumerate() {
                ns.ip(&format!("link add up0 type veth peer name r{i} netns {}", r.name));
                let mtu = if i == 1 { mtu } else { 1500 };
                ns.ip(&format!("link set up0 mtu {mtu}"));
                r.ip(&format!("link set r{i} mtu {mtu} up"));
                r.ip(&format!("addr add 10.201.{i}.254/24 dev r{i}"));
                r.ip(&format!("addr add fd21:{i}::254/64 dev r{i} nodad"));
            }
            r
        });
        if router.is_none() {
            spaces[0].ip(&format!("link add up0 type veth peer name up0 netns {}", spaces[1].name));
        }
        for (i, ns) in spaces.iter().enumerate() {
            let number = u8::try_from(i).unwrap() + 1;
            ns.ip(&format!("addr add {}/32 dev lo", node_v4(number)));
            ns.ip(&format!("addr add {}/128 dev lo nodad", node_v6(number)));
            ns.ip("link set up0 up");
            let (net, last) = if router.is_some() { (i, 1) } else { (0, i + 1) };
            ns.ip(&format!("addr add 10.201.{net}.{last}/24 dev up0"));
            ns.ip(&format!("addr add fd21:{net}::{last}/64 dev up0 nodad"));
        }
        let ends = |i: usize| {
            if router.is_some() {
                (format!("10.201.{i}.254"), format!("fd21:{i}::254"))
            } else {
                (format!("10.201.0.{}", 2 - i), format!("fd21:0::{}", 2 - i))
            }
        };
        for (i, ns) in spaces.iter().enumerate() {
            let (v4, v6) = ends(i);
            let other = u8::try_from(2 - i).unwrap();
            ns.ip(&format!("route add {}/32 via {v4} src {}", node_v4(other), node_v4(3 - other)));
            ns.ip(&format!("route add {}/128 via {v6} src {}", node_v6(other), node_v6(3 - other)));
        }
        if let Some(r) = &router {
            for (i, node) in [1u8, 2].into_iter().enumerate() {
                r.ip(&format!("route add {}/32 via 10.201.{i}.1", node_v4(node)));
                r.ip(&format!("route add {}/128 via fd21:{i}::1", node_v6(node)));
                r.ip(&format!("route add 10.{node}.0.0/24 via 10.201.{i}.1"));
                r.ip(&format!("route add fd10:{node}::/64 via fd21:{i}::1"));
            }
        }
        let mut number = 0;
        let nodes = spaces.map(|ns| {
            number += 1;
            Self::node(ns, number, mode, router.is_some())
        });
        let pods = [nodes[0].pod(1), nodes[1].pod(2)];
        for (here, there) in [(0, 1), (1, 0)] {
            let pod = &pods[there];
            for (address, own) in pod.addresses().into_iter().zip(own_addresses(&nodes[there], mode, router.is_some()))
            {
                let entry = IpEntry { identity: pod.identity, peer: pod.identity, tunnel: own, is_node: false };
                nodes[here].datapath.upsert_ip(address.into(), entry).unwrap();
            }
            let remote = IpEntry { identity: 6, peer: 6, tunnel: None, is_node: true };
            let n = nodes[there].number;
            nodes[here].datapath.upsert_ip(IpAddr::from(node_v4(n)).into(), remote).unwrap();
            nodes[here]
                .datapath
                .upsert_ip(IpAddr::from(node_v6(n)).into(), IpEntry { tunnel: Some(node_v4(n).into()), ..remote })
                .unwrap();
        }
        Self { nodes, router, pods }
    }

    fn node(ns: Namespace, number: u8, mode: Mode, routed: bool) -> Node {
        let other = 3 - number;
        let overlay = if mode == Mode::Vxlan {
            ns.ip("link add vx0 address ee:ee:ee:ee:ee:ee type vxlan external dstport 8472 nolearning");
            ns.ip("link set vx0 addrgenmode none arp off mtu 1450 up");
            ns.ip(&format!("route add 10.{other}.0.0/24 dev vx0 src {}", node_v4(number)));
            ns.ip(&format!("route add fd10:{other}::/64 dev vx0 src {}", node_v6(number)));
            index(&ns, "vx0")
        } else {
            let i = if routed { usize::from(number) - 1 } else { 0 };
            let last = if routed { 254 } else { u16::from(other) };
            ns.ip(&format!("route add 10.{other}.0.0/24 via 10.201.{i}.{last} src {}", node_v4(number)));
            ns.ip(&format!("route add fd10:{other}::/64 via fd21:{i}::{last} src {}", node_v6(number)));
            0
        };
        let uplink = index(&ns, "up0");
        let options = Options { native: mode == Mode::Native, uplink, overlay, services: true, ..Options::default() };
        let node = Node::with(ns, number, &options);
        node.ns.run(|| {
            node.datapath.attach(Hook::Uplink, uplink).unwrap();
            if overlay != 0 {
                node.datapath.attach(Hook::Overlay, overlay).unwrap();
            }
        });
        node
    }
}

/// What other nodes send to for this node's pods: the tunnel's end, a neighbour's address, or nothing (the stack routes).
fn own_addresses(node: &Node, mode: Mode, routed: bool) -> [Option<IpAddr>; 2] {
    let n = u16::from(node.number);
    match (mode, routed) {
        (Mode::Vxlan, _) => [Some(node_v4(node.number).into()); 2],
        (Mode::Native, true) => [None; 2],
        (Mode::Native, false) => {
            [Some(IpAddr::from([10, 201, 0, node.number])), Some(IpAddr::from([0xfd21, 0, 0, 0, 0, 0, 0, n]))]
        }
    }
}

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
fn restarts_of_both_nodes_lose_nothing_between_them() {
    for mode in [Mode::Vxlan, Mode::Native] {
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
            assert!(sent > 500 && sent == echoed, "{echoed} of {sent}");
        }
        assert!(c.router.is_none());
    }
}
