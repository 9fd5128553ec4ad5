//! Flows in files are those that clients are sent, whatever becomes of the files.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod common;

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use axoneme_hubble::{
    export::{self, Collector, Destination, Exporter, Files, Rotation, Settings},
    json,
    pb::otlp::{
        ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse, KeyValue, LogRecord,
        any_value::Value as Any,
        logs_service_server::{LogsService, LogsServiceServer},
    },
};
use common::{Rig, records};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

const SOON: Duration = Duration::from_secs(30);

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    // the last line may be under way
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn uuids(lines: &[Value]) -> BTreeSet<String> {
    lines.iter().filter_map(|l| l["flow"]["uuid"].as_str()).map(str::to_owned).collect()
}

async fn until(what: &str, good: impl Fn() -> bool) {
    let ends = tokio::time::Instant::now() + SOON;
    while !good() {
        assert!(tokio::time::Instant::now() < ends, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn files_hold_what_clients_are_sent_filtered_and_masked() {
    let mut rig = Rig::new(1024).await;
    let path = |name: &str| rig.directory.path().join(name);
    let (all, drops, none) = (path("all.log"), path("drops.log"), path("none.log"));
    let filters = |text: &str| json::filters(text).unwrap();
    let dropped = filters(r#"{"verdict":["DROPPED"]}"#);
    let mask = vec!["uuid".to_owned(), "verdict".to_owned(), "source.namespace".to_owned()];
    let fixed = vec![
        Exporter::new("all", Destination::File(all.clone()), vec![], vec![], vec![]).unwrap(),
        Exporter::new("drops", Destination::File(drops.clone()), dropped.clone(), vec![], mask).unwrap(),
        Exporter::new("none", Destination::File(none.clone()), vec![], filters("{}"), vec![]).unwrap(),
    ];
    let cancel = CancellationToken::new();
    let settings = Settings { fixed, changing: None, rotation: Rotation::default() };
    let exporting = tokio::spawn(export::run(rig.node.clone(), settings, cancel.clone()));
    // exporters begin with what comes
    tokio::time::sleep(Duration::from_millis(300)).await;
    let records = records(200);
    rig.push(&records);
    let sent: BTreeSet<String> = rig
        .flows(&records)
        .into_iter()
        .map(|(flow, facet)| axoneme_hubble::convert::flow(&flow, facet, "prod", false).uuid)
        .collect();
    until("all flows are in the file", || uuids(&lines(&all)) == sent).await;
    let written = lines(&all);
    let verdict = |l: &Value, v: &str| l["flow"]["verdict"] == v;
    let expected = uuids(&written.iter().filter(|l| verdict(l, "DROPPED")).cloned().collect::<Vec<_>>());
    assert!(!expected.is_empty() && expected.len() < sent.len());
    until("all drops are in their file", || uuids(&lines(&drops)) == expected).await;
    for line in lines(&drops) {
        let flow = line["flow"].as_object().unwrap();
        assert!(flow.keys().all(|k| ["uuid", "verdict", "source"].contains(&&**k)), "{line}");
        assert!(line["node_name"].is_string() && line["time"].is_string(), "{line}");
    }
    cancel.cancel();
    exporting.await.unwrap();
    assert!(lines(&none).is_empty());
    println!("{} flows in the file, {} of them drops", written.len(), expected.len());
}

#[tokio::test]
async fn exporters_come_change_and_end_with_their_file_and_a_mistake_changes_nothing() {
    let mut rig = Rig::new(1024).await;
    let (config, a, b) = (
        rig.directory.path().join("config.yaml"),
        rig.directory.path().join("a.log"),
        rig.directory.path().join("b.log"),
    );
    let write = |text: &str| fs::write(&config, text).unwrap();
    let entry = |name: &str, path: &Path| format!("  - {{name: {name}, filePath: {}}}\n", path.display());
    write(&format!("flowLogs:\n{}", entry("a", &a)));
    let cancel = CancellationToken::new();
    let settings = Settings { fixed: vec![], changing: Some(config.clone()), rotation: Rotation::default() };
    let exporting = tokio::spawn(export::run(rig.node.clone(), settings, cancel.clone()));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let records = records(60);
    rig.push(&records[..20]);
    until("the first exporter writes", || lines(&a).len() >= 20).await;
    // a mistake beside a wish: all stays as it is
    write(&format!("flowLogs:\n{}{}", entry("a", &a), "  - {name: b, colour: red}\n"));
    tokio::time::sleep(Duration::from_secs(6)).await;
    let before = lines(&a).len();
    rig.push(&records[20..40]);
    until("the first exporter goes on", || lines(&a).len() >= before + 20).await;
    // another one in its place
    write(&format!("flowLogs:\n{}", entry("b", &b)));
    tokio::time::sleep(Duration::from_secs(6)).await;
    let before = lines(&a).len();
    rig.push(&records[40..]);
    until("the second exporter writes", || lines(&b).len() >= 20).await;
    assert_eq!(lines(&a).len(), before, "the first has ended");
    cancel.cancel();
    exporting.await.unwrap();
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_tried_again_and_holds_up_nobody() {
    let mut rig = Rig::new(1024).await;
    // a file where a directory is wanted
    let blocked = rig.directory.path().join("blocked");
    fs::write(&blocked, "").unwrap();
    let path = blocked.join("events.log");
    let fixed = vec![Exporter::new("a", Destination::File(path.clone()), vec![], vec![], vec![]).unwrap()];
    let cancel = CancellationToken::new();
    let settings = Settings { fixed, changing: None, rotation: Rotation::default() };
    let exporting = tokio::spawn(export::run(rig.node.clone(), settings, cancel.clone()));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let records = records(200);
    rig.push(&records[..100]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    fs::remove_file(&blocked).unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    rig.push(&records[100..]);
    until("it is written again", || lines(&path).len() >= 100).await;
    cancel.cancel();
    exporting.await.unwrap();
    let stats = rig.node.exporter("a");
    assert_eq!(stats.lines(), lines(&path).len() as u64);
    let lost: std::collections::BTreeMap<_, _> = stats.lost().into();
    assert!(lost["unwritten"] > 0 && lost["refused"] == 0, "{lost:?}");
}

/// A collector that keeps what it takes, and refuses while it is told to.
#[derive(Clone, Default)]
struct Backend {
    taken: Arc<Mutex<Vec<ExportLogsServiceRequest>>>,
    away: Arc<AtomicBool>,
    reject: Arc<AtomicI64>,
}

#[tonic::async_trait]
impl LogsService for Backend {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        if self.away.load(Ordering::Relaxed) {
            return Err(Status::unavailable("not now"));
        }
        self.taken.lock().unwrap().push(request.into_inner());
        let rejected_log_records = self.reject.swap(0, Ordering::Relaxed);
        let partial = ExportLogsPartialSuccess { rejected_log_records, error_message: "some".into() };
        Ok(Response::new(ExportLogsServiceResponse { partial_success: (rejected_log_records > 0).then_some(partial) }))
    }
}

impl Backend {
    /// Takes what comes to a port of its own, until the test ends.
    async fn serve(&self) -> Destination {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let service = LogsServiceServer::new(self.clone());
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        Destination::Collector(Collector::new(&endpoint, Files::default()).unwrap())
    }

    fn records(&self) -> Vec<LogRecord> {
        let taken = self.taken.lock().unwrap();
        let scopes = taken.iter().flat_map(|r| &r.resource_logs).flat_map(|r| &r.scope_logs);
        scopes.flat_map(|s| s.log_records.clone()).collect()
    }
}

fn kept(of: &[KeyValue], key: &str) -> Option<Any> {
    of.iter().find(|kv| kv.key == key).and_then(|kv| kv.value.clone()?.value)
}

fn field(record: &LogRecord, key: &str) -> Option<String> {
    let Some(Any::KvlistValue(body)) = record.body.clone().and_then(|b| b.value) else { return None };
    let Some(Any::KvlistValue(flow)) = kept(&body.values, "flow") else { return None };
    match kept(&flow.values, key) {
        Some(Any::StringValue(text)) => Some(text),
        _ => None,
    }
}

#[tokio::test]
async fn a_collector_gets_every_flow_once_and_one_that_is_away_gets_them_later() {
    let mut rig = Rig::new(1024).await;
    let backend = Backend::default();
    let to = backend.serve().await;
    let fixed = vec![Exporter::new("otlp", to, vec![], vec![], vec![]).unwrap()];
    let cancel = CancellationToken::new();
    let settings = Settings { fixed, changing: None, rotation: Rotation::default() };
    let exporting = tokio::spawn(export::run(rig.node.clone(), settings, cancel.clone()));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let records = records(200);
    rig.push(&records[..100]);
    let sent = |rig: &Rig, n: usize| -> BTreeSet<String> {
        let flows = rig.flows(&records[..n]);
        flows.iter().map(|(f, facet)| axoneme_hubble::convert::flow(f, *facet, "prod", false).uuid).collect()
    };
    let uuids = || backend.records().iter().filter_map(|r| field(r, "uuid")).collect::<BTreeSet<_>>();
    until("all flows are there", || uuids() == sent(&rig, 100)).await;
    // away: nothing is lost while the history holds it
    backend.away.store(true, Ordering::Relaxed);
    rig.push(&records[100..]);
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(uuids(), sent(&rig, 100));
    backend.away.store(false, Ordering::Relaxed);
    until("the others follow", || uuids() == sent(&rig, 200)).await;
    let all = backend.records();
    assert_eq!(all.len(), sent(&rig, 200).len(), "each once");
    let dropped = all.iter().find(|r| field(r, "verdict").as_deref() == Some("DROPPED")).unwrap();
    assert_eq!((dropped.severity_number, &*dropped.event_name), (13, "hubble.flow"));
    assert_eq!(kept(&dropped.attributes, "hubble.verdict"), Some(Any::StringValue("DROPPED".into())));
    assert!(all.iter().any(|r| matches!(kept(&r.attributes, "destination.port"), Some(Any::IntValue(_)))));
    assert!(all.iter().all(|r| r.time_unix_nano >= common::START && r.observed_time_unix_nano > 0));
    let node = backend.taken.lock().unwrap()[0].resource_logs[0].resource.clone().unwrap();
    assert_eq!(kept(&node.attributes, "k8s.node.name"), Some(Any::StringValue("n1".into())));
    // what it takes and refuses
    backend.reject.store(3, Ordering::Relaxed);
    rig.push(&records[..20]);
    let stats = rig.node.exporter("otlp");
    until("it is counted", || stats.lost().contains(&("refused", 3))).await;
    until("and so are the others", || stats.lines() + 3 == backend.records().len() as u64).await;
    cancel.cancel();
    exporting.await.unwrap();
}

#[tokio::test]
async fn a_collector_that_is_away_for_long_holds_up_nobody_and_learns_what_it_missed() {
    let mut rig = Rig::new(128).await;
    let backend = Backend::default();
    backend.away.store(true, Ordering::Relaxed);
    let to = backend.serve().await;
    let fixed = vec![
        Exporter::new("otlp", to, vec![], vec![], vec![]).unwrap(),
        Exporter::new("file", Destination::File(rig.directory.path().join("f.log")), vec![], vec![], vec![]).unwrap(),
    ];
    let cancel = CancellationToken::new();
    let settings = Settings { fixed, changing: None, rotation: Rotation::default() };
    let exporting = tokio::spawn(export::run(rig.node.clone(), settings, cancel.clone()));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let records = records(1000);
    for some in records.chunks(50) {
        rig.push(some);
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    let whole = rig.flows(&records).len() as u64;
    let file = rig.node.exporter("file");
    until("the file has them all", || file.lines() == whole).await;
    backend.away.store(false, Ordering::Relaxed);
    let stats = rig.node.exporter("otlp");
    let overwritten = || stats.lost().iter().find(|l| l.0 == "overwritten").unwrap().1;
    until("it is told what it missed", || backend.records().iter().any(|r| r.event_name == "hubble.lost_events")).await;
    assert!(overwritten() > 500, "{:?}", stats.lost());
    cancel.cancel();
    exporting.await.unwrap();
}

#[tokio::test]
async fn flows_that_are_alike_are_one_line_with_their_number() {
    let mut rig = Rig::new(1024).await;
    let (config, path) = (rig.directory.path().join("config.yaml"), rig.directory.path().join("sum.log"));
    let fields = "fieldAggregate: [verdict, source.namespace], aggregationInterval: 1s";
    fs::write(&config, format!("flowLogs: [{{name: sum, filePath: {}, {fields}}}]", path.display())).unwrap();
    let cancel = CancellationToken::new();
    let settings = Settings { fixed: vec![], changing: Some(config), rotation: Rotation::default() };
    let exporting = tokio::spawn(export::run(rig.node.clone(), settings, cancel.clone()));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let records = records(500);
    rig.push(&records);
    let counted = || {
        let of =
            |l: &Value| l["flow"]["aggregate"].as_object().unwrap().values().filter_map(Value::as_u64).sum::<u64>();
        lines(&path).iter().map(of).sum::<u64>()
    };
    let whole = rig.flows(&records).len() as u64;
    until("all are counted", || counted() == whole).await;
    assert!(lines(&path).len() < 60, "{} lines of {whole} flows", lines(&path).len());
    assert!(lines(&path).iter().all(|l| l["flow"]["uuid"].is_null()));
    cancel.cancel();
    exporting.await.unwrap();
}
