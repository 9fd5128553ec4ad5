//! From the agent's facts to a judgement: what is well, what is not, and the line that mends it.

use axoneme_flow::admin::{MapUsage, OverrideView, PoolUsage, Status};
use serde::Serialize;

/// One part of the node's health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub state: State,
    /// In numbers, where it is well; what is wrong, where it is not.
    pub detail: String,
    /// The line that mends it; empty where it is well or mends itself.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mend: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Ok,
    /// Not there yet, and expected to come.
    Waiting,
    /// Works, with something that needs attention.
    Warning,
    Failed,
}

const NAMESPACE: &str = "axoneme-system";
/// Share of a pool from which on it is nearly empty, in percent.
const POOL_ATTENTION: u64 = 90;
/// Share of a map from which on it fills up, in percent.
const MAP_ATTENTION: u64 = 70;

/// All checks, in the order in which they should be looked at: each needs those before it. The name of a part may come
/// more than once.
#[must_use]
pub fn checks(status: &Status) -> Vec<Check> {
    let mut out = agent(status);
    out.push(rows(status));
    out.extend(datapath(status));
    out.extend(settings(status));
    out.extend(maps(status));
    out.extend(addresses(status));
    out.extend(endpoints(status));
    out.extend(health(status));
    out
}

/// Whether other nodes are reached. That another node is down is no fault of this one.
fn health(status: &Status) -> Vec<Check> {
    const NAME: &str = "node health";
    let Some(h) = &status.health else { return Vec::new() };
    let counted = format!("{} of {} nodes reached", h.reachable, h.nodes);
    let mut out = match &*h.datapath {
        "refuted" => vec![check(NAME, State::Failed, h.why.clone(), mend(&h.why))],
        _ if h.reachable < h.nodes && h.unreachable.is_empty() => {
            vec![check(NAME, State::Waiting, format!("{counted}, {} not probed yet", h.unknown), "")]
        }
        _ if h.unreachable.is_empty() => vec![check(NAME, State::Ok, counted.clone(), "")],
        _ => Vec::new(),
    };
    let more = if h.more_unreachable == 0 { String::new() } else { format!(", and {} more", h.more_unreachable) };
    if !h.unreachable.is_empty() {
        let lost = format!("{counted}; not reached: {}{more}", h.unreachable.join("; "));
        out.push(check(
            NAME,
            State::Warning,
            lost,
            "axoneme status --health shows every node; is it up, is it cut off?",
        ));
    }
    out
}

fn check(name: &'static str, state: State, detail: impl Into<String>, mend: impl Into<String>) -> Check {
    Check { name, state, detail: detail.into(), mend: mend.into() }
}

fn agent(status: &Status) -> Vec<Check> {
    let mut out = vec![check("agent", State::Ok, format!("{} runs on {}", status.version, status.node), "")];
    let known = |w: &str| Some(mend(w)).filter(|m| *m != log()).unwrap_or_default();
    out.extend(status.warnings.iter().map(|w| check("agent", State::Warning, w.clone(), known(w))));
    let lost: u64 = status.lost_flows.values().sum();
    if lost > 0 {
        let causes: Vec<_> = status.lost_flows.iter().filter(|l| *l.1 > 0).map(|(c, n)| format!("{c} {n}")).collect();
        let detail = format!("flow events that nobody saw: {}", causes.join(", "));
        out.push(check("agent", State::Warning, detail, "more room: kubectl edit axonemeconfig (flows)"));
    }
    out
}

/// Whether a reason for not being ready is about rows: the agent has no other word for it.
fn is_about_rows(reason: &str) -> bool {
    reason.starts_with("rows are not") || reason.starts_with("the operator has no configuration")
}

fn rows(status: &Status) -> Check {
    const NAME: &str = "row stream";
    let stream = &status.stream;
    let operator = format!("kubectl -n {NAMESPACE} get pods -o wide -l app.kubernetes.io/name=axoneme-operator");
    let why = if stream.reason.is_empty() { String::new() } else { format!(": {}", stream.reason) };
    if let Some(reason) = status.reasons.iter().find(|r| is_about_rows(r)) {
        if reason.starts_with("the operator has no configuration") {
            let config = "kubectl get axonemeconfig; kubectl describe axonemeconfig tells what is wrong with it";
            return check(NAME, State::Failed, reason.clone(), config);
        }
        let state = if stream.connected { State::Waiting } else { State::Failed };
        return check(NAME, state, reason.clone(), if stream.connected { String::new() } else { operator });
    }
    if !stream.connected {
        let detail = format!("no operator is connected{why}; revision {} stays in force", status.acknowledged);
        return check(NAME, State::Warning, detail, operator);
    }
    let from = if stream.operator.is_empty() { String::new() } else { format!("from {}, ", stream.operator) };
    let behind = status.revision.saturating_sub(status.acknowledged);
    let behind = if behind == 0 { String::new() } else { format!(" ({} acknowledged)", status.acknowledged) };
    check(NAME, State::Ok, format!("{from}revision {}{behind}", status.revision), "")
}

fn datapath(status: &Status) -> Vec<Check> {
    const NAME: &str = "datapath";
    let mut out: Vec<Check> = Vec::new();
    for reason in status.reasons.iter().filter(|r| !is_about_rows(r)) {
        let state = if reason.contains("not loaded yet") { State::Waiting } else { State::Failed };
        out.push(check(NAME, state, reason.clone(), if state == State::Failed { mend(reason) } else { String::new() }));
    }
    if out.is_empty() {
        let state = if status.mtu == 0 { State::Waiting } else { State::Ok };
        let detail = format!(
            "on {}, MTU {}; {} policy tables, {} addresses, {} service frontends, {} nodes",
            if status.devices.is_empty() { "no device yet".to_owned() } else { status.devices.join(", ") },
            status.mtu,
            status.tables,
            status.ips,
            status.frontends,
            status.nodes
        );
        out.push(check(NAME, state, detail, ""));
    }
    // a row that is not in force is traffic that is judged by an older one
    out.extend(status.problems.iter().map(|p| {
        let detail = format!("{} is not in force: {} ({} attempts)", p.row, p.message, p.attempts);
        check(NAME, State::Failed, detail, mend(&p.message))
    }));
    out
}

/// In what the node differs from the cluster.
fn settings(status: &Status) -> Vec<Check> {
    let said = |value: &str| if value.is_empty() { "not set".to_owned() } else { value.to_owned() };
    let one = |o: &OverrideView| {
        let (value, cluster) = (said(&o.value), said(&o.cluster));
        let detail = format!("{} is {value} by {}; in the cluster: {cluster}", o.setting, o.from);
        if o.applied {
            check("settings", State::Ok, detail, "")
        } else {
            check("settings", State::Waiting, format!("not in force yet: {detail}"), "")
        }
    };
    status.overrides.iter().map(one).collect()
}

/// Only those that fill up.
fn maps(status: &Status) -> Vec<Check> {
    let full = |m: &&MapUsage| m.used * 100 >= m.capacity * MAP_ATTENTION && m.capacity > 0;
    let one = |m: &MapUsage| {
        let detail = format!("{} is {}% full ({} of {})", m.map, m.used * 100 / m.capacity, m.used, m.capacity);
        check("maps", State::Warning, detail, format!("when it is full: {}", m.when_full))
    };
    status.maps.iter().filter(full).map(one).collect()
}

fn addresses(status: &Status) -> Vec<Check> {
    const NAME: &str = "addresses";
    if status.pools.is_empty() {
        return vec![check(NAME, State::Waiting, "no pool yet", "")];
    }
    let one = |p: &PoolUsage| {
        let taken = p.used + p.resting;
        let resting = if p.resting == 0 { String::new() } else { format!(", {} resting", p.resting) };
        let detail = format!("pool {} {}: {} of {} in use{resting}", p.pool, p.family, p.used, p.size);
        let state = if taken >= p.size {
            State::Failed
        } else if taken * 100 >= p.size * POOL_ATTENTION {
            State::Warning
        } else {
            State::Ok
        };
        let mend = if state == State::Ok {
            String::new()
        } else {
            "larger blocks or more CIDRs for new nodes: kubectl edit axonemeconfig (ipam), or the CiliumPodIPPool"
                .into()
        };
        check(NAME, state, detail, mend)
    };
    status.pools.iter().map(one).collect()
}

fn endpoints(status: &Status) -> Vec<Check> {
    const NAME: &str = "endpoints";
    let ready = status.endpoints.iter().filter(|e| e.ready).count();
    let all = status.endpoints.len();
    let state = if ready == all { State::Ok } else { State::Waiting };
    let limited = status.endpoints.iter().filter(|e| e.bandwidth.is_some()).count();
    let limited = if limited == 0 { String::new() } else { format!(", {limited} with limits of their traffic") };
    let mut out = vec![check(NAME, state, format!("{ready} of {all} ready{limited}"), "")];
    for e in &status.endpoints {
        if let Some(fault) = &e.fault {
            let detail = format!("{}/{} is fenced: {fault}", e.namespace, e.name);
            let again =
                format!("kubectl -n {} delete pod {} starts it anew, if the cause is gone", e.namespace, e.name);
            out.push(check(NAME, State::Failed, detail, Some(mend(fault)).filter(|m| *m != log()).unwrap_or(again)));
        }
    }
    out.extend(status.waiting.iter().map(|w| check(NAME, State::Waiting, format!("a pod waits: {w}"), "")));
    out
}

fn log() -> String {
    format!("the agent's log tells more: kubectl -n {NAMESPACE} logs -l app.kubernetes.io/name=axoneme-agent --prefix")
}

/// What mends a trouble that the kernel or the agent put into words.
fn mend(trouble: &str) -> String {
    let text = trouble.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|w| text.contains(w));
    if has(&["bpffs", "bpf file system", "/sys/fs/bpf"]) {
        "mount -t bpf bpf /sys/fs/bpf".into()
    } else if has(&["cgroup v1", "cgroup2", "cgroup v2"]) {
        "boot with systemd.unified_cgroup_hierarchy=1, or: mount -t cgroup2 none /sys/fs/cgroup/unified".into()
    } else if has(&["operation not permitted", "eperm", "capabilit"]) {
        format!(
            "the agent needs the capabilities of deploy/base: kubectl -n {NAMESPACE} get daemonset axoneme-agent -o yaml"
        )
    } else if has(&["no space left", "enospc", "disk"]) {
        "df -h /run /var; free room there".into()
    } else if has(&["the map holds"]) {
        "fewer peers or ports in the policies of those pods; which table is how large: axoneme policy tables".into()
    } else if has(&["is full"]) {
        fewer(&text).into()
    } else if has(&["verifier", "did not load"]) {
        "uname -r; kernels from 6.1 on are supported".into()
    } else {
        log()
    }
}

/// What makes room in a map that the text names.
fn fewer(text: &str) -> &'static str {
    let names = |word: &str| text.contains(&format!("map {word}"));
    if names("services") || names("backends") {
        "see what there is: kubectl get services,endpointslices -A"
    } else if names("endpoints") || names("slots") {
        "let pods go elsewhere: kubectl cordon this node"
    } else if names("nodes") {
        "kubectl edit axonemeconfig: native routing needs no entry for each node"
    } else if names("ct") {
        "kubectl edit axonemeconfig: spec.conntrack.maxEntries"
    } else {
        "fewer CIDRs in policies: kubectl get cnp,ccnp,ciliumcidrgroups -A"
    }
}

#[cfg(test)]
mod tests {
    use axoneme_flow::admin::{EndpointStatus, Problem, Stream};

    use super::*;

    fn well() -> Status {
        Status {
            node: "n1".into(),
            version: "0.1.0".into(),
            ready: true,
            stream: Stream { connected: true, operator: "op-1".into(), ..Stream::default() },
            revision: 7,
            acknowledged: 7,
            devices: vec!["eth0".into()],
            mtu: 1450,
            pools: vec![PoolUsage { pool: "default".into(), family: "IPv4".into(), size: 256, used: 3, resting: 0 }],
            ..Status::default()
        }
    }

    /// State, detail and mend of the checks of a part that are not well.
    fn troubles(status: &Status) -> Vec<(&'static str, State, String)> {
        let all = checks(status).into_iter().filter(|c| c.state != State::Ok);
        all.map(|c| (c.name, c.state, if c.mend.is_empty() { c.detail } else { c.mend })).collect()
    }

    #[test]
    fn a_node_that_is_well_has_nothing_but_ok() {
        assert_eq!(troubles(&well()), []);
        let names: Vec<_> = checks(&well()).iter().map(|c| c.name).collect();
        assert_eq!(names, ["agent", "row stream", "datapath", "addresses", "endpoints"]);
    }

    #[test]
    fn a_lost_operator_is_a_warning_while_the_rows_stay_in_force() {
        let stream = Stream { connected: false, reason: "connection refused".into(), ..Stream::default() };
        let got = troubles(&Status { stream: stream.clone(), ..well() });
        assert_eq!((got.len(), got[0].0, got[0].1), (1, "row stream", State::Warning));
        let reasons = vec!["rows are not complete yet (Ip; no operator is connected)".to_owned()];
        let got = troubles(&Status { ready: false, stream, reasons, ..well() });
        assert_eq!((got[0].0, got[0].1), ("row stream", State::Failed));
        assert!(got[0].2.contains("kubectl -n axoneme-system get pods"), "{}", got[0].2);
    }

    #[test]
    fn troubles_of_the_machine_are_named_with_what_mends_them() {
        for (reason, mended) in [
            ("bpffs is not mounted at /sys/fs/bpf", "mount -t bpf"),
            ("load: Operation not permitted (os error 1)", "capabilities"),
            ("write /run/axoneme/state: No space left on device", "df -h"),
            ("map NODES is full (4096 entries): native routing has no such limit", "edit axonemeconfig"),
            ("map SERVICES4 is full (1024 entries): fewer Services", "get services"),
            ("map ENDPOINTS6 is full (8 entries): no pod can be added", "cordon"),
            ("map CT4 is full (1024 entries): raise it", "maxEntries"),
            ("map IPCACHE6 is full (8 entries): fewer CIDRs", "get cnp"),
            ("policy table needs 9 entries, the map holds 4", "policy tables"),
            ("program from_container did not load: too many instructions", "uname -r"),
            ("something new", "logs"),
        ] {
            let got = troubles(&Status { ready: false, reasons: vec![reason.to_owned()], ..well() });
            assert_eq!((got[0].0, got[0].1), ("datapath", State::Failed), "{reason}");
            assert!(got[0].2.contains(mended), "{reason}: {}", got[0].2);
        }
    }

    #[test]
    fn pools_tell_before_they_are_empty() {
        let pool =
            |used, resting| PoolUsage { pool: "default".into(), family: "IPv4".into(), size: 100, used, resting };
        for (used, resting, state) in [(89, 0, None), (80, 10, Some(State::Warning)), (60, 40, Some(State::Failed))] {
            let got = troubles(&Status { pools: vec![pool(used, resting)], ..well() });
            assert_eq!(got.first().map(|t| t.1), state, "{used}+{resting}");
        }
    }

    #[test]
    fn maps_tell_before_they_are_full() {
        let map = |used| MapUsage { map: "CT4".into(), used, capacity: 1000, when_full: "raise it".into() };
        for (used, state) in [(699, None), (700, Some(State::Warning)), (1000, Some(State::Warning))] {
            let got = troubles(&Status { maps: vec![map(used)], ..well() });
            assert_eq!(got.first().map(|t| t.1), state, "{used}");
        }
        let got = checks(&Status { maps: vec![map(705)], ..well() });
        let got = got.iter().find(|c| c.name == "maps").unwrap();
        assert_eq!(got.detail, "CT4 is 70% full (705 of 1000)");
        assert!(got.mend.contains("raise it"), "{}", got.mend);
    }

    #[test]
    fn fenced_pods_and_refused_rows_are_failures() {
        let endpoint = EndpointStatus {
            namespace: "shop".into(),
            name: "web-1".into(),
            fault: Some("its link is gone".into()),
            ..EndpointStatus::default()
        };
        let problem = Problem {
            row: "table 00ab".into(),
            message: "policy table needs 9 entries, the map holds 4".into(),
            attempts: 2,
        };
        let got = troubles(&Status { endpoints: vec![endpoint], problems: vec![problem], ..well() });
        let states: Vec<_> = got.iter().map(|t| (t.0, t.1)).collect();
        assert_eq!(states, [("datapath", State::Failed), ("endpoints", State::Waiting), ("endpoints", State::Failed)]);
        assert_eq!(got[2].2, "kubectl -n shop delete pod web-1 starts it anew, if the cause is gone");
    }
}
