//! Who reaches whom, as a table.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::lab::{Lab, Outcome, Pod};

/// Long enough for a name to resolve and a loaded machine to answer; a drop costs all of it, once a client.
const PATIENCE: Duration = Duration::from_millis(1500);

/// One client's answers, in the order of the columns.
pub(super) struct Row {
    client: String,
    answers: Vec<(String, Outcome)>,
}

/// Asks every client for every service, all at once inside a client.
pub(super) fn ask(lab: &Lab, clients: &[Pod], services: &[(&str, &str)]) -> Result<Vec<Row>> {
    let targets: Vec<String> = services.iter().map(|(_, t)| (*t).to_owned()).collect();
    let one = |client: &Pod| -> Result<Row> {
        let outcomes = lab.probe(client, &targets, PATIENCE)?;
        let names = services.iter().map(|(n, _)| (*n).to_owned());
        let client = client.name.split('-').next().unwrap_or(&client.name).to_owned();
        Ok(Row { client, answers: names.zip(outcomes).collect() })
    };
    clients.iter().map(one).collect()
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
