//! `axoneme config from-cilium`: settings of Cilium, translated.

use std::{fs, io::Read, path::Path};

use axoneme_intake::{Left, Migration, cilium_settings, from_cilium};
use serde::Serialize;
use serde_json::Value;

use super::shown;
use crate::{
    args::cluster::FromCilium,
    cluster::Cluster,
    failure::Failure,
    kinds::Resource,
    output::{Output, Tone},
    progress::Progress,
};

/// The ConfigMap that Cilium's agents read.
const CONFIG_MAP: &str = "cilium-config";

#[derive(Debug, Serialize)]
struct Report {
    mapped: Vec<Row>,
    meaningless: Vec<Named>,
    refused: Vec<Named>,
    config: Value,
}

#[derive(Debug, Serialize)]
struct Row {
    key: String,
    text: String,
    path: &'static str,
    value: Value,
    #[serde(skip_serializing_if = "str::is_empty")]
    note: &'static str,
}

#[derive(Debug, Serialize)]
struct Named {
    key: String,
    text: String,
    reason: String,
}

pub fn run(args: &FromCilium, out: &mut Output) -> Result<(), Failure> {
    let (place, source) = source(args)?;
    let Some(settings) = cilium_settings(&source) else {
        return Err(Failure::File(format!("{place}: neither a ConfigMap with data nor values of a Helm chart")));
    };
    let report = report(from_cilium(&settings));
    let to_stdout = args.write.as_deref().is_some_and(|path| path.as_os_str() == "-");
    if let Some(path) = &args.write {
        write(path, &report.config, out)?;
    }
    // standard output is one document: the object was asked for there
    if !to_stdout {
        out.document(args.output, &report, |out, report| table(out, report, args.write.as_deref()))?;
    }
    if report.refused.is_empty() || args.allow_unknown {
        return Ok(());
    }
    if to_stdout {
        for Named { key, text, reason } in &report.refused {
            eprintln!("axoneme: {key}: {text:?}: {reason}");
        }
    }
    Err(Failure::Unwell)
}

fn source(args: &FromCilium) -> Result<(String, Value), Failure> {
    if let Some(namespace) = &args.namespace {
        let cluster = Cluster::new(&args.cluster)?;
        let _progress = Progress::start("asking the API server");
        let resource = Resource::named("v1", "ConfigMap", "configmaps", true);
        let what = format!("ConfigMap {namespace}/{CONFIG_MAP}");
        let found = cluster.get(&resource, namespace, CONFIG_MAP).map_err(|fault| cluster.failed(&what, &fault))?;
        let found = found.ok_or_else(|| Failure::Usage(format!("--namespace: {what}: there is none")))?;
        return Ok((what, found));
    }
    let path = args.file.as_deref().unwrap_or(Path::new("-"));
    let text = if path.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        fs::read_to_string(path)
    };
    let text = text.map_err(|e| Failure::file(path, &e))?;
    let value = serde_saphyr::from_str(&text).map_err(|e| Failure::file(path, &e.to_string().trim_end()))?;
    Ok((path.display().to_string(), value))
}

fn report(migration: Migration) -> Report {
    let config = migration.config();
    let named = |all: Vec<Left>| {
        all.into_iter().map(|Left { key, text, reason }| Named { key, text, reason }).collect::<Vec<_>>()
    };
    let mapped = migration.mapped.into_iter();
    Report {
        mapped: mapped.map(|m| Row { key: m.key, text: m.text, path: m.path, value: m.value, note: m.note }).collect(),
        meaningless: named(migration.meaningless),
        refused: named(migration.refused),
        config,
    }
}

fn write(path: &Path, config: &Value, out: &mut Output) -> Result<(), Failure> {
    let text = serde_saphyr::to_string(config).map_err(|e| Failure::Answer(e.to_string()))?;
    if path.as_os_str() == "-" {
        return out.raw(text.as_bytes());
    }
    fs::write(path, text).map_err(|e| Failure::file(path, &e))
}

fn table(out: &mut Output, report: &Report, written: Option<&Path>) -> Result<(), Failure> {
    let head = |out: &Output, count: usize, what: &str| out.tone(Tone::Strong, &format!("{what} ({count})"));
    let title = head(out, report.mapped.len(), "Maps");
    out.line(&title)?;
    for m in &report.mapped {
        let note = if m.note.is_empty() { String::new() } else { format!("  # {}", m.note) };
        let value = if m.value.is_null() { "its default".to_owned() } else { shown(&m.value) };
        out.line(&format!("  {} → {} = {value}{note}", m.key, m.path))?;
    }
    let title = head(out, report.meaningless.len(), "Has no meaning here");
    out.line(&title)?;
    for Named { key, text, reason } in &report.meaningless {
        out.line(&format!("  {key}: {text:?}: {reason}"))?;
    }
    let title = head(out, report.refused.len(), "Unknown, removed, or not to be had");
    out.line(&title)?;
    for Named { key, text, reason } in &report.refused {
        let mark = out.tone(Tone::Bad, "✗");
        out.line(&format!("  {mark} {key}: {text:?}: {reason}"))?;
    }
    if let Some(path) = written {
        return out.line(&format!("wrote {}", path.display()));
    }
    out.line("AxonemeConfig")?;
    let text = serde_saphyr::to_string(&report.config).map_err(|e| Failure::Answer(e.to_string()))?;
    text.lines().try_for_each(|line| out.line(&format!("  {line}")))
}
