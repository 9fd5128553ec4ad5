//! Who is behind an address: ipcache, nodes, local endpoints.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use axoneme_abi::{
    constants::CONTROL_EPOCH,
    tables::{Endpoint, IDENTITY_WORLD, IP_DIRECT, IP_NODE, IP_NODE_IMPLIED, IpInfo, NODES, Node, Side},
};
use ipnetwork::IpNetwork;

use super::{
    datapath::{BpfDatapath, Maps, lock},
    limits::reflag,
    system,
    table::{Lpm, Table},
};
use crate::datapath::{DatapathError, EndpointEntry, IpEntry, Result};

/// What is in force of a prefix: the same on both of its sides, but for the moment of a [`BpfDatapath::commit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Info {
    side: Side,
    node: u16,
    flags: u16,
}

impl Info {
    /// As the map has it, if `now` is in force until the commit.
    const fn staged(self, now: Side, epoch: u32) -> IpInfo {
        IpInfo { sides: sides(now, self.side, epoch), node: self.node, flags: self.flags }
    }

    const fn settled(self) -> IpInfo {
        IpInfo::settled(self.side, self.node, self.flags)
    }
}

/// What user space remembers of the ipcache: a trie answers a prefix with the longest match, so whether exactly this
/// prefix is there, and with which value, has to be known here. 20 bytes per IPv4 prefix, 32 per IPv6 prefix.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    v4: HashMap<Lpm<[u8; 4]>, Info>,
    v6: HashMap<Lpm<[u8; 16]>, Info>,
    /// Places of the node table that are in use, and by how many prefixes.
    used: BTreeMap<IpAddr, (u16, u32)>,
    /// In force with the next commit. None: goes.
    staged: BTreeMap<IpNetwork, Option<Info>>,
    staged_endpoints: BTreeMap<IpAddr, Endpoint>,
    /// Of what is in force already, what is on one side only, or should be gone: a write failed.
    half: BTreeMap<IpNetwork, Option<Info>>,
    half_endpoints: BTreeMap<IpAddr, Endpoint>,
    /// Something has changed on both sides at once: connections are to be judged anew all the same.
    grown: bool,
}

/// Both sides, where one is read now and the other after the next commit.
const fn sides<T: Copy>(now: T, next: T, epoch: u32) -> [T; 2] {
    if epoch & 1 == 0 { [now, next] } else { [next, now] }
}

/// Of both sides the one that is read.
fn read<T: Copy>([even, odd]: [T; 2], epoch: u32) -> T {
    if epoch & 1 == 0 { even } else { odd }
}

fn node(address: IpAddr) -> Node {
    match address {
        IpAddr::V4(a) => Node { address: [u32::from_ne_bytes(a.octets()), 0, 0, 0], family: 4 },
        IpAddr::V6(a) => Node { address: words(a.octets()), family: 6 },
    }
}

fn words(octets: [u8; 16]) -> [u32; 4] {
    let (chunks, _) = octets.as_chunks::<4>();
    let mut out = [0; 4];
    for (to, from) in out.iter_mut().zip(chunks) {
        *to = u32::from_ne_bytes(*from);
    }
    out
}

fn octets(words: [u32; 4]) -> [u8; 16] {
    let mut out = [0; 16];
    for (to, from) in out.iter_mut().zip(words.into_iter().flat_map(u32::to_ne_bytes)) {
        *to = from;
    }
    out
}

fn node_address(n: &Node) -> Option<IpAddr> {
    let [first, ..] = n.address;
    match n.family {
        4 => Some(IpAddr::from(first.to_ne_bytes())),
        6 => Some(IpAddr::from(octets(n.address))),
        _ => None,
    }
}

impl Nodes {
    /// Prefixes of IPv4 and of IPv6 that are in force, and nodes.
    pub(super) fn counts(&self) -> [usize; 3] {
        [self.v4.len(), self.v6.len(), self.used.len()]
    }

    /// What the maps hold: nodes of earlier processes are kept while prefixes name them. What an earlier process staged
    /// and did not commit is taken back.
    pub(super) fn read(maps: &Maps) -> Result<Self> {
        let epoch = epoch(maps)?;
        let mut found = Self::default();
        for (key, info) in maps.ipcache4.elements()? {
            let in_force = in_force(&info, epoch);
            if info != in_force.settled() {
                maps.ipcache4.put(&key, &in_force.settled())?;
            }
            found.v4.insert(key, in_force);
        }
        for (key, info) in maps.ipcache6.elements()? {
            let in_force = in_force(&info, epoch);
            if info != in_force.settled() {
                maps.ipcache6.put(&key, &in_force.settled())?;
            }
            found.v6.insert(key, in_force);
        }
        unstage(&maps.endpoints4, epoch)?;
        unstage(&maps.endpoints6, epoch)?;
        let mut uses = BTreeMap::<u16, u32>::new();
        for info in found.v4.values().chain(found.v6.values()) {
            *uses.entry(info.node).or_default() += 1;
        }
        for (place, count) in uses.into_iter().filter(|(place, _)| *place != 0) {
            if let Some(address) = maps.nodes.get(&u32::from(place))?.and_then(|n| node_address(&n)) {
                found.used.insert(address, (place, count));
            }
        }
        Ok(found)
    }

    /// What is in force of exactly this prefix.
    fn get(&self, prefix: IpNetwork) -> Option<Info> {
        match prefix {
            IpNetwork::V4(p) => self.v4.get(&key4(p)).copied(),
            IpNetwork::V6(p) => self.v6.get(&key6(p)).copied(),
        }
    }

    fn keep(&mut self, prefix: IpNetwork, info: Option<Info>) {
        match (prefix, info) {
            (IpNetwork::V4(p), Some(info)) => drop(self.v4.insert(key4(p), info)),
            (IpNetwork::V6(p), Some(info)) => drop(self.v6.insert(key6(p), info)),
            (IpNetwork::V4(p), None) => drop(self.v4.remove(&key4(p))),
            (IpNetwork::V6(p), None) => drop(self.v6.remove(&key6(p))),
        }
    }

    /// Whose the prefix's addresses are where the prefix itself says nothing: now, or after the next commit.
    fn around(&self, prefix: IpNetwork, committed: bool) -> Side {
        let wider = (0..prefix.prefix()).rev().filter_map(|bits| IpNetwork::new(prefix.ip(), bits).ok());
        let said = wider.map(canonical).find_map(|p| match self.staged.get(&p).filter(|_| committed) {
            Some(staged) => *staged,
            None => self.get(p),
        });
        said.map_or(Side::new(IDENTITY_WORLD, IDENTITY_WORLD), |info| info.side)
    }

    /// The node's place, one more use of it.
    fn take(&mut self, maps: &Maps, address: IpAddr) -> Result<u16> {
        if let Some((place, uses)) = self.used.get_mut(&address) {
            *uses += 1;
            return Ok(*place);
        }
        let taken: std::collections::BTreeSet<u16> = self.used.values().map(|u| u.0).collect();
        let free = (1..u16::try_from(NODES).unwrap_or(u16::MAX)).find(|n| !taken.contains(n));
        let place = free.ok_or(DatapathError::Full { map: "NODES", capacity: NODES })?;
        maps.nodes.put(&u32::from(place), &node(address))?;
        self.used.insert(address, (place, 1));
        Ok(place)
    }

    /// One use less. A place without uses is free at once: whoever still names it is judged anew (the epoch grew).
    fn give_back(&mut self, place: u16) {
        if let Some((address, entry)) = self.used.iter_mut().find(|(_, u)| u.0 == place) {
            entry.1 = entry.1.saturating_sub(1);
            if entry.1 == 0 {
                let address = *address;
                self.used.remove(&address);
            }
        }
    }
}

/// The prefix without bits behind its length.
fn canonical(prefix: IpNetwork) -> IpNetwork {
    IpNetwork::new(prefix.network(), prefix.prefix()).unwrap_or(prefix)
}

fn epoch(maps: &Maps) -> Result<u32> {
    Ok(maps.control.get(&CONTROL_EPOCH)?.unwrap_or(0))
}

fn in_force(info: &IpInfo, epoch: u32) -> Info {
    Info { side: read(info.sides, epoch), node: info.node, flags: info.flags }
}

/// Takes back what was staged and not committed.
fn unstage<K: aya::Pod>(map: &Table<K, Endpoint>, epoch: u32) -> Result<()> {
    for (address, entry) in map.elements()? {
        let (side, slot) = (read(entry.sides, epoch), read(entry.slots, epoch));
        let settled = Endpoint::settled(entry.ifindex, side, slot, entry.mac).with_flags(entry.flags);
        if settled != entry {
            map.put(&address, &settled)?;
        }
    }
    Ok(())
}

impl BpfDatapath {
    /// Something besides who is behind an address has changed: connections are judged anew with their next packet.
    pub(super) fn bump_epoch(&self) -> Result<()> {
        self.maps.control.put(&CONTROL_EPOCH, &epoch(&self.maps)?.wrapping_add(2))
    }

    fn write_ip(&self, prefix: IpNetwork, info: &IpInfo) -> Result<()> {
        match prefix {
            IpNetwork::V4(p) => self.maps.ipcache4.put(&key4(p), info),
            IpNetwork::V6(p) => self.maps.ipcache6.put(&key6(p), info),
        }
    }

    fn read_endpoint(&self, address: IpAddr) -> Result<Option<Endpoint>> {
        match address {
            IpAddr::V4(a) => self.maps.endpoints4.get(&a.octets()),
            IpAddr::V6(a) => self.maps.endpoints6.get(&a.octets()),
        }
    }

    fn write_endpoint(&self, address: IpAddr, entry: &Endpoint) -> Result<()> {
        match address {
            IpAddr::V4(a) => self.maps.endpoints4.put(&a.octets(), entry),
            IpAddr::V6(a) => self.maps.endpoints6.put(&a.octets(), entry),
        }
    }

    pub(super) fn put_ip(&self, prefix: IpNetwork, entry: IpEntry) -> Result<()> {
        let prefix = canonical(prefix);
        let mut nodes = lock(&self.nodes);
        let (address, implied) = match entry.tunnel {
            Some(a) => (Some(a), false),
            // A node's own address reaches itself: what came from it by the tunnel goes back so.
            None => (self.implied(prefix, entry), true),
        };
        let node = address.map_or(Ok(0), |a| nodes.take(&self.maps, a))?;
        let mut flags = if entry.is_node { IP_NODE } else { 0 };
        if implied && node != 0 {
            flags |= IP_NODE_IMPLIED;
        }
        if entry.direct {
            flags |= IP_DIRECT;
        }
        let info = Info { side: Side::new(entry.identity, entry.peer), node, flags };
        let before = nodes.get(prefix);
        let staged = nodes.staged.get(&prefix).copied();
        if staged.unwrap_or(before) == Some(info) {
            nodes.give_back(node);
            return Ok(());
        }
        let now = before.map_or_else(|| nodes.around(prefix, false), |b| b.side);
        if let Err(e) = self.write_ip(prefix, &info.staged(now, epoch(&self.maps)?)) {
            nodes.give_back(node);
            return Err(e);
        }
        if let Some(staged) = staged.flatten() {
            nodes.give_back(staged.node);
        }
        nodes.half.remove(&prefix);
        nodes.staged.insert(prefix, Some(info));
        Ok(())
    }

    /// The node behind a node's own address: the address, where the tunnel speaks its family.
    fn implied(&self, prefix: IpNetwork, entry: IpEntry) -> Option<IpAddr> {
        let address = prefix.ip();
        let host = prefix.prefix() == if address.is_ipv4() { 32 } else { 128 };
        let own = self.config.node_addresses.contains(&address);
        let underlay = self.config.node_addresses.first()?;
        (entry.is_node && host && !own && underlay.is_ipv4() == address.is_ipv4()).then_some(address)
    }

    pub(super) fn delete_ip(&self, prefix: IpNetwork) {
        let prefix = canonical(prefix);
        let mut nodes = lock(&self.nodes);
        let staged = nodes.staged.get(&prefix).copied();
        if nodes.get(prefix).is_none() && staged.is_none() {
            return;
        }
        if let Some(staged) = staged.flatten() {
            nodes.give_back(staged.node);
        }
        nodes.staged.insert(prefix, None);
    }

    /// Puts in force what was staged. Nothing is put in force while there is an entry of which the side that nobody reads
    /// is not known to be right.
    pub(super) fn put_in_force(&self) -> Result<()> {
        let mut nodes = lock(&self.nodes);
        self.settle(&mut nodes)?;
        if nodes.staged.is_empty() && nodes.staged_endpoints.is_empty() {
            if nodes.grown {
                self.bump_epoch()?;
            }
            nodes.grown = false;
            return Ok(());
        }
        let epoch = epoch(&self.maps)?;
        // until it is gone, a prefix says what will be said around it
        let going: Vec<IpNetwork> = nodes.staged.iter().filter(|(_, i)| i.is_none()).map(|(p, _)| *p).collect();
        for prefix in going {
            let (now, next) = (nodes.get(prefix), nodes.around(prefix, true));
            let now = now.unwrap_or_else(|| Info { side: nodes.around(prefix, false), node: 0, flags: 0 });
            self.write_ip(prefix, &IpInfo { sides: sides(now.side, next, epoch), ..now.settled() })?;
        }
        let replaced =
            |(p, i): (&IpNetwork, &Option<Info>)| nodes.get(*p).is_some_and(|old| i.map(|i| i.side) != Some(old.side));
        let read = !nodes.staged_endpoints.is_empty() || nodes.staged.iter().any(replaced);
        self.maps.control.put(&CONTROL_EPOCH, &epoch.wrapping_add(1))?;
        if read {
            // the former side is not touched, by what follows here or by whoever called, while a packet may read it
            system::wait_for_programs();
        }
        nodes.grown = false;
        for (prefix, info) in std::mem::take(&mut nodes.staged) {
            let old = nodes.get(prefix);
            nodes.keep(prefix, info);
            if let Some(old) = old {
                nodes.give_back(old.node);
            }
            nodes.half.insert(prefix, info);
        }
        nodes.half_endpoints = std::mem::take(&mut nodes.staged_endpoints);
        self.settle(&mut nodes)
    }

    /// Makes both sides of what is in force the same, and removes what is to go.
    fn settle(&self, nodes: &mut Nodes) -> Result<()> {
        while let Some((prefix, info)) = nodes.half.first_key_value().map(|(p, i)| (*p, *i)) {
            match (info, prefix) {
                (Some(info), _) => self.write_ip(prefix, &info.settled())?,
                (None, IpNetwork::V4(p)) => drop(self.maps.ipcache4.remove(&key4(p))?),
                (None, IpNetwork::V6(p)) => drop(self.maps.ipcache6.remove(&key6(p))?),
            }
            nodes.half.remove(&prefix);
        }
        while let Some((address, entry)) = nodes.half_endpoints.first_key_value().map(|(a, e)| (*a, *e)) {
            self.write_endpoint(address, &entry)?;
            nodes.half_endpoints.remove(&address);
        }
        Ok(())
    }

    pub(super) fn list_ips(&self) -> Result<Vec<(IpNetwork, IpEntry)>> {
        let nodes = lock(&self.nodes);
        let mut found = Vec::with_capacity(nodes.v4.len() + nodes.v6.len());
        for (key, info) in &nodes.v4 {
            if let Ok(p) = IpNetwork::new(IpAddr::from(key.data), key.bits as u8) {
                found.push((p, self.ip_entry(info)?));
            }
        }
        for (key, info) in &nodes.v6 {
            if let Ok(p) = IpNetwork::new(IpAddr::from(key.data), key.bits as u8) {
                found.push((p, self.ip_entry(info)?));
            }
        }
        found.sort();
        Ok(found)
    }

    fn ip_entry(&self, info: &Info) -> Result<IpEntry> {
        let tunnel = if info.node == 0 || info.flags & IP_NODE_IMPLIED != 0 {
            None
        } else {
            self.maps.nodes.get(&u32::from(info.node))?.and_then(|n| node_address(&n))
        };
        Ok(IpEntry {
            identity: info.side.identity,
            peer: info.side.peer,
            tunnel,
            is_node: info.flags & IP_NODE != 0,
            direct: info.flags & IP_DIRECT != 0,
        })
    }

    pub(super) fn put_endpoint(&self, address: IpAddr, entry: EndpointEntry) -> Result<()> {
        let mut nodes = lock(&self.nodes);
        let (side, slot) = (Side::new(entry.identity, entry.peer), super::policies::place(entry.slot)?);
        let flags = self.endpoint_flags(entry.ifindex)?;
        let wanted = Endpoint::settled(entry.ifindex, side, slot, halves(entry.mac)).with_flags(flags);
        let Some(old) = self.read_endpoint(address)? else {
            self.write_endpoint(address, &wanted)?;
            nodes.grown = true;
            return Ok(());
        };
        if old == wanted {
            return Ok(());
        }
        let epoch = epoch(&self.maps)?;
        let (now, now_slot) = (read(old.sides, epoch), read(old.slots, epoch));
        let staged = Endpoint { sides: sides(now, side, epoch), slots: sides(now_slot, slot, epoch), ..wanted };
        self.write_endpoint(address, &staged)?;
        nodes.half_endpoints.remove(&address);
        nodes.staged_endpoints.insert(address, wanted);
        Ok(())
    }

    /// Gives the flags to all endpoints behind a link. Their connections are judged anew, and go by it.
    pub(super) fn change_endpoint_flags(&self, ifindex: u32, flags: u16) -> Result<()> {
        let mut nodes = lock(&self.nodes);
        let mut all: Vec<(IpAddr, Endpoint)> = Vec::new();
        self.maps.endpoints4.walk(|a, e| all.push((IpAddr::from(*a), *e)))?;
        self.maps.endpoints6.walk(|a, e| all.push((IpAddr::from(*a), *e)))?;
        let mut changed = false;
        for (address, entry) in all {
            if let Some(new) = reflag(&entry, ifindex, flags) {
                self.write_endpoint(address, &new)?;
                changed = true;
            }
        }
        let Nodes { staged_endpoints, half_endpoints, .. } = &mut *nodes;
        for entry in staged_endpoints.values_mut().chain(half_endpoints.values_mut()) {
            if let Some(new) = reflag(entry, ifindex, flags) {
                *entry = new;
            }
        }
        if changed { self.bump_epoch() } else { Ok(()) }
    }

    pub(super) fn delete_endpoint(&self, address: IpAddr) -> Result<()> {
        let mut nodes = lock(&self.nodes);
        nodes.grown |= match address {
            IpAddr::V4(a) => self.maps.endpoints4.remove(&a.octets())?,
            IpAddr::V6(a) => self.maps.endpoints6.remove(&a.octets())?,
        };
        nodes.staged_endpoints.remove(&address);
        nodes.half_endpoints.remove(&address);
        Ok(())
    }

    pub(super) fn list_endpoints(&self) -> Result<Vec<(IpAddr, EndpointEntry)>> {
        let mut found = Vec::new();
        let epoch = epoch(&self.maps)?;
        self.maps.endpoints4.walk(|a, e| found.push((IpAddr::from(*a), endpoint_entry(e, epoch))))?;
        self.maps.endpoints6.walk(|a, e| found.push((IpAddr::from(*a), endpoint_entry(e, epoch))))?;
        found.sort_by_key(|e| e.0);
        Ok(found)
    }
}

fn endpoint_entry(e: &Endpoint, epoch: u32) -> EndpointEntry {
    let Side { identity, peer } = read(e.sides, epoch);
    let slot = read(e.slots, epoch).saturating_sub(1);
    EndpointEntry { ifindex: e.ifindex, identity, peer, slot, mac: bytes(e.mac) }
}

pub(super) fn halves(mac: [u8; 6]) -> [u16; 3] {
    let mut out = [0; 3];
    for (to, from) in out.iter_mut().zip(mac.as_chunks::<2>().0) {
        *to = u16::from_ne_bytes(*from);
    }
    out
}

pub(super) fn bytes(halves: [u16; 3]) -> [u8; 6] {
    let mut out = [0; 6];
    for (to, from) in out.iter_mut().zip(halves.into_iter().flat_map(u16::to_ne_bytes)) {
        *to = from;
    }
    out
}

fn key4(p: ipnetwork::Ipv4Network) -> Lpm<[u8; 4]> {
    Lpm { bits: u32::from(p.prefix()), data: p.network().octets() }
}

fn key6(p: ipnetwork::Ipv6Network) -> Lpm<[u8; 16]> {
    Lpm { bits: u32::from(p.prefix()), data: p.network().octets() }
}
