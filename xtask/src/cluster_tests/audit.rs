//! What service accounts have written, by the API server's own record.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::lab::{Lab, SYSTEM};

/// One write that the API server has carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Written {
    /// Name of the pod that wrote.
    pub(super) pod: String,
    /// `patch ciliumnodes/status node1`
    pub(super) what: String,
    /// When the request came in, as RFC 3339 with microseconds: in order as text.
    pub(super) at: String,
}

/// A place in the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark(u64);

/// Now.
pub(super) fn mark(lab: &Lab) -> Result<Mark> {
    let path = lab.cluster.audit_log();
    Ok(Mark(std::fs::metadata(&path).with_context(|| format!("reading {}", path.display()))?.len()))
}

/// Writes of the product since then that succeeded. Heartbeats (the Lease) and questions (reviews of tokens) are not
/// among them.
pub(super) fn since(lab: &Lab, mark: Mark) -> Result<Vec<Written>> {
    let path = lab.cluster.audit_log();
    let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let from = usize::try_from(mark.0)?;
    let text = String::from_utf8_lossy(bytes.get(from..).context("the record has become shorter")?).into_owned();
    // the last line may be under way
    let whole = text.rfind('\n').map_or("", |end| text.get(..end).unwrap_or_default());
    let lines = whole.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
    Ok(lines.iter().filter_map(write).collect())
}

fn write(event: &Value) -> Option<Written> {
    let text = |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let code = event.pointer("/responseStatus/code").and_then(Value::as_u64).unwrap_or_default();
    let own = text("/user/username").starts_with(&format!("system:serviceaccount:{SYSTEM}:"));
    let resource = text("/objectRef/resource");
    if !own || !(200..300).contains(&code) || resource == "leases" || resource.ends_with("reviews") {
        return None;
    }
    let pod = event.pointer("/user/extra").and_then(|e| e.get("authentication.kubernetes.io/pod-name")?.get(0));
    let sub = text("/objectRef/subresource");
    let part = if sub.is_empty() { resource } else { format!("{resource}/{sub}") };
    let name = [text("/objectRef/namespace"), text("/objectRef/name")].join("/");
    Some(Written {
        pod: pod.and_then(Value::as_str).unwrap_or_default().to_owned(),
        what: format!("{} {part} {}", text("/verb"), name.trim_start_matches('/')),
        at: text("/requestReceivedTimestamp"),
    })
}

/// What was written how often, for messages.
pub(super) fn summary(writes: &[Written]) -> BTreeMap<&str, usize> {
    writes.iter().fold(BTreeMap::new(), |mut all, w| {
        *all.entry(w.what.as_str()).or_default() += 1;
        all
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_names_its_pod_and_heartbeats_are_none() {
        let event = |resource: &str, code: u16| {
            serde_json::json!({"verb": "patch", "user": {
                "username": "system:serviceaccount:axoneme-system:axoneme-operator",
                "extra": {"authentication.kubernetes.io/pod-name": ["axoneme-operator-1"]}},
                "objectRef": {"resource": resource, "name": "n", "subresource": "status"},
                "requestReceivedTimestamp": "2026-01-01T00:00:00.000001Z", "responseStatus": {"code": code}})
        };
        let written = write(&event("ciliumnodes", 200)).unwrap();
        assert_eq!((written.pod.as_str(), written.what.as_str()), ("axoneme-operator-1", "patch ciliumnodes/status n"));
        assert_eq!(write(&event("ciliumnodes", 409)), None);
        assert_eq!(write(&event("leases", 200)), None);
        assert_eq!(write(&event("tokenreviews", 201)), None);
    }
}
