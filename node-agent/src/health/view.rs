//! What is known of other nodes, for people.

use std::time::{Duration, Instant};

use axoneme_flow::admin::{HealthSummary, LaneHealth, NodeHealth};
use axoneme_wire::Proof;

use super::{
    Place,
    lane::State,
    mesh::{Mesh, Path, Peer},
};

/// Nodes that are named in the summary.
const NAMED: usize = 16;

/// In short: no longer for a large cluster than for a small one.
#[must_use]
pub fn summary(mesh: &Mesh) -> HealthSummary {
    let (mut reachable, mut unknown, mut unreachable) = (0, 0, Vec::new());
    for (name, peer) in mesh.nodes() {
        let paths = [Place::Node, Place::Endpoint].into_iter().filter_map(|place| peer.path(place));
        match paths.max() {
            Some(Path::Reachable) => reachable += 1,
            Some(Path::Unknown) | None => unknown += 1,
            Some(Path::Unreachable) => unreachable.push((name, peer)),
        }
    }
    let proof = mesh.proof();
    HealthSummary {
        nodes: mesh.nodes().len() as u64,
        reachable,
        unknown,
        more_unreachable: unreachable.len().saturating_sub(NAMED) as u64,
        unreachable: unreachable.into_iter().take(NAMED).map(|(name, peer)| sentence(name, peer)).collect(),
        interval_seconds: mesh.interval().as_secs(),
        datapath: match proof {
            Proof::Proven | Proof::Unasked => "proven",
            Proof::Pending => "pending",
            Proof::Refuted(_) => "refuted",
        }
        .to_owned(),
        why: if let Proof::Refuted(why) = proof { why } else { String::new() },
    }
}

fn sentence(name: &str, peer: &Peer) -> String {
    let lost = peer.lanes.iter().filter(|(_, s)| s.state == State::Unreachable);
    let lost: Vec<_> = lost.map(|(lane, s)| format!("{lane}: {}", s.error)).collect();
    format!("{name}: {}", lost.join("; "))
}

/// All of it.
#[must_use]
pub fn matrix(mesh: &Mesh, now: Instant) -> Vec<NodeHealth> {
    let seconds = |at: Option<Instant>| at.map(|at| now.saturating_duration_since(at).as_secs());
    let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
    let nodes = mesh.nodes().iter().map(|(name, peer)| {
        let lanes = peer.lanes.iter().map(|(lane, s)| LaneHealth {
            place: lane.place.name().to_owned(),
            address: lane.address.to_string(),
            protocol: lane.protocol.name().to_owned(),
            state: s.state.name().to_owned(),
            latency_micros: s.latency.map(micros),
            error: s.error.clone(),
            probed_seconds: seconds(s.probed),
            since_seconds: seconds(s.since),
        });
        NodeHealth { node: name.to_string(), lanes: lanes.collect() }
    });
    nodes.collect()
}
