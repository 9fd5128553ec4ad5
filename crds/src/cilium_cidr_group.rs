//! `cilium.io/v2` CiliumCIDRGroup.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A named list of prefixes, which policies use by name (cidrGroupRef) or by the group's labels (cidrGroupSelector).
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "cilium.io",
    version = "v2",
    kind = "CiliumCIDRGroup",
    plural = "ciliumcidrgroups",
    singular = "ciliumcidrgroup",
    shortname = "ccg",
    category = "cilium",
    doc = "A named list of prefixes, which policies use by name (cidrGroupRef) or by the group's labels \
           (cidrGroupSelector).",
    derive = "Default",
    derive = "PartialEq"
)]
pub struct CiliumCIDRGroupSpec {
    /// The prefixes, such as 192.0.2.0/24 or 2001:db8::/32. May be empty: then the group matches nothing.
    #[serde(rename = "externalCIDRs")]
    #[schemars(with = "Vec<crate::schema::Cidr>", extend("minItems" = 0))]
    pub external_cidrs: Vec<String>,
}
