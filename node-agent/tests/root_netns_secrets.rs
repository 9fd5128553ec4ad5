//! What is secret stays so: an agent with tokens and keys, at its most talkative, in front of an operator and a collector that
//! take and refuse them. All that it logs, answers, exports and tells is looked through.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]
#![expect(clippy::disallowed_methods, reason = "certificates are good from now on")]

mod common;
#[path = "common/leaks.rs"]
mod leaks;
mod rig;

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::fd::AsFd,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use axoneme_operator::pki::Authority;
use leaks::{Secret, leaks};
use rig::*;

/// Of the form of a real one.
const COLLECTOR_TOKEN: &str = "collector-4f1d2c3b5a69788796a5b4c3d2e1f001";
const COLLECTOR: &str = "127.0.0.1:16443";

/// Heads of requests that somebody in the node's namespace was sent.
#[derive(Clone, Default)]
struct Heads(Arc<Mutex<Vec<String>>>);

impl Heads {
    fn had(&self, path: &str, header: &str) -> bool {
        self.0.lock().unwrap().iter().any(|h| h.contains(path) && h.to_lowercase().contains(&header.to_lowercase()))
    }
}

fn head(stream: &mut TcpStream) -> Option<String> {
    let mut all = Vec::new();
    while !all.windows(4).any(|w| w == b"\r\n\r\n") {
        let mut piece = [0; 4096];
        let n = stream.read(&mut piece).ok().filter(|n| *n > 0)?;
        all.extend_from_slice(&piece[..n]);
    }
    Some(String::from_utf8_lossy(&all).into_owned())
}

/// A collector that notes what it is sent and refuses it.
fn refuser(netns: &str) -> Heads {
    let netns = std::fs::File::open(format!("/run/netns/{netns}")).expect(ROOT);
    let heads = Heads::default();
    let noted = heads.clone();
    let (up, is_up) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        nix::sched::setns(netns.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET).expect(ROOT);
        let listener = TcpListener::bind(COLLECTOR).unwrap();
        up.send(()).unwrap();
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            let Some(head) = head(&mut stream) else { continue };
            noted.0.lock().unwrap().push(head);
            let body = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Unauthorized","message":"Unauthorized","code":401}"#;
            let answer = format!(
                "HTTP/1.1 401 Unauthorized\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    is_up.recv().unwrap();
    heads
}

/// All that somebody may see of the agent but its log.
fn answers(rig: &Rig) -> String {
    let paths = [
        "/status",
        "/identities",
        "/policy/tables",
        "/explain",
        "/policy/who-can",
        "/policy/coverage",
        "/health",
        "/drift",
        "/nothing",
    ];
    let mut all = String::new();
    for path in paths {
        all.extend([path, "\n", &rig.admin_text(path), "\n"]);
    }
    all += &rig.admin_text("/flows");
    for page in ["9962/metrics", "9965/metrics"] {
        all += &sh(&format!("ip netns exec {} curl -s http://127.0.0.1:{page}", rig.node()));
    }
    let pid = rig.agent.as_ref().unwrap().id();
    // what any user of the node may read of the process
    all += &std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap().replace('\0', " ");
    all
}

#[test]
#[ignore = "needs root: network namespaces and a BPF filesystem"]
#[expect(clippy::too_many_lines, reason = "two lives of an agent, one after the other")]
fn tokens_and_keys_are_in_no_log_answer_metric_or_error() {
    let mut rig = Rig::new();
    let operator = Operator::start(&rig.node(), &allowing(300..301));
    let heads = refuser(&rig.node());
    let hubble =
        Authority::generate().unwrap().issue("axoneme-system", SystemTime::now() + Duration::from_hours(24)).unwrap();
    for (name, text) in [
        ("tls.crt", hubble.certificate_pem.as_str()),
        ("tls.key", hubble.key_pem.as_str()),
        ("headers", &format!("authorization: Bearer {COLLECTOR_TOKEN}\n")),
    ] {
        std::fs::write(rig.path(name), text).unwrap();
    }
    let secrets = [
        Secret::of("the operator's token", TOKEN),
        Secret::of("the collector's token", COLLECTOR_TOKEN),
        Secret::of_pem("the server's key", &hubble.key_pem),
    ];
    let path = |name: &str| rig.path(name).display().to_string();
    let (token, certificate, key, headers) = (path("token"), path("tls.crt"), path("tls.key"), path("headers"));
    let (bootstrap, collector) = (path("bootstrap"), format!("http://{COLLECTOR}"));
    let places =
        ["--node", "n1", "--token-dir", &token, "--bootstrap", &bootstrap, "--prometheus-serve-addr", "127.0.0.1:9962"];
    let flows = [
        "--hubble-tls-cert-file",
        &certificate,
        "--hubble-tls-key-file",
        &key,
        "--hubble-tls-client-ca-files",
        &certificate,
        "--hubble-metrics",
        "flow",
        "--hubble-export-otlp-endpoint",
        &collector,
        "--hubble-export-otlp-protocol",
        "http/protobuf",
        "--hubble-export-otlp-headers-file",
        &headers,
    ];
    let with = |last: &[&str]| {
        let all = [&["--log", "trace", "run"], &places[..], &flows[..], last].concat();
        all.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let start = |rig: &mut Rig, last: &[&str]| {
        let all = with(last);
        rig.start_with(&all.iter().map(String::as_str).collect::<Vec<_>>());
    };

    // all goes well, but for the collector
    start(&mut rig, &["--operator", "127.0.0.1:9878"]);
    rig.until("the plugin is installed", |r| r.path("net.d/05-axoneme.conflist").exists());
    let mut said = String::new();
    for (command, pod, uid) in [("ADD", 0, "a"), ("ADD", 1, "b"), ("CHECK", 0, "a")] {
        said += &rig.call(command, pod, uid).1.to_string();
    }
    assert!(rig.ping(0, "10.0.1.3"), "policy allows it");
    rig.until("the collector is sent flows", |_| heads.had("/v1/logs", &format!("bearer {COLLECTOR_TOKEN}")));
    said += &answers(&rig);
    // a token that the operator refuses
    std::fs::write(rig.path("token/axoneme-token"), format!("{TOKEN}x\n")).unwrap();
    rig.kill();
    let all = with(&["--operator", "127.0.0.1:9878", "--add-deadline", "1"]);
    rig.launch(&all.iter().map(String::as_str).collect::<Vec<_>>());
    let log = |rig: &Rig| std::fs::read_to_string(rig.path("agent.log")).unwrap();
    rig.until("it is refused", |r| log(r).contains("does not have valid authentication credentials"));
    said += &answers(&rig);
    said += &rig.call("ADD", 0, "nobody").1.to_string();
    rig.kill();
    let log = log(&rig);
    for module in ["TRACE", "hyper", "h2::", "axoneme_node_agent"] {
        assert!(log.contains(module), "nothing of {module} in a log at trace level");
    }
    for (what, text) in [("the log", &log), ("answers", &said)] {
        let found = leaks(text, &secrets);
        assert!(found.is_empty(), "{what}: {found:#?}");
    }
    drop(operator);
}

#[test]
fn a_secret_is_found_in_each_of_its_forms() {
    let key = Authority::generate().unwrap().issue("x", SystemTime::now()).unwrap().key_pem;
    let secrets = [Secret::of("token", TOKEN), Secret::of_pem("key", &key)];
    let line = key.lines().nth(1).unwrap();
    for text in [
        format!("asked with {TOKEN}"),
        format!("{:?}", TOKEN.as_bytes()),
        format!("{:?}", Some(TOKEN)),
        TOKEN.bytes().fold(String::new(), |text, b| text + &format!("{b:02X}")),
        key.replace('\n', "\\n"),
        format!("{:?}", line.as_bytes()),
        "Authorization: Bearer somebody's".to_owned(),
        "-----BEGIN EC PRIVATE KEY-----".to_owned(),
    ] {
        assert_eq!(leaks(&format!("first\n{text}\nlast"), &secrets).len(), 1, "{text}");
    }
    assert_eq!(
        leaks("a certificate -----BEGIN CERTIFICATE-----\ntoken /run/token: no such file", &secrets),
        Vec::<String>::new()
    );
}
