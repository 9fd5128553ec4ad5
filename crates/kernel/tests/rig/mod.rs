//! Pods and nodes as network namespaces, for tests that need root.
//!
//! A node is a namespace with a datapath; a pod is a namespace whose link's host side is in its node. What a rig makes
//! it removes, also when the test fails.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

pub mod cluster;
pub mod frames;
pub mod rows;
pub mod traffic;
pub mod wire;

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsFd,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use axoneme_abi::DropEvent;
use axoneme_kernel::{
    bpf::{BpfDatapath, Event, Loader, Testing},
    datapath::{
        Datapath, DatapathConfig, Direction, EndpointEntry, Hook, IpEntry, PolicyDefault, PolicyKey, PolicyTable,
        PolicyValue,
    },
    net::{Mac, Netlink, Network, PodDevice, PodLink},
};
use nix::sched::{CloneFlags, setns};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A network namespace with a name, deleted when dropped.
#[derive(Debug)]
pub struct Namespace {
    pub name: String,
}

pub fn sh(line: &str) {
    let out = Command::new("sh").args(["-ec", line]).output().expect("start sh");
    assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
}

impl Namespace {
    pub fn new(hint: &str) -> Self {
        let name = format!("axk{}-{}-{hint}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        sh(&format!("ip netns add {name} && ip -n {name} link set lo up"));
        let ns = Self { name };
        ns.run(|| {
            for (path, value) in [
                ("ipv4/ip_forward", "1"),
                ("ipv4/conf/all/rp_filter", "0"),
                ("ipv4/conf/default/rp_filter", "0"),
                ("ipv4/conf/all/accept_local", "1"),
                ("ipv4/icmp_ratelimit", "0"),
                ("ipv6/conf/all/forwarding", "1"),
                ("ipv6/conf/default/accept_dad", "0"),
                ("ipv6/conf/all/accept_dad", "0"),
                ("ipv6/icmp/ratelimit", "0"),
            ] {
                std::fs::write(format!("/proc/sys/net/{path}"), value).unwrap_or_else(|e| panic!("{path}: {e}"));
            }
        });
        ns
    }

    /// `ip` inside.
    pub fn ip(&self, arguments: &str) {
        sh(&format!("ip -n {} {arguments}", self.name));
    }

    /// Starts a thread inside.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let file = File::open(format!("/run/netns/{}", self.name)).expect("namespace");
        std::thread::spawn(move || {
            setns(&file, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
            work()
        })
    }

    /// Takes this thread inside, for good.
    pub fn enter(&self) {
        let file = File::open(format!("/run/netns/{}", self.name)).expect("namespace");
        setns(&file, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
    }

    /// Runs inside and waits.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{}", self.name)).expect("namespace");
        std::thread::scope(|s| {
            let t = s.spawn(move || {
                setns(&file, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
                work()
            });
            t.join().unwrap_or_else(|e| std::panic::resume_unwind(e))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// A BPF filesystem of its own.
#[derive(Debug)]
pub struct BpfFs {
    pub dir: PathBuf,
}

impl BpfFs {
    pub fn new() -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("axk-bpffs-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        sh(&format!("mount -t bpf bpf {}", dir.display()));
        Self { dir }
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.dir).status();
        let _ = std::fs::remove_dir(&self.dir);
    }
}

pub const HOST_MAC: &str = "0a:58:a9:fe:01:01";

/// A pod: addresses end in its number.
#[derive(Debug)]
pub struct Pod {
    pub ns: Namespace,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
    pub ifindex: u32,
    pub slot: u16,
    pub identity: u32,
    pub host_link: String,
}

impl Pod {
    pub fn entry(&self) -> EndpointEntry {
        EndpointEntry {
            ifindex: self.ifindex,
            identity: self.identity,
            peer: self.identity,
            slot: self.slot,
            mac: [0; 6],
        }
    }
    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

/// A node with its datapath.
#[derive(Debug)]
pub struct Node {
    pub datapath: BpfDatapath,
    pub fs: BpfFs,
    pub ns: Namespace,
    pub number: u8,
    pub config: DatapathConfig,
    filters: bool,
    netkit: bool,
}

/// How a rig is set up.
#[derive(Clone, Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "independent switches")]
pub struct Options {
    pub native: bool,
    pub services: bool,
    pub socket_lb: bool,
    pub socket_lb_host_only: bool,
    pub cgroup: Option<PathBuf>,
    pub uplink: u32,
    pub overlay: u32,
    pub conntrack_entries: Option<u32>,
    pub host_firewall: bool,
    pub answer_denied: bool,
    /// The tunnel speaks IPv6.
    pub underlay6: bool,
    /// Programs are attached as on a kernel that has no links.
    pub filters: bool,
    /// Nothing is told of connections.
    pub silent: bool,
    /// Pods have netkit devices, made as the product makes them.
    pub netkit: bool,
}

pub fn node_v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 200, 0, number)
}
pub fn node_v6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, u16::from(number))
}

impl Node {
    /// A node without underlay.
    pub fn alone() -> Self {
        let ns = Namespace::new("node");
        ns.ip("link set lo up");
        ns.ip("addr add 10.200.0.1/32 dev lo");
        ns.ip("addr add fd20::1/128 dev lo nodad");
        Self::with(ns, 1, &Options { services: true, ..Options::default() })
    }

    pub fn with(ns: Namespace, number: u8, options: &Options) -> Self {
        let fs = BpfFs::new();
        let config = DatapathConfig {
            overlay_ifindex: options.overlay,
            uplink_ifindex: options.uplink,
            native_routing: options.native,
            direct: false,
            ipv4: true,
            ipv6: true,
            node_addresses: {
                let mut addresses = vec![node_v4(number).into(), node_v6(number).into()];
                if options.underlay6 {
                    addresses.reverse();
                }
                addresses
            },
            allow_own_host: true,
            answer_denied: options.answer_denied,
            services: options.services,
            socket_lb: options.socket_lb,
            host_firewall: options.host_firewall,
            conntrack_entries: options.conntrack_entries.unwrap_or(16384),
            socket_lb_host_only: options.socket_lb_host_only,
            timeouts: axoneme_kernel::datapath::Timeouts::default(),
            pin_dir: fs.dir.join("axoneme"),
            cgroup: options.cgroup.clone(),
        };
        let c = config.clone();
        let without = if options.silent { axoneme_abi::constants::feature::FLOWS } else { 0 };
        let testing = Testing { without, ..Testing::default() };
        let datapath = ns.run(move || Loader::open_with(c, &testing)).unwrap_or_else(|e| panic!("{e}"));
        let node = Self { datapath, fs, ns, number, config, filters: options.filters, netkit: options.netkit };
        node.addresses();
        node
    }

    /// Rows of the world and of the node itself.
    pub fn addresses(&self) {
        let (d, number) = (&self.datapath, self.number);
        let world = IpEntry { identity: 2, peer: 2, tunnel: None, is_node: false, direct: false };
        d.upsert_ip("0.0.0.0/0".parse().unwrap(), world).unwrap();
        d.upsert_ip("::/0".parse().unwrap(), world).unwrap();
        let host = IpEntry { identity: 1, peer: 1, tunnel: None, is_node: true, direct: false };
        d.upsert_ip(IpAddr::from(node_v4(number)).into(), host).unwrap();
        d.upsert_ip(IpAddr::from(node_v6(number)).into(), host).unwrap();
    }

    /// A pod `10.<node>.0.<number>`, `fd10:<node>::<number>`, with an allow-all table and its programs.
    pub fn pod(&self, number: u8) -> Pod {
        let pod = self.bare_pod(number);
        self.program(&pod);
        self.attach(Hook::Endpoint, pod.ifindex);
        pod
    }

    /// By links, or by filters where the options say so.
    pub fn attach(&self, hook: Hook, ifindex: u32) {
        let d = &self.datapath;
        self.ns.run(|| if self.filters { d.attach_filters(hook, ifindex) } else { d.attach(hook, ifindex) }).unwrap();
    }

    /// Links, addresses and routes only.
    pub fn bare_pod(&self, number: u8) -> Pod {
        let ns = Namespace::new(&format!("pod{number}"));
        let (node, pod) = (&self.ns.name, &ns.name);
        let n = self.number;
        let (v4, v6) =
            (Ipv4Addr::new(10, n, 0, number), Ipv6Addr::new(0xfd10, u16::from(n), 0, 0, 0, 0, 0, u16::from(number)));
        let (link, mac) = (format!("h{number}"), format!("0a:00:00:00:{n:02x}:{number:02x}"));
        if self.netkit {
            let device = PodLink {
                device: PodDevice::Netkit,
                host_name: link.clone(),
                pod_name: "eth0".to_owned(),
                pod_mac: Mac([0x0a, 0, 0, 0, n, number]),
                mtu: 1500,
                addresses: vec![v4.into(), v6.into()],
                alias: String::new(),
                sources: Vec::new(),
            };
            let netns = File::open(format!("/run/netns/{pod}")).unwrap();
            let ifindex = self.ns.run(|| {
                let network = Netlink::open().unwrap();
                let ifindex = network.create_pod_link(netns.as_fd(), &device).unwrap();
                network.configure_pod(netns.as_fd(), &device).unwrap();
                network.connect_pod_link(ifindex, &device).unwrap();
                assert_eq!(network.pod_faults(netns.as_fd(), &device).unwrap(), Vec::<String>::new());
                ifindex
            });
            let (slot, identity) = (u16::from(number), 1000 + u32::from(number));
            return Pod { ns, v4, v6, ifindex, slot, identity, host_link: link };
        }
        sh(&format!(
            "ip -n {node} link add {link} address {HOST_MAC} type veth peer name eth0 netns {pod} address {mac}
             ip -n {node} link set {link} addrgenmode none up
             ip -n {pod} link set eth0 up
             ip -n {pod} addr add {v4}/32 dev eth0
             ip -n {pod} addr add {v6}/128 dev eth0 nodad
             ip -n {pod} route add 169.254.1.1 dev eth0 scope link
             ip -n {pod} route add default via 169.254.1.1 dev eth0 src {v4}
             ip -n {pod} neigh replace 169.254.1.1 lladdr {HOST_MAC} dev eth0 nud permanent
             ip -n {pod} neigh replace fe80::1 lladdr {HOST_MAC} dev eth0 nud permanent
             ip -n {pod} route add default via fe80::1 dev eth0 src {v6}
             ip -n {node} route add {v4}/32 dev {link}
             ip -n {node} route add {v6}/128 dev {link}
             ip -n {node} neigh replace {v4} lladdr {mac} dev {link} nud permanent
             ip -n {node} neigh replace {v6} lladdr {mac} dev {link} nud permanent"
        ));
        let index = self.ns.run(|| nix::net::if_::if_nametoindex(link.as_str()).unwrap());
        Pod { ns, v4, v6, ifindex: index, slot: u16::from(number), identity: 1000 + u32::from(number), host_link: link }
    }

    /// Rows of a pod: endpoint, ipcache, a table that allows all.
    pub fn program(&self, pod: &Pod) {
        self.datapath.put_table(pod.slot, &allow_all()).unwrap();
        for a in pod.addresses() {
            let ip =
                IpEntry { identity: pod.identity, peer: pod.identity, tunnel: None, is_node: false, direct: false };
            self.datapath.upsert_ip(a.into(), ip).unwrap();
            self.datapath.upsert_endpoint(a, pod.entry()).unwrap();
        }
    }
}

impl Node {
    /// The process dies and another one takes over: everything but pins is gone.
    pub fn restart(&mut self) {
        let config = self.config.clone();
        self.datapath = self.ns.run(move || Loader::open(config)).unwrap_or_else(|e| panic!("{e}"));
    }

    /// As [`Node::restart`], by a process of another version.
    pub fn upgrade(&mut self, testing: Testing) {
        let config = self.config.clone();
        let opened = self.ns.run(move || Loader::open_with(config, &testing));
        self.datapath = opened.unwrap_or_else(|e| panic!("{e}"));
    }

    /// Drops that were reported so far, as (reason, rule, source, destination).
    pub fn drops(&self) -> Vec<DropEvent> {
        let mut reader = self.datapath.events().unwrap();
        let mut events = Vec::new();
        reader.read(100_000, &mut events);
        events.into_iter().filter_map(|e| if let Event::Drop(d) = e { Some(d) } else { None }).collect()
    }
}

pub fn allow_all() -> PolicyTable {
    let allow = PolicyDefault { allow: true, audit: false, rule: 0 };
    PolicyTable { ingress_default: allow, egress_default: allow, entries: Vec::new() }
}

pub fn deny_ingress() -> PolicyTable {
    PolicyTable { ingress_default: PolicyDefault { allow: false, audit: false, rule: 77 }, ..allow_all() }
}

pub fn deny_egress() -> PolicyTable {
    PolicyTable { egress_default: PolicyDefault { allow: false, audit: false, rule: 78 }, ..allow_all() }
}

pub fn rule(
    direction: Direction,
    peer: u32,
    protocol: u8,
    port: u16,
    allow: bool,
    rule: u32,
) -> (PolicyKey, PolicyValue) {
    let port_bits = if port == 0 { 0 } else { 16 };
    (
        PolicyKey { direction, peer, protocol, port, port_bits },
        PolicyValue { allow, audit: false, rule, proxy_port: 0, auth: 0 },
    )
}

/// Keeps this thread where it is: some maps are of one CPU.
pub fn stay_on_one_cpu() {
    use nix::{
        sched::{CpuSet, sched_getcpu, sched_setaffinity},
        unistd::Pid,
    };
    let mut here = CpuSet::new();
    here.set(sched_getcpu().unwrap()).unwrap();
    sched_setaffinity(Pid::from_raw(0), &here).unwrap();
}

/// Waits until the condition holds.
pub fn wait_for(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < end, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
