//! From policy to packets: what the host firewall's stage does with packets of a node, by the rows that are compiled for it,
//! is what the oracle says of their traffic. Random clusters and policies; both families, both directions.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may fail, and reads the environment"
)]

#[path = "../../compile/tests/common/mod.rs"]
mod common;

use std::{collections::BTreeMap, net::IpAddr};

use axoneme_abi::{
    Direction as RawDirection,
    constants::feature,
    guard::Guard,
    policy::{
        ALLOW, AUDIT, DEFAULT_ALLOW, DEFAULT_AUDIT, DEFAULT_DENY, DENY, PREFIX_FIXED, PolicyKey as RawKey,
        PolicyValue as RawValue, Slot, slot_kind,
    },
    tables::{IP_NODE, IpInfo, Side as RawSide},
};
use axoneme_compile::{Compiled, hosts};
use axoneme_model::{
    Direction, Identity, Protocol, Traffic, World, host_verdict,
    rows::{DirectionDefault, HostRow, PolicyEntry, RuleId},
    verdict::{Holder, Reason, Side, holder},
};
use axoneme_stages::{
    V4, V6, Verdict, Work, guard,
    host::{Buffer, Host},
};
use common::{
    host::{packets, world},
    random,
};

const SLOT: u16 = 1;
const TRAFFIC_A_WORLD: u64 = 250;
const SYN: u8 = 2;

fn raw(direction: Direction) -> u8 {
    match direction {
        Direction::Ingress => RawDirection::Ingress as u8,
        Direction::Egress => RawDirection::Egress as u8,
    }
}

fn word(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(a) => u32::from_ne_bytes(a.octets()),
        IpAddr::V6(_) => panic!("not of this family"),
    }
}

fn words(address: IpAddr) -> [u64; 2] {
    let IpAddr::V6(a) = address else { panic!("not of this family") };
    let bytes = a.octets();
    [u64::from_ne_bytes(bytes[..8].try_into().unwrap()), u64::from_ne_bytes(bytes[8..].try_into().unwrap())]
}

/// Puts the node's table into its slot, as an agent does.
fn table(host: &Host, row: &HostRow) -> Slot {
    let mut slot = Slot { revision: 1, ..Slot::default() };
    let put = |bits: u8, key: RawKey, rule: RuleId, verdict: u8| {
        let value = RawValue { rule: rule.0, verdict, ..RawValue::default() };
        host.policy.borrow_mut().insert((SLOT, PREFIX_FIXED + u32::from(bits), key), value);
    };
    for (direction, default) in
        [(Direction::Ingress, row.table.ingress_default), (Direction::Egress, row.table.egress_default)]
    {
        let key = RawKey { peer: 0, direction: raw(direction), protocol: 0, port: 0 };
        let DirectionDefault { allow, audit, rule } = default;
        put(
            0,
            key,
            rule,
            if audit {
                DEFAULT_AUDIT
            } else if allow {
                DEFAULT_ALLOW
            } else {
                DEFAULT_DENY
            },
        );
    }
    for (key, entry) in &row.table.entries {
        let PolicyEntry { allow, audit, rule, .. } = *entry;
        let bits = key.protocol.map_or(0, |_| 8 + key.port_bits);
        let protocol = key.protocol.map_or(0, |p| p.0);
        let raw = RawKey { peer: key.peer.0, direction: raw(key.direction), protocol, port: key.port.to_be() };
        if key.peer.level() == 1 {
            slot.flags |= slot_kind(key.peer.0, raw.direction);
        }
        put(
            bits,
            raw,
            rule,
            if audit {
                AUDIT
            } else if allow {
                ALLOW
            } else {
                DENY
            },
        );
    }
    slot
}

/// The maps of a node as its agent fills them.
fn maps(compiled: &Compiled, row: &HostRow) -> Host {
    let host = Host::default();
    host.features.set(feature::IPV4 | feature::IPV6 | feature::FLOWS);
    host.now.set(1000);
    for ip in compiled.rows.ips.values() {
        let local = !ip.node.is_empty() && ip.node == row.node;
        let (identity, peer) = if local { (ip.local_identity, ip.local_peer) } else { (ip.identity, ip.peer) };
        let flags = if matches!(identity, Identity::HOST | Identity::REMOTE_NODE) { IP_NODE } else { 0 };
        let info = IpInfo::settled(RawSide::new(identity.0, peer.0), 0, flags);
        let bits = u32::from(ip.prefix.prefix());
        match ip.prefix.ip() {
            a @ IpAddr::V4(_) => host.v4.ipcache.borrow_mut().push((word(a), bits, info)),
            a @ IpAddr::V6(_) => host.v6.ipcache.borrow_mut().push((words(a), bits, info)),
        }
    }
    host.slots.borrow_mut().insert(SLOT, table(&host, row));
    let unprotected = row.settings.unprotected.iter().map(|m| m.bit()).sum();
    let overlay_port = u32::from(row.settings.overlay_port);
    host.guard.set(Guard { slot: u32::from(SLOT), unprotected, overlay_port, reserved: 0 });
    for address in &row.apiserver {
        match address {
            IpAddr::V4(_) => host.v4.apiservers.borrow_mut().push(word(*address)),
            IpAddr::V6(_) => host.v6.apiservers.borrow_mut().push(words(*address)),
        }
    }
    host
}

/// The first packet of a connection; none where the family has no such protocol.
fn frame(t: &Traffic) -> Option<Vec<u8>> {
    let mut payload = match t.protocol {
        Protocol::ICMP if t.source.is_ipv4() => vec![u8::try_from(t.port).unwrap(), 0, 0, 0, 0, 7, 0, 1],
        Protocol::ICMPV6 if t.source.is_ipv6() => vec![u8::try_from(t.port).unwrap(), 0, 0, 0, 0, 7, 0, 1],
        Protocol::ICMP | Protocol::ICMPV6 => return None,
        _ => [40_000u16.to_be_bytes(), t.port.to_be_bytes()].concat(),
    };
    if t.protocol == Protocol::TCP {
        payload.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, SYN, 0xff, 0xff, 0, 0, 0, 0]);
    }
    payload.resize(payload.len().max(24), 0);
    let length = u16::try_from(payload.len()).unwrap();
    let mut frame = vec![0x0a; 12];
    match (t.source, t.destination) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            frame.extend([0x08, 0, 0x45, 0]);
            frame.extend((20 + length).to_be_bytes());
            frame.extend([0, 1, 0, 0, 64, t.protocol.0, 0, 0]);
            frame.extend(s.octets().into_iter().chain(d.octets()));
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([t.protocol.0, 64]);
            frame.extend(s.octets().into_iter().chain(d.octets()));
        }
        _ => panic!("two families: {t:?}"),
    }
    frame.extend(payload);
    Some(frame)
}

fn meet(host: &Host, t: &Traffic, direction: Direction, frame: &[u8]) -> Verdict {
    let buffer = &Buffer::new(frame, 2);
    match (t.source.is_ipv4(), direction) {
        (true, Direction::Ingress) => guard::<V4, _, _, false>(host, buffer, false, &mut Work::new()),
        (true, Direction::Egress) => guard::<V4, _, _, true>(host, buffer, true, &mut Work::new()),
        (false, Direction::Ingress) => guard::<V6, _, _, false>(host, buffer, false, &mut Work::new()),
        (false, Direction::Egress) => guard::<V6, _, _, true>(host, buffer, true, &mut Work::new()),
    }
}

/// Nothing, or how the packet's fate differs from what the oracle says of the side.
fn differs(compiled: &Compiled, host: &Host, t: &Traffic, direction: Direction, side: &Side) -> Option<String> {
    let frame = frame(t)?;
    host.v4.guarded.borrow_mut().clear();
    host.v6.guarded.borrow_mut().clear();
    host.flows.borrow_mut().clear();
    let v = meet(host, t, direction, &frame);
    let flows = host.flows.borrow();
    let flow = flows.first();
    let rule = match (v.is_drop(), flow) {
        (true, _) => v.node,
        (false, Some(f)) if f.audit != 0 && direction == Direction::Egress => f.egress_rule,
        (false, Some(f)) => f.rule,
        (false, None) => 0,
    };
    let audited = flow.is_some_and(|f| f.audit != 0);
    let tells_flows = flow.is_some();
    let accepted = side.audit.as_ref().map_or(&side.rules, |would| &would.rules);
    // a member of the safe set has its rule in user space
    let explained = match compiled.rows.rules.get(&RuleId(rule)) {
        Some(row) => accepted.contains(&row.rule),
        None => !v.is_drop() && (accepted.is_empty() || !tells_flows || matches!(side.reason, Reason::Safe(_))),
    };
    let wrong = v.is_drop() == side.allow || (tells_flows && audited != side.audit.is_some()) || !explained;
    wrong.then(|| format!("{direction:?} of {t:?}\n  packet: {v:?}, rule {rule}, {flow:?}\n  oracle: {side:?}"))
}

#[test]
fn packets_of_a_node_fare_as_the_oracle_says() {
    let cases = std::env::var("AXONEME_CASES").map_or(50_000, |v| v.parse().unwrap());
    let mut seen: BTreeMap<(Direction, bool, bool), u32> = BTreeMap::new();
    for seed in 0..u64::div_ceil(cases, TRAFFIC_A_WORLD) {
        let world: World = world(seed);
        let (compiled, assignments) = random::compile(&world, seed);
        let hosts: BTreeMap<_, _> = hosts(&world, &assignments, &BTreeMap::new())
            .into_iter()
            .map(|(node, row)| (node, maps(&compiled, &row)))
            .collect();
        for t in packets(&world, seed, TRAFFIC_A_WORLD) {
            let decision = host_verdict(&world, &t);
            let sides =
                [(Direction::Egress, t.source, decision.egress), (Direction::Ingress, t.destination, decision.ingress)];
            for (direction, own, side) in sides {
                let Some(side) = side.filter(|s| s.reason != Reason::SameNode) else { continue };
                let Holder::Node(node) = holder(&world, own) else { continue };
                let Some(host) = hosts.get(&node.name) else {
                    assert!(side.allow, "nothing guards the node: {side:?}");
                    continue;
                };
                if let Some(difference) = differs(&compiled, host, &t, direction, &side) {
                    panic!("seed {seed}: {difference}");
                }
                *seen.entry((direction, own.is_ipv4(), side.allow)).or_default() += 1;
            }
        }
    }
    println!("{seen:?}");
    assert!(seen.len() == 8 && seen.values().all(|n| *n > 200), "{seen:?}");
}
