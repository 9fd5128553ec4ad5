//! Round trips and connections per second between pods, against a bare veth pair (floor) and the kernel's own way (peer).
//!
//! Method: client and server on one core, short runs of all setups in turn, several rounds, several instances of each
//! setup (their placement in memory matters by some percent). A ratio is the median over rounds of floor's p50 divided by
//! ours. One JSON object a line:
//! `{"name","unit","ours","floor","floor_name","peer","peer_name","ratio_to_floor","ratio_to_peer","spread"}`;
//! `spread` is the range of the middle half of the ratio to the floor.
//!
//! Needs root. `datapath_bench [--rounds N] [--milliseconds N] [--alone FIGURE] [same] [cross] [packet]`. `--alone` runs
//! only ours of one figure (or `floor:FIGURE`, `peer:FIGURE`): for a profiler beside it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_precision_loss,
    clippy::large_stack_arrays,
    clippy::too_many_lines,
    reason = "a bench stops at the first failure"
)]

#[path = "../tests/rig/mod.rs"]
mod rig;

mod pairs;

use std::{net::IpAddr, os::fd::AsFd, time::Duration};

use axoneme_kernel::{
    bpf::{CONTEXT_WORDS, test_run},
    datapath::{Datapath, Direction, Hook, IpEntry},
};
use pairs::{Kind, Line, PORT, Setup, median, pin, quantile, race, table, tcp_packet, word};
use rig::{HOST_MAC, Namespace, Node, Options, node_v4, node_v6, sh};

/// Two namespaces and a veth pair between them: the floor.
fn bare(keep: &mut Vec<Box<dyn std::any::Any>>) -> Setup {
    let (a, b) = (Namespace::new("floor-a"), Namespace::new("floor-b"));
    a.ip(&format!("link add eth0 type veth peer name eth0 netns {}", b.name));
    for (ns, n) in [(&a, 1), (&b, 2)] {
        ns.ip("link set eth0 up");
        ns.ip(&format!("addr add 10.77.0.{n}/24 dev eth0"));
        ns.ip(&format!("addr add fd77::{n}/64 dev eth0 nodad"));
    }
    let setup = Setup::new(&a, &b, ["10.77.0.2".parse().unwrap(), "fd77::2".parse().unwrap()]);
    keep.push(Box::new((a, b)));
    setup
}

/// Reads events on the other core, as the agent does, and keeps the node alive.
fn drain(node: Node, keep: &mut Vec<Box<dyn std::any::Any>>) {
    let mut reader = node.datapath.events().unwrap();
    std::thread::spawn(move || {
        pin(1);
        let mut events = Vec::new();
        loop {
            events.clear();
            reader.read(65_536, &mut events);
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    keep.push(Box::new(node));
}

fn ours(keep: &mut Vec<Box<dyn std::any::Any>>) -> Setup {
    let node = Node::alone();
    let (a, b) = (node.pod(1), node.pod(2));
    node.datapath.put_table(a.slot, &table(Direction::Egress, b.identity)).unwrap();
    node.datapath.put_table(b.slot, &table(Direction::Ingress, a.identity)).unwrap();
    let setup = Setup::new(&a.ns, &b.ns, b.addresses());
    keep.push(Box::new((a, b)));
    drain(node, keep);
    setup
}

/// Two namespaces behind a router that tracks connections and lets the bench through by a rule: the kernel's own way.
fn nftables(keep: &mut Vec<Box<dyn std::any::Any>>) -> Setup {
    let node = Namespace::new("nft");
    let pods = [1u8, 2].map(|n| kernel_pod(&node, 1, n));
    let rules = format!(
        "table inet f {{ chain c {{ type filter hook forward priority 0; policy drop; ct state established,related accept; \
         tcp dport {PORT} ip saddr 10.1.0.1 ip daddr 10.1.0.2 accept; \
         tcp dport {PORT} ip6 saddr fd10:1::1 ip6 daddr fd10:1::2 accept; meta l4proto ipv6-icmp accept; }}; }}"
    );
    sh(&format!("ip netns exec {} nft '{rules}'", node.name));
    let setup = Setup::new(&pods[0], &pods[1], ["10.1.0.2".parse().unwrap(), "fd10:1::2".parse().unwrap()]);
    keep.push(Box::new((node, pods)));
    setup
}

/// A pod's link and routes as ours, without programs.
fn kernel_pod(node: &Namespace, net: u8, number: u8) -> Namespace {
    let pod = Namespace::new(&format!("k{number}"));
    let (v4, v6, link) = (format!("10.{net}.0.{number}"), format!("fd10:{net}::{number}"), format!("h{number}"));
    let mac = format!("0a:00:00:00:{net:02x}:{number:02x}");
    let (n, p) = (&node.name, &pod.name);
    sh(&format!(
        "ip -n {n} link add {link} address {HOST_MAC} type veth peer name eth0 netns {p} address {mac}
         ip -n {n} link set {link} addrgenmode none up
         ip -n {p} link set eth0 up
         ip -n {p} addr add {v4}/32 dev eth0
         ip -n {p} addr add {v6}/128 dev eth0 nodad
         ip -n {p} route add 169.254.1.1 dev eth0 scope link
         ip -n {p} neigh replace 169.254.1.1 lladdr {HOST_MAC} dev eth0 nud permanent
         ip -n {p} neigh replace fe80::1 lladdr {HOST_MAC} dev eth0 nud permanent
         ip -n {p} route add default via 169.254.1.1 dev eth0 src {v4}
         ip -n {p} route add default via fe80::1 dev eth0 src {v6}
         ip -n {n} route add {v4}/32 dev {link}
         ip -n {n} route add {v6}/128 dev {link}
         ip -n {n} neigh replace {v4} lladdr {mac} dev {link} nud permanent
         ip -n {n} neigh replace {v6} lladdr {mac} dev {link} nud permanent"
    ));
    pod
}

/// Two nodes on one uplink pair, addressed.
fn uplinks() -> [Namespace; 2] {
    let nodes = [Namespace::new("x1"), Namespace::new("x2")];
    nodes[0].ip(&format!("link add up0 type veth peer name up0 netns {}", nodes[1].name));
    for (ns, n) in nodes.iter().zip([1u8, 2]) {
        let other = 3 - n;
        ns.ip("link set up0 up");
        ns.ip(&format!("addr add {}/32 dev lo", node_v4(n)));
        ns.ip(&format!("addr add {}/128 dev lo nodad", node_v6(n)));
        ns.ip(&format!("addr add 10.201.0.{n}/24 dev up0"));
        ns.ip(&format!("addr add fd21::{n}/64 dev up0 nodad"));
        ns.ip(&format!("route add {}/32 via 10.201.0.{other} src {}", node_v4(other), node_v4(n)));
    }
    nodes
}

fn vxlan(ns: &Namespace, number: u8, how: &str) -> u32 {
    let other = 3 - number;
    ns.ip(&format!("link add vx0 address {HOST_MAC} type vxlan {how} dstport 8472 nolearning"));
    ns.ip("link set vx0 addrgenmode none mtu 1450 up");
    ns.ip(&format!("route add 10.{other}.0.0/24 dev vx0"));
    ns.ip(&format!("route add fd10:{other}::/64 dev vx0"));
    ns.run(|| nix::net::if_::if_nametoindex("vx0").unwrap())
}

fn cross(tunnel: bool, keep: &mut Vec<Box<dyn std::any::Any>>) -> Setup {
    let mut number = 0;
    let nodes = uplinks().map(|ns| {
        number += 1;
        let overlay = if tunnel { vxlan(&ns, number, "external") } else { 0 };
        if tunnel {
            ns.ip("link set vx0 arp off");
        } else {
            let other = 3 - number;
            ns.ip(&format!("route add 10.{other}.0.0/24 via 10.201.0.{other}"));
            ns.ip(&format!("route add fd10:{other}::/64 via fd21::{other}"));
        }
        let uplink = ns.run(|| nix::net::if_::if_nametoindex("up0").unwrap());
        let node =
            Node::with(ns, number, &Options { native: !tunnel, uplink, overlay, services: true, ..Options::default() });
        node.ns.run(|| {
            node.datapath.attach(Hook::Uplink, uplink).unwrap();
            if tunnel {
                node.datapath.attach(Hook::Overlay, overlay).unwrap();
            }
        });
        node
    });
    let pods = [nodes[0].pod(1), nodes[1].pod(2)];
    nodes[0].datapath.put_table(pods[0].slot, &table(Direction::Egress, pods[1].identity)).unwrap();
    nodes[1].datapath.put_table(pods[1].slot, &table(Direction::Ingress, pods[0].identity)).unwrap();
    for (here, there) in [(0, 1), (1, 0)] {
        let (pod, n) = (&pods[there], nodes[there].number);
        let hops: [IpAddr; 2] = if tunnel {
            [node_v4(n).into(), node_v4(n).into()]
        } else {
            [[10, 201, 0, n].into(), [0xfd21, 0, 0, 0, 0, 0, 0, u16::from(n)].into()]
        };
        for (address, hop) in pod.addresses().into_iter().zip(hops) {
            let entry = IpEntry {
                identity: pod.identity,
                peer: pod.identity,
                tunnel: Some(hop),
                is_node: false,
                direct: false,
            };
            nodes[here].datapath.upsert_ip(address.into(), entry).unwrap();
        }
    }
    let setup = Setup::new(&pods[0].ns, &pods[1].ns, pods[1].addresses());
    keep.push(Box::new(pods));
    for node in nodes {
        drain(node, keep);
    }
    setup
}

fn kernel_cross(tunnel: bool, keep: &mut Vec<Box<dyn std::any::Any>>) -> Setup {
    let nodes = uplinks();
    for (ns, n) in nodes.iter().zip([1u8, 2]) {
        let other = 3 - n;
        if tunnel {
            vxlan(ns, n, &format!("id 7 local {} remote {}", node_v4(n), node_v4(other)));
            // One address on both ends would be taken for a loop.
            ns.ip(&format!("link set vx0 address 0a:00:00:00:ff:{n:02x}"));
            for p in [format!("10.{other}.0.{other}"), format!("fd10:{other}::{other}")] {
                ns.ip(&format!("neigh replace {p} lladdr 0a:00:00:00:ff:{other:02x} dev vx0 nud permanent"));
            }
        } else {
            ns.ip(&format!("route add 10.{other}.0.0/24 via 10.201.0.{other}"));
            ns.ip(&format!("route add fd10:{other}::/64 via fd21::{other}"));
        }
    }
    let pods = [kernel_pod(&nodes[0], 1, 1), kernel_pod(&nodes[1], 2, 2)];
    let setup = Setup::new(&pods[0], &pods[1], ["10.2.0.2".parse().unwrap(), "fd10:2::2".parse().unwrap()]);
    keep.push(Box::new((nodes, pods)));
    setup
}

fn same_node(rounds: usize, time: Duration) {
    let mut keep = Vec::new();
    let floor: Vec<_> = (0..3).map(|_| bare(&mut keep)).collect();
    let ours: Vec<_> = (0..3).map(|_| ours(&mut keep)).collect();
    let peer: Vec<_> = (0..3).map(|_| nftables(&mut keep)).collect();
    for (name, kind, family) in [
        ("tcp_rr_same_node_v4", Kind::Rr, 0),
        ("tcp_crr_same_node_v4", Kind::Crr, 0),
        ("tcp_rr_same_node_v6", Kind::Rr, 1),
        ("tcp_crr_same_node_v6", Kind::Crr, 1),
    ] {
        let line = Line { name, kind, family, floor_name: "veth pair", peer_name: "router, nftables, conntrack" };
        race(&line, &ours, &floor, &peer, rounds, time);
    }
}

fn two_nodes(rounds: usize, time: Duration) {
    let mut keep = Vec::new();
    let floor: Vec<_> = (0..2).map(|_| bare(&mut keep)).collect();
    for (tunnel, word, peer_name) in [(false, "native", "kernel routing"), (true, "vxlan", "kernel vxlan")] {
        let ours: Vec<_> = (0..2).map(|_| cross(tunnel, &mut keep)).collect();
        let peer: Vec<_> = (0..2).map(|_| kernel_cross(tunnel, &mut keep)).collect();
        for (kind, name) in [(Kind::Rr, "tcp_rr"), (Kind::Crr, "tcp_crr")] {
            let name = format!("{name}_{word}_v4");
            let line = Line { name: &name, kind, family: 0, floor_name: "veth pair", peer_name };
            race(&line, &ours, &floor, &peer, rounds, time);
        }
    }
}

/// How often each figure of [`per_packet`] is taken, in turns: what else the machine does is in one or two of them.
const TURNS: u16 = 5;
/// Connections that are open at once in the cold figure.
const MANY: u32 = 1 << 20;

/// Out of a turn: a figure with the cost of a run in it, and that cost.
type Taken = fn(&Turn) -> (f64, f64);

/// Nanoseconds of a packet, with the cost of a run of the program in them.
struct Turn {
    established: f64,
    denied: f64,
    new: f64,
    /// Of one of a million open connections, in no order: its entry is in no cache.
    cold: f64,
    /// Of a run of nothing: many in a row, and one on its own.
    nothing: f64,
    single: f64,
}

/// Nanoseconds per packet of the program alone (`BPF_PROG_TEST_RUN`), the cost of a run of nothing taken off: the median
/// of the turns, the least and the most of them as the spread.
fn per_packet() {
    let (few, many) = (Sender::new(None), Sender::new(Some(MANY + MANY / 4)));
    pin(0);
    let send = many.sends();
    for n in 0..MANY {
        send(&one_of_many(n, 2), 1);
    }
    let turns: Vec<Turn> = (0..TURNS).map(|n| turn(n, &few, &many)).collect();
    let figures: [(&str, Taken); 4] = [
        ("packet_established", |t| (t.established, t.nothing)),
        ("packet_denied", |t| (t.denied, t.nothing)),
        ("packet_new_connection", |t| (t.new, t.single)),
        ("packet_established_cold", |t| (t.cold, t.single)),
    ];
    for (name, of) in figures {
        let mut ours: Vec<f64> = turns.iter().map(of).map(|(with, without)| with - without).collect();
        let floor = median(&mut turns.iter().map(of).map(|(_, without)| without).collect::<Vec<_>>());
        let (p50, least, most) = (median(&mut ours), quantile(&mut ours, 0.0), quantile(&mut ours, 1.0));
        println!(
            "{{\"name\":\"{name}\",\"unit\":\"ns\",\"ours\":{p50:.0},\"floor\":{floor:.0},\"floor_name\":\"run of nothing, \
             taken off\",\"peer\":null,\"peer_name\":null,\"ratio_to_floor\":null,\"ratio_to_peer\":null,\
             \"spread\":[{least:.0},{most:.0}]}}"
        );
    }
}

fn turn(number: u16, few: &Sender, many: &Sender) -> Turn {
    // An odd factor walks all numbers in an order that no prefetcher guesses.
    let scattered = |n: u32| (n + u32::from(number) * 10_000).wrapping_mul(2_654_435_761) >> 12;
    let send = many.sends();
    let cold = median(&mut (0..10_000).map(|n| send(&one_of_many(scattered(n), 16), 1)).collect::<Vec<_>>());
    let (send, nothing) = (few.sends(), few.nothing());
    let open = tcp_packet(9_000, PORT, 16);
    send(&open, 2);
    let first = 10_000 * (number + 1);
    Turn {
        established: send(&open, 1_000_000),
        denied: send(&tcp_packet(9_000, PORT + 1, 2), 200_000),
        new: median(&mut (0..10_000).map(|n| send(&tcp_packet(first + n, PORT, 2), 1)).collect::<Vec<_>>()),
        cold,
        nothing: nothing(1_000_000),
        single: median(&mut (0..2_000).map(|_| nothing(1)).collect::<Vec<_>>()),
    }
}

/// Ports of both sides make the connections: all of the client's, sixteen of the server's.
fn one_of_many(n: u32, flags: u8) -> Vec<u8> {
    tcp_packet((n & 0xffff) as u16, PORT + (n >> 16) as u16, flags)
}

/// A pod whose packets to another are given to the program without a link.
struct Sender {
    node: Node,
    _pods: [rig::Pod; 2],
    context: [u32; CONTEXT_WORDS],
}

impl Sender {
    /// With policy that allows one port, or with room for so many connections and none.
    fn new(conntrack_entries: Option<u32>) -> Self {
        let options = Options { conntrack_entries, ..Options::default() };
        let name = if conntrack_entries.is_none() { "few" } else { "many" };
        let node = Node::with(Namespace::new(name), 1, &options);
        let (a, b) = (node.pod(1), node.pod(2));
        if conntrack_entries.is_none() {
            node.datapath.put_table(a.slot, &table(Direction::Egress, b.identity)).unwrap();
            node.datapath.put_table(b.slot, &table(Direction::Ingress, a.identity)).unwrap();
        }
        let mut context = [0u32; CONTEXT_WORDS];
        context[10] = a.ifindex;
        Self { node, _pods: [a, b], context }
    }

    /// From here on packets are this pod's: nanoseconds of one in the mean of so many runs.
    fn sends(&self) -> impl Fn(&[u8], u32) -> f64 {
        self.node.ns.enter();
        let program = self.node.datapath.program("from_container").unwrap();
        move |packet, repeat| {
            f64::from(test_run(program.as_fd(), packet, Some(&self.context), repeat).unwrap().nanoseconds)
        }
    }

    /// A frame that the tunnel's program drops at sight: what a run itself costs.
    fn nothing(&self) -> impl Fn(u32) -> f64 {
        let mut frame = tcp_packet(1, 2, 16);
        frame[12..14].copy_from_slice(&[0x88, 0xb5]);
        let program = self.node.datapath.program("to_overlay").unwrap();
        move |repeat| f64::from(test_run(program.as_fd(), &frame, None, repeat).unwrap().nanoseconds)
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str, default: u64| word(name).and_then(|w| w.parse().ok()).unwrap_or(default);
    let rounds = usize::try_from(number("--rounds", 45)).unwrap();
    let time = Duration::from_millis(number("--milliseconds", 150));
    let named: Vec<&str> =
        words.iter().map(String::as_str).filter(|w| matches!(*w, "same" | "cross" | "packet")).collect();
    let wanted = |what: &str| named.is_empty() || named.contains(&what);
    if wanted("same") {
        same_node(rounds, time);
    }
    if wanted("cross") {
        two_nodes(rounds, time);
    }
    if wanted("packet") {
        per_packet();
    }
}
