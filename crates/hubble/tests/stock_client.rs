//! A stock Hubble client against a node: what it prints is what was sent, and its filters filter.
//!
//! `tools/hubble` pins the client. `AXONEME_HUBBLE_CLIENT` names a binary that is there already.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod common;

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use axoneme_flow::{Facet, Flow, Point, Record};
use common::{Rig, START, records};
use serde_json::{Map, Value, json};

/// The client, built once if need be.
fn client() -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "a test's own setting")]
    if let Ok(path) = std::env::var("AXONEME_HUBBLE_CLIENT") {
        return path.into();
    }
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let (tool, binary) = (root.join("tools/hubble"), root.join("target/tools/hubble-1.20.2"));
    if binary.exists() {
        return binary;
    }
    let ldflags = "-s -w -X github.com/cilium/cilium/hubble/pkg.Version=1.20.2";
    let built = Command::new("go")
        .args(["build", "-trimpath", "-ldflags", ldflags, "-o"])
        .arg(&binary)
        .arg("github.com/cilium/cilium/hubble")
        .current_dir(tool)
        .status();
    assert!(built.is_ok_and(|s| s.success()), "building the Hubble client of tools/hubble needs Go and its modules");
    binary
}

fn command(rig: &Rig, args: &[&str]) -> Command {
    let mut command = Command::new(client());
    command.args(args).arg("--server").arg(format!("unix://{}", rig.socket.display()));
    command.env("HOME", rig.directory.path()).stderr(Stdio::piped());
    command
}

async fn run(rig: &Rig, args: &[&str]) -> Output {
    let mut command = command(rig, args);
    let out = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    out
}

async fn text(rig: &Rig, args: &[&str]) -> String {
    String::from_utf8(run(rig, args).await.stdout).unwrap()
}

/// Flows as the client prints them.
async fn observe(rig: &Rig, args: &[&str]) -> Vec<Value> {
    let all: Vec<&str> = ["observe", "-o", "jsonpb"].iter().chain(args).copied().collect();
    text(rig, &all).await.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["flow"].take()).collect()
}

fn id(flow: &Value) -> &str {
    flow["uuid"].as_str().unwrap()
}

type Test<'a> = Box<dyn Fn(&Value) -> bool + 'a>;

/// What the client must print of a flow: this product's own JSON of it, where that differs by design said so.
fn expected(flow: &Flow, facet: Facet) -> Map<String, Value> {
    let Value::Object(mut e) = serde_json::to_value(flow).unwrap() else { unreachable!() };
    e.remove("extensions");
    e.insert("node_name".into(), "prod/n1".into());
    // messages are there even when all of their fields are zero
    if let Some(tcp) = e.get_mut("l4").and_then(|l| l.get_mut("TCP")) {
        tcp.as_object_mut().unwrap().entry("flags").or_insert(json!({}));
    }
    if facet == Facet::Judgement {
        let uuid = flow.uuid.to_string();
        let marked = match &uuid[19..20] {
            "8" => "a",
            _ => "b",
        };
        e.insert("uuid".into(), format!("{}{marked}{}", &uuid[..19], &uuid[20..]).into());
        e.insert("event_type".into(), json!({"type": 5}));
        e.remove("trace_observation_point");
        if flow.verdict == axoneme_flow::Verdict::Forwarded {
            e.insert("is_reply".into(), false.into());
        }
        if let Some(rule) = &flow.extensions.rule {
            e.insert("traffic_direction".into(), serde_json::to_value(rule.direction).unwrap());
        }
    }
    if let (Facet::Onward, Some(point)) = (facet, flow.extensions.onward) {
        let uuid = flow.uuid.to_string();
        e.insert("uuid".into(), format!("{}9{}", &uuid[..19], &uuid[20..]).into());
        let mut event = json!({"type": 4});
        if point.sub_type() != 0 {
            event["sub_type"] = point.sub_type().into();
        }
        e.insert("event_type".into(), event);
        e.insert("trace_observation_point".into(), serde_json::to_value(point).unwrap());
        e.remove("interface");
        e.remove("tunnel");
        if point == Point::ToEndpoint {
            e.insert("traffic_direction".into(), "INGRESS".into());
        }
    }
    for list in ["egress_allowed_by", "ingress_allowed_by", "egress_denied_by", "ingress_denied_by"] {
        for policy in e.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let part = |name: &str, key: &str| {
                policy.get(name).map(|v| format!("k8s:io.cilium.k8s.policy.{key}={}", v.as_str().unwrap()))
            };
            let labels: Vec<String> =
                [part("kind", "derived-from"), part("name", "name"), part("namespace", "namespace")]
                    .into_iter()
                    .flatten()
                    .collect();
            policy["labels"] = json!(labels);
        }
    }
    e
}

fn assert_same(printed: &Value, flow: &Flow, facet: Facet) {
    let mut printed = printed.as_object().unwrap().clone();
    // what this product's JSON does not have
    assert_eq!(printed.remove("emitter").unwrap()["name"], "Axoneme");
    let reply = printed.remove("reply").is_some();
    assert_eq!(reply, printed.get("is_reply") == Some(&Value::Bool(true)));
    let reason = printed.remove("trace_reason");
    let match_type = printed.remove("policy_match_type");
    assert!(match_type.is_none() || facet == Facet::Judgement, "{match_type:?}");
    assert!(reason.is_none() || facet != Facet::Judgement);
    assert_eq!(Value::Object(printed), Value::Object(expected(flow, facet)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stock Hubble client (Go and its modules, or AXONEME_HUBBLE_CLIENT)"]
async fn the_stock_client_prints_what_was_sent() {
    let mut rig = Rig::new(1024).await;
    let records = records(200);
    rig.push(&records);
    let sent = rig.flows(&records);
    let printed = observe(&rig, &["--all"]).await;
    assert_eq!(printed.len(), sent.len());
    for (printed, (flow, facet)) in printed.iter().zip(&sent) {
        assert_same(printed, flow, *facet);
    }
    println!("{} flows of {} records compared field by field", sent.len(), records.len());

    let last = observe(&rig, &["--last", "7"]).await;
    assert_eq!(last, printed[printed.len() - 7..]);
    assert_eq!(observe(&rig, &["--first", "5"]).await, printed[..5]);
    let at = |n: u64| axoneme_flow::Time(START + n * 1_000_000).to_string();
    let between = observe(&rig, &["--since", &at(50), "--until", &at(60)]).await;
    let time = |f: &Value| axoneme_flow::Time::parse(f["time"].as_str().unwrap()).unwrap().0;
    let inside = |f: &&Value| (START + 50_000_000..=START + 60_000_000).contains(&time(f));
    assert_eq!(between, printed.iter().filter(inside).cloned().collect::<Vec<_>>());

    // for people, with the fields that the client asks for by default, and with names of policies
    let compact = text(&rig, &["observe", "--all", "-o", "compact", "--print-policy-names"]).await;
    let lines: Vec<&str> = compact.lines().collect();
    assert_eq!(lines.len(), sent.len(), "{compact}");
    let named = |(flow, facet): &&(Flow, Facet)| *facet == Facet::Judgement && flow.decided_by().next().is_some();
    let policies = sent.iter().filter(named).count();
    assert!(policies > 0 && compact.matches("BY ").count() > 0, "{compact}");
    let masked = observe(&rig, &["--all", "--field-mask", "uuid,source.labels,l4.TCP.destination_port"]).await;
    for (masked, whole) in masked.iter().zip(&printed) {
        assert_eq!((&masked["uuid"], &masked["source"]["labels"]), (&whole["uuid"], &whole["source"]["labels"]));
        let port = "/l4/TCP/destination_port";
        assert_eq!(masked.pointer(port), whole.pointer(port));
        let kept = masked.as_object().unwrap().keys().all(|k| ["uuid", "source", "l4"].contains(&&**k));
        assert!(kept && masked["source"].get("identity").is_none(), "{masked}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stock Hubble client (Go and its modules, or AXONEME_HUBBLE_CLIENT)"]
#[expect(clippy::too_many_lines, reason = "a table of filters")]
async fn each_filter_of_the_stock_client_filters() {
    let mut rig = Rig::new(1024).await;
    let records = records(400);
    rig.push(&records);
    let all = observe(&rig, &["--all"]).await;
    let s = |f: &Value, path: &str| f.pointer(path).and_then(Value::as_str).unwrap_or("").to_owned();
    let n = |f: &Value, path: &str| f.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    let label = |f: &Value, end: &str, l: &str| f[end]["labels"].as_array().is_some_and(|x| x.contains(&l.into()));
    let port = |f: &Value, name: &str, p: u64| {
        ["TCP", "UDP", "SCTP"].iter().any(|l4| f["l4"].get(*l4).is_some_and(|l| l[name].as_u64().unwrap_or(0) == p))
    };
    let cases: Vec<(&[&str], Test<'_>)> = vec![
        (
            &["--pod", "shop/web-3"],
            Box::new(|f| {
                ["source", "destination"].iter().any(|e| {
                    s(f, &format!("/{e}/namespace")) == "shop" && s(f, &format!("/{e}/pod_name")).starts_with("web-3")
                })
            }),
        ),
        (
            &["--from-pod", "ops/web-1"],
            Box::new(|f| s(f, "/source/namespace") == "ops" && s(f, "/source/pod_name").starts_with("web-1")),
        ),
        (
            &["--to-namespace", "shop"],
            Box::new(|f| s(f, "/destination/namespace") == "shop" || s(f, "/destination_service/namespace") == "shop"),
        ),
        (&["--verdict", "DROPPED"], Box::new(|f| f["verdict"] == "DROPPED")),
        (&["--not", "--verdict", "DROPPED"], Box::new(|f| f["verdict"] != "DROPPED")),
        (&["--drop-reason-desc", "POLICY_DENY"], Box::new(|f| f["drop_reason_desc"] == "POLICY_DENY")),
        (&["--protocol", "udp"], Box::new(|f| f["l4"].get("UDP").is_some())),
        (&["--protocol", "icmp"], Box::new(|f| f["l4"].get("ICMPv4").is_some() || f["l4"].get("ICMPv6").is_some())),
        (&["--port", "80"], Box::new(|f| port(f, "destination_port", 80) || port(f, "source_port", 80))),
        (&["--to-port", "443"], Box::new(|f| port(f, "destination_port", 443))),
        (
            &["--label", "app=web"],
            Box::new(|f| label(f, "source", "k8s:app=web") || label(f, "destination", "k8s:app=web")),
        ),
        (
            &["--from-label", "k8s:app in (api, db)"],
            Box::new(|f| label(f, "source", "k8s:app=api") || label(f, "source", "k8s:app=db")),
        ),
        (&["--identity", "5"], Box::new(|f| n(f, "/source/identity") == 5 || n(f, "/destination/identity") == 5)),
        (&["--to-identity", "world"], Box::new(|f| n(f, "/destination/identity") == 2)),
        (
            &["--ip", "10.0.0.0/28"],
            Box::new(|f| {
                ["source", "destination"].iter().any(|e| {
                    s(f, &format!("/IP/{e}")).strip_prefix("10.0.0.").is_some_and(|x| x.parse::<u8>().unwrap() < 16)
                })
            }),
        ),
        (&["--from-ip", "fd00::1:2"], Box::new(|f| s(f, "/IP/source") == "fd00::1:2")),
        (&["--to-fqdn", "*.example.com"], Box::new(|_| false)),
        (&["-6"], Box::new(|f| f["IP"]["ipVersion"] == "IPv6")),
        (
            &["--tcp-flags", "SYN,ACK"],
            Box::new(|f| f["l4"]["TCP"]["flags"]["SYN"] == true && f["l4"]["TCP"]["flags"]["ACK"] == true),
        ),
        (&["--traffic-direction", "ingress"], Box::new(|f| f["traffic_direction"] == "INGRESS")),
        (&["--type", "policy-verdict"], Box::new(|f| f["event_type"]["type"] == 5)),
        (&["--type", "drop"], Box::new(|f| f["event_type"]["type"] == 1)),
        (&["--type", "trace:to-endpoint"], Box::new(|f| f["trace_observation_point"] == "TO_ENDPOINT")),
        (
            &["--service", "shop/front"],
            Box::new(|f| s(f, "/destination_service/name") == "front" || s(f, "/source_service/name") == "front"),
        ),
        (&["--node-name", "prod/n*"], Box::new(|_| true)),
        (&["--node-name", "other/"], Box::new(|_| false)),
        (&["--interface", "axo2"], Box::new(|f| f["interface"]["name"] == "axo2")),
        (&["--reply"], Box::new(|f| f["is_reply"] == true)),
        (
            &["--cluster", "prod"],
            Box::new(|f| ["source", "destination"].iter().any(|e| s(f, &format!("/{e}/cluster_name")) == "prod")),
        ),
        (&["--unencrypted"], Box::new(|_| true)),
        (&["--workload", "web"], Box::new(|_| false)),
        (
            &["--cel-expression", "_flow.verdict == Verdict.DROPPED && _flow.l4.TCP.destination_port in [80u, 443u]"],
            Box::new(|f| f["verdict"] == "DROPPED" && [80, 443].contains(&n(f, "/l4/TCP/destination_port"))),
        ),
        (
            &[
                "--cel-expression",
                "_flow.source.labels.exists(l, l == 'k8s:app=web') && !has(_flow.destination_service)",
            ],
            Box::new(|f| label(f, "source", "k8s:app=web") && f.get("destination_service").is_none()),
        ),
    ];
    let mut figures = Vec::new();
    for (args, test) in &cases {
        let with_all: Vec<&str> = ["--all"].iter().chain(*args).copied().collect();
        let ours = observe(&rig, &with_all).await;
        let expected: Vec<&str> = all.iter().filter(|f| test(f)).map(id).collect();
        assert_eq!(ours.iter().map(id).collect::<Vec<_>>(), expected, "{args:?}");
        figures.push(format!("{}: {}", args.join(" "), expected.len()));
    }
    println!("of {} flows: {}", all.len(), figures.join("; "));
    let mut wrong = command(&rig, &["observe", "--all", "--cel-expression", "_flow.verdict == 'DROPPED'"]);
    let refused = tokio::task::spawn_blocking(move || wrong.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("InvalidArgument"), "{said}");
}

/// A client that goes on until it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stock Hubble client (Go and its modules, or AXONEME_HUBBLE_CLIENT)"]
async fn the_stock_client_follows_lists_and_watches() {
    let mut rig = Rig::new(1024).await;
    let records: Vec<Record> = records(60);
    rig.push(&records[..50]);
    let status = text(&rig, &["status"]).await;
    assert!(status.contains("Ok") && status.contains("50/1,024"), "{status}");
    let nodes = text(&rig, &["list", "nodes", "-o", "wide"]).await;
    assert!(nodes.contains("prod/n1") && nodes.contains("Connected") && nodes.contains("192.168.0.2:4244"), "{nodes}");
    let namespaces = text(&rig, &["list", "namespaces"]).await;
    assert!(["default", "ops", "shop"].iter().all(|n| namespaces.contains(n)), "{namespaces}");
    let events = text(&rig, &["observe", "agent-events", "--all", "-o", "jsonpb"]).await;
    assert!(events.contains("AGENT_STARTED") && events.contains("IPCACHE_UPSERTED"), "{events}");
    let reflected = text(&rig, &["reflect"]).await;
    assert!(reflected.contains("GetFlows") || reflected.contains("flow.proto"), "{reflected}");

    let follow = |args: &[&str]| {
        let mut child = Running(command(&rig, args).stdout(Stdio::piped()).spawn().unwrap());
        let lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        (child, lines)
    };
    let (_watching, mut peers) = follow(&["watch", "peers"]);
    let two = tokio::task::spawn_blocking(move || [(); 2].map(|()| peers.next().unwrap().unwrap())).await.unwrap();
    assert!(two[0].starts_with("PEER_ADDED") && two[0].contains("192.168.0.1:4244 prod/n1"), "{two:?}");
    assert!(two[1].contains("n2.prod.hubble-grpc.cilium.io"), "{two:?}");

    let (_following, mut lines) = follow(&["observe", "-f", "-o", "jsonpb", "--last", "3"]);
    let expected: Vec<_> = rig.flows(&records).into_iter().collect();
    let from = rig.flows(&records[..50]).len() - 3;
    let wanted = expected.len() - from;
    let reader = tokio::task::spawn_blocking(move || {
        (0..wanted).map(|_| serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap()).collect::<Vec<_>>()
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    rig.push(&records[50..]);
    let printed = tokio::time::timeout(Duration::from_secs(20), reader).await.expect("all lines in time").unwrap();
    for (line, (flow, facet)) in printed.iter().zip(&expected[from..]) {
        assert_same(&line["flow"], flow, *facet);
    }
}
