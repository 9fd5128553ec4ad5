//! Deciding from rows alone, and holding it against the oracle.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use axoneme_compile::Compiled;
use axoneme_model::{
    Direction, RuleRef, Traffic, World,
    lookup::Whom,
    rows::{EndpointRow, PolicyEntry, RowSet, RuleId},
    verdict::{Side, verdict},
};

/// The rows of every node, as its agent has them.
#[derive(Debug)]
pub struct Nodes {
    all: RowSet,
    by_node: BTreeMap<Arc<str>, RowSet>,
}

impl Nodes {
    pub fn of(compiled: &Compiled) -> Self {
        let names: Vec<Arc<str>> = compiled.rows.endpoints.values().map(|e| e.node.clone()).collect();
        let by_node = names.into_iter().map(|n| (n.clone(), compiled.for_node(&n))).collect();
        Self { all: compiled.rows.clone(), by_node }
    }

    fn endpoint(&self, address: IpAddr) -> Option<&EndpointRow> {
        let pod = &self.all.find_ip(address)?.pod;
        self.all.endpoints.values().find(|e| format!("{}/{}", e.namespace, e.name) == **pod)
    }

    /// What the table of the pod at `own` says about `other`: none where no pod is.
    pub fn side(&self, direction: Direction, own: IpAddr, other: IpAddr, t: &Traffic) -> Option<PolicyEntry> {
        let endpoint = self.endpoint(own)?;
        let rows = &self.by_node[&endpoint.node];
        let table = rows.tables.get(&endpoint.table).expect("a node has the tables of its endpoints");
        let peer = Whom::new(rows.peer_of(other, &endpoint.node), other);
        Some(table.judge(direction, peer, t.protocol, t.port))
    }

    fn rule(&self, own: IpAddr, id: RuleId) -> Option<&RuleRef> {
        let rows = &self.by_node[&self.endpoint(own)?.node];
        (id != RuleId(0)).then(|| &rows.rules.get(&id).expect("a node knows the rules of its tables").rule)
    }
}

/// Nothing, or how the rows differ from the oracle.
pub fn differs(world: &World, nodes: &Nodes, t: &Traffic) -> Option<String> {
    let expected = verdict(world, t);
    let same_pod = match (nodes.endpoint(t.source), nodes.endpoint(t.destination)) {
        (Some(a), Some(b)) => a.uid == b.uid,
        _ => false,
    };
    if same_pod {
        return (!expected.allow).then(|| "a pod may always talk to itself".to_owned());
    }
    let egress = nodes.side(Direction::Egress, t.source, t.destination, t);
    let ingress = nodes.side(Direction::Ingress, t.destination, t.source, t);
    let sides = [("egress", t.source, egress, expected.egress), ("ingress", t.destination, ingress, expected.ingress)];
    sides.into_iter().find_map(|(name, own, found, expected)| {
        let wrong = match (&found, &expected) {
            (None, None) => false,
            (Some(f), Some(e)) => {
                f.allow != e.allow || f.audit != e.audit.is_some() || !explained(e, nodes.rule(own, f.rule))
            }
            _ => true,
        };
        wrong.then(|| {
            let rule = found.and_then(|f| nodes.rule(own, f.rule));
            format!("{name} of {t:?}\n  rows:   {found:?} by {rule:?}\n  oracle: {expected:?}")
        })
    })
}

/// The entry names a rule that the oracle accepts, or none where none decided: of what would be denied, one that would.
fn explained(side: &Side, rule: Option<&RuleRef>) -> bool {
    let accepted = side.audit.as_ref().map_or(&side.rules, |would| &would.rules);
    match rule {
        Some(rule) => accepted.contains(rule),
        None => accepted.is_empty(),
    }
}
