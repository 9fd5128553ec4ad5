//! Requests as values. Pure: nothing here does IO.

use std::{net::IpAddr, os::fd::RawFd};

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage},
    link::{
        AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoGeneve, InfoKind, InfoNetkit, InfoVeth, InfoVxlan,
        LinkAttribute, LinkFlags, LinkInfo, LinkMessage, NetkitMode,
    },
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
        RouteType,
    },
};

use super::{HOST_MAC, Mac, Overlay, OverlayKind, PodDevice, PodLink, ROUTE_PROTOCOL, Route, socket::Request};

/// Group of links that are being removed: "axn" in ASCII.
const DOOMED_GROUP: u32 = 0x0061_786e;

/// Name of a link that is never made.
const PROBE: &str = "axn_probe";

/// Tolerated by requests that make something that may be there.
const EXISTS: &[i32] = &[libc::EEXIST];
/// Tolerated by requests that remove something that may be gone.
const GONE: &[i32] = &[libc::ESRCH, libc::ENOENT, libc::ENODEV];

fn request(message: RouteNetlinkMessage, flags: u16, tolerate: &'static [i32], operation: String) -> Request {
    Request { message, flags, tolerate, operation }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn link_by_name(name: &str) -> LinkMessage {
    let mut m = LinkMessage::default();
    m.attributes.push(LinkAttribute::IfName(name.to_owned()));
    m
}

/// No link-local address of its own: the host side of a pod link and the tunnel device speak to nobody by themselves.
fn no_link_local() -> LinkAttribute {
    LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)])])
}

/// The pair, its alias, and the host side's index as answer. `RTM_NEWLINK` ignores alias and address generation mode,
/// hence the second request.
pub(super) fn create_pair(netns: RawFd, link: &PodLink) -> Vec<Request> {
    let mut peer = link_by_name(&link.pod_name);
    peer.attributes.push(LinkAttribute::NetNsFd(netns));
    peer.attributes.push(LinkAttribute::Mtu(link.mtu));
    peer.attributes.push(LinkAttribute::Address(link.pod_mac.0.to_vec()));
    let mut pair = link_by_name(&link.host_name);
    pair.attributes.push(LinkAttribute::Mtu(link.mtu));
    pair.attributes.push(LinkAttribute::Address(HOST_MAC.0.to_vec()));
    let (kind, data) = match link.device {
        PodDevice::Veth => (InfoKind::Veth, InfoData::Veth(InfoVeth::Peer(peer))),
        // what no netkit program judges passes: ours are where those of veth are
        PodDevice::Netkit => {
            (InfoKind::Netkit, InfoData::Netkit(vec![InfoNetkit::Mode(NetkitMode::L2), InfoNetkit::Peer(peer)]))
        }
    };
    pair.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]));
    let mut finish = link_by_name(&link.host_name);
    finish.attributes.push(LinkAttribute::IfAlias(link.alias.clone()));
    finish.attributes.push(no_link_local());
    let name = &link.host_name;
    vec![
        request(
            RouteNetlinkMessage::NewLink(pair),
            NLM_F_CREATE | NLM_F_EXCL,
            &[],
            format!("create the link pair {name} and {}", link.pod_name),
        ),
        request(RouteNetlinkMessage::SetLink(finish), 0, &[], format!("name the owner of {name}")),
        get_link(name),
    ]
}

/// A netkit pair in a mode that there is not: refused for its mode, or for its kind where that is not known.
pub(super) fn probe_netkit() -> Request {
    let mut pair = link_by_name(PROBE);
    let mode = InfoNetkit::Mode(NetkitMode::Other(u32::MAX));
    pair.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Netkit),
        LinkInfo::Data(InfoData::Netkit(vec![mode])),
    ]));
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    request(RouteNetlinkMessage::NewLink(pair), flags, &[], "look whether there is netkit".to_owned())
}

pub(super) fn get_link(name: &str) -> Request {
    request(RouteNetlinkMessage::GetLink(link_by_name(name)), 0, &[], format!("find link {name}"))
}

pub(super) fn remove_link(name: &str) -> Request {
    request(RouteNetlinkMessage::DelLink(link_by_name(name)), 0, &[], format!("remove link {name}"))
}

/// Puts a link into the group of links that [`remove_group`] removes.
pub(super) fn doom_link(name: &str) -> Request {
    let mut m = link_by_name(name);
    m.attributes.push(LinkAttribute::Group(DOOMED_GROUP));
    request(RouteNetlinkMessage::SetLink(m), 0, &[libc::ENODEV], format!("mark link {name} for removal"))
}

/// Removes all links of the group at once: the kernel waits for its readers once, not once a link.
pub(super) fn remove_group() -> Request {
    let mut m = LinkMessage::default();
    m.attributes.push(LinkAttribute::Group(DOOMED_GROUP));
    request(RouteNetlinkMessage::DelLink(m), 0, GONE, "remove links".to_owned())
}

pub(super) fn link_up(ifindex: u32) -> Request {
    let mut m = LinkMessage::default();
    m.header.index = ifindex;
    m.header.flags = LinkFlags::Up;
    m.header.change_mask = LinkFlags::Up;
    request(RouteNetlinkMessage::SetLink(m), 0, &[], format!("set link {ifindex} up"))
}

pub(super) fn link_mtu(ifindex: u32, mtu: u32) -> Request {
    let mut m = LinkMessage::default();
    m.header.index = ifindex;
    m.attributes.push(LinkAttribute::Mtu(mtu));
    request(RouteNetlinkMessage::SetLink(m), 0, &[], format!("set the MTU of link {ifindex} to {mtu}"))
}

/// The tunnel device, its index as answer.
pub(super) fn create_overlay(overlay: Overlay) -> Vec<Request> {
    let Overlay { kind, port, mtu } = overlay;
    let name = kind.link();
    let mut device = link_by_name(name);
    device.attributes.push(LinkAttribute::Mtu(mtu));
    device.attributes.push(LinkAttribute::Address(HOST_MAC.0.to_vec()));
    // the underlay's IPv6 checksum is left out as RFC 6935 allows; receivers that we make accept that
    let (kind, data) = match kind {
        OverlayKind::Vxlan => (
            InfoKind::Vxlan,
            InfoData::Vxlan(vec![
                InfoVxlan::CollectMetadata(true),
                InfoVxlan::Learning(false),
                InfoVxlan::Port(port),
                InfoVxlan::UDPZeroCsumRX(true),
            ]),
        ),
        OverlayKind::Geneve => (
            InfoKind::Geneve,
            InfoData::Geneve(vec![
                InfoGeneve::CollectMetadata,
                InfoGeneve::Port(port),
                InfoGeneve::UdpZeroCsum6Rx(true),
            ]),
        ),
    };
    device.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]));
    let mut finish = link_by_name(name);
    finish.attributes.push(LinkAttribute::IfAlias("axoneme overlay".to_owned()));
    finish.attributes.push(no_link_local());
    vec![
        request(
            RouteNetlinkMessage::NewLink(device),
            NLM_F_CREATE | NLM_F_EXCL,
            &[],
            format!("create {name} on UDP port {port}"),
        ),
        request(RouteNetlinkMessage::SetLink(finish), 0, &[], format!("finish {name}")),
        get_link(name),
    ]
}

/// A pod's address: exactly itself, and for IPv6 without duplicate detection (the address is ours alone, and a second
/// of waiting would delay every pod).
pub(super) fn add_address(ifindex: u32, address: IpAddr) -> Request {
    let mut m = AddressMessage::default();
    m.header.family = family(address);
    m.header.prefix_len = IpNetwork::from(address).prefix();
    m.header.index = ifindex;
    if address.is_ipv6() {
        m.header.flags = AddressHeaderFlags::Nodad;
    }
    m.attributes.push(AddressAttribute::Local(address));
    m.attributes.push(AddressAttribute::Address(address));
    let operation = format!("add address {address} to link {ifindex}");
    request(RouteNetlinkMessage::NewAddress(m), NLM_F_CREATE | NLM_F_REPLACE, EXISTS, operation)
}

pub(super) fn permanent_neighbour(ifindex: u32, address: IpAddr, mac: Mac) -> Request {
    let mut m = NeighbourMessage::default();
    m.header.family = family(address);
    m.header.ifindex = ifindex;
    m.header.state = NeighbourState::Permanent;
    m.attributes.push(NeighbourAttribute::Destination(match address {
        IpAddr::V4(a) => NeighbourAddress::Inet(a),
        IpAddr::V6(a) => NeighbourAddress::Inet6(a),
    }));
    m.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    let operation = format!("add neighbour {address} on link {ifindex}");
    request(RouteNetlinkMessage::NewNeighbour(m), NLM_F_CREATE | NLM_F_REPLACE, &[], operation)
}

fn route_message(route: &Route) -> RouteMessage {
    let mut m = RouteMessage::default();
    m.header.address_family = family(route.destination.ip());
    m.header.destination_prefix_length = route.destination.prefix();
    m.header.table = RouteHeader::RT_TABLE_MAIN;
    m.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
    m.header.kind = RouteType::Unicast;
    // IPv6 knows no scopes: the kernel reports all as universe
    let direct = route.gateway.is_none() && route.destination.is_ipv4();
    m.header.scope = if direct { RouteScope::Link } else { RouteScope::Universe };
    if route.onlink {
        m.header.flags = RouteFlags::Onlink;
    }
    if route.destination.prefix() > 0 {
        m.attributes.push(RouteAttribute::Destination(RouteAddress::from(route.destination.network())));
    }
    m.attributes.push(RouteAttribute::Oif(route.ifindex));
    m.attributes.extend(route.gateway.map(|g| RouteAttribute::Gateway(g.into())));
    m.attributes.extend(route.source.map(|s| RouteAttribute::PrefSource(s.into())));
    m
}

pub(super) fn upsert_route(route: &Route) -> Request {
    let operation = format!("route {} to link {}", route.destination, route.ifindex);
    request(RouteNetlinkMessage::NewRoute(route_message(route)), NLM_F_CREATE | NLM_F_REPLACE, &[], operation)
}

/// The same route, whose users send no packets that are longer: TCP follows with its next segment.
pub(super) fn upsert_route_mtu(route: &Route, mtu: u32) -> Request {
    let operation = format!("set the MTU of route {} to {mtu}", route.destination);
    let mut m = route_message(route);
    m.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
    request(RouteNetlinkMessage::NewRoute(m), NLM_F_CREATE | NLM_F_REPLACE, &[], operation)
}

pub(super) fn remove_route(route: &Route) -> Request {
    let operation = format!("remove the route {} to link {}", route.destination, route.ifindex);
    request(RouteNetlinkMessage::DelRoute(route_message(route)), 0, GONE, operation)
}

/// The route that a message tells of, with its protocol; none for other tables, multipath and anything unreadable.
pub(super) fn read_route(m: &RouteMessage) -> Option<(Route, RouteProtocol)> {
    let mut table = u32::from(m.header.table);
    let mut destination = None;
    let (mut ifindex, mut gateway, mut source) = (0, None, None);
    for a in &m.attributes {
        match a {
            RouteAttribute::Destination(d) => destination = read_address(d),
            RouteAttribute::Oif(i) => ifindex = *i,
            RouteAttribute::Gateway(g) => gateway = read_address(g),
            RouteAttribute::PrefSource(s) => source = read_address(s),
            RouteAttribute::Table(t) => table = *t,
            _ => {}
        }
    }
    let unspecified: IpAddr = match m.header.address_family {
        AddressFamily::Inet => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    if table != u32::from(RouteHeader::RT_TABLE_MAIN) || ifindex == 0 || m.header.kind != RouteType::Unicast {
        return None;
    }
    let destination = IpNetwork::new(destination.unwrap_or(unspecified), m.header.destination_prefix_length).ok()?;
    let onlink = m.header.flags.contains(RouteFlags::Onlink);
    Some((Route { destination, ifindex, gateway, onlink, source }, m.header.protocol))
}

fn read_address(a: &RouteAddress) -> Option<IpAddr> {
    match a {
        RouteAddress::Inet(a) => Some((*a).into()),
        RouteAddress::Inet6(a) => Some((*a).into()),
        _ => None,
    }
}

/// The link that a message tells of.
pub(super) fn read_link(m: &LinkMessage) -> super::Link {
    let mut link = super::Link {
        name: String::new(),
        ifindex: m.header.index,
        mac: None,
        mtu: 0,
        up: m.header.flags.contains(LinkFlags::Up),
        alias: String::new(),
        loopback: m.header.flags.contains(LinkFlags::Loopback),
    };
    for a in &m.attributes {
        match a {
            LinkAttribute::IfName(n) => link.name.clone_from(n),
            LinkAttribute::IfAlias(n) => link.alias.clone_from(n),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(b) => link.mac = <[u8; 6]>::try_from(b.as_slice()).ok().map(Mac),
            _ => {}
        }
    }
    link
}

/// Kind and UDP port of a tunnel device that takes its metadata from packets; none for anything else.
pub(super) fn read_overlay(m: &LinkMessage) -> Option<(OverlayKind, u16)> {
    let infos = m.attributes.iter().find_map(|a| match a {
        LinkAttribute::LinkInfo(i) => Some(i),
        _ => None,
    })?;
    infos.iter().find_map(|i| match i {
        LinkInfo::Data(InfoData::Vxlan(d)) if d.contains(&InfoVxlan::CollectMetadata(true)) => {
            d.iter().find_map(|d| if let InfoVxlan::Port(p) = d { Some((OverlayKind::Vxlan, *p)) } else { None })
        }
        LinkInfo::Data(InfoData::Geneve(d)) if d.contains(&InfoGeneve::CollectMetadata) => {
            d.iter().find_map(|d| if let InfoGeneve::Port(p) = d { Some((OverlayKind::Geneve, *p)) } else { None })
        }
        _ => None,
    })
}
