//! A network stack in memory, for tests of what uses one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    net::IpAddr,
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use ipnetwork::IpNetwork;

use super::{HOST_MAC, Link, Masquerade, Network, NetworkError, Overlay, OverlayKind, PodLink, Result, Route};

/// What the fake holds. Public, so that tests can look and meddle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub links: BTreeMap<u32, Link>,
    /// By host side name: the pod's side as [`Network::configure_pod`] left it.
    pub pods: BTreeMap<String, PodLink>,
    pub addresses: Vec<(u32, IpNetwork)>,
    pub default_devices: Vec<u32>,
    pub routes: BTreeMap<(IpNetwork, u32), Route>,
    pub sysctls: BTreeMap<String, String>,
    /// Tunnel devices.
    pub overlays: BTreeMap<OverlayKind, Overlay>,
    /// Kinds that this kernel has no devices of.
    pub unknown: BTreeSet<OverlayKind>,
    /// It has netkit.
    pub netkit: bool,
    pub masquerade: Option<Masquerade>,
    /// Changes of MTUs in order, in words.
    pub log: Vec<String>,
    next_ifindex: u32,
}

/// [`Network`] in memory; counts its writes.
#[derive(Debug, Default)]
pub struct FakeNetwork {
    state: Mutex<State>,
    writes: std::sync::atomic::AtomicUsize,
}

impl FakeNetwork {
    /// A node with loopback and one uplink `eth0` (index 2, MTU 1500) that holds these addresses and a default route.
    pub fn node(addresses: &[IpAddr]) -> Self {
        let fake = Self::default();
        {
            let mut s = fake.state();
            for (name, ifindex, mtu) in [("lo", 1, 65536), ("eth0", 2, 1500)] {
                let link = Link {
                    name: name.to_owned(),
                    ifindex,
                    mac: None,
                    mtu,
                    up: true,
                    alias: String::new(),
                    loopback: name == "lo",
                };
                s.links.insert(ifindex, link);
            }
            s.addresses = addresses.iter().map(|a| (2, IpNetwork::from(*a))).collect();
            s.default_devices = vec![2];
            s.next_ifindex = 10;
            for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv4/conf/eth0/rp_filter"] {
                s.sysctls.insert(key.to_owned(), if key.ends_with("rp_filter") { "1" } else { "0" }.to_owned());
            }
        }
        fake
    }

    /// Look at the state, or change it behind the agent's back.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls so far that changed something.
    pub fn writes(&self) -> usize {
        self.writes.load(std::sync::atomic::Ordering::SeqCst)
    }

    fn write(&self) -> MutexGuard<'_, State> {
        self.writes.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        self.state()
    }
}

impl State {
    fn add(&mut self, name: &str, mtu: u32, alias: &str) -> u32 {
        let ifindex = self.next_ifindex;
        self.next_ifindex += 1;
        let link = Link {
            name: name.to_owned(),
            ifindex,
            mac: Some(HOST_MAC),
            mtu,
            up: false,
            alias: alias.to_owned(),
            loopback: false,
        };
        self.links.insert(ifindex, link);
        ifindex
    }

    fn remove(&mut self, name: &str) -> bool {
        let Some(ifindex) = self.links.values().find(|l| l.name == name).map(|l| l.ifindex) else { return false };
        self.links.remove(&ifindex);
        self.pods.remove(name);
        self.overlays.retain(|kind, _| kind.link() != name);
        self.routes.retain(|(_, i), _| *i != ifindex);
        true
    }

    /// Links that the agent made.
    pub fn owned_links(&self) -> Vec<&Link> {
        self.links.values().filter(|l| l.name.starts_with(super::LINK_PREFIX)).collect()
    }
}

impl Network for FakeNetwork {
    fn new_namespace(&self) -> Result<OwnedFd> {
        let operation = || "open a stand-in for a namespace".to_owned();
        let file = File::open("/dev/null").map_err(|source| NetworkError::Io { operation: operation(), source })?;
        Ok(file.into())
    }

    fn create_pod_link(&self, _netns: BorrowedFd<'_>, link: &PodLink) -> Result<u32> {
        let mut s = self.write();
        s.remove(&link.host_name);
        Ok(s.add(&link.host_name, link.mtu, &link.alias))
    }

    fn has_netkit(&self) -> Result<bool> {
        Ok(self.state().netkit)
    }

    fn configure_pod(&self, _netns: BorrowedFd<'_>, link: &PodLink) -> Result<()> {
        let mut s = self.write();
        if !s.links.values().any(|l| l.name == link.host_name) {
            return Err(NetworkError::Kernel {
                operation: format!("find {}", link.pod_name),
                errno: libc::ENODEV,
                message: "no such device".to_owned(),
            });
        }
        s.pods.insert(link.host_name.clone(), link.clone());
        Ok(())
    }

    fn connect_pod_link(&self, ifindex: u32, link: &PodLink) -> Result<()> {
        let mut s = self.write();
        let Some(host) = s.links.get_mut(&ifindex) else {
            return Err(NetworkError::Kernel {
                operation: format!("set link {ifindex} up"),
                errno: libc::ENODEV,
                message: "no such device".to_owned(),
            });
        };
        host.up = true;
        for a in &link.addresses {
            let source = link.sources.iter().copied().find(|s| s.is_ipv4() == a.is_ipv4());
            let destination = IpNetwork::from(*a);
            s.routes
                .insert((destination, ifindex), Route { destination, ifindex, gateway: None, onlink: false, source });
        }
        Ok(())
    }

    fn fit_pod(&self, _netns: &Path, ifindex: u32, link: &PodLink) -> Result<()> {
        let mut s = self.write();
        s.log.push(format!("pod {} {}", link.host_name, link.mtu));
        if let Some(host) = s.links.get_mut(&ifindex) {
            host.mtu = host.mtu.max(link.mtu);
        }
        match s.pods.get_mut(&link.host_name) {
            Some(pod) => {
                pod.mtu = link.mtu;
                Ok(())
            }
            None => Err(NetworkError::Kernel {
                operation: format!("set the MTU of {} in the pod", link.pod_name),
                errno: libc::ENODEV,
                message: "no such device".to_owned(),
            }),
        }
    }

    fn pod_faults(&self, _netns: BorrowedFd<'_>, link: &PodLink) -> Result<Vec<String>> {
        let s = self.state();
        let mut faults = Vec::new();
        if s.pods.get(&link.host_name) != Some(link) {
            faults.push(format!("interface {} is not as it was made", link.pod_name));
        }
        if !s.links.values().any(|l| l.name == link.host_name && l.up) {
            faults.push(format!("host side {} is missing or down", link.host_name));
        }
        Ok(faults)
    }

    fn remove_link(&self, name: &str) -> Result<bool> {
        Ok(self.write().remove(name))
    }

    fn links(&self) -> Result<Vec<Link>> {
        Ok(self.state().links.values().cloned().collect())
    }

    fn addresses(&self) -> Result<Vec<(u32, IpNetwork)>> {
        Ok(self.state().addresses.clone())
    }

    fn default_devices(&self) -> Result<Vec<u32>> {
        Ok(self.state().default_devices.clone())
    }

    fn ensure_overlay(&self, overlay: Overlay) -> Result<u32> {
        let kind = overlay.kind;
        let present = {
            let s = self.state();
            if s.unknown.contains(&kind) {
                return Err(NetworkError::NoSuchDevice {
                    link: kind.link().to_owned(),
                    module: kind.module(),
                    instead: "use another",
                });
            }
            let link = s.links.values().find(|l| l.name == kind.link());
            link.filter(|_| s.overlays.get(&kind) == Some(&overlay)).map(|l| l.ifindex)
        };
        if let Some(ifindex) = present {
            return Ok(ifindex);
        }
        let mut s = self.write();
        s.remove(kind.link());
        s.overlays.insert(kind, overlay);
        s.log.push(format!("overlay {}", overlay.mtu));
        let ifindex = s.add(kind.link(), overlay.mtu, "axoneme overlay");
        if let Some(l) = s.links.get_mut(&ifindex) {
            l.up = true;
        }
        Ok(ifindex)
    }

    fn upsert_route(&self, route: &Route) -> Result<()> {
        self.write().routes.insert((route.destination, route.ifindex), route.clone());
        Ok(())
    }

    fn remove_route(&self, route: &Route) -> Result<()> {
        self.write().routes.remove(&(route.destination, route.ifindex));
        Ok(())
    }

    fn routes(&self) -> Result<Vec<Route>> {
        Ok(self.state().routes.values().cloned().collect())
    }

    fn sysctl(&self, key: &str) -> Result<Option<String>> {
        Ok(self.state().sysctls.get(key).cloned())
    }

    fn set_sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.write().sysctls.insert(key.to_owned(), value.to_owned());
        Ok(())
    }

    fn set_masquerade(&self, rules: Option<&Masquerade>) -> Result<()> {
        let same = self.state().masquerade.as_ref() == rules;
        if same {
            return Ok(());
        }
        self.write().masquerade = rules.cloned();
        Ok(())
    }
}
