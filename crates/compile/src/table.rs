//! Policy tables: one per distinct set of rules (and of the subject's ports that they name).

use std::{
    collections::BTreeMap,
    hash::{Hash, Hasher},
};

use axoneme_model::{
    Action, Direction, ObjectRef, PeerClass,
    rows::{DirectionDefault, PolicyEntry, PolicyKey, RuleId, TableId, TableRow},
    verdict::{always_rule, own_host_rule},
    world::{ClusterConfig, Enforcement},
};

use crate::{
    ids::Ids,
    ports::{DEFAULT, Isolation, Slot, WOULD_DENY, WOULD_ISOLATE},
    resolve::{Class, OWN_HOST, Side},
    rules::{RuleIds, RuleKey, Rules},
    spec::{NamedPorts, RuleSpec},
};

/// What a table is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TableKey {
    /// Rules that apply, in order of evaluation.
    pub(crate) rules: Vec<RuleKey>,
    /// The subject's named ports that ingress rules read.
    pub(crate) named_ports: NamedPorts,
    /// The rules are told, not enforced.
    pub(crate) audit: bool,
    /// Its subjects are nodes: there, default-deny comes from rules alone, and the own node is no peer.
    pub(crate) nodes: bool,
}

impl Hash for TableKey {
    /// A table that is enforced has the id that it had before there were others.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.rules.hash(state);
        self.named_ports.hash(state);
        if self.audit {
            "audit".hash(state);
        }
        if self.nodes {
            "nodes".hash(state);
        }
    }
}

pub(crate) fn table_ids() -> Ids<TableKey> {
    Ids::new("table", 1..=u64::MAX)
}

pub(crate) struct Context<'a> {
    pub(crate) config: &'a ClusterConfig,
    pub(crate) rules: &'a Rules,
    pub(crate) rule_ids: &'a RuleIds,
    pub(crate) classes: &'a [Class<'a>],
}

/// A whole table.
pub(crate) fn table_row(context: &Context<'_>, id: TableId, key: &TableKey) -> TableRow {
    let rules: Vec<&RuleSpec> = key.rules.iter().filter_map(|k| context.rules.get(k)).collect();
    let mut entries = BTreeMap::new();
    let [ingress_default, egress_default] = [Direction::Ingress, Direction::Egress].map(|direction| {
        let default = default(context.config, context.rule_ids, &rules, key, direction);
        let side = side(context.config, &rules, key, direction, default);
        let levels = side.levels();
        let mut add = |peer: PeerClass, slots: &[Slot]| {
            for slot in slots {
                let key = PolicyKey { direction, peer, protocol: slot.0, port: slot.1, port_bits: slot.2 };
                entries.insert(key, entry(context.rule_ids, &side, default, slot.3));
            }
        };
        levels.entries().for_each(|(peer, slots)| add(peer, slots));
        context.classes.iter().for_each(|c| add(c.id, &side.peer(c, &levels)));
        default
    });
    let policies: BTreeMap<ObjectRef, i64> = rules.iter().map(|r| (r.object.clone(), r.generation)).collect();
    TableRow { id, ingress_default, egress_default, entries, policies }
}

pub(crate) fn default(
    config: &ClusterConfig,
    rule_ids: &RuleIds,
    rules: &[&RuleSpec],
    key: &TableKey,
    direction: Direction,
) -> DirectionDefault {
    let (always, audit) = (config.enforcement == Enforcement::Always && !key.nodes, key.audit);
    let isolates = |r: &&&RuleSpec| r.isolates(direction);
    let id = |rule: Option<&&RuleSpec>| rule_ids.get(&rule.map_or_else(always_rule, |r| r.isolation.clone()));
    let enforced = rules.iter().filter(|r| !audit && !r.audit).find(isolates);
    if enforced.is_some() || (always && !audit) {
        return DirectionDefault { allow: false, audit: false, rule: id(enforced) };
    }
    let whole = rules.iter().find(isolates);
    if whole.is_some() || always {
        return DirectionDefault { allow: true, audit: true, rule: id(whole) };
    }
    DirectionDefault { allow: true, audit: false, rule: RuleId(0) }
}

pub(crate) fn side<'a>(
    config: &ClusterConfig,
    rules: &[&'a RuleSpec],
    key: &'a TableKey,
    direction: Direction,
    default: DirectionDefault,
) -> Side<'a> {
    let own_host = config.always_allow_own_host
        && !key.nodes
        && config.enforcement != Enforcement::Never
        && direction == Direction::Ingress;
    Side {
        direction,
        entries: rules.iter().flat_map(|r| r.entries(direction)).collect(),
        isolated: Isolation { enforced: !default.allow, whole: !default.allow || default.audit },
        audit: key.audit,
        own_host,
        named_ports: &key.named_ports,
    }
}

pub(crate) fn entry(rule_ids: &RuleIds, side: &Side<'_>, default: DirectionDefault, colour: u32) -> PolicyEntry {
    let would_deny = (WOULD_DENY..WOULD_ISOLATE).contains(&colour);
    let position = if would_deny { colour & !WOULD_DENY } else { colour };
    let (allow, audit, rule) = match (colour, side.entries.get(position as usize)) {
        (OWN_HOST, _) => (true, false, rule_ids.get(&own_host_rule())),
        (WOULD_ISOLATE, _) => (true, true, default.rule),
        (DEFAULT, _) | (_, None) => (default.allow, default.audit, default.rule),
        (_, Some(entry)) => (would_deny || entry.action == Action::Allow, would_deny, rule_ids.get(&entry.rule)),
    };
    PolicyEntry { allow, audit, rule, proxy_port: 0, auth: 0 }
}
