//! CiliumCIDRGroup (`cilium.io/v2`, `v2alpha1`).

use std::sync::Arc;

use axoneme_model::{Kind, world::CidrGroup};
use serde_json::Value;

use crate::{address::prefix_or_address, error::ObjectErrors, field::Field, meta::labels, read};

/// Reads a CiliumCIDRGroup: its name and itself.
pub fn cidr_group(object: &Value) -> Result<(Arc<str>, CidrGroup), ObjectErrors> {
    read(object, Kind::CiliumCIDRGroup, |root, meta| {
        root.only(&["apiVersion", "kind", "metadata", "spec", "status"]);
        let mut group = CidrGroup { labels: labels(root), ..CidrGroup::default() };
        if let Some(spec) = root.require("spec") {
            spec.only(&["externalCIDRs"]);
            let list = spec.get("externalCIDRs");
            group.cidrs = list.iter().flat_map(Field::items).filter_map(|item| prefix_or_address(&item)).collect();
        }
        ((meta.object.name.clone(), group), None)
    })
}
