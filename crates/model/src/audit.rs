//! Who asks for policy to be told instead of enforced.
//!
//! One annotation, [`MODE`], on three kinds of objects. Cilium has no name of its own for it (its audit mode is a flag of
//! the agent, and an option of a running endpoint: `policy-audit-mode`, `PolicyAuditMode`), so the name is of this house.
//!
//! | on | value | meaning |
//! |---|---|---|
//! | a policy | `Audit` | the policy is not enforced |
//! | a namespace | `Audit` | no policy is enforced on its pods |
//! | a namespace | `PerPod` | its pods may choose for themselves |
//! | a pod | `Audit` | no policy is enforced on it, **if** its namespace says `PerPod` |
//! | a namespace, a pod | `Enforce` | policy is enforced, whatever the namespace or the whole cluster say |
//!
//! A pod cannot choose `Audit` unless somebody who may write the namespace has allowed it: whoever may create pods could
//! otherwise lift cluster-wide policies from them. Any other value on a namespace or a pod is no choice.

use std::sync::Arc;

use crate::world::{ClusterConfig, Namespace, PlainLabels, Pod};

/// The annotation.
pub const MODE: &str = "policy.axoneme.io/mode";

/// What an object asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Enforce,
    Audit,
    /// On a namespace: as its pods say.
    PerPod,
}

impl Mode {
    /// The mode of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "Enforce" => Some(Self::Enforce),
            "Audit" => Some(Self::Audit),
            "PerPod" => Some(Self::PerPod),
            _ => None,
        }
    }

    /// What the annotations say; none where they say nothing that is understood.
    #[must_use]
    pub fn of(annotations: &PlainLabels) -> Option<Self> {
        annotations.get(MODE).map(Arc::as_ref).and_then(Self::from_name)
    }
}

/// Whether policy is only told, not enforced, on a pod. `namespace`: the pod's own; none: it is not known (yet).
#[must_use]
pub fn is_audited(config: &ClusterConfig, namespace: Option<&Namespace>, pod: &Pod) -> bool {
    let of_namespace = namespace.and_then(|n| Mode::of(&n.annotations));
    match (Mode::of(&pod.annotations), of_namespace) {
        (Some(Mode::Enforce), _) | (_, Some(Mode::Enforce)) => false,
        (Some(Mode::Audit), Some(Mode::PerPod)) | (_, Some(Mode::Audit)) => true,
        (_, Some(Mode::PerPod) | None) => config.audit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotated(mode: Option<&str>) -> PlainLabels {
        mode.map(|m| (MODE.into(), m.into())).into_iter().collect()
    }

    fn pod(mode: Option<&str>) -> Pod {
        Pod {
            namespace: "shop".into(),
            name: "web".into(),
            uid: "u".into(),
            labels: PlainLabels::new(),
            annotations: annotated(mode),
            service_account: "default".into(),
            node: "n1".into(),
            addresses: crate::PackedSet::new(),
            named_ports: crate::PackedMap::new(),
        }
    }

    #[test]
    fn a_pod_cannot_lift_policy_unless_its_namespace_lets_it() {
        for (global, namespace, own, expected) in [
            (false, None, None, false),
            (true, None, None, true),
            (false, Some("Audit"), None, true),
            (true, Some("Enforce"), None, false),
            // forged
            (false, None, Some("Audit"), false),
            (false, Some("Enforce"), Some("Audit"), false),
            (true, Some("Enforce"), Some("Audit"), false),
            // allowed
            (false, Some("PerPod"), Some("Audit"), true),
            (false, Some("PerPod"), None, false),
            (true, Some("PerPod"), None, true),
            // stricter is always allowed
            (true, None, Some("Enforce"), false),
            (false, Some("Audit"), Some("Enforce"), false),
            (true, Some("PerPod"), Some("Enforce"), false),
            // no choice
            (false, Some("audit"), None, false),
            (true, Some("off"), Some("never"), true),
            (false, Some("PerPod"), Some("PerPod"), false),
        ] {
            let config = ClusterConfig { audit: global, ..ClusterConfig::default() };
            let of_namespace = Namespace { annotations: annotated(namespace), ..Namespace::default() };
            let found = is_audited(&config, Some(&of_namespace), &pod(own));
            assert_eq!(found, expected, "global {global}, namespace {namespace:?}, pod {own:?}");
        }
        assert!(is_audited(&ClusterConfig { audit: true, ..ClusterConfig::default() }, None, &pod(None)));
        assert!(!is_audited(&ClusterConfig::default(), None, &pod(Some("Audit"))), "no namespace, no leave");
    }
}
