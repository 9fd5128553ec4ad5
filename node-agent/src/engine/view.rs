//! The engine's state for people.

use std::collections::BTreeMap;

use axoneme_cni::protocol::Attachment;
use axoneme_flow::admin::{
    EndpointStatus, IdentityView, LimitView, OverrideView, PoolUsage, Problem, Status, Stream, TableView,
};
use axoneme_kernel::datapath::Limit;
use axoneme_model::rows::{OverrideRow, RowSet};

use super::{Engine, health};
use crate::{endpoint::Phase, plan::Ways, status::NodeStatus};

impl Engine {
    /// A snapshot for the admin socket.
    pub fn view(&self) -> NodeStatus {
        NodeStatus {
            status: self.status_document(),
            epoch: self.rows.at().map_or(0, |r| r.epoch),
            counters: self.counters,
            drift: self.not_in_force(),
        }
    }

    fn status_document(&self) -> Status {
        let (rows, reasons) = (self.rows.rows(), self.unready());
        let base = self.base.plan.as_ref();
        Status {
            node: self.parts.node.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ready: reasons.is_empty(),
            reasons,
            warnings: self.warnings(),
            stream: Stream {
                connected: self.link.connected,
                operator: self.link.operator.clone(),
                address: self.link.address.clone(),
                reason: self.link.reason.clone(),
            },
            revision: self.rows.at().map_or(0, |r| r.revision),
            acknowledged: self.acked.map_or(0, |r| r.revision),
            devices: base.iter().flat_map(|b| &b.devices).map(|(n, _)| n.clone()).collect(),
            addresses: base.iter().flat_map(|b| &b.addresses).map(ToString::to_string).collect(),
            mtu: base.map_or(0, |b| b.mtu),
            routing: self.routing().to_owned(),
            nodes: rows.nodes.len() as u64,
            identities: rows.identities.len() as u64,
            ips: self.ips.len() as u64,
            frontends: self.services.len() as u64,
            tables: self.tables.iter().filter(|(.., in_force)| *in_force).count() as u64,
            pools: self.pools(),
            waiting: self.waiting.iter().map(|w| w.reason.clone()).collect(),
            endpoints: self.view_endpoints(),
            problems: self.problems(),
            maps: self.room.view(),
            overrides: self.overrides(),
            ..Status::default()
        }
    }

    fn routing(&self) -> &'static str {
        match self.base.datapath.as_ref().filter(|_| self.base.attached) {
            None => "",
            Some(d) if d.native_routing => "native",
            Some(d) if d.direct => "hybrid",
            Some(_) => "overlay",
        }
    }

    fn warnings(&self) -> Vec<String> {
        let mut out = self.parts.warnings.clone();
        if self.former.in_use() {
            out.push("no operator has sent rows yet: new pods get those that this node had last".to_owned());
        }
        out.extend(self.endpoints.values().filter_map(|e| e.unfit.clone()));
        out.extend(self.base.tunnels.lack.iter().map(|why| format!("no node changes to the new tunnel yet: {why}")));
        if self.base.wants_netkit() && self.base.netkit == Some(false) {
            out.push(
                "spec.podDevice is Netkit, and this kernel has no netkit devices (they came with 6.7, CONFIG_NETKIT): new pods \
                 get veth pairs"
                    .to_owned(),
            );
        }
        let underlay = self.base.plan.as_ref().map(|b| &*b.underlay).unwrap_or_default();
        let off_link = Ways::of(self.rows.rows(), &self.parts.node).not_on_link(underlay);
        out.extend(off_link.into_iter().map(|s| {
            format!("{s} of spec.routing.hybrid.subnets is not on a link of this node: it sends to nodes there by the tunnel")
        }));
        out.extend(self.former.failed().map(|why| format!("the last rows are not kept on disk: {why}")));
        out
    }

    fn overrides(&self) -> Vec<OverrideView> {
        let Some(config) = &self.rows.rows().config else { return Vec::new() };
        let applied = self.is_set_up();
        let view = |o: &OverrideRow| OverrideView {
            setting: o.setting.to_string(),
            value: o.value.to_string(),
            cluster: o.cluster.to_string(),
            from: o.from.to_string(),
            applied,
        };
        config.overrides.iter().map(view).collect()
    }

    fn pools(&self) -> Vec<PoolUsage> {
        let usage = self.ipam.usage().into_iter();
        usage
            .map(|u| PoolUsage {
                pool: u.pool,
                family: u.family.to_owned(),
                size: u.size.into(),
                used: u.used as u64,
                resting: u.resting as u64,
            })
            .collect()
    }

    fn view_endpoints(&self) -> Vec<EndpointStatus> {
        let limited = self.datapath.as_ref().filter(|_| !self.limits.is_empty());
        let drops: BTreeMap<_, _> =
            limited.and_then(|d| d.limit_drops().ok()).unwrap_or_default().into_iter().collect();
        let own = self.endpoints.keys().filter(|a| !health::is_ours(a));
        own.filter_map(|a| self.view_endpoint(a, &drops)).collect()
    }

    /// What of a pod's traffic passes at most, in force; none: all.
    fn view_limit(&self, ifindex: u32, drops: &BTreeMap<u32, [u32; 2]>) -> Option<LimitView> {
        let Limit { ingress, egress, .. } = self.limits.observed(&ifindex)?;
        let [ingress_drops, egress_drops] = drops.get(&ifindex).copied().unwrap_or_default();
        Some(LimitView {
            ingress_bytes_per_second: *ingress,
            egress_bytes_per_second: *egress,
            ingress_drops: ingress_drops.into(),
            egress_drops: egress_drops.into(),
        })
    }

    fn view_endpoint(&self, attachment: &Attachment, drops: &BTreeMap<u32, [u32; 2]>) -> Option<EndpointStatus> {
        let e = self.endpoints.get(attachment)?;
        Some(EndpointStatus {
            namespace: e.intent.namespace.to_string(),
            name: e.intent.name.to_string(),
            uid: e.intent.uid.to_string(),
            container: attachment.container_id.clone(),
            interface: attachment.ifname.clone(),
            link: e.intent.host_name.clone(),
            addresses: e.intent.addresses.iter().map(ToString::to_string).collect(),
            identity: e.intent.identity,
            table: format!("{:016x}", e.intent.table),
            phase: match e.intent.phase {
                Phase::Creating => "creating",
                Phase::Live => "live",
                Phase::Removing => "removing",
            }
            .to_owned(),
            ready: e.intent.phase == Phase::Live && e.fault.is_none() && self.is_applied(attachment),
            fault: e.fault.clone(),
            bandwidth: e.ifindex.and_then(|i| self.view_limit(i, drops)),
        })
    }

    /// Policy tables with their provenance and the pods that they judge.
    pub fn view_tables(&self) -> Vec<TableView> {
        let rows = self.rows.rows();
        let of = |id: u64| {
            let judged = self.endpoints.values().filter(|e| e.intent.table == id);
            judged.map(|e| format!("{}/{}", e.intent.namespace, e.intent.name)).collect()
        };
        let rule = |id| rows.rules.get(&id).map(|r| r.rule.clone());
        rows.tables.values().map(|t| TableView::of(t, of(t.id.0), rule)).collect()
    }

    /// All rows, for those who ask why.
    pub const fn row_set(&self) -> &RowSet {
        self.rows.rows()
    }

    /// Identities with their labels.
    pub fn view_identities(&self) -> Vec<IdentityView> {
        self.rows.rows().identities.values().map(IdentityView::from).collect()
    }

    fn problems(&self) -> Vec<Problem> {
        let problem =
            |row: String, message: &str, attempts: u32| Problem { row, message: message.to_owned(), attempts };
        let ips = self.ips.failures().map(|(k, f, n)| problem(format!("address {k}"), &f.message, n));
        let entries = self.entries.failures().map(|(k, f, n)| problem(format!("endpoint {k}"), &f.message, n));
        let limits = self.limits.failures().map(|(k, f, n)| problem(format!("limit of interface {k}"), &f.message, n));
        let services = self
            .services
            .failures()
            .map(|((a, p, port), f, n)| problem(format!("frontend {a}:{port} (protocol {p})"), &f.message, n));
        let routes = self.routes.failures().map(|(k, f, n)| problem(format!("route {k}"), &f.message, n));
        let tables = self.tables.iter().filter_map(|(id, ..)| {
            let refusal = self.tables.refusal(id)?;
            Some(problem(format!("table {:016x}", id.0), &refusal.message, refusal.attempts()))
        });
        let guard = self.guard.refusal().map(|(row, message)| problem(format!("host firewall ({row})"), &message, 1));
        ips.chain(entries).chain(limits).chain(services).chain(routes).chain(tables).chain(guard).collect()
    }
}
