//! What telling flows costs packets, and what a flow costs on its way from the kernel to where it can be asked for.
//!
//! - `cost`: round trips and connections between two pods of a node that tells flows, with all that an agent does with
//!   them on the other core (read, decode, keep, pack); floor: the same node that tells none; peer: the same, with
//!   softflowd on the server's link. Method as `datapath_bench`.
//! - `storm`: connections that are new, as fast as one core makes them but no faster than 500,000 a second; what is lost
//!   between the programs and the history is generated less stored.
//!
//! One JSON object a line, as `datapath_bench`. Needs root. `flow_cost --softflowd PATH [--rounds N] [--milliseconds N]
//! [--seconds N] [cost] [storm]`; `softflowctl` is beside softflowd.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_precision_loss,
    clippy::too_many_lines,
    reason = "a bench stops at the first failure"
)]

#[path = "../tests/rig/mod.rs"]
mod rig;

mod pairs;

use std::{
    any::Any,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use axoneme_flow::{Archivist, ClockOffset, Feed, Found, Hub, PAST_BYTES, Ring, Time};
use axoneme_kernel::{
    bpf::{CONTEXT_WORDS, Event, EventReader, test_run},
    datapath::{Datapath, Direction},
};
use axoneme_model::{
    Identity, LabelKey, Labels, PeerClass, cidr,
    rows::{IdentityRow, IpRow},
};
use pairs::{Kind, Line, Setup, pin, race, table, tcp_packet, word};
use rig::{Namespace, Node, Options, Pod, wait_for};

/// Flows a second at which none may be lost.
const RATE: u64 = 500_000;
/// Of each setup; where they lie in memory matters by some percent.
const INSTANCES: usize = 4;
/// As the agent has them.
const BATCH: usize = 2048;
const MANY: usize = 512;
const POLL: Duration = Duration::from_millis(16);
const BUSY: Duration = Duration::from_millis(2);
const RING: usize = 16_384;

/// All that an agent does with what the programs tell, on threads of the other core.
struct Agent {
    hub: Arc<Hub>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<f64>>,
}

impl Agent {
    /// `labelled`: each flow is given its names at once, as if somebody asked for all.
    fn start(node: &Node, pods: &[&Pod], labelled: bool) -> Self {
        let reader = node.datapath.events().unwrap();
        let (hub, mut feed) = Hub::new("n1", "bench", 1, RING);
        feed.set_clock(ClockOffset(1_795_269_600_000_000_000));
        hub.remember(PAST_BYTES);
        for pod in pods {
            name(&hub, pod);
        }
        let archivist = Archivist::new(&hub);
        std::thread::spawn(move || {
            pin(1);
            archivist.run();
        });
        let stop = Arc::new(AtomicBool::new(false));
        let (ends, kept) = (stop.clone(), hub.clone());
        let thread = std::thread::spawn(move || {
            pin(1);
            let began = on_core();
            read(reader, &mut feed, &kept, labelled, &ends);
            on_core().saturating_sub(began).as_secs_f64()
        });
        Self { hub, stop, thread: Some(thread) }
    }

    /// Once nothing more comes: how many flows there were, and seconds of a processor that they took.
    fn finish(mut self) -> (u64, f64) {
        std::thread::sleep(4 * POLL);
        self.stop.store(true, Ordering::Relaxed);
        let core = self.thread.take().unwrap().join().unwrap();
        (self.hub.seen(), core)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn name(hub: &Hub, pod: &Pod) {
    let (identity, peer) = (Identity(pod.identity), PeerClass(pod.identity));
    hub.names(|names| {
        let labels = Labels::new().with(LabelKey::k8s("app"), "web").with(LabelKey::k8s("tier"), "front");
        names.upsert_identity(&IdentityRow { id: identity, labels });
        for address in pod.addresses() {
            let row = IpRow {
                prefix: cidr::host(address),
                identity,
                peer,
                local_identity: identity,
                local_peer: peer,
                tunnel: None,
                node: "n1".into(),
                pod: format!("shop/web-7d4b9c6f5d-{}", pod.slot).into(),
            };
            names.upsert_ip(&row, Time(0));
        }
    });
}

fn read(mut reader: EventReader, feed: &mut Feed, hub: &Hub, labelled: bool, stop: &AtomicBool) {
    let mut events = Vec::with_capacity(2 * BATCH);
    let mut named = hub.seen();
    while !stop.load(Ordering::Relaxed) {
        events.clear();
        let count = reader.read(BATCH, &mut events);
        for event in &events {
            let ring = if matches!(event, Event::Drop(_)) { Ring::Drops } else { Ring::Flows };
            feed.take(ring, event.bytes());
        }
        if labelled {
            hub.read(|view| {
                for n in named..hub.seen() {
                    if let Found::Record(record) = view.history.get(n) {
                        std::hint::black_box(view.flow(n, &record));
                    }
                }
            });
            named = hub.seen();
        }
        match count {
            BATCH.. => {}
            MANY.. => std::thread::sleep(BUSY),
            _ => std::thread::sleep(POLL),
        }
    }
}

/// How long this thread has run so far (proc(5), `schedstat`: the first number, in nanoseconds).
fn on_core() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("a kernel with CONFIG_SCHED_INFO");
    Duration::from_nanos(text.split(' ').next().and_then(|n| n.parse().ok()).expect("nanoseconds"))
}

/// Softflowd on a link of a namespace, on the other core; ends when dropped.
struct Softflowd {
    child: Child,
    control: PathBuf,
    program: PathBuf,
}

impl Softflowd {
    fn start(program: &Path, ns: &Namespace, link: &str) -> Self {
        // where Debian's locks itself in; as a package it would have it made at boot
        std::fs::create_dir_all("/run/softflowd/chroot").expect("make softflowd's directory");
        let dir = std::env::temp_dir();
        let (control, pid) = (dir.join(format!("{}-{link}.ctl", ns.name)), dir.join(format!("{}-{link}.pid", ns.name)));
        let child = Command::new("ip")
            .args(["netns", "exec", &ns.name, "taskset", "-c", "1"])
            .arg(program)
            // in the foreground, with room for all flows of the bench, to nobody: what is exported is sent and lost
            .args(["-d", "-i", link, "-n", "127.0.0.1:9995", "-v", "9", "-m", "2000000", "-c"])
            .arg(&control)
            .arg("-p")
            .arg(pid)
            .spawn()
            .expect("start softflowd");
        let started = Self { child, control, program: program.to_owned() };
        wait_for("softflowd answers", Duration::from_secs(10), || started.ask("statistics").is_some());
        started
    }

    fn ask(&self, what: &str) -> Option<String> {
        let program = self.program.with_file_name("softflowctl");
        let said = Command::new(program).arg("-c").arg(&self.control).arg(what).output().ok()?;
        said.status.success().then(|| String::from_utf8_lossy(&said.stdout).into_owned())
    }
}

impl Drop for Softflowd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn node(silent: bool, conntrack_entries: Option<u32>) -> Node {
    let ns = Namespace::new(if silent { "off" } else { "on" });
    Node::with(ns, 1, &Options { services: true, silent, conntrack_entries, ..Options::default() })
}

/// Two pods of a node with policy, for which flows are told or not.
fn pair(silent: bool) -> (Node, [Pod; 2], Setup) {
    let node = node(silent, None);
    let (a, b) = (node.pod(1), node.pod(2));
    node.datapath.put_table(a.slot, &table(Direction::Egress, b.identity)).unwrap();
    node.datapath.put_table(b.slot, &table(Direction::Ingress, a.identity)).unwrap();
    let setup = Setup::new(&a.ns, &b.ns, b.addresses());
    (node, [a, b], setup)
}

fn cost(softflowd: &Path, rounds: usize, time: Duration) {
    let mut keep: Vec<Box<dyn Any>> = Vec::new();
    let (mut on, mut off, mut peer) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..INSTANCES {
        let (node, pods, setup) = pair(false);
        let agent = Agent::start(&node, &[&pods[0], &pods[1]], false);
        on.push(setup);
        keep.push(Box::new((node, pods, agent)));
        let (node, pods, setup) = pair(true);
        off.push(setup);
        keep.push(Box::new((node, pods)));
        let (node, pods, setup) = pair(true);
        let watched = Softflowd::start(softflowd, &node.ns, &pods[1].host_link);
        peer.push(setup);
        keep.push(Box::new((watched, node, pods)));
    }
    for (name, kind) in [("flow_cost_on_round_trips", Kind::Rr), ("flow_cost_on_connections", Kind::Crr)] {
        let line = Line { name, kind, family: 0, floor_name: "no flows told", peer_name: "softflowd on the link" };
        race(&line, &on, &off, &peer, rounds, time);
    }
}

/// The n-th connection that is new: all ports of the client, many of the server.
fn renumber(frame: &mut [u8], n: u64) {
    frame[34..36].copy_from_slice(&(n as u16).to_be_bytes());
    frame[36..38].copy_from_slice(&(8000 + (n >> 16) as u16).to_be_bytes());
}

/// Connections by the kernel's test run of the very program, whose events go the way that all events go.
fn storm(seconds: u64) {
    let node = node(false, Some((1 << 20) + (1 << 18)));
    let pods = [node.pod(1), node.pod(2)];
    let agent = Agent::start(&node, &[&pods[0], &pods[1]], true);
    let (made, took) = std::thread::scope(|s| s.spawn(|| connections(&node, &pods[0], seconds)).join().unwrap());
    let (stored, core) = agent.finish();
    let counted = node.datapath.metrics().unwrap();
    eprintln!("{made} made, {stored} stored, {} counted as lost", counted.lost_flows);
    assert_eq!(made, stored + counted.lost_flows, "every flow is stored or counted as lost");
    let lost = (made - stored) as f64 * 1e6 / made as f64;
    print("flow_kernel_rate", "flows/s", made as f64 / took);
    print("flow_kernel_lost", "of 1M", lost);
    print("flow_kernel_to_queryable", "flows/s", stored as f64 / core);
}

fn connections(node: &Node, pod: &Pod, seconds: u64) -> (u64, f64) {
    node.ns.enter();
    pin(0);
    let program = node.datapath.program("from_container").unwrap();
    let mut context = [0u32; CONTEXT_WORDS];
    context[10] = pod.ifindex;
    let mut frame = tcp_packet(0, 0, 2);
    let (began, mut made) = (Instant::now(), 0u64);
    while began.elapsed() < Duration::from_secs(seconds) {
        let due = began.elapsed().as_micros() as u64 * RATE / 1_000_000;
        // a clock that is asked for each packet would be a tenth of it
        for n in made..due.min(made + 64) {
            renumber(&mut frame, n);
            test_run(program.as_fd(), &frame, Some(&context), 1).unwrap();
        }
        made = due.min(made + 64);
    }
    (made, began.elapsed().as_secs_f64())
}

fn print(name: &str, unit: &str, ours: f64) {
    println!(
        "{{\"name\":\"{name}\",\"unit\":\"{unit}\",\"ours\":{ours:.3},\"floor\":null,\"floor_name\":null,\"peer\":null,\
         \"peer_name\":null,\"ratio_to_floor\":null,\"ratio_to_peer\":null,\"spread\":null}}"
    );
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str, default: u64| word(name).and_then(|w| w.parse().ok()).unwrap_or(default);
    let softflowd = PathBuf::from(word("--softflowd").expect("--softflowd PATH"));
    let named: Vec<&str> = words.iter().map(String::as_str).filter(|w| matches!(*w, "cost" | "storm")).collect();
    let wanted = |what: &str| named.is_empty() || named.contains(&what);
    if wanted("cost") {
        let rounds = usize::try_from(number("--rounds", 90)).unwrap();
        cost(&softflowd, rounds, Duration::from_millis(number("--milliseconds", 150)));
    }
    if wanted("storm") {
        storm(number("--seconds", 3));
    }
}
