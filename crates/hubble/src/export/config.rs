//! What an exporter is told, from settings or from Hubble's file of exporters.

use std::path::PathBuf;

use axoneme_flow::Time;
use serde::Deserialize;
use serde_json::Value;

use crate::{filter::Filters, json, mask::Mask, pb::flow::FlowFilter, walk::Request};

/// Exporters that a file may have.
const MAX_EXPORTERS: usize = 64;

/// One exporter, understood.
#[derive(Clone, Debug)]
pub struct Exporter {
    pub name: String,
    pub path: PathBuf,
    /// It ends by itself then.
    pub end: Option<Time>,
    pub(super) request: Request,
    /// What it was made of: two exporters are the same if this is.
    source: (Vec<FlowFilter>, Vec<FlowFilter>, Vec<String>),
}

impl PartialEq for Exporter {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, &self.path, self.end, &self.source) == (&other.name, &other.path, other.end, &other.source)
    }
}

impl Exporter {
    /// Flows that one of `allow` matches (or all where there is none) and none of `deny`; of each the fields of `mask`
    /// (or all).
    ///
    /// *Errors*: a sentence with the field that is wrong.
    pub fn new(
        name: &str,
        path: PathBuf,
        allow: Vec<FlowFilter>,
        deny: Vec<FlowFilter>,
        mask: Vec<String>,
    ) -> Result<Self, String> {
        if name.is_empty() || path.file_name().is_none() {
            return Err(format!("exporter {name:?}: a name and the path of a file are needed"));
        }
        let sentence = |all: Vec<_>| all.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        let filters = Filters::parse(&allow, &deny).map_err(|p: Vec<crate::filter::Problem>| sentence(p));
        let filters = filters.map_err(|e| format!("exporter {name:?}: {e}"))?;
        let parsed = Mask::parse(&mask).map_err(|e| format!("exporter {name:?}: {e}"))?;
        let request = Request { filters, mask: parsed, follow: true, ..Request::default() };
        Ok(Self { name: name.to_owned(), path, end: None, request, source: (allow, deny, mask) })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    #[serde(default)]
    flow_logs: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    name: String,
    file_path: PathBuf,
    #[serde(default)]
    field_mask: Vec<String>,
    #[serde(default)]
    include_filters: Vec<Value>,
    #[serde(default)]
    exclude_filters: Vec<Value>,
    #[serde(default)]
    end: Option<Time>,
}

/// The exporters of a file as `cilium-flowlog-config` has it (YAML, `flowLogs`). All or none: what is half understood
/// would export what nobody asked for.
pub fn exporters(text: &str) -> Result<Vec<Exporter>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let file: File = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
    if file.flow_logs.len() > MAX_EXPORTERS {
        return Err(format!("more than {MAX_EXPORTERS} exporters"));
    }
    let mut out: Vec<Exporter> = Vec::new();
    for entry in file.flow_logs {
        let filters = |field: &str, values: Vec<Value>| {
            let all = values.into_iter().enumerate().map(|(n, v)| json::filter(v, n));
            all.collect::<Result<Vec<_>, _>>().map_err(|e| format!("exporter {:?}: {field}: {e}", entry.name))
        };
        let allow = filters("includeFilters", entry.include_filters)?;
        let deny = filters("excludeFilters", entry.exclude_filters)?;
        let mut exporter = Exporter::new(&entry.name, entry.file_path, allow, deny, entry.field_mask)?;
        exporter.end = entry.end;
        if out.iter().any(|e| e.name == exporter.name || e.path == exporter.path) {
            return Err(format!("exporter {:?}: another one has its name or its file", exporter.name));
        }
        out.push(exporter);
    }
    Ok(out)
}
