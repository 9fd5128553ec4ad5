//! Work inside a pod's network namespace.

use std::{
    fs::File,
    net::{Ipv4Addr, Ipv6Addr, TcpListener},
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    route::RouteMessage,
};
use nix::sched::{CloneFlags, setns, unshare};

use super::{HOST_MAC, Link, NetworkError, PodLink, Result, Route, gateway, message, socket::Socket, sysctl};

/// Runs `work` on a thread of its own that has entered the namespace. The thread ends afterwards, so no thread of the
/// agent is ever left in a pod's namespace, whatever happens.
pub(super) fn inside<T: Send>(netns: BorrowedFd<'_>, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    inside_beside(netns, work, &mut || ())
}

/// The same; meanwhile `outside` is done on the calling thread.
pub(super) fn inside_beside<T: Send>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> Result<T> + Send,
    outside: &mut dyn FnMut(),
) -> Result<T> {
    let entered = |source: nix::Error| {
        if source == nix::Error::EPERM {
            return NetworkError::Permission { operation: "enter the pod's network namespace".to_owned() };
        }
        NetworkError::Io { operation: "enter the pod's network namespace".to_owned(), source: source.into() }
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("pod-netns".to_owned()).spawn_scoped(scope, move || {
            setns(netns, CloneFlags::CLONE_NEWNET).map_err(entered)?;
            work()
        });
        outside();
        let thread = thread.map_err(|source| NetworkError::Io { operation: "start a thread".to_owned(), source })?;
        thread.join().unwrap_or_else(|_| {
            Err(NetworkError::Io {
                operation: format!("work in network namespace fd {}", netns.as_raw_fd()),
                source: std::io::Error::other("the thread panicked"),
            })
        })
    })
}

/// Makes a namespace on a thread of its own, which leaves nothing of it behind but the descriptor.
pub(super) fn new_namespace() -> Result<OwnedFd> {
    let failed = |operation: &str, source: std::io::Error| NetworkError::Io { operation: operation.to_owned(), source };
    let make = move || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|e| failed("make a network namespace", e.into()))?;
        File::open("/proc/thread-self/ns/net").map_err(|e| failed("open the new network namespace", e))
    };
    let thread = std::thread::Builder::new().name("new-netns".to_owned()).spawn(make);
    let thread = thread.map_err(|source| failed("start a thread", source))?;
    let made = thread.join().unwrap_or_else(|_| Err(failed("make a namespace", std::io::Error::other("it panicked"))));
    made.map(Into::into)
}

/// Listens at all addresses of a namespace. The socket holds the namespace.
pub fn listen_in(netns: BorrowedFd<'_>, port: u16) -> Result<TcpListener> {
    inside(netns, || {
        // of both families, where this kernel has IPv6
        let any = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port));
        let any = any.or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)));
        any.map_err(|source| NetworkError::Io {
            operation: format!("listen on TCP port {port} of a namespace"),
            source,
        })
    })
}

fn find(socket: &mut Socket, name: &str) -> Result<Link> {
    let answers = socket.send(vec![message::get_link(name)])?;
    answers
        .iter()
        .find_map(|a| if let RouteNetlinkMessage::NewLink(m) = a { Some(message::read_link(m)) } else { None })
        .ok_or_else(|| NetworkError::Kernel {
            operation: format!("find link {name} in the pod"),
            errno: libc::ENODEV,
            message: "no such device".to_owned(),
        })
}

fn default_route(ifindex: u32, address: std::net::IpAddr) -> Route {
    let unspecified: std::net::IpAddr = match address {
        std::net::IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        std::net::IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let destination = ipnetwork::IpNetwork::new(unspecified, 0).unwrap_or_else(|_| unspecified.into());
    Route { destination, ifindex, gateway: Some(gateway(address)), onlink: address.is_ipv4(), source: None }
}

/// Index of `lo` in every namespace (net/core/net_namespace.c makes it first). Up also where no loopback plugin runs.
const LOOPBACK: u32 = 1;

/// Addresses, up, neighbours, default routes, in one system call after the lookup of the interface.
pub(super) fn configure(link: &PodLink) -> Result<()> {
    let mut socket = Socket::open()?;
    if link.addresses.iter().any(std::net::IpAddr::is_ipv6) {
        prepare_v6(&link.pod_name)?;
    }
    let ifindex = find(&mut socket, &link.pod_name)?.ifindex;
    let mut requests: Vec<_> = link.addresses.iter().map(|a| message::add_address(ifindex, *a)).collect();
    requests.push(message::link_up(LOOPBACK));
    requests.push(message::link_up(ifindex));
    for address in &link.addresses {
        requests.push(message::permanent_neighbour(ifindex, gateway(*address), HOST_MAC));
        requests.push(message::upsert_route(&default_route(ifindex, *address)));
    }
    socket.send(requests).map(|_| ())
}

/// Lets a running pod send packets of up to `link.mtu` bytes, and no longer ones. A device only ever grows: see
/// [`super::Network::fit_pod`].
pub(super) fn fit(link: &PodLink) -> Result<()> {
    let mut socket = Socket::open()?;
    let found = find(&mut socket, &link.pod_name)?;
    if found.mac != Some(link.pod_mac) {
        return Err(NetworkError::Kernel {
            operation: format!("set the MTU of {} in the pod", link.pod_name),
            errno: libc::ENODEV,
            message: format!("it is not the interface with MAC {}: another pod has that namespace now", link.pod_mac),
        });
    }
    if found.mtu < link.mtu {
        socket.send(vec![message::link_mtu(found.ifindex, link.mtu)])?;
    }
    let routes = link.addresses.iter().map(|a| message::upsert_route_mtu(&default_route(found.ifindex, *a), link.mtu));
    socket.send(routes.collect()).map(|_| ())
}

/// Runtimes start pods with IPv6 switched off when the node's default says so.
fn prepare_v6(interface: &str) -> Result<()> {
    for (setting, value) in [("disable_ipv6", "0"), ("accept_ra", "0"), ("accept_dad", "0")] {
        let key = format!("net/ipv6/conf/{interface}/{setting}");
        match sysctl::read(&key)? {
            Some(now) if now == value => {}
            Some(_) => sysctl::write(&key, value)?,
            None => {
                return Err(NetworkError::Kernel {
                    operation: format!("set sysctl {key}"),
                    errno: libc::ENOENT,
                    message:
                        "this kernel has IPv6 switched off: remove ipv6.disable=1 or turn IPv6 off in AxonemeConfig"
                            .to_owned(),
                });
            }
        }
    }
    Ok(())
}

/// What differs from [`configure`].
pub(super) fn faults(link: &PodLink) -> Result<Vec<String>> {
    let mut socket = Socket::open()?;
    let mut faults = Vec::new();
    let found = match find(&mut socket, &link.pod_name) {
        Ok(found) => found,
        Err(NetworkError::Kernel { errno: libc::ENODEV, .. }) => {
            return Ok(vec![format!("interface {} is missing in the pod", link.pod_name)]);
        }
        Err(e) => return Err(e),
    };
    if !found.up {
        faults.push(format!("interface {} is down in the pod", link.pod_name));
    }
    if found.mac != Some(link.pod_mac) {
        faults.push(format!("interface {} has another MAC than {}", link.pod_name, link.pod_mac));
    }
    let present = addresses(&mut socket, found.ifindex)?;
    let routes = routes(&mut socket)?;
    for address in &link.addresses {
        if !present.contains(address) {
            faults.push(format!("address {address} is missing on {} in the pod", link.pod_name));
        }
        let wanted = default_route(found.ifindex, *address);
        if !routes.iter().any(|r| r.destination == wanted.destination && r.ifindex == wanted.ifindex) {
            faults.push(format!("the default route over {} is missing in the pod", gateway(*address)));
        }
    }
    Ok(faults)
}

fn addresses(socket: &mut Socket, ifindex: u32) -> Result<Vec<std::net::IpAddr>> {
    let dump = socket.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()), "list addresses in the pod")?;
    Ok(dump
        .iter()
        .filter_map(|m| match m {
            RouteNetlinkMessage::NewAddress(m) if m.header.index == ifindex => {
                m.attributes.iter().find_map(|a| match a {
                    AddressAttribute::Address(ip) => Some(*ip),
                    _ => None,
                })
            }
            _ => None,
        })
        .collect())
}

fn routes(socket: &mut Socket) -> Result<Vec<Route>> {
    let dump = socket.dump(RouteNetlinkMessage::GetRoute(RouteMessage::default()), "list routes in the pod")?;
    Ok(dump
        .iter()
        .filter_map(|m| match m {
            RouteNetlinkMessage::NewRoute(m) => message::read_route(m).map(|(r, _)| r),
            _ => None,
        })
        .collect())
}
