//! What an exporter is told, from settings or from Hubble's file of exporters.

use std::{fmt, path::PathBuf, time::Duration};

use axoneme_flow::Time;
use serde::Deserialize;
use serde_json::Value;

use super::{
    aggregate::Alike,
    otlp::{Collector, Files, Protocol},
};
use crate::{filter::Filters, json, mask::Mask, pb::flow::FlowFilter, walk::Request};

/// Exporters that a file may have.
const MAX_EXPORTERS: usize = 64;

/// Shortest and longest interval of aggregation.
const INTERVALS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(1);

/// Where an exporter writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    File(PathBuf),
    Collector(Collector),
}

impl Destination {
    /// Whether both are one file; of a collector there may be several exporters.
    pub(super) fn is_file_of(&self, other: &Self) -> bool {
        matches!(self, Self::File(_)) && self == other
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Collector(collector) => f.write_str(&collector.endpoint),
        }
    }
}

/// One exporter, understood.
#[derive(Clone, Debug)]
pub struct Exporter {
    pub name: String,
    pub to: Destination,
    /// It ends by itself then.
    pub end: Option<Time>,
    pub(super) request: Request,
    /// What flows have in common that become one; none: each is exported.
    pub(super) alike: Option<Alike>,
    /// What it was made of: two exporters are the same if this is.
    source: (Vec<FlowFilter>, Vec<FlowFilter>, Vec<String>),
}

impl PartialEq for Exporter {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, &self.to, self.end, &self.source, &self.alike)
            == (&other.name, &other.to, other.end, &other.source, &other.alike)
    }
}

impl Exporter {
    /// Flows that one of `allow` matches (or all where there is none) and none of `deny`; of each the fields of `mask`
    /// (or all).
    ///
    /// *Errors*: a sentence with the field that is wrong.
    pub fn new(
        name: &str,
        to: Destination,
        allow: Vec<FlowFilter>,
        deny: Vec<FlowFilter>,
        mask: Vec<String>,
    ) -> Result<Self, String> {
        let nameless = matches!(&to, Destination::File(path) if path.file_name().is_none());
        if name.is_empty() || nameless {
            return Err(format!("exporter {name:?}: a name and the path of a file are needed"));
        }
        let sentence = |all: Vec<_>| all.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        let filters = Filters::parse(&allow, &deny).map_err(|p: Vec<crate::filter::Problem>| sentence(p));
        let filters = filters.map_err(|e| format!("exporter {name:?}: {e}"))?;
        let parsed = Mask::parse(&mask).map_err(|e| format!("exporter {name:?}: {e}"))?;
        let request = Request { filters, mask: parsed, follow: true, ..Request::default() };
        Ok(Self { name: name.to_owned(), to, end: None, request, alike: None, source: (allow, deny, mask) })
    }

    /// Flows that have the same values in `fields` are exported as one with their number, every interval. No fields: each
    /// flow by itself.
    ///
    /// *Errors*: a sentence with what is wrong.
    pub fn aggregated(mut self, fields: &[String], every: Option<Duration>) -> Result<Self, String> {
        let fail = |what: String| format!("exporter {:?}: {what}", self.name);
        let fields = Mask::parse(fields).map_err(|e| fail(format!("fieldAggregate: {e}")))?;
        match (fields, every) {
            (None, None) => Ok(self),
            (Some(fields), Some(every)) if INTERVALS.contains(&every) => {
                let shown = self.request.mask.take();
                self.alike = Some(Alike { fields, every, shown });
                Ok(self)
            }
            (Some(_), Some(_)) => Err(fail("aggregationInterval: must be from 1s to 1h".to_owned())),
            _ => Err(fail("fieldAggregate and aggregationInterval belong together".to_owned())),
        }
    }
}

/// `10s`, `1m30s`, `500ms`: a duration as Go writes it.
pub fn interval(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?}: not an interval such as 10s or 1m30s");
    let (mut rest, mut sum) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = rest.split_at(digits);
        let letters = unit.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = unit.split_at(letters);
        let number: u32 = number.parse().map_err(|_| wrong())?;
        let unit = match unit {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_mins(1),
            "h" => Duration::from_hours(1),
            _ => return Err(wrong()),
        };
        sum = unit.checked_mul(number).and_then(|d| sum.checked_add(d)).ok_or_else(wrong)?;
        rest = after;
    }
    if text.is_empty() { Err(wrong()) } else { Ok(sum) }
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
    #[serde(default)]
    file_path: Option<PathBuf>,
    #[serde(default)]
    otlp: Option<Otlp>,
    #[serde(default)]
    field_mask: Vec<String>,
    #[serde(default)]
    field_aggregate: Vec<String>,
    #[serde(default)]
    aggregation_interval: Option<String>,
    #[serde(default)]
    include_filters: Vec<Value>,
    #[serde(default)]
    exclude_filters: Vec<Value>,
    #[serde(default)]
    end: Option<Time>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Otlp {
    endpoint: String,
    #[serde(default)]
    protocol: Protocol,
    #[serde(default)]
    ca_file: Option<PathBuf>,
    #[serde(default)]
    cert_file: Option<PathBuf>,
    #[serde(default)]
    key_file: Option<PathBuf>,
    #[serde(default)]
    headers_file: Option<PathBuf>,
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
        let exporter = entry.exporter()?;
        if out.iter().any(|e| e.name == exporter.name || e.to.is_file_of(&exporter.to)) {
            return Err(format!("exporter {:?}: another one has its name or its file", exporter.name));
        }
        out.push(exporter);
    }
    Ok(out)
}

impl Entry {
    fn exporter(self) -> Result<Exporter, String> {
        let name = self.name;
        let fail = |what: String| format!("exporter {name:?}: {what}");
        let filters = |field: &str, values: Vec<Value>| {
            let all = values.into_iter().enumerate().map(|(n, v)| json::filter(v, n));
            all.collect::<Result<Vec<_>, _>>().map_err(|e| fail(format!("{field}: {e}")))
        };
        let allow = filters("includeFilters", self.include_filters)?;
        let deny = filters("excludeFilters", self.exclude_filters)?;
        let to = match (self.file_path, self.otlp) {
            (Some(path), None) => Destination::File(path),
            (None, Some(o)) => {
                let (ca, certificate, key, headers) = (o.ca_file, o.cert_file, o.key_file, o.headers_file);
                let collector = Collector::new(&o.endpoint, Files { ca, certificate, key, headers });
                Destination::Collector(collector.map_err(|e| fail(format!("otlp: {e}")))?.over(o.protocol))
            }
            _ => return Err(fail("one of filePath and otlp is needed".to_owned())),
        };
        let every = self.aggregation_interval.filter(|i| !i.is_empty()).map(|i| interval(&i)).transpose();
        let every = every.map_err(|e| fail(format!("aggregationInterval: {e}")))?;
        // the peers write an interval also where nothing is aggregated
        let every = every.filter(|_| !self.field_aggregate.is_empty());
        let exporter = Exporter::new(&name, to, allow, deny, self.field_mask)?;
        let exporter = exporter.aggregated(&self.field_aggregate, every)?;
        Ok(Exporter { end: self.end, ..exporter })
    }
}
