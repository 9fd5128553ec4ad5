//! README's table of figures, between two marks.

use anyhow::{Context as _, Result};

use super::Figure;
use crate::settings;

const BEGIN: &str = "<!-- figures: written by `cargo xtask bench --record` -->";
const END: &str = "<!-- end of figures -->";

/// Replaces what is between the marks.
pub(super) fn write<'a>(figures: impl Iterator<Item = &'a Figure>) -> Result<()> {
    let path = settings::repository().join("README.md");
    let text = std::fs::read_to_string(&path)?;
    let filled = fill(&text, &table(figures)).context("README.md lacks the marks of the figures")?;
    std::fs::write(&path, filled).context("writing README.md")
}

fn fill(text: &str, table: &str) -> Option<String> {
    let (head, rest) = text.split_once(BEGIN)?;
    let (_, tail) = rest.split_once(END)?;
    Some(format!("{head}{BEGIN}\n{table}{END}{tail}"))
}

fn table<'a>(figures: impl Iterator<Item = &'a Figure>) -> String {
    let mut text = String::from("| figure | ours | floor | ratio | peer | ratio |\n|---|---|---|---|---|---|\n");
    for f in figures {
        let other = |value: Option<f64>, name: &Option<String>| match (value, name) {
            (Some(v), Some(n)) => format!("{} ({n})", short(v)),
            _ => "–".to_owned(),
        };
        let ratio = |r: Option<f64>| r.map_or_else(|| "–".to_owned(), |r| format!("{r:.3}"));
        let row = format!(
            "| {} | {} {} | {} | {} | {} | {} |\n",
            f.name.replace('_', " "),
            short(f.ours),
            f.unit,
            other(f.floor, &f.floor_name),
            ratio(f.ratio_to_floor),
            other(f.peer, &f.peer_name),
            ratio(f.ratio_to_peer)
        );
        text.push_str(&row);
    }
    text
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
}
