//! Rows to kernel entries. Pure: values in, values out.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use axoneme_kernel::{
    datapath::{Direction, IpEntry, PolicyDefault, PolicyKey, PolicyTable, PolicyValue, ServiceEntry},
    net::{Masquerade, OverlayKind, Route, gateway},
};
use axoneme_model::{
    cidr,
    policy::Direction as ModelDirection,
    rows::{
        self, DirectRow, DirectionDefault, Frontend, IpRow, NodeConfigRow, NodeRow, PolicyEntry, Routing, ServiceRow,
        TableRow, TunnelProtocol,
    },
};
use ipnetwork::IpNetwork;

/// Which other nodes' pods are reached past the tunnel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ways<'a> {
    direct: Option<Direct<'a>>,
}

#[derive(Clone, Copy, Debug)]
struct Direct<'a> {
    row: &'a DirectRow,
    own: &'a NodeRow,
    nodes: &'a BTreeMap<Arc<str>, NodeRow>,
}

impl<'a> Ways<'a> {
    /// As the rows say it. A node that its own row is not known of goes by the tunnel.
    pub fn of(rows: &'a rows::RowSet, node: &str) -> Self {
        let direct = rows.config.as_ref().filter(|c| c.routing.tunnel().is_some());
        let direct = direct
            .and_then(|c| Some(Direct { row: c.direct.as_ref()?, own: rows.nodes.get(node)?, nodes: &rows.nodes }));
        Self { direct }
    }

    /// The address of the other node that packets of a family for its pods go to; none: they go by the tunnel.
    pub fn hop(&self, node: &str, v4: bool) -> Option<IpAddr> {
        let Direct { row, own, nodes } = self.direct.filter(|d| *d.own.name != *node)?;
        row.hop(own, nodes.get(node)?, v4)
    }

    /// Subnets of this node of which its links do not reach every address: with other nodes there it shares no link.
    pub fn not_on_link(&self, underlay: &[(u32, IpNetwork)]) -> Vec<IpNetwork> {
        let Some(Direct { row, own, .. }) = self.direct else { return Vec::new() };
        let reaches = |subnet: IpNetwork| underlay.iter().any(|(_, net)| cidr::contains(cidr::normalise(*net), subnet));
        let of_node = row.subnets.iter().filter(|s| own.addresses.iter().any(|a| s.contains(*a)));
        of_node.copied().filter(|s| !reaches(*s)).collect()
    }
}

/// The ipcache entry of a row as this node sees it. None: the address belongs to a pod of this node, whose entry comes
/// from its endpoint, so that a row that lags behind cannot speak for a pod that is gone.
pub fn ip_entry(row: &IpRow, node: &str, routing: &Routing, ways: &Ways<'_>) -> Option<IpEntry> {
    let local = *row.node == *node;
    if local && !row.pod.is_empty() {
        return None;
    }
    let (identity, peer) = if local { (row.local_identity, row.local_peer) } else { (row.identity, row.peer) };
    let encapsulated = routing.tunnel().is_some() && !local;
    let tunnel = row.tunnel.filter(|_| encapsulated);
    Some(IpEntry {
        identity: identity.0,
        peer: peer.0,
        tunnel,
        is_node: !row.node.is_empty() && row.pod.is_empty(),
        direct: tunnel.is_some() && ways.hop(&row.node, row.prefix.is_ipv4()).is_some(),
    })
}

pub fn policy_key(k: &rows::PolicyKey) -> PolicyKey {
    PolicyKey {
        direction: match k.direction {
            ModelDirection::Ingress => Direction::Ingress,
            ModelDirection::Egress => Direction::Egress,
        },
        peer: k.peer.0,
        protocol: k.protocol.map_or(0, |p| p.0),
        port: k.port,
        port_bits: k.port_bits,
    }
}

pub fn policy_value(v: &PolicyEntry) -> PolicyValue {
    PolicyValue { allow: v.allow, audit: v.audit, rule: v.rule.0, proxy_port: v.proxy_port, auth: v.auth }
}

pub fn policy_default(d: DirectionDefault) -> PolicyDefault {
    PolicyDefault { allow: d.allow, audit: d.audit, rule: d.rule.0 }
}

/// A policy table as the datapath holds it.
pub fn policy_table(row: &TableRow) -> PolicyTable {
    PolicyTable {
        ingress_default: policy_default(row.ingress_default),
        egress_default: policy_default(row.egress_default),
        entries: row.entries.iter().map(|(k, v)| (policy_key(k), policy_value(v))).collect(),
    }
}

/// Key of a service frontend.
pub type FrontendKey = (IpAddr, u8, u16);

/// The datapath's view of a service: one entry a frontend.
pub fn services(row: &ServiceRow, node: &str) -> impl Iterator<Item = (FrontendKey, ServiceEntry)> {
    let local = row.internal_local.then_some(node);
    let affinity_seconds = row.affinity_seconds.unwrap_or(0);
    row.frontends.iter().map(move |f| {
        let entry = ServiceEntry {
            address: f.address,
            protocol: f.protocol.0,
            port: f.port,
            backends: backends(f, local),
            affinity_seconds,
        };
        ((f.address, f.protocol.0, f.port), entry)
    })
}

/// Terminating backends take new connections only when no other is left (KEP-1669).
///
/// `only`: the node whose backends count (`internalTrafficPolicy: Local`).
fn backends(frontend: &Frontend, only: Option<&str>) -> Vec<(IpAddr, u16)> {
    let candidates = frontend.backends.iter().filter(|b| only.is_none_or(|n| *b.node == *n));
    let all_terminating = candidates.clone().all(|b| b.terminating);
    candidates.filter(|b| all_terminating || !b.terminating).map(|b| (b.address, b.port)).collect()
}

/// What the routes of a node depend on.
#[derive(Clone, Debug)]
pub struct RouteContext<'a> {
    pub node: &'a str,
    pub routing: &'a Routing,
    pub overlay_ifindex: u32,
    /// Addresses of the underlay devices with their prefixes.
    pub underlay: &'a [(u32, IpNetwork)],
    /// First own address of each family.
    pub sources: &'a [IpAddr],
    pub ipv4: bool,
    pub ipv6: bool,
    pub ways: Ways<'a>,
}

/// Routes of the node's own packets to the pods of another node.
///
/// In the overlay all go to the tunnel device, but those of nodes that are reached past it: these go to the node itself, and
/// so do the packets of pods there. In native routing with direct routes they go to the node itself, if it is
/// on a link of this node; otherwise the network is expected to route them.
pub fn node_routes(row: &NodeRow, context: &RouteContext<'_>) -> Vec<Route> {
    if *row.name == *context.node {
        return Vec::new();
    }
    let wanted = |c: &&IpNetwork| if c.is_ipv4() { context.ipv4 } else { context.ipv6 };
    row.pod_cidrs.iter().filter(wanted).filter_map(|c| node_route(*c, row, context)).collect()
}

fn node_route(destination: IpNetwork, row: &NodeRow, context: &RouteContext<'_>) -> Option<Route> {
    let destination = cidr::normalise(destination);
    let source = context.sources.iter().copied().find(|s| s.is_ipv4() == destination.is_ipv4());
    // a hop that is on no link of this node is reached by the tunnel, which the other takes from, too
    let hop = context.ways.hop(&row.name, destination.is_ipv4());
    let on_link = hop.and_then(|hop| Some((context.underlay.iter().find(|(_, net)| net.contains(hop))?.0, hop)));
    if let Some((ifindex, hop)) = on_link {
        return Some(Route { destination, ifindex, gateway: Some(hop), onlink: false, source });
    }
    match context.routing {
        Routing::Vxlan { .. } | Routing::Geneve { .. } => Some(Route {
            destination,
            ifindex: context.overlay_ifindex,
            gateway: Some(gateway(destination.ip())),
            // IPv6 next hops that are link-local need no flag, and the kernel does not report it back
            onlink: destination.is_ipv4(),
            source,
        }),
        Routing::Native { auto_direct_node_routes: true } => {
            let mut hops = row.addresses.iter().copied().filter(|a| a.is_ipv4() == destination.is_ipv4());
            hops.find_map(|hop| {
                let (ifindex, _) = context.underlay.iter().find(|(_, net)| net.contains(hop))?;
                Some(Route { destination, ifindex: *ifindex, gateway: Some(hop), onlink: false, source })
            })
        }
        Routing::Native { auto_direct_node_routes: false } => None,
    }
}

/// What leaves under the node's address.
///
/// Pods' packets to nodes: in the overlay they leave by the underlay device and are masqueraded, since the underlay does
/// not know pod addresses; in native routing it does, and nodes see the pod's address. So does a node that sends past the
/// tunnel: it has routes to the pods.
pub fn masquerade(
    config: &NodeConfigRow,
    nodes: &[&NodeRow],
    devices: &[String],
    ways: &Ways<'_>,
) -> Option<Masquerade> {
    let enabled = |c: &IpNetwork| if c.is_ipv4() { config.masquerade_v4 } else { config.masquerade_v6 };
    let masked = config.pools.iter().filter(|(name, _)| !config.blocks.unmasqueraded.contains(*name));
    let mut sources: Vec<IpNetwork> =
        masked.flat_map(|(_, cidrs)| cidrs).copied().map(cidr::normalise).filter(enabled).collect();
    sources.sort_unstable();
    sources.dedup();
    if sources.is_empty() || devices.is_empty() {
        return None;
    }
    let mut exclude: Vec<IpNetwork> = config.cluster_cidrs.iter().chain(&config.masquerade_exclude).copied().collect();
    exclude.extend(nodes.iter().flat_map(|n| &n.pod_cidrs));
    if matches!(config.routing, Routing::Native { .. }) {
        exclude.extend(nodes.iter().flat_map(|n| &n.addresses).map(|a| IpNetwork::from(*a)));
    }
    let hops = nodes.iter().flat_map(|n| [true, false].into_iter().filter_map(|v4| ways.hop(&n.name, v4)));
    exclude.extend(hops.map(IpNetwork::from));
    let mut exclude: Vec<IpNetwork> = exclude.into_iter().map(cidr::normalise).filter(enabled).collect();
    exclude.sort_unstable();
    exclude.dedup();
    Some(Masquerade { sources, devices: devices.to_vec(), exclude })
}

/// The device of a tunnel.
pub const fn kind(protocol: TunnelProtocol) -> OverlayKind {
    match protocol {
        TunnelProtocol::Vxlan => OverlayKind::Vxlan,
        TunnelProtocol::Geneve => OverlayKind::Geneve,
    }
}

/// Settings of the kernel that pods need: key below /proc/sys and value.
pub fn sysctls(config: &NodeConfigRow, devices: &[String]) -> Vec<(String, &'static str)> {
    let mut out = Vec::new();
    if config.ipv4 {
        out.push(("net/ipv4/ip_forward".to_owned(), "1"));
        // the strictest of `all` and the device counts; packets of pods come in by other devices than answers leave by
        out.push(("net/ipv4/conf/all/rp_filter".to_owned(), "0"));
        out.extend(devices.iter().map(|d| (format!("net/ipv4/conf/{d}/rp_filter"), "2")));
        if let Some(tunnel) = config.routing.tunnel() {
            out.push((format!("net/ipv4/conf/{}/rp_filter", kind(tunnel.protocol).link()), "0"));
        }
    }
    if config.ipv6 {
        // forwarding makes the kernel ignore router advertisements, which would take the node's own default route
        // away: 2 means "accept them all the same"
        out.extend(devices.iter().map(|d| (format!("net/ipv6/conf/{d}/accept_ra"), "2")));
        out.push(("net/ipv6/conf/all/forwarding".to_owned(), "1"));
    }
    out
}

/// Whether a present value of a setting will do. Loose reverse path filtering (2) and none (0) both will.
pub fn sysctl_satisfied(key: &str, now: &str, wanted: &str) -> bool {
    now == wanted || (key.ends_with("/rp_filter") && wanted == "2" && now == "0")
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use axoneme_model::{
        Identity, PeerClass, Protocol,
        rows::{AgentRow, Backend, ConntrackTimes, RuleId},
    };

    use super::*;

    fn net(s: &str) -> IpNetwork {
        s.parse().unwrap()
    }

    fn ip(s: &str) -> IpAddr {
        s.parse().unwrap()
    }

    fn ip_row(prefix: &str, node: &str, pod: &str, tunnel: Option<&str>) -> IpRow {
        IpRow {
            prefix: net(prefix),
            identity: Identity::REMOTE_NODE,
            peer: PeerClass(6),
            local_identity: Identity::HOST,
            local_peer: PeerClass(1),
            tunnel: tunnel.map(ip),
            node: node.into(),
            pod: pod.into(),
        }
    }

    const VXLAN: Routing = Routing::Vxlan { port: 8472 };
    const GENEVE: Routing = Routing::Geneve { port: 6081 };
    const NATIVE: Routing = Routing::Native { auto_direct_node_routes: true };

    #[test]
    fn the_own_node_is_host_and_others_are_remote() {
        let own = ip_entry(&ip_row("192.168.0.1/32", "n1", "", None), "n1", &VXLAN, &Ways::default()).unwrap();
        assert_eq!((own.identity, own.peer, own.is_node), (1, 1, true));
        let other = ip_entry(&ip_row("192.168.0.2/32", "n2", "", None), "n1", &VXLAN, &Ways::default()).unwrap();
        assert_eq!((other.identity, other.peer, other.is_node), (6, 6, true));
        let world = ip_entry(&ip_row("0.0.0.0/0", "", "", None), "n1", &VXLAN, &Ways::default()).unwrap();
        assert!(!world.is_node);
    }

    #[test]
    fn pods_of_other_nodes_are_tunnelled_only_in_the_overlay() {
        let row = ip_row("10.0.2.5/32", "n2", "shop/web", Some("192.168.0.2"));
        for tunnel in [VXLAN, GENEVE] {
            assert_eq!(ip_entry(&row, "n1", &tunnel, &Ways::default()).unwrap().tunnel, Some(ip("192.168.0.2")));
        }
        assert_eq!(ip_entry(&row, "n1", &NATIVE, &Ways::default()).unwrap().tunnel, None);
        assert_eq!(ip_entry(&row, "n2", &VXLAN, &Ways::default()), None, "the endpoint speaks for its own address");
    }

    fn backend(address: &str, terminating: bool) -> Backend {
        Backend { address: ip(address), port: 80, terminating, node: "n1".into() }
    }

    fn service(backends: Vec<Backend>) -> ServiceRow {
        ServiceRow {
            namespace: "shop".into(),
            name: "web".into(),
            frontends: vec![Frontend { address: ip("10.96.0.1"), protocol: Protocol::TCP, port: 80, backends }],
            affinity_seconds: None,
            internal_local: false,
        }
    }

    #[test]
    fn terminating_backends_serve_only_when_alone() {
        let of = |row: ServiceRow| services(&row, "n1").map(|(_, e)| e.backends).next().unwrap();
        let mixed = of(service(vec![backend("10.0.1.2", true), backend("10.0.1.3", false)]));
        assert_eq!(mixed, [(ip("10.0.1.3"), 80)]);
        let last = of(service(vec![backend("10.0.1.2", true), backend("10.0.1.4", true)]));
        assert_eq!(last.len(), 2);
        assert!(of(service(vec![])).is_empty());
    }

    #[test]
    fn a_local_service_uses_only_backends_of_its_own_node() {
        let mut row = service(vec![backend("10.0.1.2", true), backend("10.0.1.3", false)]);
        row.internal_local = true;
        row.frontends[0].backends[1].node = "n2".into();
        let on = |node| services(&row, node).map(|(_, e)| e.backends).next().unwrap();
        assert_eq!(on("n1"), [(ip("10.0.1.2"), 80)], "terminating, but the last of the node");
        assert_eq!(on("n2"), [(ip("10.0.1.3"), 80)]);
        assert!(on("n3").is_empty());
    }

    fn node(name: &str, address: &str, cidr: &str) -> NodeRow {
        NodeRow { name: name.into(), addresses: vec![ip(address)], pod_cidrs: vec![net(cidr)] }
    }

    fn context<'a>(routing: &'a Routing, underlay: &'a [(u32, IpNetwork)], sources: &'a [IpAddr]) -> RouteContext<'a> {
        RouteContext {
            node: "n1",
            routing,
            overlay_ifindex: 7,
            underlay,
            sources,
            ipv4: true,
            ipv6: true,
            ways: Ways::default(),
        }
    }

    #[test]
    fn routes_to_other_nodes_pods() {
        let (underlay, sources) = ([(2, net("192.168.0.1/24"))], [ip("192.168.0.1")]);
        let other = node("n2", "192.168.0.2", "10.0.2.0/24");
        let overlay = node_routes(&other, &context(&VXLAN, &underlay, &sources));
        assert_eq!(node_routes(&other, &context(&GENEVE, &underlay, &sources)), overlay);
        assert_eq!(overlay[0].ifindex, 7);
        assert_eq!(overlay[0].gateway, Some(ip("169.254.1.1")));
        assert_eq!(overlay[0].source, Some(ip("192.168.0.1")));
        let native = node_routes(&other, &context(&NATIVE, &underlay, &sources));
        assert_eq!((native[0].ifindex, native[0].gateway), (2, Some(ip("192.168.0.2"))));
        let far = node("n3", "192.168.9.2", "10.0.3.0/24");
        assert!(node_routes(&far, &context(&NATIVE, &underlay, &sources)).is_empty(), "not on a link of this node");
        let own = node("n1", "192.168.0.1", "10.0.1.0/24");
        assert!(node_routes(&own, &context(&VXLAN, &underlay, &sources)).is_empty());
        let none = Routing::Native { auto_direct_node_routes: false };
        assert!(node_routes(&other, &context(&none, &underlay, &sources)).is_empty());
    }

    fn config(routing: Routing) -> NodeConfigRow {
        NodeConfigRow {
            node: "n1".into(),
            cluster_name: "default".into(),
            ipv4: true,
            ipv6: true,
            pools: BTreeMap::from([("default".into(), vec![net("10.0.1.0/24"), net("fd00:1::/64")])]),
            routing,
            mtu: 0,
            masquerade_v4: true,
            masquerade_v6: false,
            masquerade_exclude: vec![net("172.16.0.0/12")],
            cluster_cidrs: vec![net("10.0.0.0/16"), net("fd00::/16")],
            services: true,
            socket_lb: true,
            always_allow_own_host: true,
            deny_response: axoneme_model::rows::DenyResponse::None,
            conntrack_entries: 1024,
            conntrack_times: ConntrackTimes::default(),
            socket_lb_host_only: false,
            agent: AgentRow::default(),
            devices: vec![],
            blocks: axoneme_model::rows::BlockUse::default(),
            guard: None,
            health: None,
            overrides: vec![],
            direct: None,
            also: None,
            pod_device: axoneme_model::rows::PodDevice::Veth,
        }
    }

    #[test]
    fn nodes_that_share_a_subnet_are_reached_past_the_tunnel_family_by_family() {
        [VXLAN, GENEVE].iter().for_each(past);
    }

    fn past(tunnel: &Routing) {
        let mut rows = rows::RowSet { config: Some(config(tunnel.clone())), ..rows::RowSet::default() };
        let with = |name: &str, addresses: &[&str], cidrs: &[&str]| NodeRow {
            name: name.into(),
            addresses: addresses.iter().map(|a| ip(a)).collect(),
            pod_cidrs: cidrs.iter().map(|c| net(c)).collect(),
        };
        for node in [
            with("n1", &["192.168.0.1", "fd78::1"], &["10.0.1.0/24", "fd00:1::/64"]),
            with("n2", &["192.168.0.2"], &["10.0.2.0/24", "fd00:2::/64"]),
            with("n3", &["192.168.9.3", "fd78::3"], &["10.0.3.0/24", "fd00:3::/64"]),
        ] {
            rows.nodes.insert(node.name.clone(), node);
        }
        let direct = |subnets: &[&str]| Some(DirectRow { subnets: subnets.iter().map(|s| net(s)).collect() });
        rows.config.as_mut().unwrap().direct = direct(&["192.168.0.0/24", "192.168.9.0/24", "fd78::/64"]);
        let ways = Ways::of(&rows, "n1");
        assert_eq!((ways.hop("n2", true), ways.hop("n2", false)), (Some(ip("192.168.0.2")), None));
        assert_eq!((ways.hop("n3", true), ways.hop("n3", false)), (None, Some(ip("fd78::3"))));
        assert_eq!((ways.hop("n1", true), ways.hop("n9", true)), (None, None));
        // both say the same of each other
        for (a, b, v4) in [("n1", "n2", true), ("n1", "n3", true), ("n1", "n3", false), ("n2", "n3", true)] {
            assert_eq!(Ways::of(&rows, a).hop(b, v4).is_some(), Ways::of(&rows, b).hop(a, v4).is_some(), "{a} {b}");
        }
        // the entry keeps the tunnel for what the stack still routes into it
        let row = ip_row("10.0.2.5/32", "n2", "shop/web", Some("192.168.0.2"));
        let entry = ip_entry(&row, "n1", tunnel, &ways).unwrap();
        assert_eq!((entry.tunnel, entry.direct), (Some(ip("192.168.0.2")), true));
        let row = ip_row("10.0.3.5/32", "n3", "shop/web", Some("192.168.9.3"));
        assert!(!ip_entry(&row, "n1", tunnel, &ways).unwrap().direct);
        // routes: past the tunnel where the hop is on a link, else into it
        let (underlay, sources) = ([(2, net("192.168.0.1/24"))], [ip("192.168.0.1")]);
        let context = RouteContext { ways, ..context(tunnel, &underlay, &sources) };
        let routes = node_routes(&rows.nodes["n2"], &context);
        assert_eq!(
            routes.iter().map(|r| (r.ifindex, r.gateway)).collect::<Vec<_>>(),
            [(2, Some(ip("192.168.0.2"))), (7, Some(gateway(ip("fd00:2::"))))]
        );
        assert!(node_routes(&rows.nodes["n3"], &context).iter().all(|r| r.ifindex == 7), "fd78::3 is on no link here");
        assert_eq!(ways.not_on_link(&underlay), [net("fd78::/64")]);
        // these see the pods' addresses
        let nodes: Vec<&NodeRow> = rows.nodes.values().collect();
        let spared = masquerade(rows.config.as_ref().unwrap(), &nodes, &["eth0".to_owned()], &ways).unwrap().exclude;
        assert!(spared.contains(&net("192.168.0.2/32")) && !spared.contains(&net("192.168.9.3/32")), "{spared:?}");
        // nobody sends so, and in native routing there is no tunnel to pass by
        rows.config.as_mut().unwrap().direct = direct(&[]);
        assert_eq!(Ways::of(&rows, "n1").hop("n2", true), None);
        let native = rows.config.as_mut().unwrap();
        (native.routing, native.direct) = (NATIVE, direct(&["192.168.0.0/24"]));
        assert_eq!(Ways::of(&rows, "n1").hop("n2", true), None);
    }

    #[test]
    fn masquerading_spares_cluster_and_exclusions_and_nodes_only_in_native_routing() {
        let other = node("n2", "192.168.0.2", "10.0.2.0/24");
        let devices = ["eth0".to_owned()];
        let overlay = masquerade(&config(VXLAN), &[&other], &devices, &Ways::default()).unwrap();
        assert_eq!(overlay.sources, [net("10.0.1.0/24")], "IPv6 masquerading is off");
        let expected: BTreeSet<IpNetwork> =
            [net("10.0.0.0/16"), net("172.16.0.0/12"), net("10.0.2.0/24")].into_iter().collect();
        assert_eq!(overlay.exclude.iter().copied().collect::<BTreeSet<_>>(), expected);
        let native = masquerade(&config(NATIVE), &[&other], &devices, &Ways::default()).unwrap();
        assert!(native.exclude.contains(&net("192.168.0.2/32")));
        let mut own = config(VXLAN);
        own.pools.insert("own".into(), vec![net("10.0.9.0/28")]);
        own.blocks.unmasqueraded = ["own".into()].into();
        let sources = masquerade(&own, &[&other], &devices, &Ways::default()).unwrap().sources;
        assert_eq!(sources, [net("10.0.1.0/24")], "pods of a pool that says so keep their addresses");
        let mut off = config(VXLAN);
        off.masquerade_v4 = false;
        assert_eq!(masquerade(&off, &[&other], &devices, &Ways::default()), None);
    }

    #[test]
    fn tables_keep_order_and_every_field() {
        let key = rows::PolicyKey {
            direction: ModelDirection::Egress,
            peer: PeerClass(300),
            protocol: Some(Protocol::UDP),
            port: 0x1f00,
            port_bits: 8,
        };
        let entry = PolicyEntry { allow: true, audit: false, rule: RuleId(9), proxy_port: 0, auth: 0 };
        let row = TableRow {
            id: rows::TableId(1),
            ingress_default: DirectionDefault { allow: false, audit: false, rule: RuleId(3) },
            egress_default: DirectionDefault { allow: true, audit: false, rule: RuleId(0) },
            entries: BTreeMap::from([(key, entry)]),
            policies: BTreeMap::new(),
        };
        let table = policy_table(&row);
        assert_eq!(table.ingress_default, PolicyDefault { allow: false, audit: false, rule: 3 });
        let (k, v) = table.entries[0];
        assert_eq!((k.direction, k.peer, k.protocol, k.port, k.port_bits), (Direction::Egress, 300, 17, 0x1f00, 8));
        assert_eq!((v.allow, v.rule), (true, 9));
    }
}
