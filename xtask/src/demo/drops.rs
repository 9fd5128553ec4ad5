//! Why packets were dropped, as a stock client of Hubble's API is told it (`observer.GetFlows`).

use std::collections::BTreeMap;

use serde_json::Value;

/// What the client is asked on a node: the packets that were dropped, not what policy says of the same ones beside.
const QUESTION: [&str; 10] = [
    "observe",
    "--server",
    "unix:///run/axoneme/hubble.sock",
    "--type",
    "drop",
    "--last",
    "100",
    "--output",
    "jsonpb",
    "--timeout=5s",
];

/// The words of the command, `client` among them.
pub(super) fn question(client: &str) -> Vec<&str> {
    std::iter::once(client).chain(QUESTION).collect()
}

/// What has been told already: each part of the story names its own drops.
#[derive(Debug, Default)]
pub(super) struct Drops {
    /// Time of the newest drop that was told, as the flows carry it (RFC 3339, UTC: text compares as time).
    told: String,
}

impl Drops {
    /// Prints the distinct drops between pods that the agents' answers name: who, to whom, why, by which rule.
    pub(super) fn print(&mut self, answers: &[String]) {
        for (what, times) in self.take(answers).iter().take(12) {
            println!("   drop {what} ({times}x)");
        }
    }

    fn take(&mut self, answers: &[String]) -> BTreeMap<String, u32> {
        let mut seen: BTreeMap<String, u32> = BTreeMap::new();
        let before = self.told.clone();
        for line in answers.iter().flat_map(|answer| answer.lines()) {
            let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
            let flow = line.get("flow").unwrap_or(&line);
            let time = flow.get("time").and_then(Value::as_str).unwrap_or_default();
            // what is no pod's traffic (router solicitations of a v4-only pod) is not part of the story
            if time > before.as_str() && flow.pointer("/destination/pod_name").is_some() {
                *seen.entry(describe(flow)).or_default() += 1;
                if time > self.told.as_str() {
                    time.clone_into(&mut self.told);
                }
            }
        }
        seen
    }
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
            // a cluster-wide policy has no namespace
            format!("{} {}", name("kind"), format!("{}/{}", name("namespace"), name("name")).trim_start_matches('/'))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn line(second: u8, from: &str) -> String {
        serde_json::json!({"flow": {
            "time": format!("2026-01-01T00:00:{second:02}.5Z"), "drop_reason_desc": "POLICY_DENY", "traffic_direction": "INGRESS",
            "source": {"pod_name": from}, "destination": {"pod_name": "db-1"}, "l4": {"TCP": {"destination_port": 5432}},
            "ingress_denied_by": [{"kind": "NetworkPolicy", "namespace": "shop", "name": "no"}],
        }})
        .to_string()
    }

    #[test]
    fn each_drop_is_told_once_with_reason_and_rule() {
        let mut drops = Drops::default();
        let first = vec![format!("{}\n{}", line(1, "web-1"), line(2, "web-1")), line(2, "api-1")];
        let told = drops.take(&first);
        assert_eq!(told.get("web-1 → db-1:5432 INGRESS: POLICY_DENY by NetworkPolicy shop/no"), Some(&2));
        assert_eq!(told.len(), 2);
        let wide = line(3, "api-1").replace("\"shop\"", "\"\"");
        assert!(drops.take(&[wide]).keys().all(|k| k.ends_with("by NetworkPolicy no")), "no namespace");
        let second = vec![first[0].clone(), line(4, "worker-1")];
        let told = drops.take(&second);
        assert_eq!(told.keys().map(|k| &k[..8]).collect::<Vec<_>>(), ["worker-1"]);
    }
}
