//! Who reaches whom, as a table.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::lab::Outcome;

/// Long enough for a name to resolve and a loaded machine to answer; a drop costs all of it, once a client.
pub(super) const PATIENCE: Duration = Duration::from_millis(1500);

/// One client's answers, in the order of the columns.
pub(super) struct Row {
    client: String,
    answers: Vec<(String, Outcome)>,
}

impl Row {
    /// A pod's answers; the row carries the name of its application, which is the part of its name before a dash.
    pub(super) fn new(pod: &str, services: &[(String, String)], outcomes: Vec<Outcome>) -> Self {
        let client = pod.split('-').next().unwrap_or(pod).to_owned();
        let names = services.iter().map(|(name, _)| name.clone());
        Self { client, answers: names.zip(outcomes).collect() }
    }
}

/// Prints it with a mark a cell.
pub(super) fn print(title: &str, rows: &[Row]) {
    println!("\n{title}");
    if let Some(first) = rows.first() {
        print!("   {:<10}", "from \\ to");
        first.answers.iter().for_each(|(name, _)| print!("{name:>10}"));
        println!();
    }
    for row in rows {
        print!("   {:<10}", row.client);
        row.answers.iter().for_each(|(_, outcome)| print!("{:>10}", mark(outcome)));
        println!();
    }
}

const fn mark(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Ok(_) => "yes",
        Outcome::Timeout => "dropped",
        Outcome::Refused => "refused",
        Outcome::Failed(_) => "failed",
    }
}

/// Holds the table against what policy says. A pod that reaches itself through its Service never leaves its own
/// namespace, so no policy judges that cell.
pub(super) fn expect(rows: &[Row], allowed: impl Fn(&str, &str) -> bool) -> Result<()> {
    for row in rows {
        let others = row.answers.iter().filter(|(service, _)| !service.starts_with(&format!("{}:", row.client)));
        for (service, outcome) in others {
            let wanted = allowed(&row.client, service);
            if wanted != outcome.passed() {
                bail!("{} → {service}: {outcome:?}, but policy says {}", row.client, if wanted { "yes" } else { "no" });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn services() -> Vec<(String, String)> {
        ["api:80", "db:5432"].map(|name| (name.to_owned(), String::new())).to_vec()
    }

    #[test]
    fn a_table_that_is_not_what_policy_says_is_refused() {
        let row = |api| vec![Row::new("web-7f", &services(), vec![api, Outcome::Timeout])];
        let only_api = |_: &str, to: &str| to == "api:80";
        assert!(expect(&row(Outcome::Ok(String::new())), only_api).is_ok());
        assert!(expect(&row(Outcome::Timeout), only_api).is_err());
        assert!(expect(&row(Outcome::Ok(String::new())), |_, _| false).is_err());
    }

    #[test]
    fn a_pod_asking_itself_is_not_judged() {
        let rows = vec![Row::new("api-1", &services(), vec![Outcome::Ok(String::new()), Outcome::Timeout])];
        assert!(expect(&rows, |_, _| false).is_ok());
    }
}
