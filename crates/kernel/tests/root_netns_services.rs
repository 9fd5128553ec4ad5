//! Services: at the socket and packet by packet.

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
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use axoneme_abi::DropReason;
use axoneme_kernel::datapath::{Datapath, Direction, ServiceEntry};
use rig::{
    Namespace, Node, Options, Pod, deny_egress, rule,
    traffic::{SHORT, serve_tcp, serve_udp, tcp, udp},
};

const VIP4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10));

fn vip6() -> IpAddr {
    "fd96::10".parse().unwrap()
}

fn service(address: IpAddr, protocol: u8, port: u16, backends: &[(IpAddr, u16)]) -> ServiceEntry {
    ServiceEntry { address, protocol, port, backends: backends.to_vec(), affinity_seconds: 0 }
}

/// Says its name to whoever connects.
fn serve_name(ns: &Namespace, port: u16, name: u8) {
    let (ready, wait) = std::sync::mpsc::channel();
    ns.spawn(move || {
        let l = TcpListener::bind(("::", port)).unwrap();
        ready.send(()).unwrap();
        for mut s in l.incoming().flatten() {
            let _ = s.write_all(&[name]);
        }
    });
    wait.recv().unwrap();
}

fn ask_name(ns: &Namespace, to: IpAddr, port: u16) -> Option<u8> {
    ns.run(|| {
        let mut s = TcpStream::connect_timeout(&SocketAddr::new(to, port), SHORT).ok()?;
        s.set_read_timeout(Some(SHORT)).unwrap();
        assert_eq!(s.peer_addr().unwrap(), SocketAddr::new(to, port), "the client believes to speak to the Service");
        let mut b = [0; 1];
        s.read_exact(&mut b).ok()?;
        Some(b[0])
    })
}

fn both(pod: &Pod) -> [(IpAddr, IpAddr); 2] {
    let [v4, v6] = pod.addresses();
    [(VIP4, v4), (vip6(), v6)]
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn a_service_is_translated_packet_by_packet() {
    let node = Node::alone();
    let (a, b, c) = (node.pod(1), node.pod(2), node.pod(3));
    serve_name(&b.ns, 8080, 2);
    serve_name(&c.ns, 8080, 3);
    serve_udp(&b.ns, 5353);
    for ((vip, of_b), (_, of_c)) in both(&b).into_iter().zip(both(&c)) {
        node.datapath.upsert_service(&service(vip, 6, 80, &[(of_b, 8080), (of_c, 8080)])).unwrap();
        node.datapath.upsert_service(&service(vip, 17, 53, &[(of_b, 5353)])).unwrap();
        let names: std::collections::BTreeSet<_> = (0..40).filter_map(|_| ask_name(&a.ns, vip, 80)).collect();
        assert_eq!(names, [2, 3].into(), "both backends serve {vip}");
        // Small, and in fragments: only the first one has ports to translate.
        assert_eq!(udp(&a.ns, vip, 53, 10), Some(10), "{vip}");
        assert_eq!(udp(&a.ns, vip, 53, 9000), Some(9000), "{vip}");
    }
    assert_eq!(node.drops(), []);
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn egress_policy_judges_the_backend_of_a_service() {
    let node = Node::alone();
    let (a, b) = (node.pod(1), node.pod(2));
    serve_name(&b.ns, 8080, 2);
    let mut table = deny_egress();
    table.entries.push(rule(Direction::Egress, b.identity, 6, 8080, true, 4));
    node.datapath.put_table(a.slot, &table).unwrap();
    for (vip, of_b) in both(&b) {
        node.datapath.upsert_service(&service(vip, 6, 80, &[(of_b, 8080)])).unwrap();
        assert_eq!(ask_name(&a.ns, vip, 80), Some(2));
        node.datapath.patch_table(a.slot, &[], &[table.entries[0].0]).unwrap();
        assert_eq!(ask_name(&a.ns, vip, 80), None);
        node.datapath.patch_table(a.slot, &table.entries, &[]).unwrap();
    }
    let drops = node.drops();
    assert!(drops.iter().any(|d| u16::from_be(d.destination_port) == 8080 && d.destination_identity == b.identity));
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn a_service_without_backends_refuses_at_once() {
    let node = Node::alone();
    let a = node.pod(1);
    for vip in [VIP4, vip6()] {
        node.datapath.upsert_service(&service(vip, 6, 80, &[])).unwrap();
        node.datapath.upsert_service(&service(vip, 17, 53, &[])).unwrap();
        a.ns.run(|| {
            let e = TcpStream::connect_timeout(&SocketAddr::new(vip, 80), Duration::from_secs(2)).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::ConnectionRefused, "TCP {vip}: a reset");
            let s = UdpSocket::bind(if vip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
            s.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            s.connect(SocketAddr::new(vip, 53)).unwrap();
            s.send(b"x").unwrap();
            let e = s.recv(&mut [0; 8]).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::ConnectionRefused, "UDP {vip}: port unreachable");
        });
    }
    let drops = node.drops();
    assert_eq!(drops.iter().filter(|d| d.reason == DropReason::NoBackend as u8).count(), 4, "{drops:?}");
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn a_service_leads_back_to_its_only_backend_itself() {
    let node = Node::alone();
    let a = node.pod(1);
    serve_name(&a.ns, 8080, 1);
    serve_udp(&a.ns, 5353);
    // Even where policy lets nothing in or out: a pod may always speak to itself.
    node.datapath.put_table(a.slot, &deny_egress()).unwrap();
    for (vip, own) in both(&a) {
        node.datapath.upsert_service(&service(vip, 6, 80, &[(own, 8080)])).unwrap();
        node.datapath.upsert_service(&service(vip, 17, 53, &[(own, 5353)])).unwrap();
        assert_eq!(ask_name(&a.ns, vip, 80), Some(1), "{vip}");
        assert_eq!(udp(&a.ns, vip, 53, 10), Some(10), "{vip}");
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn a_datagram_flow_leaves_a_backend_that_is_gone() {
    let node = Node::alone();
    let (a, b, c) = (node.pod(1), node.pod(2), node.pod(3));
    serve_udp(&b.ns, 53);
    for (vip, (of_b, of_c)) in both(&b).into_iter().zip(c.addresses()).map(|((vip, of_b), of_c)| (vip, (of_b, of_c))) {
        node.datapath.upsert_service(&service(vip, 17, 53, &[(of_c, 53)])).unwrap();
        a.ns.run(|| {
            let s = UdpSocket::bind(if vip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
            s.set_read_timeout(Some(SHORT)).unwrap();
            s.connect(SocketAddr::new(vip, 53)).unwrap();
            s.send(b"x").unwrap();
            // The third has no server; its port-unreachable speaks of the Service, as the client knows it.
            assert_eq!(s.recv(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionRefused, "{vip}");
            node.datapath.upsert_service(&service(vip, 17, 53, &[(of_b, 53)])).unwrap();
            s.send(b"x").unwrap();
            assert!(s.recv(&mut [0; 8]).is_ok(), "{vip}: the same socket reaches the new backend");
        });
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn a_client_with_affinity_keeps_its_backend() {
    let node = Node::alone();
    let (a, b, c) = (node.pod(1), node.pod(2), node.pod(3));
    serve_name(&b.ns, 8080, 2);
    serve_name(&c.ns, 8080, 3);
    for ((vip, of_b), (_, of_c)) in both(&b).into_iter().zip(both(&c)) {
        let mut entry = service(vip, 6, 80, &[(of_b, 8080), (of_c, 8080)]);
        entry.affinity_seconds = 600;
        node.datapath.upsert_service(&entry).unwrap();
        assert_eq!(node.datapath.services().unwrap().iter().find(|s| s.address == vip), Some(&entry));
        let names: std::collections::BTreeSet<_> = (0..20).filter_map(|_| ask_name(&a.ns, vip, 80)).collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }
}

/// A cgroup of its own below the machine's unified hierarchy, and this process's way into it and out.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Self {
        // Tests run side by side: programs on one's group must not choose for another's sockets.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let root = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(PathBuf::from);
        let root = root.into_iter().find(|r| r.join("cgroup.controllers").exists()).expect("a cgroup v2 hierarchy");
        let dir = root.join(format!("axk-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
    /// Runs a command inside.
    fn run(&self, ns: &Namespace, line: &str) -> String {
        let script = format!("echo 0 > {}/cgroup.procs; exec ip netns exec {} {line}", self.0.display(), ns.name);
        let out = std::process::Command::new("sh").args(["-ec", &script]).output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for _ in 0..50 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Connects or sends from Python inside the cgroup, because a thread of the test cannot be put there alone.
fn script(kind: &str, family: &str, to: IpAddr, port: u16) -> String {
    let body = match kind {
        "tcp" => format!(
            "s=socket.socket(socket.{family});s.settimeout(2);s.connect(('{to}',{port}));\
             print(s.getpeername()[:2]);print(s.recv(1)[0])"
        ),
        "udp" => format!(
            "s=socket.socket(socket.{family},socket.SOCK_DGRAM);s.settimeout(2);s.sendto(b'x',('{to}',{port}));\
             d,f=s.recvfrom(9);print(f[:2],d)"
        ),
        _ => unreachable!(),
    };
    format!("python3 -c \"import socket;{body}\"")
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn sockets_speak_to_backends_and_believe_to_speak_to_the_service() {
    let cgroup = Cgroup::new();
    let ns = Namespace::new("node");
    let options = Options { services: true, socket_lb: true, cgroup: Some(cgroup.0.clone()), ..Options::default() };
    let node = Node::with(ns, 1, &options);
    let (a, b) = (node.pod(1), node.pod(2));
    serve_name(&b.ns, 8080, 2);
    serve_udp(&b.ns, 5353);
    for (vip, of_b) in both(&b) {
        node.datapath.upsert_service(&service(vip, 6, 80, &[(of_b, 8080)])).unwrap();
        node.datapath.upsert_service(&service(vip, 17, 53, &[(of_b, 5353)])).unwrap();
        node.datapath.upsert_service(&service(vip, 6, 81, &[])).unwrap();
    }
    let mapped: IpAddr = "::ffff:10.96.0.10".parse().unwrap();
    for (family, vip) in [("AF_INET", VIP4), ("AF_INET6", vip6()), ("AF_INET6", mapped)] {
        let out = cgroup.run(&a.ns, &script("tcp", family, vip, 80));
        assert!(out.contains(&format!("('{vip}', 80)\n2")), "{family} {vip}: {out}");
        let out = cgroup.run(&a.ns, &script("udp", family, vip, 53));
        assert!(out.contains(&format!("('{vip}', 53) b'x'")), "{family} {vip}: {out}");
        let out = cgroup.run(&a.ns, &script("tcp", family, vip, 81));
        assert!(out.contains("ConnectionRefusedError"), "{family} {vip}: {out}");
    }
    // No packet to a Service's address was ever sent.
    let mut named = 0;
    node.datapath.connections(|c| named += u32::from(c.service)).unwrap();
    assert_eq!(named, 0);
}

/// For meshes that redirect pods' connections by the service's address: it must still be there in the pod's packets.
#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn sockets_of_pods_keep_the_service_where_only_the_host_chooses() {
    let cgroup = Cgroup::new();
    let ns = Namespace::new("node");
    ns.ip("link set lo up");
    ns.ip("addr add 10.200.0.1/32 dev lo");
    ns.ip("addr add fd20::1/128 dev lo nodad");
    let options = Options {
        services: true,
        socket_lb: true,
        socket_lb_host_only: true,
        cgroup: Some(cgroup.0.clone()),
        ..Options::default()
    };
    let node = Node::with(ns, 1, &options);
    let (a, b) = (node.pod(1), node.pod(2));
    serve_name(&b.ns, 8080, 2);
    for (vip, of_b) in both(&b) {
        node.datapath.upsert_service(&service(vip, 6, 80, &[(of_b, 8080)])).unwrap();
    }
    let named = || {
        let mut named = 0;
        node.datapath.connections(|c| named += u32::from(c.service)).unwrap();
        named
    };
    for (n, (family, vip)) in [("AF_INET", VIP4), ("AF_INET6", vip6())].into_iter().enumerate() {
        let n = u32::try_from(n).unwrap();
        let out = cgroup.run(&node.ns, &script("tcp", family, vip, 80));
        assert!(out.contains(&format!("('{vip}', 80)\n2")), "host, {family}: {out}");
        assert_eq!(named(), n, "the host's socket has chosen");
        let out = cgroup.run(&a.ns, &script("tcp", family, vip, 80));
        assert!(out.contains(&format!("('{vip}', 80)\n2")), "pod, {family}: {out}");
        assert_eq!(named(), n + 1, "the pod's packets carried the service's address");
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn services_survive_a_restart_and_leave_no_backends_behind() {
    let mut node = Node::alone();
    let (a, b) = (node.pod(1), node.pod(2));
    serve_tcp(&b.ns, 8080);
    for (vip, of_b) in both(&b) {
        node.datapath.upsert_service(&service(vip, 6, 80, &[(of_b, 8080)])).unwrap();
    }
    let services = node.datapath.services().unwrap();
    node.restart();
    assert_eq!(node.datapath.services().unwrap(), services);
    for (vip, _) in both(&b) {
        assert!(tcp(&a.ns, vip, 80).is_some());
        node.datapath.remove_service(vip, 6, 80).unwrap();
        assert!(tcp(&a.ns, vip, 80).is_none());
    }
    assert_eq!(node.datapath.services().unwrap(), []);
}
