//! What the programs let pass whatever policy says is what the model says: two lists, one meaning.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use axoneme_abi::guard::{self, safe};
use axoneme_model::{
    Direction, Protocol, Safe,
    safe::{HostSettings, SAFE_PORTS},
};

#[test]
fn the_programs_safe_set_is_the_models() {
    let settings = HostSettings::default();
    let mut found = 0;
    for (direction, number) in [(Direction::Ingress, 0), (Direction::Egress, 1)] {
        for protocol in [0, 1, 2, 6, 17, 58, 112, 132, 255] {
            for port in 0..=u16::MAX {
                let member = settings.safe(direction, Protocol(protocol), port, false);
                let bit = member.map_or(0, Safe::bit);
                assert_eq!(safe(number, protocol, port), bit, "{direction:?} {protocol} {port}");
                found += u32::from(bit != 0);
            }
        }
    }
    let listed: u32 = SAFE_PORTS.iter().map(|p| u32::from(p.last - p.first) + 1).sum();
    assert_eq!(found, listed, "each port of the list was met");
}

#[test]
fn members_have_the_same_bits() {
    for (member, bit) in [
        (Safe::Neighbors, guard::SAFE_NEIGHBORS),
        (Safe::PathErrors, guard::SAFE_PATH_ERRORS),
        (Safe::Dhcp, guard::SAFE_DHCP),
        (Safe::Dns, guard::SAFE_DNS),
        (Safe::Ntp, guard::SAFE_NTP),
        (Safe::Ssh, guard::SAFE_SSH),
        (Safe::Kubelet, guard::SAFE_KUBELET),
        (Safe::ApiServer, guard::SAFE_API_SERVER),
        (Safe::Etcd, guard::SAFE_ETCD),
        (Safe::Streams, guard::SAFE_STREAMS),
    ] {
        assert_eq!(member.bit(), bit, "{member:?}");
    }
}
