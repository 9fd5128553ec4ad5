//! What was measured, as people read it: tables and plots in Markdown.

use std::{fmt::Write as _, path::Path};

use anyhow::Context as _;

use crate::{Measured, Options, run::Figure};

/// Figures of tables, and what they are called there.
const COLUMNS: [(&str, &str); 8] = [
    ("operator_rss_mib", "memory, MiB"),
    ("operator_rss_per_pod_kib", "a pod, KiB"),
    ("operator_cpu_cores", "cores"),
    ("policy_p50_ms", "policy p50, ms"),
    ("policy_p99_ms", "policy p99, ms"),
    ("api_writes_per_pod", "writes a pod"),
    ("commits_per_node", "batches a node, 1/s"),
    ("cold_start_s", "all nodes served, s"),
];
/// Those that are plotted: title, unit, figures. Lines of one plot are told apart by their order, which the text names.
const PLOTS: [(&str, &str, &[&str]); 3] = [
    ("Resident memory of the operator", "MiB", &["operator_rss_mib"]),
    ("Processor of the operator under churn", "cores", &["operator_cpu_cores"]),
    ("A policy's change to a node, median and 99 %", "ms", &["policy_p50_ms", "policy_p99_ms"]),
];

/// The figure of that name, whatever the run puts behind its names.
fn figure(o: &Options, figures: &[Figure], name: &str) -> f64 {
    let is = |f: &&Figure| f.name.strip_suffix(o.name.as_str()) == Some(name);
    figures.iter().find(is).map_or(f64::NAN, |f| f.ours)
}

fn number(value: f64) -> String {
    if value.is_nan() {
        return "–".to_owned();
    }
    let digits = if value.abs() >= 100.0 { 0 } else { 2 };
    format!("{value:.digits$}")
}

/// 100, 1k, 65k.
fn short(count: u32) -> String {
    if count >= 1000 && count.is_multiple_of(1000) { format!("{}k", count / 1000) } else { count.to_string() }
}

fn head(first: &str) -> String {
    let titles: Vec<_> = COLUMNS.iter().map(|(_, title)| *title).collect();
    let columns = first.matches('|').count() + 1 + COLUMNS.len();
    format!("| {first} | {} |\n{}|\n", titles.join(" | "), "|--:".repeat(columns))
}

fn row(text: &mut String, first: &str, (o, figures): &Measured) {
    let cells: Vec<_> = COLUMNS.iter().map(|(name, _)| number(figure(o, figures, name))).collect();
    let _ = writeln!(text, "| {first} | {} |", cells.join(" | "));
}

/// A table of growing clusters, with plots of what grows. `by`: what of them the plots have below them.
pub(crate) fn growth(all: &[Measured], by: impl Fn(&Options) -> u32, unit: &str) -> String {
    let mut text = head("pods | nodes | policies | identities");
    for size in all {
        let o = &size.0;
        row(&mut text, &format!("{} | {} | {} | {}", o.pods, o.nodes, o.policies, o.identities), size);
    }
    let sizes: Vec<_> = all.iter().map(|(o, _)| format!("\"{}\"", short(by(o)))).collect();
    for (title, of, names) in PLOTS {
        let lines: Vec<Vec<f64>> = names.iter().map(|n| all.iter().map(|(o, f)| figure(o, f, n)).collect()).collect();
        let top = lines.iter().flatten().copied().filter(|v| !v.is_nan()).fold(0.0, f64::max) * 1.1;
        let _ = write!(
            text,
            "\n```mermaid\nxychart-beta\n    title \"{title}\"\n    x-axis \"{unit}\" [{}]\n",
            sizes.join(", ")
        );
        let _ = writeln!(text, "    y-axis \"{of}\" 0 --> {}", number(top));
        for line in lines {
            // a size that was not measured breaks no plot: it is not there
            let values: Vec<_> =
                line.into_iter().map(|v| if v.is_nan() { "0".to_owned() } else { number(v) }).collect();
            let _ = writeln!(text, "    line [{}]", values.join(", "));
        }
        text.push_str("```\n");
    }
    text
}

/// What each technique gains: the same cluster without it.
pub(crate) fn compared(all: &[(String, Measured)]) -> String {
    let Some((_, (o, _))) = all.first() else { return String::new() };
    let mut text = format!("{} pods, {} nodes, {} policies:\n\n", o.pods, o.nodes, o.policies);
    text.push_str(&head("techniques").replacen("|--:", "|:--", 1));
    for (way, measured) in all {
        row(&mut text, &way.replace('_', " "), measured);
    }
    text
}

/// One cluster in words.
pub(crate) fn sentence((o, figures): &Measured) -> String {
    let of = |name: &str| number(figure(o, figures, name));
    let mut text = format!(
        "At {} pods, {} nodes, {} policies and {} identities: {} MiB, {} cores, propagation {} ms (median) and {} ms (99 %),\n\
         {} writes a pod, {} batches a second to each node, {} watches a node; all nodes served after {} s, with {} times the\n\
         memory that the operator has at rest.",
        o.pods,
        o.nodes,
        o.policies,
        o.identities,
        of("operator_rss_mib"),
        of("operator_cpu_cores"),
        of("policy_p50_ms"),
        of("policy_p99_ms"),
        of("api_writes_per_pod"),
        of("commits_per_node"),
        figure(o, figures, "watches_per_node"),
        of("cold_start_s"),
        of("operator_rss_cold_start_to_rest"),
    );
    let agent = figure(o, figures, "agent_rss_mib");
    if !agent.is_nan() {
        let _ = write!(text, " An agent of this cluster: {} MiB, {} cores.", number(agent), of("agent_cpu_cores"));
    }
    text.push('\n');
    text
}

/// Puts the text in place of what the file has between the marks of that part.
pub(crate) fn write(file: &Path, part: &str, text: &str) -> anyhow::Result<()> {
    let (begin, end) = (format!("<!-- begin: scale, {part} -->"), format!("<!-- end: scale, {part} -->"));
    let whole = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let marked = || format!("{}: no place for it: a line {begin} and a line {end} behind it", file.display());
    let (before, rest) = whole.split_once(&begin).with_context(marked)?;
    let (_, after) = rest.split_once(&end).with_context(marked)?;
    std::fs::write(file, format!("{before}{begin}\n{text}{end}{after}")).with_context(|| file.display().to_string())
}
