//! The kernel's network stack.

use std::{
    fs::File,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use ipnetwork::IpNetwork;
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::LinkMessage,
    route::{RouteMessage, RouteProtocol},
};

use super::{
    HOST_MAC, Link, Masquerade, Network, NetworkError, Overlay, OverlayKind, PodLink, ROUTE_PROTOCOL, Result, Route,
    gateway, masquerade, message, pod, socket::Socket, sysctl,
};

/// [`Network`] on the network namespace in which it was opened.
#[derive(Debug)]
pub struct Netlink {
    socket: Mutex<Socket>,
}

impl Netlink {
    /// Opens the socket. Fails without CAP_NET_ADMIN only at the first change.
    pub fn open() -> Result<Self> {
        Ok(Self { socket: Mutex::new(Socket::open()?) })
    }

    fn socket(&self) -> MutexGuard<'_, Socket> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link_messages(&self) -> Result<Vec<LinkMessage>> {
        let dump = self.socket().dump(RouteNetlinkMessage::GetLink(LinkMessage::default()), "list links")?;
        Ok(dump
            .into_iter()
            .filter_map(|m| if let RouteNetlinkMessage::NewLink(m) = m { Some(m) } else { None })
            .collect())
    }

    fn all_routes(&self) -> Result<Vec<(Route, RouteProtocol)>> {
        let dump = self.socket().dump(RouteNetlinkMessage::GetRoute(RouteMessage::default()), "list routes")?;
        Ok(dump
            .iter()
            .filter_map(|m| if let RouteNetlinkMessage::NewRoute(m) = m { message::read_route(m) } else { None })
            .collect())
    }
}

/// The index of the link that an answer tells of.
fn index_in(answers: &[RouteNetlinkMessage], operation: &str) -> Result<u32> {
    answers
        .iter()
        .find_map(|a| if let RouteNetlinkMessage::NewLink(m) = a { Some(m.header.index) } else { None })
        .ok_or_else(|| NetworkError::Kernel {
            operation: operation.to_owned(),
            errno: libc::ENODEV,
            message: "the kernel did not tell the index of the new link".to_owned(),
        })
}

/// What the kernel answers where it has no such devices and no module makes them known to it.
fn no_device(error: NetworkError, overlay: Overlay) -> NetworkError {
    let instead = match overlay.kind {
        OverlayKind::Vxlan => "set spec.routing.mode of the AxonemeConfig to Native",
        OverlayKind::Geneve => "set spec.routing.overlay.protocol of the AxonemeConfig to VXLAN",
    };
    match error {
        NetworkError::Kernel { errno: libc::EOPNOTSUPP, .. } => {
            NetworkError::NoSuchDevice { link: overlay.kind.link().to_owned(), module: overlay.kind.module(), instead }
        }
        other => other,
    }
}

fn pod_routes(ifindex: u32, link: &PodLink) -> impl Iterator<Item = Route> {
    link.addresses.iter().map(move |a| Route {
        destination: IpNetwork::from(*a),
        ifindex,
        gateway: None,
        onlink: false,
        source: link.sources.iter().copied().find(|s| s.is_ipv4() == a.is_ipv4()),
    })
}

/// Opens a namespace by its path. Runtimes write `/var/run`, which is `/run` everywhere and may be missing here.
fn open(netns: &Path) -> Result<File> {
    let failed = |source| NetworkError::Io { operation: format!("open namespace {}", netns.display()), source };
    match (File::open(netns), netns.strip_prefix("/var")) {
        (Err(e), Ok(rest)) if e.kind() == std::io::ErrorKind::NotFound => {
            File::open(Path::new("/").join(rest)).map_err(failed)
        }
        (opened, _) => opened.map_err(failed),
    }
}

impl Network for Netlink {
    fn new_namespace(&self) -> Result<OwnedFd> {
        pod::new_namespace()
    }

    fn create_pod_link(&self, netns: BorrowedFd<'_>, link: &PodLink) -> Result<u32> {
        let create = || self.socket().send(message::create_pair(netns.as_raw_fd(), link));
        let exists = |e: &NetworkError| matches!(e, NetworkError::Kernel { errno: libc::EEXIST, .. });
        let answers = match create() {
            Err(e) if exists(&e) => {
                if !self.remove_link(&link.host_name)? {
                    return Err(NetworkError::PodLinkExists { name: link.pod_name.clone() });
                }
                create().map_err(|e| {
                    if exists(&e) { NetworkError::PodLinkExists { name: link.pod_name.clone() } } else { e }
                })?
            }
            other => other?,
        };
        index_in(&answers, "create a pod link")
    }

    fn has_netkit(&self) -> Result<bool> {
        match self.socket().send(vec![message::probe_netkit()]) {
            Err(NetworkError::Kernel { errno: libc::EOPNOTSUPP, .. }) => Ok(false),
            // for its mode: the kind is known
            Err(NetworkError::Kernel { errno: libc::EINVAL | libc::ERANGE, .. }) => Ok(true),
            other => other.map(|_| true),
        }
    }

    fn configure_pod(&self, netns: BorrowedFd<'_>, link: &PodLink) -> Result<()> {
        pod::inside(netns, || pod::configure(link))
    }

    fn configure_pod_beside(&self, netns: BorrowedFd<'_>, link: &PodLink, work: &mut dyn FnMut()) -> Result<()> {
        pod::inside_beside(netns, || pod::configure(link), work)
    }

    fn connect_pod_link(&self, ifindex: u32, link: &PodLink) -> Result<()> {
        // strict reverse path filtering would drop what other nodes' pods send through this link's peer
        let key = format!("net/ipv4/conf/{}/rp_filter", link.host_name);
        if sysctl::read(&key)?.is_some_and(|v| v != "0") {
            sysctl::write(&key, "0")?;
        }
        let mut requests = vec![message::link_up(ifindex)];
        requests.extend(pod_routes(ifindex, link).map(|r| message::upsert_route(&r)));
        requests.extend(link.addresses.iter().map(|a| message::permanent_neighbour(ifindex, *a, link.pod_mac)));
        self.socket().send(requests).map(|_| ())
    }

    fn fit_pod(&self, netns: &Path, ifindex: u32, link: &PodLink) -> Result<()> {
        let host = self.links()?.into_iter().find(|l| l.ifindex == ifindex);
        if host.is_some_and(|h| h.mtu < link.mtu) {
            self.socket().send(vec![message::link_mtu(ifindex, link.mtu)])?;
        }
        let netns = open(netns)?;
        pod::inside(netns.as_fd(), || pod::fit(link))
    }

    fn pod_faults(&self, netns: BorrowedFd<'_>, link: &PodLink) -> Result<Vec<String>> {
        let mut faults = pod::inside(netns, || pod::faults(link))?;
        let Some(host) = self.links()?.into_iter().find(|l| l.name == link.host_name) else {
            faults.push(format!("host side {} is missing", link.host_name));
            return Ok(faults);
        };
        if !host.up {
            faults.push(format!("host side {} is down", link.host_name));
        }
        let routes = self.routes()?;
        for wanted in pod_routes(host.ifindex, link) {
            if !routes.iter().any(|r| r.destination == wanted.destination && r.ifindex == wanted.ifindex) {
                faults.push(format!("route {} dev {} is missing", wanted.destination, link.host_name));
            }
        }
        Ok(faults)
    }

    fn remove_link(&self, name: &str) -> Result<bool> {
        match self.socket().send(vec![message::remove_link(name)]) {
            Ok(_) => Ok(true),
            Err(NetworkError::Kernel { errno: libc::ENODEV, .. }) => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn remove_links(&self, names: &[String]) -> Result<()> {
        let mut requests: Vec<_> = names.iter().map(|n| message::doom_link(n)).collect();
        requests.push(message::remove_group());
        self.socket().send(requests).map(|_| ())
    }

    fn links(&self) -> Result<Vec<Link>> {
        Ok(self.link_messages()?.iter().map(message::read_link).collect())
    }

    fn addresses(&self) -> Result<Vec<(u32, IpNetwork)>> {
        let dump = self.socket().dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()), "list addresses")?;
        Ok(dump
            .iter()
            .filter_map(|m| {
                let RouteNetlinkMessage::NewAddress(m) = m else { return None };
                // on point-to-point links IFA_ADDRESS is the other end, IFA_LOCAL ours
                let local = m.attributes.iter().find_map(|a| match a {
                    AddressAttribute::Local(ip) => Some(*ip),
                    _ => None,
                });
                let address = local.or_else(|| {
                    m.attributes.iter().find_map(|a| match a {
                        AddressAttribute::Address(ip) => Some(*ip),
                        _ => None,
                    })
                })?;
                Some((m.header.index, IpNetwork::new(address, m.header.prefix_len).ok()?))
            })
            .collect())
    }

    fn default_devices(&self) -> Result<Vec<u32>> {
        let mut devices: Vec<u32> = self
            .all_routes()?
            .into_iter()
            .filter(|(r, _)| r.destination.prefix() == 0)
            .map(|(r, _)| r.ifindex)
            .collect();
        devices.sort_unstable();
        devices.dedup();
        Ok(devices)
    }

    fn ensure_overlay(&self, overlay: Overlay) -> Result<u32> {
        let name = overlay.kind.link();
        let present = self.link_messages()?.into_iter().find(|m| message::read_link(m).name == name);
        let ifindex = match present {
            Some(m) if message::read_overlay(&m) == Some((overlay.kind, overlay.port)) => {
                let link = message::read_link(&m);
                if link.mtu != overlay.mtu {
                    self.socket().send(vec![message::link_mtu(link.ifindex, overlay.mtu)])?;
                }
                if link.up {
                    return Ok(link.ifindex);
                }
                link.ifindex
            }
            present => {
                if present.is_some() {
                    self.remove_link(name)?;
                }
                let answers =
                    self.socket().send(message::create_overlay(overlay)).map_err(|e| no_device(e, overlay))?;
                index_in(&answers, "create the tunnel device")?
            }
        };
        let key = format!("net/ipv4/conf/{name}/rp_filter");
        if sysctl::read(&key)?.is_some_and(|v| v != "0") {
            sysctl::write(&key, "0")?;
        }
        self.socket().send(vec![
            message::link_up(ifindex),
            message::permanent_neighbour(ifindex, super::GATEWAY_V4.into(), HOST_MAC),
        ])?;
        if sysctl::read(&format!("net/ipv6/conf/{name}/disable_ipv6"))?.is_some_and(|v| v == "0") {
            let v6 = gateway(std::net::Ipv6Addr::UNSPECIFIED.into());
            self.socket().send(vec![message::permanent_neighbour(ifindex, v6, HOST_MAC)])?;
        }
        Ok(ifindex)
    }

    fn upsert_route(&self, route: &Route) -> Result<()> {
        self.socket().send(vec![message::upsert_route(route)]).map(|_| ())
    }

    fn remove_route(&self, route: &Route) -> Result<()> {
        self.socket().send(vec![message::remove_route(route)]).map(|_| ())
    }

    fn routes(&self) -> Result<Vec<Route>> {
        let ours = RouteProtocol::Other(ROUTE_PROTOCOL);
        Ok(self.all_routes()?.into_iter().filter(|(_, p)| *p == ours).map(|(r, _)| r).collect())
    }

    fn sysctl(&self, key: &str) -> Result<Option<String>> {
        sysctl::read(key)
    }

    fn set_sysctl(&self, key: &str, value: &str) -> Result<()> {
        sysctl::write(key, value)
    }

    fn set_masquerade(&self, rules: Option<&Masquerade>) -> Result<()> {
        masquerade::apply(rules)
    }
}
