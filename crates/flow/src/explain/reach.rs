//! Who may connect to a pod, and at which ports.

use std::collections::{BTreeMap, BTreeSet};

use axoneme_model::{
    Direction, Identity, Protocol,
    lookup::{Whom, mask},
    rows::{RowSet, RuleId, TableRow},
};
use serde::{Deserialize, Serialize};

use super::{End, ends, rule};

/// Protocols that are asked about even where no entry names them.
const PROTOCOLS: [Protocol; 5] = [Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::ICMP, Protocol::ICMPV6];

/// Who may connect to a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Access {
    pub pod: String,
    pub table: String,
    /// Whether any policy isolates its ingress.
    pub isolated: bool,
    /// Those that may, by what policy tells apart.
    pub groups: Vec<Group>,
    /// What is not in this answer.
    pub caveats: Vec<String>,
}

/// Peers that the pod's table takes for the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Group {
    /// Pods as `namespace/name`, or prefixes.
    pub who: Vec<String>,
    pub identity: u32,
    /// `TCP 80`, `UDP 0-1023`, `TCP any port`; `everything`.
    pub may: Vec<String>,
    /// The rules that let it.
    pub rules: Vec<String>,
}

/// Who may connect to the pod, by its own table: a source's egress policy is not part of the answer.
pub fn who_can(rows: &RowSet, own_host: bool, target: &str) -> Result<Access, String> {
    let target_ends = ends(rows, "target", target)?;
    let Some(endpoint) = target_ends.iter().find_map(|e| e.endpoint) else {
        let node = target_ends.first().map_or("", |e: &End<'_>| e.node);
        let place = if node.is_empty() { "it is no pod".to_owned() } else { format!("it runs on {node}: ask there") };
        return Err(format!("target {target:?}: its policy is not known here; {place}"));
    };
    let Some(table) = rows.tables.get(&endpoint.table) else {
        return Err(format!("target {target:?}: its policy table is not here yet"));
    };
    let families: BTreeSet<bool> = target_ends.iter().map(|e| e.address.is_ipv6()).collect();
    let mut groups: BTreeMap<(Whom, Identity), Vec<String>> = BTreeMap::new();
    for row in rows.ips.values().filter(|r| families.contains(&r.prefix.is_ipv6())) {
        let address = row.prefix.ip();
        let own = format!("{}/{}", endpoint.namespace, endpoint.name);
        if *row.pod == own {
            continue;
        }
        let (identity, class) = rows.peer_of(address, &endpoint.node);
        let whom = Whom::new((identity, class), address);
        let name = if row.pod.is_empty() { named(identity, &row.prefix.to_string()) } else { row.pod.to_string() };
        groups.entry((whom, identity)).or_default().push(name);
    }
    let judged =
        groups.into_iter().filter_map(|((whom, identity), who)| group(rows, table, (whom, identity), who, own_host));
    let mut groups: Vec<Group> = judged.collect();
    groups.sort_by(|a, b| (&a.who, a.identity).cmp(&(&b.who, b.identity)));
    // both families of the same pods
    groups.dedup();
    Ok(Access {
        pod: format!("{}/{}", endpoint.namespace, endpoint.name),
        table: format!("{:016x}", endpoint.table.0),
        isolated: !table.ingress_default.allow,
        groups,
        caveats: vec!["what the sources' own egress policies say is not part of this".to_owned()],
    })
}

fn named(identity: Identity, prefix: &str) -> String {
    identity.reserved_name().map_or_else(|| prefix.to_owned(), |name| format!("{name} {prefix}"))
}

fn group(
    rows: &RowSet,
    table: &TableRow,
    (whom, identity): (Whom, Identity),
    mut who: Vec<String>,
    own_host: bool,
) -> Option<Group> {
    who.sort();
    who.dedup();
    if own_host && identity == Identity::HOST {
        let may = vec!["everything".to_owned()];
        return Some(Group {
            who,
            identity: identity.0,
            may,
            rules: vec!["the pod's own node may always reach it".into()],
        });
    }
    let mut rules = BTreeSet::new();
    let mut may = Vec::new();
    let mut whole = true;
    for protocol in PROTOCOLS {
        let ranges = allowed(table, whom, protocol, &mut rules);
        whole &= ranges == [(0, u16::MAX)];
        may.extend(ranges.into_iter().map(|(from, to)| match (from, to) {
            (0, u16::MAX) => format!("{protocol} any port"),
            (from, to) if from == to => format!("{protocol} {from}"),
            (from, to) => format!("{protocol} {from}-{to}"),
        }));
    }
    if whole {
        may = vec!["everything".to_owned()];
    }
    let rules = rules.into_iter().map(|id| rule(rows, id)).filter(|r| !r.is_empty()).collect();
    (!may.is_empty()).then_some(Group { who, identity: identity.0, may, rules })
}

/// Ranges of ports that are allowed: the verdict can only change where some entry begins or ends.
fn allowed(table: &TableRow, whom: Whom, protocol: Protocol, rules: &mut BTreeSet<RuleId>) -> Vec<(u16, u16)> {
    let mut edges = BTreeSet::from([0u16]);
    for key in table.entries.keys().filter(|k| k.direction == Direction::Ingress && k.protocol == Some(protocol)) {
        edges.insert(key.port);
        edges.extend((key.port | !mask(key.port_bits)).checked_add(1));
    }
    let edges: Vec<u16> = edges.into_iter().collect();
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for (n, from) in edges.iter().copied().enumerate() {
        let to = edges.get(n + 1).map_or(u16::MAX, |next| next - 1);
        let verdict = table.judge(Direction::Ingress, whom, protocol, from);
        if !verdict.allow {
            continue;
        }
        rules.insert(verdict.rule);
        match ranges.last_mut() {
            Some(last) if last.1.checked_add(1) == Some(from) => last.1 = to,
            _ => ranges.push((from, to)),
        }
    }
    ranges
}
