//! The CustomResourceDefinitions of all kinds.

use std::sync::LazyLock;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionVersion, JSONSchemaProps,
};
use kube::CustomResourceExt as _;

use crate::{
    AxonemeConfig, CiliumCIDRGroup, CiliumClusterwideNetworkPolicy, CiliumIdentity, CiliumNetworkPolicy, CiliumNode,
    CiliumNodeConfig, CiliumPodIPPool, ClusterNetworkPolicy, schema::finish,
};

/// The definitions of all kinds of this crate, in the order in which they are installed, as an API server takes them.
///
/// Use these rather than the `crd()` of a kind, which lacks the last step and the further versions.
pub fn all_crds() -> Vec<CustomResourceDefinition> {
    vec![
        finish(AxonemeConfig::crd()),
        finish(with_deprecated(CiliumCIDRGroup::crd(), "v2alpha1")),
        finish(CiliumClusterwideNetworkPolicy::crd()),
        finish(CiliumIdentity::crd()),
        finish(CiliumNetworkPolicy::crd()),
        finish(CiliumNode::crd()),
        finish(CiliumNodeConfig::crd()),
        finish(CiliumPodIPPool::crd()),
        finish(ClusterNetworkPolicy::crd()),
    ]
}

/// The schema of a served kind, or `None` for a kind or version that this crate does not know.
pub fn schema_of(api_version: &str, kind: &str) -> Option<&'static JSONSchemaProps> {
    static DEFINITIONS: LazyLock<Vec<CustomResourceDefinition>> = LazyLock::new(all_crds);

    let (group, version) = api_version.split_once('/')?;
    let definition = DEFINITIONS.iter().find(|crd| crd.spec.group == group && crd.spec.names.kind == kind)?;
    let version = definition.spec.versions.iter().find(|served| served.name == version)?;
    version.schema.as_ref()?.open_api_v3_schema.as_ref()
}

/// Adds an older version with the same schema, which upstream still serves.
fn with_deprecated(mut definition: CustomResourceDefinition, version: &str) -> CustomResourceDefinition {
    let older: Vec<CustomResourceDefinitionVersion> = definition
        .spec
        .versions
        .iter()
        .map(|newer| CustomResourceDefinitionVersion {
            name: version.into(),
            storage: false,
            deprecated: Some(true),
            deprecation_warning: Some(format!(
                "{group}/{version} {kind} is deprecated; use {group}/{newer}",
                group = definition.spec.group,
                kind = definition.spec.names.kind,
                newer = newer.name
            )),
            ..newer.clone()
        })
        .collect();
    definition.spec.versions.extend(older);
    definition
}
