//! Flows in files are those that clients are sent, whatever becomes of the files.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod common;

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use axoneme_hubble::{
    export::{self, Exporter, Rotation, Settings},
    json,
};
use common::{Rig, records};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

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
        Exporter::new("all", all.clone(), vec![], vec![], vec![]).unwrap(),
        Exporter::new("drops", drops.clone(), dropped.clone(), vec![], mask).unwrap(),
        Exporter::new("none", none.clone(), vec![], filters("{}"), vec![]).unwrap(),
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
        .map(|(flow, facet)| axoneme_hubble::convert::flow(flow, facet, "prod", false).uuid)
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
    let fixed = vec![Exporter::new("a", path.clone(), vec![], vec![], vec![]).unwrap()];
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
}
