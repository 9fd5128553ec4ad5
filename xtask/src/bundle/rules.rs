//! What a bundle has to keep to be taken by OLM and by the community's catalogs. Each rule names where it is written.
//!
//! Sources: operator-framework/api at 3048ccd (`pkg/validation/internal`), operator-framework/operator-registry at 4f9d6f2
//! (`pkg/lib/bundle`, `alpha/model`), and the pages of operatorhub.io's community. What is a warning there is a breach here,
//! unless the rule says why not.

mod catalog;
mod contents;
mod version;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{Files, text};

/// A bundle, read from its files as OLM would read it.
#[derive(Clone, Debug)]
pub(super) struct Bundle {
    /// `ClusterServiceVersion`; null where there is none.
    pub(super) csv: Value,
    /// Everything in `manifests/`, with the file's name.
    pub(super) manifests: Vec<(String, Value)>,
    pub(super) annotations: Value,
    pub(super) scorecard: Value,
    pub(super) dockerfile: String,
    pub(super) catalog: Vec<Value>,
    /// Bytes of manifests and metadata, packed.
    pub(super) packed: usize,
}

impl Bundle {
    pub(super) fn read(files: &Files) -> Result<Self> {
        let of = |prefix: &str| files.iter().filter(|(name, _)| name.starts_with(prefix)).collect::<Vec<_>>();
        let mut manifests = Vec::new();
        for (name, text) in of("manifests/") {
            let object: Value = serde_saphyr::from_str(text).with_context(|| name.clone())?;
            manifests.push((name.clone(), object));
        }
        let one = |name: &str| -> Result<Value> {
            files.get(name).map_or(Ok(Value::Null), |text| serde_saphyr::from_str(text).context(name.to_owned()))
        };
        let mut catalog = Vec::new();
        for (name, text) in of("catalog/") {
            catalog.extend(serde_saphyr::from_multiple::<Value>(text).with_context(|| name.clone())?);
        }
        let csv = manifests.iter().find(|(_, o)| text(o, "/kind") == "ClusterServiceVersion");
        let whole: Vec<&str> =
            of("manifests/").into_iter().chain(of("metadata/")).map(|(_, text)| text.as_str()).collect();
        Ok(Self {
            csv: csv.map(|(_, object)| object.clone()).unwrap_or_default(),
            annotations: one("metadata/annotations.yaml")?,
            scorecard: one("tests/scorecard/config.yaml")?,
            dockerfile: files.get("bundle.Dockerfile").cloned().unwrap_or_default(),
            catalog,
            packed: contents::packed(&whole.concat())?,
            manifests,
        })
    }

    /// Objects of a kind.
    fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.manifests.iter().map(|(_, object)| object).filter(move |object| text(object, "/kind") == kind)
    }
}

/// A rule: its name, where it is written, and what of a bundle breaks it.
pub(super) type Rule = (&'static str, &'static str, fn(&Bundle) -> Vec<String>);

/// All of them.
pub(super) fn rules() -> Vec<Rule> {
    [contents::RULES, version::RULES, catalog::RULES].concat()
}

/// Every breach, with the rule and its source.
pub(super) fn broken(files: &Files) -> Result<Vec<String>> {
    Ok(breaches(&Bundle::read(files)?))
}

pub(super) fn breaches(bundle: &Bundle) -> Vec<String> {
    let of = |(name, source, rule): Rule| {
        rule(bundle).into_iter().map(move |what| format!("{name}: {what} ({source})")).collect::<Vec<_>>()
    };
    rules().into_iter().flat_map(of).collect()
}
