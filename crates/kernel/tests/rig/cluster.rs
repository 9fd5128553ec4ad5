//! Two nodes with an underlay between them.

use std::{net::IpAddr, time::Duration};

use axoneme_kernel::{
    datapath::{Datapath, Hook, IpEntry},
    net::{GATEWAY_V4, GATEWAY_V6, Netlink, Network, Overlay, OverlayKind},
};

use super::{
    HOST_MAC, Namespace, Node, Options, Pod, node_v4, node_v6,
    traffic::{Stream, serve_udp},
    wait_for,
};

/// In software emulation everything takes its time.
const PATIENCE: Duration = Duration::from_secs(20);

/// Two nodes, joined by a link or by a router between them.
#[derive(Debug)]
pub struct Cluster {
    pub nodes: [Node; 2],
    pub router: Option<Namespace>,
    pub pods: [Pod; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Vxlan,
    /// The tunnel between the nodes' IPv6 addresses.
    Vxlan6,
    Geneve,
    /// Between the nodes' IPv6 addresses.
    Geneve6,
    Native,
}

impl Mode {
    /// The tunnel device; none: there is no tunnel.
    pub fn overlay(self) -> Option<Overlay> {
        // A tunnel over IPv6 is not fragmented on the way: 70 bytes less for who sends into it, else 50.
        let mtu = if self.is_over_v6() { 1430 } else { 1450 };
        match self {
            Self::Vxlan | Self::Vxlan6 => Some(Overlay { kind: OverlayKind::Vxlan, port: 8472, mtu }),
            Self::Geneve | Self::Geneve6 => Some(Overlay { kind: OverlayKind::Geneve, port: 6081, mtu }),
            Self::Native => None,
        }
    }

    pub fn is_over_v6(self) -> bool {
        matches!(self, Self::Vxlan6 | Self::Geneve6)
    }
}

pub fn index(ns: &Namespace, link: &str) -> u32 {
    ns.run(|| nix::net::if_::if_nametoindex(link).unwrap())
}

impl Cluster {
    /// `routed`: a router stands between the nodes; its link to the second one carries so many bytes.
    pub fn new(mode: Mode, routed: Option<u32>) -> Self {
        Self::with(mode, routed, &Options::default())
    }

    /// Neighbours set up so, with somebody outside behind the first node: 10.202.0.2 and fd22::2.
    pub fn with_outside(mode: Mode, options: &Options) -> (Self, Namespace) {
        let c = Self::with(mode, None, options);
        let outside = Namespace::new("outside");
        let node = &c.nodes[0];
        node.ns.ip(&format!("link add ext0 type veth peer name ext0 netns {}", outside.name));
        for (ns, last) in [(&node.ns, 1), (&outside, 2)] {
            ns.ip("link set ext0 up");
            ns.ip(&format!("addr add 10.202.0.{last}/24 dev ext0"));
            ns.ip(&format!("addr add fd22::{last}/64 dev ext0 nodad"));
        }
        outside.ip("route add default via 10.202.0.1");
        outside.ip("route add default via fd22::1");
        node.attach(Hook::Uplink, index(&node.ns, "ext0"));
        (c, outside)
    }

    /// Neighbours who answer what the egress policies of their pods deny, by links or by filters.
    pub fn answering(mode: Mode, filters: bool) -> Self {
        Self::with(mode, None, &Options { answer_denied: true, filters, ..Options::default() })
    }

    /// Neighbours whose second node can be guarded: all addresses of its devices are known as its own.
    pub fn guardable(mode: Mode) -> Self {
        let c = Self::with(mode, None, &Options { host_firewall: true, ..Options::default() });
        let host = IpEntry { identity: 1, peer: 1, tunnel: None, is_node: true, direct: false };
        for address in [IpAddr::from([10, 201, 0, 2]), IpAddr::from([0xfd21, 0, 0, 0, 0, 0, 0, 2])] {
            c.nodes[1].datapath.upsert_ip(address.into(), host).unwrap();
        }
        c
    }

    /// Another tunnel device on both nodes, of whose packets they take; the index on each. Without one of the product's: VXLAN
    /// at another port.
    pub fn also(&self, overlay: Option<Overlay>) -> [u32; 2] {
        self.nodes.each_ref().map(|node| {
            let ifindex = if let Some(overlay) = overlay {
                node.ns.run(|| Netlink::open().unwrap().ensure_overlay(overlay).unwrap())
            } else {
                node.ns.ip(&format!("link add vx1 address {HOST_MAC} type vxlan external dstport 8473 nolearning"));
                node.ns.ip("link set vx1 addrgenmode none arp off mtu 1450 up");
                index(&node.ns, "vx1")
            };
            node.attach(Hook::Overlay, ifindex);
            ifindex
        })
    }

    #[allow(clippy::too_many_lines, reason = "a network is laid out in one piece")]
    fn with(mode: Mode, routed: Option<u32>, options: &Options) -> Self {
        let spaces = [Namespace::new("n1"), Namespace::new("n2")];
        let router = routed.map(|mtu| {
            let r = Namespace::new("router");
            for (i, ns) in spaces.iter().enumerate() {
                ns.ip(&format!("link add up0 type veth peer name r{i} netns {}", r.name));
                let mtu = if i == 1 { mtu } else { 1500 };
                ns.ip(&format!("link set up0 mtu {mtu}"));
                r.ip(&format!("link set r{i} mtu {mtu} up"));
                r.ip(&format!("addr add 10.201.{i}.254/24 dev r{i}"));
                r.ip(&format!("addr add fd21:{i}::254/64 dev r{i} nodad"));
            }
            r
        });
        if router.is_none() {
            spaces[0].ip(&format!("link add up0 type veth peer name up0 netns {}", spaces[1].name));
        }
        for (i, ns) in spaces.iter().enumerate() {
            let number = u8::try_from(i).unwrap() + 1;
            ns.ip(&format!("addr add {}/32 dev lo", node_v4(number)));
            ns.ip(&format!("addr add {}/128 dev lo nodad", node_v6(number)));
            ns.ip("link set up0 up");
            let (net, last) = if router.is_some() { (i, 1) } else { (0, i + 1) };
            ns.ip(&format!("addr add 10.201.{net}.{last}/24 dev up0"));
            ns.ip(&format!("addr add fd21:{net}::{last}/64 dev up0 nodad"));
        }
        let ends = |i: usize| {
            if router.is_some() {
                (format!("10.201.{i}.254"), format!("fd21:{i}::254"))
            } else {
                (format!("10.201.0.{}", 2 - i), format!("fd21:0::{}", 2 - i))
            }
        };
        for (i, ns) in spaces.iter().enumerate() {
            let (v4, v6) = ends(i);
            let other = u8::try_from(2 - i).unwrap();
            ns.ip(&format!("route add {}/32 via {v4} src {}", node_v4(other), node_v4(3 - other)));
            ns.ip(&format!("route add {}/128 via {v6} src {}", node_v6(other), node_v6(3 - other)));
        }
        if let Some(r) = &router {
            for (i, node) in [1u8, 2].into_iter().enumerate() {
                r.ip(&format!("route add {}/32 via 10.201.{i}.1", node_v4(node)));
                r.ip(&format!("route add {}/128 via fd21:{i}::1", node_v6(node)));
                r.ip(&format!("route add 10.{node}.0.0/24 via 10.201.{i}.1"));
                r.ip(&format!("route add fd10:{node}::/64 via fd21:{i}::1"));
            }
        }
        let mut number = 0;
        let nodes = spaces.map(|ns| {
            number += 1;
            // the first one is who asks
            let options = Options { host_firewall: options.host_firewall && number == 2, ..options.clone() };
            Self::node(ns, number, mode, router.is_some(), options)
        });
        let pods = [nodes[0].pod(1), nodes[1].pod(2)];
        if mode.is_over_v6() {
            for pod in &pods {
                pod.ns.ip("link set eth0 mtu 1430");
            }
        }
        for (here, there) in [(0, 1), (1, 0)] {
            let (pod, n) = (&pods[there], nodes[there].number);
            for (address, own) in pod.addresses().into_iter().zip(pod_hops(n, mode, router.is_some())) {
                let entry =
                    IpEntry { identity: pod.identity, peer: pod.identity, tunnel: own, is_node: false, direct: false };
                nodes[here].datapath.upsert_ip(address.into(), entry).unwrap();
            }
            let addresses = [IpAddr::from(node_v4(n)), node_v6(n).into()];
            for (address, tunnel) in addresses.into_iter().zip(node_hops(n, mode)) {
                let remote = IpEntry { identity: 6, peer: 6, tunnel, is_node: true, direct: false };
                nodes[here].datapath.upsert_ip(address.into(), remote).unwrap();
            }
        }
        Self { nodes, router, pods }
    }

    fn node(ns: Namespace, number: u8, mode: Mode, routed: bool, options: Options) -> Node {
        let other = 3 - number;
        let overlay = if let Some(overlay) = mode.overlay() {
            let link = overlay.kind.link();
            let ifindex = ns.run(|| Netlink::open().unwrap().ensure_overlay(overlay).unwrap());
            let v4 = format!("via {GATEWAY_V4} dev {link} onlink src {}", node_v4(number));
            ns.ip(&format!("route add 10.{other}.0.0/24 {v4}"));
            ns.ip(&format!("route add fd10:{other}::/64 via {GATEWAY_V6} dev {link} src {}", node_v6(number)));
            ifindex
        } else {
            let i = if routed { usize::from(number) - 1 } else { 0 };
            let last = if routed { 254 } else { u16::from(other) };
            ns.ip(&format!("route add 10.{other}.0.0/24 via 10.201.{i}.{last} src {}", node_v4(number)));
            ns.ip(&format!("route add fd10:{other}::/64 via fd21:{i}::{last} src {}", node_v6(number)));
            0
        };
        let uplink = index(&ns, "up0");
        let options = Options {
            native: mode == Mode::Native,
            uplink,
            overlay,
            services: true,
            underlay6: mode.is_over_v6(),
            ..options
        };
        let node = Node::with(ns, number, &options);
        node.attach(Hook::Uplink, uplink);
        if overlay != 0 {
            node.attach(Hook::Overlay, overlay);
        }
        node
    }
}

/// The nodes come to send by another device, one after the other, under numbered streams of at least so many datagrams that
/// began before: none is lost, and both devices have carried some.
pub fn another_tunnel_loses_nothing(c: &mut Cluster, other: [u32; 2], least: u64) {
    let sent = |c: &Cluster, by: [u32; 2]| [0, 1].map(|n| c.nodes[n].ns.run(|| sent_by(by[n])));
    let grown = |c: &Cluster, by, since: [u64; 2]| sent(c, by).iter().zip(since).all(|(n, s)| *n >= s + least / 2);
    let former = c.nodes.each_ref().map(|n| n.config.overlay_ifindex);
    let (by_former, by_other) = (sent(c, former), sent(c, other));
    serve_udp(&c.pods[1].ns, 53);
    let streams = c.pods[1].addresses().map(|to| Stream::start(&c.pods[0].ns, to, 53));
    wait_for("datagrams by the former tunnel", PATIENCE, || grown(c, former, by_former));
    assert_eq!(sent(c, other), by_other, "nothing goes by the other tunnel yet");
    for (node, ifindex) in c.nodes.iter_mut().zip(other) {
        node.config.overlay_ifindex = ifindex;
        node.restart();
    }
    // what the former programs still had under way
    std::thread::sleep(Duration::from_millis(200));
    let (last, by_other) = (sent(c, former), sent(c, other));
    wait_for("datagrams by the other tunnel", PATIENCE, || grown(c, other, by_other));
    assert_eq!(sent(c, former), last, "nothing goes by the former tunnel any more");
    for stream in streams {
        let (sent, echoed) = stream.finish();
        let drops = || c.nodes.iter().map(Node::drops).collect::<Vec<_>>();
        assert!(sent >= least && sent == echoed, "{echoed} of {sent}, dropped: {:?}", drops());
    }
}

/// Packets that a device of this namespace has sent.
fn sent_by(ifindex: u32) -> u64 {
    let name = nix::net::if_::if_indextoname(ifindex).unwrap().into_string().unwrap();
    let table = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let line = table.lines().find_map(|l| l.trim().strip_prefix(&format!("{name}:")).map(str::to_owned)).unwrap();
    // eight columns of what was received stand before
    line.split_whitespace().nth(9).unwrap().parse().unwrap()
}

/// What other nodes send to for a node's pods: the tunnel's end, a neighbour's address, or nothing (the stack routes).
pub fn pod_hops(node: u8, mode: Mode, routed: bool) -> [Option<IpAddr>; 2] {
    match (mode, routed) {
        (Mode::Vxlan | Mode::Geneve, _) => [Some(node_v4(node).into()); 2],
        (Mode::Vxlan6 | Mode::Geneve6, _) => [Some(node_v6(node).into()); 2],
        (Mode::Native, true) => [None; 2],
        (Mode::Native, false) => {
            let last = u16::from(node);
            [Some(IpAddr::from([10, 201, 0, node])), Some(IpAddr::from([0xfd21, 0, 0, 0, 0, 0, 0, last]))]
        }
    }
}

/// The same for the node itself: its address of the family that the tunnel does not speak is reached by the one that it
/// does.
pub fn node_hops(node: u8, mode: Mode) -> [Option<IpAddr>; 2] {
    if mode.is_over_v6() { [Some(node_v6(node).into()), None] } else { [None, Some(node_v4(node).into())] }
}
