//! The kernel matrix: the packet path's own test program on other kernels, in virtual machines.
//!
//! Software emulation: pass or fail, never speed. Kernels run side by side, since each test leaves one of its two
//! processors idle. Each kernel has its time, after which it counts as failed.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::libtest::Reader;
use crate::command::output;
use crate::progress::say;
use crate::report::Report;
use crate::vm::{Guest, Kernel};
use crate::workspace;

/// The oldest that Debian still mends, the hungriest verifier, and the first of Debian's with tcx links. 7.3 is there by
/// `cargo xtask vm --kernel`.
const KERNELS: &[&str] = &["5.10", "6.1", "6.12"];
const PROGRAM: &str = "root_vm_kernels";
/// For boot and all tests of one kernel beside the others; a quiet machine takes a third of it.
const SECONDS: u64 = 600;

#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
}

/// Builds the test program and runs it on each kernel.
pub(super) fn run(report: &mut Report, filter: Option<&str>) -> Result<()> {
    let binary = build()?;
    let kernels = KERNELS.iter().map(|name| Ok((*name, Kernel::fetch(name)?))).collect::<Result<Vec<_>>>()?;
    let report = Mutex::new(report);
    std::thread::scope(|scope| {
        for (name, kernel) in kernels {
            let (report, binary) = (&report, binary.as_path());
            scope.spawn(move || {
                say(format_args!("  -- kernel {name}"));
                if let Err(error) = on_kernel(report, name, kernel, binary, filter) {
                    let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
                    report.fail(&format!("kernel {name}"), &format!("{error:#}"));
                }
            });
        }
    });
    Ok(())
}

fn build() -> Result<PathBuf> {
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--no-run", "--quiet", "--message-format=json"]).args(workspace::tests(&[PROGRAM]));
    let text = output(&mut cargo).context("building the test program")?;
    let built = text.lines().filter_map(|line| serde_json::from_str::<Message>(line).ok()?.executable).next_back();
    built.context("cargo did not say where the test program is")
}

fn on_kernel(
    report: &Mutex<&mut Report>,
    name: &str,
    kernel: Kernel,
    binary: &Path,
    filter: Option<&str>,
) -> Result<()> {
    let guest = Guest {
        kernel,
        modules: Vec::new(),
        files: vec![binary.to_path_buf()],
        append: String::new(),
        memory: "1G".to_owned(),
        timeout_seconds: SECONDS,
    };
    let mut command = vec![binary.display().to_string(), "--ignored".to_owned(), "--test-threads=1".to_owned()];
    command.extend(filter.map(str::to_owned));
    let mut reader = Reader { place: format!("kernel {name}: "), ..Reader::default() };
    let done = guest.run_lines(&command, &mut |line| {
        reader.take(&mut report.lock().unwrap_or_else(PoisonError::into_inner), line);
    });
    // A test that failed is reported already.
    match done {
        Err(error) if reader.failures == 0 => Err(error),
        Ok(()) if reader.failures > 0 => bail!("tests failed, and the program's status said nothing"),
        _ => Ok(()),
    }
}
