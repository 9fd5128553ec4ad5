//! Connections as user space sees them: listing, collection of the expired, removal of an address's.

use std::{net::IpAddr, sync::atomic::Ordering};

use axoneme_abi::{
    Conntrack, Key4, Key6,
    conntrack::{FLAG_CLOSED, FLAG_REPLIED, FLAG_SERVICE},
    constants::TICK_SHIFT,
};

use super::datapath::BpfDatapath;
use crate::datapath::Result;

/// A connection. Source is the originator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// Host order; of ICMP echo the identifier, and the request's type on the other side.
    pub source_port: u16,
    pub destination_port: u16,
    pub protocol: u8,
    pub source_identity: u32,
    pub destination_identity: u32,
    /// Sent by the originator, by the other.
    pub packets: [u32; 2],
    pub bytes: [u64; 2],
    pub replied: bool,
    pub closed: bool,
    /// A Service's address stands before the destination.
    pub service: bool,
    /// Seconds until it expires; negative: since when it has.
    pub seconds_left: i64,
}

/// What a collection removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Entries that were looked at.
    pub seen: u32,
    /// Connections that had not been seen to close.
    pub connections: Vec<Connection>,
    /// Entries removed.
    pub removed: u32,
}

/// What both families' keys tell.
trait Ends: aya::Pod {
    fn ends(&self) -> ([IpAddr; 2], [u16; 2], u8);
}

impl Ends for Key4 {
    fn ends(&self) -> ([IpAddr; 2], [u16; 2], u8) {
        let ports = [u16::from_be(self.a_port), u16::from_be(self.b_port)];
        ([IpAddr::from(self.a.to_ne_bytes()), IpAddr::from(self.b.to_ne_bytes())], ports, self.protocol as u8)
    }
}

impl Ends for Key6 {
    fn ends(&self) -> ([IpAddr; 2], [u16; 2], u8) {
        let ports = [u16::from_be(self.a_port), u16::from_be(self.b_port)];
        ([super::services::from_v6(self.a), super::services::from_v6(self.b)], ports, self.protocol as u8)
    }
}

fn connection<K: Ends>(key: &K, ct: &Conntrack, now: u32, hertz: u32) -> Connection {
    let (addresses, ports, protocol) = key.ends();
    let swap = ct.origin_is_b();
    let order = |[a, b]: [IpAddr; 2]| if swap { (b, a) } else { (a, b) };
    let order_ports = |[a, b]: [u16; 2]| if swap { (b, a) } else { (a, b) };
    let ((source, destination), (source_port, destination_port)) = (order(addresses), order_ports(ports));
    let ([a, b], [packets_a, packets_b], [bytes_a, bytes_b]) = (ct.identity, ct.packets, ct.bytes);
    let ticks = i64::from(ct.expires) - i64::from(now);
    Connection {
        source,
        destination,
        source_port,
        destination_port,
        protocol,
        source_identity: if swap { b } else { a },
        destination_identity: if swap { a } else { b },
        packets: if swap { [packets_b, packets_a] } else { [packets_a, packets_b] },
        bytes: if swap { [bytes_b, bytes_a] } else { [bytes_a, bytes_b] },
        replied: ct.flags & FLAG_REPLIED != 0,
        closed: ct.flags & FLAG_CLOSED != 0,
        service: ct.flags & FLAG_SERVICE != 0,
        seconds_left: (ticks << TICK_SHIFT) / i64::from(hertz.max(1)),
    }
}

impl BpfDatapath {
    /// The programs' tick.
    fn now(&self) -> Result<u32> {
        self.maps.clock.tick()
    }

    /// Calls `each` with every connection. A connection that comes or goes meanwhile may be seen or not.
    pub fn connections(&self, mut each: impl FnMut(Connection)) -> Result<()> {
        let (now, hertz) = (self.now()?, self.maps.clock.hertz());
        self.maps.ct4.walk(|k, c| each(connection(k, c, now, hertz)))?;
        self.maps.ct6.walk(|k, c| each(connection(k, c, now, hertz)))
    }

    /// Removes expired entries: they no longer count for packets, but take room from others. Returns what was found
    /// expired without having been seen to close, for whoever keeps flows.
    pub fn gc(&self) -> Result<Expired> {
        let now = self.now()?;
        let mut out = Expired::default();
        let (mut old4, mut old6) = (Vec::new(), Vec::new());
        self.maps.ct4.walk(|k, c| self.expired(k, c, now, &mut old4, &mut out))?;
        let seen4 = out.seen;
        self.maps.ct6.walk(|k, c| self.expired(k, c, now, &mut old6, &mut out))?;
        for (left, seen, old) in [(0, seen4, old4.len()), (1, out.seen - seen4, old6.len())] {
            let alive = seen.saturating_sub(u32::try_from(old).unwrap_or(u32::MAX));
            if let Some(count) = self.connections.get(left) {
                count.store(alive, Ordering::Relaxed);
            }
        }
        let removed = self.maps.ct4.remove_all(&old4)? + self.maps.ct6.remove_all(&old6)?;
        self.maps.translations4.remove_all(&collect(&self.maps.translations4, |_, b| b.expires <= now)?)?;
        self.maps.translations6.remove_all(&collect(&self.maps.translations6, |_, b| b.expires <= now)?)?;
        self.maps.affinity4.remove_all(&collect(&self.maps.affinity4, |_, b| b.expires <= now)?)?;
        self.maps.affinity6.remove_all(&collect(&self.maps.affinity6, |_, b| b.expires <= now)?)?;
        self.maps.reverse4.remove_all(&old4)?;
        self.maps.reverse6.remove_all(&old6)?;
        let own4 = collect(&self.maps.guarded4, |_, c| c.expires <= now)?;
        let own6 = collect(&self.maps.guarded6, |_, c| c.expires <= now)?;
        self.maps.guarded4.remove_all(&own4)?;
        self.maps.guarded6.remove_all(&own6)?;
        out.removed = u32::try_from(removed).unwrap_or(u32::MAX);
        Ok(out)
    }

    fn expired<K: Ends>(&self, key: &K, ct: &Conntrack, now: u32, old: &mut Vec<K>, out: &mut Expired) {
        out.seen = out.seen.saturating_add(1);
        if ct.expires > now {
            return;
        }
        old.push(*key);
        if ct.flags & FLAG_CLOSED == 0 {
            out.connections.push(connection(key, ct, now, self.maps.clock.hertz()));
        }
    }

    /// Removes the connections of these addresses.
    pub(super) fn forget(&self, addresses: &[IpAddr]) -> Result<u32> {
        let mut removed = 0;
        if addresses.iter().any(IpAddr::is_ipv4) {
            removed += Self::forget_family(addresses, &self.maps.ct4, &self.maps.reverse4, &self.maps.translations4)?;
        }
        if addresses.iter().any(IpAddr::is_ipv6) {
            removed += Self::forget_family(addresses, &self.maps.ct6, &self.maps.reverse6, &self.maps.translations6)?;
        }
        Ok(u32::try_from(removed).unwrap_or(u32::MAX))
    }

    fn forget_family<K: Ends, R: aya::Pod, T: aya::Pod>(
        addresses: &[IpAddr],
        connections: &super::table::Table<K, Conntrack>,
        reverse: &super::table::Table<K, R>,
        translations: &super::table::Table<K, T>,
    ) -> Result<usize> {
        let named = |k: &K| k.ends().0.iter().any(|a| addresses.contains(a));
        let gone = collect(connections, |k, _| named(k))?;
        let removed = connections.remove_all(&gone)?;
        reverse.remove_all(&gone)?;
        translations.remove_all(&collect(translations, |k, _| named(k))?)?;
        Ok(removed)
    }
}

fn collect<K: aya::Pod, V: aya::Pod>(
    table: &super::table::Table<K, V>,
    choose: impl Fn(&K, &V) -> bool,
) -> Result<Vec<K>> {
    let mut keys = Vec::new();
    table.walk(|k, v| {
        if choose(k, v) {
            keys.push(*k);
        }
    })?;
    Ok(keys)
}
