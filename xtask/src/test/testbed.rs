//! The local cluster's own promises, with the reference network plugins: what other tests stand on.

use std::fs;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cluster::{Cluster, Cni, Family, Options};
use crate::progress::wait;
use crate::report::Case;

/// All cases.
pub(crate) const CASES: &[Case] = &[
    ("testbed::pods_of_two_nodes_reach_each_other_in_both_families", pods_reach_each_other),
    ("testbed::dns_answers_by_its_service_address", dns_answers),
    ("testbed::interrupted_up_is_removed_completely", interrupted_up_is_removed),
    ("testbed::two_clusters_run_side_by_side", two_side_by_side),
];

fn name(what: &str) -> String {
    format!("test-{what}-{}", std::process::id())
}

/// Runs a test on a cluster, then removes the cluster and holds it to leaving nothing, whatever the test's outcome.
fn with_cluster(options: &Options, test: impl FnOnce(&Cluster) -> Result<()>) -> Result<()> {
    // One that does not come up is no load for what runs beside, either.
    let cluster = Cluster::up(options).inspect_err(|_| drop(Cluster::open(&options.name).and_then(Cluster::down)))?;
    let layout = cluster.layout();
    let tested = test(&cluster);
    cluster.down()?;
    tested?;
    nothing_left(&options.name, layout)
}

fn nothing_left(name: &str, layout: crate::cluster::Layout) -> Result<()> {
    // The init process of the machine collects killed processes a moment later.
    wait("an empty machine", Duration::from_secs(5), Duration::from_millis(50), || {
        Ok(Cluster::leavings(name, layout)?.is_empty().then_some(()))
    })
    .with_context(|| format!("left behind: {:?}", Cluster::leavings(name, layout)))
}

fn pods(nodes: &[String]) -> String {
    let pod = |node: &String| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: on-{node}}}\nspec:\n  nodeName: {node}\n  \
             terminationGracePeriodSeconds: 0\n  containers:\n  - name: agnhost\n    image: {}\n    args: [netexec]\n    \
             securityContext: {{capabilities: {{add: [SYS_RESOURCE]}}}}\n    \
             readinessProbe: {{httpGet: {{path: /healthz, port: 8080}}, periodSeconds: 1}}\n",
            crate::setup::images::AGNHOST
        )
    };
    nodes.iter().map(pod).collect::<Vec<_>>().join("---\n")
}

fn start_pods(cluster: &Cluster) -> Result<Vec<Vec<IpAddr>>> {
    cluster.kubectl_apply(&pods(&cluster.nodes()))?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pods", "--all", "--timeout=180s"])?;
    let pod_ips = |node: &String| {
        let text = cluster.kubectl(&["get", "pod", &format!("on-{node}"), "-o", "jsonpath={.status.podIPs[*].ip}"])?;
        text.split_whitespace().map(|ip| ip.parse().context("a pod's address")).collect()
    };
    cluster.nodes().iter().map(pod_ips).collect()
}

fn url(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => format!("http://{ip}:8080/hostname"),
        IpAddr::V6(ip) => format!("http://[{ip}]:8080/hostname"),
    }
}

fn pods_reach_each_other() -> Result<()> {
    let options = Options { name: name("reach"), family: Family::Dual, cni: Cni::Ref, ..Options::default() };
    with_cluster(&options, |cluster| {
        let again = Cluster::up(&options).context("a second `up` of the same cluster")?;
        ensure!(again.layout() == cluster.layout(), "the second `up` made another cluster");
        let other = Cluster::up(&Options { nodes: 3, ..options.clone() });
        ensure!(other.is_err(), "`up` with other settings took the running cluster for what was asked");
        let all = start_pods(cluster)?;
        for (from, ips) in cluster.nodes().iter().zip(all.iter().rev()) {
            ensure!(ips.len() == 2, "pod addresses of both families: {ips:?}");
            for ip in ips {
                let own = format!("on-{from}");
                let said = cluster.kubectl(&["exec", &own, "--", "curl", "-s", "-m", "5", &url(*ip)])?;
                ensure!(said.starts_with("on-node") && said != own, "{own} asked {ip} and got {said:?}");
                let outside = cluster.outside_exec(&["curl", "-s", "-m", "2", &url(*ip)]);
                ensure!(outside.is_err(), "the host outside reached pod {ip}");
            }
        }
        for node in cluster.nodes() {
            for ip in cluster.node_addresses(&node)? {
                cluster.outside_exec(&["ping", "-c1", "-W2", &ip.to_string()])?;
            }
        }
        for ip in cluster.outside_addresses() {
            cluster.router_exec(&["ping", "-c1", "-W2", &ip.to_string()])?;
        }
        api_pause_is_noticed(cluster)?;
        api_server_comes_back(cluster)
    })
}

/// Pods outlive the control plane, and what changed meanwhile is taken up.
fn api_server_comes_back(cluster: &Cluster) -> Result<()> {
    cluster.stop_component("apiserver")?;
    ensure!(!cluster.healthy(), "a cluster without API server calls itself healthy");
    cluster.start_component("apiserver")?;
    wait("API server after its restart", Duration::from_mins(1), Duration::from_millis(100), || {
        Ok(cluster.healthy().then_some(()))
    })
}

/// CoreDNS answers by the address that pods are given, here through kube-proxy.
fn dns_answers() -> Result<()> {
    let options =
        Options { name: name("dns"), nodes: 1, cni: Cni::Ref, kube_proxy: true, dns: true, ..Options::default() };
    with_cluster(&options, |cluster| {
        start_pods(cluster)?;
        cluster.kubectl(&["-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=180s"])?;
        let ask =
            ["exec", "on-node1", "--", "dig", "+short", "+time=2", "+tries=1", "kubernetes.default.svc.cluster.local"];
        // kube-proxy programs the service a moment after its endpoint is ready: one question, one answer or none.
        let said = wait("an answer from DNS", Duration::from_secs(30), Duration::from_millis(200), || {
            Ok(cluster.kubectl(&ask).ok())
        })?;
        ensure!(said.trim() == cluster.layout().service_address(1), "the API server's name resolves to {said:?}");
        Ok(())
    })
}

fn api_pause_is_noticed(cluster: &Cluster) -> Result<()> {
    let ask = || cluster.kubectl(&["get", "--raw", "/readyz", "--request-timeout=1s"]);
    cluster.pause_api()?;
    let answered = ask();
    cluster.resume_api()?;
    ensure!(answered.is_err(), "a paused API server answered");
    wait("API server after its pause", Duration::from_secs(20), Duration::from_millis(50), || Ok(ask().ok().map(drop)))
}

/// Kills `up` at the moment when the first node's process runs, and at the moment when its state is recorded.
fn interrupted_up_is_removed() -> Result<()> {
    for (moment, file) in [("record", "state.json"), ("node", "pid/node1.init")] {
        let name = name(moment);
        let directory = crate::settings::clusters().join(&name);
        let mut child = Command::new(std::env::current_exe()?)
            .args(["cluster", "up", "--nodes=2", "--name", &name])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let seen = wait(file, Duration::from_mins(1), Duration::from_millis(1), || {
            if let Some(status) = child.try_wait()? {
                bail!("`up` ended by itself with {status}");
            }
            Ok(directory.join(file).exists().then_some(()))
        });
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGKILL)?;
        child.wait()?;
        seen?;
        let cluster = Cluster::open(&name)?;
        ensure!(!cluster.healthy(), "an interrupted cluster calls itself healthy");
        let layout = cluster.layout();
        cluster.down()?;
        nothing_left(&name, layout).with_context(|| format!("killed when {file} appeared"))?;
    }
    Ok(())
}

fn two_side_by_side() -> Result<()> {
    let options =
        |what: &str, family| Options { name: name(what), family, nodes: 1, cni: Cni::Ref, ..Options::default() };
    let (one, two) = (options("one", Family::V4), options("two", Family::V6));
    let done = std::thread::scope(|scope| {
        let other = scope.spawn(|| with_cluster(&two, lone_pod_answers));
        let own = with_cluster(&one, lone_pod_answers);
        [own, other.join().unwrap_or_else(|_| bail!("the other cluster's thread ended early"))]
    });
    done.into_iter().collect::<Result<()>>()?;
    ensure!(fs::metadata(crate::settings::clusters().join(&one.name)).is_err(), "a directory was left");
    Ok(())
}

fn lone_pod_answers(cluster: &Cluster) -> Result<()> {
    let ips = start_pods(cluster)?;
    let ip = ips.into_iter().flatten().next().context("the pod has an address")?;
    let said = cluster.node_exec("node1", &["curl", "-s", "-m", "5", &url(ip)])?;
    ensure!(said == "on-node1", "{ip} said {said:?}");
    Ok(())
}
