//! Policy tables: one per distinct set of rules (and of the subject's ports that they name).

use std::collections::BTreeMap;

use axoneme_model::{
    Action, Direction, ObjectRef, PeerClass,
    rows::{DirectionDefault, PolicyEntry, PolicyKey, RuleId, TableId, TableRow},
    verdict::{always_rule, own_host_rule},
    world::{ClusterConfig, Enforcement},
};

use crate::{
    ids::Ids,
    ports::{DEFAULT, Slot},
    resolve::{Class, OWN_HOST, Side},
    rules::{RuleIds, RuleKey, Rules},
    spec::{NamedPorts, RuleSpec},
};

/// What a table is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TableKey {
    /// Rules that apply, in order of evaluation.
    pub(crate) rules: Vec<RuleKey>,
    /// The subject's named ports that ingress rules read.
    pub(crate) named_ports: NamedPorts,
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
        let default = default(context.config, context.rule_ids, &rules, direction);
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
    direction: Direction,
) -> DirectionDefault {
    if let Some(rule) = rules.iter().find(|r| r.isolates(direction)) {
        return DirectionDefault { allow: false, rule: rule_ids.get(&rule.isolation) };
    }
    match config.enforcement {
        Enforcement::Always => DirectionDefault { allow: false, rule: rule_ids.get(&always_rule()) },
        Enforcement::Default | Enforcement::Never => DirectionDefault { allow: true, rule: RuleId(0) },
    }
}

pub(crate) fn side<'a>(
    config: &ClusterConfig,
    rules: &[&'a RuleSpec],
    key: &'a TableKey,
    direction: Direction,
    default: DirectionDefault,
) -> Side<'a> {
    let own_host =
        config.always_allow_own_host && config.enforcement != Enforcement::Never && direction == Direction::Ingress;
    Side {
        direction,
        entries: rules.iter().flat_map(|r| r.entries(direction)).collect(),
        isolated: !default.allow,
        own_host,
        named_ports: &key.named_ports,
    }
}

pub(crate) fn entry(rule_ids: &RuleIds, side: &Side<'_>, default: DirectionDefault, colour: u32) -> PolicyEntry {
    let (allow, rule) = match (colour, side.entries.get(colour as usize)) {
        (OWN_HOST, _) => (true, rule_ids.get(&own_host_rule())),
        (DEFAULT, _) | (_, None) => (default.allow, default.rule),
        (_, Some(entry)) => (entry.action == Action::Allow, rule_ids.get(&entry.rule)),
    };
    PolicyEntry { allow, rule, proxy_port: 0, auth: 0 }
}
