//! A node's packet path: the fake, with the lookup that verdicts are asked of, and the faults that sabotage wants.

use std::net::IpAddr;

use axoneme_kernel::{
    datapath::{
        Datapath, Direction, EndpointEntry, Hook, IpEntry, Limit, NodeGuard, PolicyDefault, PolicyKey, PolicyTable,
        PolicyValue, Result, ServiceEntry, peer_kind,
    },
    fake::{FakeDatapath, State},
};
use axoneme_model::Identity;
use ipnetwork::IpNetwork;

use crate::sabotage::Sabotage;

/// The packet path.
#[derive(Debug)]
pub struct Kernel {
    pub fake: FakeDatapath,
    sabotage: Sabotage,
}

/// Half of a packet: what one end's tables judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Half {
    pub direction: Direction,
    pub own: IpAddr,
    pub peer: IpAddr,
    pub protocol: u8,
    pub port: u16,
}

impl Kernel {
    #[must_use]
    pub fn new(sabotage: Sabotage) -> Self {
        Self { fake: FakeDatapath::new(), sabotage }
    }

    /// Whether a new connection passes this end. A pod without an entry is fenced.
    #[must_use]
    pub fn passes(&self, half: &Half) -> bool {
        let state = self.fake.state();
        let Some(own) = state.endpoints.get(&half.own) else { return false };
        let Some(table) = state.tables.get(&own.slot) else { return false };
        let (identity, peer) = whose(&state, half.peer);
        let kind = peer_kind(identity, half.peer.is_ipv6());
        let levels = [Some(peer), (kind != 0).then_some(kind), Some(0)];
        let hit = levels.into_iter().flatten().find_map(|p| find(table, p, half));
        hit.unwrap_or(match half.direction {
            Direction::Ingress => table.ingress_default.allow,
            Direction::Egress => table.egress_default.allow,
        })
    }
}

/// Whose an address is here.
fn whose(state: &State, address: IpAddr) -> (u32, u32) {
    if let Some(e) = state.endpoints.get(&address) {
        return (e.identity, e.peer);
    }
    let longest = state.ips.iter().filter(|(p, _)| p.contains(address)).max_by_key(|(p, _)| p.prefix());
    longest.map_or((Identity::UNKNOWN.0, Identity::UNKNOWN.0), |(_, e)| (e.identity, e.peer))
}

fn find(table: &PolicyTable, peer: u32, half: &Half) -> Option<bool> {
    let matches = |k: &&(PolicyKey, PolicyValue)| {
        let k = k.0;
        let bits = u32::from(k.port_bits.min(16));
        let mask = if bits == 0 { 0 } else { u16::MAX << (16 - bits) };
        let port = k.protocol == half.protocol && k.port & mask == half.port & mask;
        k.direction == half.direction && k.peer == peer && (k.protocol == 0 || port)
    };
    let narrowest = table.entries.iter().filter(matches).max_by_key(|(k, _)| (k.protocol != 0, k.port_bits));
    narrowest.map(|(_, v)| v.allow && v.auth == 0)
}

impl Datapath for Kernel {
    fn stage_ip(&self, prefix: IpNetwork, entry: Option<IpEntry>) -> Result<()> {
        self.fake.stage_ip(prefix, entry)
    }
    fn stage_endpoint(&self, address: IpAddr, entry: Option<EndpointEntry>) -> Result<()> {
        self.fake.stage_endpoint(address, entry)
    }
    fn commit(&self) -> Result<()> {
        self.fake.commit()
    }
    fn ips(&self) -> Result<Vec<(IpNetwork, IpEntry)>> {
        self.fake.ips()
    }
    fn endpoints(&self) -> Result<Vec<(IpAddr, EndpointEntry)>> {
        self.fake.endpoints()
    }
    fn put_table(&self, slot: u16, table: &PolicyTable) -> Result<()> {
        if self.sabotage == Sabotage::KernelOpensDefaults {
            let mut open = table.clone();
            (open.ingress_default.allow, open.egress_default.allow) = (true, true);
            return self.fake.put_table(slot, &open);
        }
        self.fake.put_table(slot, table)
    }
    fn patch_table(&self, slot: u16, upserts: &[(PolicyKey, PolicyValue)], removals: &[PolicyKey]) -> Result<()> {
        if self.sabotage == Sabotage::KernelIgnoresPatch {
            return Ok(());
        }
        self.fake.patch_table(slot, upserts, removals)
    }
    fn set_defaults(&self, slot: u16, ingress: PolicyDefault, egress: PolicyDefault) -> Result<()> {
        self.fake.set_defaults(slot, ingress, egress)
    }
    fn remove_table(&self, slot: u16) -> Result<()> {
        self.fake.remove_table(slot)
    }
    fn tables(&self) -> Result<Vec<(u16, PolicyTable)>> {
        self.fake.tables()
    }
    fn upsert_service(&self, service: &ServiceEntry) -> Result<()> {
        self.fake.upsert_service(service)
    }
    fn remove_service(&self, address: IpAddr, protocol: u8, port: u16) -> Result<()> {
        self.fake.remove_service(address, protocol, port)
    }
    fn services(&self) -> Result<Vec<ServiceEntry>> {
        self.fake.services()
    }
    fn attach(&self, hook: Hook, ifindex: u32) -> Result<()> {
        self.fake.attach(hook, ifindex)
    }
    fn detach(&self, ifindex: u32) -> Result<()> {
        self.fake.detach(ifindex)
    }
    fn attached(&self) -> Result<Vec<(Hook, u32)>> {
        self.fake.attached()
    }
    fn guard(&self) -> Result<Option<NodeGuard>> {
        self.fake.guard()
    }
    fn set_guard(&self, guard: Option<&NodeGuard>) -> Result<()> {
        self.fake.set_guard(guard)
    }
    fn set_limit(&self, ifindex: u32, limit: Option<&Limit>) -> Result<()> {
        self.fake.set_limit(ifindex, limit)
    }
    fn limits(&self) -> Result<Vec<(u32, Limit)>> {
        self.fake.limits()
    }
    fn forget_connections(&self, address: IpAddr) -> Result<u32> {
        self.fake.forget_connections(address)
    }
}
