//! Values of the settings that all nodes have alike, which no CiliumNodeConfig can say and so no other table reads.

use serde_json::{Map, Value, json};

use super::Translated;

/// The key of Cilium's by which the table of single nodes' settings reads a value of its own spelling.
pub(super) fn key(path: &str) -> &'static str {
    match path {
        "spec.agent.logLevel" => "debug",
        "spec.cni.chainedPlugins" => "cni-chaining-mode",
        "spec.podDevice" => "datapath-mode",
        "spec.mtu" => "mtu",
        _ => "",
    }
}

/// The value; none if nodes may differ in the setting: then another table has its spelling.
pub(super) fn setting(path: &'static str, key: &str, text: &str) -> Option<Result<Vec<Translated>, String>> {
    let choice = |choices: &[(&str, &str)]| {
        let found = choices.iter().find(|(theirs, _)| theirs.eq_ignore_ascii_case(text));
        let theirs: Vec<_> = choices.iter().map(|(theirs, _)| *theirs).collect();
        found.map(|(_, ours)| json!(ours)).ok_or_else(|| format!("must be {}", theirs.join(" or ")))
    };
    let value = match path {
        "spec.clusterName" | "spec.ipam.multiPool.defaultPool" => Ok(json!(text)),
        "spec.routing.mode" if key == "tunnel" => return Some(tunnel(text)),
        "spec.routing.mode" => choice(&[("tunnel", "Overlay"), ("native", "Native"), ("hybrid", "Hybrid")]),
        "spec.routing.overlay.protocol" => choice(&[("vxlan", "VXLAN"), ("geneve", "Geneve")]),
        // 0: the protocol's own, as here without the setting
        "spec.routing.overlay.port" if text == "0" => Ok(Value::Null),
        "spec.routing.overlay.port" | "spec.ipam.clusterPool.ipv4.maskSize" | "spec.ipam.clusterPool.ipv6.maskSize" => {
            text.parse::<i64>().map(Value::from).map_err(|_| "must be a whole number".to_owned())
        }
        "spec.routing.hybrid.subnets" => subnets(text),
        "spec.ipam.clusterPool.ipv4.cidrs" | "spec.ipam.clusterPool.ipv6.cidrs" => Ok(list(text)),
        "spec.ipam.mode" => ipam(text),
        "spec.ipam.multiPool.preAllocate" => counts(text),
        "spec.policy.enforcement" => choice(&[("default", "Default"), ("always", "Always"), ("never", "Never")]),
        "spec.policy.cidrMatchMode" if text.eq_ignore_ascii_case("nodes") => Ok(json!(["Nodes"])),
        "spec.policy.cidrMatchMode" => Err("must be nodes".to_owned()),
        "spec.policy.denyResponse" => choice(&[("none", "None"), ("icmp", "ICMP")]),
        // with Kubernetes both mean yes
        "spec.policy.allowLocalhost" => choice(&[("auto", "Auto"), ("always", "Auto"), ("policy", "Policy")]),
        "spec.policy.auditMode"
        | "spec.hostFirewall.enabled"
        | "spec.nodeHealth.enabled"
        | "spec.nodeHealth.endpoints" => choice(&[("true", "true"), ("false", "false")]).map(|v| json!(v == "true")),
        _ => return None,
    };
    Some(value.map(|value| vec![(path, value, "")]))
}

/// The setting that Cilium had before `routing-mode` and `tunnel-protocol`.
fn tunnel(text: &str) -> Result<Vec<Translated>, String> {
    let both = |protocol: &str| {
        let note = "Cilium has taken this key away; it reads routing-mode and tunnel-protocol";
        vec![("spec.routing.mode", json!("Overlay"), note), ("spec.routing.overlay.protocol", json!(protocol), note)]
    };
    match text {
        "vxlan" => Ok(both("VXLAN")),
        "geneve" => Ok(both("Geneve")),
        "disabled" => Ok(vec![("spec.routing.mode", json!("Native"), "Cilium has taken this key away")]),
        _ => Err("must be vxlan or geneve or disabled".to_owned()),
    }
}

fn ipam(text: &str) -> Result<Value, String> {
    match text {
        "cluster-pool" => Ok(json!("ClusterPool")),
        "multi-pool" => Ok(json!("MultiPool")),
        "kubernetes" => Ok(json!("Kubernetes")),
        "crd" => Ok(json!("CRD")),
        "eni" | "azure" | "alibabacloud" | "delegated-plugin" => {
            Err("pods do not get addresses of a cloud or of another plugin yet: there are cluster-pool, multi-pool, \
             kubernetes and crd"
                .to_owned())
        }
        _ => Err("must be cluster-pool or multi-pool or kubernetes or crd".to_owned()),
    }
}

/// `default=8,blue=16`.
fn counts(text: &str) -> Result<Value, String> {
    let mut counts = Map::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let (pool, count) = item.split_once('=').ok_or("must be pools with numbers: default=8,blue=16")?;
        let count: u32 = count.trim().parse().map_err(|_| format!("the number of pool {pool} must be whole"))?;
        counts.insert(pool.trim().to_owned(), count.into());
    }
    Ok(Value::Object(counts))
}

/// Cilium's topology has groups of prefixes, one link each; here a group is one prefix.
fn subnets(text: &str) -> Result<Value, String> {
    if text.split(';').any(|group| group.split(',').filter(|c| !c.trim().is_empty()).count() > 1) {
        let reason = "several prefixes behind commas are one link there; here each prefix of \
                      spec.routing.hybrid.subnets is a link of its own: write one that spans them";
        return Err(reason.to_owned());
    }
    Ok(list(text))
}

fn list(text: &str) -> Value {
    text.split(|c: char| matches!(c, ',' | ';') || c.is_whitespace()).filter(|item| !item.is_empty()).collect()
}
