//! README's table of figures, between two marks.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use super::Figure;
use super::goals::{self, Goal, Outcome};
use crate::settings;

const BEGIN: &str = "<!-- figures: written by `cargo xtask bench --record` -->";
const END: &str = "<!-- end of figures -->";

/// Replaces what is between the marks.
pub(super) fn write(figures: &BTreeMap<String, Figure>) -> Result<()> {
    std::fs::write(path(), wanted(figures)?).context("writing README.md")
}

/// Holds README against the recorded figures and the goals.
pub(super) fn check(figures: &BTreeMap<String, Figure>) -> Result<()> {
    let same = std::fs::read_to_string(path())? == wanted(figures)?;
    ensure!(
        same,
        "README.md's table is not that of the recorded figures and goals: `cargo xtask bench --table` writes it"
    );
    Ok(())
}

fn path() -> PathBuf {
    settings::repository().join("README.md")
}

fn wanted(figures: &BTreeMap<String, Figure>) -> Result<String> {
    let text = std::fs::read_to_string(path()).context("reading README.md")?;
    fill(&text, &table(figures, &goals::read()?)).context("README.md lacks the marks of the figures")
}

fn fill(text: &str, table: &str) -> Option<String> {
    let (head, rest) = text.split_once(BEGIN)?;
    let (_, tail) = rest.split_once(END)?;
    Some(format!("{head}{BEGIN}\n{table}{END}{tail}"))
}

/// Figures in the order of their names, then goals whose figure is not there.
fn table(figures: &BTreeMap<String, Figure>, goals: &[Goal]) -> String {
    if figures.is_empty() {
        return "None are recorded yet.\n".to_owned();
    }
    let mut text = String::from(
        "| figure | ours | floor | of floor | peer | of peer | goal | what stands in the way |\n|---|---|---|---|---|---|---|---|\n",
    );
    for figure in figures.values() {
        text.push_str(&row(figure, figures, goals));
    }
    let mut unmeasured: Vec<&str> =
        goals.iter().map(Goal::figure).filter(|name| !figures.contains_key(*name)).collect();
    unmeasured.dedup();
    for name in unmeasured {
        let wanted: Vec<String> = goals.iter().filter(|g| g.is_of(name)).map(|g| g.text("")).collect();
        let words = name.replace('_', " ");
        let row = format!("| {words} | – | – | – | – | – | {} | not recorded yet |\n", wanted.join("; "));
        text.push_str(&row);
    }
    text
}

fn row(figure: &Figure, figures: &BTreeMap<String, Figure>, goals: &[Goal]) -> String {
    let other = |value: Option<f64>, name: &Option<String>| match (value, name) {
        (Some(value), Some(name)) => format!("{} ({name})", short(value)),
        _ => "–".to_owned(),
    };
    let ratio = |ratio: Option<f64>| ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.3}"));
    let (mut wanted, mut obstacles) = (Vec::new(), Vec::new());
    for goal in goals.iter().filter(|goal| goal.is_of(&figure.name)) {
        let text = goal.text(&figure.unit);
        match goal.judge(figures) {
            Outcome::Reached => wanted.push(format!("{text}: reached")),
            Outcome::Missed(why) => {
                wanted.push(format!("{text}: **missed**"));
                if !obstacles.contains(&why) {
                    obstacles.push(why);
                }
            }
            Outcome::NotMeasured => wanted.push(format!("{text}: not measured")),
        }
    }
    let or_dash = |list: Vec<String>| if list.is_empty() { "–".to_owned() } else { list.join("; ") };
    format!(
        "| {} | {} {} | {} | {} | {} | {} | {} | {} |\n",
        figure.name.replace('_', " "),
        short(figure.ours),
        figure.unit,
        other(figure.floor, &figure.floor_name),
        ratio(figure.ratio_to_floor),
        other(figure.peer, &figure.peer_name),
        ratio(figure.ratio_to_peer),
        or_dash(wanted),
        or_dash(obstacles)
    )
}

fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let text = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        let new = fill(&text, "new\n").unwrap();
        assert_eq!(new, format!("a\n{BEGIN}\nnew\n{END}\nb\n"));
        assert!(fill("no marks", "new").is_none());
    }

    #[test]
    fn every_goal_has_its_word_in_the_table() {
        let goals: Vec<Goal> = serde_saphyr::from_str(
            "- {figure: a_b, of: ours, atMost: 5}\n- {figure: a_b, of: ours, atMost: 2, missed: a reason}\n\
             - {figure: c, of: ours, atMost: 1}\n",
        )
        .unwrap();
        let figures = BTreeMap::from([("a_b".to_owned(), Figure::bare("a_b", "ms", 3.0))]);
        let table = table(&figures, &goals);
        let rows: Vec<&str> = table.lines().skip(2).collect();
        assert_eq!(rows[0], "| a b | 3.00 ms | – | – | – | – | ≤ 5 ms: reached; ≤ 2 ms: **missed** | a reason |");
        assert_eq!(rows[1], "| c | – | – | – | – | – | ≤ 1  | not recorded yet |");
    }
}
