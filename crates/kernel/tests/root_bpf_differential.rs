//! The compiled programs and the host build of the stages are one and the same: random packets through both, with the
//! same tables, must give the same verdict, the same packet and the same connection entry.
//!
//! `AXONEME_PACKETS` sets how many (default 120 000).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::large_stack_arrays,
    clippy::too_many_lines,
    clippy::many_single_char_names,
    clippy::missing_errors_doc,
    reason = "a test fails by panicking, and reads best in one piece"
)]

mod rig;

use std::{
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
};

use axoneme_abi::{
    Conntrack, DropReason, Key4, Key6,
    constants::{
        CONTROL_EPOCH, CONTROL_NOW, CONTROL_OWN, CONTROL_RANDOM, CONTROL_ROOM, CONTROL_TUNNEL, CONTROL_VERDICT, LAPS,
        MARK_MET_SHIFT, MARK_WAITING, global,
    },
    guard::Guard,
    policy::{
        ALLOW, AUDIT, DEFAULT_ALLOW, DEFAULT_AUDIT, DEFAULT_DENY, DENY, PREFIX_FIXED, PREFIX_PROTOCOL,
        PolicyKey as RawKey, PolicyValue as RawValue, SLOT_KINDS, Slot, slot_kind,
    },
    service::{Backend4, Backend6, BackendKey, Service, Service4Key, Service6Key},
    tables::{Endpoint, IP_NODE, IP_QUEUED, IpInfo, Side},
};
use axoneme_kernel::{
    bpf::{BpfDatapath, CONTEXT_WORDS, Loader, Testing, test_run},
    datapath::{
        Datapath, DatapathConfig, Direction, EndpointEntry, IpEntry, Limit, NodeGuard, PolicyDefault, PolicyKey,
        PolicyTable, PolicyValue, ServiceEntry,
    },
};
use axoneme_stages::{
    Kind, Timeout, V4, V6, Verdict, Work, fast, guard, hook,
    host::{Buffer, Host, timeout},
    slow,
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use rig::{BpfFs, Namespace};

/// Word of `struct __sk_buff` that holds the interface index.
const WORD_IFINDEX: usize = 10;
/// The words of mark and priority.
const WORD_MARK: usize = 2;
const WORD_PRIORITY: usize = 8;

/// Both sides with the same tables.
struct Pair {
    kernel: BpfDatapath,
    host: Host,
    programs: [OwnedFd; 5],
    /// In, out.
    guards: [OwnedFd; 2],
    links: Vec<u32>,
    _fs: BpfFs,
    ns: Namespace,
}

const NAMES: [&str; 5] = ["from_container", "to_container", "from_netdev", "from_overlay", "from_waiting"];

/// Place of a hook's program.
fn place(hook: u8) -> usize {
    if hook == hook::FROM_WAITING { 4 } else { usize::from(hook) }
}

/// The waiting room's near end, where there is one.
const ROOM: u32 = 903;

fn timeouts() -> Vec<(&'static str, u32)> {
    vec![
        (global::TIMEOUT_ESTABLISHED, timeout(Timeout::Established)),
        (global::TIMEOUT_OPENING, timeout(Timeout::Opening)),
        (global::TIMEOUT_CLOSING, timeout(Timeout::Closing)),
        (global::TIMEOUT_HALF_CLOSED, timeout(Timeout::HalfClosed)),
        (global::TIMEOUT_DATAGRAM, timeout(Timeout::Datagram)),
        (global::TIMEOUT_DATAGRAM_REPLIED, timeout(Timeout::DatagramReplied)),
        (global::TIMEOUT_OTHER, timeout(Timeout::Other)),
        (global::TIMEOUT_FRAGMENT, timeout(Timeout::Fragment)),
    ]
}

/// Addresses: two local pods, a pod elsewhere, the own node, another node, the world; the last byte tells which.
const LOCAL: [u8; 3] = [1, 2, 3];
const REMOTE: u8 = 11;
const OWN_NODE: u8 = 21;
const OTHER_NODE: u8 = 22;
const WORLD: u8 = 31;
const VIP: u8 = 41;
const EMPTY_VIP: u8 = 42;
const LAST: [u8; 9] = [1, 2, 3, REMOTE, OWN_NODE, OTHER_NODE, WORLD, VIP, EMPTY_VIP];

fn v4(last: u8) -> [u8; 4] {
    [10, 0, 0, last]
}
fn v6(last: u8) -> [u8; 16] {
    let mut a = [0; 16];
    a[0] = 0xfd;
    a[15] = last;
    a
}
fn raw6(last: u8) -> [u64; 2] {
    let b = v6(last);
    [u64::from_ne_bytes(b[..8].try_into().unwrap()), u64::from_ne_bytes(b[8..].try_into().unwrap())]
}
fn both(last: u8) -> [IpAddr; 2] {
    [v4(last).into(), v6(last).into()]
}

impl Pair {
    fn new(native: bool, seed: u64) -> Self {
        Self::with(native, false, seed)
    }

    /// `answering`: what egress policy denies is answered.
    fn with(native: bool, answering: bool, seed: u64) -> Self {
        let fs = BpfFs::new();
        let ns = Namespace::new("diff");
        ns.ip("link add d1 type veth peer name e1");
        ns.ip("link add d2 type veth peer name e2");
        ns.ip("link add d3 type veth peer name e3");
        let links: Vec<u32> = ["d1", "d2", "d3"].map(|l| ns.run(|| nix::net::if_::if_nametoindex(l).unwrap())).to_vec();
        let config = DatapathConfig {
            overlay_ifindex: 901,
            uplink_ifindex: 902,
            native_routing: native,
            direct: false,
            ipv4: true,
            ipv6: true,
            node_addresses: both(OWN_NODE).to_vec(),
            allow_own_host: true,
            answer_denied: answering,
            services: true,
            socket_lb: false,
            host_firewall: true,
            conntrack_entries: 65536,
            socket_lb_host_only: false,
            timeouts: axoneme_kernel::datapath::Timeouts::default(),
            pin_dir: fs.dir.join("axoneme"),
            cgroup: None,
        };
        let testing = Testing { enabled: true, timeouts: timeouts(), ..Testing::default() };
        let kernel = Loader::open_with(config, &testing).unwrap_or_else(|e| panic!("{e}"));
        let programs = NAMES.map(|n| kernel.program(n).unwrap());
        let guards = ["guard_in", "guard_out"].map(|n| kernel.program(n).unwrap());
        let pair = Self { kernel, host: Host::default(), programs, guards, links, _fs: fs, ns };
        pair.fill(native, &mut StdRng::seed_from_u64(seed));
        if answering {
            pair.host.features.set(pair.host.features.get() | axoneme_abi::constants::feature::ANSWER_DENIED);
        }
        pair
    }

    fn fill(&self, native: bool, rng: &mut StdRng) {
        use axoneme_abi::constants::feature::{ALLOW_OWN_HOST, FLOWS, IPV4, IPV6, NATIVE, SERVICES, SET_RETVAL};
        let h = &self.host;
        h.features.set(ALLOW_OWN_HOST | FLOWS | IPV4 | IPV6 | SERVICES | SET_RETVAL | if native { NATIVE } else { 0 });
        h.overlay.set(901);
        h.uplink.set(902);
        for (n, link) in LOCAL.into_iter().zip(&self.links) {
            let entry = EndpointEntry {
                ifindex: *link,
                identity: 1000 + u32::from(n),
                peer: 1000 + u32::from(n),
                slot: u16::from(n),
                mac: [0x0a, 0, 0, 0, 0, n],
            };
            let side = Side::new(entry.identity, entry.peer);
            let raw = Endpoint::settled(*link, side, u16::from(n) + 1, [0x000a, 0, u16::from(n) << 8]);
            for a in both(n) {
                self.kernel.upsert_endpoint(a, entry).unwrap();
            }
            h.v4.endpoints.borrow_mut().push((u32::from_ne_bytes(v4(n)), raw));
            h.v6.endpoints.borrow_mut().push((raw6(n), raw));
            self.put_table(u16::from(n), &random_table(rng));
        }
        self.limit(true);
        for (last, identity, tunnel, is_node) in
            [(REMOTE, 1011, true, false), (OWN_NODE, 1, false, true), (OTHER_NODE, 6, true, true)]
        {
            let node = IpAddr::from([172, 16, 0, last]);
            let entry = IpEntry { identity, peer: identity, tunnel: tunnel.then_some(node), is_node, direct: false };
            for a in both(last) {
                self.kernel.upsert_ip(a.into(), entry).unwrap();
            }
            let place = match last {
                REMOTE => 1,
                OTHER_NODE => 2,
                _ => 0,
            };
            let flags = if is_node { IP_NODE } else { 0 };
            let raw = IpInfo::settled(Side::new(identity, identity), place, flags);
            h.v4.ipcache.borrow_mut().push((u32::from_ne_bytes(v4(last)), 32, raw));
            h.v6.ipcache.borrow_mut().push((raw6(last), 128, raw));
        }
        self.services();
        h.epoch.set(self.kernel.control(CONTROL_EPOCH).unwrap());
    }

    /// A limit of what goes to the last pod, or none, on both sides.
    fn limit(&self, limited: bool) {
        let (link, last) = (self.links[2], LOCAL[2]);
        let limit = Limit { mac: [0x0a, 0, 0, 0, 0, last], ingress: 1_000_000, egress: 0 };
        let kernel = &self.kernel;
        self.ns.run(|| kernel.set_limit(link, limited.then_some(&limit)).unwrap());
        let flags = if limited { IP_QUEUED } else { 0 };
        for (_, e) in self.host.v4.endpoints.borrow_mut().iter_mut().filter(|(_, e)| e.ifindex == link) {
            e.flags = flags;
        }
        for (_, e) in self.host.v6.endpoints.borrow_mut().iter_mut().filter(|(_, e)| e.ifindex == link) {
            e.flags = flags;
        }
        self.host.epoch.set(self.kernel.control(CONTROL_EPOCH).unwrap());
    }

    fn services(&self) {
        let h = &self.host;
        let all = [(6u8, vec![2u8, REMOTE]), (17, vec![1, 3]), (132, vec![3, REMOTE])];
        for (set, (protocol, backends)) in all.into_iter().enumerate() {
            for (family, vip) in both(VIP).into_iter().enumerate() {
                let list = backends.iter().map(|b| (both(*b)[family], 8080)).collect();
                let entry = ServiceEntry { address: vip, protocol, port: 80, backends: list, affinity_seconds: 0 };
                self.kernel.upsert_service(&entry).unwrap();
            }
            // The host's numbers of sets need not be the kernel's.
            let set = u32::try_from(set).unwrap() + 1;
            let service = Service { set, count: u32::try_from(backends.len()).unwrap(), ..Service::default() };
            let (port, protocol) = (80u16.to_be(), u16::from(protocol));
            let (a4, a6) = (u32::from_ne_bytes(v4(VIP)), raw6(VIP));
            h.v4.services.borrow_mut().insert(Service4Key { address: a4, port, protocol }, service);
            h.v6.services.borrow_mut().insert(Service6Key { address: a6, port, protocol, reserved: 0 }, service);
            for (index, b) in backends.iter().enumerate() {
                let key = BackendKey { set, index: u32::try_from(index).unwrap() };
                let port = 8080u16.to_be();
                let b4 = Backend4 { address: u32::from_ne_bytes(v4(*b)), port, ..Backend4::default() };
                h.v4.backends.borrow_mut().insert(key, b4);
                h.v6.backends.borrow_mut().insert(key, Backend6 { address: raw6(*b), port, ..Backend6::default() });
            }
        }
        for vip in both(EMPTY_VIP) {
            let entry = ServiceEntry { address: vip, protocol: 6, port: 80, backends: vec![], affinity_seconds: 0 };
            self.kernel.upsert_service(&entry).unwrap();
        }
        let (port, protocol) = (80u16.to_be(), 6);
        let a4 = u32::from_ne_bytes(v4(EMPTY_VIP));
        h.v4.services.borrow_mut().insert(Service4Key { address: a4, port, protocol }, Service::default());
        let key = Service6Key { address: raw6(EMPTY_VIP), port, protocol, reserved: 0 };
        h.v6.services.borrow_mut().insert(key, Service::default());
    }

    /// The same table on both sides.
    fn put_table(&self, slot: u16, table: &PolicyTable) {
        self.kernel.put_table(slot, table).unwrap();
        self.host_table(slot, table);
    }

    fn host_table(&self, slot: u16, table: &PolicyTable) {
        let place = slot + 1;
        let mut policy = self.host.policy.borrow_mut();
        policy.retain(|k, _| k.0 != place);
        for (direction, default) in [(0, table.ingress_default), (1, table.egress_default)] {
            let key = RawKey { peer: 0, direction, protocol: 0, port: 0 };
            let verdict = match (default.allow, default.audit) {
                (false, _) => DEFAULT_DENY,
                (true, false) => DEFAULT_ALLOW,
                (true, true) => DEFAULT_AUDIT,
            };
            policy.insert((place, PREFIX_FIXED, key), RawValue { rule: default.rule, verdict, ..RawValue::default() });
        }
        for (k, v) in &table.entries {
            let bits = if k.protocol == 0 { PREFIX_FIXED } else { PREFIX_PROTOCOL + u32::from(k.port_bits) };
            let direction = u8::from(k.direction == Direction::Egress);
            let key = RawKey { peer: k.peer, direction, protocol: k.protocol, port: k.port.to_be() };
            let verdict = match (v.allow, v.audit) {
                (false, _) => DENY,
                (true, false) => ALLOW,
                (true, true) => AUDIT,
            };
            policy.insert((place, bits, key), RawValue { rule: v.rule, proxy_port: 0, auth: v.auth, verdict });
        }
        let kinds = table.entries.iter().filter(|(k, _)| (252..=255).contains(&k.peer));
        let flags = kinds.fold(0, |f, (k, _)| f | slot_kind(k.peer, u8::from(k.direction == Direction::Egress)));
        let Slot { revision, flags: theirs, .. } = self.kernel.raw_slot(place).unwrap();
        assert_eq!(theirs & SLOT_KINDS, flags, "programs look for kinds where there are some");
        self.host.slots.borrow_mut().insert(place, Slot { revision, flags, ..Slot::default() });
    }

    fn set_time(&self, now: u32, random: u32, tunnel: u32) {
        self.kernel.set_control(CONTROL_NOW, now).unwrap();
        self.kernel.set_control(CONTROL_RANDOM, random).unwrap();
        self.kernel.set_control(CONTROL_TUNNEL, tunnel).unwrap();
        self.host.now.set(now);
        self.host.random.set(random);
    }

    fn run_kernel(&self, packet: &Random) -> (Answer, Vec<u8>) {
        let mut context = [0u32; CONTEXT_WORDS];
        context[WORD_IFINDEX] = packet.ifindex;
        context[WORD_MARK] = packet.mark;
        context[WORD_PRIORITY] = packet.note;
        let program = self.programs[place(packet.hook)].as_fd();
        let out = test_run(program, &packet.bytes, Some(&context), 1).unwrap();
        let [kind, argument, node, identity] =
            [0, 1, 2, 3].map(|place| self.kernel.control(CONTROL_VERDICT + place).unwrap());
        (Answer { kind, argument, node, identity }, out.packet)
    }

    fn run_host(&self, packet: &Random) -> (Answer, Vec<u8>) {
        let mut buffer = Buffer::new(&packet.bytes, packet.ifindex);
        buffer.tunnel = Some(packet.tunnel);
        buffer.mark.set(packet.mark);
        buffer.note.set(packet.note);
        let v = match packet.hook {
            hook::FROM_CONTAINER => host_verdict::<{ hook::FROM_CONTAINER }>(&self.host, &buffer, packet.v6),
            hook::TO_CONTAINER => host_verdict::<{ hook::TO_CONTAINER }>(&self.host, &buffer, packet.v6),
            hook::FROM_WAITING if packet.v6 => {
                slow::<V6, _, _, { hook::FROM_WAITING }>(&self.host, &buffer, &mut Work::new())
            }
            hook::FROM_WAITING => slow::<V4, _, _, { hook::FROM_WAITING }>(&self.host, &buffer, &mut Work::new()),
            hook::FROM_NETDEV => host_verdict::<{ hook::FROM_NETDEV }>(&self.host, &buffer, packet.v6),
            _ => host_verdict::<{ hook::FROM_OVERLAY }>(&self.host, &buffer, packet.v6),
        };
        let answer = Answer { kind: v.kind as u32, argument: v.argument, node: v.node, identity: v.identity };
        (answer, buffer.bytes.into_inner())
    }

    /// Runs a packet on both sides: kind and reason of the verdict, or the difference.
    fn compare(&self, packet: &Random) -> Result<(u32, u32), String> {
        self.set_time(packet.now, packet.die, packet.tunnel);
        let (kernel, kernel_bytes) = self.run_kernel(packet);
        let (host, host_bytes) = self.run_host(packet);
        if kernel != host {
            return Err(format!("{packet:?}: kernel {kernel:?}, host {host:?}"));
        }
        // What becomes of the bytes of a dropped packet does not matter.
        if kernel.kind != Kind::Drop as u32 && kernel_bytes != host_bytes {
            return Err(format!("{packet:?}: kernel wrote\n{kernel_bytes:02x?}, host wrote\n{host_bytes:02x?}"));
        }
        if kernel.kind == Kind::Reject as u32 {
            let wrong = rig::wire::wrong_checksums(&kernel_bytes);
            if !wrong.is_empty() || may_not_be_answered(&packet.bytes, packet.v6) {
                return Err(format!("{packet:?}: answered by\n{kernel_bytes:02x?}, wrong checksums: {wrong:?}"));
            }
        }
        let dropped = [Kind::Drop as u32, Kind::Reject as u32].contains(&kernel.kind);
        Ok((kernel.kind, if dropped { kernel.argument & 0xff } else { 0 }))
    }

    /// Compares all entries.
    fn compare_connections(&self) -> Option<String> {
        let h = &self.host;
        let pods = difference(self.kernel.raw_conntrack().unwrap(), &h.v4.conntrack.borrow(), &h.v6.conntrack.borrow());
        pods.or_else(|| difference(self.kernel.raw_guarded().unwrap(), &h.v4.guarded.borrow(), &h.v6.guarded.borrow()))
    }

    /// The same guard on both sides; none without a table.
    fn guard(&self, table: Option<&PolicyTable>, rng: &mut StdRng) {
        let Some(table) = table else {
            self.kernel.set_guard(None).unwrap();
            self.host.guard.set(Guard::default());
            return;
        };
        self.kernel.put_table(GUARD_SLOT, table).unwrap();
        let unprotected = if rng.random() { 0 } else { rng.random_range(0..1024u32) };
        let overlay_port = *[8472u16, 8080].choose(rng).unwrap();
        let apiservers = if rng.random() { both(WORLD).into() } else { std::collections::BTreeSet::new() };
        self.host.v4.apiservers.borrow_mut().clear();
        self.host.v6.apiservers.borrow_mut().clear();
        if !apiservers.is_empty() {
            self.host.v4.apiservers.borrow_mut().push(u32::from_ne_bytes(v4(WORLD)));
            self.host.v6.apiservers.borrow_mut().push(raw6(WORLD));
        }
        self.kernel.set_guard(Some(&NodeGuard { slot: GUARD_SLOT, unprotected, overlay_port, apiservers })).unwrap();
        let (slot, overlay_port) = (u32::from(GUARD_SLOT) + 1, u32::from(overlay_port));
        self.host.guard.set(Guard { slot, unprotected, overlay_port, reserved: 0 });
        // Setting a guard lets the slot's revision grow.
        self.host_table(GUARD_SLOT, table);
    }

    /// Runs a packet of the node through the host firewall of both sides: kind and reason, or the difference.
    fn compare_guard(&self, packet: &Random, (out, own): (bool, bool)) -> Result<(u32, u32), String> {
        self.set_time(packet.now, packet.die, packet.tunnel);
        self.kernel.set_control(CONTROL_OWN, u32::from(own)).unwrap();
        let mut context = [0u32; CONTEXT_WORDS];
        context[WORD_IFINDEX] = packet.ifindex;
        test_run(self.guards[usize::from(out)].as_fd(), &packet.bytes, Some(&context), 1).unwrap();
        let kernel = [0, 1, 2, 3].map(|place| self.kernel.control(CONTROL_VERDICT + place).unwrap());
        let buffer = Buffer::new(&packet.bytes, packet.ifindex);
        let v = match (packet.v6, out) {
            (false, false) => guard::<V4, _, _, false>(&self.host, &buffer, own, &mut Work::new()),
            (false, true) => guard::<V4, _, _, true>(&self.host, &buffer, own, &mut Work::new()),
            (true, false) => guard::<V6, _, _, false>(&self.host, &buffer, own, &mut Work::new()),
            (true, true) => guard::<V6, _, _, true>(&self.host, &buffer, own, &mut Work::new()),
        };
        let host = [v.kind as u32, v.argument, v.node, v.identity];
        if kernel != host {
            return Err(format!("out {out}, own {own}, {packet:?}: kernel {kernel:?}, host {host:?}"));
        }
        Ok((v.kind as u32, u32::from(v.drop_numbers().0)))
    }
}

/// Slot of the node's table.
const GUARD_SLOT: u16 = 9;

type Listed<K> = Vec<(K, Conntrack)>;
type Entries<K> = std::collections::HashMap<K, Conntrack>;

fn difference((v4, v6): (Listed<Key4>, Listed<Key6>), host4: &Entries<Key4>, host6: &Entries<Key6>) -> Option<String> {
    let mut host4: Vec<(Key4, Conntrack)> = host4.iter().map(|(k, c)| (*k, *c)).collect();
    let mut host6: Vec<(Key6, Conntrack)> = host6.iter().map(|(k, c)| (*k, *c)).collect();
    host4.sort_by_key(|e| e.0);
    host6.sort_by_key(|e| e.0);
    if v4.len() != host4.len() || v6.len() != host6.len() {
        let (a, b, c, d) = (v4.len(), v6.len(), host4.len(), host6.len());
        return Some(format!("entries: kernel {a} + {b}, host {c} + {d}"));
    }
    let bad4 = v4.iter().zip(&host4).find(|(k, h)| k != h).map(|d| format!("{d:?}"));
    bad4.or_else(|| v6.iter().zip(&host6).find(|(k, h)| k != h).map(|d| format!("{d:?}")))
}

fn host_verdict<const HOOK: u8>(host: &Host, buffer: &Buffer, is_v6: bool) -> Verdict {
    if is_v6 {
        if let Some(v) = long_enough(buffer, 74).then(|| fast::<V6, _, _, HOOK>(host, buffer)).flatten() {
            return v;
        }
        return slow::<V6, _, _, HOOK>(host, buffer, &mut Work::new());
    }
    if let Some(v) = long_enough(buffer, 54).then(|| fast::<V4, _, _, HOOK>(host, buffer)).flatten() {
        return v;
    }
    slow::<V4, _, _, HOOK>(host, buffer, &mut Work::new())
}

/// The programs take the short way only with that much of the packet in sight.
fn long_enough(buffer: &Buffer, length: usize) -> bool {
    buffer.bytes.borrow().len() >= length
}

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    kind: u32,
    argument: u32,
    node: u32,
    identity: u32,
}

/// A packet and the world that it meets.
#[derive(Clone, Debug)]
struct Random {
    hook: u8,
    v6: bool,
    ifindex: u32,
    tunnel: u32,
    now: u32,
    die: u32,
    mark: u32,
    note: u32,
    bytes: Vec<u8>,
}

/// RFC 1122 §3.2.2 and RFC 4443 §2.4, and resets, on a frame whose headers were read already. A frame with options or
/// extension headers is among them: what is behind these is not looked for here.
fn may_not_be_answered(frame: &[u8], v6: bool) -> bool {
    let ip = &frame[14..];
    let (protocol, header) = if v6 { (ip[6], 40) } else { (ip[9], 20) };
    let transport = &ip[header..];
    let (icmp, echo) = if v6 { (58, 128) } else { (1, 8) };
    let headers = if v6 { [0, 43, 44, 51, 60].contains(&protocol) } else { ip[0] != 0x45 };
    let later = !v6 && u16::from_be_bytes([ip[6], ip[7]]) & 0x1fff != 0;
    let group = if v6 { ip[24] == 0xff } else { ip[16] >= 224 } || frame[0] & 1 != 0;
    headers || later || group || (protocol == icmp && transport[0] != echo) || (protocol == 6 && transport[13] & 4 != 0)
}

fn random_table(rng: &mut StdRng) -> PolicyTable {
    let default = |rng: &mut StdRng| PolicyDefault {
        allow: rng.random_bool(0.6),
        audit: rng.random_bool(0.2),
        rule: rng.random_range(0..5),
    };
    let mut entries = std::collections::BTreeMap::new();
    for _ in 0..rng.random_range(0..30) {
        let protocol = *[0, 6, 17, 1, 58].choose(rng).unwrap();
        let port_bits = if protocol == 0 { 0 } else { rng.random_range(0..=16u8) };
        let port = *[80u16, 8080, 53, 8, 128, 81].choose(rng).unwrap();
        let mask = if port_bits == 0 { 0 } else { u16::MAX << (16 - port_bits) };
        let key = PolicyKey {
            direction: if rng.random() { Direction::Ingress } else { Direction::Egress },
            peer: *[0, 0, 252, 253, 254, 255, 1001, 1002, 1003, 1011, 1, 2, 6].choose(rng).unwrap(),
            protocol,
            port: port & mask,
            port_bits,
        };
        let auth = u8::from(rng.random_bool(0.05));
        let value = PolicyValue {
            allow: rng.random_bool(0.6),
            audit: rng.random_bool(0.2),
            rule: rng.random_range(1..1000),
            proxy_port: 0,
            auth,
        };
        entries.insert(key, value);
    }
    PolicyTable { ingress_default: default(rng), egress_default: default(rng), entries: entries.into_iter().collect() }
}

fn checksum(data: &[u8]) -> [u8; 2] {
    let mut sum: u32 = data.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

fn transport(rng: &mut StdRng, protocol: u8, inner: Option<Vec<u8>>, source: u16, destination: u16) -> Vec<u8> {
    let mut t = Vec::new();
    match protocol {
        6 => {
            t.extend(source.to_be_bytes());
            t.extend(destination.to_be_bytes());
            t.extend(rng.random::<[u8; 8]>());
            let offset = if rng.random_bool(0.02) { rng.random_range(0..16) } else { 5u8 };
            let flags =
                *[0x02u8, 0x02, 0x12, 0x10, 0x10, 0x18, 0x11, 0x04, 0x14, 0x03, 0x06, 0x00].choose(rng).unwrap();
            t.extend([offset << 4, flags]);
            t.extend(rng.random::<[u8; 6]>());
        }
        17 | 132 => {
            t.extend(source.to_be_bytes());
            t.extend(destination.to_be_bytes());
            t.extend([0, 8]);
            t.extend(if rng.random_bool(0.2) { [0, 0] } else { rng.random::<[u8; 2]>() });
        }
        1 | 58 => {
            let kind = if protocol == 1 {
                *[8u8, 8, 0, 3, 11, 12, 13, 5].choose(rng).unwrap()
            } else {
                *[128u8, 128, 129, 1, 2, 3, 133, 134, 135, 136, 137, 143].choose(rng).unwrap()
            };
            t.extend([kind, 0]);
            t.extend(rng.random::<[u8; 2]>());
            t.extend(source.to_be_bytes());
            t.extend([0, 1]);
            t.extend(inner.unwrap_or_default());
        }
        _ => t.extend(rng.random::<[u8; 12]>()),
    }
    t.extend(vec![0x55; rng.random_range(0..40)]);
    t
}

fn ip4(rng: &mut StdRng, s: u8, d: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let options = if rng.random_bool(0.1) { rng.random_range(1..=10usize) } else { 0 };
    let fragment: u16 =
        if rng.random_bool(0.1) { *[0x2000u16, 0x2000, 3, 0x2003, 0x4000].choose(rng).unwrap() } else { 0 };
    let mut h = vec![0x40 | (5 + options as u8), 0];
    let total = 20 + options * 4 + payload.len();
    h.extend((total as u16).to_be_bytes());
    h.extend([0, rng.random_range(0..3u8)]);
    h.extend(fragment.to_be_bytes());
    h.extend([64, protocol, 0, 0]);
    h.extend(v4(s));
    h.extend(v4(d));
    h.extend(vec![1; options * 4]);
    let c = checksum(&h);
    h[10] = c[0];
    h[11] = c[1];
    h.extend(payload);
    h
}

fn ip6(rng: &mut StdRng, s: u8, d: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut extensions = Vec::new();
    let mut next = protocol;
    if rng.random_bool(0.15) {
        for _ in 0..rng.random_range(1..=7) {
            match rng.random_range(0..4) {
                0 => {
                    let place: u16 = *[1u16, 1, 8, 9].choose(rng).unwrap();
                    let mut e = vec![next, 0];
                    e.extend(place.to_be_bytes());
                    e.extend([0, 0, 0, rng.random_range(0..3u8)]);
                    e.extend(&extensions);
                    extensions = e;
                    next = 44;
                }
                1 => {
                    let mut e = vec![next, 1];
                    e.extend([0; 14]);
                    e.extend(&extensions);
                    extensions = e;
                    next = 60;
                }
                2 => {
                    let mut e = vec![next, 2];
                    e.extend([0; 14]);
                    e.extend(&extensions);
                    extensions = e;
                    next = 51;
                }
                _ => {
                    let mut e = vec![next, 0];
                    e.extend([1, 4, 0, 0, 0, 0]);
                    e.extend(&extensions);
                    extensions = e;
                    next = 0;
                }
            }
        }
    }
    let mut h = vec![0x60, 0, 0, 0];
    h.extend(((extensions.len() + payload.len()) as u16).to_be_bytes());
    h.extend([next, 64]);
    h.extend(v6(s));
    h.extend(v6(d));
    h.extend(extensions);
    h.extend(payload);
    h
}

fn ip(rng: &mut StdRng, is_v6: bool, s: u8, d: u8, depth: u32) -> Vec<u8> {
    let icmp = if is_v6 { 58 } else { 1 };
    let protocol = *[6u8, 6, 6, 6, 17, 17, 17, icmp, icmp, 132, 47].choose(rng).unwrap();
    let port = |rng: &mut StdRng| *[80u16, 8080, 53, 40000, 40001].choose(rng).unwrap();
    let (sp, dp) = (port(rng), port(rng));
    // An ICMP error mostly speaks of a packet that its receiver sent.
    let inner = (depth == 0).then(|| {
        let other = if rng.random_bool(0.7) { s } else { *LAST.choose(rng).unwrap() };
        ip(rng, is_v6, d, other, 1)
    });
    let payload = transport(rng, protocol, inner, sp, dp);
    if is_v6 { ip6(rng, s, d, protocol, &payload) } else { ip4(rng, s, d, protocol, &payload) }
}

fn random_packet(rng: &mut StdRng, links: &[u32], now: u32) -> Random {
    let is_v6 = rng.random();
    let hook = *[0u8, 0, 0, 1, 2, 3, hook::FROM_WAITING].choose(rng).unwrap();
    let local = *LOCAL.choose(rng).unwrap();
    let other = *LAST.choose(rng).unwrap();
    let met = if hook == hook::FROM_WAITING { *[0u32, 0, 1, 2, 3, 4].choose(rng).unwrap() } else { 0 };
    let (s, d) = if hook == 0 || (hook == hook::FROM_WAITING && met == 0) { (local, other) } else { (other, local) };
    // Now and then someone else's name, or a pod's link that is not the one.
    let (s, d) = if rng.random_bool(0.05) { (*LAST.choose(rng).unwrap(), *LAST.choose(rng).unwrap()) } else { (s, d) };
    let right = links[usize::from(local) - 1];
    let ifindex = if rng.random_bool(0.05) { *links.choose(rng).unwrap() } else { right };
    let mut bytes = vec![0xee; 6];
    let mac = if rng.random_bool(0.97) { s } else { 99 };
    bytes.extend([0x0a, 0, 0, 0, 0, mac]);
    bytes.extend(if is_v6 { [0x86, 0xdd] } else { [0x08, 0x00] });
    bytes.extend(ip(rng, is_v6, s, d, 0));
    if rng.random_bool(0.03) {
        // The kernel refuses test runs of packets without a whole IP header.
        let cut = rng.random_range(if is_v6 { 54 } else { 34 }..=bytes.len());
        bytes.truncate(cut);
    }
    if rng.random_bool(0.02) {
        let at = rng.random_range(14..bytes.len());
        bytes[at] ^= 1 << rng.random_range(0..8);
    }
    let tunnel = *[1011u32, 1011, 6, 1, 0, 1012].choose(rng).unwrap();
    let waiting = hook == hook::FROM_WAITING;
    let laps = *[1, 7, LAPS - 1, LAPS, LAPS + 1].choose(rng).unwrap();
    let mark = if waiting { MARK_WAITING | met << MARK_MET_SHIFT | laps } else { 0 };
    let note = if waiting { tunnel } else { 0 };
    Random { hook, v6: is_v6, ifindex, tunnel, now, die: rng.random(), mark, note, bytes }
}

#[expect(clippy::disallowed_methods, reason = "a test's only setting")]
fn packets() -> u64 {
    std::env::var("AXONEME_PACKETS").ok().and_then(|n| n.parse().ok()).unwrap_or(120_000)
}

fn run(native: bool, answering: bool, seed: u64, count: u64) {
    let pair = Pair::with(native, answering, seed);
    let mut rng = StdRng::seed_from_u64(seed ^ 0x5eed);
    let mut now = 1000;
    let mut kinds = std::collections::BTreeMap::<(u32, u32), u64>::new();
    let links = pair.links.clone();
    pair.ns.enter();
    let result: Result<(), String> = (|| {
        for i in 0..count {
            now += u32::from(rng.random_bool(0.01)) * rng.random_range(1..90);
            if i % 2000 == 1999 {
                // Policy changes under open connections.
                pair.put_table(u16::from(*LOCAL.choose(&mut rng).unwrap()), &random_table(&mut rng));
                let room = if rng.random() { ROOM } else { 0 };
                pair.kernel.set_control(CONTROL_ROOM, room).unwrap();
                pair.host.room.set(room);
                pair.limit(rng.random());
                if let Some(difference) = pair.compare_connections() {
                    return Err(format!("seed {seed}, before packet {i}: {difference}"));
                }
            }
            let packet = random_packet(&mut rng, &links, now);
            match pair.compare(&packet) {
                Ok(kind) => *kinds.entry(kind).or_default() += 1,
                Err(difference) => return Err(format!("seed {seed}, packet {i}: {difference}")),
            }
        }
        Ok(())
    })();
    result.unwrap_or_else(|e| panic!("{e}"));
    // The packets reach every kind of verdict and most reasons: else the comparison says little.
    let reached: Vec<u32> = kinds.keys().map(|k| k.0).collect();
    let far = if native { Kind::NextHop } else { Kind::Tunnel };
    for kind in [Kind::Pass, Kind::Drop, Kind::Local, Kind::Queue, Kind::Reject, Kind::Wait, far] {
        assert!(reached.contains(&(kind as u32)), "{kind:?} was never reached: {kinds:?}");
    }
    let reasons = kinds.keys().filter(|k| k.0 == Kind::Drop as u32).count();
    assert!(reasons >= 10, "{kinds:?}");
    let denied = [DropReason::PolicyDenied, DropReason::PolicyDeny].map(|r| r as u32);
    let answered = denied.map(|reason| kinds.contains_key(&(Kind::Reject as u32, reason)));
    assert_eq!(answered, [answering; 2], "{kinds:?}");
    println!("{count} packets: {kinds:?}");
}

#[test]
#[ignore = "needs root: run by cargo xtask test bpf"]
fn programs_and_host_build_agree_on_random_packets() {
    let count = packets() / 2;
    in_own_thread(move || run(false, true, 1, count));
    in_own_thread(move || run(true, false, 2, count));
}

/// Test runs find interfaces in the thread's network namespace. On one CPU: each counts its own answers.
fn in_own_thread(work: impl FnOnce() + Send + 'static) {
    let pinned = move || {
        rig::stay_on_one_cpu();
        work();
    };
    std::thread::spawn(pinned).join().unwrap_or_else(|e| std::panic::resume_unwind(e));
}

#[test]
#[ignore = "needs root: run by cargo xtask test bpf"]
fn a_mutated_verdict_is_caught() {
    in_own_thread(mutated);
}

fn mutated() {
    let pair = Pair::new(false, 3);
    // One side's first pod lets nothing out any more.
    let allow = PolicyDefault { allow: true, audit: false, rule: 0 };
    let open = PolicyTable { ingress_default: allow, egress_default: allow, entries: vec![] };
    for slot in LOCAL {
        pair.put_table(u16::from(slot), &open);
    }
    let closed = PolicyTable { egress_default: PolicyDefault { allow: false, audit: false, rule: 0 }, ..open };
    pair.host_table(1, &closed);
    let mut rng = StdRng::seed_from_u64(4);
    let links = pair.links.clone();
    pair.ns.enter();
    let caught = (0..2000).any(|_| pair.compare(&random_packet(&mut rng, &links, 1000)).is_err());
    assert!(caught);
}

/// A packet that comes to the node, or that it sends, mostly.
fn node_packet(rng: &mut StdRng, links: &[u32], now: u32, out: bool) -> Random {
    let mut packet = random_packet(rng, links, now);
    let near = if rng.random_bool(0.95) { OWN_NODE } else { *LAST.choose(rng).unwrap() };
    let far = *[WORLD, WORLD, OTHER_NODE, REMOTE, 1, OWN_NODE].choose(rng).unwrap();
    let (s, d) = if out { (near, far) } else { (far, near) };
    packet.bytes.truncate(12);
    packet.bytes.extend(if packet.v6 { [0x86, 0xdd] } else { [0x08, 0x00] });
    let ip = ip(rng, packet.v6, s, d, 0);
    packet.bytes.extend(ip);
    if rng.random_bool(0.03) {
        let cut = rng.random_range(if packet.v6 { 54 } else { 34 }..=packet.bytes.len());
        packet.bytes.truncate(cut);
    }
    packet.mark = 0;
    packet
}

fn run_guard(seed: u64, count: u64) {
    let pair = Pair::new(false, seed);
    let mut rng = StdRng::seed_from_u64(seed ^ 0x9a4d);
    let mut now = 1000;
    let mut kinds = std::collections::BTreeMap::<(u32, u32), u64>::new();
    let links = pair.links.clone();
    pair.ns.enter();
    for i in 0..count {
        now += u32::from(rng.random_bool(0.01)) * rng.random_range(1..90);
        if i % 1000 == 0 {
            if let Some(difference) = pair.compare_connections() {
                panic!("seed {seed}, before packet {i}: {difference}");
            }
            let table = rng.random_bool(0.95).then(|| random_table(&mut rng));
            pair.guard(table.as_ref(), &mut rng);
        }
        let (out, own) = (rng.random(), rng.random_bool(0.8));
        let packet = node_packet(&mut rng, &links, now, out);
        match pair.compare_guard(&packet, (out, out && own)) {
            Ok(kind) => *kinds.entry(kind).or_default() += 1,
            Err(difference) => panic!("seed {seed}, packet {i}: {difference}"),
        }
    }
    assert_eq!(pair.compare_connections(), None);
    // With little of one of them the comparison would say little.
    let (passed, dropped) = kinds.iter().fold((0, 0), |(p, d), (k, n)| if k.1 == 0 { (p + n, d) } else { (p, d + n) });
    assert!(passed > count / 10 && dropped > count / 10 && kinds.len() >= 5, "{kinds:?}");
    println!("{count} packets: {kinds:?}");
}

#[test]
#[ignore = "needs root: run by cargo xtask test bpf"]
fn the_host_firewalls_programs_and_host_build_agree_on_random_packets() {
    let count = packets() / 2;
    in_own_thread(move || run_guard(5, count));
}

#[test]
#[ignore = "needs root: run by cargo xtask test bpf"]
fn a_guard_that_differs_is_caught() {
    in_own_thread(|| {
        let pair = Pair::new(false, 6);
        let mut rng = StdRng::seed_from_u64(7);
        let deny = PolicyDefault { allow: false, audit: false, rule: 0 };
        let closed = PolicyTable { ingress_default: deny, egress_default: deny, entries: vec![] };
        pair.guard(Some(&closed), &mut rng);
        let guard = pair.host.guard.get();
        pair.host.guard.set(Guard { unprotected: guard.unprotected ^ axoneme_abi::guard::SAFE_DNS, ..guard });
        let links = pair.links.clone();
        pair.ns.enter();
        let caught = (0..2000).any(|_| {
            let packet = node_packet(&mut rng, &links, 1000, true);
            pair.compare_guard(&packet, (true, true)).is_err()
        });
        assert!(caught);
    });
}
