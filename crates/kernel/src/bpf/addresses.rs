//! Who is behind an address: ipcache, nodes, local endpoints.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use axoneme_abi::{
    constants::CONTROL_EPOCH,
    tables::{Endpoint, IP_NODE, IP_NODE_IMPLIED, IpInfo, NODES, Node},
};
use ipnetwork::IpNetwork;

use super::{
    datapath::{BpfDatapath, Maps, lock},
    table::Lpm,
};
use crate::datapath::{DatapathError, EndpointEntry, IpEntry, Result};

/// What user space remembers of the ipcache: a trie answers a prefix with the longest match, so whether exactly this
/// prefix is there, and with which value, has to be known here. 20 bytes per IPv4 prefix, 32 per IPv6 prefix.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    v4: HashMap<Lpm<[u8; 4]>, IpInfo>,
    v6: HashMap<Lpm<[u8; 16]>, IpInfo>,
    /// Places of the node table that are in use, and by how many prefixes.
    used: BTreeMap<IpAddr, (u16, u32)>,
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
    /// What the maps hold: nodes of earlier processes are kept while prefixes name them.
    pub(super) fn read(maps: &Maps) -> Result<Self> {
        let v4: HashMap<_, _> = maps.ipcache4.elements()?.into_iter().collect();
        let v6: HashMap<_, _> = maps.ipcache6.elements()?.into_iter().collect();
        let mut uses = BTreeMap::<u16, u32>::new();
        for info in v4.values().chain(v6.values()) {
            *uses.entry(info.node).or_default() += 1;
        }
        let mut used = BTreeMap::new();
        for (place, count) in uses.into_iter().filter(|(place, _)| *place != 0) {
            if let Some(address) = maps.nodes.get(&u32::from(place))?.and_then(|n| node_address(&n)) {
                used.insert(address, (place, count));
            }
        }
        Ok(Self { v4, v6, used })
    }

    fn get(&self, prefix: IpNetwork) -> Option<IpInfo> {
        match prefix {
            IpNetwork::V4(p) => self.v4.get(&key4(p)).copied(),
            IpNetwork::V6(p) => self.v6.get(&key6(p)).copied(),
        }
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

impl BpfDatapath {
    /// Addresses changed hands: connections are judged anew with their next packet.
    pub(super) fn bump_epoch(&self) -> Result<()> {
        let epoch = self.maps.control.get(&CONTROL_EPOCH)?.unwrap_or(0);
        self.maps.control.put(&CONTROL_EPOCH, &epoch.wrapping_add(1))
    }

    pub(super) fn put_ip(&self, prefix: IpNetwork, entry: IpEntry) -> Result<()> {
        let mut nodes = lock(&self.nodes);
        let old = nodes.get(prefix);
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
        let info = IpInfo { identity: entry.identity, peer: entry.peer, node, flags };
        let written = if old == Some(info) {
            Ok(())
        } else {
            match prefix {
                IpNetwork::V4(p) => self.maps.ipcache4.put(&key4(p), &info),
                IpNetwork::V6(p) => self.maps.ipcache6.put(&key6(p), &info),
            }
        };
        if let Err(e) = written {
            nodes.give_back(node);
            return Err(e);
        }
        match prefix {
            IpNetwork::V4(p) => nodes.v4.insert(key4(p), info),
            IpNetwork::V6(p) => nodes.v6.insert(key6(p), info),
        };
        if let Some(old) = old {
            nodes.give_back(old.node);
            if old == info {
                return Ok(());
            }
        }
        self.bump_epoch()
    }

    /// The node behind a node's own address: the address, where the tunnel speaks its family.
    fn implied(&self, prefix: IpNetwork, entry: IpEntry) -> Option<IpAddr> {
        let address = prefix.ip();
        let host = prefix.prefix() == if address.is_ipv4() { 32 } else { 128 };
        let own = self.config.node_addresses.contains(&address);
        let underlay = self.config.node_addresses.first()?;
        (entry.is_node && host && !own && underlay.is_ipv4() == address.is_ipv4()).then_some(address)
    }

    pub(super) fn delete_ip(&self, prefix: IpNetwork) -> Result<()> {
        let mut nodes = lock(&self.nodes);
        let Some(old) = nodes.get(prefix) else { return Ok(()) };
        match prefix {
            IpNetwork::V4(p) => {
                self.maps.ipcache4.remove(&key4(p))?;
                nodes.v4.remove(&key4(p));
            }
            IpNetwork::V6(p) => {
                self.maps.ipcache6.remove(&key6(p))?;
                nodes.v6.remove(&key6(p));
            }
        }
        self.bump_epoch()?;
        nodes.give_back(old.node);
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

    fn ip_entry(&self, info: &IpInfo) -> Result<IpEntry> {
        let tunnel = if info.node == 0 || info.flags & IP_NODE_IMPLIED != 0 {
            None
        } else {
            self.maps.nodes.get(&u32::from(info.node))?.and_then(|n| node_address(&n))
        };
        Ok(IpEntry { identity: info.identity, peer: info.peer, tunnel, is_node: info.flags & IP_NODE != 0 })
    }

    pub(super) fn put_endpoint(&self, address: IpAddr, entry: EndpointEntry) -> Result<()> {
        let raw = Endpoint {
            ifindex: entry.ifindex,
            identity: entry.identity,
            peer: entry.peer,
            slot: super::policies::place(entry.slot)?,
            mac: halves(entry.mac),
        };
        let old = match address {
            IpAddr::V4(a) => self.maps.endpoints4.get(&a.octets())?,
            IpAddr::V6(a) => self.maps.endpoints6.get(&a.octets())?,
        };
        if old == Some(raw) {
            return Ok(());
        }
        match address {
            IpAddr::V4(a) => self.maps.endpoints4.put(&a.octets(), &raw)?,
            IpAddr::V6(a) => self.maps.endpoints6.put(&a.octets(), &raw)?,
        }
        self.bump_epoch()
    }

    pub(super) fn delete_endpoint(&self, address: IpAddr) -> Result<()> {
        let there = match address {
            IpAddr::V4(a) => self.maps.endpoints4.remove(&a.octets())?,
            IpAddr::V6(a) => self.maps.endpoints6.remove(&a.octets())?,
        };
        if there { self.bump_epoch() } else { Ok(()) }
    }

    pub(super) fn list_endpoints(&self) -> Result<Vec<(IpAddr, EndpointEntry)>> {
        let mut found = Vec::new();
        self.maps.endpoints4.walk(|a, e| found.push((IpAddr::from(*a), endpoint_entry(e))))?;
        self.maps.endpoints6.walk(|a, e| found.push((IpAddr::from(*a), endpoint_entry(e))))?;
        found.sort_by_key(|e| e.0);
        Ok(found)
    }
}

fn endpoint_entry(e: &Endpoint) -> EndpointEntry {
    EndpointEntry {
        ifindex: e.ifindex,
        identity: e.identity,
        peer: e.peer,
        slot: e.slot.saturating_sub(1),
        mac: bytes(e.mac),
    }
}

fn halves(mac: [u8; 6]) -> [u16; 3] {
    let mut out = [0; 3];
    for (to, from) in out.iter_mut().zip(mac.as_chunks::<2>().0) {
        *to = u16::from_ne_bytes(*from);
    }
    out
}

fn bytes(halves: [u16; 3]) -> [u8; 6] {
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
