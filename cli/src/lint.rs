//! `axoneme lint`: what is wrong with manifests, by object and field.

use std::collections::BTreeMap;

use axoneme_intake::{ObjectErrors, Options, Parsed};
use serde::Serialize;
use serde_json::Value;

use crate::{
    args,
    failure::Failure,
    manifests::{self, Document},
    output::{Output, Tone},
    progress::Progress,
};

/// What there is to say about the manifests.
#[derive(Debug, Default, Serialize)]
struct Report {
    /// Objects that can be enforced as they are written.
    good: usize,
    /// Objects with findings.
    bad: usize,
    /// Objects of kinds that have nothing to do with the network.
    ignored: usize,
    findings: Vec<Finding>,
}

/// One thing that is wrong.
#[derive(Debug, Serialize)]
struct Finding {
    file: String,
    line: usize,
    /// `Kind namespace/name`; empty if not even that could be read.
    object: String,
    /// `Invalid`, or `Unsupported` for what is right but not enforced by this version.
    reason: &'static str,
    /// Field path; empty for the object itself.
    field: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    message: String,
}

pub fn run(args: &args::Lint, out: &mut Output) -> Result<(), Failure> {
    let progress = Progress::start("reading manifests");
    let documents = manifests::load(&args.files, &progress)?;
    let report = judge(&documents, &progress);
    drop(progress);
    out.document(args.output, &report, table)?;
    if report.bad == 0 { Ok(()) } else { Err(Failure::Unwell) }
}

fn judge(documents: &[Document], progress: &Progress) -> Report {
    let options = options(documents);
    let mut report = Report::default();
    let mut seen = BTreeMap::new();
    for (n, document) in documents.iter().enumerate() {
        progress.say(format!("checking {} of {}", n + 1, documents.len()));
        let before = report.findings.len();
        let object = match &document.object {
            Ok(object) => object,
            Err(message) => {
                report.findings.push(finding(document, String::new(), message.clone()));
                report.bad += 1;
                continue;
            }
        };
        match axoneme_intake::parse_with(object, &options) {
            Ok(Parsed::Ignored) => report.ignored += 1,
            Ok(_) => report.good += 1,
            Err(errors) => report.findings.extend(findings(document, &errors)),
        }
        if let Some(name) = name(object) {
            let place = format!("{}:{}", document.file, document.line);
            if let Some(first) = seen.insert(name.clone(), place) {
                let message = format!("defined twice, first at {first}: the later one replaces the earlier");
                report.findings.push(finding(document, name, message));
            }
        }
        if report.findings.len() > before {
            report.bad += 1;
        }
    }
    report
}

/// How policies are read under the configuration that is among the manifests; without one, by default.
pub fn options(documents: &[Document]) -> Options {
    let objects = documents.iter().filter_map(|d| d.object.as_ref().ok());
    let settings = objects.filter(|o| o.get("kind").and_then(Value::as_str) == Some("AxonemeConfig"));
    let mut parsed = settings.filter_map(|o| axoneme_intake::config(o).ok());
    parsed.next().map(|s| s.options()).unwrap_or_default()
}

/// `Kind namespace/name`, with the namespace that is meant where none is given.
fn name(object: &Value) -> Option<String> {
    let kind = axoneme_intake::kind_of(object).ok().flatten()?;
    axoneme_intake::object_ref(kind, object).ok().map(|o| o.to_string())
}

fn finding(document: &Document, object: String, message: String) -> Finding {
    let (file, line) = (document.file.clone(), document.line);
    Finding { file, line, object, reason: "Invalid", field: String::new(), value: None, message }
}

fn findings(document: &Document, errors: &ObjectErrors) -> Vec<Finding> {
    let object = match (&errors.object, errors.kind) {
        (Some(object), _) => object.to_string(),
        (None, Some(kind)) => kind.as_str().to_owned(),
        (None, None) => String::new(),
    };
    let one = |e: &axoneme_intake::FieldError| Finding {
        file: document.file.clone(),
        line: document.line,
        object: object.clone(),
        reason: e.reason.as_str(),
        field: e.path.clone(),
        value: e.value.clone(),
        message: e.message.clone(),
    };
    errors.errors.iter().map(one).collect()
}

fn table(out: &mut Output, report: &Report) -> Result<(), Failure> {
    let mut last = (String::new(), 0);
    for f in &report.findings {
        if last != (f.file.clone(), f.line) {
            last = (f.file.clone(), f.line);
            let object = if f.object.is_empty() { "unreadable object" } else { &f.object };
            out.line(&format!("{}:{}: {}", f.file, f.line, out.tone(Tone::Strong, object)))?;
        }
        let mark = if f.reason == "Invalid" { out.tone(Tone::Bad, "✗") } else { out.tone(Tone::Attention, "!") };
        let parts = [Some(f.field.as_str()).filter(|p| !p.is_empty()), f.value.as_deref(), Some(&f.message)];
        let text: Vec<&str> = parts.into_iter().flatten().collect();
        out.line(&format!("  {mark} {}", text.join(": ").replace('\n', "\n    ")))?;
    }
    let Report { good, bad, ignored, .. } = report;
    out.line(&format!("{good} good, {bad} with findings, {ignored} of other kinds"))
}
