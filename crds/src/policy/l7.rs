use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{FqdnSelector, SecretRef};

/// What may be spoken on a port. Exactly one protocol.
///
/// `kafka`, `l7proto` and `l7` are those of Cilium before 1.20. They are known here so that a policy that uses them is
/// refused by name: an API server that does not know a field drops it, and the rule would allow the whole port.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("oneOf" = [
    {"required": ["http"]},
    {"required": ["dns"]},
    {"required": ["kafka"]},
    {"required": ["l7proto"]}
]))]
pub struct L7Rules {
    /// HTTP requests; any of the entries allows a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Vec<HttpRule>>,

    /// DNS names that may be asked for; any of the entries allows a query. Only in egress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<Vec<DnsRule>>,

    /// Kafka requests. Not enforced: a policy that uses it is refused with Valid=False, reason Unsupported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kafka: Option<Vec<KafkaRule>>,

    /// The name of another protocol's parser. Not enforced: a policy that uses it is refused with Valid=False, reason
    /// Unsupported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub l7proto: Option<String>,

    /// Key-value rules for the parser that l7proto names. Not enforced, like l7proto.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub l7: Option<Vec<BTreeMap<String, String>>>,
}

/// HTTP requests that match all of the fields. Without a field, every request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpRule {
    /// An extended POSIX regular expression that the whole path must match, such as /public/.*
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,

    /// An extended POSIX regular expression that the method must match, such as GET.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,

    /// An extended POSIX regular expression that the Host header must match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,

    /// Headers that must be there: a name, or a name, a blank and a value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<Vec<String>>,

    /// Headers that must be there, their value given here or in a Secret, and what to do where they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header_matches: Option<Vec<HeaderMatch>>,
}

/// A header that must be there, and what to do where it is not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeaderMatch {
    /// What to do with a request that lacks the header or has another value. Without it, the request is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "MismatchAction")]
    pub mismatch: Option<MismatchAction>,

    /// The header's name.
    #[schemars(length(min = 1))]
    pub name: String,

    /// A Secret that holds the value. It wins over `value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretRef>,

    /// The value. Without it and without a Secret, any value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// What happens to a request whose header does not match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum MismatchAction {
    /// It passes, and a record is written.
    Log,
    /// The wanted value is added.
    Add,
    /// The unwanted value is deleted.
    Delete,
    /// The unwanted value is replaced by the wanted one.
    Replace,
}

/// A DNS name that may be asked for, in the same words as toFQDNs.
pub type DnsRule = FqdnSelector;

/// Kafka requests, as Cilium before 1.20 described them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KafkaRule {
    /// produce or consume: the requests that this needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// One request by its API key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "apiKey")]
    pub api_key: Option<String>,
    /// The version of that request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "apiVersion")]
    pub api_version: Option<String>,
    /// The client's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "clientID")]
    pub client_id: Option<String>,
    /// The topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
}
