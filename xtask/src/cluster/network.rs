//! The underlay: a router, the control plane and an outside host in network namespaces of their own, one shared subnet
//! for the nodes, and a link by which this machine reaches the cluster.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};

use super::layout::{Layout, Place};
use crate::command::{output, output_with, program};

/// The roles that have a network namespace besides the nodes.
pub(crate) const ROUTER: &str = "rtr";
pub(crate) const CONTROL_PLANE: &str = "cp";
pub(crate) const OUTSIDE: &str = "out";

const BRIDGE: &str = "nodes";

/// The file that holds a named network namespace open.
fn handle(netns: &str) -> std::path::PathBuf {
    Path::new("/run/netns").join(netns)
}

/// Moves the calling thread into a named network namespace.
pub(crate) fn enter(netns: &str) -> Result<()> {
    let file = fs::File::open(handle(netns)).with_context(|| format!("network namespace {netns}"))?;
    setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering network namespace {netns}"))
}

/// Runs `ip` commands in a network namespace (`None`: this machine's own), all in one process.
fn batch(netns: Option<&str>, lines: &[String]) -> Result<()> {
    let mut command = program("ip");
    if let Some(netns) = netns {
        command.args(["-netns", netns]);
    }
    let text = lines.join("\n") + "\n";
    output_with(command.args(["-batch", "-"]), &text).map(drop).with_context(|| format!("network set-up:\n{text}"))
}

/// Sets network sysctls of a namespace, as `net/ipv4/ip_forward`; done by a thread that enters it and ends.
fn sysctl(netns: &str, values: &[(&str, &str)]) -> Result<()> {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                enter(netns)?;
                for (name, value) in values {
                    fs::write(format!("/proc/sys/{name}"), value).with_context(|| format!("sysctl {name}={value}"))?;
                }
                Ok(())
            })
            .join()
            .unwrap_or_else(|_| anyhow::bail!("setting sysctls in {netns}: the thread ended early"))
    })
}

fn addresses(device: &str, layout: Layout, place: Place) -> Vec<String> {
    layout.prefixed(place).iter().map(|ip| format!("address add {ip} dev {device} nodad")).map(no_dad_for_v4).collect()
}

/// `nodad` is a flag of IPv6 addresses only.
fn no_dad_for_v4(line: String) -> String {
    if line.contains(':') { line } else { line.trim_end_matches(" nodad").to_owned() }
}

fn default_routes(layout: Layout, gateway: Place) -> Vec<String> {
    layout.addresses(gateway).iter().map(|ip| format!("route add default via {ip}")).collect()
}

/// Turns forwarding on: routers and nodes forward, hosts do not.
const FORWARD: &[(&str, &str)] = &[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")];

/// Makes everything but the nodes.
pub(crate) fn make(layout: Layout, nodes: &[(String, u8)]) -> Result<()> {
    let router = layout.netns(ROUTER);
    let mut roles = vec![ROUTER.to_owned(), CONTROL_PLANE.to_owned(), OUTSIDE.to_owned()];
    roles.extend(nodes.iter().map(|(name, _)| name.clone()));
    batch(None, &roles.iter().map(|role| format!("netns add {}", layout.netns(role))).collect::<Vec<_>>())?;

    let mut lines = vec![
        "link set lo up".to_owned(),
        format!("link add {BRIDGE} type bridge forward_delay 0"),
        format!("link set {BRIDGE} up"),
        format!("link add outside type veth peer name eth0 netns {}", layout.netns(OUTSIDE)),
        "link set outside up".to_owned(),
    ];
    lines.extend(link_to_bridge(layout, CONTROL_PLANE, 0));
    for (name, number) in nodes {
        lines.extend(link_to_bridge(layout, name, *number));
    }
    lines.extend(addresses(BRIDGE, layout, Place::Gateway));
    lines.extend(addresses("outside", layout, Place::OutsideGateway));
    batch(Some(&router), &lines)?;
    sysctl(&router, FORWARD)?;

    for (name, number) in nodes {
        node(layout, name, *number)?;
    }
    host(layout, CONTROL_PLANE, Place::ControlPlane, &default_routes(layout, Place::Gateway))?;
    // No default route: what the outside host answers to an address that it cannot route to never arrives.
    host(layout, OUTSIDE, Place::Outside, &routes_to(&layout.node_subnets(), layout, Place::OutsideGateway))?;
    link_to_root(layout)
}

/// A device of its own by name and number, as a card that stays in its machine.
fn link_to_bridge(layout: Layout, role: &str, number: u8) -> [String; 2] {
    let mac = format!("02:00:00:00:{:02x}:{number:02x}", layout.id);
    [
        format!("link add {role} type veth peer name eth0 address {mac} netns {}", layout.netns(role)),
        format!("link set {role} master {BRIDGE} up"),
    ]
}

fn node(layout: Layout, name: &str, number: u8) -> Result<()> {
    host(layout, name, Place::Node(number), &default_routes(layout, Place::Gateway))?;
    sysctl(&layout.netns(name), FORWARD)
}

/// A node's network as after a boot: its namespace goes with all that is in it, and one with nothing but its device comes.
pub(crate) fn renew_node(layout: Layout, name: &str, number: u8) -> Result<()> {
    let (router, netns) = (layout.netns(ROUTER), layout.netns(name));
    // the device first: a namespace ends when the kernel finds the time
    batch(Some(&router), &[format!("link delete {name}")])?;
    batch(None, &[format!("netns delete {netns}"), format!("netns add {netns}")])?;
    batch(Some(&router), &link_to_bridge(layout, name, number))?;
    node(layout, name, number)
}

fn routes_to(subnets: &[String], layout: Layout, gateway: Place) -> Vec<String> {
    let gateways = layout.addresses(gateway);
    subnets.iter().zip(gateways).map(|(subnet, ip)| format!("route add {subnet} via {ip}")).collect()
}

fn host(layout: Layout, role: &str, place: Place, routes: &[String]) -> Result<()> {
    let mut lines = vec!["link set lo up".to_owned(), "link set eth0 up".to_owned()];
    lines.extend(addresses("eth0", layout, place));
    lines.extend_from_slice(routes);
    batch(Some(&layout.netns(role)), &lines)
}

fn link_to_root(layout: Layout) -> Result<()> {
    let (device, router) = (layout.prefix(), layout.netns(ROUTER));
    let mut inner = vec!["link set root up".to_owned()];
    inner.extend(addresses("root", layout, Place::RootGateway));
    batch(
        None,
        &[format!("link add {device} type veth peer name root netns {router}"), format!("link set {device} up")],
    )?;
    batch(Some(&router), &inner)?;
    let mut lines = addresses(&device, layout, Place::Root);
    lines.extend(routes_to(&layout.node_subnets(), layout, Place::RootGateway));
    lines.extend(routes_to(&layout.outside_subnets(), layout, Place::RootGateway));
    batch(None, &lines)?;
    // The outside host and the control plane answer this machine as well.
    batch(Some(&layout.netns(OUTSIDE)), &routes_to(&root_subnets(layout), layout, Place::OutsideGateway))
}

fn root_subnets(layout: Layout) -> Vec<String> {
    layout
        .addresses(Place::Root)
        .iter()
        .map(
            |ip| {
                if ip.is_ipv4() { format!("172.28.{}.0/24", layout.id) } else { format!("fd00:28:{}::/64", layout.id) }
            },
        )
        .collect()
}

/// Routes to a node's pods, in another namespace of the cluster.
pub(crate) fn route(layout: Layout, role: &str, ranges: &[String], node: u8) -> Result<()> {
    let hops = layout.addresses(Place::Node(node));
    let lines: Vec<String> =
        ranges.iter().zip(hops).map(|(range, hop)| format!("route replace {range} via {hop}")).collect();
    batch(Some(&layout.netns(role)), &lines)
}

/// Removes every namespace and link of the cluster, found by name, whatever was made.
pub(crate) fn remove(layout: Layout) -> Result<()> {
    let prefix = format!("{}-", layout.prefix());
    for netns in named()? {
        if netns.starts_with(&prefix) {
            output(program("ip").args(["netns", "delete", &netns]))?;
        }
    }
    let device = layout.prefix();
    if Path::new("/sys/class/net").join(&device).exists() {
        let gone = output(program("ip").args(["link", "delete", &device]));
        // Its peer went with the router's namespace, and the kernel takes the pair down by itself a moment later.
        if gone.is_err() && Path::new("/sys/class/net").join(&device).exists() {
            gone?;
        }
    }
    Ok(())
}

/// Names of this machine's network namespaces.
pub(crate) fn named() -> Result<Vec<String>> {
    let Ok(entries) = fs::read_dir("/run/netns") else { return Ok(Vec::new()) };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}
