//! What can end a command, and the exit code that says so.

use std::{fmt, io, path::Path, process::ExitCode};

/// Why a command ended. The text is for the person at the terminal: what is wrong, where, and what mends it.
#[derive(Debug)]
pub enum Failure {
    /// All was said already: something is not well.
    Unwell,
    /// The command line is wrong.
    Usage(String),
    /// No agent answers.
    Unreachable(String),
    /// The agent's answer is an error or not understood.
    Answer(String),
    /// A file or the output.
    File(String),
    /// Nobody reads the output any more: no failure.
    OutputClosed,
}

impl Failure {
    #[must_use]
    pub fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::OutputClosed => 0,
            Self::Unwell => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
            Self::Answer(_) => 4,
            Self::File(_) => 5,
        })
    }

    /// What is left to say.
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        match self {
            Self::Usage(m) | Self::Unreachable(m) | Self::Answer(m) | Self::File(m) => Some(m),
            Self::Unwell | Self::OutputClosed => None,
        }
    }

    /// Writing to standard output failed.
    #[must_use]
    pub fn output(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::File(format!("standard output: {error}")),
        }
    }

    /// Reading a file failed.
    #[must_use]
    pub fn file(path: &Path, error: &impl fmt::Display) -> Self {
        Self::File(format!("{}: {error}", path.display()))
    }
}
