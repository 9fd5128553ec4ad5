//! A suite: its settings, and its cases.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{
    api::Api,
    case::{Case, Outcome, Settings},
    command::Shell,
    config::{TIMEOUT, TestSuite, read},
    files,
};
use futures::StreamExt as _;

/// A suite with all of its cases read.
#[derive(Debug)]
pub struct Suite {
    settings: TestSuite,
    cases: Vec<Case>,
}

impl Suite {
    /// Reads a `kuttl-test.yaml` and the cases of its `testDirs`, which are relative to `root`, as upstream's are to the
    /// folder that it is started in.
    ///
    /// # Errors
    /// The first file that is not understood.
    pub fn load(file: &Path, root: &Path, shell: &Shell) -> Result<Self> {
        let objects = files::objects(file)?;
        let [object] = objects.as_slice() else { bail!("{}: needs one TestSuite", file.display()) };
        ensure!(object.get("kind").and_then(Value::as_str) == Some("TestSuite"), "{}: no TestSuite", file.display());
        let settings: TestSuite =
            read(object).map_err(anyhow::Error::msg).with_context(|| file.display().to_string())?;
        ensure!(settings.timeout >= 0, "{}: timeout {} is none", file.display(), settings.timeout);
        let others: Vec<&String> = settings.suppress.iter().filter(|what| *what != "events").collect();
        ensure!(others.is_empty(), "{}: suppress: only events can be: {others:?}", file.display());
        let of = Settings {
            timeout: if settings.timeout == 0 { TIMEOUT } else { settings.timeout },
            namespace: settings.namespace.clone(),
            skip_delete: settings.skip_delete,
            events: settings.suppress.is_empty(),
        };
        let mut cases = Vec::new();
        for folder in &settings.test_dirs {
            for case in files::entries(&root.join(folder))?.iter().filter(|entry| entry.is_dir()) {
                cases.push(Case::load(case, of.clone(), shell)?);
            }
        }
        ensure!(!cases.is_empty(), "{}: no case in {:?}", file.display(), settings.test_dirs);
        Ok(Self { settings, cases })
    }

    /// All cases.
    pub fn cases(&self) -> &[Case] {
        &self.cases
    }

    /// Only the case of this name.
    ///
    /// # Errors
    /// There is none; the names that there are.
    pub fn only(&mut self, name: &str) -> Result<()> {
        if !self.cases.iter().any(|case| case.name() == name) {
            let names: Vec<&str> = self.cases.iter().map(Case::name).collect();
            bail!("no case {name:?}; there are {}", names.join(", "));
        }
        self.cases.retain(|case| case.name() == name);
        Ok(())
    }

    /// Runs the suite's commands, then the cases, as many at once as the suite says. Outcomes are told as they come.
    ///
    /// # Errors
    /// A command of the suite failed: no case was run.
    pub async fn run<A: Api>(&self, api: &A, shell: &Shell, mut told: impl FnMut(&Outcome)) -> Result<Vec<Outcome>> {
        for command in &self.settings.commands {
            // commands of a suite have the suite's own timeout, which may be none at all
            shell.of("default").run(command, Path::new("."), self.settings.timeout).await?;
        }
        let running = self.cases.iter().map(|case| case.run(api, shell));
        let mut running = futures::stream::iter(running).buffer_unordered(self.settings.parallel.max(1));
        let mut done = Vec::new();
        while let Some(outcome) = running.next().await {
            told(&outcome);
            done.push(outcome);
        }
        Ok(done)
    }
}
