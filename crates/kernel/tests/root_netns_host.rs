//! The host firewall on real devices: two nodes, the second of which is guarded; IPv4 and IPv6.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_errors_doc,
    reason = "a test fails by panicking, and reads best in one piece"
)]

mod rig;

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
};

use axoneme_abi::{DropReason, guard::SAFE_SSH};
use axoneme_kernel::datapath::{Datapath, Direction, NodeGuard, PolicyDefault, PolicyTable};
use rig::{
    Namespace, Node, allow_all,
    cluster::{Cluster, Mode},
    deny_egress, deny_ingress, node_v4, node_v6, rule,
    traffic::{SHORT, Stream, ping, serve_tcp, serve_udp, tcp, udp},
};

const SLOT: u16 = 50;
/// Classes of a node's peers.
const REMOTE_NODE: u32 = 6;

fn addresses(number: u8) -> [IpAddr; 2] {
    [node_v4(number).into(), node_v6(number).into()]
}

fn nothing() -> PolicyTable {
    let deny = |rule| PolicyDefault { allow: false, audit: false, rule };
    PolicyTable { ingress_default: deny(77), egress_default: deny(78), entries: Vec::new() }
}

fn by_table() -> NodeGuard {
    NodeGuard { slot: SLOT, overlay_port: 8472, ..NodeGuard::default() }
}

fn guard(node: &Node, table: &PolicyTable, guard: &NodeGuard) {
    node.ns.run(|| {
        node.datapath.put_table(SLOT, table).unwrap();
        node.datapath.set_guard(Some(guard)).unwrap();
    });
}

/// An open connection to an echo server.
fn open(from: &Namespace, to: IpAddr, port: u16) -> TcpStream {
    let s = from.run(|| TcpStream::connect_timeout(&SocketAddr::new(to, port), SHORT).unwrap());
    s.set_read_timeout(Some(SHORT)).unwrap();
    s
}

fn echoes(mut s: &TcpStream) -> bool {
    s.write_all(b"ping").is_ok() && s.read_exact(&mut [0; 4]).is_ok()
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn each_member_of_the_safe_set_passes_under_a_deny_of_everything() {
    let c = Cluster::guardable(Mode::Vxlan);
    let [other, node] = &c.nodes;
    let tcp_in = [22, 10250, 6443, 2379, 2380, 4240, 4244, 4250, 4251, 4252];
    let tcp_out = [53, 10250, 6443, 2379, 2380, 4240, 4244, 4250, 4251, 4252];
    for (ns, tcp, others) in [(&node.ns, tcp_in, [23, 80, 443]), (&other.ns, tcp_out, [22, 80, 443])] {
        for port in tcp.into_iter().chain(others) {
            serve_tcp(ns, port);
        }
    }
    for (ns, ports) in [(&node.ns, &[68, 546, 6081, 123][..]), (&other.ns, &[67, 547, 53, 123, 6081, 124])] {
        for port in ports {
            serve_udp(ns, *port);
        }
    }
    let [a, b] = &c.pods;
    serve_tcp(&b.ns, 80);
    guard(node, &nothing(), &by_table());
    for link in ["up0", "axn_vxlan"] {
        node.ns.ip(&format!("neigh flush dev {link}"));
        other.ns.ip(&format!("neigh flush dev {link}"));
    }
    for to in addresses(2) {
        for port in tcp_in {
            assert!(tcp(&other.ns, to, port).is_some(), "TCP {port} to {to}");
        }
        for port in [68, 546, 6081] {
            assert!(udp(&other.ns, to, port, 9).is_some(), "UDP {port} to {to}");
        }
        for port in [23, 80, 443] {
            assert!(tcp(&other.ns, to, port).is_none(), "TCP {port} to {to} is none of the safe set");
        }
        assert!(udp(&other.ns, to, 123, 9).is_none(), "nobody asks the node for the time");
        assert!(!ping(&other.ns, to));
    }
    for to in addresses(1) {
        for port in tcp_out {
            assert!(tcp(&node.ns, to, port).is_some(), "TCP {port} out to {to}");
        }
        for port in [67, 547, 53, 123, 6081] {
            assert!(udp(&node.ns, to, port, 9).is_some(), "UDP {port} out to {to}");
        }
        for port in [22, 80, 443] {
            assert!(tcp(&node.ns, to, port).is_none(), "TCP {port} out to {to} is none of the safe set");
        }
        assert!(udp(&node.ns, to, 124, 9).is_none());
    }
    // The streams between nodes carry the pods' traffic, which is none of the node's policy.
    for to in b.addresses() {
        assert!(tcp(&a.ns, to, 80).is_some(), "pod to pod {to}");
    }
    let drops = node.drops();
    let denied = |rule| drops.iter().filter(|d| d.rule == rule && d.reason == DropReason::PolicyDenied as u8).count();
    assert!(denied(77) >= 8 && denied(78) >= 8, "{drops:?}");
    // What settings say: the API server's addresses, and a member that is left to policy.
    let settings = NodeGuard { apiservers: addresses(1).into(), unprotected: SAFE_SSH, ..by_table() };
    node.ns.run(|| node.datapath.set_guard(Some(&settings)).unwrap());
    for (server, own) in addresses(1).into_iter().zip(addresses(2)) {
        assert!(tcp(&node.ns, server, 443).is_some(), "the API server at {server}");
        assert!(tcp(&other.ns, own, 22).is_none(), "SSH to {own} is left to policy");
        assert!(tcp(&other.ns, own, 10250).is_some());
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn policy_says_who_speaks_with_the_node() {
    for mode in [Mode::Vxlan, Mode::Native] {
        let c = Cluster::guardable(mode);
        let [other, node] = &c.nodes;
        let [a, b] = &c.pods;
        for port in [9100, 9101, 9102] {
            serve_tcp(&node.ns, port);
            serve_tcp(&other.ns, port);
        }
        serve_tcp(&b.ns, 80);
        serve_tcp(&b.ns, 81);
        let mut table = deny_ingress();
        table.entries = vec![
            rule(Direction::Ingress, REMOTE_NODE, 6, 9100, true, 1),
            rule(Direction::Ingress, a.identity, 6, 9101, true, 2),
            rule(Direction::Ingress, b.identity, 6, 9102, true, 3),
            rule(Direction::Egress, REMOTE_NODE, 6, 9101, false, 4),
            rule(Direction::Egress, b.identity, 6, 81, false, 5),
        ];
        guard(node, &table, &by_table());
        for to in addresses(2) {
            for (from, allowed) in [(&other.ns, 9100), (&a.ns, 9101), (&b.ns, 9102)] {
                for port in [9100, 9101, 9102] {
                    let passed = tcp(from, to, port).is_some();
                    assert_eq!(passed, port == allowed, "{mode:?}: {} to {to}:{port}", from.name);
                }
            }
            assert!(tcp(&node.ns, to, 9100).is_some(), "the node speaks to itself");
        }
        for to in addresses(1) {
            assert!(tcp(&node.ns, to, 9100).is_some(), "{mode:?}: out to {to}");
            assert!(tcp(&node.ns, to, 9101).is_none(), "{mode:?}: out to {to}");
        }
        for to in b.addresses() {
            assert!(tcp(&node.ns, to, 80).is_some(), "{mode:?}: to the node's own pod {to}");
            assert!(tcp(&node.ns, to, 81).is_none(), "{mode:?}: to the node's own pod {to}");
            assert!(tcp(&a.ns, to, 81).is_some(), "{mode:?}: pods speak to each other");
        }
        let drops = node.drops();
        for (rule, reason) in [(77, DropReason::PolicyDenied), (4, DropReason::PolicyDeny), (5, DropReason::PolicyDeny)]
        {
            assert!(drops.iter().any(|d| d.rule == rule && d.reason == reason as u8), "{rule}: {drops:?}");
        }
        // A pod that comes later is no way around it.
        let late = node.pod(9);
        assert!(addresses(2).into_iter().all(|to| tcp(&late.ns, to, 9102).is_none()));
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn open_connections_go_on_when_the_guard_comes_and_while_agents_change() {
    let mut c = Cluster::guardable(Mode::Vxlan);
    serve_tcp(&c.nodes[1].ns, 22);
    serve_tcp(&c.nodes[1].ns, 9100);
    serve_udp(&c.nodes[1].ns, 9100);
    serve_tcp(&c.nodes[0].ns, 9200);
    let incoming: Vec<TcpStream> =
        addresses(2).iter().flat_map(|to| [22, 9100].map(|port| open(&c.nodes[0].ns, *to, port))).collect();
    let outgoing: Vec<TcpStream> = addresses(1).iter().map(|to| open(&c.nodes[1].ns, *to, 9200)).collect();
    let streams = addresses(2).map(|to| Stream::start(&c.nodes[0].ns, to, 9100));
    let all_echo = |when: &str| {
        for s in incoming.iter().chain(&outgoing) {
            assert!(echoes(s), "{when}: {s:?}");
        }
    };
    let mut table = deny_ingress();
    table.entries.push(rule(Direction::Ingress, REMOTE_NODE, 6, 9100, true, 1));
    table.entries.push(rule(Direction::Ingress, REMOTE_NODE, 17, 9100, true, 1));
    all_echo("without a guard");
    guard(&c.nodes[1], &table, &by_table());
    all_echo("when the guard comes");
    assert!(tcp(&c.nodes[0].ns, addresses(2)[0], 9101).is_none());
    table.entries.push(rule(Direction::Ingress, REMOTE_NODE, 6, 9300, true, 2));
    guard(&c.nodes[1], &table, &by_table());
    all_echo("when the table changes");
    for _ in 0..3 {
        c.nodes[1].restart();
        all_echo("when an agent takes over");
        assert_eq!(c.nodes[1].datapath.guard().unwrap(), Some(by_table()), "what was in force is in force");
        assert!(tcp(&c.nodes[0].ns, addresses(2)[1], 9101).is_none());
    }
    for stream in streams {
        let (sent, echoed) = stream.finish();
        assert!(sent > 500 && sent == echoed, "{echoed} of {sent}: {:?}", c.nodes[1].drops());
    }
    // A table that denies them does cut them, but for the safe set.
    guard(&c.nodes[1], &nothing(), &by_table());
    for (s, port) in incoming.iter().zip([22, 9100].into_iter().cycle()) {
        assert_eq!(echoes(s), port == 22, "{s:?}");
    }
    assert!(outgoing.iter().all(|s| !echoes(s)));
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn the_guard_goes_with_its_row_and_with_the_switch() {
    let mut c = Cluster::guardable(Mode::Vxlan);
    serve_tcp(&c.nodes[1].ns, 9100);
    let passes = |c: &Cluster| addresses(2).map(|to| tcp(&c.nodes[0].ns, to, 9100).is_some());
    let programs = |c: &Cluster| {
        let node = &c.nodes[1];
        let links = node.datapath.attached().unwrap();
        let on = |link: u32| node.datapath.program_ids(link).unwrap();
        let guards = links.iter().flat_map(|(_, link)| on(*link)).filter(|(name, _)| name.starts_with("guard"));
        (links.len(), guards.count())
    };
    let (links, none) = programs(&c);
    assert_eq!((links, none), (3, 0), "without a guard there are no programs for one");
    guard(&c.nodes[1], &deny_ingress(), &by_table());
    assert_eq!(passes(&c), [false; 2]);
    assert_eq!(programs(&c), (links, 2 * links));
    c.nodes[1].datapath.set_guard(None).unwrap();
    assert_eq!(passes(&c), [true; 2]);
    assert_eq!(programs(&c), (links, 0));
    assert_eq!(c.nodes[1].datapath.guard().unwrap(), None);
    // A guard whose table goes lets pass, and one without a table is not taken.
    guard(&c.nodes[1], &deny_egress(), &by_table());
    c.nodes[1].datapath.remove_table(SLOT).unwrap();
    assert_eq!(passes(&c), [true; 2]);
    c.nodes[1].datapath.set_guard(None).unwrap();
    assert!(c.nodes[1].datapath.set_guard(Some(&by_table())).is_err());
    // An agent that starts without the host firewall takes it off.
    guard(&c.nodes[1], &deny_ingress(), &by_table());
    assert_eq!(passes(&c), [false; 2]);
    c.nodes[1].config.host_firewall = false;
    c.nodes[1].restart();
    assert_eq!(passes(&c), [true; 2]);
    assert_eq!((programs(&c), c.nodes[1].datapath.guard().unwrap()), ((links, 0), None));
    c.nodes[1].datapath.put_table(SLOT, &allow_all()).unwrap();
    assert!(c.nodes[1].datapath.set_guard(Some(&by_table())).is_err());
}
