//! Flows as a stock Hubble client sees them: of one node by its socket and its port, of all nodes through the relay.
//!
//! Each scenario's connections go to ports of their own, to which nobody listens: a refusal is an answer, and what the
//! client shows of that port is what this scenario has done, whatever ran before.

mod client;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use self::client::{Certificates, Client, Forward};
use super::Scenario;
use super::fixture::{Fixture, SOON};
use super::runtime::{self, Container};
use super::workloads::settings;
use crate::image;
use crate::lab::{Lab, Outcome, Pod, SYSTEM, target};

/// A drop costs all of this.
const PATIENCE: Duration = Duration::from_millis(400);
/// A relay notices that a node is silent, or back, within this.
const NOTICED: Duration = Duration::from_mins(1);

pub(super) fn scenarios() -> Vec<Scenario> {
    let named: &[super::Named] = &[
        ("hubble_client_reads_an_agent_by_its_socket_and_its_port", agent),
        ("hubble_client_reads_all_nodes_through_a_forwarded_port_and_through_tls", relay),
        ("hubble_client_sees_the_policy_behind_each_verdict", policy),
        ("audited_policy_denies_nothing_and_a_client_sees_what_it_would_deny", audited),
        ("denial_is_an_event_of_the_pod_where_a_setting_asks_for_it", event),
        ("hubble_relay_goes_on_and_names_the_node_whose_agent_is_silent", silent),
        ("hubble_relay_that_is_killed_serves_again", killed),
    ];
    super::boxed(named)
}

/// Connects from one pod to ports of another; whether each was reached, be it by a refusal.
fn connect(lab: &Lab, from: &Pod, to: &Pod, ports: &[u16]) -> Result<Vec<bool>> {
    let address = to.addresses.first().context("an address")?;
    let targets: Vec<String> = ports.iter().map(|port| target("tcp", address, *port)).collect();
    let outcomes = lab.probe(from, &targets, PATIENCE)?;
    Ok(outcomes.iter().map(|o| matches!(o, Outcome::Ok(_) | Outcome::Refused)).collect())
}

fn text<'a>(flow: &'a Value, path: &str) -> &'a str {
    flow.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

/// Nodes that flows come from.
fn nodes(flows: &[Value]) -> Vec<&str> {
    let mut all: Vec<&str> = flows.iter().map(|f| text(f, "/node_name")).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Waits until the client shows flows that satisfy this.
fn seen(client: &Client<'_>, args: &[&str], good: impl Fn(&[Value]) -> bool) -> Result<Vec<Value>> {
    let mut found = Vec::new();
    let ask = || {
        found = client.flows(args)?;
        Ok(good(&found))
    };
    Lab::eventually(&args.join(" "), SOON, ask, |ok| *ok).with_context(|| format!("observe {}", client.last()))?;
    Ok(found)
}

/// What any server of flows must do for the client.
fn served(client: &Client<'_>, connected: &[&str]) -> Result<()> {
    let status = client.text(&["status"])?;
    ensure!(status.contains("Healthcheck") && status.contains("Ok"), "status: {status}");
    let listed = client.text(&["list", "nodes"])?;
    for node in connected {
        ensure!(listed.lines().any(|l| l.contains(node) && l.contains("Connected")), "list nodes: {listed}");
    }
    let namespaces = client.text(&["list", "namespaces"])?;
    ensure!(namespaces.contains("lab"), "list namespaces: {namespaces}");
    Ok(())
}

fn agent(lab: &Lab, f: &Fixture) -> Result<()> {
    let node = f.client[0].node.as_str();
    let socket = Client::on_node(lab, node, "unix:///var/run/cilium/hubble.sock", &[])?;
    served(&socket, &[node])?;
    connect(lab, &f.client[0], &f.server[0], &[7701, 7702])?;
    let (pod, port) = ("lab/client-1", "7701");
    let flows = seen(&socket, &["--pod", pod, "--to-port", port], |all| !all.is_empty())?;
    let whole = flows.iter().all(|f| {
        text(f, "/source/pod_name") == "client-1"
            && text(f, "/destination/pod_name") == "server-1"
            && text(f, "/verdict") == "FORWARDED"
            && f.pointer("/l4/TCP/destination_port").and_then(Value::as_u64) == Some(7701)
    });
    ensure!(whole, "flows to one port: {flows:?}");
    for (args, some) in [
        (["--to-port", port, "--namespace", "lab"], true),
        (["--to-port", port, "--namespace", "other"], false),
        (["--to-port", port, "--protocol", "tcp"], true),
        (["--to-port", port, "--protocol", "udp"], false),
        (["--to-port", port, "--verdict", "DROPPED"], false),
        (["--to-port", port, "--from-pod", "lab/client-1"], true),
        (["--to-port", port, "--to-pod", "lab/client-1"], false),
        (["--to-port", port, "--from-label", "app=client"], true),
        (["--to-port", port, "--to-label", "app=client"], false),
    ] {
        let found = socket.flows(&args)?;
        ensure!(found.is_empty() != some, "{args:?}: {found:?}");
    }
    let peers = socket.begun(&["watch", "peers"], lab.cluster.nodes().len())?;
    let named = |n: &String| peers.iter().any(|p| p.starts_with("PEER_ADDED") && p.contains(n.as_str()));
    ensure!(lab.cluster.nodes().iter().all(named), "watch peers: {peers:?}");

    // by its port only with a certificate
    let address = f.nodes.first().and_then(|a| a.first()).context("a node's address")?;
    let server = format!("tls://{}:4244", bracketed(address));
    let certificates = Certificates::of(lab, "hubble-relay-client-certs")?;
    let name = format!("{node}.default.hubble-grpc.cilium.io");
    let port = Client::on_node(lab, node, &server, &certificates.flags(&name))?;
    served(&port, &[node])?;
    let nameless = Client::on_node(lab, node, &server, &certificates.trust(&name))?;
    ensure!(nameless.text(&["status"]).is_err(), "an agent serves its port without a certificate");
    let clear = Client::on_node(lab, node, &format!("{}:4244", bracketed(address)), &[])?;
    ensure!(clear.text(&["status"]).is_err(), "an agent serves its port in clear text");
    counted(address)
}

/// What Prometheus reads.
fn counted(node: &str) -> Result<()> {
    let mut stream = TcpStream::connect(format!("{}:9965", bracketed(node))).context("metrics of the node")?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    for metric in ["hubble_flows_processed_total{", "hubble_policy_verdicts_total{", "hubble_tcp_flags_total{"] {
        ensure!(page.contains(metric), "no {metric} in {page}");
    }
    Ok(())
}

fn bracketed(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

fn relay(lab: &Lab, f: &Fixture) -> Result<()> {
    lab.rollout(SYSTEM, "deployment/hubble-relay")?;
    let forward = Forward::start(lab)?;
    let all = Client::here(lab, &forward)?;
    let known = || all.text(&["list", "nodes"]).map(|said| said.matches("Connected").count());
    let told = Lab::eventually("the relay knows all nodes", NOTICED, known, |n| *n == lab.cluster.nodes().len());
    told.with_context(|| {
        lab.cluster.kubectl(&["-n", SYSTEM, "logs", "deployment/hubble-relay", "--tail=5"]).unwrap_or_default()
    })?;
    served(&all, &["node1", "node2"])?;
    // one that follows sees what comes, of both nodes
    let following = all.follow(&["--to-port", "7711", "--follow"])?;
    let come = || {
        for (from, to) in f.client.iter().zip(&f.server) {
            connect(lab, from, to, &[7711])?;
        }
        following.so_far()
    };
    Lab::eventually("the follower sees both nodes", SOON, come, |flows| nodes(flows).len() == 2)?;
    let followed = following.so_far()?;
    let past = seen(&all, &["--to-port", "7711"], |flows| nodes(flows).len() == 2)?;
    ensure!(followed.iter().all(|f| past.iter().any(|p| p.get("uuid") == f.get("uuid"))), "{followed:?}\n{past:?}");
    let times: Vec<&str> = past.iter().map(|f| text(f, "/time")).collect();
    ensure!(times.is_sorted(), "not in the order of their times: {times:?}");
    let one = seen(&all, &["--to-port", "7711", "--node-name", "node2"], |flows| !flows.is_empty())?;
    ensure!(nodes(&one).iter().all(|n| n.ends_with("node2")), "--node-name node2: {one:?}");

    // inside of the cluster with a certificate only
    let pod = lab.pod(SYSTEM, "k8s-app=hubble-relay")?;
    let address = format!("{}:4245", bracketed(pod.addresses.first().context("the relay's address")?));
    let certificates = Certificates::of(lab, "hubble-ui-client-certs")?;
    let flags = certificates.flags("ui.hubble-relay.cilium.io");
    let tls = Client::on_node(lab, "node1", &format!("tls://{address}"), &flags)?;
    served(&tls, &["node1", "node2"])?;
    let same = seen(&tls, &["--to-port", "7711"], |flows| flows.len() == past.len())?;
    ensure!(nodes(&same) == nodes(&past), "by TLS {same:?}, by the forwarded port {past:?}");
    let clear = Client::on_node(lab, "node1", &address, &[])?;
    ensure!(clear.text(&["status"]).is_err(), "a relay serves others in clear text");
    Ok(())
}

fn policy(lab: &Lab, f: &Fixture) -> Result<()> {
    let yaml = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: seen, namespace: lab}\nspec:\n  \
                podSelector: {matchLabels: {app: server}}\n  ingress:\n    - from: [{podSelector: {matchLabels: {app: client}}}]\n      \
                ports: [{port: 7721}]\n";
    lab.apply(yaml)?;
    let told = judged(lab, f);
    lab.cluster.kubectl(&["-n", "lab", "delete", "networkpolicy", "seen"])?;
    told
}

const MODE: &str = "policy.axoneme.io/mode";

fn audited(lab: &Lab, f: &Fixture) -> Result<()> {
    let yaml = format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: tried\n  namespace: lab\n  \
         annotations: {{{MODE}: Audit}}\nspec:\n  podSelector: {{matchLabels: {{app: server}}}}\n  ingress:\n    \
         - from: [{{podSelector: {{matchLabels: {{app: client}}}}}}]\n      ports: [{{port: 7761}}]\n"
    );
    lab.apply(&yaml)?;
    let told = tried(lab, f);
    lab.cluster.kubectl(&["annotate", "namespace", "lab", &format!("{MODE}-")])?;
    lab.cluster.kubectl(&["-n", "lab", "delete", "networkpolicy", "tried"])?;
    told
}

/// One policy is audited, then enforced, then all of its namespace is audited.
fn tried(lab: &Lab, f: &Fixture) -> Result<()> {
    let both = || connect(lab, &f.client[0], &f.server[1], &[7761, 7762]);
    let forward = Forward::start(lab)?;
    let all = Client::here(lab, &forward)?;
    let would = ["--to-port", "7762", "--verdict", "AUDIT", "--to-pod", "lab/server-2"];
    let mut reached = Vec::new();
    let ask = || {
        reached.push(both()?);
        Ok(!all.flows(&would)?.is_empty())
    };
    Lab::eventually("the client is shown what would be denied", SOON, ask, |told| *told)?;
    ensure!(reached.iter().flatten().all(|passes| *passes), "an audited policy denies: {reached:?}");
    let flows = all.flows(&would)?;
    let by = |flow: &Value| text(flow, "/ingress_denied_by/0/name") == "tried";
    ensure!(flows.iter().all(by), "not by the policy that would deny: {flows:?}");
    ensure!(all.flows(&["--to-port", "7761", "--verdict", "AUDIT"])?.is_empty(), "what it allows is told as denied");
    let enforce = |mode: &str| lab.cluster.kubectl(&["-n", "lab", "annotate", "--overwrite", "netpol", "tried", mode]);
    enforce(&format!("{MODE}=Enforce"))?;
    Lab::eventually("the policy is enforced", SOON, both, |reached| reached.as_slice() == [true, false])?;
    lab.cluster.kubectl(&["annotate", "--overwrite", "namespace", "lab", &format!("{MODE}=Audit")])?;
    Lab::eventually("the namespace is audited", SOON, both, |reached| reached.as_slice() == [true, true])?;
    lab.cluster.kubectl(&["annotate", "namespace", "lab", &format!("{MODE}-")])?;
    Lab::eventually("it is enforced again", SOON, both, |reached| reached.as_slice() == [true, false]).map(drop)
}

/// Agents may write no Event: theirs go by the operator.
fn event(lab: &Lab, f: &Fixture) -> Result<()> {
    let deny = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: told, namespace: lab}\nspec:\n  \
                endpointSelector: {matchLabels: {app: server}}\n  enableDefaultDeny: {ingress: false}\n  \
                ingressDeny: [{toPorts: [{ports: [{port: \"7723\", protocol: TCP}]}]}]\n";
    settings(lab, "{\"spec\":{\"flows\":{\"dropEventsSeconds\":60}}}")?;
    lab.apply(deny)?;
    let described = || {
        connect(lab, &f.client[0], &f.server[1], &[7723])?;
        lab.cluster.kubectl(&["-n", "lab", "describe", "pod", "server-2"])
    };
    let words =
        ["PacketDrop", "lab/client-1", "TCP port 7723 denied by CiliumNetworkPolicy lab/told, spec.ingressDeny[0]"];
    let all = |said: &String| words.iter().all(|word| said.contains(word));
    let told = Lab::eventually("an Event of the denied pod", SOON, described, all);
    lab.cluster.kubectl(&["-n", "lab", "delete", "cnp", "told"])?;
    settings(lab, "{\"spec\":{\"flows\":null}}")?;
    told.map(drop)
}

fn judged(lab: &Lab, f: &Fixture) -> Result<()> {
    let both = || connect(lab, &f.client[0], &f.server[1], &[7721, 7722]);
    Lab::eventually("in force", SOON, both, |reached| reached.as_slice() == [true, false])?;
    let forward = Forward::start(lab)?;
    let all = Client::here(lab, &forward)?;
    let by = |flow: &Value, list: &str| {
        let named = flow.get(list).and_then(Value::as_array).cloned().unwrap_or_default();
        named.iter().any(|p| {
            text(p, "/name") == "seen" && text(p, "/namespace") == "lab" && text(p, "/kind") == "NetworkPolicy"
        })
    };
    let allowed = ["--to-port", "7721", "--type", "policy-verdict", "--verdict", "FORWARDED"];
    seen(&all, &allowed, |flows| flows.iter().any(|f| by(f, "ingress_allowed_by")))?;
    let dropped = ["--to-port", "7722", "--verdict", "DROPPED", "--to-pod", "lab/server-2"];
    let flows = seen(&all, &dropped, |flows| !flows.is_empty())?;
    for flow in &flows {
        ensure!(text(flow, "/drop_reason_desc") == "POLICY_DENIED", "{flow}");
        ensure!(text(flow, "/source/pod_name") == "client-1" && text(flow, "/node_name").ends_with("node2"), "{flow}");
    }
    let reason = seen(&all, &["--to-port", "7722", "--drop-reason-desc", "POLICY_DENIED"], |flows| !flows.is_empty())?;
    ensure!(reason.len() >= flows.len(), "--drop-reason-desc: {reason:?}");
    let people = all.text(&["observe", "--to-port", "7722", "--last", "20"])?;
    ensure!(people.to_lowercase().contains("policy denied") && people.contains("DROPPED"), "for people: {people}");
    explained(lab)
}

/// The node's own rows say the same, and what would have passed.
fn explained(lab: &Lab) -> Result<()> {
    let program = image::binary("axoneme").display().to_string();
    let ask = |words: &[&str]| -> Result<String> {
        let all: Vec<&str> = [program.as_str()].iter().chain(words).copied().collect();
        // status 1 says that it is denied
        let done = lab.cluster.command_in("node2", &all).output()?;
        Ok(String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr))
    };
    let denied = ask(&["explain", "lab/client-1", "lab/server-2", "7722"])?;
    let nearest = "NetworkPolicy lab/seen spec.ingress[0] allows TCP 7721, not TCP 7722";
    ensure!(denied.contains("denied") && denied.contains(nearest), "explain: {denied}");
    let stranger = ask(&["explain", "other/stranger", "lab/server-2", "7721"])?;
    ensure!(stranger.contains("denied") && stranger.contains("lacks"), "explain: {stranger}");
    let allowed = ask(&["explain", "lab/client-1", "lab/server-2", "7721"])?;
    ensure!(allowed.contains("allowed: a rule allows it"), "explain: {allowed}");
    let who = ask(&["policy", "who-can", "lab/server-2"])?;
    ensure!(who.contains("lab/client-1") && who.contains("TCP 7721") && !who.contains("stranger"), "who-can: {who}");
    Ok(())
}

/// The agent of node2 is stopped, as one is that hangs; then killed.
fn silent(lab: &Lab, f: &Fixture) -> Result<()> {
    let forward = Forward::start(lab)?;
    let all = Client::here(lab, &forward)?;
    let agents = runtime::product(lab, "axoneme-agent")?;
    let on_second = agents.iter().find(|a| a.node == "node2").context("an agent on node2")?;
    let agent = Container::of(lab, on_second)?;
    let following = all.follow(&["--to-port", "7731", "--follow"])?;
    let whole = || Ok(all.text(&["list", "nodes"])?.matches("Connected").count());
    Lab::eventually("both nodes", NOTICED, whole, |n| *n == 2)?;
    agent.signal(lab, "SIGSTOP")?;
    let without = without_second(lab, f, &all);
    agent.signal(lab, "SIGCONT")?;
    without?;
    Lab::eventually("node2 is back", NOTICED, whole, |n| *n == 2)?;
    agent.signal(lab, "SIGKILL")?;
    Lab::eventually("a new agent on node2", NOTICED, || whole().or(Ok(0)), |n| *n == 2)?;
    // the follower that was there before all of it has lost neither node
    let again = || {
        for (from, to) in f.client.iter().zip(&f.server) {
            connect(lab, from, to, &[7731])?;
        }
        Ok(nodes(&following.so_far()?).len())
    };
    Lab::eventually("the follower sees both nodes", NOTICED, again, |n| *n == 2).map(drop)
}

fn without_second(lab: &Lab, f: &Fixture, all: &Client<'_>) -> Result<()> {
    let status = || all.text(&["status"]);
    let named = |said: &String| said.contains("node2") && said.contains("1/2");
    Lab::eventually("the relay names the node that is silent", NOTICED, status, named)?;
    let listed = all.text(&["list", "nodes"])?;
    ensure!(listed.lines().any(|l| l.contains("node2") && l.contains("Unavailable")), "list nodes: {listed}");
    ensure!(listed.lines().any(|l| l.contains("node1") && l.contains("Connected")), "list nodes: {listed}");
    connect(lab, &f.client[0], &f.server[0], &[7731])?;
    let flows = seen(all, &["--to-port", "7731"], |flows| !flows.is_empty())?;
    ensure!(nodes(&flows).iter().all(|n| n.ends_with("node1")), "{flows:?}");
    // beyond the pings of connections that were open: those that are new hang in their handshakes
    std::thread::sleep(Duration::from_secs(22));
    let began = Instant::now();
    let flows = all.flows(&["--to-port", "7731"])?;
    ensure!(nodes(&flows).len() == 1, "{flows:?}");
    ensure!(began.elapsed() < SOON, "an answer took {:?}", began.elapsed());
    Ok(())
}

/// Waits until the relay is connected with all nodes, and shows a flow of each.
pub(super) fn relay_knows_all(lab: &Lab, f: &Fixture, limit: Duration) -> Result<()> {
    let ask = || {
        let forward = Forward::start(lab)?;
        let all = Client::here(lab, &forward)?;
        for (from, to) in f.client.iter().zip(&f.server) {
            connect(lab, from, to, &[7751])?;
        }
        let listed = all.text(&["list", "nodes"]).unwrap_or_default();
        let flows = all.flows(&["--to-port", "7751"]).unwrap_or_default();
        Ok((listed.matches("Connected").count(), nodes(&flows).len()))
    };
    let every = lab.cluster.nodes().len();
    Lab::eventually("the relay knows all nodes", limit, ask, |seen| *seen == (every, every)).map(drop)
}

fn killed(lab: &Lab, f: &Fixture) -> Result<()> {
    let old = lab.pod(SYSTEM, "k8s-app=hubble-relay")?;
    lab.cluster.kubectl(&["-n", SYSTEM, "delete", "pod", "--grace-period=0", "--force", &old.name])?;
    runtime::renewed(lab, "hubble-relay", std::slice::from_ref(&old))?;
    connect(lab, &f.client[0], &f.server[1], &[7741])?;
    let forward = Forward::start(lab)?;
    let all = Client::here(lab, &forward)?;
    let known = || all.text(&["list", "nodes"]).map(|said| said.matches("Connected").count());
    Lab::eventually("the new relay knows all nodes", NOTICED, known, |n| *n == 2)?;
    // the nodes kept what the relay never had
    seen(&all, &["--to-port", "7741"], |flows| nodes(flows).len() == 2).map(drop)
}
