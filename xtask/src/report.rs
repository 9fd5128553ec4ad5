//! What ran, what failed and what was left out: a table of phases, the names, and one closing line.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::progress::{say, seconds};

/// Counts of one phase.
#[derive(Clone, Debug)]
struct Phase {
    name: String,
    elapsed: Duration,
    passed: usize,
    failed: usize,
    skipped: usize,
}

/// Something that failed or was left out, and why.
#[derive(Clone, Debug)]
struct Note {
    name: String,
    reason: String,
}

/// A test of this program's own: its name, a promise, and what proves it.
pub(crate) type Case = (&'static str, fn() -> Result<()>);

/// The outcome of a whole run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    phases: Vec<Phase>,
    failures: Vec<Note>,
    skips: Vec<Note>,
    passed: usize,
}

impl Report {
    /// Runs a phase: whatever is reported inside is counted to it. An error of the phase itself is one failure more.
    pub(crate) fn phase(&mut self, name: &str, work: impl FnOnce(&mut Self) -> Result<()>) {
        say(format_args!("== {name}"));
        let started = Instant::now();
        let (passed, failed, skipped) = (self.passed, self.failures.len(), self.skips.len());
        if let Err(error) = work(self) {
            self.fail(name, &format!("{error:#}"));
        }
        self.phases.push(Phase {
            name: name.to_owned(),
            elapsed: started.elapsed(),
            passed: self.passed - passed,
            failed: self.failures.len() - failed,
            skipped: self.skips.len() - skipped,
        });
    }

    /// Counts tests that passed.
    pub(crate) fn pass(&mut self, count: usize) {
        self.passed += count;
    }

    /// Notes a failure and says it at once.
    pub(crate) fn fail(&mut self, name: &str, reason: &str) {
        say(format_args!("  !! {name}: {reason}"));
        self.failures.push(Note { name: name.to_owned(), reason: reason.to_owned() });
    }

    /// Notes something that could not run, with its reason.
    pub(crate) fn skip(&mut self, name: &str, reason: &str) {
        self.skips.push(Note { name: name.to_owned(), reason: reason.to_owned() });
    }

    /// Runs one test and says how it went and how long it took.
    pub(crate) fn case(&mut self, name: &str, test: impl FnOnce() -> Result<()>) {
        let started = Instant::now();
        match test() {
            Ok(()) => {
                say(format_args!("  ok {name} ({})", seconds(started.elapsed())));
                self.passed += 1;
            }
            Err(error) => self.fail(name, &format!("{error:#}")),
        }
    }

    /// Runs those of the cases whose names have the filter in them.
    pub(crate) fn cases(&mut self, filter: Option<&str>, cases: &[Case]) {
        for (name, test) in cases.iter().filter(|(name, _)| filter.is_none_or(|filter| name.contains(filter))) {
            self.case(name, test);
        }
    }

    /// Takes what another report of the same phase has found beside this one.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failures.extend(other.failures);
        self.skips.extend(other.skips);
    }

    /// Prints the table, the names, and the closing line alone on its line; whether nothing failed.
    pub(crate) fn close(&self) -> bool {
        println!("\n{:<12} {:>9} {:>8} {:>8} {:>8}", "phase", "seconds", "passed", "failed", "skipped");
        for phase in &self.phases {
            println!(
                "{:<12} {:>9.1} {:>8} {:>8} {:>8}",
                phase.name,
                phase.elapsed.as_secs_f64(),
                phase.passed,
                phase.failed,
                phase.skipped
            );
        }
        for note in &self.skips {
            println!("skipped: {}: {}", note.name, note.reason);
        }
        for note in &self.failures {
            println!("failed: {}: {}", note.name, note.reason.lines().next().unwrap_or_default());
        }
        println!("{} passed, {} failed, {} skipped", self.passed, self.failures.len(), self.skips.len());
        self.failures.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_a_phase_is_a_failure() {
        let mut report = Report::default();
        report.phase("one", |report| {
            report.pass(2);
            report.case("good", || Ok(()));
            anyhow::bail!("could not go on")
        });
        assert_eq!((report.passed, report.failures.len()), (3, 1));
        assert!(!report.close());
    }

    #[test]
    fn what_ran_beside_is_counted_to_the_phase() {
        let mut report = Report::default();
        report.phase("one", |report| {
            let mut beside = Report::default();
            beside.pass(1);
            beside.fail("bad", "for a reason");
            beside.skip("left out", "for another");
            report.add(beside);
            Ok(())
        });
        let phase = report.phases.first().unwrap();
        assert_eq!((phase.passed, phase.failed, phase.skipped), (1, 1, 1));
        assert!(!report.close());
    }
}
