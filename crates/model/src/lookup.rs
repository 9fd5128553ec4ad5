//! Reading rows the way a node reads its maps: longest match, first hit is final.

use std::net::IpAddr;

use crate::{
    cidr::{self, Cidr},
    identity::{Identity, PeerClass},
    policy::Direction,
    protocol::Protocol,
    rows::{HostRow, IpRow, PolicyEntry, PolicyKey, RowSet, RuleId, TableRow},
};

/// Whom tables judge: what an address is looked up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Whom {
    pub class: PeerClass,
    /// Its kind, if it is of one.
    pub kind: Option<PeerClass>,
}

impl Whom {
    /// An address by its holder's identity and its class ([`RowSet::peer_of`]).
    #[must_use]
    pub const fn new((identity, class): (Identity, PeerClass), address: IpAddr) -> Self {
        Self { class, kind: PeerClass::kind_of(identity, address.is_ipv6()) }
    }
}

impl TableRow {
    /// The entry that decides, in the lookup order of [`PolicyKey`]. None: the default of the direction does.
    #[must_use]
    pub fn find(&self, direction: Direction, peer: Whom, protocol: Protocol, port: u16) -> Option<&PolicyEntry> {
        let levels = [Some(peer.class), peer.kind, Some(PeerClass::ANY)];
        levels.into_iter().flatten().find_map(|p| self.find_under(direction, p, protocol, port))
    }

    fn find_under(&self, direction: Direction, peer: PeerClass, protocol: Protocol, port: u16) -> Option<&PolicyEntry> {
        let ports = (0..=16u8).rev().map(|bits| (Some(protocol), port & mask(bits), bits));
        ports.chain([(None, 0, 0)]).find_map(|(protocol, port, port_bits)| {
            self.entries.get(&PolicyKey { direction, peer, protocol, port, port_bits })
        })
    }

    /// The verdict as an entry, from the table's default where no entry matches.
    #[must_use]
    pub fn judge(&self, direction: Direction, peer: Whom, protocol: Protocol, port: u16) -> PolicyEntry {
        let default = match direction {
            Direction::Ingress => self.ingress_default,
            Direction::Egress => self.egress_default,
        };
        self.find(direction, peer, protocol, port).copied().unwrap_or(PolicyEntry {
            allow: default.allow,
            audit: default.audit,
            rule: default.rule,
            proxy_port: 0,
            auth: 0,
        })
    }
}

impl HostRow {
    /// The verdict on the first packet of a connection that the node has with `peer`. `destination`: the packet's.
    #[must_use]
    pub fn judge(
        &self,
        direction: Direction,
        peer: Whom,
        destination: IpAddr,
        (protocol, port): (Protocol, u16),
    ) -> PolicyEntry {
        let to_apiserver = self.apiserver.contains(&destination);
        match self.settings.safe(direction, protocol, port, to_apiserver) {
            Some(member) => {
                let rule = self.safe.get(&member).copied().unwrap_or(RuleId(0));
                PolicyEntry { allow: true, audit: false, rule, proxy_port: 0, auth: 0 }
            }
            None => self.table.judge(direction, peer, protocol, port),
        }
    }
}

/// The leading `bits` of a port.
#[must_use]
pub const fn mask(bits: u8) -> u16 {
    if bits == 0 { 0 } else { u16::MAX << (16 - bits) }
}

impl RowSet {
    /// Whose an address is: longest prefix wins.
    #[must_use]
    pub fn find_ip(&self, address: IpAddr) -> Option<&IpRow> {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        (0..=longest).rev().find_map(|bits| {
            let prefix = cidr::normalise(Cidr::new(address, bits).ok()?);
            self.ips.get(&prefix)
        })
    }

    /// What an address is to the pods of `node`.
    #[must_use]
    pub fn peer_of(&self, address: IpAddr, node: &str) -> (Identity, PeerClass) {
        match self.find_ip(address) {
            Some(row) if !row.node.is_empty() && &*row.node == node => (row.local_identity, row.local_peer),
            Some(row) => (row.identity, row.peer),
            None => (Identity::UNKNOWN, PeerClass::from(Identity::UNKNOWN)),
        }
    }
}
