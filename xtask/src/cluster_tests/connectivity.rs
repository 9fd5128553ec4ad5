//! Pods reach each other, nodes, services and the outside; the outside does not reach pods.

use anyhow::{Context as _, Result, ensure};

use super::Scenario;
use super::fixture::{ANSWER, Fixture, PATIENCE, SOON};
use crate::command::output;
use crate::lab::{Lab, Outcome, Pod, target};

pub(super) fn scenarios() -> Vec<Scenario> {
    let named: &[super::Named] = &[
        ("pods_reach_pods_on_the_same_and_on_another_node", pods),
        ("fragments_pass_in_both_directions", fragments),
        ("routers_with_small_links_are_heard", small_link),
        ("pods_see_each_others_own_addresses", own_addresses),
        ("nodes_reach_pods_and_pods_reach_nodes", nodes),
        ("pods_reach_the_outside_masqueraded", masquerade),
        ("outside_does_not_reach_pods", outside_in),
        ("services_balance_over_nodes_by_name", services),
        ("service_without_endpoints_refuses", refused),
        ("pod_reaches_itself_through_its_service", hairpin),
        ("pods_reach_the_api_server_by_cluster_ip", api_server),
        ("nodes_reach_services", node_services),
    ];
    super::boxed(named)
}

/// All targets must answer; which did not is in the error.
fn all_pass(lab: &Lab, from: &Pod, targets: &[String]) -> Result<()> {
    let check = || lab.probe(from, targets, PATIENCE);
    let good = |o: &Vec<Outcome>| o.iter().all(Outcome::passed);
    Lab::eventually(&format!("{} reaches {targets:?}", from.name), SOON, check, good).map(drop)
}

fn pods(lab: &Lab, f: &Fixture) -> Result<()> {
    for from in &f.client {
        let mut targets = Vec::new();
        for to in &f.server {
            for family in 0..f.families {
                targets.push(to.target("tcp", family, 8080)?);
                targets.push(to.target("udp", family, 8081)?);
            }
        }
        all_pass(lab, from, &targets)?;
        // and what nobody serves is refused by the pod, not swallowed on the way
        let closed: Vec<String> = f.server.iter().map(|s| s.target("tcp", 0, 4444)).collect::<Result<_>>()?;
        let outcomes = lab.probe(from, &closed, ANSWER)?;
        ensure!(outcomes.iter().all(|o| *o == Outcome::Refused), "closed ports: {outcomes:?}");
    }
    Ok(())
}

fn fragments(lab: &Lab, f: &Fixture) -> Result<()> {
    for from in &f.client {
        let targets: Vec<String> = f
            .server
            .iter()
            .flat_map(|to| (0..f.families).map(|family| to.target("frag", family, 8081)))
            .collect::<Result<_>>()?;
        all_pass(lab, from, &targets)?;
    }
    Ok(())
}

/// Between the nodes' router and the outside host, in bytes; the pods' links are wider.
const NARROW: u32 = 1300;

/// The router's word that a packet is too big has to find its way back through masquerading to the pod, even to one that
/// lets nobody in. IPv4 and IPv6.
fn small_link(lab: &Lab, f: &Fixture) -> Result<()> {
    lab.apply(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: narrow, namespace: lab}\nspec: {podSelector: \
         {matchLabels: {app: client}}, policyTypes: [Ingress]}\n",
    )?;
    let set = |bytes: u32| {
        let bytes = bytes.to_string();
        for (place, device) in [("router", "outside"), ("outside", "eth0")] {
            output(&mut lab.cluster.command_in(place, &["ip", "link", "set", device, "mtu", &bytes]))?;
        }
        Ok::<(), anyhow::Error>(())
    };
    set(NARROW)?;
    let told = f.client.iter().try_for_each(|from| {
        (0..f.families).try_for_each(|family| {
            let address = f.outside.get(family).context("an outside address")?;
            let outcome = lab.probe(from, &[target("path", address, 7001)], SOON)?;
            let Some(Outcome::Ok(sent)) = outcome.first() else { anyhow::bail!("{}: {outcome:?}", from.name) };
            ensure!(sent.parse::<u32>()? > 1, "{}: the first datagram of 1400 bytes came through {NARROW}", from.name);
            Ok(())
        })
    });
    set(1500)?;
    lab.cluster.kubectl(&["-n", "lab", "delete", "networkpolicy", "narrow"])?;
    told
}

fn own_addresses(lab: &Lab, f: &Fixture) -> Result<()> {
    for from in &f.client {
        for to in &f.server {
            for family in 0..f.families {
                let answer = lab.probe(from, &[to.target("tcp", family, 8080)?], ANSWER)?;
                let own = from.addresses.get(family).context("an address")?;
                let seen = match answer.first() {
                    Some(Outcome::Ok(text)) => text.split(' ').nth(1).unwrap_or_default().to_owned(),
                    other => anyhow::bail!("{} to {}: {other:?}", from.name, to.name),
                };
                ensure!(seen == *own, "{} saw {seen}, {} has {own}", to.name, from.name);
            }
        }
    }
    Ok(())
}

fn nodes(lab: &Lab, f: &Fixture) -> Result<()> {
    for family in 0..f.families {
        let pods: Vec<String> = f.server.iter().map(|s| s.target("tcp", family, 8080)).collect::<Result<_>>()?;
        for node in ["node1", "node2"] {
            let outcomes = lab.probe_from(node, &pods, ANSWER)?;
            ensure!(outcomes.iter().all(Outcome::passed), "{node} to {pods:?}: {outcomes:?}");
        }
        let nodes = [f.node_target(0, family)?, f.node_target(1, family)?];
        for from in &f.client {
            all_pass(lab, from, &nodes)?;
        }
    }
    Ok(())
}

fn masquerade(lab: &Lab, f: &Fixture) -> Result<()> {
    for (from, node) in f.client.iter().zip(&f.nodes) {
        for family in 0..f.families {
            let outcome = lab.probe(from, &[f.outside_target(family)?], ANSWER)?;
            let Some(Outcome::Ok(text)) = outcome.first() else {
                anyhow::bail!("{} to outside: {outcome:?}", from.name)
            };
            let seen = text.split(' ').nth(1).unwrap_or_default();
            let want = node.get(family).context("a node address")?;
            ensure!(seen == want, "outside saw {seen}, the node has {want}");
        }
    }
    Ok(())
}

fn outside_in(lab: &Lab, f: &Fixture) -> Result<()> {
    let targets: Vec<String> = f.server.iter().map(|s| s.target("tcp", 0, 8080)).collect::<Result<_>>()?;
    let outcomes = lab.probe_from("outside", &targets, PATIENCE)?;
    ensure!(!outcomes.iter().any(Outcome::passed), "outside reached pods: {outcomes:?}");
    Ok(())
}

fn services(lab: &Lab, f: &Fixture) -> Result<()> {
    for from in &f.client {
        all_pass(
            lab,
            from,
            &["tcp:server.lab.svc.cluster.local:80".into(), "udp:server.lab.svc.cluster.local:81".into()],
        )?;
        let targets = vec!["tcp:server.lab.svc.cluster.local:80".to_owned(); 24];
        let outcomes = lab.probe(from, &targets, ANSWER)?;
        for server in ["server-1", "server-2"] {
            let hits = outcomes.iter().filter(|o| matches!(o, Outcome::Ok(t) if t.starts_with(server))).count();
            ensure!(hits > 0, "{server} got none of {} connections: {outcomes:?}", targets.len());
        }
    }
    Ok(())
}

fn refused(lab: &Lab, f: &Fixture) -> Result<()> {
    let outcomes = lab.probe(&f.client[0], &["tcp:nobody.lab.svc.cluster.local:80".into()], ANSWER)?;
    ensure!(outcomes == [Outcome::Refused], "{outcomes:?}");
    Ok(())
}

fn hairpin(lab: &Lab, f: &Fixture) -> Result<()> {
    all_pass(lab, &f.server[0], &["tcp:myself.lab.svc.cluster.local:80".into()])
}

fn api_server(lab: &Lab, f: &Fixture) -> Result<()> {
    for from in &f.client {
        all_pass(lab, from, &["connect:kubernetes.default.svc.cluster.local:443".into()])?;
    }
    Ok(())
}

fn node_services(lab: &Lab, _: &Fixture) -> Result<()> {
    let address =
        lab.cluster.kubectl(&["-n", "lab", "get", "service", "server", "-o", "jsonpath={.spec.clusterIP}"])?;
    for node in ["node1", "node2"] {
        let outcomes = lab.probe_from(node, &[target("tcp", address.trim(), 80)], ANSWER)?;
        ensure!(outcomes.iter().all(Outcome::passed), "{node}: {outcomes:?}");
    }
    Ok(())
}
