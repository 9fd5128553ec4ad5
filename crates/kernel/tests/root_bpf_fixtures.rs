//! Behaviours as text: packet in, verdict, packet out, what the maps then hold. Each file of `bpf/fixtures` is run on the
//! host build of the stages and on the compiled programs, which must agree, and compared with what the file says.
//!
//! `AXONEME_BLESS=1` writes what was found into the files; where `CI` is set that is refused.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_errors_doc,
    reason = "a test fails by panicking, and reads best in one piece"
)]

mod rig;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt::Write as _,
    net::{IpAddr, Ipv6Addr},
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use axoneme_abi::{
    Conntrack, Direction as AbiDirection, DropEvent, DropReason, FlowEvent, FlowKind, Key4, Key6,
    conntrack::{FLAG_CLOSED, FLAG_LOOPBACK, FLAG_REPLIED, FLAG_SERVICE},
    constants::{
        CONTROL_CGROUP, CONTROL_EPOCH, CONTROL_NOW, CONTROL_RANDOM, CONTROL_ROOM, CONTROL_SOCKET, CONTROL_TUNNEL,
        CONTROL_VERDICT, feature, global,
    },
    event::audit_bit,
    policy::{
        ALLOW, AUDIT, DEFAULT_ALLOW, DEFAULT_AUDIT, DEFAULT_DENY, DENY, PREFIX_FIXED, PREFIX_PROTOCOL,
        PolicyKey as RawKey, PolicyValue as RawValue, Slot,
    },
    service::{Backend4, Backend6, BackendKey, Service, Service4Key, Service6Key},
    tables::{Endpoint, IP_NODE, IpInfo, Side},
};
use axoneme_kernel::{
    bpf::{BpfDatapath, CONTEXT_WORDS, Event, EventReader, Loader, Testing, test_run},
    datapath::{
        Datapath, DatapathConfig, Direction, EndpointEntry, IpEntry, PolicyDefault, PolicyTable, PolicyValue,
        ServiceEntry,
    },
};
use axoneme_stages::{
    Kind, Maps, Timeout, V4, V6, Verdict, Work, fast, hook,
    host::{Buffer, Host, timeout},
    other_protocol, slow,
};
use rig::{BpfFs, Namespace, allow_all, rule, wire};

const OVERLAY: u32 = 901;
const UPLINK: u32 = 902;
const ROOM: u32 = 903;
const NOW: u32 = 1000;

/// Everybody: name, last byte of the address. `a`, `b`, `c` are pods of this node.
const LOCAL: [(&str, u8); 3] = [("a", 1), ("b", 2), ("c", 3)];
/// A pod elsewhere, this node, its neighbour: name, last byte, identity, place in the node table, a node's own address.
const KNOWN: [(&str, u8, u32, u16, bool); 3] =
    [("remote", 11, 1011, 1, false), ("node", 21, 1, 0, true), ("neighbour", 22, 6, 2, true)];
const VIP: u8 = 41;
/// Name and port.
type Backend = (&'static str, u16);
/// Protocol, port, backend; no backend: refused.
const SERVICES: [(u8, u16, Option<Backend>); 6] = [
    (6, 80, Some(("b", 8080))),
    (17, 53, Some(("b", 5353))),
    (6, 81, Some(("a", 8080))),
    (6, 82, None),
    (132, 90, Some(("b", 90))),
    (132, 91, Some(("b", 9100))),
];

fn last(name: &str) -> u8 {
    match name {
        "vip" => VIP,
        "world" => 31,
        "nobody" => 32,
        _ => {
            LOCAL
                .iter()
                .map(|l| (l.0, l.1))
                .chain(KNOWN.iter().map(|k| (k.0, k.1)))
                .find(|k| k.0 == name)
                .unwrap_or_else(|| panic!("nobody is called {name}"))
                .1
        }
    }
}

/// Address of a name in a family.
fn host(name: &str, v6: bool) -> IpAddr {
    match (name, v6) {
        ("loopback", false) => return axoneme_abi::constants::LOOPBACK_V4.to_ne_bytes().into(),
        ("group", false) => return [224, 0, 0, 251].into(),
        ("group", true) => return "ff02::fb".parse().unwrap(),
        ("loopback", true) => {
            let [x, y] = axoneme_abi::constants::LOOPBACK_V6.map(u64::to_ne_bytes);
            return IpAddr::from(<[u8; 16]>::try_from([x, y].concat()).unwrap());
        }
        ("link", true) => return "fe80::1".parse().unwrap(),
        _ => {}
    }
    let n = last(name);
    if v6 { Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n.into()).into() } else { [10, 0, 0, n].into() }
}

fn raw4(name: &str) -> u32 {
    u32::from_ne_bytes([10, 0, 0, last(name)])
}

fn raw6(name: &str) -> [u64; 2] {
    let IpAddr::V6(a) = host(name, true) else { unreachable!() };
    let b = a.octets();
    [u64::from_ne_bytes(b[..8].try_into().unwrap()), u64::from_ne_bytes(b[8..].try_into().unwrap())]
}

/// An address's name, where it has one.
fn name(a: IpAddr) -> String {
    let names = ["a", "b", "c", "remote", "node", "neighbour", "vip", "world", "nobody", "loopback"];
    names.into_iter().find(|n| host(n, a.is_ipv6()) == a).map_or_else(|| a.to_string(), str::to_owned)
}

/// Both sides with the same rows.
struct World {
    kernel: BpfDatapath,
    events: RefCell<EventReader>,
    host: Host,
    links: [u32; 3],
    tables: BTreeMap<u8, PolicyTable>,
    /// Prefixes that go with the next commit.
    going: Vec<(u32, u32)>,
    ns: Namespace,
    _fs: BpfFs,
}

fn timeouts() -> Vec<(&'static str, u32)> {
    let all = [
        (global::TIMEOUT_ESTABLISHED, Timeout::Established),
        (global::TIMEOUT_OPENING, Timeout::Opening),
        (global::TIMEOUT_CLOSING, Timeout::Closing),
        (global::TIMEOUT_HALF_CLOSED, Timeout::HalfClosed),
        (global::TIMEOUT_DATAGRAM, Timeout::Datagram),
        (global::TIMEOUT_DATAGRAM_REPLIED, Timeout::DatagramReplied),
        (global::TIMEOUT_OTHER, Timeout::Other),
        (global::TIMEOUT_FRAGMENT, Timeout::Fragment),
    ];
    all.map(|(n, t)| (n, timeout(t))).to_vec()
}

impl World {
    /// `answering`: what egress policy denies is answered.
    fn new(native: bool, answering: bool) -> Self {
        let (fs, ns) = (BpfFs::new(), Namespace::new("fixture"));
        let links = LOCAL.map(|(name, _)| {
            ns.ip(&format!("link add d{name} type veth peer name e{name}"));
            ns.run(|| nix::net::if_::if_nametoindex(format!("d{name}").as_str()).unwrap())
        });
        let config = DatapathConfig {
            overlay_ifindex: OVERLAY,
            uplink_ifindex: UPLINK,
            native_routing: native,
            direct: false,
            ipv4: true,
            ipv6: true,
            node_addresses: vec![host("node", false), host("node", true)],
            allow_own_host: true,
            answer_denied: answering,
            services: true,
            socket_lb: false,
            host_firewall: false,
            conntrack_entries: 1024,
            socket_lb_host_only: false,
            timeouts: axoneme_kernel::datapath::Timeouts::default(),
            pin_dir: fs.dir.join("axoneme"),
            cgroup: None,
        };
        let testing = Testing { enabled: true, timeouts: timeouts(), ..Testing::default() };
        let kernel = Loader::open_with(config, &testing).unwrap_or_else(|e| panic!("{e}"));
        let events = kernel.events().unwrap().into();
        let world =
            Self { kernel, events, host: Host::default(), links, tables: BTreeMap::new(), going: vec![], ns, _fs: fs };
        let native = if native { feature::NATIVE } else { 0 };
        let answering = if answering { feature::ANSWER_DENIED } else { 0 };
        let all = feature::ALLOW_OWN_HOST | feature::FLOWS | feature::IPV4 | feature::IPV6 | feature::SERVICES;
        world.host.features.set(all | feature::SET_RETVAL | native | answering);
        world.host.overlay.set(OVERLAY);
        world.host.uplink.set(UPLINK);
        world.host.room.set(ROOM);
        world.kernel.set_control(CONTROL_ROOM, ROOM).unwrap();
        world.people();
        world.services();
        world
    }

    fn people(&self) {
        let h = &self.host;
        for ((name, n), link) in LOCAL.into_iter().zip(self.links) {
            let identity = 1000 + u32::from(n);
            let mac = [0x0a, 0, 0, 0, 0, n];
            let entry = EndpointEntry { ifindex: link, identity, peer: identity, slot: n.into(), mac };
            let mac = [0x000a, 0, u16::from(n) << 8];
            let raw = Endpoint::settled(link, Side::new(identity, identity), u16::from(n) + 1, mac);
            for v6 in [false, true] {
                self.kernel.upsert_endpoint(host(name, v6), entry).unwrap();
            }
            h.v4.endpoints.borrow_mut().push((raw4(name), raw));
            h.v6.endpoints.borrow_mut().push((raw6(name), raw));
            self.put_table(n, &allow_all());
        }
        for (name, n, identity, place, is_node) in KNOWN {
            let tunnel = (place != 0).then(|| IpAddr::from([172, 16, 0, n]));
            for v6 in [false, true] {
                let entry = IpEntry { identity, peer: identity, tunnel, is_node, direct: false };
                self.kernel.upsert_ip(host(name, v6).into(), entry).unwrap();
            }
            let flags = if is_node { IP_NODE } else { 0 };
            let raw = IpInfo::settled(Side::new(identity, identity), place, flags);
            h.v4.ipcache.borrow_mut().push((raw4(name), 32, raw));
            h.v6.ipcache.borrow_mut().push((raw6(name), 128, raw));
        }
    }

    fn services(&self) {
        let h = &self.host;
        for (set, (protocol, port, backend)) in SERVICES.into_iter().enumerate() {
            for v6 in [false, true] {
                let backends = backend.iter().map(|(n, p)| (host(n, v6), *p)).collect();
                let entry = ServiceEntry { address: host("vip", v6), protocol, port, backends, affinity_seconds: 0 };
                self.kernel.upsert_service(&entry).unwrap();
            }
            let (set, count) = (set as u32 + 1, u32::from(backend.is_some()));
            let service = if count == 0 { Service::default() } else { Service { set, count, ..Service::default() } };
            let (port, protocol) = (port.to_be(), u16::from(protocol));
            let key6 = Service6Key { address: raw6("vip"), port, protocol, reserved: 0 };
            h.v4.services.borrow_mut().insert(Service4Key { address: raw4("vip"), port, protocol }, service);
            h.v6.services.borrow_mut().insert(key6, service);
            if let Some((name, port)) = backend {
                let (key, port) = (BackendKey { set, index: 0 }, port.to_be());
                let b4 = Backend4 { address: raw4(name), port, ..Backend4::default() };
                h.v4.backends.borrow_mut().insert(key, b4);
                h.v6.backends.borrow_mut().insert(key, Backend6 { address: raw6(name), port, ..Backend6::default() });
            }
        }
    }

    fn put_table(&self, pod: u8, table: &PolicyTable) {
        self.kernel.put_table(pod.into(), table).unwrap();
        let place = u16::from(pod) + 1;
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
            policy.insert((place, bits, key), RawValue { rule: v.rule, verdict, ..RawValue::default() });
        }
        let Slot { revision, flags, .. } = self.kernel.raw_slot(place).unwrap();
        self.host.slots.borrow_mut().insert(place, Slot { revision, flags, ..Slot::default() });
    }

    /// `isolate b ingress rule 7`, `allow b ingress a udp 53 rule 5`, `deny ...`; `audit` in the place of `isolate` or `deny`.
    fn policy(&mut self, words: &[&str]) {
        let pod = last(words[1]);
        let direction = if words[2] == "ingress" { Direction::Ingress } else { Direction::Egress };
        let number = words[words.len() - 1].parse().unwrap();
        let table = self.tables.entry(pod).or_insert_with(allow_all);
        let audit = words[0] == "audit";
        if words.len() == 5 {
            let default = PolicyDefault { allow: audit, audit, rule: number };
            if direction == Direction::Ingress {
                table.ingress_default = default;
            } else {
                table.egress_default = default;
            }
        } else {
            let peer = match words[3] {
                "all" => 0,
                n => n.parse().unwrap_or_else(|_| class(n)),
            };
            let protocol = match words[4] {
                "tcp" => 6,
                "udp" => 17,
                "sctp" => 132,
                "icmp" => 1,
                "icmp6" => 58,
                other => other.parse().unwrap(),
            };
            let (mut key, value) =
                rule(direction, peer, protocol, words[5].parse().unwrap(), words[0] != "deny", number);
            key.port_bits = 16;
            let value = PolicyValue { audit, ..value };
            table.entries.push((key, value));
        }
        let table = table.clone();
        self.put_table(pod, &table);
    }
}

/// Identity and class that someone has at the start.
fn class(name: &str) -> u32 {
    KNOWN.iter().find(|k| k.0 == name).map_or_else(|| 1000 + u32::from(last(name)), |k| k.2)
}

/// Addresses that change hands.
impl World {
    /// `becomes b 1500 by c`: from the next `commit` on b is of that identity and class, and goes by the table of c.
    fn becomes(&self, name: &str, identity: u32, by: &str) {
        let (h, even) = (&self.host, self.kernel.control(CONTROL_EPOCH).unwrap() & 1 == 0);
        let (next, new) = (usize::from(even), Side::new(identity, identity));
        if let Some((_, n, _, place, is_node)) = KNOWN.into_iter().find(|k| k.0 == name) {
            let tunnel = (place != 0).then(|| IpAddr::from([172, 16, 0, n]));
            let entry = IpEntry { identity, peer: identity, tunnel, is_node, direct: false };
            for v6 in [false, true] {
                self.kernel.stage_ip(host(name, v6).into(), Some(entry)).unwrap();
            }
            h.v4.ipcache.borrow_mut().iter_mut().filter(|e| e.0 == raw4(name)).for_each(|e| e.2.sides[next] = new);
            h.v6.ipcache.borrow_mut().iter_mut().filter(|e| e.0 == raw6(name)).for_each(|e| e.2.sides[next] = new);
            return;
        }
        let (n, slot) = (last(name), u16::from(last(by)));
        let mac = [0x0a, 0, 0, 0, 0, n];
        let entry = EndpointEntry { ifindex: self.links[usize::from(n) - 1], identity, peer: identity, slot, mac };
        for v6 in [false, true] {
            self.kernel.stage_endpoint(host(name, v6), Some(entry)).unwrap();
        }
        let change = |e: &mut Endpoint| (e.sides[next], e.slots[next]) = (new, slot + 1);
        h.v4.endpoints.borrow_mut().iter_mut().filter(|e| e.0 == raw4(name)).for_each(|e| change(&mut e.1));
        h.v6.endpoints.borrow_mut().iter_mut().filter(|e| e.0 == raw6(name)).for_each(|e| change(&mut e.1));
    }

    /// `block 10.0.0.24/29 3000`: from the next `commit` on the addresses of a new prefix are of that class, or with
    /// `unblock` are what they would be without the prefix.
    fn block(&mut self, prefix: &str, identity: Option<u32>) {
        let prefix: ipnetwork::Ipv4Network = prefix.parse().unwrap();
        let (key, bits) = (u32::from_ne_bytes(prefix.ip().octets()), u32::from(prefix.prefix()));
        let entry = |identity| IpEntry { identity, peer: identity, tunnel: None, is_node: false, direct: false };
        self.kernel.stage_ip(prefix.into(), identity.map(entry)).unwrap();
        let Some(identity) = identity else { return self.going.push((key, bits)) };
        let even = self.kernel.control(CONTROL_EPOCH).unwrap() & 1 == 0;
        let around = Maps::<V4>::ipcache(&self.host, key);
        let now = around.map_or(Side::new(2, 2), |i| i.sides[usize::from(!even)]);
        let mut info = IpInfo::settled(now, 0, 0);
        info.sides[usize::from(even)] = Side::new(identity, identity);
        self.host.v4.ipcache.borrow_mut().push((key, bits, info));
    }

    fn commit(&mut self) {
        self.kernel.commit().unwrap();
        let going = std::mem::take(&mut self.going);
        self.host.v4.ipcache.borrow_mut().retain(|(key, bits, _)| !going.contains(&(*key, *bits)));
        let (h, read) = (&self.host, usize::from(self.kernel.control(CONTROL_EPOCH).unwrap() & 1 != 0));
        let settle = |e: &mut Endpoint| (e.sides, e.slots) = ([e.sides[read]; 2], [e.slots[read]; 2]);
        h.v4.endpoints.borrow_mut().iter_mut().for_each(|e| settle(&mut e.1));
        h.v6.endpoints.borrow_mut().iter_mut().for_each(|e| settle(&mut e.1));
        h.v4.ipcache.borrow_mut().iter_mut().for_each(|e| e.2.sides = [e.2.sides[read]; 2]);
        h.v6.ipcache.borrow_mut().iter_mut().for_each(|e| e.2.sides = [e.2.sides[read]; 2]);
    }
}

/// A packet at a hook.
struct Step {
    hook: u8,
    ifindex: u32,
    tunnel: u32,
    /// Cookie and cgroup of the socket that sends.
    socket: [u32; 2],
    bytes: Vec<u8>,
}

fn step(world: &World, text: &str) -> Step {
    let (place, packet) = text.split_once(':').unwrap_or_else(|| panic!("no packet in {text:?}"));
    let words: Vec<_> = place.split_whitespace().collect();
    let link = |n: &str| world.links[usize::from(last(n)) - 1];
    let mut socket = [0; 2];
    let (hook, ifindex, tunnel) = match words[..] {
        ["from", pod, "socket", cookie, "cgroup", id] => {
            socket = [cookie, id].map(|n| n.parse().unwrap());
            (hook::FROM_CONTAINER, link(pod), 0)
        }
        ["from", pod] => (hook::FROM_CONTAINER, link(pod), 0),
        ["to", pod] => (hook::TO_CONTAINER, link(pod), 0),
        ["uplink"] => (hook::FROM_NETDEV, world.links[0], 0),
        ["overlay", identity] => (hook::FROM_OVERLAY, world.links[0], identity.parse().unwrap()),
        _ => panic!("no hook {place:?}"),
    };
    Step { hook, ifindex, tunnel, socket, bytes: wire::frame(packet, &host) }
}

fn on_host(world: &World, s: &Step) -> (Verdict, Vec<u8>) {
    let mut buffer = Buffer::new(&s.bytes, s.ifindex);
    buffer.tunnel = Some(s.tunnel);
    buffer.socket = s.socket.map(u64::from);
    let v = match s.hook {
        hook::FROM_CONTAINER => stages::<{ hook::FROM_CONTAINER }>(&world.host, &buffer),
        hook::TO_CONTAINER => stages::<{ hook::TO_CONTAINER }>(&world.host, &buffer),
        hook::FROM_NETDEV => stages::<{ hook::FROM_NETDEV }>(&world.host, &buffer),
        _ => stages::<{ hook::FROM_OVERLAY }>(&world.host, &buffer),
    };
    (v, buffer.bytes.into_inner())
}

fn stages<const HOOK: u8>(host: &Host, buffer: &Buffer) -> Verdict {
    let (kind, length) = {
        let b = buffer.bytes.borrow();
        (u16::from_be_bytes([b[12], b[13]]), b.len())
    };
    match kind {
        0x0800 => (length >= 54)
            .then(|| fast::<V4, _, _, HOOK>(host, buffer))
            .flatten()
            .unwrap_or_else(|| slow::<V4, _, _, HOOK>(host, buffer, &mut Work::new())),
        0x86dd => (length >= 74)
            .then(|| fast::<V6, _, _, HOOK>(host, buffer))
            .flatten()
            .unwrap_or_else(|| slow::<V6, _, _, HOOK>(host, buffer, &mut Work::new())),
        _ if HOOK == hook::FROM_CONTAINER => other_protocol(host, &buffer, kind),
        _ => Verdict::PASS,
    }
}

fn on_kernel(world: &World, s: &Step) -> (Verdict, Vec<u8>) {
    let names = ["from_container", "to_container", "from_netdev", "from_overlay"];
    let program = world.kernel.program(names[usize::from(s.hook)]).unwrap();
    let mut context = [0u32; CONTEXT_WORDS];
    context[10] = s.ifindex;
    for (place, word) in [(CONTROL_TUNNEL, s.tunnel), (CONTROL_SOCKET, s.socket[0]), (CONTROL_CGROUP, s.socket[1])] {
        world.kernel.set_control(place, word).unwrap();
    }
    let out = world.ns.run(|| test_run(program.as_fd(), &s.bytes, Some(&context), 1)).unwrap();
    let [kind, argument, node, identity] =
        [0, 1, 2, 3].map(|place| world.kernel.control(CONTROL_VERDICT + place).unwrap());
    let kinds =
        [Kind::Pass, Kind::Drop, Kind::Local, Kind::NextHop, Kind::Tunnel, Kind::Reject, Kind::Wait, Kind::Queue];
    let kind = kinds.into_iter().find(|k| *k as u32 == kind).unwrap_or(Kind::Undecided);
    (Verdict { kind, argument, node, identity }, out.packet)
}

fn describe(world: &World, v: Verdict) -> String {
    let pod = |index: u32| LOCAL[world.links.iter().position(|l| *l == index).unwrap_or(0)].0;
    match v.kind {
        Kind::Pass => "to the stack".to_owned(),
        Kind::Local => format!("into {}", pod(v.argument)),
        Kind::Queue => format!("into {} through its queue", pod(v.argument)),
        Kind::NextHop => format!("out of the uplink by node {}", v.node),
        Kind::Tunnel => format!("into the tunnel to node {} as {}", v.node, v.identity),
        Kind::Wait => "into the waiting room".to_owned(),
        Kind::Undecided => "undecided".to_owned(),
        Kind::Drop | Kind::Reject => {
            let (reason, direction) = v.drop_numbers();
            let reason = DropReason::from_number(reason).map_or("no reason", DropReason::name);
            let way = if direction == 0 { "ingress" } else { "egress" };
            let word = if v.kind == Kind::Drop { "dropped" } else { "refused" };
            format!("{word}: {reason}, {way}, rule {}", v.node)
        }
    }
}

/// Where two packets differ, as `place: old -> new`.
fn changes(before: &[u8], after: &[u8]) -> Vec<String> {
    let hex = |b: &[u8]| b.iter().fold(String::new(), |s, x| s + &format!("{x:02x}"));
    let mut out = Vec::new();
    if before.len() != after.len() {
        out.push(format!("length: {} -> {}", before.len(), after.len()));
    }
    let common = before.len().min(after.len());
    let mut at = 0;
    while at < common {
        if before[at] == after[at] {
            at += 1;
            continue;
        }
        let end = (at..common).find(|i| before[*i] == after[*i]).unwrap_or(common);
        out.push(format!("{at}: {} -> {}", hex(&before[at..end]), hex(&after[at..end])));
        at = end;
    }
    if after.len() > common {
        out.push(format!("{common}: + {}", hex(&after[common..])));
    }
    out
}

type Entry = ([IpAddr; 2], [u16; 2], u8, Conntrack);

fn entries(world: &World) -> BTreeMap<String, Conntrack> {
    let v4 = world.host.v4.conntrack.borrow();
    let v6 = world.host.v6.conntrack.borrow();
    let six = |a: [u64; 2]| IpAddr::from(<[u8; 16]>::try_from(a.map(u64::to_ne_bytes).concat()).unwrap());
    let four = |k: &Key4, c: &Conntrack| -> Entry {
        ([k.a.to_ne_bytes().into(), k.b.to_ne_bytes().into()], [k.a_port, k.b_port], k.protocol as u8, *c)
    };
    let of6 = |k: &Key6, c: &Conntrack| -> Entry { ([six(k.a), six(k.b)], [k.a_port, k.b_port], k.protocol as u8, *c) };
    v4.iter().map(|(k, c)| four(k, c)).chain(v6.iter().map(|(k, c)| of6(k, c))).map(|e| (title(&e), e.3)).collect()
}

fn title((ends, ports, protocol, ct): &Entry) -> String {
    let end = |i: usize| format!("{}:{}", name(ends[i]), u16::from_be(ports[i]));
    let (from, to) = if ct.origin_is_b() { (end(1), end(0)) } else { (end(0), end(1)) };
    format!("{from} > {to} protocol {protocol}")
}

fn state(ct: &Conntrack) -> String {
    let [a, b] = ct.packets;
    let (sent, answered) = if ct.origin_is_b() { (b, a) } else { (a, b) };
    let mut words = vec![format!("packets {sent} and {answered}, {} ticks", ct.expires - NOW)];
    let flags =
        [(FLAG_REPLIED, "replied"), (FLAG_CLOSED, "closed"), (FLAG_SERVICE, "service"), (FLAG_LOOPBACK, "loopback")];
    words.extend(flags.iter().filter(|f| ct.flags & f.0 != 0).map(|f| f.1.to_owned()));
    words.join(", ")
}

/// Runs a step on both sides, holds them equal, and tells what happened.
fn tell(world: &World, text: &str) -> String {
    let s = step(world, text);
    let before = entries(world);
    world.host.drops.borrow_mut().clear();
    world.host.flows.borrow_mut().clear();
    let (v, bytes) = on_host(world, &s);
    let (kernel, kernel_bytes) = on_kernel(world, &s);
    assert_eq!(v, kernel, "{text}: host and kernel differ");
    if v.kind != Kind::Drop {
        assert_eq!(bytes, kernel_bytes, "{text}: host and kernel write different packets");
    }
    let mut out = String::new();
    writeln!(out, "  {}", describe(world, v)).unwrap();
    if v.kind != Kind::Drop {
        for c in changes(&s.bytes, &bytes) {
            writeln!(out, "  bytes {c}").unwrap();
        }
        let wrong = wire::wrong_checksums(&bytes);
        if !wrong.is_empty() {
            writeln!(out, "  wrong checksums: {}", wrong.join(", ")).unwrap();
        }
    }
    for (key, ct) in entries(world).iter().filter(|(k, c)| before.get(*k) != Some(*c)) {
        writeln!(out, "  connection {key}: {}", state(ct)).unwrap();
    }
    for f in world.host.flows.borrow().iter() {
        let kind = match f.kind {
            k if k == FlowKind::New as u8 => "new",
            k if k == FlowKind::Closed as u8 => "closed",
            k if k == FlowKind::Audited as u8 => "audited",
            k => panic!("{text}: event of kind {k}"),
        };
        let sides = [(AbiDirection::Egress, f.egress_rule), (AbiDirection::Ingress, f.rule)];
        let would = sides.into_iter().filter(|(d, _)| f.audit & audit_bit(*d) != 0);
        let would: String =
            would.map(|(d, rule)| format!(", would be denied: {d:?} rule {rule}").to_lowercase()).collect();
        let egress = if f.audit == 0 { String::new() } else { format!(", egress rule {}", f.egress_rule) };
        let from = if f.kind == FlowKind::New as u8 { sender(f.hook, f.detail) } else { String::new() };
        writeln!(out, "  event: {kind}, rule {}{egress}{would}{from}", f.rule).unwrap();
    }
    for d in world.host.drops.borrow().iter() {
        let from = sender(d.hook, d.sender);
        writeln!(out, "  event: dropped, {} to {}, rule {}{from}", d.source_identity, d.destination_identity, d.rule)
            .unwrap();
    }
    compare_events(world, text);
    compare_maps(world, text);
    out
}

/// Where an event says that its packet comes from.
fn sender(hook: u8, [first, second]: [u64; 2]) -> String {
    match (hook, first, second) {
        (hook::FROM_OVERLAY, id, 0) => format!(", tunnel {id}"),
        (_, 0, 0) => String::new(),
        (_, cookie, cgroup) => format!(", socket {cookie}, cgroup {cgroup}"),
    }
}

/// Both tell the same of the step.
fn compare_events(world: &World, text: &str) {
    let mut found = Vec::new();
    world.events.borrow_mut().read(1000, &mut found);
    let (mut flows, mut drops) = (Vec::new(), Vec::new());
    for event in found {
        match event {
            Event::Flow(f) => flows.push(FlowEvent { time: 0, ..f }),
            Event::Drop(d) => drops.push(DropEvent { time: 0, ..d }),
        }
    }
    assert_eq!(flows, *world.host.flows.borrow(), "{text}: host and kernel tell of other connections");
    assert_eq!(drops, *world.host.drops.borrow(), "{text}: host and kernel tell of other drops");
}

fn compare_maps(world: &World, text: &str) {
    let (v4, v6) = world.kernel.raw_conntrack().unwrap();
    let mut host4: Vec<_> = world.host.v4.conntrack.borrow().iter().map(|(k, c)| (*k, *c)).collect();
    let mut host6: Vec<_> = world.host.v6.conntrack.borrow().iter().map(|(k, c)| (*k, *c)).collect();
    host4.sort_by_key(|e: &(Key4, Conntrack)| e.0);
    host6.sort_by_key(|e: &(Key6, Conntrack)| e.0);
    assert_eq!((v4, v6), (host4, host6), "{text}: connections differ");
}

/// The file as it would be if what happens were right.
fn run(text: &str) -> String {
    let says = |setting: &str| text.lines().any(|l| l.trim() == setting);
    let mut world = World::new(says("native"), says("answering"));
    let mut out = String::new();
    for line in text.lines().filter(|l| !l.starts_with("  ")) {
        writeln!(out, "{line}").unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            [] | ["native" | "answering"] => {}
            [w, ..] if w.starts_with('#') => {}
            ["isolate" | "allow" | "deny" | "audit", ..] => world.policy(&words),
            ["becomes", name, identity] => world.becomes(name, identity.parse().unwrap(), name),
            ["becomes", name, identity, "by", table] => world.becomes(name, identity.parse().unwrap(), table),
            ["block", prefix, identity] => world.block(prefix, Some(identity.parse().unwrap())),
            ["unblock", prefix] => world.block(prefix, None),
            ["commit"] => world.commit(),
            [">", ..] => {
                world.host.epoch.set(world.kernel.control(CONTROL_EPOCH).unwrap());
                world.host.now.set(NOW);
                world.host.random.set(0);
                world.kernel.set_control(CONTROL_NOW, NOW).unwrap();
                world.kernel.set_control(CONTROL_RANDOM, 0).unwrap();
                out.push_str(&tell(&world, line.trim_start_matches('>')));
            }
            _ => panic!("what is {line:?}"),
        }
    }
    out
}

fn files() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bpf/fixtures");
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "txt"));
    files.sort();
    files
}

fn blessing() -> bool {
    let wanted = std::env::var_os("AXONEME_BLESS").is_some();
    assert!(!wanted || std::env::var_os("CI").is_none(), "fixtures are blessed by people, not by CI");
    wanted
}

#[test]
#[ignore = "needs root: run by cargo xtask test bpf"]
fn behaviours_are_as_the_fixtures_say() {
    let bless = blessing();
    let mut wrong = Vec::new();
    let files = files();
    assert!(files.len() >= 10, "the fixtures are gone: {files:?}");
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let found = run(&text);
        if found == text {
            continue;
        }
        if bless {
            std::fs::write(&file, found).unwrap();
            continue;
        }
        let line = found.lines().zip(text.lines()).find(|(f, t)| f != t);
        wrong.push(format!("{}: {line:?}\n{found}", file.display()));
    }
    assert!(wrong.is_empty(), "not as they say (AXONEME_BLESS=1 after having looked):\n{}", wrong.join("\n"));
}

#[test]
#[ignore = "needs root: run by cargo xtask test bpf"]
fn a_fixture_that_says_something_else_is_noticed() {
    let text = "> from a: ip4 a b / udp 4000 53 / text x\n  into c\n";
    let found = run(text);
    assert!(found.starts_with("> from a: ip4 a b / udp 4000 53 / text x\n  into b\n"), "{found}");
    assert_ne!(found, text);
}
