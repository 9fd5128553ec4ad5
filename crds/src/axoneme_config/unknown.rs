//! Settings that AxonemeConfig does not have: renamed, removed, of Cilium, or mistyped.
//!
//! The API server drops fields that the schema does not have, before any webhook sees the object, so a setting that
//! moved would silently be its default. kubectl asks the API server to refuse them instead, but not every client does,
//! and that refusal has no new name. So everything that reads settings asks here too: for files as they are written,
//! for stored objects by the copy that `kubectl apply` leaves in an annotation.

use std::{
    collections::{BTreeSet, HashMap},
    sync::LazyLock,
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
use serde_json::Value;

use super::foreign;
use crate::{
    definition::schema_of,
    field::{FieldError, UnknownField, nearest, normalize, unknown_fields},
};

/// What to use instead of a setting that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Successor {
    /// The setting of this path in AxonemeConfig.
    Setting(&'static str),
    /// Nothing, and nothing is lost by it; for this reason.
    Gone(&'static str),
    /// Nothing, for what it switches on is not there: whoever relies on it loses it, as the text says. Switched off it
    /// means nothing.
    Missing(&'static str),
    /// Nothing, and in Cilium 1.20 neither.
    Removed(&'static str),
}

use Successor::{Gone, Missing, Removed, Setting};

const FOLDERS: &str = "the CNI folders of the nodes are volumes of the agent's DaemonSet: cni-conf and cni-bin";

/// Cilium's settings that have another name here: keys of its ConfigMap (`enable-ipv4`), values of its Helm chart
/// (`ipam.operator.clusterPoolIPv4MaskSize`). Case, dashes and underscores make no difference.
///
/// Source: the Cilium 1.20 Helm reference and agent flags, and older names that people still have in their files.
const KNOWN: &[(&str, Successor)] = &[
    ("cluster-name", Setting("spec.clusterName")),
    ("cluster.name", Setting("spec.clusterName")),
    ("enable-ipv4", Setting("spec.ipFamilies")),
    ("enable-ipv6", Setting("spec.ipFamilies")),
    ("ipv4.enabled", Setting("spec.ipFamilies")),
    ("ipv6.enabled", Setting("spec.ipFamilies")),
    ("tunnel", Setting("spec.routing.mode")),
    ("routing-mode", Setting("spec.routing.mode")),
    ("tunnel-protocol", Setting("spec.routing.overlay.protocol")),
    ("tunnel-port", Setting("spec.routing.overlay.port")),
    ("native-routing-cidr", Setting("spec.routing.native.ipv4CIDR")),
    ("ipv4-native-routing-cidr", Setting("spec.routing.native.ipv4CIDR")),
    ("ipv6-native-routing-cidr", Setting("spec.routing.native.ipv6CIDR")),
    ("auto-direct-node-routes", Setting("spec.routing.native.autoDirectNodeRoutes")),
    ("subnet-topology", Setting("spec.routing.hybrid.subnets")),
    ("direct-routing-skip-unreachable", Gone("a node that is on no link of another gets no direct route there")),
    ("cluster-pool-ipv4-cidr", Setting("spec.ipam.clusterPool.ipv4.cidrs")),
    ("cluster-pool-ipv4-mask-size", Setting("spec.ipam.clusterPool.ipv4.maskSize")),
    ("cluster-pool-ipv6-cidr", Setting("spec.ipam.clusterPool.ipv6.cidrs")),
    ("cluster-pool-ipv6-mask-size", Setting("spec.ipam.clusterPool.ipv6.maskSize")),
    ("ipam.operator.clusterPoolIPv4PodCIDR", Setting("spec.ipam.clusterPool.ipv4.cidrs")),
    ("ipam.operator.clusterPoolIPv4PodCIDRList", Setting("spec.ipam.clusterPool.ipv4.cidrs")),
    ("ipam.operator.clusterPoolIPv4MaskSize", Setting("spec.ipam.clusterPool.ipv4.maskSize")),
    ("ipam.operator.clusterPoolIPv6PodCIDR", Setting("spec.ipam.clusterPool.ipv6.cidrs")),
    ("ipam.operator.clusterPoolIPv6PodCIDRList", Setting("spec.ipam.clusterPool.ipv6.cidrs")),
    ("ipam.operator.clusterPoolIPv6MaskSize", Setting("spec.ipam.clusterPool.ipv6.maskSize")),
    ("ipam.operator.autoCreateCiliumPodIPPools", Gone("create the CiliumPodIPPool objects themselves")),
    ("auto-create-cilium-pod-ip-pools", Gone("create the CiliumPodIPPool objects themselves")),
    ("ipam-default-ip-pool", Setting("spec.ipam.multiPool.defaultPool")),
    ("ipam-multi-pool-pre-allocation", Setting("spec.ipam.multiPool.preAllocate")),
    ("ipam.multiPoolPreAllocation", Setting("spec.ipam.multiPool.preAllocate")),
    ("masquerade-enabled", Setting("spec.masquerade.ipv4")),
    ("enable-ipv4-masquerade", Setting("spec.masquerade.ipv4")),
    ("enable-ipv6-masquerade", Setting("spec.masquerade.ipv6")),
    ("enable-ip-masq-agent", Setting("spec.masquerade.excludeCIDRs")),
    ("ipMasqAgent.enabled", Setting("spec.masquerade.excludeCIDRs")),
    ("ipMasqAgent.config.nonMasqueradeCIDRs", Setting("spec.masquerade.excludeCIDRs")),
    ("bpf.masquerade", Gone("masquerading is always done by nftables")),
    ("enable-bpf-masquerade", Gone("masquerading is always done by nftables")),
    ("enable-policy", Setting("spec.policy.enforcement")),
    ("policyEnforcementMode", Setting("spec.policy.enforcement")),
    ("policy-cidr-match-mode", Setting("spec.policy.cidrMatchMode")),
    ("policy-audit-mode", Setting("spec.policy.auditMode")),
    ("policy-deny-response", Setting("spec.policy.denyResponse")),
    ("enable-host-firewall", Setting("spec.hostFirewall.enabled")),
    ("hostFirewall.enabled", Setting("spec.hostFirewall.enabled")),
    ("allow-localhost", Setting("spec.policy.allowLocalhost")),
    ("enable-icmp-rules", Gone("icmps in policies are always enforced")),
    ("enable-k8s-networkpolicy", Gone("NetworkPolicy objects are always enforced")),
    ("k8sNetworkPolicy.enabled", Gone("NetworkPolicy objects are always enforced")),
    ("kube-proxy-replacement", Setting("spec.services.enabled")),
    ("bpf-lb-sock", Setting("spec.services.socketLB.enabled")),
    ("bpf-lb-sock-hostns-only", Setting("spec.services.socketLB.hostNamespaceOnly")),
    ("socketLB.enabled", Setting("spec.services.socketLB.enabled")),
    ("socketLB.hostNamespaceOnly", Setting("spec.services.socketLB.hostNamespaceOnly")),
    ("bpf-ct-global-tcp-max", Setting("spec.conntrack.maxEntries")),
    ("bpf-ct-global-any-max", Setting("spec.conntrack.maxEntries")),
    ("bpf.ctTcpMax", Setting("spec.conntrack.maxEntries")),
    ("bpf.ctAnyMax", Setting("spec.conntrack.maxEntries")),
    ("bpf-ct-timeout-regular-tcp", Setting("spec.conntrack.tcpEstablishedSeconds")),
    ("bpf-ct-timeout-regular-tcp-syn", Setting("spec.conntrack.tcpOpeningSeconds")),
    ("bpf-ct-timeout-regular-tcp-fin", Setting("spec.conntrack.tcpClosingSeconds")),
    ("bpf-ct-timeout-regular-any", Setting("spec.conntrack.udpSeconds")),
    ("cni-exclusive", Setting("spec.cni.exclusive")),
    ("cni-chaining-mode", Setting("spec.cni.chainedPlugins")),
    ("cni.chainingMode", Setting("spec.cni.chainedPlugins")),
    ("cni.confPath", Gone(FOLDERS)),
    ("cni.binPath", Gone(FOLDERS)),
    ("cni.hostConfDirMountPath", Gone(FOLDERS)),
    ("write-cni-conf-when-ready", Gone("the CNI configuration is always written when the agent is ready")),
    ("hubble-event-buffer-capacity", Setting("spec.flows.bufferEvents")),
    ("hubble.eventBufferCapacity", Setting("spec.flows.bufferEvents")),
    ("hubble-drop-events", Setting("spec.flows.dropEventsSeconds")),
    ("hubble-drop-events-interval", Setting("spec.flows.dropEventsSeconds")),
    ("hubble.dropEventEmitter.enabled", Setting("spec.flows.dropEventsSeconds")),
    ("hubble.dropEventEmitter.interval", Setting("spec.flows.dropEventsSeconds")),
    ("enable-health-checking", Setting("spec.nodeHealth.enabled")),
    ("healthChecking", Setting("spec.nodeHealth.enabled")),
    ("enable-endpoint-health-checking", Setting("spec.nodeHealth.endpoints")),
    ("endpointHealthChecking.enabled", Setting("spec.nodeHealth.endpoints")),
    ("cluster-health-port", Gone("nodes always answer probes on TCP port 4240")),
    ("debug", Setting("spec.agent.logLevel")),
    ("debug.enabled", Setting("spec.agent.logLevel")),
    ("devices", Setting("spec.agent.devices")),
    ("datapath-mode", Setting("spec.podDevice")),
    ("bpf.datapathMode", Setting("spec.podDevice")),
    ("identity-allocation-mode", Gone("identities are always kept as CiliumIdentity objects")),
    ("kvstore", Gone("state is kept in the Kubernetes API only")),
    ("etcd.enabled", Gone("state is kept in the Kubernetes API only")),
    ("labels", Gone("an identity is made of the labels that policies read, without configuration")),
];

/// What to use instead of a setting of Cilium, by its ConfigMap key or Helm path. `None` for names that are not known.
pub fn successor(name: &str) -> Option<Successor> {
    static INDEX: LazyLock<HashMap<String, Successor>> = LazyLock::new(|| {
        let mut all = foreign::index(foreign::NAMES);
        all.extend(KNOWN.iter().map(|(name, successor)| (normalize(name), *successor)));
        all
    });
    INDEX.get(&normalize(name)).copied()
}

/// Where `kubectl apply` keeps the object as the user wrote it, unknown fields and all.
const LAST_APPLIED: &str = "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration";

/// The settings of an AxonemeConfig object that do not exist, each with what to write instead, in the order of their
/// paths. Looks at the object and at what `kubectl apply` noted of it.
pub fn validate_unknown(object: &Value) -> Vec<FieldError> {
    let Some(schema) = schema_of("axoneme.io/v1alpha1", "AxonemeConfig") else { return Vec::new() };
    // An annotation that is no JSON is not kubectl's; it says nothing about settings.
    let applied = object.pointer(LAST_APPLIED).and_then(Value::as_str).and_then(|text| serde_json::from_str(text).ok());
    let found: BTreeSet<FieldError> = [Some(object), applied.as_ref()]
        .into_iter()
        .flatten()
        .flat_map(|object| unknown_fields(schema, object))
        .flat_map(|field| explain(&field, schema))
        .collect();
    found.into_iter().collect()
}

/// One error for each known name below the unknown field; one for the field itself where none is known.
fn explain(field: &UnknownField<'_>, schema: &JSONSchemaProps) -> Vec<FieldError> {
    let mut leaves = Vec::new();
    collect_known(&field.path, field.value, &mut leaves);
    if leaves.is_empty() {
        leaves.push(FieldError { path: field.path.clone(), message: suggest(field, schema) });
    }
    leaves
}

/// Finds names of the table at or below a field. The longest one wins: `debug.enabled` before `debug`.
fn collect_known(path: &str, value: &Value, found: &mut Vec<FieldError>) {
    let before = found.len();
    if let Value::Object(fields) = value {
        for (name, value) in fields {
            collect_known(&format!("{path}.{name}"), value, found);
        }
    }
    let name = path.strip_prefix("spec.").unwrap_or(path);
    if let (true, Some(successor)) = (found.len() == before, successor(name)) {
        let message = match successor {
            Setting(setting) => format!("no such setting; use {setting}"),
            Gone(reason) | Missing(reason) | Removed(reason) => format!("no such setting; {reason}"),
        };
        found.push(FieldError { path: path.into(), message });
    }
}

/// For a name that the table does not have: the nearest setting in the same place, else a setting of that name
/// elsewhere, else the settings that are in this place.
fn suggest(field: &UnknownField<'_>, schema: &JSONSchemaProps) -> String {
    let (place, name) = field.path.rsplit_once('.').unwrap_or(("", &field.path));
    if let Some(near) = nearest(name, field.known.iter().copied()) {
        let near = if place.is_empty() { near.to_owned() } else { format!("{place}.{near}") };
        return format!("no such setting; did you mean {near}?");
    }
    let mut settings = Vec::new();
    collect_settings("", schema, &mut settings);
    let leaf = |path: &str| normalize(path.rsplit('.').next().unwrap_or(path));
    match settings.iter().find(|path| leaf(path) == normalize(name)) {
        Some(path) => format!("no such setting; did you mean {path}?"),
        None => format!("no such setting; settings here: {}", field.known.join(", ")),
    }
}

/// The paths of all settings below `spec`.
fn collect_settings(path: &str, schema: &JSONSchemaProps, found: &mut Vec<String>) {
    for (name, schema) in schema.properties.iter().flatten() {
        if path.is_empty() && name != "spec" {
            continue;
        }
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        collect_settings(&path, schema, found);
        found.push(path);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn messages(spec: &Value) -> Vec<String> {
        let object = json!({"apiVersion": "axoneme.io/v1alpha1", "kind": "AxonemeConfig", "spec": spec});
        validate_unknown(&object).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_successor_is_a_setting_of_the_schema() {
        let schema = schema_of("axoneme.io/v1alpha1", "AxonemeConfig").expect("AxonemeConfig has a schema");
        let mut settings = Vec::new();
        collect_settings("", schema, &mut settings);
        for (name, successor) in KNOWN {
            if let Setting(path) = successor {
                assert!(settings.iter().any(|setting| setting == path), "{name} points at {path}, which is no setting");
            }
        }
    }

    #[test]
    fn every_name_of_the_table_is_there_once() {
        let others = foreign::NAMES.iter().flat_map(|(_, words)| words.split_whitespace());
        let mut names: Vec<String> = KNOWN.iter().map(|(name, _)| *name).chain(others).map(normalize).collect();
        let all = names.len();
        names.sort();
        let twice: Vec<_> = names.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0].clone()).collect();
        assert_eq!(twice, [""; 0]);
        assert!(all > 400, "{all}");
    }

    #[test]
    fn names_of_cilium_are_refused_with_the_new_name() {
        assert_eq!(messages(&json!({"tunnel": "vxlan"})), ["spec.tunnel: no such setting; use spec.routing.mode"]);
        assert_eq!(
            messages(&json!({"enable-ipv4": true, "ipv6": {"enabled": true}})),
            [
                "spec.enable-ipv4: no such setting; use spec.ipFamilies",
                "spec.ipv6.enabled: no such setting; use spec.ipFamilies"
            ]
        );
        assert_eq!(
            messages(&json!({"ipam": {"mode": "ClusterPool", "operator": {
                "clusterPoolIPv4PodCIDRList": ["10.0.0.0/8"],
                "clusterPoolIPv4MaskSize": 24
            }}})),
            [
                "spec.ipam.operator.clusterPoolIPv4MaskSize: no such setting; use spec.ipam.clusterPool.ipv4.maskSize",
                "spec.ipam.operator.clusterPoolIPv4PodCIDRList: no such setting; use spec.ipam.clusterPool.ipv4.cidrs"
            ]
        );
        assert_eq!(
            messages(&json!({"bpf": {"masquerade": true, "ctTcpMax": 65536}})),
            [
                "spec.bpf.ctTcpMax: no such setting; use spec.conntrack.maxEntries",
                "spec.bpf.masquerade: no such setting; masquerading is always done by nftables"
            ]
        );
    }

    #[test]
    fn a_mistyped_name_gets_its_neighbour() {
        assert_eq!(
            messages(&json!({"routing": {"mod": "Native", "overlay": {"prot": 1}}})),
            [
                "spec.routing.mod: no such setting; did you mean spec.routing.mode?",
                "spec.routing.overlay.prot: no such setting; did you mean spec.routing.overlay.port?"
            ]
        );
        assert_eq!(
            messages(&json!({"ip_families": ["IPv4"]})),
            ["spec.ip_families: no such setting; did you mean spec.ipFamilies?"]
        );
    }

    #[test]
    fn a_setting_in_the_wrong_place_gets_its_path() {
        assert_eq!(
            messages(&json!({"overlay": {"port": 8472}})),
            ["spec.overlay: no such setting; did you mean spec.routing.overlay?"]
        );
    }

    #[test]
    fn a_name_like_no_other_gets_the_choices() {
        assert_eq!(
            messages(&json!({"masquerade": {"whatever": true}})),
            ["spec.masquerade.whatever: no such setting; settings here: excludeCIDRs, ipv4, ipv6"]
        );
    }

    #[test]
    fn a_setting_that_the_api_server_dropped_is_found_in_the_applied_copy() {
        let applied = json!({"spec": {"tunnel": "vxlan", "kvstore": "etcd"}}).to_string();
        let object = json!({
            "metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": applied}},
            "spec": {"tunnel": "vxlan"}
        });
        assert_eq!(
            validate_unknown(&object).iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "spec.kvstore: no such setting; state is kept in the Kubernetes API only",
                "spec.tunnel: no such setting; use spec.routing.mode"
            ]
        );
        let broken = json!({"metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{"}}});
        assert_eq!(validate_unknown(&broken), []);
    }

    #[test]
    fn all_settings_are_known_and_foreign_plugin_settings_are_left_alone() {
        let spec = serde_json::to_value(super::super::AxonemeConfigSpec::default()).expect("settings are JSON");
        assert_eq!(messages(&spec), [""; 0]);
        assert_eq!(
            messages(
                &json!({"cni": {"chainedPlugins": [{"type": "portmap", "capabilities": {"portMappings": true}}]}})
            ),
            [""; 0]
        );
        assert_eq!(messages(&json!({"ipam": {"multiPool": {"preAllocate": {"blue": 16}}}})), [""; 0]);
    }
}
