//! The agent's binary on a node of its own: rows by gRPC, the plugin, the programs in the kernel.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod common;
mod rig;

use std::{path::PathBuf, process::Command as Process};

use axoneme_wire::{Row, RowChange, message::NodeMessage};
use common::*;
use rig::*;
use serde_json::{Value, json};

#[test]
#[ignore = "needs root: network namespaces and a BPF filesystem"]
fn pods_are_networked_and_policed_and_outlive_the_agent() {
    let mut rig = Rig::new();
    // pods are class 300: they may reach each other
    let operator = Operator::start(&rig.node(), &allowing(300..301));
    println!("start to ready: {:?}", rig.start());
    rig.until("the plugin is installed", |r| r.path("net.d/05-axoneme.conflist").exists());
    operator.hear("an acknowledgement", |m| matches!(m, NodeMessage::Ack(1)));
    for (pod, uid) in [(0, "a"), (1, "b")] {
        let (ok, result) = rig.call("ADD", pod, uid);
        assert!(ok, "{result}");
    }
    operator.hear(
        "a report of the second pod",
        |m| matches!(m, NodeMessage::Endpoint(e) if e.ready && e.addresses.contains(&ip("10.0.1.3"))),
    );
    assert!(rig.ping(0, "10.0.1.3"), "policy allows it");
    assert!(try_sh(&format!("ip netns exec {} ping -c 1 -W 1 10.0.1.2", rig.node())).is_ok(), "probes pass");

    // deny: nobody is allowed any more
    let change = RowChange::Upsert(Row::Table(table(5, 0..0).into()));
    operator.publish.blocking_send(vec![change]).unwrap();
    operator.hear("the acknowledgement of the deny", |m| matches!(m, NodeMessage::Ack(2)));
    assert!(!rig.ping(0, "10.0.1.3"), "policy denies it");
    rig.until("the drop is seen", |r| r.admin_text("/flows?verdict=DROPPED").contains("10.0.1.3"));
    let flows = rig.admin_text("/flows?verdict=DROPPED");
    assert!(flows.contains("POLICY_DENIED"), "{flows}");

    // the agent dies: the verdicts stay
    rig.kill();
    assert!(!rig.ping(0, "10.0.1.3"));
    println!("restart to ready: {:?}", rig.start());
    assert_eq!(rig.admin("/drift"), json!([]));
    let change = RowChange::Upsert(Row::Table(table(5, 300..301).into()));
    operator.publish.blocking_send(vec![change]).unwrap();
    operator.hear("the acknowledgement of the allow", |m| matches!(m, NodeMessage::Ack(3)));
    assert!(rig.ping(0, "10.0.1.3"));
    println!("resident memory: {} KiB", rss_kib(rig.agent.as_ref().unwrap().id()));

    for (pod, uid) in [(0, "a"), (1, "b")] {
        assert_eq!(rig.call("DEL", pod, uid), (true, Value::Null));
    }
    rig.until("nothing is left of the pods", |r| r.admin("/status")["endpoints"] == json!([]));
    uninstall_leaves_nothing(&mut rig);
}

fn uninstall_leaves_nothing(rig: &mut Rig) {
    let refused = rig.agent().arg("uninstall").args(rig.places()).output().unwrap();
    assert!(!refused.status.success(), "not under a running agent");
    rig.kill();
    assert!(rig.path("hubble.sock").exists() && rig.path("cni.sock").exists(), "a killed agent leaves its sockets");
    for _ in 0..2 {
        let out = rig.agent().arg("uninstall").args(rig.places()).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    let node = rig.node();
    let left = sh(&format!(
        "ip netns exec {node} ip -o link | grep axn || true; ip netns exec {node} ip route show proto 97
         ip netns exec {node} nft list tables; ls /sys/fs/bpf | grep -x {} || true",
        rig.prefix
    ));
    assert_eq!(left.trim(), "");
    assert_eq!(sh(&format!("ip netns exec {node} cat /proc/sys/net/ipv4/ip_forward")).trim(), "0", "as it was before");
    let files = sh(&format!(
        "cd {}; find . -path ./bpf -prune -o -path ./manifests -prune -o \\( -type f -o -type s \\) -print | sort; ls bpf | grep axoneme || true",
        rig.path("").display()
    ));
    assert_eq!(files.trim(), "./agent.log\n./token/axoneme-token", "neither configuration, plugin, state nor sockets");
}

const MANIFESTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.168.77.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-a, namespace: shop, uid: a, labels: {app: front}}
spec: {nodeName: n1}
---
apiVersion: v1
kind: Pod
metadata: {name: web-b, namespace: shop, uid: b, labels: {app: back}}
spec: {nodeName: n1}
";

const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: back, namespace: shop}
spec:
  podSelector: {matchLabels: {app: back}}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {matchLabels: {app: PEER}}}]}]
";

#[test]
#[ignore = "needs root: network namespaces and a BPF filesystem"]
fn a_directory_of_manifests_polices_one_node_without_a_cluster() {
    let mut rig = Rig::new();
    let dir = rig.path("manifests");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("shop.yaml"), MANIFESTS).unwrap();
    let took = rig.start_with(&["standalone", "--node", "n1", "--manifests", dir.to_str().unwrap(), "--cni-install"]);
    println!("standalone start to ready: {took:?}");
    rig.until("the plugin is installed", |r| r.path("net.d/05-axoneme.conflist").exists());
    let mut addresses = Vec::new();
    for (pod, uid) in [(0, "a"), (1, "b")] {
        let (ok, result) = rig.call("ADD", pod, uid);
        assert!(ok, "{result}");
        addresses.push(result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().to_owned());
    }
    assert!(rig.ping(0, &addresses[1]), "no policy: open");
    std::fs::write(dir.join("policy.yaml"), POLICY.replace("PEER", "nobody")).unwrap();
    rig.until("the policy denies", |r| !r.ping(0, &addresses[1]));
    std::fs::write(dir.join("policy.yaml"), POLICY.replace("PEER", "front")).unwrap();
    rig.until("the policy allows", |r| r.ping(0, &addresses[1]));
    assert!(
        rig.admin_text("/flows?verdict=DROPPED").contains("NetworkPolicy"),
        "{}",
        rig.admin_text("/flows?verdict=DROPPED")
    );
    uninstall_leaves_nothing(&mut rig);
}

/// The client of Hubble's own project; see `tools/hubble`.
fn hubble_client() -> PathBuf {
    let named = std::env::var_os("AXONEME_HUBBLE_CLIENT").map(PathBuf::from);
    let built = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/tools/hubble-1.20.2"));
    let client = named.unwrap_or(built);
    assert!(client.exists(), "{}: build the Hubble client as tools/hubble/README.md says", client.display());
    client
}

/// Flows as the stock client prints them.
fn observe(rig: &Rig, server: &str, args: &[&str]) -> Vec<Value> {
    let mut p = Process::new("nsenter");
    p.arg(format!("--net=/run/netns/{}", rig.node())).arg(hubble_client()).env("HOME", rig.path(""));
    let out = p.args(["observe", "--all", "-o", "jsonpb", "--server", server]).args(args).output().unwrap();
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    let lines = String::from_utf8(out.stdout).unwrap();
    lines.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["flow"].take()).collect()
}

#[test]
#[ignore = "needs root: network namespaces and a BPF filesystem; and the stock Hubble client of tools/hubble"]
fn the_stock_hubble_client_sees_what_pods_did_and_what_kept_them_from_it() {
    let mut rig = Rig::new();
    let dir = rig.path("manifests");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("shop.yaml"), MANIFESTS).unwrap();
    let peers_socket = rig.path("cilium/hubble.sock").display().to_string();
    rig.start_with(&[
        "standalone",
        "--node",
        "n1",
        "--manifests",
        dir.to_str().unwrap(),
        "--cni-install",
        "--hubble-disable-tls",
        "--hubble-socket",
        &peers_socket,
    ]);
    rig.until("the plugin is installed", |r| r.path("net.d/05-axoneme.conflist").exists());
    let mut addresses = Vec::new();
    for (pod, uid) in [(0, "a"), (1, "b")] {
        let (ok, result) = rig.call("ADD", pod, uid);
        assert!(ok, "{result}");
        addresses.push(result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().to_owned());
    }
    let own_socket = format!("unix://{}", rig.path("hubble.sock").display());
    std::fs::write(dir.join("policy.yaml"), POLICY.replace("PEER", "front")).unwrap();
    // before it is in force all passes, too, and by no rule
    let allowed = ["--type", "policy-verdict", "--verdict", "FORWARDED", "--to-pod", "shop/web-b"];
    rig.until("the policy allows by name", |r| {
        let by = |f: &Value| f["ingress_allowed_by"][0]["name"] == "back";
        r.ping(0, &addresses[1]) && observe(r, &own_socket, &allowed).iter().any(by)
    });
    std::fs::write(dir.join("policy.yaml"), POLICY.replace("PEER", "nobody")).unwrap();
    rig.until("the policy denies", |r| !r.ping(0, &addresses[1]));
    let drops = ["--verdict", "DROPPED", "--from-pod", "shop/web-a", "--to-label", "app=back", "--protocol", "icmp"];
    rig.until("the drop is seen", |r| !observe(r, &own_socket, &drops).is_empty());

    let seen = observe(&rig, &own_socket, &drops);
    let dropped = seen.iter().find(|f| f["event_type"]["type"] == 1).expect("a drop");
    let judged = seen.iter().find(|f| f["event_type"]["type"] == 5).expect("a policy verdict");
    for flow in [dropped, judged] {
        assert_eq!(flow["drop_reason_desc"], "POLICY_DENIED", "{flow}");
        assert_eq!((&flow["source"]["pod_name"], &flow["source"]["namespace"]), (&json!("web-a"), &json!("shop")));
        assert_eq!(flow["destination"]["pod_name"], "web-b");
        assert!(flow["source"]["labels"].as_array().unwrap().contains(&json!("k8s:app=front")), "{flow}");
        assert_eq!(flow["IP"], json!({"source": addresses[0], "destination": addresses[1], "ipVersion": "IPv4"}));
        assert_eq!(flow["l4"], json!({"ICMPv4": {"type": 8}}));
        assert_eq!(flow["traffic_direction"], "INGRESS");
        let policy = &flow["ingress_denied_by"][0];
        assert_eq!(
            (&policy["name"], &policy["namespace"], &policy["kind"]),
            (&json!("back"), &json!("shop"), &json!("NetworkPolicy"))
        );
        assert!(flow["node_name"].as_str().unwrap().ends_with("n1"), "{flow}");
    }
    audited(&rig, &addresses[1], &own_socket);
    // the same on the peers' socket and on the port of relays
    let whole = |server: &str| observe(&rig, server, &["--ip", &addresses[1]]);
    let own = whole(&own_socket);
    for server in [format!("unix://{peers_socket}"), "192.168.77.1:4244".to_owned()] {
        assert_eq!(whole(&server)[..own.len()], own, "{server}");
    }
    uninstall_leaves_nothing(&mut rig);
}

/// The same policy, audited: it passes, and what would deny it is told by name.
fn audited(rig: &Rig, to: &str, socket: &str) {
    let audited =
        POLICY.replace("PEER", "nobody").replace("shop}", "shop, annotations: {policy.axoneme.io/mode: Audit}}");
    std::fs::write(rig.path("manifests/policy.yaml"), audited).unwrap();
    rig.until("the policy is audited", |r| r.ping(0, to));
    let audits = ["--verdict", "AUDIT", "--from-pod", "shop/web-a", "--to-pod", "shop/web-b"];
    rig.until("the audit is seen", |r| !observe(r, socket, &audits).is_empty());
    for flow in observe(rig, socket, &audits) {
        assert_eq!((&flow["event_type"]["type"], &flow["traffic_direction"]), (&json!(5), &json!("INGRESS")), "{flow}");
        assert_eq!(flow["ingress_denied_by"][0]["name"], "back", "{flow}");
        assert!(flow.get("drop_reason_desc").is_none(), "{flow}");
    }
    assert!(rig.admin_text("/flows?verdict=AUDIT").contains("\"path\":\"spec\""), "observe names the rule");
}
