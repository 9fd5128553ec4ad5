use std::{collections::BTreeMap, sync::Arc};

use axoneme_model::rows::{GuardRow, NodeConfigRow, RowSet, TableId};
use proptest::{collection as many, option, prelude::*};
use prost::Message as _;

use super::super::views::Views;
use crate::{
    Row, RowChange, RowKey, RowType,
    change::apply,
    convert::{
        Wire,
        tests::{change, config, endpoint, guard, patch, rule, table},
    },
    pb,
};

/// Changes over few keys, so that they meet.
fn few() -> impl Strategy<Value = RowChange> {
    let name = || prop_oneof![Just(Arc::from("a")), Just(Arc::from("b")), Just(Arc::from("c"))];
    let node = || prop_oneof![Just(Arc::from("n1")), Just(Arc::from("n2")), Just(Arc::from(""))];
    prop_oneof![
        3 => endpoint(name(), node(), 1..4u64).prop_map(|r| RowChange::Upsert(Row::Endpoint(r.into()))),
        2 => table(1..4u64).prop_map(|r| RowChange::Upsert(Row::Table(Arc::new(r)))),
        2 => patch(1..4u64).prop_map(RowChange::Patch),
        2 => rule(1..9u32).prop_map(|r| RowChange::Upsert(Row::Rule(r))),
        1 => name().prop_map(|n| RowChange::Remove(RowKey::Endpoint(n))),
        2 => (config(node()), option::of(1..4u64)).prop_map(|(mut r, table)| {
            r.guard = table.map(|t| GuardRow { table: TableId(t), ..r.guard.unwrap_or_else(guard) });
            RowChange::Upsert(Row::Config(Arc::new(r)))
        }),
        1 => node().prop_map(|n| RowChange::Remove(RowKey::Config(n))),
        1 => change().prop_filter("others", |c| matches!(c.key().row_type(), RowType::Ip | RowType::Node | RowType::Service)),
    ]
}

/// What the node should have, said as plainly as possible.
fn expected(all: &RowSet, configs: &BTreeMap<Arc<str>, NodeConfigRow>, node: &str) -> RowSet {
    let (endpoints, config) = (&all.endpoints, configs.get(node).cloned());
    let guard = config.as_ref().and_then(|c| c.guard.as_ref()).map(|g| g.table);
    let endpoints: BTreeMap<_, _> =
        endpoints.iter().filter(|(_, e)| &*e.node == node).map(|(k, e)| (k.clone(), e.clone())).collect();
    let tables: BTreeMap<_, _> = endpoints
        .values()
        .map(|e| e.table)
        .chain(guard)
        .filter_map(|t| Some((t, all.tables.get(&t)?.clone())))
        .collect();
    let named = tables
        .values()
        .flat_map(|t| t.entries.values().map(|e| e.rule).chain([t.ingress_default.rule, t.egress_default.rule]));
    let rules = named.filter_map(|r| Some((r, all.rules.get(&r)?.clone()))).collect();
    RowSet { endpoints, tables, rules, config, ..all.clone() }
}

/// The changes that a frame holds.
fn decoded(frame: bytes::Bytes) -> Vec<RowChange> {
    let message = pb::OperatorMessage::decode(frame).unwrap();
    let Some(pb::operator_message::Body::Changes(c)) = message.body else { panic!("no changes") };
    c.changes.into_iter().map(|c| RowChange::from_message(c).unwrap()).collect()
}

proptest! {
    #[test]
    fn a_node_has_what_its_endpoints_need_and_nothing_else(steps in many::vec(many::vec(few(), 1..4), 1..20)) {
        let mut views = Views::default();
        let mut all = RowSet::default();
        let mut configs: BTreeMap<Arc<str>, NodeConfigRow> = BTreeMap::new();
        let mut held: BTreeMap<&str, RowSet> = BTreeMap::from([("n1", RowSet::default()), ("n2", RowSet::default())]);
        for (i, step) in steps.into_iter().enumerate() {
            // the compiler patches only tables that exist
            let known = |c: &RowChange| match c {
                RowChange::Patch(p) => all.tables.contains_key(&p.id),
                _ => true,
            };
            let mut step: Vec<_> = step.into_iter().filter(known).collect();
            crate::change::sort(&mut step);
            for c in &step {
                match c {
                    RowChange::Upsert(Row::Config(r)) => drop(configs.insert(r.node.clone(), NodeConfigRow::clone(r))),
                    RowChange::Remove(RowKey::Config(n)) => drop(configs.remove(n)),
                    other => apply(&mut all, other.clone()).unwrap(),
                }
            }
            let delta = views.apply(i as u64 + 1, step, false);
            for (node, set) in &mut held {
                let own = delta.own.get(*node).into_iter().flatten();
                let mut changes: Vec<_> = delta.shared.iter().chain(own).map(|e| e.change.clone()).collect();
                crate::change::sort(&mut changes);
                for c in changes {
                    apply(set, c).unwrap();
                }
                prop_assert_eq!(&*set, &expected(&all, &configs, node), "node {}", node);
                // a snapshot says the same
                let mut fresh = RowSet::default();
                let own = views.own(node).into_iter().flat_map(|(_, rows)| rows).map(|e| e.change.clone());
                let shared = views.shared().into_iter().flat_map(|(_, frames)| frames).flat_map(decoded);
                for change in shared.chain(own) {
                    apply(&mut fresh, change).unwrap();
                }
                prop_assert_eq!(&*set, &fresh, "snapshot of node {}", node);
            }
        }
    }
}
