//! Writes the CustomResourceDefinitions to a folder, or says where the folder differs from the types.

use std::{path::PathBuf, process::ExitCode};

use axoneme_crds::generated;

const USAGE: &str = "usage: crdgen [--out FOLDER] [--check]
  --out FOLDER  where the files are (crds/generated)
  --check       compare only; exit code 1 if something differs";

fn main() -> ExitCode {
    let mut folder = PathBuf::from("crds/generated");
    let mut check = false;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--check" => check = true,
            "--out" => match arguments.next() {
                Some(path) => folder = path.into(),
                None => return usage("--out needs a folder"),
            },
            "--help" | "-h" => {
                println!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            other => return usage(&format!("unknown argument {other:?}")),
        }
    }
    let done = if check { compare(&folder) } else { write(&folder) };
    done.unwrap_or_else(|error| {
        eprintln!("crdgen: {error}");
        ExitCode::from(2)
    })
}

fn usage(problem: &str) -> ExitCode {
    eprintln!("crdgen: {problem}\n{USAGE}");
    ExitCode::from(2)
}

fn write(folder: &std::path::Path) -> Result<ExitCode, generated::GenerateError> {
    let changed = generated::write(folder)?;
    for path in &changed {
        println!("{}", path.display());
    }
    println!("{} of {} files changed", changed.len(), axoneme_crds::all_crds().len());
    Ok(ExitCode::SUCCESS)
}

fn compare(folder: &std::path::Path) -> Result<ExitCode, generated::GenerateError> {
    let drifts = generated::check(folder)?;
    for drift in &drifts {
        eprintln!("{drift}");
    }
    if drifts.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("the generated files are not those of the types; run: cargo run -p axoneme-crds --bin crdgen");
    Ok(ExitCode::FAILURE)
}
