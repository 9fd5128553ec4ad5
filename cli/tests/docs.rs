//! `docs/cli.md` holds the program's own help, word by word.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "helpers of tests fail as tests do")]

use std::{fmt::Write, fs, path::Path};

use axoneme_cli::args::Cli;
use clap::{Command, CommandFactory};

const BEGIN: &str =
    "<!-- reference: generated from the program's help; AXONEME_BLESS=1 cargo test -p axoneme-cli -->\n";

fn reference(command: &mut Command, path: &str, out: &mut String) {
    let help = command.clone().bin_name(path).render_long_help().to_string();
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    writeln!(out, "\n### {path}\n\n```text\n{}\n```", help.join("\n").trim_end()).unwrap();
    for sub in command.get_subcommands_mut().filter(|s| s.get_name() != "help") {
        let path = format!("{path} {}", sub.get_name());
        reference(sub, &path, out);
    }
}

#[test]
fn the_reference_in_the_docs_is_the_help_of_the_program() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
    let text = fs::read_to_string(&path).unwrap();
    let (head, _) = text.split_once(BEGIN).expect("docs/cli.md has the mark behind which the reference is");
    let mut expected = head.to_owned() + BEGIN;
    let mut command = Cli::command();
    command.build();
    reference(&mut command, "axoneme", &mut expected);
    if std::env::var_os("AXONEME_BLESS").is_some() {
        fs::write(&path, expected).unwrap();
    } else {
        assert!(
            text == expected,
            "docs/cli.md is not the help of the program; AXONEME_BLESS=1 rewrites it:\n{expected}"
        );
    }
}

#[test]
fn every_argument_is_explained() {
    fn visit(command: &Command) {
        for arg in command.get_arguments() {
            // the from- and to- forms of a filter are explained by the filter
            let id = arg.get_id().as_str();
            let half = id.starts_with("from_") || id.starts_with("to_");
            let said = arg.get_help().is_some() || half || matches!(id, "shell" | "namespace");
            assert!(said, "{} {id}", command.get_name());
        }
        command.get_subcommands().for_each(visit);
    }
    let command = Cli::command();
    command.clone().debug_assert();
    visit(&command);
}

#[test]
fn every_shell_gets_a_completion_script() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let out =
            std::process::Command::new(env!("CARGO_BIN_EXE_axoneme")).args(["completion", shell]).output().unwrap();
        assert!(out.status.success() && String::from_utf8_lossy(&out.stdout).contains("observe"), "{shell}");
    }
}

/// kubectl runs `kubectl-axoneme` for `kubectl axoneme`: the same program, which names itself so.
#[test]
fn as_a_plugin_of_kubectl_it_is_the_same_program() {
    let dir = tempfile::tempdir().unwrap();
    let plugin = dir.path().join("kubectl-axoneme");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_axoneme"), &plugin).unwrap();
    let help = |args: &[&str]| {
        let out = std::process::Command::new(&plugin).args(args).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
    };
    assert!(help(&["--help"]).contains("Usage: kubectl axoneme "), "{}", help(&["--help"]));
    assert!(help(&["config", "set", "--help"]).contains("Usage: kubectl axoneme config set "));
    assert!(help(&["config", "set"]).contains("Usage: kubectl axoneme config set "));
    assert!(help(&["version", "--client"]).starts_with("client: "));
}

#[test]
fn every_command_has_a_manual_page() {
    fn visit(command: &Command, name: &str, dir: &Path) {
        let page = fs::read_to_string(dir.join(format!("{name}.1"))).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(page.contains(".TH") && page.contains(".SH SYNOPSIS"), "{name}");
        for sub in command.get_subcommands().filter(|s| s.get_name() != "help") {
            visit(sub, &format!("{name}-{}", sub.get_name()), dir);
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| std::process::Command::new(env!("CARGO_BIN_EXE_axoneme")).args(args).output().unwrap();
    let out = run(&["man", dir.path().to_str().unwrap()]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let mut command = Cli::command();
    command.build();
    visit(&command, "axoneme", dir.path());
    assert!(dir.path().join("axoneme-config-from-cilium.1").is_file());
    assert!(String::from_utf8_lossy(&run(&["man"]).stdout).to_lowercase().contains(".th axoneme 1"));
}
