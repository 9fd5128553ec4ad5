//! A new version of the maps' layouts under traffic: no open connection is cut, no packet is lost.

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
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
};

use axoneme_abi::{Conntrack, Key4, VERSION};
use axoneme_kernel::{
    bpf::{Loader, Testing, write_old_map},
    datapath::{Datapath, Direction, Hook, PolicyDefault, PolicyTable},
};
use rig::{
    Node, Pod, rule,
    traffic::{SHORT, Stream, serve_udp},
};

/// The client may open to the server's ports; nobody may open anything else. Answers pass only as long as their
/// connection is known.
fn strict(direction: Direction, peer: u32) -> PolicyTable {
    let deny = PolicyDefault { allow: false, audit: false, rule: 7 };
    let entries = vec![rule(direction, peer, 6, 80, true, 1), rule(direction, peer, 17, 53, true, 2)];
    PolicyTable { ingress_default: deny, egress_default: deny, entries }
}

/// All rows anew, as the agent writes them into empty maps, then the programs.
fn fill(node: &Node, pods: [&Pod; 2]) {
    node.addresses();
    for pod in pods {
        node.program(pod);
    }
    tables(node, pods);
    for pod in pods {
        node.ns.run(|| node.datapath.attach(Hook::Endpoint, pod.ifindex)).unwrap();
    }
}

fn tables(node: &Node, [a, b]: [&Pod; 2]) {
    node.datapath.put_table(a.slot, &strict(Direction::Egress, b.identity)).unwrap();
    node.datapath.put_table(b.slot, &strict(Direction::Ingress, a.identity)).unwrap();
}

/// Connections that are open before, and must be after: both ends.
struct Open(Vec<(TcpStream, TcpStream)>);

impl Open {
    fn to(a: &Pod, b: &Pod, listener: &TcpListener) -> Self {
        let open = |to: IpAddr| {
            let client = a.ns.run(|| TcpStream::connect_timeout(&SocketAddr::new(to, 80), SHORT).unwrap());
            let (server, _) = listener.accept().unwrap();
            for s in [&client, &server] {
                s.set_read_timeout(Some(SHORT)).unwrap();
                s.set_nodelay(true).unwrap();
            }
            (client, server)
        };
        Self(b.addresses().into_iter().cycle().take(20).map(open).collect())
    }

    /// The server speaks first: what it says would be a new connection to those who do not know the old one, and no rule
    /// allows that.
    fn echo(&mut self) {
        for (client, server) in &mut self.0 {
            server.write_all(b"echo").unwrap();
            client.read_exact(&mut [0; 4]).unwrap();
            client.write_all(b"echo").unwrap();
            server.read_exact(&mut [0; 4]).unwrap();
        }
    }
}

/// Runs traffic over what `upgrade` does to the node.
fn under_traffic(upgrade: impl FnOnce(&mut Node, [&Pod; 2])) {
    let mut node = Node::alone();
    let (a, b) = (node.pod(1), node.pod(2));
    let listener = b.ns.run(|| TcpListener::bind(("::", 80)).unwrap());
    serve_udp(&b.ns, 53);
    tables(&node, [&a, &b]);
    let mut open = Open::to(&a, &b, &listener);
    open.echo();
    let streams = b.addresses().map(|to| Stream::start(&a.ns, to, 53));
    std::thread::sleep(SHORT);
    upgrade(&mut node, [&a, &b]);
    open.echo();
    std::thread::sleep(SHORT);
    for stream in streams {
        let (sent, echoed) = stream.finish();
        assert!(sent > 500 && sent == echoed, "{echoed} of {sent}");
    }
    let mut known = 0;
    node.datapath.connections(|c| known += u32::from(c.protocol == 6 && c.source == a.addresses()[0])).unwrap();
    assert_eq!(known, 10);
    Open::to(&a, &b, &listener).echo();
    assert_eq!(node.drops(), []);
    // The maps of old are gone, and with them what could be taken over twice.
    let mut left: Vec<String> = std::fs::read_dir(&node.config.pin_dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, [VERSION.to_string(), "links".to_owned()]);
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn connections_of_the_version_before_go_on() {
    under_traffic(|node, pods| {
        // What a process of version 1 leaves: its connections' maps are as today's.
        let pins = &node.config.pin_dir;
        std::fs::rename(pins.join(VERSION.to_string()), pins.join("1")).unwrap();
        node.upgrade(Testing::default());
        fill(node, pods);
        node.datapath.forget_other_versions().unwrap();
    });
}

/// A layout that never was: keys the other way round, counters in front that are no more.
fn old_from(key: &[u8], value: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let value = [&[0xaa; 16][..], value].concat();
    (key.iter().rev().copied().collect(), value)
}

fn from_old(map: &str, key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let tail = value.get(16..)?.to_vec();
    map.starts_with("CT").then(|| (key.iter().rev().copied().collect(), tail))
}

#[allow(unsafe_code, reason = "looking at ABI structs as the bytes that they are")]
fn bytes_of<T: Copy>(x: &T) -> Vec<u8> {
    // SAFETY: `repr(C)` integers without padding.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(x).cast::<u8>(), size_of::<T>()).to_vec() }
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn connections_of_another_layout_go_on() {
    under_traffic(|node, pods| {
        let (v4, v6) = node.datapath.raw_conntrack().unwrap();
        assert!(v4.len() >= 11 && v6.len() >= 11);
        let pins = node.config.pin_dir.clone();
        std::fs::create_dir(pins.join("0")).unwrap();
        let old4: Vec<_> = v4.iter().map(|(k, c): &(Key4, Conntrack)| old_from(&bytes_of(k), &bytes_of(c))).collect();
        let old6: Vec<_> = v6.iter().map(|(k, c)| old_from(&bytes_of(k), &bytes_of(c))).collect();
        write_old_map(&pins.join("0/CT4"), &old4).unwrap();
        write_old_map(&pins.join("0/CT6"), &old6).unwrap();
        std::fs::remove_dir_all(pins.join(VERSION.to_string())).unwrap();
        node.upgrade(Testing { older: Some((0, from_old)), ..Testing::default() });
        fill(node, pods);
        node.datapath.forget_other_versions().unwrap();
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn maps_of_a_newer_version_are_refused_by_name() {
    let node = Node::alone();
    std::fs::create_dir(node.config.pin_dir.join("99")).unwrap();
    let config = node.config.clone();
    let message = node.ns.run(move || Loader::open(config)).unwrap_err().to_string();
    assert!(message.contains("version 99") && message.contains("newer agent"), "{message}");
}
