//! The operator in a cluster of any size: builds what ships, and lets the operator's own bench drive it.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::{Effort, Figure, parse};
use crate::command::output;
use crate::{image, settings};

const PACKAGE: &str = "axoneme-operator";
const EXAMPLE: &str = "scale";
/// What has tables and plots of it.
const DOCUMENT: &str = "docs/performance.md";
/// The figures of an agent are held to a goal at so many pods of other nodes.
const AGENT_PODS: &str = "50000";
/// Where everything is left out that makes large clusters cheap, one must still come to an end.
const COMPARED: &[&str] = &["--compare", "--pods", "3000", "--nodes", "500", "--policies", "300", "--seconds", "15"];
/// What grows, in clusters that are else alike in shape.
const GROWN: [&[&str]; 2] = [
    &["--growth", "1000,10000,30000,100000", "--seconds", "15"],
    &["--grown-policies", "100,1000,10000", "--pods", "20000", "--nodes", "1000", "--seconds", "15"],
];

/// The large cluster, an agent in a smaller one, and what each technique gains; with tables and plots where it is kept. A
/// small cluster where it is only to be shown that it runs.
pub(super) fn run(effort: Effort) -> Result<Vec<Figure>> {
    if effort == Effort::Quick {
        return measure(&[
            "--pods",
            "1000",
            "--nodes",
            "100",
            "--policies",
            "100",
            "--identities",
            "650",
            "--seconds",
            "10",
        ]);
    }
    image::build_binaries()?;
    let agent = image::binary("axoneme-agent").display().to_string();
    let document = settings::repository().join(DOCUMENT);
    let kept = effort == Effort::Recorded;
    let write = |words: &[&str]| measure(&written(words, kept.then_some(document.as_path())));
    let mut figures = write(&["--patience", "600", "--agent", &agent])?;
    for figure in figures.iter_mut().filter(|f| f.name.starts_with("agent_")) {
        figure.name.push_str("_of_largest");
    }
    let smaller = measure(&["--pods", AGENT_PODS, "--seconds", "10", "--patience", "400", "--agent", &agent])?;
    figures.extend(smaller.into_iter().filter(|f| f.name.starts_with("agent_")));
    figures.extend(write(COMPARED)?);
    for words in GROWN.iter().filter(|_| kept) {
        let words = [words, ["--patience", "600"].as_slice()].concat();
        write(&words)?;
    }
    Ok(figures)
}

fn written<'a>(words: &[&'a str], document: Option<&'a Path>) -> Vec<&'a str> {
    let document = document.and_then(Path::to_str).map(|file| ["--write", file]);
    words.iter().copied().chain(document.into_iter().flatten()).collect()
}

fn measure(words: &[&str]) -> Result<Vec<Figure>> {
    let mut command = image::cargo("run");
    command.args(["--package", PACKAGE, "--example", EXAMPLE, "--"]).args(words);
    parse(&output(&mut command)?).with_context(|| format!("what {EXAMPLE} printed"))
}
