//! The binary `axoneme`.

use std::process::ExitCode;

fn main() -> ExitCode {
    axoneme_cli::main()
}
