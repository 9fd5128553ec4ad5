//! What a node has once: underlay devices, settings, tunnel device, masquerading, the datapath itself.

use std::{collections::BTreeSet, net::IpAddr, path::PathBuf};

use axoneme_kernel::{
    datapath::{DatapathConfig, Timeouts},
    net::{Link, Network, Overlay, OverlayKind, mtu, mtu::Encapsulation},
};
use axoneme_model::rows::{
    ConntrackTimes, DenyResponse, NodeConfigRow, NodeRow, PodDevice, Routing, Tunnel, TunnelProtocol,
};
use ipnetwork::IpNetwork;

use crate::{Error, inventory::Inventory, plan, store::Store};

/// What is there before anything is made.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    pub links: Vec<Link>,
    pub addresses: Vec<(u32, IpNetwork)>,
    pub default_devices: Vec<u32>,
}

impl Observed {
    pub fn read(network: &dyn Network) -> Result<Self, Error> {
        Ok(Self {
            links: network.links()?,
            addresses: network.addresses()?,
            default_devices: network.default_devices()?,
        })
    }
}

/// Paths that the datapath needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatapathPaths {
    pub pin_dir: PathBuf,
    pub cgroup: Option<PathBuf>,
}

/// The tunnel devices that are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tunnels {
    /// Index of the one that packets are sent by; 0: none.
    pub overlay: u32,
    /// Index of another that they are taken from.
    pub also: Option<u32>,
    /// Why there is no such one, though it is wanted.
    pub lack: Option<String>,
}

/// The plan of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// Underlay devices: name and index; the first is the uplink.
    pub devices: Vec<(String, u32)>,
    /// Own underlay addresses, the first of each family is the tunnel source.
    pub addresses: Vec<IpAddr>,
    /// All addresses of the underlay devices, in order: those that only their links know, too.
    pub own: Vec<IpAddr>,
    /// Prefixes of the underlay devices.
    pub underlay: Vec<(u32, IpNetwork)>,
    /// Least of the underlay devices.
    pub underlay_mtu: u32,
    /// Of pods.
    pub mtu: u32,
    pub overlay: Option<Overlay>,
    /// Another tunnel that packets are taken from.
    pub also: Option<Overlay>,
    /// Of pods that are made from now on.
    pub pod_device: PodDevice,
    pub sysctls: Vec<(String, &'static str)>,
}

fn usable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => !a.is_loopback() && !a.is_link_local(),
        IpAddr::V6(a) => !a.is_loopback() && !a.is_unicast_link_local(),
    }
}

/// Decides from the configuration and what is there. Pure.
pub fn plan(config: &NodeConfigRow, node: Option<&NodeRow>, observed: &Observed) -> Result<Base, Error> {
    let node_addresses = node.map(|n| n.addresses.as_slice()).unwrap_or_default();
    let devices = devices(config, node_addresses, observed)?;
    let indexes: BTreeSet<u32> = devices.iter().map(|(_, i)| *i).collect();
    let underlay: Vec<(u32, IpNetwork)> =
        observed.addresses.iter().filter(|(i, a)| indexes.contains(i) && usable(a.ip())).copied().collect();
    let own = observed.addresses.iter().filter(|(i, _)| indexes.contains(i)).map(|(_, a)| a.ip());
    let own = own.collect::<BTreeSet<_>>().into_iter().collect();
    let local: BTreeSet<IpAddr> = observed.addresses.iter().map(|(_, a)| a.ip()).collect();
    let mut addresses: Vec<IpAddr> = node_addresses.iter().copied().filter(|a| local.contains(a)).collect();
    if addresses.is_empty() {
        addresses = underlay.iter().map(|(_, a)| a.ip()).collect();
    }
    if addresses.is_empty() {
        return Err(Error::Node(format!(
            "none of the node's addresses ({}) is on this machine: does the Node object belong to it?",
            node_addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        )));
    }
    let least = least_mtu(&devices, &observed.links);
    let layers = layers(config.routing.tunnel(), &addresses);
    let mtu = if config.mtu > 0 {
        config.mtu
    } else {
        mtu::payload(least, &layers, config.ipv6).map_err(axoneme_kernel::net::NetworkError::from)?
    };
    let overlay = |t: Tunnel| Overlay { kind: plan::kind(t.protocol), port: t.port, mtu };
    let [overlay, also] = [config.routing.tunnel(), config.also].map(|t| t.map(overlay));
    let names: Vec<String> = devices.iter().map(|(n, _)| n.clone()).collect();
    Ok(Base {
        sysctls: plan::sysctls(config, &names),
        also,
        pod_device: config.pod_device,
        devices,
        addresses,
        own,
        underlay,
        underlay_mtu: least,
        mtu,
        overlay,
    })
}

fn least_mtu(devices: &[(String, u32)], links: &[Link]) -> u32 {
    let of = |i: &u32| links.iter().find(|l| l.ifindex == *i).map(|l| l.mtu);
    devices.iter().filter_map(|(_, i)| of(i)).min().unwrap_or(1500)
}

/// Overlay packets take the family of the node's first address: that is the one that tunnel rows of other nodes name.
fn layers(tunnel: Option<Tunnel>, addresses: &[IpAddr]) -> Vec<Encapsulation> {
    let v6 = addresses.first().is_some_and(IpAddr::is_ipv6);
    let layer = tunnel.map(|t| match (t.protocol, v6) {
        (TunnelProtocol::Vxlan, false) => Encapsulation::VxlanV4,
        (TunnelProtocol::Vxlan, true) => Encapsulation::VxlanV6,
        (TunnelProtocol::Geneve, false) => Encapsulation::GeneveV4,
        (TunnelProtocol::Geneve, true) => Encapsulation::GeneveV6,
    });
    layer.into_iter().collect()
}

fn devices(
    config: &NodeConfigRow,
    node_addresses: &[IpAddr],
    observed: &Observed,
) -> Result<Vec<(String, u32)>, Error> {
    if !config.devices.is_empty() {
        return config.devices.iter().map(|name| named_device(name, observed)).collect();
    }
    let holds = |i: u32| observed.addresses.iter().any(|(d, a)| *d == i && node_addresses.contains(&a.ip()));
    let wanted = |l: &&Link| {
        !l.loopback
            && !l.name.starts_with(axoneme_kernel::net::LINK_PREFIX)
            && (observed.default_devices.contains(&l.ifindex) || holds(l.ifindex))
    };
    let mut found: Vec<&Link> = observed.links.iter().filter(wanted).collect();
    // the device that holds the node's address first: it is the uplink
    found.sort_by_key(|l| (!holds(l.ifindex), l.ifindex));
    if found.is_empty() {
        return Err(Error::Node(
            "no underlay device: none holds a default route or an address of the node; name one in AxonemeConfig \
             (spec.devices)"
                .to_owned(),
        ));
    }
    Ok(found.into_iter().map(|l| (l.name.clone(), l.ifindex)).collect())
}

fn named_device(name: &str, observed: &Observed) -> Result<(String, u32), Error> {
    observed.links.iter().find(|l| l.name == name).map(|l| (l.name.clone(), l.ifindex)).ok_or_else(|| {
        let there: Vec<&str> = observed.links.iter().map(|l| l.name.as_str()).collect();
        Error::Node(format!("device {name:?} of AxonemeConfig is not on this node, which has {}", there.join(", ")))
    })
}

impl Base {
    /// Whether the underlay's MTU is another than the plan was made for.
    pub fn is_outgrown(&self, links: &[Link]) -> bool {
        least_mtu(&self.devices, links) != self.underlay_mtu
    }

    /// Makes settings and tunnel devices so. Writes only what differs. Of another tunnel than that of the settings it is
    /// told why it is not there; everything else is an error.
    pub fn apply(&self, network: &dyn Network, inventory: &mut Inventory, store: &dyn Store) -> Result<Tunnels, Error> {
        let overlay = self.overlay.map(|o| network.ensure_overlay(o)).transpose()?.unwrap_or(0);
        let mut tunnels = Tunnels { overlay, ..Tunnels::default() };
        match self.also.map(|o| network.ensure_overlay(o)).transpose() {
            Ok(also) => tunnels.also = also,
            // nothing is sent by it: the node serves on
            Err(error) => tunnels.lack = Some(error.to_string()),
        }
        self.remove_strays(network)?;
        for (key, value) in &self.sysctls {
            match network.sysctl(key)? {
                Some(now) if plan::sysctl_satisfied(key, &now, value) => {}
                Some(now) => {
                    inventory.remember_sysctl(key, &now, store)?;
                    network.set_sysctl(key, value)?;
                }
                None => {
                    return Err(Error::Node(format!(
                        "this kernel has no setting {key}: switch the family off in AxonemeConfig or boot the node with it"
                    )));
                }
            }
        }
        Ok(tunnels)
    }

    /// Removes tunnel devices that nobody wants any more.
    fn remove_strays(&self, network: &dyn Network) -> Result<(), Error> {
        let wanted = |kind| self.overlay.iter().chain(&self.also).any(|o| o.kind == kind);
        let links = network.links()?;
        for kind in OverlayKind::ALL.into_iter().filter(|kind| !wanted(*kind)) {
            if links.iter().any(|l| l.name == kind.link()) {
                network.remove_link(kind.link())?;
            }
        }
        Ok(())
    }

    /// Load-time settings of the datapath.
    pub fn datapath_config(
        &self,
        config: &NodeConfigRow,
        overlay_ifindex: u32,
        paths: &DatapathPaths,
    ) -> DatapathConfig {
        DatapathConfig {
            overlay_ifindex,
            uplink_ifindex: self.devices.first().map_or(0, |(_, i)| *i),
            native_routing: matches!(config.routing, Routing::Native { .. }),
            direct: config.direct.is_some(),
            ipv4: config.ipv4,
            ipv6: config.ipv6,
            node_addresses: self.addresses.clone(),
            allow_own_host: config.always_allow_own_host,
            answer_denied: config.deny_response == DenyResponse::Icmp,
            services: config.services,
            socket_lb: config.socket_lb && paths.cgroup.is_some(),
            socket_lb_host_only: config.socket_lb_host_only,
            host_firewall: config.guard.is_some(),
            conntrack_entries: config.conntrack_entries,
            timeouts: timeouts(config.conntrack_times),
            pin_dir: paths.pin_dir.clone(),
            cgroup: paths.cgroup.clone(),
        }
    }
}

const fn timeouts(t: ConntrackTimes) -> Timeouts {
    let ConntrackTimes { tcp_opening, tcp_established, tcp_closing, udp, other } = t;
    Timeouts { tcp_opening, tcp_established, tcp_closing, udp, other }
}

#[cfg(test)]
mod tests {
    use axoneme_kernel::net::fake::FakeNetwork;

    use super::*;
    use crate::store::Files;

    fn config(routing: Routing) -> NodeConfigRow {
        serde_json::from_value(serde_json::json!({
            "node": "n1", "cluster_name": "default", "ipv4": true, "ipv6": false,
            "pools": {"default": ["10.0.1.0/24"]},
            "routing": serde_json::to_value(routing).unwrap(),
            "mtu": 0, "masquerade_v4": true, "masquerade_v6": false, "masquerade_exclude": [], "cluster_cidrs": [],
            "services": true, "socket_lb": true, "always_allow_own_host": true, "conntrack_entries": 1024, "devices": []
        }))
        .unwrap()
    }

    fn node() -> NodeRow {
        NodeRow { name: "n1".into(), addresses: vec!["192.168.0.1".parse().unwrap()], pod_cidrs: vec![] }
    }

    #[test]
    fn the_device_with_the_nodes_address_is_the_uplink() {
        let network = FakeNetwork::node(&["192.168.0.1".parse().unwrap()]);
        let base =
            plan(&config(Routing::Vxlan { port: 8472 }), Some(&node()), &Observed::read(&network).unwrap()).unwrap();
        assert_eq!(base.devices, [("eth0".to_owned(), 2)]);
        let vxlan = Overlay { kind: OverlayKind::Vxlan, port: 8472, mtu: 1450 };
        assert_eq!((base.mtu, base.overlay), (1450, Some(vxlan)));
    }

    #[test]
    fn geneve_costs_what_vxlan_costs_by_the_family_of_the_underlay() {
        for (own, mtu) in [("192.168.0.1", 1450), ("fd00::1", 1430)] {
            let own: IpAddr = own.parse().unwrap();
            let network = FakeNetwork::node(&[own]);
            let node = NodeRow { addresses: vec![own], ..node() };
            let observed = Observed::read(&network).unwrap();
            let base = plan(&config(Routing::Geneve { port: 6081 }), Some(&node), &observed).unwrap();
            assert_eq!(base.overlay, Some(Overlay { kind: OverlayKind::Geneve, port: 6081, mtu }));
        }
    }

    /// A change of the protocol in its steps, with a kernel that has no Geneve until somebody loads it.
    #[test]
    fn both_tunnels_are_there_until_the_former_is_no_longer_wanted() {
        let network = FakeNetwork::node(&["192.168.0.1".parse().unwrap()]);
        let dir = tempfile::tempdir().unwrap();
        let store = Files::open(dir.path()).unwrap();
        let mut inventory = Inventory::load(&store).unwrap();
        let mut step = |sent: Routing, also: Option<Tunnel>| {
            let mut c = config(sent);
            c.also = also;
            let base = plan(&c, Some(&node()), &Observed::read(&network).unwrap()).unwrap();
            let done = base.apply(&network, &mut inventory, &store).unwrap();
            (done, network.state().overlays.keys().copied().collect::<Vec<_>>())
        };
        let (vxlan, geneve) = (Routing::Vxlan { port: 8472 }, Routing::Geneve { port: 6081 });
        for kind in OverlayKind::ALL {
            network.state().sysctls.insert(format!("net/ipv4/conf/{}/rp_filter", kind.link()), "0".into());
        }
        network.state().sysctls.insert("net/ipv4/conf/all/rp_filter".into(), "0".into());
        network.state().unknown.insert(OverlayKind::Geneve);
        let (old, links) = step(vxlan.clone(), None);
        assert_eq!(links, [OverlayKind::Vxlan]);
        let (done, links) = step(vxlan.clone(), geneve.tunnel());
        assert_eq!((done.overlay, done.also, links.len()), (old.overlay, None, 1));
        assert!(done.lack.is_some_and(|why| why.contains("modprobe geneve")));
        network.state().unknown.clear();
        let (done, links) = step(vxlan.clone(), geneve.tunnel());
        let new = done.also.unwrap();
        assert_eq!((done.overlay, done.lack, links.len()), (old.overlay, None, 2));
        let (done, links) = step(geneve.clone(), vxlan.tunnel());
        assert_eq!((done.overlay, done.also, links.len()), (new, Some(old.overlay), 2));
        assert_eq!(step(geneve, None).1, [OverlayKind::Geneve]);
        assert!(step(Routing::Native { auto_direct_node_routes: false }, None).1.is_empty());
    }

    #[test]
    fn what_is_denied_is_answered_where_the_row_says_so() {
        let network = FakeNetwork::node(&["192.168.0.1".parse().unwrap()]);
        let mut c = config(Routing::Vxlan { port: 8472 });
        let base = plan(&c, Some(&node()), &Observed::read(&network).unwrap()).unwrap();
        let paths = DatapathPaths { pin_dir: "/pins".into(), cgroup: None };
        assert!(
            !base.datapath_config(&c, 0, &paths).answer_denied,
            "a row of an operator that does not know the setting"
        );
        c.deny_response = DenyResponse::Icmp;
        assert!(base.datapath_config(&c, 0, &paths).answer_denied);
    }

    #[test]
    fn a_device_that_is_not_there_is_named_with_those_that_are() {
        let network = FakeNetwork::node(&["192.168.0.1".parse().unwrap()]);
        let mut c = config(Routing::Native { auto_direct_node_routes: false });
        c.devices = vec!["eth7".into()];
        let error = plan(&c, Some(&node()), &Observed::read(&network).unwrap()).unwrap_err().to_string();
        assert!(error.contains("eth7") && error.contains("eth0"), "{error}");
    }

    #[test]
    fn applying_twice_writes_once_and_former_settings_come_back() {
        let network = FakeNetwork::node(&["192.168.0.1".parse().unwrap()]);
        let before = network.state().sysctls.clone();
        network.state().sysctls.insert("net/ipv4/conf/all/rp_filter".into(), "1".into());
        network.state().sysctls.insert("net/ipv4/conf/axn_vxlan/rp_filter".into(), "0".into());
        let dir = tempfile::tempdir().unwrap();
        let store = Files::open(dir.path()).unwrap();
        let mut inventory = Inventory::load(&store).unwrap();
        let base =
            plan(&config(Routing::Vxlan { port: 8472 }), Some(&node()), &Observed::read(&network).unwrap()).unwrap();
        base.apply(&network, &mut inventory, &store).unwrap();
        let writes = network.writes();
        assert_eq!(network.state().sysctls["net/ipv4/ip_forward"], "1");
        base.apply(&network, &mut inventory, &store).unwrap();
        assert_eq!(network.writes(), writes, "nothing differs, nothing is written");
        // as another process: the record is on disk
        let mut inventory = Inventory::load(&store).unwrap();
        assert!(inventory.restore(&network, &store).unwrap().is_empty());
        for (key, value) in before {
            assert_eq!(network.state().sysctls[&key], value, "{key}");
        }
        assert_eq!(network.state().sysctls["net/ipv4/conf/all/rp_filter"], "1");
    }
}
