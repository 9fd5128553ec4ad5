//! Pods of one node: real links, real programs.

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
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use axoneme_abi::{Direction as Side, DropReason, FlowEvent, FlowKind, event::audit_bit};
use axoneme_kernel::{
    bpf::{Event, EventReader},
    datapath::{Datapath, Direction, EndpointEntry, Hook, PolicyDefault, PolicyTable},
};
use rig::{
    Node, allow_all, deny_egress, deny_ingress, node_v4, node_v6, rule,
    traffic::{SHORT, Stream, ping, serve_tcp, serve_udp, tcp, udp},
    wait_for,
};

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn pods_of_a_node_reach_each_other() {
    let node = Node::alone();
    let (a, b) = (node.pod(1), node.pod(2));
    serve_tcp(&b.ns, 80);
    serve_udp(&b.ns, 53);
    for to in b.addresses() {
        assert_eq!(tcp(&a.ns, to, 80).as_deref(), Some(&b"ping"[..]), "TCP to {to}");
        assert_eq!(udp(&a.ns, to, 53, 100), Some(100), "UDP to {to}");
        assert!(ping(&a.ns, to), "ICMP to {to}");
    }
    assert_eq!(node.drops(), []);
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn node_and_pod_reach_each_other_even_under_default_deny() {
    let node = Node::alone();
    let a = node.pod(1);
    serve_tcp(&a.ns, 80);
    serve_tcp(&node.ns, 6443);
    node.datapath.put_table(a.slot, &deny_ingress()).unwrap();
    for (pod, host) in a.addresses().into_iter().zip([IpAddr::from(node_v4(1)), node_v6(1).into()]) {
        assert!(tcp(&node.ns, pod, 80).is_some(), "probe of {pod}");
        assert!(tcp(&a.ns, host, 6443).is_some(), "pod to {host}");
        assert!(ping(&a.ns, host) && ping(&node.ns, pod));
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn policy_decides_in_both_directions_and_names_its_rule() {
    let node = Node::alone();
    let (a, b, c) = (node.pod(1), node.pod(2), node.pod(3));
    serve_tcp(&b.ns, 80);
    serve_tcp(&b.ns, 81);
    let mut table = deny_ingress();
    table.entries.push(rule(Direction::Ingress, a.identity, 6, 80, true, 5));
    node.datapath.put_table(b.slot, &table).unwrap();
    node.datapath.put_table(c.slot, &deny_egress()).unwrap();
    for to in b.addresses() {
        assert!(tcp(&a.ns, to, 80).is_some(), "allowed by rule 5");
        assert!(tcp(&a.ns, to, 81).is_none(), "another port");
        assert!(tcp(&c.ns, to, 80).is_none(), "egress of the third");
        assert!(!ping(&a.ns, to), "another protocol");
    }
    let drops = node.drops();
    let denied = |identity: u32, direction: Direction, port: u16, rule: u32| {
        drops.iter().any(|d| {
            d.reason == DropReason::PolicyDenied as u8
                && d.source_identity == identity
                && d.destination_identity == b.identity
                && d.direction == u8::from(direction == Direction::Egress)
                && u16::from_be(d.destination_port) == port
                && d.rule == rule
        })
    };
    assert!(denied(a.identity, Direction::Ingress, 81, 77), "{drops:?}");
    assert!(denied(c.identity, Direction::Egress, 80, 78), "{drops:?}");
    let metrics = node.datapath.metrics().unwrap();
    let counted: u64 = metrics.drops.iter().map(|d| d.2.packets).sum();
    assert!(counted >= drops.len() as u64 && metrics.lost_drops == 0);
}

/// Events of connections with a side that would deny them: from, destination port, whether it had begun before, rules of
/// egress and ingress (0: that side would not).
fn audits(reader: &mut EventReader) -> Vec<(u32, u16, bool, [u32; 2])> {
    let mut events = Vec::new();
    reader.read(100_000, &mut events);
    let flows = events.into_iter().filter_map(|e| if let Event::Flow(f) = e { Some(f) } else { None });
    let would = |f: &FlowEvent, side, rule| if f.audit & audit_bit(side) == 0 { 0 } else { rule };
    flows
        .filter(|f| f.audit != 0)
        .map(|f| {
            let rules = [would(&f, Side::Egress, f.egress_rule), would(&f, Side::Ingress, f.rule)];
            (f.source_identity, u16::from_be(f.destination_port), f.kind == FlowKind::Audited as u8, rules)
        })
        .collect()
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn audited_policy_lets_pass_and_tells_by_rule() {
    let node = Node::alone();
    let mut reader = node.datapath.events().unwrap();
    let (a, b) = (node.pod(1), node.pod(2));
    serve_tcp(&b.ns, 80);
    serve_tcp(&b.ns, 81);
    let told = |default: PolicyDefault| PolicyDefault { allow: true, audit: true, ..default };
    let (ingress, egress) = (deny_ingress(), deny_egress());
    let mut beside = ingress.clone();
    beside.ingress_default = told(ingress.ingress_default);
    beside.entries.push(rule(Direction::Ingress, a.identity, 6, 80, true, 5));
    node.datapath.put_table(b.slot, &beside).unwrap();
    for to in b.addresses() {
        assert!(tcp(&a.ns, to, 80).is_some() && tcp(&a.ns, to, 81).is_some(), "{to}");
        assert_eq!(audits(&mut reader), [(a.identity, 81, false, [0, 77])], "{to}");
    }
    // both sides, each by its own rule
    let outgoing = PolicyTable { egress_default: told(egress.egress_default), ..allow_all() };
    node.datapath.put_table(a.slot, &outgoing).unwrap();
    for to in b.addresses() {
        assert!(tcp(&a.ns, to, 80).is_some() && tcp(&a.ns, to, 81).is_some(), "{to}");
        let expected = [(a.identity, 80, false, [78, 0]), (a.identity, 81, false, [78, 77])];
        assert_eq!(audits(&mut reader), expected, "{to}");
    }
    assert_eq!(node.drops(), []);
    // what is enforced decides, whatever is audited on the other side; and it is the drop that is told
    node.datapath.put_table(b.slot, &ingress).unwrap();
    for to in b.addresses() {
        assert!(tcp(&a.ns, to, 81).is_none(), "{to}");
    }
    let drops = node.drops();
    assert!(!drops.is_empty() && drops.iter().all(|d| d.rule == 77), "{drops:?}");
    assert_eq!(audits(&mut reader), []);
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn a_connection_that_audited_policy_comes_upon_is_told_once_and_goes_on() {
    let node = Node::alone();
    let mut reader = node.datapath.events().unwrap();
    let (a, b) = (node.pod(1), node.pod(2));
    serve_tcp(&b.ns, 80);
    for to in b.addresses() {
        let mut open = Open::to(&a.ns, to, 80);
        assert!(open.echo());
        assert_eq!(audits(&mut reader), []);
        let default = PolicyDefault { allow: true, audit: true, ..deny_ingress().ingress_default };
        node.datapath.put_table(b.slot, &PolicyTable { ingress_default: default, ..allow_all() }).unwrap();
        assert!(open.echo() && open.echo());
        assert_eq!(audits(&mut reader), [(a.identity, 80, true, [0, 77])], "{to}");
        node.datapath.put_table(b.slot, &allow_all()).unwrap();
        assert!(open.echo());
        assert_eq!(audits(&mut reader), [], "{to}");
    }
}

/// A connection that is open while policy changes, and an echo that tells whether it is still served.
struct Open(TcpStream);

impl Open {
    fn to(ns: &rig::Namespace, to: IpAddr, port: u16) -> Self {
        let s = ns.run(|| TcpStream::connect_timeout(&SocketAddr::new(to, port), SHORT).unwrap());
        s.set_read_timeout(Some(SHORT)).unwrap();
        s.set_nodelay(true).unwrap();
        Self(s)
    }
    fn echo(&mut self) -> bool {
        let mut b = [0; 4];
        self.0.write_all(b"echo").is_ok() && self.0.read_exact(&mut b).is_ok()
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn a_deny_cuts_an_open_connection_and_an_allow_gives_it_back() {
    let node = Node::alone();
    let (a, b) = (node.pod(1), node.pod(2));
    serve_tcp(&b.ns, 80);
    for to in b.addresses() {
        let mut open = Open::to(&a.ns, to, 80);
        assert!(open.echo());
        let deny = [rule(Direction::Ingress, a.identity, 6, 80, false, 9)];
        node.datapath.patch_table(b.slot, &deny, &[]).unwrap();
        assert!(!open.echo(), "denied");
        assert!(node.drops().iter().any(|d| d.reason == DropReason::PolicyDeny as u8 && d.rule == 9));
        node.datapath.patch_table(b.slot, &[], &[deny[0].0]).unwrap();
        let end = Instant::now() + Duration::from_secs(5);
        let mut b4 = [0; 4];
        open.0.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert!(open.0.read_exact(&mut b4).is_ok(), "the retransmission is answered");
        assert!(Instant::now() < end);
        // An unrelated change of the table re-judges and lets it live on.
        open.0.set_read_timeout(Some(SHORT)).unwrap();
        node.datapath.patch_table(b.slot, &[rule(Direction::Ingress, 4711, 6, 1, true, 1)], &[]).unwrap();
        assert!(open.echo());
        // Isolation of the server's egress does not concern answers.
        node.datapath.put_table(b.slot, &deny_egress()).unwrap();
        assert!(open.echo());
        node.datapath.put_table(b.slot, &allow_all()).unwrap();
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn a_slot_without_table_lets_nothing_pass() {
    let node = Node::alone();
    let (a, b) = (node.pod(1), node.pod(2));
    serve_udp(&b.ns, 53);
    assert!(udp(&a.ns, b.v4.into(), 53, 8).is_some());
    node.datapath.remove_table(b.slot).unwrap();
    assert!(udp(&a.ns, b.v4.into(), 53, 8).is_none());
    assert!(node.drops().iter().any(|d| d.reason == DropReason::NoPolicy as u8));
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn a_pod_cannot_speak_for_another() {
    let node = Node::alone();
    let (a, b, c) = (node.pod(1), node.pod(2), node.pod(3));
    serve_udp(&b.ns, 53);
    // The third's address on the first's link, and an address of nobody.
    a.ns.ip(&format!("addr add {}/32 dev eth0", c.v4));
    a.ns.ip(&format!("addr add {}/128 dev eth0 nodad", c.v6));
    a.ns.ip("addr add 192.0.2.9/32 dev eth0");
    for (source, to) in [
        (IpAddr::from(c.v4), IpAddr::from(b.v4)),
        (c.v6.into(), b.v6.into()),
        ("192.0.2.9".parse().unwrap(), b.v4.into()),
    ] {
        // Also when the address's true owner has a connection of the same ports.
        let seen = |ns: &rig::Namespace| {
            ns.run(|| {
                let s = UdpSocket::bind((source, 4444)).unwrap();
                s.set_read_timeout(Some(SHORT)).unwrap();
                s.send_to(b"x", (to, 53)).unwrap();
                s.recv(&mut [0; 8]).is_ok()
            })
        };
        if source != "192.0.2.9".parse::<IpAddr>().unwrap() {
            assert!(seen(&c.ns), "the owner");
        }
        assert!(!seen(&a.ns), "the impostor");
    }
    let spoofs = node.drops().iter().filter(|d| d.reason == DropReason::InvalidSourceIp as u8).count();
    assert!(spoofs >= 3, "{spoofs}");
    // And the link-layer address.
    let entry = EndpointEntry { mac: [0x0a, 0, 0, 0, 1, 1], ..a.entry() };
    node.datapath.upsert_endpoint(a.v4.into(), entry).unwrap();
    assert!(udp(&a.ns, b.v4.into(), 53, 8).is_some(), "its own");
    a.ns.ip("link set eth0 address 0a:00:00:00:01:99");
    a.ns.ip("neigh replace 169.254.1.1 lladdr 0a:58:a9:fe:01:01 dev eth0 nud permanent");
    a.ns.ip(&format!("route replace default via 169.254.1.1 dev eth0 src {}", a.v4));
    assert!(udp(&a.ns, b.v4.into(), 53, 8).is_none());
    assert!(node.drops().iter().any(|d| d.reason == DropReason::InvalidSourceMac as u8));
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn fragments_follow_their_first_one() {
    let node = Node::alone();
    let (a, b) = (node.pod(1), node.pod(2));
    serve_udp(&b.ns, 53);
    serve_udp(&b.ns, 54);
    let mut table = allow_all();
    table.entries.push(rule(Direction::Ingress, 0, 17, 54, false, 3));
    node.datapath.put_table(b.slot, &table).unwrap();
    for to in b.addresses() {
        assert_eq!(udp(&a.ns, to, 53, 20_000), Some(20_000), "{to}");
        assert_eq!(udp(&a.ns, to, 54, 20_000), None, "{to}");
    }
    // All fragments of the refused ones were judged by the first one's port.
    let drops = node.drops();
    assert!(drops.iter().all(|d| d.reason == DropReason::PolicyDeny as u8), "{drops:?}");
    assert!(drops.len() >= 2 * 14, "{}", drops.len());
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn an_icmp_error_belongs_to_the_connection_that_it_is_about() {
    let node = Node::alone();
    let (a, b) = (node.pod(1), node.pod(2));
    // Nothing but UDP into the first pod's peer, nothing at all into the first pod: the error is an answer.
    node.datapath.put_table(a.slot, &deny_ingress()).unwrap();
    for to in b.addresses() {
        a.ns.run(|| {
            let s = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
            s.set_read_timeout(Some(SHORT)).unwrap();
            s.connect((to, 9)).unwrap();
            s.send(b"x").unwrap();
            let e = s.recv(&mut [0; 8]).unwrap_err();
            assert_eq!(e.kind(), std::io::ErrorKind::ConnectionRefused, "{to}");
        });
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn options_and_extension_headers_are_followed() {
    let node = Node::alone();
    let (a, b) = (node.pod(1), node.pod(2));
    serve_udp(&b.ns, 53);
    let send = |to: IpAddr| {
        a.ns.run(|| {
            let s = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
            if to.is_ipv4() {
                // Router alert and padding (RFC 2113).
                set_option(&s, libc::IPPROTO_IP, libc::IP_OPTIONS, &[148, 4, 0, 0]);
            } else {
                // Destination options: eight bytes of padding (RFC 8200).
                set_option(&s, libc::IPPROTO_IPV6, 59, &[0, 0, 1, 4, 0, 0, 0, 0]);
            }
            s.set_read_timeout(Some(SHORT)).unwrap();
            s.send_to(b"x", (to, 53)).unwrap();
            s.recv(&mut [0; 8]).is_ok()
        })
    };
    for to in b.addresses() {
        assert!(send(to), "{to}");
    }
    let mut table = allow_all();
    table.entries.push(rule(Direction::Ingress, 0, 17, 53, false, 3));
    node.datapath.put_table(b.slot, &table).unwrap();
    for to in b.addresses() {
        assert!(!send(to), "{to}");
    }
    assert_eq!(node.drops().iter().filter(|d| d.rule == 3).count(), 2);
}

#[allow(unsafe_code, reason = "socket options without a safe wrapper")]
fn set_option(s: &UdpSocket, level: i32, name: i32, value: &[u8]) {
    use std::os::fd::AsRawFd;
    let length = libc::socklen_t::try_from(value.len()).unwrap();
    // SAFETY: the value outlives the call.
    let r = unsafe { libc::setsockopt(s.as_raw_fd(), level, name, value.as_ptr().cast(), length) };
    assert_eq!(r, 0, "{}", std::io::Error::last_os_error());
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn flows_tell_of_new_and_closed_connections() {
    let node = Node::alone();
    let (a, b) = (node.pod(1), node.pod(2));
    serve_tcp(&b.ns, 80);
    let mut reader = node.datapath.events().unwrap();
    assert!(tcp(&a.ns, b.v4.into(), 80).is_some());
    let mut events = Vec::new();
    wait_for("the end of the connection", Duration::from_secs(2), || {
        reader.read(100, &mut events);
        events.iter().any(|e| matches!(e, Event::Flow(f) if f.kind == 2))
    });
    let flows: Vec<_> = events.iter().filter_map(|e| if let Event::Flow(f) = e { Some(f) } else { None }).collect();
    assert_eq!(flows.iter().map(|f| f.kind).collect::<Vec<_>>(), [1, 2]);
    for f in flows {
        assert_eq!((f.source_identity, f.destination_identity), (a.identity, b.identity));
        assert_eq!(f.source[0].to_ne_bytes(), a.v4.octets());
        assert_eq!(u16::from_be(f.destination_port), 80);
    }
    let Some(Event::Flow(closed)) = events.last() else { panic!("{events:?}") };
    assert!(closed.packets[0] >= 4 && closed.packets[1] >= 3, "{closed:?}");
}

/// Cookie of a socket (`SO_COOKIE`), as its owner learns it.
#[allow(unsafe_code, reason = "a socket option without a safe wrapper")]
fn cookie(s: &UdpSocket) -> u64 {
    use std::os::fd::AsRawFd;
    let (mut cookie, mut length) = (0u64, 8);
    // SAFETY: both outlive the call, which writes eight bytes at most.
    let r = unsafe {
        libc::getsockopt(s.as_raw_fd(), libc::SOL_SOCKET, libc::SO_COOKIE, (&raw mut cookie).cast(), &raw mut length)
    };
    assert_eq!((r, length), (0, 8), "{}", std::io::Error::last_os_error());
    cookie
}

/// Id of this process's cgroup in the unified hierarchy: the inode of its directory. None: no such hierarchy.
fn own_cgroup() -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    let of = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let path = of.lines().find_map(|l| l.strip_prefix("0::"))?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = mounts.lines().find(|l| l.contains(" - cgroup2 "))?.split(' ').nth(4)?;
    std::fs::metadata(format!("{mount}{path}")).ok().map(|m| m.ino())
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn events_name_the_socket_that_sent_the_packet() {
    let node = Node::alone();
    let (a, b) = (node.pod(1), node.pod(2));
    let mut reader = node.datapath.events().unwrap();
    let mut table = deny_ingress();
    table.entries.push(rule(Direction::Ingress, a.identity, 17, 53, true, 5));
    node.datapath.put_table(b.slot, &table).unwrap();
    for to in b.addresses() {
        let any: IpAddr =
            if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
        let s = a.ns.run(move || UdpSocket::bind((any, 0)).unwrap());
        for port in [53, 54] {
            s.send_to(b"x", (to, port)).unwrap();
        }
        let (mut events, mut new, mut dropped) = (Vec::new(), None, None);
        wait_for("both events", Duration::from_secs(2), || {
            reader.read(100, &mut events);
            for event in &events {
                match event {
                    Event::Flow(f) if f.destination_port == 53u16.to_be() => new = Some(f.detail),
                    Event::Drop(d) if d.destination_port == 54u16.to_be() => dropped = Some(d.sender),
                    _ => {}
                }
            }
            new.is_some() && dropped.is_some()
        });
        let [found, cgroup] = new.unwrap();
        assert_eq!((found, new), (cookie(&s), dropped), "{to}");
        if let Some(own) = own_cgroup() {
            assert_eq!(cgroup, own, "{to}");
        }
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn a_full_conntrack_map_is_no_outage() {
    let ns = rig::Namespace::new("node");
    // each processor takes entries 128 at a time, and has as many free ones at most: a sixteenth of these
    let processors = std::thread::available_parallelism().unwrap().get().clamp(2, 16);
    let capacity = u32::try_from(processors * 128 * 16).unwrap();
    let options = rig::Options { conntrack_entries: Some(capacity), ..rig::Options::default() };
    let node = Node::with(ns, 1, &options);
    let (a, b) = (node.pod(1), node.pod(2));
    serve_udp(&b.ns, 53);
    let connections = u16::try_from(capacity + capacity / 2).unwrap();
    let answered = a.ns.run(|| {
        let mut sockets = Vec::new();
        for port in 10_000..10_000 + connections {
            let s = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
            s.set_read_timeout(Some(SHORT)).unwrap();
            s.connect((b.v4, 53)).unwrap();
            s.send(b"x").unwrap();
            sockets.push(s.recv(&mut [0; 8]).is_ok());
        }
        sockets.iter().filter(|s| **s).count()
    });
    assert_eq!(answered, usize::from(connections));
    // and it is seen
    let of = |name: &str| node.datapath.fullness().unwrap().into_iter().find(|f| f.map == name).unwrap();
    assert_eq!(of("CT4").used, 0, "nobody has walked over them");
    node.datapath.gc().unwrap();
    assert!(of("CT4").percent() >= 90 && of("CT4").capacity == capacity, "{:?}", of("CT4"));
    assert_eq!(of("CT6").used, 0);
    assert_eq!((of("ENDPOINTS4").used, of("ENDPOINTS6").used, of("SLOTS").used), (2, 2, 2));
    assert!(of("POLICY").used >= 2 && of("IPCACHE4").used >= 2, "{:?}", node.datapath.fullness());
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn restart_and_update_lose_no_packet() {
    let mut node = Node::alone();
    let (a, b) = (node.pod(1), node.pod(2));
    serve_udp(&b.ns, 53);
    let streams = b.addresses().map(|to| Stream::start(&a.ns, to, 53));
    let before = node.datapath.program_ids(a.ifindex).unwrap();
    assert_eq!(before.len(), 2);
    for round in 0..5 {
        node.restart();
        assert_eq!(node.datapath.endpoints().unwrap().len(), 4, "endpoints are adopted");
        assert_eq!(node.datapath.tables().unwrap().len(), 2, "tables are adopted");
        assert_eq!(node.datapath.attached().unwrap().len(), 2, "links are adopted");
        for pod in [&a, &b] {
            node.ns.run(|| node.datapath.attach(Hook::Endpoint, pod.ifindex)).unwrap();
        }
        let mut table = allow_all();
        table.entries.push(rule(Direction::Ingress, 5000 + round, 6, 1, false, 1));
        node.datapath.put_table(b.slot, &table).unwrap();
    }
    assert_ne!(node.datapath.program_ids(a.ifindex).unwrap(), before, "the programs were replaced");
    for stream in streams {
        let (sent, echoed) = stream.finish();
        assert!(sent > 1000, "{sent}");
        assert_eq!(sent, echoed, "lost packets");
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn nothing_is_left_after_uninstall() {
    let node = Node::alone();
    let (a, b) = (node.pod(1), node.pod(2));
    serve_tcp(&b.ns, 80);
    node.datapath.put_table(b.slot, &deny_ingress()).unwrap();
    assert!(tcp(&a.ns, b.v4.into(), 80).is_none());
    let pins = node.config.pin_dir.clone();
    assert!(pins.join("links").exists());
    let Node { datapath, ns, fs, .. } = node;
    ns.run(|| datapath.uninstall()).unwrap();
    assert!(!pins.exists());
    // The host's stack routes between the pods now: no program is in the way. (The kernel lets go of a link some time
    // after its last holder.)
    wait_for("free way", Duration::from_secs(5), || tcp(&a.ns, b.v4.into(), 80).is_some());
    drop((fs, ns));
}
