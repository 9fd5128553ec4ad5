//! `axoneme man`: the help as manual pages.

use std::{fs, path::Path};

use clap::{Command, CommandFactory as _};
use clap_mangen::Man;

use crate::{args::Cli, failure::Failure, output::Output};

/// The page of the program on standard output, or a page for each command in a directory.
pub fn run(dir: Option<&Path>, out: &mut Output) -> Result<(), Failure> {
    let Some(dir) = dir else {
        let mut page = Vec::new();
        Man::new(Cli::command()).render(&mut page).map_err(|e| Failure::output(&e))?;
        return out.raw(&page);
    };
    fs::create_dir_all(dir).map_err(|e| Failure::file(dir, &e))?;
    clap_mangen::generate_to(Cli::command(), dir).map_err(|e| Failure::file(dir, &e))?;
    out.line(&format!("{} pages in {}", count(&Cli::command()), dir.display()))
}

fn count(command: &Command) -> usize {
    1 + command.get_subcommands().map(count).sum::<usize>()
}
