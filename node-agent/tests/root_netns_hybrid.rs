//! Hybrid routing: two nodes on one link and one behind a router, each with the agent's binary and the operator's part in
//! it. What goes past the tunnel is counted where it is on the wire.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod common;
mod rig;

use std::{
    cell::RefCell,
    fmt::Write as _,
    process::{Child, Command as Process, Stdio},
};

use rig::*;
use serde_json::json;

/// The nodes' addresses: `a` and `b` share a link, `c` is behind the router.
const NODES: [(&str, &str, &str, &str); 3] = [
    ("n1", "192.168.78.1", "fd78::1", "78"),
    ("n2", "192.168.78.2", "fd78::2", "78"),
    ("n3", "192.168.79.3", "fd79::3", "79"),
];

const POLICY: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: from-web-only, namespace: shop}
spec:
  endpointSelector: {}
  ingress: [{fromEndpoints: [{matchLabels: {app: web}}]}]
";

/// The manifests, with the routing section.
fn manifests(routing: &str) -> String {
    let mut text = format!(
        "apiVersion: axoneme.io/v1alpha1
kind: AxonemeConfig
metadata: {{name: default}}
spec:
  ipFamilies: [IPv4, IPv6]
  ipam: {{mode: Kubernetes}}
  routing: {routing}
  # probes would be counted, too
  nodeHealth: {{enabled: false}}
---
apiVersion: v1
kind: Namespace
metadata: {{name: shop}}
---{POLICY}"
    );
    for (i, (name, v4, v6, _)) in NODES.iter().enumerate() {
        let n = i + 1;
        write!(
            text,
            "---
apiVersion: v1
kind: Node
metadata: {{name: {name}}}
spec: {{podCIDRs: [10.9.{n}.0/24, \"fd09:{n}::/112\"]}}
status: {{addresses: [{{type: InternalIP, address: {v4}}}, {{type: InternalIP, address: \"{v6}\"}}]}}
"
        )
        .unwrap();
        for (pod, app, last) in [("w", "web", 2), ("x", "other", 3)] {
            let ip6 = format!("fd09:{n}::{last}");
            write!(
                text,
                "---
apiVersion: v1
kind: Pod
metadata: {{name: web-{pod}{n}, namespace: shop, uid: {pod}{n}, labels: {{app: {app}}}}}
spec: {{nodeName: {name}, containers: []}}
status: {{phase: Running, podIPs: [{{ip: 10.9.{n}.{last}}}, {{ip: \"{ip6}\"}}]}}
"
            )
            .unwrap();
        }
    }
    text
}

const HYBRID: &str =
    "{mode: Hybrid, hybrid: {subnets: [192.168.78.0/24, \"fd78::/64\", 192.168.79.0/24, \"fd79::/64\"]}}";
/// All take what comes past the tunnel, and none sends so.
const TAKEN: &str = "{mode: Hybrid, hybrid: {subnets: [198.51.100.0/24]}}";

struct Cluster {
    rigs: [Rig; 3],
    router: String,
    /// What the uplinks had sent when it was looked at last.
    counted: RefCell<[(u64, u64); 3]>,
}

impl Cluster {
    fn start(routing: &str) -> Self {
        let rigs = ["a", "b", "c"].map(Rig::named);
        let router = format!("{}r", rigs[0].prefix);
        sh(&format!(
            "ip netns add {router}; ip -n {router} link set lo up
             ip -n {router} link add br78 type bridge; ip -n {router} link add br79 type bridge
             ip netns exec {router} sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
             for n in 78 79; do ip -n {router} addr add 192.168.$n.254/24 dev br$n
             ip -n {router} addr add fd$n::fe/64 dev br$n nodad; ip -n {router} link set br$n up; done"
        ));
        let mut cluster = Self { rigs, router, counted: RefCell::default() };
        for (i, (name, v4, v6, net)) in NODES.into_iter().enumerate() {
            let (rig, router) = (&mut cluster.rigs[i], &cluster.router);
            let node = rig.node();
            sh(&format!(
                "ip -n {node} link del up0
                 ip link add up0 netns {node} type veth peer name n{i} netns {router}
                 ip -n {router} link set n{i} master br{net} up
                 ip -n {node} addr add {v4}/24 dev up0; ip -n {node} addr add {v6}/64 dev up0 nodad
                 ip -n {node} link set up0 up
                 ip -n {node} route add default via 192.168.{net}.254; ip -n {node} -6 route add default via fd{net}::fe
                 ip netns exec {node} nft 'add table inet seen
                   add chain inet seen out {{ type filter hook postrouting priority 300; }}
                   add rule inet seen out oifname up0 udp dport 8472 counter comment \"wrapped\"
                   add rule inet seen out oifname up0 ip saddr 10.9.0.0/16 ip daddr 10.9.0.0/16 counter comment \"bare\"
                   add rule inet seen out oifname up0 ip6 saddr fd09::/16 ip6 daddr fd09::/16 counter comment \"bare\"'"
            ));
            let dir = rig.path("manifests");
            std::fs::create_dir(&dir).unwrap();
            std::fs::write(dir.join("cluster.yaml"), manifests(routing)).unwrap();
            rig.start_with(&["standalone", "--node", name, "--manifests", dir.to_str().unwrap(), "--cni-install"]);
            rig.until("the plugin is installed", |r| r.path("net.d/05-axoneme.conflist").exists());
            for (pod, uid) in [(0, "w"), (1, "x")] {
                let (done, said) = rig.call("ADD", pod, &format!("{uid}{}", i + 1));
                assert!(done, "{said}");
                assert_eq!(said["ips"][0]["address"], format!("10.9.{}.{}/32", i + 1, pod + 2), "{said}");
            }
        }
        cluster
    }

    fn settings(&self, routing: &str) {
        for rig in &self.rigs {
            std::fs::write(rig.path("manifests/new"), manifests(routing)).unwrap();
            std::fs::rename(rig.path("manifests/new"), rig.path("manifests/cluster.yaml")).unwrap();
        }
    }

    /// Route of a node to another's pods.
    fn route(&self, from: usize, to: usize, v4: bool) -> String {
        let to = if v4 { format!("10.9.{}.2", to + 1) } else { format!("fd09:{}::2", to + 1) };
        sh(&format!("ip -n {} route get {to}", self.rigs[from].node()))
    }

    /// Packets that the node's uplink has sent since the last call: wrapped, and as they are.
    fn seen(&self, node: usize) -> (u64, u64) {
        let text = sh(&format!("ip netns exec {} nft -j list table inet seen", self.rigs[node].node()));
        let all: serde_json::Value = serde_json::from_str(&text).unwrap();
        let of = |wanted: &str| -> u64 {
            let rules = all["nftables"].as_array().unwrap().iter().filter_map(|o| o.get("rule"));
            let those = rules.filter(|r| r["comment"] == wanted).flat_map(|r| r["expr"].as_array().unwrap());
            those.filter_map(|e| e.pointer("/counter/packets")?.as_u64()).sum()
        };
        let now = (of("wrapped"), of("bare"));
        let before = std::mem::replace(&mut self.counted.borrow_mut()[node], now);
        (now.0 - before.0, now.1 - before.1)
    }

    fn address(to: usize, pod: usize, v4: bool) -> String {
        if v4 { format!("10.9.{}.{}", to + 1, pod + 2) } else { format!("fd09:{}::{}", to + 1, pod + 2) }
    }

    /// Five packets and their answers; the address that the other pod sees them from.
    fn speaks(&self, (from, pod): (usize, usize), (to, other): (usize, usize), v4: bool) -> bool {
        let to = Self::address(to, other, v4);
        try_sh(&format!("ip netns exec {} ping -c 5 -i 0.01 -W 1 {to}", self.rigs[from].pod(pod))).is_ok()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = try_sh(&format!("ip netns del {}", self.router));
    }
}

#[test]
#[ignore = "needs root: network namespaces and a BPF filesystem"]
fn nodes_of_one_link_speak_past_the_tunnel_and_others_by_it() {
    let c = Cluster::start(HYBRID);
    for v4 in [true, false] {
        // nodes know each other's neighbours from here on, so that nothing else is on the wire
        for (from, to) in [(0, 1), (0, 2), (1, 2)] {
            assert!(c.speaks((from, 0), (to, 0), v4), "{from} to {to}, IPv4 {v4}");
        }
        let _ = [0, 1, 2].map(|n| c.seen(n));
        for (from, to, direct) in
            [(0, 1, true), (1, 0, true), (0, 2, false), (2, 0, false), (1, 2, false), (2, 1, false)]
        {
            let what = format!("node {from} to node {to}, IPv4 {v4}");
            assert!(c.speaks((from, 0), (to, 0), v4), "{what}");
            for node in [from, to] {
                let (wrapped, bare) = c.seen(node);
                let (wanted, other) = if direct { (bare, wrapped) } else { (wrapped, bare) };
                assert!(wanted >= 5 && other == 0, "{what}: at node {node} {wrapped} wrapped, {bare} as they are");
            }
            // whom it comes from is known without the tunnel's word
            assert!(!c.speaks((from, 1), (to, 0), v4), "{what}: policy denies it");
            for node in [from, to] {
                let (wrapped, bare) = c.seen(node);
                assert_eq!(if direct { wrapped } else { bare }, 0, "{what}, denied, at node {node}");
            }
            let device = if direct { "dev up0" } else { "dev axn_" };
            assert!(c.route(from, to, v4).contains(device), "{what}: {}", c.route(from, to, v4));
        }
    }
    // the pods' MTU is that of the tunnel, which some of them need
    let link = sh(&format!("ip -n {} link show eth0", c.rigs[0].pod(0)));
    assert!(link.contains("mtu 1450"), "{link}");
    // source addresses of pods: kept towards the node of the same link, which has a way back, and not towards the other
    for (node, expected) in [(1usize, "10.9.1.2"), (2, "192.168.78.1")] {
        let there = c.rigs[node].node();
        sh(&format!(
            "ip netns exec {there} nft 'add table inet who; add chain inet who in {{ type filter hook input priority 300; }}
             add rule inet who in icmp type echo-request ip saddr {expected} counter'"
        ));
        let _ = try_sh(&format!("ip netns exec {} ping -c 3 -i 0.01 -W 1 {}", c.rigs[0].pod(0), NODES[node].1));
        let text = sh(&format!("ip netns exec {there} nft list table inet who"));
        assert!(!text.contains("packets 0 "), "{expected} is not what node {node} sees: {text}");
    }
    for rig in &c.rigs {
        assert_eq!(rig.admin("/drift"), json!([]));
        assert_eq!(rig.admin("/status")["warnings"].to_string().matches("hybrid").count(), 0);
    }
}

/// A packet each 2 ms, and their loss at the end.
struct Packets(Child);

impl Packets {
    fn start(pod: &str, to: &str) -> Self {
        let args = ["netns", "exec", pod, "ping", "-q", "-i", "0.002", "-w", "60", to];
        Self(Process::new("ip").args(args).stdout(Stdio::piped()).spawn().unwrap())
    }

    fn lost(self) -> (u32, u32) {
        sh(&format!("kill -INT {}", self.0.id()));
        let said = String::from_utf8(self.0.wait_with_output().unwrap().stdout).unwrap();
        let line = said.lines().find(|l| l.contains("packets transmitted")).unwrap();
        let mut numbers = line.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u32>().ok());
        let (sent, received) = (numbers.next().unwrap(), numbers.next().unwrap());
        // the last one may be under way
        (sent, (sent - received).saturating_sub(1))
    }
}

#[test]
#[ignore = "needs root: network namespaces and a BPF filesystem"]
fn the_way_changes_under_a_stream_without_losing_a_packet() {
    let c = Cluster::start("{mode: Overlay}");
    let streams = [true, false].map(|v4| {
        assert!(c.speaks((0, 0), (1, 0), v4));
        Packets::start(&c.rigs[0].pod(0), &Cluster::address(1, 0, v4))
    });
    let way = |device: &str| {
        for (from, to) in [(0, 1), (1, 0)] {
            for v4 in [true, false] {
                c.rigs[from].until(device, |_| c.route(from, to, v4).contains(device));
            }
        }
    };
    // each of these agents has an operator of its own, so the test does what one operator does for all of them: all take
    // what comes past the tunnel before any sends so, and until none does
    for (routing, device) in
        [(TAKEN, "dev axn_"), (HYBRID, "dev up0"), (TAKEN, "dev axn_"), ("{mode: Overlay}", "dev axn_")]
    {
        c.settings(routing);
        let now = if routing == "{mode: Overlay}" { "overlay" } else { "hybrid" };
        for rig in &c.rigs {
            rig.until("the settings are in force", |r| {
                let status = r.admin("/status");
                status["ready"] == true && status["routing"] == now && status["acknowledged"] == status["revision"]
            });
        }
        way(device);
        // packets of the stream meet this state, too, however quickly it came
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
    for stream in streams {
        let (sent, lost) = stream.lost();
        println!("{sent} packets, {lost} lost, in four changes");
        assert!(sent > 500, "{sent} packets are no stream");
        assert_eq!(lost, 0, "of {sent}");
    }
}
