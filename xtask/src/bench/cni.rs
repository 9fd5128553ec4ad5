//! Adding and removing pods, against the reference plugins: builds what ships, and lets the agent's own bench drive it.

use anyhow::{Context as _, Result};

use super::{Figure, parse};
use crate::command::output;
use crate::image;
use crate::setup::{self, Part, go};

const PACKAGE: &str = "axoneme-node-agent";
const EXAMPLE: &str = "cni_bench";

/// Static binaries as in the images; the plugins `ptp` and `host-local` as on the local cluster.
pub(super) fn run() -> Result<Vec<Figure>> {
    setup::run_quietly(Part::Cluster)?;
    image::build_binaries()?;
    let mut command = image::cargo("run");
    command.args(["--package", PACKAGE, "--example", EXAMPLE, "--"]);
    command.arg("--agent").arg(image::binary("axoneme-agent"));
    command.arg("--plugin").arg(image::binary("axoneme-cni"));
    command.arg("--reference").arg(go::binaries()?.join("cni"));
    parse(&output(&mut command)?).with_context(|| format!("what {EXAMPLE} printed"))
}
