//! What is told before an object is stored, and that nothing waits for who tells it.

use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Scenario;
use super::fixture::{Fixture, SOON};
use crate::lab::{Lab, SYSTEM};

pub(super) fn scenarios() -> Vec<Scenario> {
    let named: &[super::Named] = &[
        ("bad_object_is_refused_with_every_wrong_field_and_one_that_is_not_enforced_is_a_warning", refused),
        ("stored_bad_object_is_edited_and_deleted", tolerated),
        ("settings_are_not_deleted_by_accident", settings),
        ("webhooks_are_registered_again_when_a_manifest_is_put_back", registered_again),
        ("nothing_waits_for_operators_that_are_away", away),
    ];
    super::boxed(named)
}

const BAD: &str = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: bad, namespace: other}\nspec:\n  \
    endpointSelector: {matchExpressions: [{key: nobody, operator: In, values: []}]}\n  ingress: [{fromEndpoints: [{}], \
    toPorts: [{ports: [{port: \"90\", endPort: 80, protocol: TCP}]}]}]\n";

/// Until the API server asks: the authority is there, and a bad object is refused.
fn asked(lab: &Lab) -> Result<()> {
    let refuses = || Ok(lab.apply(BAD).err().map(|e| format!("{e:#}")).unwrap_or_default());
    Lab::eventually("a bad object is refused", SOON, refuses, |why| why.contains("is invalid"))?;
    lab.cluster.kubectl(&["-n", "other", "delete", "--ignore-not-found", "cnp", "bad"]).map(drop)
}

/// What kubectl says of a patch, warnings included.
fn patch(lab: &Lab, patch: &str) -> Result<Output> {
    let words = ["-n", "other", "patch", "cnp", "bad", "--type=merge", "-p", patch];
    lab.cluster.kubectl_command().args(words).stdin(Stdio::null()).output().context("kubectl")
}

fn errors(done: &Output) -> String {
    String::from_utf8_lossy(&done.stderr).into_owned()
}

fn refused(lab: &Lab, _: &Fixture) -> Result<()> {
    asked(lab)?;
    let why = lab.apply(BAD).err().map(|e| format!("{e:#}")).context("a bad object was stored")?;
    for told in [
        "The CiliumNetworkPolicy \"bad\" is invalid",
        "matchExpressions[0]",
        "at least one value",
        "ports[0]",
        "endPort 80",
    ] {
        ensure!(why.contains(told), "no {told:?} in {why}");
    }
    let dry = ["apply", "--dry-run=server", "--filename=-"];
    let why = crate::command::output_with(lab.cluster.kubectl_command().args(dry), BAD).err();
    ensure!(why.is_some_and(|e| format!("{e:#}").contains("is invalid")), "a dry run of a bad object passes");
    let good = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: bad, namespace: other}\nspec:\n  \
        endpointSelector: {matchLabels: {app: nobody}}\n  ingress: [{}]\n";
    lab.apply(good)?;
    let names = r#"{"spec":{"egress":[{"toFQDNs":[{"matchName":"a.example"}]}]}}"#;
    let warned = patch(lab, names)?;
    let group = r#"{"spec":{"egress":[{"toCIDRSet":[{"cidrGroupRef":"nowhere"}]}]}}"#;
    let missing = patch(lab, group)?;
    lab.cluster.kubectl(&["-n", "other", "delete", "cnp", "bad"])?;
    ensure!(
        warned.status.success() && errors(&warned).contains("reason=Unsupported: spec.egress[0].toFQDNs"),
        "{}",
        errors(&warned)
    );
    for told in ["there is no CiliumCIDRGroup nowhere yet", "selects no pod"] {
        ensure!(missing.status.success() && errors(&missing).contains(told), "no {told:?} in {}", errors(&missing));
    }
    Ok(())
}

fn tolerated(lab: &Lab, _: &Fixture) -> Result<()> {
    asked(lab)?;
    lab.apply(&BAD.replace(
        "namespace: other}",
        "namespace: other, labels: {axoneme.io/admission: \"off\"}, finalizers: [lab.example/hold]}",
    ))?;
    lab.condition(&["-n", "other", "cnp", "bad"], "Valid", "False")?;
    // from here on the API server asks about it
    let label = patch(lab, r#"{"metadata":{"labels":{"axoneme.io/admission":null}}}"#)?;
    ensure!(label.status.success() && errors(&label).contains("still wrong"), "{}", errors(&label));
    let worse = patch(lab, r#"{"spec":{"ingress":[{}]}}"#)?;
    ensure!(
        !worse.status.success() && errors(&worse).contains("is invalid"),
        "another content that is wrong was stored"
    );
    lab.cluster.kubectl(&["-n", "other", "delete", "cnp", "bad", "--wait=false"])?;
    let freed = patch(lab, r#"{"metadata":{"finalizers":null}}"#)?;
    ensure!(freed.status.success(), "{}", errors(&freed));
    let left = || lab.cluster.kubectl(&["-n", "other", "get", "cnp", "bad", "--ignore-not-found", "-o", "name"]);
    Lab::eventually("the bad object is gone", SOON, left, String::is_empty).map(drop)
}

fn settings(lab: &Lab, _: &Fixture) -> Result<()> {
    asked(lab)?;
    let refused = lab.cluster.kubectl(&["delete", "axonemeconfig", "default", "--dry-run=server"]);
    let why = refused.err().map(|e| format!("{e:#}")).context("the settings were deleted")?;
    ensure!(why.contains("axoneme.io/allow-deletion=true"), "{why}");
    Ok(())
}

fn authority(lab: &Lab) -> Result<Vec<Value>> {
    let object = lab.get(&["validatingwebhookconfiguration", "axoneme"])?;
    let webhooks = object.pointer("/webhooks").and_then(Value::as_array).context("webhooks")?;
    Ok(webhooks.iter().map(|w| w.pointer("/clientConfig/caBundle").cloned().unwrap_or_default()).collect())
}

fn registered_again(lab: &Lab, _: &Fixture) -> Result<()> {
    asked(lab)?;
    let before = authority(lab)?;
    ensure!(before.iter().all(Value::is_string), "{before:?}");
    let file = crate::settings::repository().join("deploy/base/webhooks.yaml").display().to_string();
    lab.cluster.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &file])?;
    ensure!(authority(lab)? == before, "applying the manifest takes the authority out");
    lab.cluster.kubectl(&["replace", "-f", &file])?;
    Lab::eventually("the authority is put back", SOON, || authority(lab), |now| *now == before)?;
    asked(lab)
}

fn away(lab: &Lab, _: &Fixture) -> Result<()> {
    asked(lab)?;
    lab.cluster.kubectl(&["-n", SYSTEM, "scale", "deployment/axoneme-operator", "--replicas=0"])?;
    let gone = || lab.pods(SYSTEM, "app.kubernetes.io/name=axoneme-operator").map(|p| p.len());
    let stored = Lab::eventually("operators are gone", SOON, gone, |n| *n == 0).and_then(|_| {
        let began = std::time::Instant::now();
        lab.apply(BAD)?;
        Ok(began.elapsed())
    });
    lab.cluster.kubectl(&["-n", SYSTEM, "scale", "deployment/axoneme-operator", "--replicas=1"])?;
    lab.rollout(SYSTEM, "deployment/axoneme-operator")?;
    let took = stored?;
    let told = lab.condition(&["-n", "other", "cnp", "bad"], "Valid", "False");
    lab.cluster.kubectl(&["-n", "other", "delete", "cnp", "bad"])?;
    told?;
    ensure!(took < Duration::from_secs(10), "storing took {took:?}");
    asked(lab)
}
