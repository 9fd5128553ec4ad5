//! The authority that signs for operators and flows: a new one beside it, and none at all.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::Scenario;
use super::fixture::Fixture;
use super::hubble;
use super::runtime::{self, Container};
use super::traffic::under_traffic;
use crate::lab::{Lab, SYSTEM};

/// The operator looks each minute, kubelet as often at the files of its pods.
const TOLD: Duration = Duration::from_mins(5);

pub(super) fn scenarios() -> Vec<Scenario> {
    let named: &[super::Named] = &[("authority_is_rotated_and_made_anew_without_losing_a_node", rotated)];
    super::boxed(named)
}

/// Whom agents are to trust, PEM.
fn bundle(lab: &Lab) -> Result<String> {
    let map = lab.get(&["-n", SYSTEM, "configmap", "axoneme-ca"])?;
    Ok(map.pointer("/data/ca.crt").and_then(Value::as_str).unwrap_or_default().to_owned())
}

fn certificates(pem: &str) -> Vec<&str> {
    pem.split_inclusive("-----END CERTIFICATE-----").map(str::trim).filter(|c| !c.is_empty()).collect()
}

/// Whom the API server trusts when it asks before it stores, one for each webhook.
fn asked(lab: &Lab) -> Result<Vec<String>> {
    let each = "{{range .webhooks}}{{.clientConfig.caBundle | base64decode}}\n=\n{{end}}";
    let said = lab.cluster.kubectl(&[
        "get",
        "validatingwebhookconfiguration",
        "axoneme",
        "-o",
        &format!("go-template={each}"),
    ])?;
    Ok(said.split("\n=\n").map(|b| b.trim().to_owned()).filter(|b| !b.is_empty()).collect())
}

/// Waits until agents, the API server and readers of flows are told of authorities for which this holds.
fn told(lab: &Lab, what: &str, good: impl Fn(&[&str]) -> bool) -> Result<String> {
    let ask = || bundle(lab);
    Lab::eventually(what, TOLD, ask, |pem| good(&certificates(pem)))?;
    let pem = bundle(lab)?;
    let webhooks = |all: &Vec<String>| !all.is_empty() && all.iter().all(|b| *b == pem.trim());
    Lab::eventually(&format!("{what}: webhooks"), TOLD, || asked(lab), webhooks)?;
    Ok(pem)
}

/// All processes start anew and each has to trust the other by what it is told now; a change of policy comes through.
fn met_again(lab: &Lab, f: &Fixture, round: u32) -> Result<()> {
    for app in ["axoneme-operator", "axoneme-agent"] {
        for pod in runtime::product(lab, app)? {
            Container::of(lab, &pod)?.signal(lab, "SIGKILL")?;
        }
    }
    let connected = |node: &String| {
        let status = runtime::status(lab, node).unwrap_or_default();
        status.pointer("/stream/connected").and_then(Value::as_bool) == Some(true)
    };
    let all = || Ok(lab.cluster.nodes().iter().all(connected));
    Lab::eventually("all agents are connected", TOLD, all, |ok| *ok)?;
    lab.apply(&format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: trusted, namespace: lab}}\nspec:\n  \
         endpointSelector: {{matchLabels: {{app: server}}}}\n  ingress: [{{fromEndpoints: [{{matchLabels: {{app: client}}}}], \
         toPorts: [{{ports: [{{port: \"{}\", protocol: TCP}}, {{port: \"8080\", protocol: TCP}}]}}]}}]\n",
        9000 + round
    ))?;
    lab.condition(&["-n", "lab", "cnp", "trusted"], "Enforced", "True")?;
    hubble::relay_knows_all(lab, f, TOLD)
}

fn rotated(lab: &Lab, f: &Fixture) -> Result<()> {
    let first = bundle(lab)?;
    let [one] = certificates(&first)[..] else { anyhow::bail!("one authority: {first}") };
    let done = under_traffic(lab, f, || {
        lab.cluster.kubectl(&["-n", SYSTEM, "annotate", "secret", "axoneme-ca", "axoneme.io/rotate=now"])?;
        let both = told(lab, "a second authority beside the first", |all| all.len() == 2 && all.contains(&one))?;
        met_again(lab, f, 1)?;
        // and what nobody should do
        lab.cluster.kubectl(&["-n", SYSTEM, "delete", "secret", "axoneme-ca"])?;
        let other = |all: &[&str]| all.len() == 1 && certificates(&both).iter().all(|c| !all.contains(c));
        told(lab, "an authority made anew", other)?;
        met_again(lab, f, 2)
    });
    lab.cluster.kubectl(&["-n", "lab", "delete", "--ignore-not-found", "cnp", "trusted"])?;
    done?;
    ensure!(lab.get(&["-n", SYSTEM, "secret", "axoneme-ca"]).is_ok(), "the Secret is not there");
    Ok(())
}
