//! Why packets were dropped, as the agents tell it.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::Value;

use crate::lab::{Lab, SYSTEM};

/// Prints the distinct drops between pods that the nodes have seen lately: who, to whom, why, by which rule.
pub(super) fn print(lab: &Lab) -> Result<()> {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for agent in lab.pods(SYSTEM, "app.kubernetes.io/name=axoneme-agent")? {
        let words = ["axoneme", "observe", "--verdict", "DROPPED", "--last", "100", "-o", "json"];
        for line in lab.exec(&agent, &words)?.lines() {
            let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
            let flow = line.get("flow").unwrap_or(&line);
            // what is no pod's traffic (router solicitations of a v4-only pod) is not part of the story
            if flow.pointer("/destination/pod_name").is_some() {
                *seen.entry(describe(flow)).or_default() += 1;
            }
        }
    }
    for (what, times) in seen.iter().take(12) {
        println!("   drop {what} ({times}x)");
    }
    Ok(())
}

fn describe(flow: &Value) -> String {
    let text = |path: &str| flow.pointer(path).and_then(Value::as_str).unwrap_or("?").to_owned();
    let end = |side: &str| {
        let pod = text(&format!("/{side}/pod_name"));
        if pod == "?" { text(if side == "source" { "/IP/source" } else { "/IP/destination" }) } else { pod }
    };
    let port = flow
        .pointer("/l4/TCP/destination_port")
        .or_else(|| flow.pointer("/l4/UDP/destination_port"))
        .map_or_else(|| "-".to_owned(), Value::to_string);
    let rule = ["ingress_denied_by", "egress_denied_by"]
        .iter()
        .filter_map(|k| flow.get(k)?.as_array()?.first())
        .map(|p| {
            let name = |k: &str| p.get(k).and_then(Value::as_str).unwrap_or_default().to_owned();
            format!("{} {}/{}", name("kind"), name("namespace"), name("name"))
        })
        .next();
    let way = text("/traffic_direction");
    format!(
        "{} → {}:{port} {way}: {}{}",
        end("source"),
        end("destination"),
        text("/drop_reason_desc"),
        rule.map(|r| format!(" by {r}")).unwrap_or_default()
    )
}
