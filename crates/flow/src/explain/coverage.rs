//! Which pods policy isolates, and which rules never decide.

use std::collections::BTreeSet;

use axoneme_model::rows::{RowSet, RuleId};
use serde::{Deserialize, Serialize};

use super::rule;

/// How much of the pods policy covers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Coverage {
    pub pods: Vec<PodCoverage>,
    /// Pods in default-deny, by direction.
    pub isolated_ingress: u64,
    pub isolated_egress: u64,
    /// Rules that are known here, apply to a pod, and decide nothing: whom they name is not there, or another rule
    /// always comes first.
    pub unused_rules: Vec<String>,
}

/// A pod's part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodCoverage {
    pub pod: String,
    pub ingress: bool,
    pub egress: bool,
    /// `Kind namespace/name` of the policies that apply.
    pub policies: Vec<String>,
}

/// Of the pods whose policy these rows hold.
#[must_use]
pub fn coverage(rows: &RowSet) -> Coverage {
    let mut out = Coverage::default();
    for endpoint in rows.endpoints.values() {
        let pod = format!("{}/{}", endpoint.namespace, endpoint.name);
        let Some(table) = rows.tables.get(&endpoint.table) else {
            out.pods.push(PodCoverage { pod, ..PodCoverage::default() });
            continue;
        };
        let (ingress, egress) = (!table.ingress_default.allow, !table.egress_default.allow);
        out.isolated_ingress += u64::from(ingress);
        out.isolated_egress += u64::from(egress);
        let policies = table.policies.keys().map(ToString::to_string).collect();
        out.pods.push(PodCoverage { pod, ingress, egress, policies });
    }
    out.pods.sort_by(|a, b| a.pod.cmp(&b.pod));
    let tables = rows.tables.values();
    let used: BTreeSet<RuleId> = tables
        .flat_map(|t| t.entries.values().map(|e| e.rule).chain([t.ingress_default.rule, t.egress_default.rule]))
        .collect();
    // what only isolates is named by a table's default, which names one of several
    let decides = |path: &str| path.to_ascii_lowercase().contains("gress");
    let unused = rows.rules.iter().filter(|(id, row)| !used.contains(id) && decides(&row.rule.path));
    out.unused_rules = unused.map(|(id, _)| rule(rows, *id)).collect();
    out.unused_rules.sort();
    out
}
