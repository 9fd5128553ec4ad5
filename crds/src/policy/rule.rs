use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{EgressDenyRule, EgressRule, IngressDenyRule, IngressRule};
use crate::selector::{EndpointSelector, LabelSelector};

/// One policy rule: whom it is about, and what these may send and receive.
///
/// Exactly one of `endpointSelector` and `nodeSelector` is set, and at least one of `ingress`, `ingressDeny`, `egress`
/// and `egressDeny`. A deny entry that matches wins over every allow entry of every rule.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend(
    "oneOf" = [{"required": ["endpointSelector"]}, {"required": ["nodeSelector"]}],
    "anyOf" = [
        {"required": ["ingress"]},
        {"required": ["ingressDeny"]},
        {"required": ["egress"]},
        {"required": ["egressDeny"]}
    ]
))]
pub struct Rule {
    /// The endpoints that the rule is about. Empty selects all endpoints of the policy's scope: those of its namespace
    /// for CiliumNetworkPolicy, all of the cluster for CiliumClusterwideNetworkPolicy. Cannot be used together with
    /// nodeSelector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_selector: Option<EndpointSelector>,

    /// The nodes that the rule is about: their own traffic, not that of their pods. Only in
    /// CiliumClusterwideNetworkPolicy. Cannot be used together with endpointSelector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<LabelSelector>,

    /// Traffic that the selected endpoints may receive. An entry allows what matches all of its fields; entries are
    /// alternatives. An endpoint that is selected by a rule with this field receives nothing else, unless
    /// enableDefaultDeny.ingress is false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Vec<IngressRule>>,

    /// Traffic that the selected endpoints must not receive, whatever other rules allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_deny: Option<Vec<IngressDenyRule>>,

    /// Traffic that the selected endpoints may send. An entry allows what matches all of its fields; entries are
    /// alternatives. An endpoint that is selected by a rule with this field sends nothing else, unless
    /// enableDefaultDeny.egress is false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<EgressRule>>,

    /// Traffic that the selected endpoints must not send, whatever other rules allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_deny: Option<Vec<EgressDenyRule>>,

    /// Labels of the rule itself. They name it in flows and explanations and select nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<RuleLabel>>,

    /// Whether the rule puts the endpoints that it selects into default-deny.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_default_deny: Option<DefaultDeny>,

    /// What the rule is for, in free words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,

    /// What to write into the flows that this rule decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogConfig>,
}

/// A label of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RuleLabel {
    /// The label's key.
    pub key: String,
    /// The label's value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Where the label comes from: k8s, reserved, container, ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// Whether a rule puts the endpoints that it selects into default-deny, for each direction. An endpoint is in
/// default-deny as soon as one of the rules that select it asks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DefaultDeny {
    /// Whether endpoints receive nothing but what is allowed. When it is not set: true if the rule has ingress or
    /// ingressDeny.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<bool>,
    /// Whether endpoints send nothing but what is allowed. When it is not set: true if the rule has egress or
    /// egressDeny.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<bool>,
}

/// What a rule writes into the flows that it decided.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogConfig {
    /// Text that is copied into flows: at most 32 printable characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 32, "pattern" = "^\\PC*$"))]
    pub value: Option<String>,
}

/// Whether a connection needs mutual authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Authentication {
    /// What is asked of the peers.
    pub mode: AuthenticationMode,
}

/// What authentication asks of the peers of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AuthenticationMode {
    /// Nothing.
    Disabled,
    /// Both peers must have proven their identity.
    Required,
    /// Every connection fails. For tests.
    TestAlwaysFail,
}
