//! The binary against an admin socket: the real server of the runtime crate with canned answers.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "helpers of tests fail as tests do")]

mod events;
mod golden;

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use axoneme_flow::{
    ClockOffset, Enricher, FilterSpec, History, NameBook, Query, Reader, Step, admin as admin_paths, decode_drop,
    decode_flow,
};
use axoneme_runtime::{
    admin::{self, Answer, Handler, Question},
    drain,
};
use futures::StreamExt;
use golden::golden;
use serde_json::{Value, json};

/// Answers as an agent would, from fixed facts.
struct Fake {
    status: Value,
}

impl Handler for Fake {
    async fn answer(&self, q: Question) -> Answer {
        match q.path.as_str() {
            "/status" => Answer::Json(self.status.clone()),
            "/health" => Answer::Json(health()),
            "/identities" => Answer::Json(identities()),
            "/policy/tables" => Answer::Json(tables()),
            admin_paths::EXPLAIN => {
                match axoneme_flow::explain::Question::from_url(&q.query)
                    .and_then(|q| axoneme_flow::explain::explain(&events::rows(), true, &q))
                {
                    Ok(answer) => Answer::json(&answer),
                    Err(error) => Answer::Failed(error),
                }
            }
            admin_paths::WHO_CAN => {
                match axoneme_flow::explain::target_from_url(&q.query)
                    .and_then(|t| axoneme_flow::explain::who_can(&events::rows(), true, &t))
                {
                    Ok(answer) => Answer::json(&answer),
                    Err(error) => Answer::Failed(error),
                }
            }
            admin_paths::COVERAGE => Answer::json(&axoneme_flow::explain::coverage(&events::rows())),
            "/drift" => Answer::Json(self.status["drift"].clone()),
            "/repair" if q.post => Answer::Json(json!(2)),
            "/flows" => match Query::from_url(&q.query) {
                Ok(query) => flows(&query),
                Err(error) => Answer::Failed(error.to_string()),
            },
            other => Answer::NotFound(format!("no {other} here")),
        }
    }
}

fn status() -> Value {
    json!({
        "node": "worker-1", "version": "0.1.0", "ready": true, "reasons": [], "warnings": [],
        "stream": {"connected": true, "operator": "axoneme-operator-7d9", "address": "10.9.0.2:7443", "reason": ""},
        "epoch": 1, "revision": 412, "acknowledged": 412, "devices": ["eth0"], "addresses": ["10.9.0.4"], "mtu": 1450,
        "nodes": 2, "identities": 14, "ips": 61, "frontends": 6, "tables": 3, "waiting": [], "problems": [],
        "pools": [{"pool": "default", "family": "IPv4", "size": 254, "used": 2, "resting": 1}],
        "endpoints": [
            {"namespace": "shop", "name": "web-1", "uid": "u1", "container": "c1", "interface": "eth0", "link": "axo1a",
             "addresses": ["10.0.1.5"], "identity": 300, "table": "00000000000000ab", "phase": "live", "ready": true,
             "fault": null},
            {"namespace": "ops", "name": "probe", "uid": "u2", "container": "c2", "interface": "eth0", "link": "axo2b",
             "addresses": ["10.0.1.6", "fd00::6"], "identity": 301, "table": "00000000000000cd", "phase": "live",
             "ready": true, "fault": null,
             "bandwidth": {"ingress_bytes_per_second": 1_250_000, "egress_bytes_per_second": 0, "ingress_drops": 7,
                 "egress_drops": 0}},
        ],
        "counters": {"kernel_writes": 9},
    })
}

fn broken() -> Value {
    let mut status = status();
    status["ready"] = json!(false);
    status["reasons"] = json!([
        "rows are not complete yet (Table; no operator is connected: connection refused)",
        "bpffs is not mounted at /sys/fs/bpf"
    ]);
    status["warnings"] = json!(["the kernel has no SCTP: SCTP services are not served"]);
    status["stream"] = json!({"connected": false, "reason": "connection refused"});
    status["pools"][0]["used"] = json!(253);
    status["endpoints"][1]["ready"] = json!(false);
    status["endpoints"][1]["fault"] = json!("its link axo2b is gone");
    status["problems"] = json!([{"row": "frontend 10.96.0.10:53 (protocol 17)", "message": "map SERVICES4 is full (1024 entries): fewer Services", "attempts": 3}]);
    status["waiting"] = json!(["shop/web-2: no rows for the pod yet"]);
    status
}

fn health() -> Value {
    let lane = |place: &str, address: &str, protocol: &str, latency: Value, error: &str| {
        let state = if error.is_empty() { "reachable" } else { "unreachable" };
        json!({"place": place, "address": address, "protocol": protocol, "state": state, "latency_micros": latency,
            "error": error, "probed_seconds": 12, "since_seconds": 4711})
    };
    json!([
        {"node": "worker-1", "lanes": [lane("endpoint", "10.0.1.1", "http", json!(312), "")]},
        {"node": "worker-2", "lanes": [
            lane("node", "10.9.0.5", "icmp", json!(1204), ""),
            lane("endpoint", "10.0.2.1", "http", Value::Null, "no answer within 3 s"),
        ]},
    ])
}

fn identities() -> Value {
    json!([{"id": 300, "labels": ["k8s:app=web", "k8s:io.kubernetes.pod.namespace=shop"]}, {"id": 1, "labels": ["reserved:host"]}])
}

fn tables() -> Value {
    json!([{
        "id": "00000000000000ab", "endpoints": ["shop/web-1"],
        "policies": [{"object": "NetworkPolicy shop/web", "generation": 4}],
        "ingress_default": {"allow": false, "rule": "NetworkPolicy shop/web spec.podSelector"},
        "egress_default": {"allow": true, "rule": ""},
        "entries": [
            {"direction": "ingress", "peer": 1, "protocol": "any", "port": "any", "allow": true, "rule": "builtin own-host"},
            {"direction": "ingress", "peer": 301, "protocol": "TCP", "port": "8080-8095", "allow": true, "rule": "NetworkPolicy shop/web spec.ingress[0].ports[0]"},
            {"direction": "egress", "peer": 0, "protocol": "UDP", "port": "53", "allow": false, "rule": "CiliumNetworkPolicy shop/x spec.egressDeny[0]"},
        ],
    }])
}

/// Event bytes as the programs write them, through the whole of the flow crate: decode, history, names, query.
fn flows(query: &Query) -> Answer {
    let names = events::names();
    let history = History::new(64);
    for event in events::events() {
        let record = if event.len() == size_of::<axoneme_abi::DropEvent>() {
            decode_drop(&event, ClockOffset(events::START))
        } else {
            decode_flow(&event, ClockOffset(events::START))
        };
        history.push(&record.expect("the test's own event"));
    }
    let enricher = Enricher::new("worker-1", "prod", 1);
    let lines = read(query, &history, &enricher, &names);
    let live = query.follow && query.last == Some(1);
    match lines {
        // as an agent without traffic: what there is, then silence
        Ok(lines) if live => Answer::Lines(Box::pin(futures::stream::iter(lines).chain(futures::stream::pending()))),
        Ok(lines) => Answer::Lines(Box::pin(futures::stream::iter(lines))),
        Err(error) => Answer::Failed(error),
    }
}

fn read(query: &Query, history: &History, enricher: &Enricher, names: &NameBook) -> Result<Vec<String>, String> {
    // a stream that ends, so that a test that follows ends too
    let query = Query { follow: false, last: query.last.or(Some(64)), ..query.clone() };
    let mut reader = Reader::open(&query, history, enricher, names).map_err(|e| format!("{e:?}"))?;
    let lost = axoneme_flow::Lost::default();
    let mut out = Vec::new();
    loop {
        match reader.step(16, history, enricher, names, &lost) {
            Step::Lines(lines) => out.extend(lines.iter().map(|l| serde_json::to_string(l).unwrap())),
            Step::Nothing => {}
            Step::Idle | Step::End => return Ok(out),
        }
    }
}

/// An agent for the length of a test.
struct Served {
    socket: PathBuf,
    _dir: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
    _drain: drain::DrainTrigger,
}

fn serve(status: Value) -> Served {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("admin.sock");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(admin::bind(&socket)).unwrap();
    let (trigger, watcher) = drain::channel();
    let _server = runtime.spawn(admin::serve(listener, socket.clone(), Arc::new(Fake { status }), watcher));
    Served { socket, _dir: dir, _runtime: runtime, _drain: trigger }
}

fn axoneme(socket: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_axoneme"));
    command.args(args).env("AXONEME_SOCKET", socket).env_remove("NO_COLOR").stdin(Stdio::null()).output().unwrap()
}

/// What a command prints and how it ends, as a person sees it.
fn shown(served: &Served, args: &[&str]) -> String {
    let out = axoneme(&served.socket, args);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&served.socket.display().to_string(), "SOCKET");
    let (stdout, stderr) = (text(&out.stdout), text(&out.stderr));
    let stderr = if stderr.is_empty() { stderr } else { format!("--- stderr\n{stderr}") };
    format!("$ axoneme {}\n{stdout}{stderr}--- exit {}\n\n", args.join(" "), out.status.code().unwrap())
}

fn all_shown(served: &Served, commands: &[&[&str]]) -> String {
    commands.iter().map(|c| shown(served, c)).collect()
}

#[test]
fn status_says_what_is_well() {
    let served = serve(status());
    golden("status-well", &all_shown(&served, &[&["status"], &["status", "-o", "yaml"], &["status", "--wait", "5"]]));
}

#[test]
fn status_says_which_nodes_are_not_reached() {
    let mut lost = status();
    lost["health"] = json!({"nodes": 3, "reachable": 1, "unknown": 1, "more_unreachable": 0, "interval_seconds": 83,
        "unreachable": ["worker-2: endpoint 10.0.2.1 by http: no answer within 3 s"], "datapath": "proven", "why": ""});
    let mut refuted = lost.clone();
    refuted["health"]["datapath"] = json!("refuted");
    refuted["health"]["why"] = json!("this node's own health endpoint does not answer: no answer within 3 s");
    let mut waiting = lost.clone();
    waiting["health"]["unreachable"] = json!([]);
    let mut well = waiting.clone();
    well["health"]["reachable"] = json!(3);
    let mut text = String::new();
    for status in [well, waiting, lost, refuted] {
        text += &shown(&serve(status), &["status", "--health"]);
    }
    golden("status-health", &text);
}

#[test]
fn status_says_in_what_the_node_differs_from_the_cluster() {
    let own = |setting: &str, value: &str, cluster: &str, applied: bool| json!({"setting": setting, "value": value, "cluster": cluster, "from": "CiliumNodeConfig kube-system/jumbo", "applied": applied});
    let text: String = [true, false]
        .map(|applied| {
            let mut status = status();
            status["overrides"] =
                json!([own("spec.mtu", "9000", "", applied), own("spec.agent.devices", "", "eth0", applied)]);
            shown(&serve(status), &["status"])
        })
        .concat();
    golden("status-overrides", &text);
}

#[test]
fn status_says_what_is_not_well_and_what_mends_it() {
    let served = serve(broken());
    golden("status-broken", &all_shown(&served, &[&["status"], &["status", "--wait=0"]]));
    let json: Value = serde_json::from_slice(&axoneme(&served.socket, &["status", "-o", "json"]).stdout).unwrap();
    assert_eq!(json["ready"], false);
    assert_eq!(json["checks"][1]["state"], "warning");
}

#[test]
fn lists_are_tables_for_people_and_documents_for_machines() {
    let served = serve(status());
    golden(
        "lists",
        &all_shown(
            &served,
            &[
                &["endpoints"],
                &["endpoints", "-n", "ops", "-o", "json"],
                &["endpoints", "web", "-o", "yaml"],
                &["identities"],
                &["identities", "300", "-o", "json"],
                &["policy", "tables"],
                &["policy", "tables", "shop/web-1", "-o", "yaml"],
                &["policy", "tables", "shop/none"],
                &["version"],
                &["version", "--client", "-o", "json"],
            ],
        ),
    );
}

#[test]
fn drift_is_told_and_mended_when_that_is_asked_for() {
    let mut clean = status();
    clean["drift"] = json!([]);
    let served = serve(clean);
    let out = axoneme(&served.socket, &["drift"]);
    assert_eq!(String::from_utf8_lossy(&out.stdout), "no drift: the kernel holds what the rows say\n");
    assert!(out.status.success());
    let mut changed = status();
    changed["drift"] = json!(["address 10.0.1.5: missing", "endpoint 7: differs"]);
    let served = serve(changed);
    let out = axoneme(&served.socket, &["drift"]);
    assert_eq!(out.status.code(), Some(1));
    let told = String::from_utf8_lossy(&out.stdout).into_owned();
    assert_eq!(told, "✗ address 10.0.1.5: missing\n✗ endpoint 7: differs\nmend it: axoneme drift --repair\n");
    let out = axoneme(&served.socket, &["drift", "--repair", "-o", "json"]);
    assert!(out.status.success());
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((&report["repaired"], report["drift"].as_array().unwrap().len()), (&json!(2), 2));
}

#[test]
fn flows_are_lines_with_pods_identities_reasons_and_rules() {
    let served = serve(status());
    golden(
        "observe",
        &all_shown(
            &served,
            &[
                &["observe"],
                &["observe", "-o", "table", "--print-node-name"],
                &["observe", "--verdict", "DROPPED", "-o", "jsonpb", "--last", "1"],
                &["observe", "--follow", "--all", "--from-pod", "shop/web", "--not", "port=53"],
                &["observe", "--color", "always", "--last", "1"],
            ],
        ),
    );
}

#[test]
fn top_counts_pairs_and_reasons_without_a_terminal() {
    let served = serve(broken());
    golden(
        "top",
        &all_shown(
            &served,
            &[
                &["top"],
                &["top", "--once", "--rows", "2", "--sort", "drops"],
                &["top", "--window", "1", "-o", "yaml", "--rows", "1", "--sort", "bytes"],
                &["top", "--window", "0"],
            ],
        ),
    );
    // the same flows as observe tells of, each in one pair
    let report: Value = serde_json::from_slice(&axoneme(&served.socket, &["top", "-o", "json"]).stdout).unwrap();
    let flows = axoneme(&served.socket, &["observe", "--all", "-o", "json"]).stdout;
    let flows: Vec<Value> = flows.split(|b| *b == b'\n').filter_map(|l| serde_json::from_slice(l).ok()).collect();
    let of = |event: &str| flows.iter().filter(|f| f["flow"]["extensions"]["event"] == event).count() as u64;
    let sum = |name: &str| report["pairs"].as_array().unwrap().iter().map(|p| p[name].as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum("opened"), sum("closed"), sum("dropped")), (of("NEW"), of("CLOSED"), of("DROP")));
    let by_reason = report["drops"].as_array().unwrap().iter().map(|d| d["drops"].as_u64().unwrap()).sum::<u64>();
    assert!(by_reason > 0 && by_reason == of("DROP"), "{report}");
}

#[test]
fn why_is_answered_by_the_rows_of_the_node() {
    let served = serve(status());
    let flows = axoneme(&served.socket, &["observe", "--all", "-o", "json", "--verdict", "DROPPED"]).stdout;
    let first: Value = serde_json::from_slice(flows.split(|b| *b == b'\n').next().unwrap()).unwrap();
    let uuid = first["flow"]["uuid"].as_str().unwrap();
    golden(
        "why",
        &all_shown(
            &served,
            &[
                &["explain", "ops/probe", "shop/web-1", "8080"],
                &["explain", "ops/probe", "shop/web-1", "9090"],
                &["explain", "8.8.8.8", "10.0.1.5", "8080", "-o", "json"],
                &["explain", "--flow", uuid],
                &["explain", "--flow", "no-such-flow"],
                &["explain", "--flow", "00000000-0000-8000-8000-000000000001"],
                &["explain", "shop/none", "shop/web-1"],
                &["explain", "shop/web-1"],
                &["policy", "who-can", "shop/web-1"],
                &["policy", "who-can", "shop/web-1", "-o", "yaml"],
                &["policy", "who-can", "ops/none"],
                &["policy", "coverage"],
            ],
        ),
    );
}

#[test]
fn every_filter_of_the_command_line_is_a_filter_of_the_agent() {
    // a flag that the query does not carry would be ignored without a word
    let served = serve(status());
    let spec = serde_json::to_value(events::full_spec()).unwrap();
    for (name, values) in spec.as_object().unwrap() {
        let flag = format!("--{}", name.replace('_', "-"));
        let value = values[0].as_str().unwrap();
        let matching = shown(&served, &["observe", "--all", "-o", "json", &flag, value]);
        let lines = matching.lines().filter(|l| l.starts_with("{\"flow\"")).count();
        let spec: FilterSpec = serde_json::from_value(json!({name: [value]})).unwrap();
        let query = Query { filter: spec, ..Query::default() };
        let Answer::Lines(expected) = flows(&query) else { panic!("{name}") };
        let expected = futures::executor::block_on(expected.count());
        assert_eq!(lines, expected, "{flag} {value}: {matching}");
        assert!(expected < events::events().len(), "{flag} {value} must leave something out to prove anything");
    }
}

#[test]
fn what_is_wrong_is_told_with_field_value_and_choices() {
    let served = serve(status());
    golden(
        "wrong",
        &all_shown(
            &served,
            &[
                &["observe", "--port", "http", "--verdict", "DENIED", "--from-ip", "10.0.0", "--not", "colour=red"],
                &["observe", "--last", "5", "--all"],
                &["observe", "--since", "yesterday"],
                &["status", "-o", "xml"],
                &["statsu"],
            ],
        ),
    );
}

#[test]
fn an_agent_that_cannot_be_reached_is_named_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("none.sock");
    let out = axoneme(&socket, &["status"]);
    assert_eq!(out.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&out.stderr).contains("there is no such socket"), "{out:?}");
    // a listener that is gone leaves its file
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let out = axoneme(&socket, &["endpoints"]);
    assert_eq!(out.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&out.stderr).contains("nobody listens"), "{out:?}");
    let out = axoneme(&socket, &["version"]);
    assert_eq!(out.status.code(), Some(0), "a version needs no agent: {out:?}");
}

#[test]
fn answers_that_are_none_are_told_from_silence() {
    for (answer, code, said) in [
        (&b""[..], 3, "closed the connection unheard"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", 4, "no HTTP server"),
        (b"HTTP/1.1 200 OK\r\n\r\n[1", 4, "are axoneme and the agent of the same version?"),
        (b"HTTP/1.1 500 Internal Server Error\r\n\r\nno rows\n", 4, "HTTP 500: no rows"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("a.sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let server = std::thread::spawn(move || {
            use std::io::{Read, Write};
            let (mut peer, _) = listener.accept().unwrap();
            peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let mut request = [0; 1024];
            if !answer.is_empty() {
                assert!(peer.read(&mut request).unwrap() > 0);
            }
            peer.write_all(answer).unwrap();
        });
        let out = axoneme(&socket, &["status"]);
        server.join().unwrap();
        assert_eq!(out.status.code(), Some(code), "{out:?}");
        assert!(String::from_utf8_lossy(&out.stderr).contains(said), "{out:?}");
    }
}

#[test]
fn a_flow_is_shown_when_it_happens_and_not_when_the_next_one_does() {
    let served = serve(status());
    let mut child = Command::new(env!("CARGO_BIN_EXE_axoneme"))
        .args(["observe", "--follow", "--last", "1"])
        .env("AXONEME_SOCKET", &served.socket)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = child.stdout.take().unwrap();
    let (line, read) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut text).unwrap();
        line.send(text).unwrap();
    });
    let shown = read.recv_timeout(Duration::from_secs(20));
    let still_there = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap();
    assert!(shown.unwrap().contains("closed FORWARDED"));
    assert!(still_there, "it follows until it is told to end");
}

#[test]
fn waiting_ends_when_the_agent_comes() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("late.sock");
    let child = Command::new(env!("CARGO_BIN_EXE_axoneme"))
        .args(["status", "--wait", "60"])
        .env("AXONEME_SOCKET", &socket)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let served = serve(status());
    // the socket appears while it waits
    std::os::unix::fs::symlink(&served.socket, &socket).unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&out.stdout).starts_with("node worker-1: ready"));
}

#[test]
fn output_that_nobody_reads_is_no_failure() {
    let served = serve(status());
    let mut child = Command::new(env!("CARGO_BIN_EXE_axoneme"))
        .args(["observe", "--all"])
        .env("AXONEME_SOCKET", &served.socket)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let out = child.wait_with_output().unwrap();
    assert_eq!((out.status.code(), out.stderr.len()), (Some(0), 0), "{out:?}");
}
