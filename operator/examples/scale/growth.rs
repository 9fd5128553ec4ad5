//! Several sizes beside each other.

use std::{fmt::Write as _, path::Path};

use anyhow::Context as _;

use crate::{Options, run::Figure};

/// Between these lines a file has the table.
const BEGIN: &str = "<!-- begin: cargo run --profile image -p axoneme-operator --example scale -- --growth … -->";
const END: &str = "<!-- end -->";

/// Figures of the table, and what they are called there.
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

/// A row for each size, in Markdown.
pub(crate) fn table(sizes: &[(Options, Vec<Figure>)]) -> String {
    let mut text = String::from("| pods | nodes | policies | identities |");
    for (_, title) in COLUMNS {
        let _ = write!(text, " {title} |");
    }
    text.push('\n');
    text.push_str(&"|--:".repeat(4 + COLUMNS.len()));
    text.push_str("|\n");
    for (o, figures) in sizes {
        let _ = write!(text, "| {} | {} | {} | {} |", o.pods, o.nodes, o.policies, o.identities);
        for (name, _) in COLUMNS {
            let figure = figures.iter().find(|f| f.name == name).map_or(f64::NAN, |f| f.ours);
            let digits = if figure >= 100.0 { 0 } else { 2 };
            let _ = write!(text, " {figure:.digits$} |");
        }
        text.push('\n');
    }
    text
}

/// Puts the table in place of the one that the file has.
pub(crate) fn write(file: &Path, table: &str) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let marked = || format!("{}: no place for a table: a line {BEGIN} and a line {END} behind it", file.display());
    let (before, rest) = text.split_once(BEGIN).with_context(marked)?;
    let (_, after) = rest.split_once(END).with_context(marked)?;
    std::fs::write(file, format!("{before}{BEGIN}\n{table}{END}{after}")).with_context(|| file.display().to_string())
}
