//! Two nodes that probe each other, each with the agent's binary and the operator's part in it, on a link that is cut.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod common;
mod rig;

use std::time::{Duration, Instant};

use rig::*;
use serde_json::{Value, json};

const MANIFESTS: &str = "
apiVersion: axoneme.io/v1alpha1
kind: AxonemeConfig
metadata: {name: default}
spec:
  ipam: {mode: Kubernetes}
  hostFirewall: {enabled: true}
  nodeHealth: {intervalSeconds: 1}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
spec: {podCIDRs: [10.9.1.0/24]}
status: {addresses: [{type: InternalIP, address: 192.168.78.1}]}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
spec: {podCIDRs: [10.9.2.0/24]}
status: {addresses: [{type: InternalIP, address: 192.168.78.2}]}
";

/// Nothing is allowed to any pod, and nothing but one port to nodes.
const DENY_ALL: &str = "
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: no-pod}
spec: {endpointSelector: {}, ingress: [{}], egress: [{}]}
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: no-node}
spec:
  nodeSelector: {}
  ingress: [{fromEntities: [all], toPorts: [{ports: [{port: \"1\", protocol: TCP}]}]}]
  egress: [{toEntities: [all], toPorts: [{ports: [{port: \"1\", protocol: TCP}]}]}]
";

/// What is unreachable within three probes of a second or so, each of which may take its time-out, is known by then.
const DEADLINE: Duration = Duration::from_secs(25);

struct Pair([Rig; 2]);

impl Pair {
    fn start(manifests: &str) -> Self {
        let mut pair = Self(["a", "b"].map(Rig::named));
        let [a, b] = &pair.0;
        let (a, b) = (a.node(), b.node());
        sh(&format!(
            "ip -n {a} link del up0; ip -n {b} link del up0
             ip link add up0 netns {a} type veth peer name up0 netns {b}
             ip -n {a} addr add 192.168.78.1/24 dev up0; ip -n {a} link set up0 up
             ip -n {b} addr add 192.168.78.2/24 dev up0; ip -n {b} link set up0 up
             ip -n {a} route add default via 192.168.78.2; ip -n {b} route add default via 192.168.78.1"
        ));
        for (rig, node) in pair.0.iter_mut().zip(["n1", "n2"]) {
            let dir = rig.path("manifests");
            std::fs::create_dir(&dir).unwrap();
            std::fs::write(dir.join("cluster.yaml"), manifests).unwrap();
            let at = "127.0.0.1:9962";
            let dir = dir.to_str().unwrap();
            rig.start_with(&["standalone", "--node", node, "--manifests", dir, "--prometheus-serve-addr", at]);
        }
        pair
    }

    /// Waits until the first node sees this, and returns how long it took.
    fn sees(&self, what: &str, expected: &[(&str, &str)]) -> Duration {
        let begun = Instant::now();
        let wanted: Vec<_> = expected.iter().map(|(lane, state)| ((*lane).to_owned(), (*state).to_owned())).collect();
        while !wanted.iter().all(|w| matrix(&self.0[0]).contains(w)) {
            let log = std::fs::read_to_string(self.0[0].path("agent.log")).unwrap_or_default();
            assert!(begun.elapsed() < DEADLINE, "{what}: {:#?}\n{log}", matrix(&self.0[0]));
            std::thread::sleep(Duration::from_millis(20));
        }
        println!("{what}: {:?}", begun.elapsed());
        begun.elapsed()
    }
}

/// Node, place and protocol of each lane, and its state.
fn matrix(rig: &Rig) -> Vec<(String, String)> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let nodes = rig.admin("/health");
    let lanes = nodes.as_array().into_iter().flatten().flat_map(|node| {
        let of = node["lanes"].as_array().cloned().unwrap_or_default();
        let name = move |l: &Value| format!("{} {} {}", text(&node["node"]), text(&l["place"]), text(&l["protocol"]));
        of.into_iter().map(move |l| (name(&l), text(&l["state"])))
    });
    lanes.collect()
}

const ALL: [&str; 8] = [
    "n1 node icmp",
    "n1 node http",
    "n1 endpoint icmp",
    "n1 endpoint http",
    "n2 node icmp",
    "n2 node http",
    "n2 endpoint icmp",
    "n2 endpoint http",
];

#[test]
#[ignore = "needs root: network namespaces and a BPF filesystem"]
fn the_matrix_says_which_path_is_cut_and_when_it_is_mended() {
    let mut pair = Pair::start(MANIFESTS);
    pair.sees("all is reached", &ALL.map(|lane| (lane, "reachable")));
    let status = pair.0[0].admin("/status");
    assert_eq!(status["health"]["datapath"], "proven");
    assert_eq!((&status["health"]["reachable"], &status["endpoints"]), (&json!(2), &json!([])), "it is no pod");
    assert_eq!(pair.0[0].admin("/drift"), json!([]));
    // the tunnel is cut, the network below is not
    let b = pair.0[1].node();
    sh(&format!(
        "ip netns exec {b} nft 'add table inet cut; add chain inet cut in {{ type filter hook input priority -300; }}
         add rule inet cut in udp dport 8472 drop'"
    ));
    let cut = ["n2 endpoint icmp", "n2 endpoint http"];
    pair.sees("the tunnel is cut", &cut.map(|lane| (lane, "unreachable")));
    let others: Vec<_> =
        ALL.iter().filter(|l| !cut.contains(l)).map(|l| ((*l).to_owned(), "reachable".to_owned())).collect();
    let now = matrix(&pair.0[0]);
    assert!(others.iter().all(|l| now.contains(l)), "{now:?}");
    let status = pair.0[0].admin("/status");
    let said = status["health"]["unreachable"][0].as_str().unwrap().to_owned();
    assert!(said.starts_with("n2: endpoint 10.9.2.1 by icmp: no answer within 3 s"), "{said}");
    assert_eq!(status["health"]["datapath"], "proven", "it may be the other's fault");
    let metrics = || sh(&format!("ip netns exec {} curl -s http://127.0.0.1:9962/metrics", pair.0[0].node()));
    pair.0[0].until("Prometheus is told", |_| {
        let text = metrics();
        text.contains("type=\"endpoint\",status=\"unreachable\"} 1")
            && text.contains("type=\"node\",status=\"reachable\"} 2")
            && text.contains("type=\"endpoint\",target_node_name=\"n2\"} 1")
    });
    sh(&format!("ip netns exec {b} nft delete table inet cut"));
    pair.sees("it is mended", &ALL.map(|lane| (lane, "reachable")));
    // the own endpoint, by somebody's hand
    let a = pair.0[0].node();
    sh(&format!("ip -n {a} link set axn_health down"));
    pair.sees("the own endpoint is cut", &[("n1 endpoint http", "unreachable")]);
    assert_eq!(pair.0[0].admin("/status")["health"]["datapath"], "refuted");
    // a new agent makes it anew, and the other's probes get through
    pair.0[0].kill();
    let dir = pair.0[0].path("manifests").display().to_string();
    pair.0[0].start_with(&["standalone", "--node", "n1", "--manifests", &dir]);
    pair.sees("a new agent", &ALL.map(|lane| (lane, "reachable")));
    pair.0[0].until("nothing of the former one is left", |r| r.admin("/drift") == json!([]));
    // switched off while it runs: nothing of it stays
    let off = MANIFESTS.replace("{intervalSeconds: 1}", "{enabled: false}");
    std::fs::write(pair.0[0].path("manifests/cluster.yaml"), off).unwrap();
    pair.0[0].until("it is off", |r| r.admin("/health") == json!([]) && r.admin("/status")["health"].is_null());
    pair.0[0].until("its link is gone", |r| !sh(&format!("ip -n {} -o link", r.node())).contains("axn_health"));
    pair.0[0].until("nobody listens", |r| !sh(&format!("ip netns exec {} ss -ltn", r.node())).contains(":4240 "));
    pair.0[0].until("nothing is left in the datapath", |r| r.admin("/drift") == json!([]));
}

#[test]
#[ignore = "needs root: network namespaces and a BPF filesystem"]
fn probes_pass_where_policy_denies_all() {
    let pair = Pair::start(&format!("{MANIFESTS}---{DENY_ALL}"));
    let http = ["n1 endpoint http", "n1 node http", "n2 node http", "n2 endpoint http"];
    pair.sees("probes by HTTP pass", &http.map(|lane| (lane, "reachable")));
    // what proves that the policy is there: echo requests to nodes are left to it
    pair.sees("policy of nodes is in force", &[("n2 node icmp", "unreachable")]);
    assert_eq!(pair.0[0].admin("/status")["health"]["datapath"], "proven");
    pair.sees("probes by HTTP still pass", &http.map(|lane| (lane, "reachable")));
}
