//! `axoneme` as a person in front of a cluster uses it. The suite's product came by `axoneme install`, and goes by
//! `axoneme uninstall`.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Scenario;
use super::fixture::{Fixture, SOON};
use crate::command::{output, program};
use crate::lab::{Lab, SYSTEM};
use crate::settings;

pub(super) fn scenarios() -> Vec<Scenario> {
    let named: &[super::Named] = &[
        ("install_again_changes_nothing", again),
        ("settings_are_shown_set_and_taken_back", set),
        ("nodes_are_listed_with_what_they_run", nodes),
        ("sysdump_has_every_part_and_no_secret", dump),
    ];
    super::boxed(named)
}

fn again(lab: &Lab, _: &Fixture) -> Result<()> {
    let said = lab.axoneme(&["install", "--wait", "-o", "json"])?;
    let report: Value = serde_json::from_str(&said)?;
    let objects = report.pointer("/objects").and_then(Value::as_array).context("objects")?;
    let touched: Vec<&Value> =
        objects.iter().filter(|o| o.get("outcome").and_then(Value::as_str) != Some("unchanged")).collect();
    ensure!(objects.len() > 20 && touched.is_empty(), "{} objects, of which {touched:?}", objects.len());
    Ok(())
}

fn setting(lab: &Lab, path: &str) -> Result<Value> {
    lab.get(&["axonemeconfig", "default"])
        .map(|config| config.pointer(&format!("/{}", path.replace('.', "/"))).cloned().unwrap_or_default())
}

fn set(lab: &Lab, _: &Fixture) -> Result<()> {
    const PATH: &str = "spec.policy.denyResponse";
    let was = setting(lab, PATH)?;
    let wrong = lab.axoneme(&["config", "set", &format!("{PATH}=Loudly")]).err().map(|e| format!("{e:#}"));
    ensure!(wrong.as_ref().is_some_and(|e| e.contains(PATH) && e.contains("ICMP")), "a wrong value: {wrong:?}");
    lab.axoneme(&["config", "set", &format!("{PATH}=ICMP"), "--wait"])?;
    ensure!(setting(lab, PATH)? == "ICMP", "set, and is {}", setting(lab, PATH)?);
    let shown = lab.axoneme(&["config", "view", PATH])?;
    ensure!(shown.contains("ICMP") && shown.contains("axoneme-cli"), "{shown}");
    lab.axoneme(&["config", "set", &format!("{PATH}-"), "--wait"])?;
    Lab::eventually("as it was", SOON, || setting(lab, PATH), |now| *now == was).map(drop)
}

fn nodes(lab: &Lab, _: &Fixture) -> Result<()> {
    let shown = lab.axoneme(&["nodes"])?;
    for node in lab.cluster.nodes() {
        let line = shown.lines().find(|l| l.starts_with(&node)).with_context(|| format!("no {node} in\n{shown}"))?;
        ensure!(line.contains("Ready"), "{line}");
    }
    Ok(())
}

/// Lines of what must not be in an archive: keys and tokens that the product keeps in Secrets.
fn secrets(lab: &Lab) -> Result<Vec<String>> {
    let list = lab.get(&["-n", SYSTEM, "secrets"])?;
    let mut found = Vec::new();
    for secret in list.pointer("/items").and_then(Value::as_array).into_iter().flatten() {
        let values = secret.pointer("/data").and_then(Value::as_object).into_iter().flatten();
        found.extend(values.filter(|(key, _)| key.ends_with("key")).filter_map(|(_, v)| v.as_str()).map(str::to_owned));
    }
    Ok(found)
}

fn dump(lab: &Lab, _: &Fixture) -> Result<()> {
    let secrets = secrets(lab)?;
    ensure!(!secrets.is_empty(), "no Secret of the product: nothing is looked for");
    let dir = settings::target().join(format!("tmp/{}-sysdump", lab.cluster.name()));
    drop(std::fs::remove_dir_all(&dir));
    std::fs::create_dir_all(&dir)?;
    let archive = dir.join("dump.tar.gz").display().to_string();
    lab.axoneme(&["sysdump", "--output", &archive])?;
    output(program("tar").args(["--extract", "--gzip", "--file", &archive, "--directory"]).arg(&dir))?;
    let text = output(program("grep").args(["-rh", ""]).arg(&dir).args(["--exclude=dump.tar.gz"]))?;
    for part in ["AxonemeConfig", "CiliumNode", "axoneme-operator", "axoneme-agent", "operator started"] {
        ensure!(text.contains(part), "no {part} in the archive");
    }
    let index = output(program("find").arg(&dir).args(["-name", "index.json", "-exec", "cat", "{}", ";"]))?;
    let index: Value = serde_json::from_str(&index).context("index.json")?;
    let parts = index.get("parts").and_then(Value::as_array).context("parts")?;
    let missing: Vec<&Value> = parts.iter().filter(|p| p.get("present") != Some(&Value::Bool(true))).collect();
    ensure!(parts.len() > 20 && missing.is_empty(), "{} parts, missing: {missing:?}", parts.len());
    for secret in &secrets {
        let decoded = decoded(secret)?;
        let line = decoded.lines().find(|l| !l.starts_with("-----") && l.len() > 20).unwrap_or(&decoded);
        ensure!(!text.contains(secret.as_str()) && !text.contains(line), "a key is in the archive");
    }
    std::fs::remove_dir_all(&dir).context("tidying up")
}

fn decoded(base64: &str) -> Result<String> {
    crate::command::output_with(program("base64").arg("--decode"), base64)
}

/// Objects of the cluster, not of a namespace, that are the product's.
const KINDS: &str = "crd,clusterrole,clusterrolebinding,apiservice,validatingwebhookconfiguration,namespace";

/// Takes the product away with all of its kinds, and looks for what is left of it in the API.
pub(super) fn uninstalled(lab: &Lab) -> Result<()> {
    lab.axoneme(&["uninstall", "--purge", "--timeout", "180"])?;
    let left = || {
        let names = lab.cluster.kubectl(&["get", KINDS, "-o", "name"])?;
        let own = |n: &&str| n.contains("axoneme") || n.contains("cilium") || n.contains("hubble");
        Ok(names.lines().filter(own).map(str::to_owned).collect::<Vec<_>>())
    };
    Lab::eventually("nothing is left in the API", SOON, left, Vec::is_empty).map(drop)
}
