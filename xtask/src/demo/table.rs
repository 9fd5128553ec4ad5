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

    /// Whether the service is the client's own. It may pick the very pod that asks, whose packets then never leave it: no
    /// policy judges that, and another time it picks another pod.
    fn owns(&self, service: &str) -> bool {
        service.split(':').next() == Some(&self.client)
    }
}

/// Prints it with a mark a cell; in brackets where a pod may have asked itself.
pub(super) fn print(title: &str, rows: &[Row]) {
    println!("\n{title}");
    if let Some(first) = rows.first() {
        print!("   {:<10}", "from \\ to");
        first.answers.iter().for_each(|(name, _)| print!("{name:>10}"));
        println!();
    }
    for row in rows {
        print!("   {:<10}", row.client);
        for (service, outcome) in &row.answers {
            let mark = mark(outcome);
            print!("{:>10}", if row.owns(service) { format!("({mark})") } else { mark.to_owned() });
        }
        println!();
    }
    if rows.iter().any(|row| row.answers.iter().any(|(service, _)| row.owns(service))) {
        println!("   in brackets: a pod's own Service, which may pick the pod that asks; policy does not judge that");
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

/// Holds the table against what policy says, but for cells that no policy judges: [`Row::owns`].
pub(super) fn expect(rows: &[Row], allowed: impl Fn(&str, &str) -> bool) -> Result<()> {
    for row in rows {
        let others = row.answers.iter().filter(|(service, _)| !row.owns(service));
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
