//! Wishes become kernel state, acknowledgements and reports.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use axoneme_cni::protocol::Attachment;
use axoneme_kernel::{
    datapath::{Datapath, EndpointEntry, IpEntry, Limit},
    grace::GracePeriods,
};
use axoneme_model::{Bandwidth, Identity, rows::TableId};
use axoneme_table::Outcome;
use axoneme_wire::{Nack, NodeReport, RowKey};
use ipnetwork::IpNetwork;

use super::{Engine, Outgoing, attach::Refusal, health, later, targets};
use crate::{
    endpoint::Phase,
    store,
    tables::{Moves, Refused, Run},
};

/// Between two attempts to let addresses change hands.
const COMMIT_RETRY: Duration = Duration::from_millis(200);

/// What an endpoint should be to the datapath.
struct InForce {
    identity: u32,
    peer: u32,
    slot: u16,
    table: u64,
    bandwidth: Bandwidth,
}

impl Engine {
    /// Brings the kernel to what is wanted as far as it goes, answers who waits, and tells the operator.
    pub(super) fn settle(&mut self) {
        self.counters.reconciles += 1;
        self.settle_base();
        self.look_at_underlay();
        self.settle_base();
        self.retry_removals();
        self.collect_lost();
        self.look_at_room();
        if let Some(datapath) = self.datapath.clone() {
            self.want_health();
            self.settle_datapath(&*datapath);
            self.settle_programs();
            self.settle_health();
            self.settle_guard(&*datapath);
            self.look_for_drift();
            self.acknowledge();
        }
        self.serve_waiting();
        self.report_node();
        self.keep_rows();
    }

    /// Removals that failed before.
    fn retry_removals(&mut self) {
        let now = self.parts.clock.now();
        if self.removal_retry_at.is_none_or(|at| at > now) {
            return;
        }
        self.removal_retry_at = None;
        let left = self.endpoints.iter().filter(|(_, e)| e.intent.phase == Phase::Removing && !e.doomed);
        for attachment in left.map(|(a, _)| a.clone()).collect::<Vec<_>>() {
            self.teardown(&attachment);
        }
    }

    /// Tables that nobody uses yet; then, of tables in use, what must be there before addresses change hands; then that,
    /// for all of them at once; then the rest.
    fn settle_datapath(&mut self, datapath: &dyn Datapath) {
        let now = self.parts.clock.now();
        let made = self.tables.put_new(now, &self.rows.rows().tables, datapath, &*self.parts.store);
        self.touch_users(&made.settled);
        let mut dirty = std::mem::take(&mut self.dirty);
        for attachment in &dirty {
            self.wish_endpoint(attachment);
        }
        let moves = self.moves();
        let run = self.tables.run(now, &self.rows.rows().tables, &moves, datapath, &*self.parts.store);
        self.touch_users(&run.settled);
        for attachment in std::mem::take(&mut self.dirty) {
            self.wish_endpoint(&attachment);
            dirty.insert(attachment);
        }
        let outcome = self.apply(datapath);
        let rest = self.tables.finish(now, datapath);
        let tables_retry_at = [made.retry_at, rest.retry_at].into_iter().flatten().min();
        for run in [&made, &run, &rest] {
            self.counters.kernel_writes += run.writes as u64;
            self.refuse_tables(run);
        }
        let in_use: BTreeSet<u16> =
            self.entries.iter_desired().map(|(k, e)| self.entries.observed(k).unwrap_or(e).slot).collect();
        let in_use = in_use.into_iter().chain(self.guard.slot()).collect();
        let prune = self.initialized() && outcome.failures == 0;
        match self.tables.sweep(&in_use, prune, datapath, &*self.parts.store) {
            Ok(writes) => self.counters.kernel_writes += writes as u64,
            Err(error) => tracing::warn!(%error, "a policy table that is no longer used stays for now"),
        }
        self.retry_at = [tables_retry_at, outcome.retry_at].into_iter().flatten().min();
        for attachment in dirty {
            self.report_endpoint(&attachment);
        }
    }

    /// Addresses that are about to pass from one class to another.
    fn moves(&self) -> Moves {
        let mut moves = Moves::default();
        for (prefix, old, new) in self.ips.pending() {
            // a pod that comes or goes takes its address along: nobody speaks to it before or after
            let lasting = |entry: &&IpEntry| entry.identity < Identity::FIRST.0;
            match (old, new) {
                (Some(old), Some(new)) if (old.identity, old.peer) != (new.identity, new.peer) => {
                    moves.add(old.peer, new.peer);
                }
                (Some(old), None) if lasting(&old) => moves.add(old.peer, self.around(*prefix)),
                (None, Some(new)) if lasting(&new) => moves.add(self.around(*prefix), new.peer),
                _ => {}
            }
        }
        for (old, new) in self.entries.pending().filter_map(|(_, old, new)| old.zip(new)) {
            if (old.identity, old.peer) != (new.identity, new.peer) {
                moves.add(old.peer, new.peer);
            }
            if old.slot != new.slot {
                moves.add_slot(old.slot, new.slot);
            }
        }
        moves
    }

    /// The class of a prefix's addresses where the prefix itself says nothing.
    fn around(&self, prefix: IpNetwork) -> u32 {
        let wider = (0..prefix.prefix()).rev().filter_map(|bits| IpNetwork::new(prefix.ip(), bits).ok());
        let wider = wider.filter_map(|p| IpNetwork::new(p.network(), p.prefix()).ok());
        let said = wider.filter_map(|p| self.ips.observed(&p)).map(|entry| entry.peer).next();
        said.unwrap_or(Identity::WORLD.0)
    }

    /// Runs the reconcilers: addresses and services before the endpoints that need them. Who is behind addresses changes
    /// for all of them in one moment.
    pub(super) fn apply(&mut self, datapath: &dyn Datapath) -> Outcome {
        let (now, prune) = (self.parts.clock.now(), self.initialized());
        let mut total = Outcome::default();
        let mut add = |o: Outcome| {
            total.writes += o.writes;
            total.failures += o.failures;
            total.held += o.held;
            total.retry_at = [total.retry_at, o.retry_at].into_iter().flatten().min();
            o.writes
        };
        // before a packet can come by the endpoints that they are of
        add(self.limits.run(now, prune, &mut targets::Limits(datapath)));
        let mut staged = add(self.ips.run(now, prune, &mut targets::Ips(datapath)));
        add(self.services.run(now, prune, &mut targets::Services(datapath)));
        staged += add(self.entries.run(now, prune, &mut targets::Entries(datapath)));
        self.uncommitted |= staged > 0;
        if self.uncommitted {
            let _short = self.parts.grace.as_deref().map(GracePeriods::shorten);
            match datapath.commit() {
                Ok(()) => self.uncommitted = false,
                Err(error) => {
                    tracing::error!(%error, "addresses have not changed hands; it is tried again");
                    total.failures += 1;
                    total.retry_at = Some(total.retry_at.map_or(now + COMMIT_RETRY, |at| at.min(now + COMMIT_RETRY)));
                }
            }
        }
        let routes = self.routes.run(now, prune, &mut targets::Routes(&*self.parts.network));
        total.writes += routes.writes;
        total.failures += routes.failures;
        total.held += routes.held;
        total.retry_at = [total.retry_at, routes.retry_at].into_iter().flatten().min();
        self.counters.kernel_writes += total.writes as u64;
        total
    }

    /// Endpoints whose table has just come into force.
    fn touch_users(&mut self, tables: &[TableId]) {
        let rows = &self.rows.rows().endpoints;
        let users = self.endpoints.iter().filter(|(_, e)| {
            rows.get(&e.intent.uid).is_some_and(|r| tables.contains(&r.table))
                || tables.contains(&TableId(e.intent.table))
        });
        self.dirty.extend(users.map(|(a, _)| a.clone()));
    }

    /// The row's view, where its table is in force; else what was last in force; none where nothing ever was.
    fn in_force(&self, attachment: &Attachment) -> Option<InForce> {
        let intent = &self.endpoints.get(attachment)?.intent;
        // rows of the copy may be older than what was put in force last
        let row = self.rows.rows().endpoints.get(&intent.uid).filter(|_| !self.former.in_use());
        let (identity, peer) = row.map_or((intent.identity, intent.peer), |r| (r.identity.0, r.peer.0));
        let bandwidth = row.map_or(intent.bandwidth, |r| r.bandwidth);
        if let Some(row) = row
            && let Some(slot) = self.tables.slot_in_force(row.table)
        {
            return Some(InForce { identity, peer, slot, table: row.table.0, bandwidth });
        }
        let held = intent.addresses.iter().find_map(|a| self.entries.observed(a)).map(|e| e.slot);
        let slot = self.tables.slot_in_force(TableId(intent.table)).or(held)?;
        Some(InForce { identity, peer, slot, table: intent.table, bandwidth })
    }

    /// Wants an endpoint's entries as they should be now.
    pub(super) fn wish_endpoint(&mut self, attachment: &Attachment) {
        let in_force = self.in_force(attachment);
        let Some(endpoint) = self.endpoints.get_mut(attachment) else { return };
        let wanted = endpoint.ifindex.zip(in_force).filter(|_| endpoint.intent.phase != Phase::Removing);
        let Some((ifindex, state)) = wanted else {
            if endpoint.intent.phase == Phase::Live {
                endpoint.fault = Some(match endpoint.ifindex {
                    None => format!("link {} is gone: its pod has no network", endpoint.intent.host_name),
                    Some(_) => "no policy table is in force: its pod is fenced".to_owned(),
                });
            }
            let addresses: Vec<IpAddr> = endpoint.intent.addresses.iter().copied().collect();
            self.unwish(&addresses);
            return;
        };
        endpoint.fault = None;
        let entry = EndpointEntry {
            ifindex,
            identity: state.identity,
            peer: state.peer,
            slot: state.slot,
            mac: endpoint.intent.pod_mac,
        };
        let ip = IpEntry { identity: state.identity, peer: state.peer, tunnel: None, is_node: false, direct: false };
        let Bandwidth { ingress, egress } = state.bandwidth;
        if state.bandwidth.is_some() {
            self.limits.set(ifindex, Limit { mac: endpoint.intent.pod_mac, ingress, egress });
        } else {
            self.limits.release(&ifindex);
        }
        for address in &endpoint.intent.addresses {
            self.ips.set(IpNetwork::from(*address), ip);
            self.entries.set(*address, entry);
        }
        let intent = &mut endpoint.intent;
        let before = (intent.identity, intent.peer, intent.table, intent.bandwidth);
        let now = (state.identity, state.peer, state.table, state.bandwidth);
        (intent.identity, intent.peer, intent.table, intent.bandwidth) = now;
        if before != now
            && let Err(error) = store::save(&*self.parts.store, &intent.document(), intent)
        {
            tracing::warn!(%error, pod = %intent.name, "its state is not on disk: a restart would begin with the former one");
        }
    }

    /// No longer wants entries for these addresses.
    pub(super) fn unwish(&mut self, addresses: &[IpAddr]) {
        for address in addresses {
            self.entries.unset(address);
            self.ips.unset(&IpNetwork::from(*address));
        }
    }

    /// Whether the datapath holds exactly what is wanted for the endpoint.
    pub(super) fn is_applied(&self, attachment: &Attachment) -> bool {
        self.endpoints.get(attachment).is_some_and(|e| {
            e.intent.addresses.iter().all(|a| self.entries.is_applied(a) && self.ips.is_applied(&IpNetwork::from(*a)))
        })
    }

    fn report_endpoint(&mut self, attachment: &Attachment) {
        let applied = self.is_applied(attachment);
        let Some(endpoint) = self.endpoints.get_mut(attachment) else { return };
        if endpoint.intent.phase != Phase::Live || health::is_ours(attachment) {
            return;
        }
        let report = endpoint.intent.report(applied && endpoint.fault.is_none(), false);
        if endpoint.reported.as_ref() != Some(&report) {
            endpoint.reported = Some(report.clone());
            self.outgoing.push(Outgoing::Endpoint(report));
        }
    }

    /// The operator is told with the next acknowledgement, which this makes due.
    fn refuse_tables(&mut self, run: &Run) {
        for Refused { id, message } in &run.refused {
            tracing::error!(row = %RowKey::Table(*id), error = message, "not in force; the last good content stays");
            self.refused.insert(*id);
            self.counters.rows_refused += 1;
            self.acked = None;
        }
        for id in &run.settled {
            if self.refused.remove(id) {
                self.acked = None;
            }
        }
    }

    /// What is not in force, with the reason. Told with every acknowledgement: the operator forgets what is older.
    fn refusals(&self) -> Vec<(RowKey, String)> {
        let ips = self.ips.failures().map(|(k, f, _)| (RowKey::Ip(*k), f.message.clone()));
        let services = self.services.failures().filter_map(|(k, f, _)| {
            let owner = self.frontends.iter().find(|(_, keys)| keys.contains(k)).map(|(o, _)| o.clone())?;
            Some((RowKey::Service(owner.0, owner.1), f.message.clone()))
        });
        let tables = self
            .tables
            .iter()
            .filter_map(|(id, ..)| Some((RowKey::Table(id), self.tables.refusal(id)?.message.clone())));
        ips.chain(services).chain(tables).chain(self.guard.refusal()).collect()
    }

    fn acknowledge(&mut self) {
        // without the tunnel that it is told of it cannot take what others would send by it, once all acknowledge
        let lacking = self.base.error.is_some() || self.base.tunnels.lack.is_some();
        if lacking || self.rows.at() == self.acked {
            return;
        }
        let Some(at) = self.rows.at() else { return };
        for (key, reason) in self.refusals() {
            self.outgoing.push(Outgoing::Nack(Nack { revision: at.revision, key: Some(key), reason }));
        }
        self.outgoing.push(Outgoing::Ack(at));
        self.acked = Some(at);
    }

    /// Tries those who wait again, and turns away those who have waited too long.
    fn serve_waiting(&mut self) {
        let now = self.parts.clock.now();
        for mut waiting in std::mem::take(&mut self.waiting) {
            if waiting.reply.is_closed() {
                continue;
            }
            let answer = match self.serve(&waiting.request, waiting.netns.as_ref()) {
                Ok(value) => axoneme_cni::Answer::Done(value),
                Err(Refusal::Failed(failure)) => axoneme_cni::Answer::Failed(failure),
                Err(Refusal::Wait(reason)) if now < waiting.since + self.parts.add_deadline => {
                    waiting.reason = reason;
                    self.waiting.push(waiting);
                    continue;
                }
                Err(Refusal::Wait(reason)) => axoneme_cni::Answer::Failed(later(reason)),
            };
            let _ = waiting.reply.send(answer);
        }
    }

    fn report_node(&mut self) {
        let reasons = self.unready();
        let addresses = Vec::new();
        let capabilities = self.parts.warnings.iter().map(|w| ("warning".to_owned(), w.clone())).collect();
        let (blocks_version, released) = self.ipam.released(self.parts.clock.now());
        let ready = reasons.is_empty();
        let proof = self.health.proof(self.rows.rows().config.as_ref());
        let report = NodeReport { ready, reasons, addresses, capabilities, blocks_version, released, proof };
        if self.reported.as_ref() != Some(&report) {
            self.reported = Some(report.clone());
            self.outgoing.push(Outgoing::Node(report));
        }
    }
}
