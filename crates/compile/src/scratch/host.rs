//! What guards the nodes themselves: one table a node, of the rules that select nodes.
//!
//! The table is made as those of pods are, by the same peers and the same order of evaluation, with three differences that
//! follow from the subject: the own node is no peer (to itself it may say anything, which is not looked up), default-deny
//! comes from rules alone (`policyEnforcementMode: always` means pods), and there are no named ports of the subject. A
//! node that no rule selects has no row, and is left alone.

use std::{collections::BTreeMap, sync::Arc};

use axoneme_model::{
    Safe, World,
    rows::{GuardRow, HostRow, RuleId, TableId},
};

use crate::{Assignments, Held, engine::guards::guard_key, rules::Rules, table::TableKey};

/// The rows of all nodes that some rule selects, each with its table: [`crate::compile`] of the same world, put together.
#[must_use]
pub fn hosts(world: &World, assignments: &Assignments, held: &Held) -> BTreeMap<Arc<str>, HostRow> {
    let compiled = super::compile(world, assignments, held);
    let id = |member: Safe| {
        let rule = member.rule();
        compiled.rows.rules.values().find(|r| r.rule == rule).map_or(RuleId(0), |r| r.id)
    };
    let row = |(node, guard): (&Arc<str>, &GuardRow)| {
        let row = HostRow {
            node: node.clone(),
            table: compiled.rows.tables.get(&guard.table)?.clone(),
            settings: world.config.host.clone(),
            apiserver: guard.apiserver.clone(),
            safe: Safe::ALL.into_iter().map(|member| (member, id(member))).collect(),
        };
        Some((node.clone(), row))
    };
    compiled.guards.iter().filter_map(row).collect()
}

pub(super) fn keys(world: &World, rules: &Rules) -> BTreeMap<Arc<str>, TableKey> {
    let key = |node| guard_key(&world.config, rules.iter(), node);
    world.nodes.iter().filter_map(|(name, node)| Some((name.clone(), key(node)?))).collect()
}

pub(super) fn guard(world: &World, table: TableId) -> GuardRow {
    let settings = &world.config.host;
    GuardRow {
        table,
        unprotected: settings.unprotected.clone(),
        overlay_port: settings.overlay_port,
        apiserver: world.apiserver_addresses.clone(),
    }
}
