//! What Kubernetes does with pods, nodes and services besides letting them talk.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Scenario;
use super::fixture::{ANSWER, Fixture, PATIENCE, SOON};
use super::runtime;
use super::traffic::under_traffic;
use crate::lab::{Lab, Outcome, SYSTEM};

/// Until kubelet has made or removed a pod.
const KUBELET: Duration = Duration::from_mins(2);
const TAINT: &str = "node.cilium.io/agent-not-ready";

pub(super) fn scenarios() -> Vec<Scenario> {
    let named: &[super::Named] = &[
        ("static_pod_is_networked_and_policed", static_pod),
        ("probes_of_every_kind_pass_under_default_deny", probes),
        ("named_target_port_means_each_pods_own_number", named_ports),
        ("terminating_endpoint_serves_only_when_no_other_does", terminating),
        ("taint_goes_when_the_agent_is_ready_and_stays_while_it_is_not", taint),
        ("network_unavailable_is_false_where_the_agent_is_ready", network_condition),
        ("every_kind_explains_itself", explain),
        ("chained_plugin_of_the_settings_serves_a_host_port", host_port),
        ("enforcement_always_and_never_take_effect_at_once", enforcement),
    ];
    super::boxed(named)
}

fn delete(lab: &Lab, words: &[&str]) -> Result<()> {
    let mut all = vec!["delete", "--ignore-not-found", "--wait=false"];
    all.extend(words);
    lab.cluster.kubectl(&all).map(drop)
}

fn ready(lab: &Lab, namespace: &str, pod: &str) -> Result<()> {
    let waited = lab.cluster.kubectl(&["-n", namespace, "wait", "--for=condition=Ready", "pod", pod, "--timeout=180s"]);
    waited.map(drop).with_context(|| {
        let about = lab.cluster.kubectl(&["-n", namespace, "describe", "pod", pod]).unwrap_or_default();
        crate::command::tail(&about, 8)
    })
}

fn reaches(lab: &Lab, f: &Fixture, target: &str, wanted: bool) -> Result<()> {
    let ask = || lab.passes(&f.client[0], target, PATIENCE);
    let what = format!("{target} {}", if wanted { "answers" } else { "is shut" });
    Lab::eventually(&what, SOON, ask, |ok| *ok == wanted).map(drop)
}

/// Its policy is that of its labels, which only the API server's image of it carries.
fn static_pod(lab: &Lab, f: &Fixture) -> Result<()> {
    let before = runtime::used(lab, "node1")?;
    runtime::start_static_pod(lab, "node1", "fixed")?;
    let told = static_pod_runs(lab, f);
    runtime::end_static_pod(lab, "node1", "fixed")?;
    delete(lab, &["-n", "other", "networkpolicy", "fixed"])?;
    told?;
    // fewer where pods of an earlier scenario were still ending
    Lab::eventually("its address is back", KUBELET, || runtime::used(lab, "node1"), |now| *now <= before).map(drop)
}

fn static_pod_runs(lab: &Lab, f: &Fixture) -> Result<()> {
    let seen = || Ok(lab.cluster.kubectl(&["-n", "other", "get", "pod", "fixed-node1"]).is_ok());
    Lab::eventually("the API server knows the static pod", KUBELET, seen, |there| *there)?;
    ready(lab, "other", "fixed-node1")?;
    let pod = lab.pod("other", "app=static")?;
    for family in 0..f.families {
        reaches(lab, f, &pod.target("tcp", family, 8080)?, true)?;
    }
    lab.apply(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: fixed, namespace: other}\nspec: {podSelector: \
         {matchLabels: {app: static}}}\n",
    )?;
    reaches(lab, f, &pod.target("tcp", 0, 8080)?, false)
}

const PROBED: &str = "apiVersion: v1
kind: Pod
metadata: {name: probed, namespace: lab, labels: {app: probed}}
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 0
  automountServiceAccountToken: false
  containers:
    - name: c
      image: ghcr.io/axoneme/workload:dev
      args: [serve, --name, probed, --tcp, \"8080\"]
      startupProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1, failureThreshold: 20}
      readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, failureThreshold: 1}
      livenessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1, failureThreshold: 2, timeoutSeconds: 2}
---
apiVersion: v1
kind: Pod
metadata: {name: misprobed, namespace: lab, labels: {app: probed}}
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 0
  automountServiceAccountToken: false
  containers:
    - name: c
      image: ghcr.io/axoneme/workload:dev
      args: [serve, --name, misprobed, --tcp, \"8080\"]
      readinessProbe: {tcpSocket: {port: 9}, periodSeconds: 1, failureThreshold: 1}
";

/// Kubelet's startup, readiness and liveness probes reach a pod that nobody else does; a probe of a port that nobody
/// serves still fails.
fn probes(lab: &Lab, f: &Fixture) -> Result<()> {
    lab.apply(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: shut, namespace: lab}\nspec: {podSelector: {}, \
         policyTypes: [Ingress, Egress]}\n",
    )?;
    let told = probes_pass(lab, f);
    delete(lab, &["-n", "lab", "networkpolicy", "shut"])?;
    delete(lab, &["-n", "lab", "pod", "probed", "misprobed"])?;
    told
}

fn probes_pass(lab: &Lab, f: &Fixture) -> Result<()> {
    lab.apply(PROBED)?;
    ready(lab, "lab", "probed")?;
    let find = |name: &str| -> Result<_> {
        lab.pods("lab", "app=probed")?.into_iter().find(|p| p.name == name).with_context(|| format!("pod {name}"))
    };
    let pod = find("probed")?;
    ensure!(!lab.passes(&f.client[1], &pod.target("tcp", 0, 8080)?, PATIENCE)?, "the policy is not in force");
    std::thread::sleep(Duration::from_secs(5));
    for name in ["probed", "server-1", "server-2"] {
        let object = lab.get(&["-n", "lab", "pod", name])?;
        let state = object.pointer("/status/containerStatuses/0").cloned().unwrap_or_default();
        let good = state.get("ready") == Some(&Value::Bool(true)) && state.get("restartCount") == Some(&Value::from(0));
        ensure!(good, "{name}: {state}");
    }
    let object = lab.get(&["-n", "lab", "pod", "misprobed"])?;
    let state = object.pointer("/status/containerStatuses/0/ready");
    ensure!(state == Some(&Value::Bool(false)), "a probe of a shut port passed: {object}");
    Ok(())
}

const NAMED: &str = "apiVersion: v1
kind: Pod
metadata: {name: low, namespace: lab, labels: {app: named}}
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 0
  containers:
    - {name: c, image: \"ghcr.io/axoneme/workload:dev\", args: [serve, --name, low, --tcp, \"7001\"], ports: [{name: web, containerPort: 7001}]}
---
apiVersion: v1
kind: Pod
metadata: {name: high, namespace: lab, labels: {app: named}}
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 0
  containers:
    - {name: c, image: \"ghcr.io/axoneme/workload:dev\", args: [serve, --name, high, --tcp, \"7002\"], ports: [{name: web, containerPort: 7002}]}
---
apiVersion: v1
kind: Service
metadata: {name: named, namespace: lab}
spec: {selector: {app: named}, ports: [{name: a, port: 80, targetPort: web}, {name: b, port: 81, targetPort: nothing}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: named, namespace: lab}
spec: {podSelector: {matchLabels: {app: named}}, ingress: [{ports: [{port: web}]}]}
";

fn named_ports(lab: &Lab, f: &Fixture) -> Result<()> {
    lab.apply(NAMED)?;
    let told = named_ports_answer(lab, f);
    delete(lab, &["-n", "lab", "pod/low", "pod/high", "service/named", "networkpolicy/named"])?;
    told
}

fn named_ports_answer(lab: &Lab, f: &Fixture) -> Result<()> {
    ready(lab, "lab", "low")?;
    ready(lab, "lab", "high")?;
    let targets = vec!["tcp:named.lab.svc.cluster.local:80".to_owned(); 16];
    let ask = || lab.probe(&f.client[0], &targets, PATIENCE);
    let both = |outcomes: &Vec<Outcome>| {
        let of = |name: &str| outcomes.iter().any(|o| matches!(o, Outcome::Ok(t) if t.starts_with(name)));
        of("low") && of("high") && outcomes.iter().all(Outcome::passed)
    };
    Lab::eventually("both pods answer by the service", SOON, ask, both)?;
    let unknown = lab.probe(&f.client[0], &["tcp:named.lab.svc.cluster.local:81".to_owned()], ANSWER)?;
    ensure!(unknown == [Outcome::Refused], "a port name that no pod has: {unknown:?}");
    // the policy means each pod's own number too
    let pods = lab.pods("lab", "app=named")?;
    let [high, low] = pods.as_slice() else { anyhow::bail!("two pods: {pods:?}") };
    reaches(lab, f, &low.target("tcp", 0, 7001)?, true)?;
    let outcome = lab.probe(&f.client[0], &[high.target("tcp", 0, 7001)?, low.target("tcp", 0, 7002)?], PATIENCE)?;
    ensure!(outcome.iter().all(|o| *o == Outcome::Timeout), "the other pod's number is shut by policy: {outcome:?}");
    Ok(())
}

/// The workload is process 1 and takes no SIGTERM: it serves until it is killed.
fn slow_pod(name: &str, node: &str, seconds: u32) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: lab, labels: {{app: slow}}}}\nspec:\n  nodeName: {node}\n  \
         terminationGracePeriodSeconds: {seconds}\n  containers:\n    - {{name: c, image: \"ghcr.io/axoneme/workload:dev\", args: \
         [serve, --name, {name}, --tcp, \"8080\"], readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}}}\n---\n"
    )
}

fn terminating(lab: &Lab, f: &Fixture) -> Result<()> {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: slow, namespace: lab}\nspec: {selector: {app: slow}, ports: \
                   [{port: 80, targetPort: 8080}]}\n";
    lab.apply(&format!("{}{}{service}", slow_pod("slow-1", "node1", 90), slow_pod("slow-2", "node2", 60)))?;
    let told = terminating_serves(lab, f);
    delete(lab, &["-n", "lab", "pod/slow-1", "pod/slow-2", "service/slow", "--grace-period=0", "--force"])?;
    told
}

fn terminating_serves(lab: &Lab, f: &Fixture) -> Result<()> {
    ready(lab, "lab", "slow-1")?;
    ready(lab, "lab", "slow-2")?;
    let targets = vec!["tcp:slow.lab.svc.cluster.local:80".to_owned(); 16];
    let ask = || lab.probe(&f.client[0], &targets, PATIENCE);
    let by =
        |o: &Vec<Outcome>, name: &str| o.iter().filter(|o| matches!(o, Outcome::Ok(t) if t.starts_with(name))).count();
    Lab::eventually("both answer", SOON, ask, |o| by(o, "slow-1") > 0 && by(o, "slow-2") > 0)?;
    delete(lab, &["-n", "lab", "pod", "slow-1"])?;
    // it still serves, but while another is ready nothing new goes there
    Lab::eventually("only the ready one answers", Duration::from_secs(20), ask, |o| by(o, "slow-2") == o.len())?;
    delete(lab, &["-n", "lab", "pod", "slow-2"])?;
    let all = |o: &Vec<Outcome>| by(o, "slow-1") + by(o, "slow-2") == o.len();
    let gone = || lab.get(&["-n", "lab", "pod", "slow-2"]).map(|p| p.pointer("/metadata/deletionTimestamp").is_some());
    Lab::eventually("the last one terminates too", SOON, gone, |gone| *gone)?;
    Lab::eventually("terminating ones serve, since no other does", SOON, ask, all)?;
    let again = lab.probe(&f.client[0], &targets, ANSWER)?;
    ensure!(all(&again), "served once, then: {again:?}");
    lab.cluster.kubectl(&["-n", "lab", "delete", "pod", "slow-1", "slow-2", "--grace-period=0", "--force"])?;
    Lab::eventually("refused when none is left", SOON, ask, |o| o.iter().all(|o| *o == Outcome::Refused)).map(drop)
}

fn tainted(lab: &Lab, node: &str) -> Result<bool> {
    let object = lab.get(&["node", node])?;
    let taints = object.pointer("/spec/taints").and_then(Value::as_array).cloned().unwrap_or_default();
    Ok(taints.iter().any(|t| t.get("key").is_some_and(|k| k == TAINT)))
}

fn place_agents(lab: &Lab, selector: &str) -> Result<()> {
    let patch = format!("{{\"spec\":{{\"template\":{{\"spec\":{{\"nodeSelector\":{selector}}}}}}}}}");
    lab.cluster.kubectl(&["-n", SYSTEM, "patch", "daemonset", "axoneme-agent", "--type=merge", "-p", &patch]).map(drop)
}

/// Without any agent the taint stays, and so does the traffic.
fn taint(lab: &Lab, f: &Fixture) -> Result<()> {
    let set = || lab.cluster.kubectl(&["taint", "nodes", "node2", &format!("{TAINT}=:NoSchedule"), "--overwrite"]);
    set()?;
    Lab::eventually("the taint is gone", SOON, || tainted(lab, "node2"), |there| !*there)?;
    let kept = under_traffic(lab, f, || {
        place_agents(lab, "{\"no-node-has\":\"this\"}")?;
        let agents = || runtime::product(lab, "axoneme-agent").map(|a| a.len());
        let kept = Lab::eventually("agents are gone", KUBELET, agents, |n| *n == 0).and_then(|_| {
            set()?;
            std::thread::sleep(Duration::from_secs(5));
            tainted(lab, "node2")
        });
        place_agents(lab, "null")?;
        lab.rollout(SYSTEM, "daemonset/axoneme-agent")?;
        kept
    })?;
    Lab::eventually("the taint is gone again", KUBELET, || tainted(lab, "node2"), |there| !*there)?;
    lab.ready()?;
    ensure!(kept, "the taint went while no agent was there");
    Ok(())
}

fn unavailable(lab: &Lab, node: &str) -> Result<(String, String)> {
    let object = lab.get(&["node", node])?;
    let all = object.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let found = all.into_iter().find(|c| c.get("type").is_some_and(|t| t == "NetworkUnavailable"));
    let found = found.with_context(|| format!("{node} has no condition NetworkUnavailable"))?;
    let text = |key: &str| found.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok((text("status"), text("reason")))
}

/// A cloud's controller sets it to true until routes are there: ours says that they are.
fn network_condition(lab: &Lab, _: &Fixture) -> Result<()> {
    for node in lab.cluster.nodes() {
        let (status, reason) = unavailable(lab, &node)?;
        ensure!((status.as_str(), reason.as_str()) == ("False", "AxonemeIsUp"), "{node}: {status} {reason}");
    }
    let patch = "{\"status\":{\"conditions\":[{\"type\":\"NetworkUnavailable\",\"status\":\"True\",\"reason\":\"NoRouteCreated\"}]}}";
    lab.cluster.kubectl(&["patch", "node", "node1", "--subresource=status", "--type=strategic", "-p", patch])?;
    let ask = || unavailable(lab, "node1");
    Lab::eventually("the condition is mended", SOON, ask, |(status, _)| status == "False").map(drop)
}

/// Each kind, a field deep in it, and a word that its description must have.
const EXPLAINED: &[(&str, &str)] = &[
    ("axonemeconfig.spec.routing", "mode"),
    ("axonemeconfig.spec.ipam", "mode"),
    ("ciliumnetworkpolicy.spec.ingress.fromEndpoints", "matchLabels"),
    ("ciliumclusterwidenetworkpolicy.spec.egress.toCIDRSet", "except"),
    ("ciliumcidrgroup.spec.externalCIDRs", "prefixes"),
    ("ciliumidentity.security-labels", "label"),
    ("ciliumnode.spec.ipam.podCIDRs", "blocks"),
    ("ciliumpodippool.spec.ipv4.maskSize", "prefix length"),
    ("clusternetworkpolicy.spec.ingress.action", "Accept"),
];

fn explain(lab: &Lab, _: &Fixture) -> Result<()> {
    for (path, word) in EXPLAINED {
        let text = lab.cluster.kubectl(&["explain", path])?;
        let (_, about) = text.split_once("DESCRIPTION:").with_context(|| format!("{path}: no description:\n{text}"))?;
        let lower = about.to_lowercase();
        ensure!(lower.contains(&word.to_lowercase()), "{path}: nothing of {word:?} in\n{about}");
        ensure!(!lower.contains("<empty>"), "{path} is not described:\n{text}");
    }
    let unknown = lab.cluster.kubectl(&["explain", "ciliumnetworkpolicy.spec.ingres"]);
    ensure!(unknown.is_err(), "a field that is not there is explained");
    Ok(())
}

const PUBLISHED: &str = "apiVersion: v1
kind: Pod
metadata: {name: published, namespace: lab, labels: {app: published}}
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 0
  containers:
    - name: c
      image: ghcr.io/axoneme/workload:dev
      args: [serve, --name, published, --tcp, \"8080\"]
      ports: [{containerPort: 8080, hostPort: 18080}]
";

/// Changes settings while everything runs.
pub(super) fn settings(lab: &Lab, patch: &str) -> Result<()> {
    lab.cluster.kubectl(&["patch", "axonemeconfig", "default", "--type=merge", "-p", patch])?;
    lab.condition(&["axonemeconfig", "default"], "Valid", "True").map(drop)
}

/// The reference plugin of `hostPort`, put behind ours by a setting while the agents run, and taken away again.
fn host_port(lab: &Lab, f: &Fixture) -> Result<()> {
    let program = crate::setup::go::binaries()?.join("cni/portmap").display().to_string();
    lab.cluster.node_exec("node2", &["cp", &program, "/opt/cni/bin/portmap"])?;
    let told = published(lab, f);
    lab.cluster.kubectl(&["-n", "lab", "delete", "--ignore-not-found", "pod", "published"])?;
    settings(lab, "{\"spec\":{\"cni\":null}}")?;
    lab.cluster.node_exec("node2", &["rm", "/opt/cni/bin/portmap"])?;
    told
}

fn published(lab: &Lab, f: &Fixture) -> Result<()> {
    let list = || lab.cluster.node_exec("node2", &["cat", "/etc/cni/net.d/05-axoneme.conflist"]);
    ensure!(!list()?.contains("snat"), "the plugin is there before it is asked for: {}", list()?);
    let chained = "{\"spec\":{\"cni\":{\"chainedPlugins\":[{\"type\":\"portmap\",\"snat\":true,\"capabilities\":{\"portMappings\":true}}]}}}";
    settings(lab, chained)?;
    Lab::eventually("the runtime is told of the plugin", SOON, list, |text| text.contains("snat"))?;
    lab.apply(PUBLISHED)?;
    ready(lab, "lab", "published")?;
    for (family, node) in f.nodes[1].iter().enumerate() {
        let at = crate::lab::target("tcp", node, 18080);
        let answered = |place: &str| {
            let outcomes = lab.probe_from(place, std::slice::from_ref(&at), PATIENCE)?;
            Ok(outcomes.first().is_some_and(|o| matches!(o, Outcome::Ok(t) if t.starts_with("published"))))
        };
        for place in ["outside", "node1"] {
            Lab::eventually(&format!("{at} from {place}, family {family}"), SOON, || answered(place), |ok| *ok)?;
        }
    }
    Ok(())
}

fn enforcement(lab: &Lab, f: &Fixture) -> Result<()> {
    let told = enforced(lab, f);
    settings(lab, "{\"spec\":{\"policy\":null}}")?;
    delete(lab, &["-n", "lab", "networkpolicy", "shut"])?;
    told?;
    reaches(lab, f, &f.server[1].target("tcp", 0, 8080)?, true)
}

fn enforced(lab: &Lab, f: &Fixture) -> Result<()> {
    let (near, far) = (f.server[0].target("tcp", 0, 8080)?, f.server[1].target("tcp", 0, 8080)?);
    // no policy selects anybody, and yet nothing passes that no policy allows
    settings(lab, "{\"spec\":{\"policy\":{\"enforcement\":\"Always\"}}}")?;
    for to in [&near, &far] {
        reaches(lab, f, to, false)?;
    }
    lab.apply(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: shut, namespace: lab}\nspec: {podSelector: \
         {matchLabels: {app: server}}}\n",
    )?;
    settings(lab, "{\"spec\":{\"policy\":{\"enforcement\":\"Never\"}}}")?;
    for to in [&near, &far] {
        reaches(lab, f, to, true)?;
    }
    settings(lab, "{\"spec\":{\"policy\":{\"enforcement\":\"Default\"}}}")?;
    for to in [&near, &far] {
        reaches(lab, f, to, false)?;
    }
    Ok(())
}
