//! What an agent says on its admin socket: paths and documents, in one place for the agent and the command line.
//!
//! | `GET` | answer |
//! |---|---|
//! | [`STATUS`] | one [`Status`] |
//! | [`IDENTITIES`] | a list of [`IdentityView`] |
//! | [`TABLES`] | a list of [`TableView`] |
//! | [`EXPLAIN`]`?`[`Question`](crate::explain::Question) | an [`Explanation`](crate::explain::Explanation) |
//! | [`WHO_CAN`]`?target=namespace/pod` | an [`Access`](crate::explain::Access) |
//! | [`COVERAGE`] | a [`Coverage`](crate::explain::Coverage) |
//! | [`HEALTH`] | a list of [`NodeHealth`] |
//! | [`FLOWS`]`?`[`Query`](crate::Query) | a [`Response`](crate::Response) a line, until the query ends or the peer leaves |
//!
//! Documents may grow fields; readers ignore what they do not know.

use std::collections::BTreeMap;

use axoneme_model::{
    Direction, PeerClass, RuleRef,
    rows::{DirectionDefault, IdentityRow, PolicyEntry, PolicyKey, RuleId, TableRow},
};
use serde::{Deserialize, Serialize};

/// Where an agent listens unless it was told otherwise.
pub const SOCKET: &str = "/run/axoneme/admin.sock";
pub const STATUS: &str = "/status";
pub const IDENTITIES: &str = "/identities";
pub const TABLES: &str = "/policy/tables";
pub const EXPLAIN: &str = "/explain";
pub const WHO_CAN: &str = "/policy/who-can";
pub const COVERAGE: &str = "/policy/coverage";
pub const FLOWS: &str = "/flows";
pub const HEALTH: &str = "/health";

/// How a node is: facts, not judgements.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    pub node: String,
    /// Of the agent.
    pub version: String,
    /// Whether pods can be added.
    pub ready: bool,
    /// Why not.
    pub reasons: Vec<String>,
    /// What the node lacks and does without.
    pub warnings: Vec<String>,
    pub stream: Stream,
    /// Of the newest rows that the agent has, and of those that are in force.
    pub revision: u64,
    pub acknowledged: u64,
    /// Underlay devices.
    pub devices: Vec<String>,
    pub addresses: Vec<String>,
    /// Of pod interfaces, in bytes; 0: not known yet.
    pub mtu: u32,
    /// How packets go to other nodes, as the programs do it: `overlay`, `native`, `hybrid` (also while nodes only take
    /// packets past the tunnel); empty: not known yet.
    pub routing: String,
    pub nodes: u64,
    pub identities: u64,
    pub ips: u64,
    pub frontends: u64,
    /// Policy tables in force.
    pub tables: u64,
    pub pools: Vec<PoolUsage>,
    /// What pods that are being added wait for.
    pub waiting: Vec<String>,
    pub endpoints: Vec<EndpointStatus>,
    /// Rows that are not in force.
    pub problems: Vec<Problem>,
    /// Maps of the kernel that can become full.
    pub maps: Vec<MapUsage>,
    /// Flow events that nobody saw, by cause.
    pub lost_flows: BTreeMap<String, u64>,
    /// Settings in which the node differs from the cluster.
    pub overrides: Vec<OverrideView>,
    /// Whether other nodes are reached; none: nobody is probed. Each node is in [`HEALTH`].
    pub health: Option<HealthSummary>,
}

/// A setting in which the node differs from the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OverrideView {
    /// Path in AxonemeConfig.
    pub setting: String,
    /// What it should be here, as text, and what it is in the cluster; empty: not set.
    pub value: String,
    pub cluster: String,
    /// The object that says so.
    pub from: String,
    /// Whether it is so.
    pub applied: bool,
}

/// Whether other nodes are reached, in short.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthSummary {
    /// Nodes that are probed, this one among them.
    pub nodes: u64,
    /// All of whose addresses and endpoints answer.
    pub reachable: u64,
    /// Of which it is not known yet.
    pub unknown: u64,
    /// The first of those that can't be reached, a sentence each, and how many more there are.
    pub unreachable: Vec<String>,
    pub more_unreachable: u64,
    /// Seconds between probes of the same node.
    pub interval_seconds: u64,
    /// `proven`, `pending`, `refuted`.
    pub datapath: String,
    /// Why it is refuted.
    pub why: String,
}

/// What is known of the ways to one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeHealth {
    pub node: String,
    pub lanes: Vec<LaneHealth>,
}

/// What is known of one way to a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LaneHealth {
    /// `node`: its own address; `endpoint`: its health endpoint, an address of its pods.
    pub place: String,
    pub address: String,
    /// `icmp` or `http`.
    pub protocol: String,
    /// `unknown`, `reachable`, `suspect` (lately lost, not given up), `unreachable`.
    pub state: String,
    /// Of the newest answer.
    pub latency_micros: Option<u64>,
    /// Why the newest probe failed; empty: it did not.
    pub error: String,
    /// Seconds since the newest probe, and since the state began.
    pub probed_seconds: Option<u64>,
    pub since_seconds: Option<u64>,
}

/// The stream of rows from the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stream {
    pub connected: bool,
    /// The operator replica that serves it, and its address.
    pub operator: String,
    pub address: String,
    /// Why it ended last.
    pub reason: String,
}

/// Use of one pool of addresses and family.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolUsage {
    pub pool: String,
    pub family: String,
    pub size: u64,
    pub used: u64,
    /// Given back lately, not given out again for a while.
    pub resting: u64,
}

/// How full a map is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MapUsage {
    pub map: String,
    pub used: u64,
    pub capacity: u64,
    /// What it means if it is full, and what to do before.
    pub when_full: String,
}

/// A pod of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointStatus {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub container: String,
    /// In the pod.
    pub interface: String,
    /// On the host.
    pub link: String,
    pub addresses: Vec<String>,
    pub identity: u32,
    /// Id of its policy table, sixteen hex digits.
    pub table: String,
    /// `creating`, `live`, `removing`.
    pub phase: String,
    pub ready: bool,
    /// Why not.
    pub fault: Option<String>,
    /// What of its traffic passes at most, as it is in force; none: all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<LimitView>,
}

/// What of a pod's traffic passes at most.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitView {
    /// To the pod, with link-layer headers; 0: all.
    pub ingress_bytes_per_second: u64,
    /// From the pod.
    pub egress_bytes_per_second: u64,
    /// Packets that found the queue full since it is there.
    pub ingress_drops: u64,
    pub egress_drops: u64,
}

/// A row that is not in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Problem {
    pub row: String,
    pub message: String,
    pub attempts: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IdentityView {
    pub id: u32,
    pub labels: Vec<String>,
}

impl From<&IdentityRow> for IdentityView {
    fn from(row: &IdentityRow) -> Self {
        Self { id: row.id.0, labels: row.labels.to_strings() }
    }
}

/// A policy table with its provenance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TableView {
    /// Sixteen hex digits.
    pub id: String,
    /// `namespace/name` of the node's pods that it judges.
    pub endpoints: Vec<String>,
    /// Policies with the generation that is enforced.
    pub policies: Vec<PolicyView>,
    pub ingress_default: DefaultView,
    pub egress_default: DefaultView,
    pub entries: Vec<EntryView>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyView {
    pub object: String,
    pub generation: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DefaultView {
    pub allow: bool,
    pub rule: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EntryView {
    /// `ingress` or `egress`.
    pub direction: String,
    /// Peer class; 0: whoever.
    pub peer: u32,
    /// `TCP`, …, or `any`.
    pub protocol: String,
    /// `80`, `8080-8095`, `any`; an ICMP type for ICMP.
    pub port: String,
    pub allow: bool,
    /// `Kind namespace/name path`, or the bare id where the rule's name is not known.
    pub rule: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub proxy_port: u16,
}

impl TableView {
    /// The view of a row; `rule` resolves provenance.
    #[must_use]
    pub fn of(row: &TableRow, endpoints: Vec<String>, rule: impl Fn(RuleId) -> Option<RuleRef>) -> Self {
        let name = |id: RuleId| match (id, rule(id)) {
            (RuleId(0), _) => String::new(),
            (_, Some(rule)) => rule.to_string(),
            (RuleId(id), None) => format!("rule {id}"),
        };
        let default = |d: &DirectionDefault| DefaultView { allow: d.allow, rule: name(d.rule) };
        Self {
            id: format!("{:016x}", row.id.0),
            endpoints,
            policies: row
                .policies
                .iter()
                .map(|(object, generation)| PolicyView { object: object.to_string(), generation: *generation })
                .collect(),
            ingress_default: default(&row.ingress_default),
            egress_default: default(&row.egress_default),
            entries: row.entries.iter().map(|(key, entry)| entry_view(key, *entry, name(entry.rule))).collect(),
        }
    }
}

fn entry_view(key: &PolicyKey, entry: PolicyEntry, rule: String) -> EntryView {
    let PeerClass(peer) = key.peer;
    EntryView {
        direction: match key.direction {
            Direction::Ingress => "ingress".into(),
            Direction::Egress => "egress".into(),
        },
        peer,
        protocol: key.protocol.map_or_else(|| "any".into(), |p| p.to_string()),
        port: port_range(key.port, key.port_bits),
        allow: entry.allow,
        rule,
        proxy_port: entry.proxy_port,
    }
}

/// The ports whose leading bits are those of `port`.
fn port_range(port: u16, bits: u8) -> String {
    match bits {
        0 => "any".into(),
        1..=15 => format!("{port}-{}", port | u16::MAX >> bits),
        _ => port.to_string(),
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde's skip_serializing_if asks for")]
fn is_zero(n: &u16) -> bool {
    *n == 0
}

#[cfg(test)]
mod tests {
    use axoneme_model::{Kind, ObjectRef, Protocol, rows::TableId};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_reads_without_its_numbers() {
        let key = |protocol, port, port_bits| PolicyKey {
            direction: Direction::Ingress,
            peer: PeerClass(300),
            protocol,
            port,
            port_bits,
        };
        let entry = |allow, rule| PolicyEntry { allow, audit: false, rule: RuleId(rule), proxy_port: 0, auth: 0 };
        let object = ObjectRef::new(Kind::NetworkPolicy, "shop", "web");
        let row = TableRow {
            id: TableId(0xab),
            ingress_default: DirectionDefault { allow: false, audit: false, rule: RuleId(1) },
            egress_default: DirectionDefault { allow: true, audit: false, rule: RuleId(0) },
            entries: BTreeMap::from([
                (key(None, 0, 0), entry(false, 1)),
                (key(Some(Protocol::TCP), 80, 16), entry(true, 9)),
                (key(Some(Protocol::UDP), 8080, 12), entry(true, 1)),
            ]),
            policies: BTreeMap::from([(object.clone(), 4)]),
        };
        let rule = RuleRef { object, path: "spec.ingress[0]".into() };
        let view = TableView::of(&row, vec!["shop/web-1".into()], |id| (id.0 == 1).then(|| rule.clone()));
        let name = "NetworkPolicy shop/web spec.ingress[0]";
        let e = |protocol, port, allow, rule| json!({"direction": "ingress", "peer": 300, "protocol": protocol, "port": port, "allow": allow, "rule": rule});
        assert_eq!(
            serde_json::to_value(view).unwrap(),
            json!({
                "id": "00000000000000ab",
                "endpoints": ["shop/web-1"],
                "policies": [{"object": "NetworkPolicy shop/web", "generation": 4}],
                "ingress_default": {"allow": false, "rule": name},
                "egress_default": {"allow": true, "rule": ""},
                "entries": [e("any", "any", false, name), e("TCP", "80", true, "rule 9"), e("UDP", "8080-8095", true, name)],
            })
        );
    }
}
