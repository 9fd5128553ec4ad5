//! What is killed, stopped or restarted costs no packet and no verdict.

use anyhow::{Result, ensure};

use super::Scenario;
use super::fixture::{Fixture, PATIENCE, SOON};
use super::runtime;
use super::traffic::under_traffic;
use crate::lab::{Lab, SYSTEM};

pub(super) fn scenarios() -> Vec<Scenario> {
    let named: &[super::Named] = &[
        ("agent_restart_loses_no_packet_and_cuts_no_connection", agent_restart),
        ("operator_restart_loses_no_packet", operator_restart),
        ("pods_come_and_go_without_leaving_addresses_behind", churn),
        ("policy_that_reads_new_labels_loses_no_packet_that_it_allows", new_labels),
    ];
    super::boxed(named)
}

/// Ends all pods of the product's part without grace and waits for those that follow.
fn delete_pods(lab: &Lab, app: &str) -> Result<()> {
    let old = runtime::product(lab, app)?;
    let mut words = vec!["-n", SYSTEM, "delete", "pod", "--grace-period=0", "--force"];
    words.extend(old.iter().map(|p| p.name.as_str()));
    lab.cluster.kubectl(&words)?;
    runtime::renewed(lab, app, &old).map(drop)
}

fn agent_restart(lab: &Lab, f: &Fixture) -> Result<()> {
    under_traffic(lab, f, || delete_pods(lab, "axoneme-agent"))
}

fn operator_restart(lab: &Lab, f: &Fixture) -> Result<()> {
    under_traffic(lab, f, || delete_pods(lab, "axoneme-operator"))
}

/// Each round reads a label that nothing has read before, so that the identities of all pods split.
fn new_labels(lab: &Lab, f: &Fixture) -> Result<()> {
    let keys = ["role-1", "role-2", "role-3"];
    for key in keys {
        for role in ["client", "server"] {
            lab.cluster.kubectl(&[
                "-n",
                "lab",
                "label",
                "pods",
                "-l",
                &format!("app={role}"),
                &format!("{key}={role}"),
            ])?;
        }
    }
    let told = under_traffic(lab, f, || {
        keys.iter().try_for_each(|key| {
            lab.apply(&format!(
                "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: roles, namespace: lab}}\nspec:\n  \
                 endpointSelector: {{matchLabels: {{{key}: server}}}}\n  \
                 ingress: [{{fromEndpoints: [{{matchLabels: {{{key}: client}}}}]}}]\n"
            ))?;
            lab.condition(&["-n", "lab", "cnp", "roles"], "Enforced", "True")?;
            let stranger = lab.passes(&f.stranger, &f.server[0].target("tcp", 0, 8080)?, PATIENCE)?;
            ensure!(!stranger, "enforced by {key}, and a pod without the label passes");
            Ok(())
        })
    });
    lab.cluster.kubectl(&["-n", "lab", "delete", "--ignore-not-found", "cnp", "roles"])?;
    for key in keys {
        lab.cluster.kubectl(&["-n", "lab", "label", "pods", "--all", &format!("{key}-")])?;
    }
    told
}

fn churn(lab: &Lab, _: &Fixture) -> Result<()> {
    let used = || lab.cluster.nodes().iter().map(|n| runtime::used(lab, n)).collect::<Result<Vec<_>>>();
    let before = used()?;
    let image = format!("--image={}", crate::setup::images::PAUSE);
    lab.cluster.kubectl(&["-n", "other", "create", "deployment", "churn", &image, "--replicas=12"])?;
    let up = lab.rollout("other", "deployment/churn").and_then(|()| used());
    lab.cluster.kubectl(&["-n", "other", "delete", "deployment", "churn", "--cascade=foreground", "--timeout=180s"])?;
    let (most, least) = (up?.iter().sum::<u64>(), before.iter().sum::<u64>());
    ensure!(most == least + 12, "{least} addresses in use, and with twelve pods more {most}");
    Lab::eventually("addresses are back", SOON, used, |now| *now == before).map(drop)
}
