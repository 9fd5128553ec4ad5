//! Services: frontends and their backend sets.
//!
//! A change writes the new set under a new number, then lets the frontend name it, then removes the old set: packets see
//! the one or the other.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use axoneme_abi::service::{Backend4, Backend6, BackendKey, Service, Service4Key, Service6Key};

use super::{
    datapath::{BpfDatapath, Maps, lock},
    loader::ticks,
    system::io_error,
};
use crate::datapath::{Result, ServiceEntry};

/// Numbers of backend sets.
#[derive(Debug, Default)]
pub(super) struct Sets {
    last: u32,
}

impl Sets {
    /// Continues after the highest number in use, and removes backends that no frontend names (of a process that died
    /// between two steps).
    pub(super) fn read(maps: &Maps) -> Result<Self> {
        let mut used = BTreeMap::new();
        maps.services4.walk(|_, s| {
            used.insert((4, s.set), s.count);
        })?;
        maps.services6.walk(|_, s| {
            used.insert((6, s.set), s.count);
        })?;
        let last = used.keys().map(|k| k.1).max().unwrap_or(0);
        let mut stale4 = Vec::new();
        maps.backends4.walk(|k, _| {
            if used.get(&(4, k.set)).is_none_or(|count| k.index >= *count) {
                stale4.push(*k);
            }
        })?;
        let mut stale6 = Vec::new();
        maps.backends6.walk(|k, _| {
            if used.get(&(6, k.set)).is_none_or(|count| k.index >= *count) {
                stale6.push(*k);
            }
        })?;
        maps.backends4.remove_all(&stale4)?;
        maps.backends6.remove_all(&stale6)?;
        Ok(Self { last })
    }
}

fn v4(a: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(a.octets())
}

fn v6(a: Ipv6Addr) -> [u64; 2] {
    let x = u128::from_ne_bytes(a.octets());
    let (low, high) = (x as u64, (x >> 64) as u64);
    if cfg!(target_endian = "little") { [low, high] } else { [high, low] }
}

fn from_v4(a: u32) -> IpAddr {
    IpAddr::from(a.to_ne_bytes())
}

pub(super) fn from_v6(a: [u64; 2]) -> IpAddr {
    let mut octets = [0u8; 16];
    for (to, from) in octets.iter_mut().zip(a.into_iter().flat_map(u64::to_ne_bytes)) {
        *to = from;
    }
    IpAddr::from(octets)
}

fn key4(a: Ipv4Addr, protocol: u8, port: u16) -> Service4Key {
    Service4Key { address: v4(a), port: port.to_be(), protocol: u16::from(protocol) }
}

fn key6(a: Ipv6Addr, protocol: u8, port: u16) -> Service6Key {
    Service6Key { address: v6(a), port: port.to_be(), protocol: u16::from(protocol), reserved: 0 }
}

fn backends4(list: &[(IpAddr, u16)]) -> Option<Vec<Backend4>> {
    let one = |(a, p): &(IpAddr, u16)| match a {
        IpAddr::V4(a) => Some(Backend4 { address: v4(*a), port: p.to_be(), ..Backend4::default() }),
        IpAddr::V6(_) => None,
    };
    list.iter().map(one).collect()
}

fn backends6(list: &[(IpAddr, u16)]) -> Option<Vec<Backend6>> {
    let one = |(a, p): &(IpAddr, u16)| match a {
        IpAddr::V6(a) => Some(Backend6 { address: v6(*a), port: p.to_be(), ..Backend6::default() }),
        IpAddr::V4(_) => None,
    };
    list.iter().map(one).collect()
}

fn set_keys(service: Option<Service>) -> Vec<BackendKey> {
    let Some(s) = service else { return Vec::new() };
    (0..s.count).map(|index| BackendKey { set: s.set, index }).collect()
}

/// IP protocol number.
const TCP: u32 = 6;

impl BpfDatapath {
    /// The value of a new set of `count` backends.
    fn next_set(&self, entry: &ServiceEntry) -> Service {
        let mut sets = lock(&self.sets);
        sets.last = sets.last.wrapping_add(1);
        Service {
            set: sets.last,
            count: u32::try_from(entry.backends.len()).unwrap_or(u32::MAX),
            affinity: if entry.affinity_seconds == 0 {
                0
            } else {
                ticks(entry.affinity_seconds, self.maps.clock.hertz())
            },
            affinity_seconds: entry.affinity_seconds,
        }
    }

    pub(super) fn put_service(&self, entry: &ServiceEntry) -> Result<()> {
        let mixed = || {
            let what =
                format!("service {} port {}: a backend is of the other address family", entry.address, entry.port);
            io_error(what, io::Error::from(io::ErrorKind::InvalidInput))
        };
        let next = self.next_set(entry);
        let keys = set_keys(Some(next));
        let gone;
        let fresh;
        match entry.address {
            IpAddr::V4(a) => {
                let key = key4(a, entry.protocol, entry.port);
                let new = backends4(&entry.backends).ok_or_else(mixed)?;
                let old = self.maps.services4.get(&key)?;
                fresh = old.is_none();
                let before = self.read4(old)?;
                if old.is_some_and(|o| o.affinity_seconds == entry.affinity_seconds) && before == new {
                    return Ok(());
                }
                self.maps.backends4.put_all(&keys, &new)?;
                self.maps.services4.put(&key, &next)?;
                self.maps.backends4.remove_all(&set_keys(old))?;
                gone = before.iter().filter(|b| !new.contains(b)).map(|b| (from_v4(b.address), b.port)).collect();
            }
            IpAddr::V6(a) => {
                let key = key6(a, entry.protocol, entry.port);
                let new = backends6(&entry.backends).ok_or_else(mixed)?;
                let old = self.maps.services6.get(&key)?;
                fresh = old.is_none();
                let before = self.read6(old)?;
                if old.is_some_and(|o| o.affinity_seconds == entry.affinity_seconds) && before == new {
                    return Ok(());
                }
                self.maps.backends6.put_all(&keys, &new)?;
                self.maps.services6.put(&key, &next)?;
                self.maps.backends6.remove_all(&set_keys(old))?;
                gone = before.iter().filter(|b| !new.contains(b)).map(|b| (from_v6(b.address), b.port)).collect();
            }
        }
        self.forget_backends(&gone)?;
        // What was sent to the address while it was no Service must not stay on its way.
        if fresh { self.bump_epoch() } else { Ok(()) }
    }

    fn read4(&self, service: Option<Service>) -> Result<Vec<Backend4>> {
        set_keys(service).iter().filter_map(|k| self.maps.backends4.get(k).transpose()).collect()
    }

    fn read6(&self, service: Option<Service>) -> Result<Vec<Backend6>> {
        set_keys(service).iter().filter_map(|k| self.maps.backends6.get(k).transpose()).collect()
    }

    /// Choices of backends that are gone: the next packet of an affine client or of a datagram flow chooses anew.
    /// Streams keep theirs until they end.
    fn forget_backends(&self, gone: &HashSet<(IpAddr, u16)>) -> Result<()> {
        if gone.is_empty() {
            return Ok(());
        }
        let (mut affinity4, mut translations4) = (Vec::new(), Vec::new());
        let (mut affinity6, mut translations6) = (Vec::new(), Vec::new());
        let was4 = |b: &Backend4| gone.contains(&(from_v4(b.address), b.port));
        let was6 = |b: &Backend6| gone.contains(&(from_v6(b.address), b.port));
        self.maps.affinity4.walk(|k, b| affinity4.extend(was4(b).then_some(*k)))?;
        self.maps.affinity6.walk(|k, b| affinity6.extend(was6(b).then_some(*k)))?;
        self.maps.translations4.walk(|k, b| translations4.extend((k.protocol != TCP && was4(b)).then_some(*k)))?;
        self.maps.translations6.walk(|k, b| translations6.extend((k.protocol != TCP && was6(b)).then_some(*k)))?;
        self.maps.affinity4.remove_all(&affinity4)?;
        self.maps.affinity6.remove_all(&affinity6)?;
        self.maps.translations4.remove_all(&translations4)?;
        self.maps.translations6.remove_all(&translations6)?;
        Ok(())
    }

    pub(super) fn delete_service(&self, address: IpAddr, protocol: u8, port: u16) -> Result<()> {
        match address {
            IpAddr::V4(a) => {
                let key = key4(a, protocol, port);
                let old = self.maps.services4.get(&key)?;
                self.maps.services4.remove(&key)?;
                self.maps.backends4.remove_all(&set_keys(old))?;
            }
            IpAddr::V6(a) => {
                let key = key6(a, protocol, port);
                let old = self.maps.services6.get(&key)?;
                self.maps.services6.remove(&key)?;
                self.maps.backends6.remove_all(&set_keys(old))?;
            }
        }
        Ok(())
    }

    pub(super) fn list_services(&self) -> Result<Vec<ServiceEntry>> {
        let mut raw4 = Vec::new();
        self.maps.services4.walk(|k, s| raw4.push((*k, *s)))?;
        let mut raw6 = Vec::new();
        self.maps.services6.walk(|k, s| raw6.push((*k, *s)))?;
        let mut found = Vec::with_capacity(raw4.len() + raw6.len());
        for (k, s) in raw4 {
            let backends = self.read4(Some(s))?.iter().map(|b| (from_v4(b.address), u16::from_be(b.port))).collect();
            found.push(service(from_v4(k.address), k.protocol, k.port, s, backends));
        }
        for (k, s) in raw6 {
            let backends = self.read6(Some(s))?.iter().map(|b| (from_v6(b.address), u16::from_be(b.port))).collect();
            found.push(service(from_v6(k.address), k.protocol, k.port, s, backends));
        }
        found.sort();
        Ok(found)
    }
}

fn service(address: IpAddr, protocol: u16, port: u16, s: Service, backends: Vec<(IpAddr, u16)>) -> ServiceEntry {
    ServiceEntry {
        address,
        protocol: protocol as u8,
        port: u16::from_be(port),
        backends,
        affinity_seconds: s.affinity_seconds,
    }
}
