//! A packet path in memory, with the semantics of the real one: for tests of whoever programs it.

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use axoneme_abi::policy::{SLOTS, TABLE_ENTRIES};
use ipnetwork::IpNetwork;

use crate::datapath::{
    Datapath, DatapathError, Direction, EndpointEntry, Fullness, Hook, IpEntry, Limit, NodeGuard, PolicyDefault,
    PolicyKey, PolicyTable, PolicyValue, Result, ServiceEntry,
};

/// Everything that the fake holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub ips: BTreeMap<IpNetwork, IpEntry>,
    pub endpoints: BTreeMap<IpAddr, EndpointEntry>,
    /// In force with the next commit. None: goes.
    pub staged_ips: BTreeMap<IpNetwork, Option<IpEntry>>,
    pub staged_endpoints: BTreeMap<IpAddr, EndpointEntry>,
    pub tables: BTreeMap<u16, PolicyTable>,
    pub services: BTreeMap<(IpAddr, u8, u16), ServiceEntry>,
    pub attached: Vec<(Hook, u32)>,
    pub guard: Option<NodeGuard>,
    /// By the host sides of links.
    pub limits: BTreeMap<u32, Limit>,
    /// Addresses whose connections were forgotten, in order.
    pub forgotten: Vec<IpAddr>,
    /// Calls that changed something. A call that finds everything as it should be does not count.
    pub writes: u64,
    /// What [`Datapath::fullness`] says.
    pub fullness: Vec<Fullness>,
    /// Calls fail while it is set: with this text.
    pub failure: Option<String>,
}

/// The fake. Clone-free: share it by reference or `Arc`.
#[derive(Debug, Default)]
pub struct FakeDatapath {
    state: Mutex<State>,
}

impl FakeDatapath {
    pub fn new() -> Self {
        Self::default()
    }

    /// The state, to look at or to change (a failure, leftovers of an earlier process).
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let mut state = self.state();
        if let Some(text) = &state.failure {
            return Err(DatapathError::Io { operation: text.clone(), source: io::Error::other("set by a test") });
        }
        let before = State { writes: 0, ..state.clone() };
        let out = change(&mut state)?;
        if (State { writes: 0, ..state.clone() }) != before {
            state.writes += 1;
        }
        Ok(out)
    }

    /// Whether a new connection would pass, as the programs judge it: egress of a local source, then ingress of a local
    /// destination. `own_host`: the source is this node and may always reach its pods.
    pub fn allows(&self, source: IpAddr, destination: IpAddr, protocol: u8, port: u16, own_host: bool) -> bool {
        let state = self.state();
        let end = |a: IpAddr| state.endpoints.get(&a).map_or_else(|| (None, state.peer(a)), |e| (Some(e.slot), e.peer));
        let ((source_slot, source_peer), (destination_slot, destination_peer)) = (end(source), end(destination));
        let judge = |slot: Option<u16>, direction, peer| match slot {
            Some(s) => state.tables.get(&s).is_some_and(|t| lookup(t, direction, peer, protocol, port)),
            None => true,
        };
        judge(source_slot, Direction::Egress, destination_peer)
            && (own_host || judge(destination_slot, Direction::Ingress, source_peer))
    }
}

impl State {
    /// Peer class of an address: longest prefix, else the world.
    fn peer(&self, address: IpAddr) -> u32 {
        let hit = self.ips.iter().filter(|(p, _)| p.contains(address)).max_by_key(|(p, _)| p.prefix());
        hit.map_or(axoneme_abi::tables::IDENTITY_WORLD, |(_, e)| e.peer)
    }
}

/// Lookup order of a table: longest match under the peer, then under whoever, then the default.
fn lookup(table: &PolicyTable, direction: Direction, peer: u32, protocol: u8, port: u16) -> bool {
    let matches = |k: &PolicyKey, peer: u32| {
        let bits = u32::from(k.port_bits.min(16));
        let mask = if bits == 0 { 0 } else { u16::MAX << (16 - bits) };
        k.direction == direction
            && k.peer == peer
            && (k.protocol == 0 || (k.protocol == protocol && k.port & mask == port & mask))
    };
    for p in [peer, 0] {
        let hits = table.entries.iter().filter(|(k, _)| matches(k, p));
        if let Some((_, v)) = hits.max_by_key(|(k, _)| (k.protocol != 0, k.port_bits)) {
            return v.allow && v.auth == 0;
        }
    }
    match direction {
        Direction::Ingress => table.ingress_default.allow,
        Direction::Egress => table.egress_default.allow,
    }
}

fn check_slot(slot: u16) -> Result<()> {
    if u32::from(slot) + 1 < SLOTS {
        return Ok(());
    }
    Err(DatapathError::Full { map: "SLOTS", capacity: SLOTS - 1 })
}

fn check_size(entries: usize) -> Result<()> {
    let needed = u32::try_from(entries).unwrap_or(u32::MAX).saturating_add(2);
    if needed <= TABLE_ENTRIES {
        return Ok(());
    }
    Err(DatapathError::TableTooLarge { needed, capacity: TABLE_ENTRIES })
}

fn table(state: &mut State, slot: u16) -> Result<&mut PolicyTable> {
    state.tables.get_mut(&slot).ok_or_else(|| DatapathError::Io {
        operation: format!("slot {slot} has no policy table"),
        source: io::Error::from(io::ErrorKind::NotFound),
    })
}

fn sorted(t: &PolicyTable) -> PolicyTable {
    let entries: BTreeMap<_, _> = t.entries.iter().copied().collect();
    PolicyTable { entries: entries.into_iter().collect(), ..t.clone() }
}

impl Datapath for FakeDatapath {
    fn stage_ip(&self, prefix: IpNetwork, entry: Option<IpEntry>) -> Result<()> {
        let prefix = canonical(prefix);
        self.change(|s| {
            if s.ips.get(&prefix).copied() == entry {
                s.staged_ips.remove(&prefix);
            } else {
                s.staged_ips.insert(prefix, entry);
            }
            Ok(())
        })
    }
    fn stage_endpoint(&self, address: IpAddr, entry: Option<EndpointEntry>) -> Result<()> {
        entry.map_or(Ok(()), |e| check_slot(e.slot))?;
        self.change(|s| {
            s.staged_endpoints.remove(&address);
            match (entry, s.endpoints.get(&address)) {
                (Some(entry), Some(old)) if *old != entry => drop(s.staged_endpoints.insert(address, entry)),
                (Some(entry), None) => drop(s.endpoints.insert(address, entry)),
                (Some(_), Some(_)) => {}
                (None, _) => drop(s.endpoints.remove(&address)),
            }
            Ok(())
        })
    }
    fn commit(&self) -> Result<()> {
        self.change(|s| {
            for (prefix, entry) in std::mem::take(&mut s.staged_ips) {
                match entry {
                    Some(entry) => drop(s.ips.insert(prefix, entry)),
                    None => drop(s.ips.remove(&prefix)),
                }
            }
            s.endpoints.append(&mut s.staged_endpoints);
            Ok(())
        })
    }
    fn ips(&self) -> Result<Vec<(IpNetwork, IpEntry)>> {
        self.change(|s| Ok(s.ips.iter().map(|(p, e)| (*p, *e)).collect()))
    }
    fn endpoints(&self) -> Result<Vec<(IpAddr, EndpointEntry)>> {
        self.change(|s| Ok(s.endpoints.iter().map(|(a, e)| (*a, *e)).collect()))
    }
    fn put_table(&self, slot: u16, table: &PolicyTable) -> Result<()> {
        check_slot(slot)?;
        check_size(table.entries.len())?;
        self.change(|s| {
            s.tables.insert(slot, sorted(table));
            Ok(())
        })
    }
    fn patch_table(&self, slot: u16, upserts: &[(PolicyKey, PolicyValue)], removals: &[PolicyKey]) -> Result<()> {
        self.change(|s| {
            let t = table(s, slot)?;
            let mut entries: BTreeMap<_, _> = t.entries.iter().copied().collect();
            entries.extend(upserts.iter().copied());
            check_size(entries.len())?;
            for k in removals {
                entries.remove(k);
            }
            t.entries = entries.into_iter().collect();
            Ok(())
        })
    }
    fn set_defaults(&self, slot: u16, ingress: PolicyDefault, egress: PolicyDefault) -> Result<()> {
        self.change(|s| {
            let t = table(s, slot)?;
            t.ingress_default = ingress;
            t.egress_default = egress;
            Ok(())
        })
    }
    fn remove_table(&self, slot: u16) -> Result<()> {
        check_slot(slot)?;
        self.change(|s| {
            s.tables.remove(&slot);
            Ok(())
        })
    }
    fn tables(&self) -> Result<Vec<(u16, PolicyTable)>> {
        self.change(|s| Ok(s.tables.iter().map(|(n, t)| (*n, t.clone())).collect()))
    }
    fn upsert_service(&self, service: &ServiceEntry) -> Result<()> {
        let v4 = service.address.is_ipv4();
        if service.backends.iter().any(|b| b.0.is_ipv4() != v4) {
            return Err(DatapathError::Io {
                operation: format!(
                    "service {} port {}: a backend is of the other address family",
                    service.address, service.port
                ),
                source: io::Error::from(io::ErrorKind::InvalidInput),
            });
        }
        self.change(|s| {
            s.services.insert((service.address, service.protocol, service.port), service.clone());
            Ok(())
        })
    }
    fn remove_service(&self, address: IpAddr, protocol: u8, port: u16) -> Result<()> {
        self.change(|s| {
            s.services.remove(&(address, protocol, port));
            Ok(())
        })
    }
    fn services(&self) -> Result<Vec<ServiceEntry>> {
        self.change(|s| Ok(s.services.values().cloned().collect()))
    }
    fn attach(&self, hook: Hook, ifindex: u32) -> Result<()> {
        self.change(|s| {
            if !s.attached.contains(&(hook, ifindex)) {
                s.attached.push((hook, ifindex));
            }
            Ok(())
        })
    }
    fn detach(&self, ifindex: u32) -> Result<()> {
        self.change(|s| {
            s.attached.retain(|a| a.1 != ifindex);
            s.limits.remove(&ifindex);
            Ok(())
        })
    }
    fn attached(&self) -> Result<Vec<(Hook, u32)>> {
        self.change(|s| Ok(s.attached.clone()))
    }
    fn guard(&self) -> Result<Option<NodeGuard>> {
        self.change(|s| Ok(s.guard.clone()))
    }
    fn set_guard(&self, guard: Option<&NodeGuard>) -> Result<()> {
        self.change(|s| {
            if let Some(g) = guard {
                table(s, g.slot)?;
            }
            s.guard = guard.cloned();
            Ok(())
        })
    }
    fn set_limit(&self, ifindex: u32, limit: Option<&Limit>) -> Result<()> {
        self.change(|s| {
            match limit {
                Some(limit) => drop(s.limits.insert(ifindex, *limit)),
                None => drop(s.limits.remove(&ifindex)),
            }
            Ok(())
        })
    }
    fn limits(&self) -> Result<Vec<(u32, Limit)>> {
        self.change(|s| Ok(s.limits.iter().map(|(i, l)| (*i, *l)).collect()))
    }
    fn fullness(&self) -> Result<Vec<Fullness>> {
        self.change(|s| Ok(s.fullness.clone()))
    }
    fn forget_connections(&self, address: IpAddr) -> Result<u32> {
        self.change(|s| {
            s.forgotten.push(address);
            Ok(0)
        })
    }
}

/// The prefix with its host bits cleared, as the kernel's trie keeps it.
fn canonical(prefix: IpNetwork) -> IpNetwork {
    IpNetwork::new(prefix.network(), prefix.prefix()).unwrap_or(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn fake() -> FakeDatapath {
        let fake = FakeDatapath::new();
        let allow = PolicyDefault { allow: true, audit: false, rule: 0 };
        for n in [1u8, 2] {
            let entry = EndpointEntry {
                ifindex: u32::from(n),
                identity: 100 + u32::from(n),
                peer: 100 + u32::from(n),
                slot: u16::from(n),
                mac: [0; 6],
            };
            fake.upsert_endpoint(address(n), entry).unwrap();
            fake.put_table(
                u16::from(n),
                &PolicyTable { ingress_default: allow, egress_default: allow, entries: vec![] },
            )
            .unwrap();
        }
        fake
    }

    #[test]
    fn a_peers_entry_comes_before_those_of_whoever_and_these_before_the_default() {
        let fake = fake();
        let key =
            |peer, port, port_bits| PolicyKey { direction: Direction::Ingress, peer, protocol: 6, port, port_bits };
        let value = |allow| PolicyValue { allow, audit: false, rule: 1, proxy_port: 0, auth: 0 };
        assert!(fake.allows(address(1), address(2), 6, 80, false));
        fake.patch_table(2, &[(key(0, 0, 0), value(false))], &[]).unwrap();
        assert!(!fake.allows(address(1), address(2), 6, 80, false));
        assert!(fake.allows(address(1), address(2), 17, 80, false));
        fake.patch_table(2, &[(key(101, 80, 12), value(true))], &[]).unwrap();
        assert!(fake.allows(address(1), address(2), 6, 95, false));
        assert!(!fake.allows(address(1), address(2), 6, 96, false));
        fake.patch_table(2, &[(key(101, 81, 16), value(false))], &[key(0, 0, 0)]).unwrap();
        assert!(!fake.allows(address(1), address(2), 6, 81, false));
        assert!(fake.allows(address(1), address(2), 6, 96, false));
    }

    #[test]
    fn a_call_that_changes_nothing_is_no_write() {
        let fake = fake();
        let before = fake.state().writes;
        let table = fake.tables().unwrap().remove(0).1;
        fake.put_table(1, &table).unwrap();
        fake.attach(Hook::Endpoint, 3).unwrap();
        fake.attach(Hook::Endpoint, 3).unwrap();
        assert_eq!(fake.state().writes, before + 1);
    }

    #[test]
    fn a_table_that_does_not_fit_leaves_the_old_one() {
        let fake = fake();
        let entry = |n: u32| {
            let key = PolicyKey { direction: Direction::Ingress, peer: n, protocol: 0, port: 0, port_bits: 0 };
            (key, PolicyValue { allow: true, audit: false, rule: 0, proxy_port: 0, auth: 0 })
        };
        let old = fake.tables().unwrap();
        let table = PolicyTable { entries: (1..=TABLE_ENTRIES).map(entry).collect(), ..PolicyTable::default() };
        assert!(matches!(fake.put_table(1, &table), Err(DatapathError::TableTooLarge { .. })));
        assert_eq!(fake.tables().unwrap(), old);
    }
}
