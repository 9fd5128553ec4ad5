//! The operator in a cluster of any size: builds what ships, and lets the operator's own bench drive it.

use anyhow::{Context as _, Result};

use super::{Effort, Figure, parse};
use crate::command::output;
use crate::image;

const PACKAGE: &str = "axoneme-operator";
const EXAMPLE: &str = "scale";

/// The large cluster; a small one where it is only to be shown that it runs.
pub(super) fn run(effort: Effort) -> Result<Vec<Figure>> {
    let size: &[&str] = match effort {
        Effort::Full => &["--patience", "600"],
        Effort::Quick => {
            &["--pods", "1000", "--nodes", "100", "--policies", "100", "--identities", "650", "--seconds", "10"]
        }
    };
    let mut command = image::cargo("run");
    command.args(["--package", PACKAGE, "--example", EXAMPLE, "--"]).args(size);
    parse(&output(&mut command)?).with_context(|| format!("what {EXAMPLE} printed"))
}
