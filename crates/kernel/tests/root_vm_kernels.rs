//! What a kernel of the matrix must do: load every program within the verifier's limits, attach in its own way, and let
//! real traffic pass or not as policy says. Run in a virtual machine in software emulation: slow, so deadlines are wide.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_errors_doc,
    clippy::too_many_lines,
    reason = "a test fails by panicking, and reads best in one piece"
)]

mod modes;
mod rig;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    process::Command,
    time::Duration,
};

use axoneme_abi::DropReason;
use axoneme_kernel::{
    datapath::{Datapath, Direction, EndpointEntry, Hook, NodeGuard, ServiceEntry},
    net::{Netlink, Network, Overlay},
};
use rig::{
    HOST_MAC, Node, Options, Pod, allow_all,
    cluster::{Cluster, Mode, another_tunnel_loses_nothing},
    deny_egress, deny_ingress,
    frames::{Tap, fragments, macs},
    node_v4, node_v6, rule,
    traffic::{ping, sctp, serve_sctp, serve_tcp},
};

/// In software emulation everything takes its time.
const PATIENCE: Duration = Duration::from_secs(10);
/// For what must not come.
const QUIET: Duration = Duration::from_secs(2);
/// The verifier gives up at a million.
const MOST_INSTRUCTIONS: u32 = 600_000;

fn release() -> (u32, u32) {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut parts = text.split(|c: char| !c.is_ascii_digit()).filter_map(|p| p.parse().ok());
    (parts.next().unwrap(), parts.next().unwrap())
}

fn connects(node: &rig::Namespace, to: IpAddr, port: u16, limit: Duration) -> bool {
    node.run(|| TcpStream::connect_timeout(&SocketAddr::new(to, port), limit).is_ok())
}

/// Every program is there and cost the verifier less than it grants.
fn within_the_limit(node: &Node) {
    let budget = node.datapath.budget();
    println!("kernel {:?}: {budget:?}", release());
    assert_eq!(budget.len(), 18);
    for b in budget {
        assert!(b.verified_instructions < MOST_INSTRUCTIONS, "{b:?}");
        // Kernels before 5.16 do not tell.
        assert!(b.verified_instructions > 0 || release() < (5, 16), "{b:?}");
    }
}

/// Backwards to an open port and to a closed one.
fn fragments_wait_for_their_first_one(node: &Node, a: &Pod, b: &Pod) {
    let mut table = allow_all();
    table.entries.push(rule(Direction::Ingress, 0, 17, 54, false, 3));
    node.datapath.put_table(b.slot, &table).unwrap();
    let tap = Tap::open(&a.ns, "eth0");
    for (source, to) in a.addresses().into_iter().zip(b.addresses()) {
        let sockets = [53, 54].map(|port| {
            let s = b.ns.run(|| UdpSocket::bind((to, port)).unwrap());
            s.set_read_timeout(Some(if port == 53 { PATIENCE } else { QUIET })).unwrap();
            s
        });
        for (port, socket) in [53, 54].into_iter().zip(&sockets) {
            for f in fragments(&macs(1, 1), (source, to), u32::from(port), (4000, port), &[7; 3000], 1200).iter().rev()
            {
                tap.send(f);
            }
            assert_eq!(socket.recv(&mut [0; 4000]).ok(), (port == 53).then_some(3000), "{to} {port}");
        }
    }
    let denied = node.drops().iter().filter(|d| d.reason == DropReason::PolicyDeny as u8 && d.rule == 3).count();
    assert_eq!(denied, 6);
}

/// A pod that may send nothing hears so at once.
fn a_denied_pod_is_told(node: &Node, a: &Pod, b: &Pod) {
    node.datapath.put_table(a.slot, &deny_egress()).unwrap();
    for to in b.addresses() {
        let outcome = a.ns.run(|| TcpStream::connect_timeout(&SocketAddr::new(to, 80), PATIENCE));
        let expected = if to.is_ipv4() { libc::EHOSTUNREACH } else { libc::EACCES };
        assert_eq!(outcome.unwrap_err().raw_os_error(), Some(expected), "{to}");
    }
    node.datapath.put_table(a.slot, &allow_all()).unwrap();
}

/// What a pod says to its own node, under a policy of the node that lets nothing in.
fn the_node_is_guarded(node: &Node, pod: &Pod) {
    const SLOT: u16 = 50;
    serve_tcp(&node.ns, 22);
    serve_tcp(&node.ns, 9100);
    let verdict = || {
        [IpAddr::from(node_v4(1)), node_v6(1).into()]
            .map(|to| [22, 9100].map(|port| connects(&pod.ns, to, port, if port == 22 { PATIENCE } else { QUIET })))
    };
    assert_eq!(verdict(), [[true; 2]; 2]);
    node.datapath.put_table(SLOT, &deny_ingress()).unwrap();
    let guard = NodeGuard { slot: SLOT, overlay_port: 8472, ..NodeGuard::default() };
    node.ns.run(|| node.datapath.set_guard(Some(&guard))).unwrap();
    assert_eq!(verdict(), [[true, false]; 2], "SSH is in the safe set");
    node.ns.run(|| node.datapath.set_guard(None)).unwrap();
    assert_eq!(verdict(), [[true; 2]; 2]);
}

#[test]
#[ignore = "needs root: run by cargo xtask test vm"]
fn programs_load_attach_and_let_pass_what_policy_allows() {
    let cgroup = std::path::Path::new("/sys/fs/cgroup/axk");
    std::fs::create_dir_all(cgroup).unwrap();
    let options = Options {
        services: true,
        socket_lb: true,
        host_firewall: true,
        answer_denied: true,
        cgroup: Some(cgroup.into()),
        ..Options::default()
    };
    // One node for everything: verifying all programs takes seconds in emulation.
    let ns = rig::Namespace::new("node");
    ns.ip("addr add 10.200.0.1/32 dev lo");
    ns.ip("addr add fd20::1/128 dev lo nodad");
    let mut node = Node::with(ns, 1, &options);
    within_the_limit(&node);
    let (a, b) = (node.pod(1), node.pod(2));
    let filters = |link: &str, way: &str| {
        let out = Command::new("tc").args(["-n", &node.ns.name, "filter", "show", "dev", link, way]).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    let by_filter = release() < (6, 6);
    assert_eq!(filters(&a.host_link, "ingress").contains("from_container"), by_filter);
    assert_eq!(filters(&a.host_link, "egress").contains("to_container"), by_filter);
    serve_tcp(&b.ns, 80);
    serve_tcp(&b.ns, 81);
    for to in b.addresses() {
        serve_sctp(&b.ns, SocketAddr::new(to, 90));
        serve_sctp(&b.ns, SocketAddr::new(to, 91));
        let entry = ServiceEntry {
            address: if to.is_ipv4() { "10.96.0.9".parse().unwrap() } else { "fd96::9".parse().unwrap() },
            protocol: 132,
            port: 92,
            backends: vec![(to, 90)],
            affinity_seconds: 0,
        };
        node.datapath.upsert_service(&entry).unwrap();
        assert!(sctp(&a.ns, SocketAddr::new(entry.address, 92), PATIENCE), "SCTP by the Service {}", entry.address);
    }
    let mut table = deny_ingress();
    table.entries.push(rule(Direction::Ingress, a.identity, 6, 80, true, 5));
    table.entries.push(rule(Direction::Ingress, a.identity, 132, 90, true, 6));
    node.datapath.put_table(b.slot, &table).unwrap();
    for round in 0..2 {
        for to in b.addresses() {
            assert!(connects(&a.ns, to, 80, PATIENCE), "{round}: TCP to {to}");
            assert!(!connects(&a.ns, to, 81, QUIET), "{round}: TCP to {to}, denied");
            assert!(sctp(&a.ns, SocketAddr::new(to, 90), PATIENCE), "{round}: SCTP to {to}");
            assert!(!sctp(&a.ns, SocketAddr::new(to, 91), QUIET), "{round}: SCTP to {to}, denied");
        }
        let drops = node.drops();
        for protocol in [6, 132] {
            let denied = |d: &&axoneme_abi::DropEvent| d.protocol == protocol && d.rule == 77;
            assert!(drops.iter().filter(denied).count() >= 2, "{drops:?}");
        }
        if round == 0 {
            fragments_wait_for_their_first_one(&node, &a, &b);
            // The next process takes over what is attached.
            node.restart();
            for pod in [&a, &b] {
                node.ns.run(|| node.datapath.attach(Hook::Endpoint, pod.ifindex)).unwrap();
            }
            node.datapath.put_table(b.slot, &table).unwrap();
        }
    }
    the_node_is_guarded(&node, &a);
    a_denied_pod_is_told(&node, &a, &b);
    for pod in [&a, &b] {
        node.ns.run(|| node.datapath.detach(pod.ifindex)).unwrap();
    }
    assert!(connects(&a.ns, b.v4.into(), 81, PATIENCE), "nothing is in the way any more");
    drop(node);
    std::fs::remove_dir(cgroup).unwrap();
}

#[test]
#[ignore = "needs root: run by cargo xtask test vm"]
fn pods_of_two_nodes_reach_each_other() {
    // Each kernel has its own way, so that all are covered in the time that there is.
    let mode = match release() {
        (5, _) => Mode::Native,
        (6, 1) => Mode::Vxlan,
        _ => Mode::Vxlan6,
    };
    let c = Cluster::new(mode, None);
    let [a, b] = &c.pods;
    serve_tcp(&b.ns, 80);
    serve_tcp(&b.ns, 81);
    let mut table = deny_ingress();
    table.entries.push(rule(Direction::Ingress, a.identity, 6, 80, true, 5));
    table.entries.push(rule(Direction::Ingress, a.identity, 132, 90, true, 6));
    c.nodes[1].datapath.put_table(b.slot, &table).unwrap();
    for to in b.addresses() {
        serve_sctp(&b.ns, SocketAddr::new(to, 90));
        let passed = connects(&a.ns, to, 80, PATIENCE);
        assert!(passed, "{mode:?}: TCP to {to}: {:?}", c.nodes.each_ref().map(Node::drops));
        assert!(sctp(&a.ns, SocketAddr::new(to, 90), PATIENCE), "{mode:?}: SCTP to {to}");
        // Over the tunnel the answers carry their checksum, which the client's kernel looks at.
        let address = if to.is_ipv4() { "10.96.0.9".parse().unwrap() } else { "fd96::9".parse().unwrap() };
        let entry = ServiceEntry { address, protocol: 132, port: 92, backends: vec![(to, 90)], affinity_seconds: 0 };
        c.nodes[0].datapath.upsert_service(&entry).unwrap();
        assert!(sctp(&a.ns, SocketAddr::new(address, 92), PATIENCE), "{mode:?}: SCTP by the Service {address}");
        assert!(!connects(&a.ns, to, 81, QUIET), "{mode:?}: TCP to {to}, denied");
        assert!(!ping(&a.ns, to), "{mode:?}: ICMP to {to}, denied");
    }
    let drops = c.nodes[1].drops();
    assert!(drops.iter().any(|d| d.rule == 77 && d.source_identity == a.identity), "{mode:?}: {drops:?}");
}

/// The cells of a column of the page: line and side to what becomes of a datagram.
fn column(page: &'static str, title: &str) -> BTreeMap<(&'static str, &'static str), &'static str> {
    let cells =
        |line: &'static str| Some(line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").collect::<Vec<_>>());
    let rows = || page.lines().filter_map(cells);
    let place = rows().find_map(|r| r.iter().position(|c| *c == title)).unwrap();
    rows().skip(1).map(|r| ((r[0], r[1]), r[place])).collect()
}

/// What was found of these lines is what the page says of them.
fn as_on_the_page(found: &modes::Found, of: &str, title: &str) {
    let page = column(include_str!("../../../docs/modes.md"), title);
    assert!(!found.is_empty());
    for ((at, _), cells) in found {
        let line = &modes::LINES[*at];
        let side = if line.side == axoneme_model::Direction::Egress { "egress" } else { "ingress" };
        assert_eq!(cells.join(" / "), page[&(line.what, side)], "{of}: {} {side}", line.what);
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test vm"]
fn geneve_has_the_cells_of_vxlan() {
    let (mode, title) = match release() {
        (6, 1) => (Mode::Geneve6, "VXLAN over IPv6"),
        _ => (Mode::Geneve, "VXLAN over IPv4"),
    };
    let mut found = modes::Found::new();
    modes::find(mode, "Geneve", &Options::default(), &mut found, modes::Line::is_remote);
    as_on_the_page(&found, "Geneve", title);
}

/// All cells, and connections; kernels without netkit say so.
#[test]
#[ignore = "needs root: run by cargo xtask test vm"]
fn netkit_has_the_cells_of_veth() {
    let ns = rig::Namespace::new("asks");
    let network = ns.run(|| Netlink::open().unwrap());
    let before = network.links().unwrap();
    assert_eq!(network.has_netkit().unwrap(), release() >= (6, 7));
    assert_eq!(network.links().unwrap(), before, "nothing is made by asking");
    if release() < (6, 7) {
        return;
    }
    let options = Options { netkit: true, ..Options::default() };
    let mut found = modes::Found::new();
    let c = modes::find(Mode::Vxlan, "netkit", &options, &mut found, |_| true);
    as_on_the_page(&found, "netkit", "VXLAN over IPv4");
    let [a, b] = &c.pods;
    let near = c.nodes[0].pod(4);
    for pod in [b, &near] {
        serve_tcp(&pod.ns, 80);
        for to in pod.addresses() {
            assert!(connects(&a.ns, to, 80, PATIENCE), "TCP to {to}");
        }
    }
    // a pod whose root gives its device another link-layer address is heard no more
    let known = EndpointEntry { mac: [0x0a, 0, 0, 0, 1, 1], ..a.entry() };
    for own in a.addresses() {
        c.nodes[0].datapath.upsert_endpoint(own, known).unwrap();
    }
    assert!(connects(&a.ns, near.v4.into(), 80, PATIENCE), "with its own");
    a.ns.ip("link set eth0 address 0a:00:00:00:01:63");
    // the kernel forgets a device's neighbours with its address
    a.ns.ip(&format!("neigh replace 169.254.1.1 lladdr {HOST_MAC} dev eth0 nud permanent"));
    assert!(!connects(&a.ns, near.v4.into(), 80, QUIET), "with another");
    assert!(c.nodes[0].drops().iter().any(|d| d.reason == DropReason::InvalidSourceMac as u8));
}

/// The tunnel device is adopted as it is, and made anew only for another port.
fn the_device_is_found_again() {
    let ns = rig::Namespace::new("device");
    let overlay = Mode::Geneve.overlay().unwrap();
    let ensure = |port| ns.run(|| Netlink::open().unwrap().ensure_overlay(Overlay { port, ..overlay }).unwrap());
    let made = ensure(6081);
    assert_eq!(ensure(6081), made);
    assert_ne!(ensure(6082), made);
}

#[test]
#[ignore = "needs root: run by cargo xtask test vm"]
fn a_change_from_vxlan_to_geneve_loses_nothing() {
    the_device_is_found_again();
    // Each kernel has its own part, so that all is covered in the time that there is.
    if release() > (5, 10) {
        return;
    }
    let mut c = Cluster::new(Mode::Vxlan, None);
    let geneve = c.also(Mode::Geneve.overlay());
    another_tunnel_loses_nothing(&mut c, geneve, 50);
}
