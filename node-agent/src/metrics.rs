//! The agent's own figures for Prometheus: what its status says, and what the kernel counts.
//!
//! Where a figure of Cilium's agent means the same, it has that name and those labels, so that its dashboards and alerts go
//! on; what Cilium has no name for begins with `axoneme_`. The number of series depends on the reasons of drops, on the
//! pools and on the maps, never on pods or peers, and a series is there only while what it is of is there: each scrape is
//! written from one snapshot.
//!
//! | metric | labels |
//! |---|---|
//! | `cilium_version` | `version`, `arch`: 1 |
//! | `cilium_endpoint`, `cilium_endpoint_state` | -, `endpoint_state` (creating, ready, not-ready, disconnecting): pods |
//! | `cilium_policy`, `cilium_policy_max_revision` | policies in force here; revision of the rows that are in force |
//! | `cilium_policy_endpoint_enforcement_status` | `enforcement` (none, ingress, egress, both): pods |
//! | `cilium_identity`, `cilium_nodes_all_num` | identities and nodes that are known |
//! | `cilium_ip_addresses`, `cilium_ipam_capacity` | `family`: given to pods; that pools have |
//! | `cilium_bpf_map_pressure`, `cilium_bpf_map_capacity` | `map_name`: used part, from 0 to 1; entries. Maps that can become full |
//! | `cilium_drop_count_total`, `cilium_drop_bytes_total` | `reason` (Cilium's words), `direction` (INGRESS, EGRESS) |
//! | `axoneme_connections_total` | `direction`: that were allowed and recorded |
//! | `axoneme_flow_events_total`, `axoneme_flow_history_events`, `axoneme_flow_history_bytes` | told by the kernel; kept; packed |
//! | `axoneme_rows_revision`, `axoneme_operator_connected`, `axoneme_ready` | newest rows; 1 or 0 |
//! | `axoneme_rows_failing`, `axoneme_warnings` | not in force, with an error; what the node lacks |
//! | `axoneme_drift` | `kind` (address, endpoint, limit, frontend, table, guard, link, route): wanted, and not so in the kernel |
//! | `axoneme_cni_requests_total` | `command` (add, del), `outcome` (done, failed) |
//! | `cilium_process_resident_memory_bytes`, `cilium_process_cpu_seconds_total`, `cilium_process_open_fds` | of the agent |

#![expect(clippy::cast_precision_loss, reason = "OpenMetrics' numbers are floating point: exact up to 2⁵³")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axoneme_flow::{DropReason, Hub, admin::Status};
use axoneme_model::{
    Direction,
    rows::{PolicyKey, RowSet, TableRow},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    bpf::Current,
    engine::Counters,
    run::{Look, Mail},
};

/// Figures are taken so often.
const TAKE: Duration = Duration::from_secs(5);
/// Ticks of a second in procfs: the same on all architectures that this is built for.
const USER_HZ: f64 = 100.0;

/// A drop counter of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// Hubble's number.
    pub reason: DropReason,
    pub direction: Direction,
    pub packets: u64,
    pub bytes: u64,
}

/// What the kernel counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    pub drops: Vec<Dropped>,
    /// Towards pods, and from them.
    pub connections: [u64; 2],
}

/// What the rows say that status does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    pub count: u64,
    /// Table, as status names it, and whether it isolates ingress and egress.
    pub tables: BTreeMap<String, [bool; 2]>,
}

impl Policies {
    /// Of the rows that a node runs by.
    #[must_use]
    pub fn of(rows: &RowSet) -> Self {
        let all: BTreeSet<_> = rows.tables.values().flat_map(|t| t.policies.keys()).collect();
        let table = |t: &TableRow| {
            let entry = |direction| t.entries.keys().any(|k: &PolicyKey| k.direction == direction);
            let ingress = !t.ingress_default.allow || t.ingress_default.audit || entry(Direction::Ingress);
            let egress = !t.egress_default.allow || t.egress_default.audit || entry(Direction::Egress);
            (format!("{:016x}", t.id.0), [ingress, egress])
        };
        Self { count: all.len() as u64, tables: rows.tables.values().map(table).collect() }
    }
}

/// Of the process: resident bytes, seconds of processors, open files.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    pub resident_bytes: u64,
    pub cpu_seconds: f64,
    pub open_files: u64,
}

impl Process {
    /// As procfs says it; zeros where it does not (proc(5)).
    #[must_use]
    pub fn own() -> Self {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        let number = |word: Option<&str>| word.and_then(|w| w.parse::<u64>().ok()).unwrap_or_default();
        let (status, stat) = (read("status"), read("stat"));
        let resident = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
        // the name may have blanks; it ends with the last parenthesis, and fields are counted from there
        let mut times = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11);
        let busy = number(times.next()) + number(times.next());
        Self {
            resident_bytes: number(resident.and_then(|l| l.split_whitespace().next())) << 10,
            cpu_seconds: busy as f64 / USER_HZ,
            open_files: std::fs::read_dir("/proc/self/fd").map_or(0, |d| d.count() as u64),
        }
    }
}

/// Events of flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flows {
    pub seen: u64,
    pub held: u64,
    pub packed_bytes: u64,
}

/// All of it, as of one moment.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub status: Status,
    pub counters: Counters,
    /// What is not in force as it is wanted, by kind.
    pub drift: BTreeMap<&'static str, u64>,
    pub policies: Policies,
    pub kernel: Kernel,
    pub flows: Flows,
    pub process: Process,
}

/// Writes the newest facts for each scrape; nothing before there are any.
#[derive(Clone, Debug, Default)]
pub struct Agent(Arc<Mutex<Option<Facts>>>);

impl Agent {
    /// From now on these are told.
    pub fn set(&self, facts: Facts) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(facts);
    }
}

/// Takes the facts.
#[derive(Debug)]
pub struct Follower {
    pub agent: Agent,
    pub engine: mpsc::Sender<Mail>,
    pub datapath: Current,
    pub hub: Arc<Hub>,
}

impl Follower {
    /// Until the engine is gone.
    pub async fn run(self) {
        while let Some((status, policies)) = ask(&self.engine).await {
            let kernel = kernel(&self.datapath);
            let flows = self.hub.read(|view| Flows {
                seen: view.history.head(),
                held: view.history.head() - view.history.oldest(),
                packed_bytes: view.history.packed().0 as u64,
            });
            let crate::status::NodeStatus { status, counters, drift, .. } = status;
            self.agent.set(Facts { status, counters, drift, policies, kernel, flows, process: Process::own() });
            tokio::time::sleep(TAKE).await;
        }
    }
}

async fn ask(engine: &mpsc::Sender<Mail>) -> Option<(crate::status::NodeStatus, Policies)> {
    let (reply, status) = oneshot::channel();
    engine.send(Mail::Status(reply)).await.ok()?;
    let (reply, policies) = oneshot::channel();
    engine.send(Mail::Rows(Look(Box::new(move |rows| drop(reply.send(Policies::of(rows))))))).await.ok()?;
    Some((status.await.ok()?, policies.await.ok()?))
}

fn kernel(datapath: &Current) -> Kernel {
    let Some(datapath) = datapath.borrow().clone() else { return Kernel::default() };
    let metrics = datapath.metrics().inspect_err(|error| tracing::warn!(%error, "counters are not read"));
    let metrics = metrics.unwrap_or_default();
    let drops = metrics.drops.into_iter().map(|(reason, direction, m)| Dropped {
        reason: DropReason(reason as u8),
        direction: match direction {
            axoneme_kernel::datapath::Direction::Ingress => Direction::Ingress,
            axoneme_kernel::datapath::Direction::Egress => Direction::Egress,
        },
        packets: m.packets,
        bytes: m.bytes,
    });
    Kernel { drops: drops.collect(), connections: [metrics.connections_in, metrics.connections_out] }
}

impl Collector for Agent {
    fn encode(&self, encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let facts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        facts.as_ref().map_or(Ok(()), |facts| write(facts, &mut Page(encoder)))
    }
}

/// One label of a series.
type Label<'a> = (&'static str, &'a str);

/// What a scrape is written to.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let gauge = ConstGauge::new(value);
        gauge.encode(self.0.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }

    /// `name` without `_total`.
    fn counter(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let counter = ConstCounter::new(value);
        counter.encode(self.0.encode_descriptor(name, help, None, MetricType::Counter)?)
    }

    fn gauges<'l, const N: usize>(
        &mut self,
        (name, help): (&str, &str),
        series: impl IntoIterator<Item = ([Label<'l>; N], f64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in series {
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn counters<'l, const N: usize>(
        &mut self,
        (name, help): (&str, &str),
        series: impl IntoIterator<Item = ([Label<'l>; N], u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in series {
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn write(facts: &Facts, page: &mut Page<'_>) -> fmt::Result {
    let s = &facts.status;
    let version = [("version", s.version.as_str()), ("arch", std::env::consts::ARCH)];
    page.gauges(("cilium_version", "Version of the agent"), [(version, 1.0)])?;
    endpoints(facts, page)?;
    page.gauge("cilium_policy", "Policies that are in force on this node", facts.policies.count)?;
    page.gauge("cilium_policy_max_revision", "Revision of the rows that are in force", s.acknowledged)?;
    page.gauge("cilium_identity", "Identities that are known", s.identities)?;
    page.gauge("cilium_nodes_all_num", "Nodes that are known", s.nodes)?;
    addresses(s, page)?;
    maps(s, page)?;
    drops(&facts.kernel, page)?;
    flows(facts.flows, page)?;
    page.gauge("axoneme_rows_revision", "Revision of the newest rows", s.revision)?;
    page.gauge("axoneme_operator_connected", "Whether an operator sends rows", s.stream.connected.into())?;
    page.gauge("axoneme_ready", "Whether pods can be added", s.ready.into())?;
    page.gauge("axoneme_rows_failing", "Rows that are not in force, with an error", s.problems.len() as u64)?;
    page.gauge("axoneme_warnings", "What the node lacks and does without", s.warnings.len() as u64)?;
    let drift = facts.drift.iter().map(|(kind, n)| ([("kind", *kind)], *n as f64));
    page.gauges(("axoneme_drift", "What is wanted and is not so in the kernel"), drift)?;
    requests(&facts.counters, page)?;
    let process = facts.process;
    page.gauge("cilium_process_resident_memory_bytes", "Resident memory of the agent", process.resident_bytes)?;
    page.counter("cilium_process_cpu_seconds", "Seconds of processors that the agent took", process.cpu_seconds)?;
    page.gauge("cilium_process_open_fds", "Files that the agent has open", process.open_files)
}

fn endpoints(facts: &Facts, page: &mut Page<'_>) -> fmt::Result {
    let pods = &facts.status.endpoints;
    page.gauge("cilium_endpoint", "Pods of this node", pods.len() as u64)?;
    let states = ["creating", "ready", "not-ready", "disconnecting"].map(|state| {
        let is = |phase: &str, ready: bool| match phase {
            "creating" => "creating",
            "removing" => "disconnecting",
            _ if ready => "ready",
            _ => "not-ready",
        };
        ([("endpoint_state", state)], pods.iter().filter(|p| is(&p.phase, p.ready) == state).count() as f64)
    });
    page.gauges(("cilium_endpoint_state", "Pods of this node by how far they are"), states)?;
    let isolated = |table: &String| facts.policies.tables.get(table).copied().unwrap_or_default();
    let kinds = [("none", [false; 2]), ("ingress", [true, false]), ("egress", [false, true]), ("both", [true; 2])];
    let enforced = kinds
        .map(|(name, of)| ([("enforcement", name)], pods.iter().filter(|p| isolated(&p.table) == of).count() as f64));
    page.gauges(("cilium_policy_endpoint_enforcement_status", "Pods by what policy decides of them"), enforced)
}

fn addresses(s: &Status, page: &mut Page<'_>) -> fmt::Result {
    let of = |family: &str, number: fn(&axoneme_flow::admin::PoolUsage) -> u64| {
        s.pools.iter().filter(|p| p.family == family).map(number).sum::<u64>() as f64
    };
    let families: BTreeSet<&str> = s.pools.iter().map(|p| &*p.family).collect();
    let used = families.iter().map(|f| ([("family", *f)], of(f, |p| p.used)));
    page.gauges(("cilium_ip_addresses", "Addresses that pods have"), used)?;
    let size = families.iter().map(|f| ([("family", *f)], of(f, |p| p.size)));
    page.gauges(("cilium_ipam_capacity", "Addresses that pods may have"), size)
}

fn maps(s: &Status, page: &mut Page<'_>) -> fmt::Result {
    let part = |used: u64, of: u64| used as f64 / of.max(1) as f64;
    let pressure = s.maps.iter().map(|m| ([("map_name", &*m.map)], part(m.used, m.capacity)));
    page.gauges(("cilium_bpf_map_pressure", "How full maps are that can become full"), pressure)?;
    let capacity = s.maps.iter().map(|m| ([("map_name", &*m.map)], m.capacity as f64));
    page.gauges(("cilium_bpf_map_capacity", "Entries that they have room for"), capacity)
}

fn drops(kernel: &Kernel, page: &mut Page<'_>) -> fmt::Result {
    let series = |of: fn(&Dropped) -> u64| {
        kernel.drops.iter().map(move |d| ([("reason", words(d.reason)), ("direction", upper(d.direction))], of(d)))
    };
    page.counters(("cilium_drop_count", "Packets that were dropped"), series(|d| d.packets))?;
    page.counters(("cilium_drop_bytes", "Bytes of packets that were dropped"), series(|d| d.bytes))?;
    let [incoming, outgoing] = kernel.connections;
    let directions = [(Direction::Ingress, incoming), (Direction::Egress, outgoing)];
    let series = directions.map(|(direction, n)| ([("direction", upper(direction))], n));
    page.counters(("axoneme_connections", "Connections that were allowed"), series)
}

fn flows(flows: Flows, page: &mut Page<'_>) -> fmt::Result {
    page.counter("axoneme_flow_events", "Events of flows that the kernel has told", flows.seen as f64)?;
    page.gauge("axoneme_flow_history_events", "Events of flows that can be asked for", flows.held)?;
    page.gauge("axoneme_flow_history_bytes", "Memory of those that are packed", flows.packed_bytes)
}

fn requests(c: &Counters, page: &mut Page<'_>) -> fmt::Result {
    let of = |command: &'static str, outcome: &'static str| [("command", command), ("outcome", outcome)];
    let series = [
        (of("add", "done"), c.adds.saturating_sub(c.adds_failed)),
        (of("add", "failed"), c.adds_failed),
        (of("del", "done"), c.dels),
    ];
    page.counters(("axoneme_cni_requests", "Pods that the runtime asked to add and to remove"), series)
}

const fn upper(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "INGRESS",
        Direction::Egress => "EGRESS",
    }
}

/// What `reason` says in Cilium's `cilium_drop_count_total` (`pkg/monitor/api/drop.go`), where the programs drop for it.
fn words(reason: DropReason) -> &'static str {
    match reason.0 {
        130 => "Invalid source mac",
        132 => "Invalid source ip",
        134 => "Invalid packet",
        135 => "CT: Truncated or invalid header",
        141 => "Error writing to packet",
        147 => "Error retrieving tunnel key",
        152 => "No matching local container found",
        155 => "CT: Map insertion failed",
        156 => "Invalid IPv6 extension header",
        158 => "Service backend not found",
        160 => "No tunnel/encapsulation endpoint (datapath BUG!)",
        165 => "No configuration available to perform policy decision",
        167 => "No mapping for NAT masquerade",
        168 => "Unsupported protocol for NAT masquerade",
        175 => "First logical datagram fragment not found",
        176 => "Forbidden ICMPv6 message",
        181 => "Policy denied by denylist",
        189 => "Authentication required",
        _ => reason.describe(),
    }
}

#[cfg(test)]
mod tests {
    use axoneme_flow::admin::{EndpointStatus, MapUsage, PoolUsage};
    use prometheus_client::{encoding::text, registry::Registry};

    use super::*;

    fn page(facts: Option<Facts>) -> String {
        let agent = Agent::default();
        let mut registry = Registry::default();
        registry.register_collector(Box::new(agent.clone()));
        if let Some(facts) = facts {
            agent.set(facts);
        }
        let mut out = String::new();
        text::encode(&mut out, &registry).unwrap();
        out
    }

    fn facts() -> Facts {
        let pod = |n: u32, table: &str, phase: &str, ready| EndpointStatus {
            name: format!("web-{n}"),
            table: table.to_owned(),
            phase: phase.to_owned(),
            ready,
            ..EndpointStatus::default()
        };
        let pool =
            |family: &str, used| PoolUsage { family: family.to_owned(), size: 254, used, ..PoolUsage::default() };
        let status = Status {
            version: "1.2.3".to_owned(),
            ready: true,
            revision: 12,
            acknowledged: 11,
            identities: 7,
            nodes: 3,
            endpoints: vec![
                pod(1, "00000000000000aa", "live", true),
                pod(2, "00000000000000bb", "live", true),
                pod(3, "00000000000000aa", "live", false),
                pod(4, "00000000000000cc", "creating", false),
            ],
            pools: vec![pool("ipv4", 3), pool("ipv4", 1), pool("ipv6", 4)],
            maps: vec![MapUsage { map: "CT4".to_owned(), used: 512, capacity: 2048, ..MapUsage::default() }],
            ..Status::default()
        };
        let drop = |reason, direction, packets| Dropped {
            reason: DropReason(reason),
            direction,
            packets,
            bytes: packets * 74,
        };
        Facts {
            status,
            drift: [("address", 0), ("route", 2)].into(),
            counters: Counters { adds: 5, adds_failed: 1, dels: 1, ..Counters::default() },
            policies: Policies {
                count: 2,
                tables: [("00000000000000aa", [true, false]), ("00000000000000bb", [true, true])]
                    .map(|(id, of)| (id.to_owned(), of))
                    .into(),
            },
            kernel: Kernel {
                drops: vec![drop(133, Direction::Ingress, 40), drop(181, Direction::Egress, 2)],
                connections: [100, 50],
            },
            flows: Flows { seen: 1000, held: 900, packed_bytes: 5000 },
            process: Process { resident_bytes: 1 << 20, cpu_seconds: 1.5, open_files: 20 },
        }
    }

    #[test]
    fn what_status_and_kernel_say_has_the_peers_names() {
        let text = page(Some(facts()));
        for line in [
            "cilium_version{version=\"1.2.3\",arch=",
            "cilium_endpoint 4\n",
            "cilium_endpoint_state{endpoint_state=\"ready\"} 2",
            "cilium_endpoint_state{endpoint_state=\"not-ready\"} 1",
            "cilium_endpoint_state{endpoint_state=\"creating\"} 1",
            "cilium_endpoint_state{endpoint_state=\"disconnecting\"} 0",
            "cilium_policy 2\n",
            "cilium_policy_max_revision 11\n",
            "cilium_policy_endpoint_enforcement_status{enforcement=\"none\"} 1",
            "cilium_policy_endpoint_enforcement_status{enforcement=\"ingress\"} 2",
            "cilium_policy_endpoint_enforcement_status{enforcement=\"both\"} 1",
            "cilium_ip_addresses{family=\"ipv4\"} 4",
            "cilium_ipam_capacity{family=\"ipv4\"} 508",
            "cilium_bpf_map_pressure{map_name=\"CT4\"} 0.25",
            "cilium_drop_count_total{reason=\"Policy denied\",direction=\"INGRESS\"} 40",
            "cilium_drop_bytes_total{reason=\"Policy denied by denylist\",direction=\"EGRESS\"} 148",
            "axoneme_connections_total{direction=\"INGRESS\"} 100",
            "axoneme_flow_events_total 1000",
            "axoneme_cni_requests_total{command=\"add\",outcome=\"done\"} 4",
            "axoneme_ready 1\n",
            "axoneme_drift{kind=\"address\"} 0",
            "axoneme_drift{kind=\"route\"} 2",
            "cilium_process_cpu_seconds_total 1.5",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"), "{text}");
        for metric in text.lines().filter_map(|l| l.strip_prefix("# TYPE ")) {
            let name = metric.split(' ').next().unwrap();
            assert!(include_str!("metrics.rs").contains(&format!("`{name}")), "{name} is not in the table at the top");
        }
    }

    #[test]
    fn series_do_not_grow_with_pods_and_go_with_what_they_are_of() {
        let (mut many, mut fewer) = (facts(), facts());
        many.status.endpoints = (0..5000).map(|_| facts().status.endpoints.remove(0)).collect();
        let series = |text: &str| text.lines().filter(|l| !l.starts_with('#')).count();
        let all = page(Some(facts()));
        assert_eq!(series(&page(Some(many))), series(&all));
        fewer.kernel.drops.clear();
        fewer.status.maps.clear();
        assert_eq!(series(&page(Some(fewer))), series(&all) - 2 * 2 - 2);
        assert_eq!(page(None), "# EOF\n", "nothing before there is anything");
    }

    #[test]
    fn the_process_knows_itself() {
        let own = Process::own();
        assert!(own.resident_bytes > 1 << 20 && own.open_files > 2, "{own:?}");
    }
}
