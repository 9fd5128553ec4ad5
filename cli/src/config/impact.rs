//! What a change of a setting does to nodes and pods that run.

use serde::Serialize;
use serde_json::Value;

/// How a change takes place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Change {
    /// At once, while agents and pods run.
    Live,
    /// For pods that are made from then on.
    NewPods,
    /// In steps over the nodes, or with the agents' restart.
    Rolling,
    /// Not at all: the API server refuses it.
    Refused,
}

impl Change {
    /// In words, for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::NewPods => "new pods only",
            Self::Rolling => "rolling",
            Self::Refused => "refused",
        }
    }
}

/// What is to be known of a setting's change: the beginning of its path, how, and what follows. The longest path decides.
const CHANGES: &[(&str, Change, &str)] = &[
    (
        "spec.clusterName",
        Change::Live,
        "identities of all pods are made anew; policies that name the cluster mean another",
    ),
    ("spec.ipFamilies", Change::NewPods, "pods keep the addresses that they have"),
    (
        "spec.routing.mode",
        Change::Rolling,
        "from and to Hybrid in steps, without a packet lost; from and to Native at once on each node: nodes that have and \
         have not changed do not reach each other's pods meanwhile",
    ),
    (
        "spec.routing.overlay.protocol",
        Change::Rolling,
        "in steps without a packet lost: all nodes take the new tunnel's packets before any sends by it; unless the port \
         stays the same",
    ),
    (
        "spec.routing.overlay.port",
        Change::Rolling,
        "on each node at once, if the protocol stays: nodes that have and have not changed do not reach each other's pods \
         meanwhile",
    ),
    (
        "spec.routing.hybrid",
        Change::Rolling,
        "in steps: a node takes packets past the tunnel before another sends them",
    ),
    ("spec.routing.native", Change::Live, "routes and masquerading of each node; of no effect in mode Overlay"),
    ("spec.mtu", Change::Live, "pods and tunnel are changed in the order that loses no packet"),
    ("spec.podDevice", Change::NewPods, "pods keep what they have"),
    (
        "spec.ipam.mode",
        Change::Refused,
        "the IPAM mode cannot be changed but from ClusterPool to MultiPool: pods would keep addresses that nobody accounts \
         for",
    ),
    (
        "spec.ipam.clusterPool",
        Change::NewPods,
        "blocks that nodes hold stay; a prefix that is in use cannot be taken away",
    ),
    ("spec.ipam.multiPool", Change::NewPods, "pods keep their addresses; blocks go and come by it"),
    ("spec.masquerade", Change::Live, "connections that are open keep the address that they have"),
    ("spec.policy", Change::Live, "open connections are judged again at their next packet"),
    ("spec.policy.denyResponse", Change::Live, ""),
    ("spec.hostFirewall", Change::Live, "open connections of nodes are judged again at their next packet"),
    ("spec.services.enabled", Change::Live, "when off, kube-proxy must run"),
    ("spec.services.socketLB", Change::Live, "sockets that are connected keep their backend"),
    (
        "spec.conntrack.maxEntries",
        Change::Rolling,
        "takes effect when an agent restarts: kubectl -n axoneme-system rollout restart daemonset/axoneme-agent",
    ),
    ("spec.conntrack", Change::Live, ""),
    ("spec.cni.exclusive", Change::Live, ""),
    ("spec.cni.chainedPlugins", Change::NewPods, "the runtime reads the configuration for each pod"),
    ("spec.flows", Change::Live, ""),
    ("spec.nodeHealth", Change::Live, ""),
    ("spec.agent", Change::Live, ""),
];

/// How a change of the setting from one value to another takes place, and what follows.
#[must_use]
pub fn change(path: &str, from: &Value, to: &Value) -> (Change, &'static str) {
    if path == "spec.ipam.mode" && from == "ClusterPool" && to == "MultiPool" {
        return (Change::Rolling, "the blocks of the nodes go to the default pool; pods keep their addresses");
    }
    let found = CHANGES.iter().filter(|(section, ..)| super::fields::below(path, section));
    // a setting that nobody has thought of does not exist: the test holds the table to the schema
    found.max_by_key(|(section, ..)| section.len()).map_or((Change::Rolling, ""), |(_, how, what)| (*how, what))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::fields::{below, settings};

    #[test]
    fn somebody_has_thought_of_every_setting() {
        let all = settings();
        for path in all.keys() {
            assert!(CHANGES.iter().any(|(section, ..)| below(path, section)), "{path}");
        }
        for (section, ..) in CHANGES {
            assert!(all.keys().any(|path| below(path, section)), "{section} is no setting");
        }
    }

    #[test]
    fn the_ipam_mode_changes_one_way_only() {
        let how = |a, b| change("spec.ipam.mode", &json!(a), &json!(b)).0;
        assert_eq!(how("ClusterPool", "MultiPool"), Change::Rolling);
        assert_eq!(how("MultiPool", "ClusterPool"), Change::Refused);
        assert_eq!(change("spec.conntrack.udpSeconds", &json!(1), &json!(2)).0, Change::Live);
        assert_eq!(change("spec.conntrack.maxEntries", &json!(1), &json!(2)).0, Change::Rolling);
    }
}
