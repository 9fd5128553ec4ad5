//! The reference network (`--cni ref`): `ptp`, `host-local` and `portmap` on each node, and plain routes between them.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::network::{self, CONTROL_PLANE};
use super::state::{Paths, State};

fn configuration(ranges: &[String]) -> Value {
    let subnets: Vec<Value> = ranges.iter().map(|range| json!([{"subnet": range}])).collect();
    let routes: Vec<Value> =
        ranges.iter().map(|range| json!({"dst": if range.contains(':') { "::/0" } else { "0.0.0.0/0" }})).collect();
    json!({"cniVersion": "1.0.0", "name": "reference", "plugins": [
        {"type": "ptp", "mtu": 1500, "ipam": {"type": "host-local", "ranges": subnets, "routes": routes}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ]})
}

/// Installs the plugins on every node and the routes everywhere on the nodes' subnet.
pub(crate) fn install(paths: &Paths, state: &State, ranges: &[(String, Vec<String>)]) -> Result<()> {
    for ((node, number), (_, own)) in state.nodes().iter().zip(ranges) {
        let root = paths.node(node).join("root");
        copy_plugins(&state.bin.join("cni"), &root.join("opt/cni/bin"))?;
        let others = state.nodes().into_iter().map(|(name, _)| name).filter(|name| name != node);
        for role in others.chain([CONTROL_PLANE.to_owned()]) {
            network::route(state.layout, &role, own, *number)?;
        }
        // The configuration comes last: it makes the node ready.
        let text = serde_json::to_string_pretty(&configuration(own))?;
        fs::write(root.join("etc/cni/net.d/10-reference.conflist"), text)?;
    }
    Ok(())
}

fn copy_plugins(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name())).context("copying a CNI plugin")?;
    }
    Ok(())
}
