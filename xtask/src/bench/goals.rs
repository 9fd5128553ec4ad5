//! What the figures should be: `docs/benchmarks-goals.yaml`, held against what was recorded.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::Figure;
use crate::settings;

/// Which number of a figure is held against the bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Of {
    Ours,
    RatioToFloor,
    RatioToPeer,
}

/// One bound of one figure.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Goal {
    figure: String,
    of: Of,
    versus: Option<String>,
    at_least: Option<f64>,
    at_most: Option<f64>,
    /// What stands in the way, where it is known.
    missed: Option<String>,
}

/// A goal beside what was measured.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Outcome {
    Reached,
    /// With what stands in the way.
    Missed(String),
    /// The figure, or what it is compared with, is not recorded.
    NotMeasured,
}

/// Reads the goals.
pub(super) fn read() -> Result<Vec<Goal>> {
    let path = settings::repository().join("docs/benchmarks-goals.yaml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    parse(&text).with_context(|| format!("reading {}", path.display()))
}

fn parse(text: &str) -> Result<Vec<Goal>> {
    let goals: Vec<Goal> = serde_saphyr::from_str(text)?;
    for goal in &goals {
        ensure!(
            goal.at_least.is_some() != goal.at_most.is_some(),
            "{}: a goal has either atLeast or atMost",
            goal.figure
        );
        ensure!(goal.versus.is_none() || goal.of == Of::Ours, "{}: versus compares ours", goal.figure);
    }
    Ok(goals)
}

impl Goal {
    /// Whether it is about this figure.
    pub(super) fn is_of(&self, figure: &str) -> bool {
        self.figure == figure
    }

    /// The figure's name.
    pub(super) fn figure(&self) -> &str {
        &self.figure
    }

    /// For people: `≥ 0.96 of floor`, `≤ 20 ms`.
    pub(super) fn text(&self, unit: &str) -> String {
        let (sign, bound) = match (self.at_least, self.at_most) {
            (Some(bound), _) => ("≥", bound),
            (None, Some(bound)) => ("≤", bound),
            (None, None) => ("", 0.0),
        };
        match (self.of, &self.versus) {
            (Of::Ours, Some(other)) => format!("{sign} {bound} of {}", other.replace('_', " ")),
            (Of::Ours, None) => format!("{sign} {bound} {unit}"),
            (Of::RatioToFloor, _) => format!("{sign} {bound} of floor"),
            (Of::RatioToPeer, _) => format!("{sign} {bound} of peer"),
        }
    }

    fn value(&self, figures: &BTreeMap<String, Figure>) -> Option<f64> {
        let figure = figures.get(&self.figure)?;
        match (self.of, &self.versus) {
            (Of::Ours, Some(other)) => Some(figure.ours / figures.get(other)?.ours),
            (Of::Ours, None) => Some(figure.ours),
            (Of::RatioToFloor, _) => figure.ratio_to_floor,
            (Of::RatioToPeer, _) => figure.ratio_to_peer,
        }
    }

    /// Holds it against what was measured.
    pub(super) fn judge(&self, figures: &BTreeMap<String, Figure>) -> Outcome {
        let Some(value) = self.value(figures) else { return Outcome::NotMeasured };
        let good = self.at_least.is_none_or(|bound| value >= bound) && self.at_most.is_none_or(|bound| value <= bound);
        if good {
            return Outcome::Reached;
        }
        Outcome::Missed(self.missed.clone().unwrap_or_else(|| "not explained yet".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(ours: f64, ratio: Option<f64>) -> BTreeMap<String, Figure> {
        let of = |name: &str, ours| Figure { ratio_to_peer: ratio, ..Figure::bare(name, "ms", ours) };
        ["a", "b"].into_iter().zip([ours, 10.0]).map(|(n, o)| (n.to_owned(), of(n, o))).collect()
    }

    fn goal(text: &str) -> Goal {
        parse(text).unwrap().remove(0)
    }

    #[test]
    fn a_figure_outside_of_its_bound_is_missed_with_the_reason() {
        let most = goal("- {figure: a, of: ours, atMost: 5, missed: slow}");
        assert_eq!(most.judge(&figures(5.0, None)), Outcome::Reached);
        assert_eq!(most.judge(&figures(5.1, None)), Outcome::Missed("slow".to_owned()));
        let least = goal("- {figure: a, of: ratio_to_peer, atLeast: 1.0}");
        assert_eq!(least.judge(&figures(1.0, Some(1.2))), Outcome::Reached);
        assert!(matches!(least.judge(&figures(1.0, Some(0.9))), Outcome::Missed(_)));
        assert_eq!(least.judge(&figures(1.0, None)), Outcome::NotMeasured);
        let versus = goal("- {figure: a, of: ours, versus: b, atMost: 1.02}");
        assert_eq!(versus.judge(&figures(10.1, None)), Outcome::Reached);
        assert!(matches!(versus.judge(&figures(10.3, None)), Outcome::Missed(_)));
        assert_eq!(goal("- {figure: c, of: ours, atMost: 1}").judge(&figures(1.0, None)), Outcome::NotMeasured);
    }

    #[test]
    fn the_committed_goals_are_well_formed() {
        let goals = read().unwrap();
        assert!(goals.len() > 10);
        assert_eq!(goal("- {figure: a, of: ours, atMost: 20}").text("ms"), "≤ 20 ms");
        assert!(parse("- {figure: a, of: ours}").is_err());
        assert!(parse("- {figure: a, of: ours, atMost: 1, atleast: 2}").is_err());
    }
}
