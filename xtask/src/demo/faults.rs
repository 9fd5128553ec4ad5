//! What a node may lack or lose, one after the other on one node: each is named where a person looks, nothing else stops
//! working, and what can be mended while the agent runs needs no restart.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::machine::{Machine, mount_new};
use super::manifests::{Member, Shop};
use super::{SHOP, standalone};
use crate::lab::target;
use crate::progress::step;

/// The pods' addresses: so few that they run out.
const FEW: &str = "10.77.0.0/29";

/// Runs all of them.
pub(super) fn all(machine: &mut Machine) -> Result<()> {
    let shop = Machine::shop(&standalone::manifest(SHOP)?)?;
    step("no BPF filesystem", || {
        held(machine, &[], &["--bpf-dir", "/run/axoneme/none"], "mount -t bpf bpf /sys/fs/bpf")
    })?;
    for (name, why) in [("net_admin", "missing CAP_NET_ADMIN"), ("sys_admin", "missing CAP_SYS_ADMIN")] {
        step(&format!("no capability {name}"), || {
            held(machine, &["setpriv", &format!("--bounding-set=-{name}")], &[], why)
        })?;
    }
    fs::create_dir_all(Machine::path("state"))?;
    mount_new("tmpfs", &Machine::path("state").display().to_string(), Some("size=64k"))?;
    addresses(FEW)?;
    machine.start_agent()?;
    step("cgroup v1 only", || {
        let warnings = machine.status()?.get("warnings").map(Value::to_string).unwrap_or_default();
        ensure!(warnings.contains("no cgroup v2 hierarchy is mounted"), "status has the warnings {warnings}");
        Ok(())
    })?;
    step("state directory full", || full_disk(machine, &shop))?;
    step("no address left", || empty_pool(machine, &shop))
}

/// The agent says in its status what it lacks and how to mend that, for as long as it waits for it.
fn held(machine: &mut Machine, before: &[&str], after: &[&str], why: &str) -> Result<()> {
    machine.hold_agent(before, after, |status| {
        let reasons = status.get("reasons").map(Value::to_string).unwrap_or_default();
        let ready = status.get("ready").and_then(Value::as_bool);
        ready == Some(false) && reasons.contains(why)
    })
}

/// Gives the node these addresses for its pods.
fn addresses(block: &str) -> Result<()> {
    let config = json!({
        "apiVersion": "axoneme.io/v1alpha1", "kind": "AxonemeConfig", "metadata": {"name": "default"},
        "spec": {"ipFamilies": ["IPv4"], "ipam": {"mode": "Kubernetes"}},
    });
    let path = Machine::manifests().join("shop.json");
    let text = fs::read_to_string(&path)?;
    let mut shop: Value = serde_json::from_str(&text)?;
    let node = shop.pointer_mut("/items/0").and_then(Value::as_object_mut).context("the Node comes first")?;
    node.insert("spec".to_owned(), json!({"podCIDR": block, "podCIDRs": [block]}));
    Machine::write("shop.json", &shop.to_string())?;
    Machine::write("config.json", &config.to_string())
}

fn pod<'a>(shop: &'a Shop, name: &str) -> Result<&'a Member> {
    shop.pods.iter().find(|pod| pod.name == name).with_context(|| format!("no pod {name}"))
}

/// A pod that cannot be recorded is refused with the place that is full; once there is space it starts.
fn full_disk(machine: &mut Machine, shop: &Shop) -> Result<()> {
    let web = pod(shop, "web-1")?;
    let filler = Machine::path("state/filler");
    let filled = fs::write(&filler, vec![0; 128 << 10]);
    ensure!(filled.is_err(), "the directory was not full");
    let error = machine.start_pod(web).err().context("a pod started that could not be recorded")?;
    ensure!(format!("{error:#}").contains("is full"), "{error:#}");
    fs::remove_file(&filler)?;
    machine.start_pod(web).context("after space was made")
}

/// Pods start until there is no address; the next is refused by the pool's name, and those that run go on.
fn empty_pool(machine: &mut Machine, shop: &Shop) -> Result<()> {
    let mut refused = None;
    let mut running = vec!["web-1"];
    for name in ["api-1", "api-2", "worker-1", "db-1"] {
        match machine.start_pod(pod(shop, name)?) {
            Ok(()) => running.push(name),
            Err(error) => {
                refused = Some(format!("{error:#}"));
                break;
            }
        }
    }
    let said = refused.with_context(|| format!("all of {running:?} got addresses of {FEW}"))?;
    ensure!(said.contains("is empty"), "{said}");
    let [first, .., last] = running.as_slice() else { anyhow::bail!("only {running:?} started: {said}") };
    let (first, last) = (pod(shop, first)?, pod(shop, last)?);
    let at = target("tcp", machine.address(first)?, 80);
    let answers = machine.probe(last, &[at], std::time::Duration::from_secs(2))?;
    ensure!(answers.iter().all(crate::lab::Outcome::passed), "a running pod lost its network: {answers:?}");
    Ok(())
}
