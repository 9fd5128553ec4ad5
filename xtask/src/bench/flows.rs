//! What flows cost: on one core from event bytes to a client, and beside a node's traffic, against softflowd.

use anyhow::{Context as _, Result};

use super::{Effort, Figure, example};
use crate::setup::softflowd;

pub(super) fn run(effort: Effort) -> Result<Vec<Figure>> {
    let mut figures = example("axoneme-hubble", "flow_scale", &[&effort.rounds(10).to_string()])?;
    let peer = softflowd::program()?;
    let peer = peer.to_str().context("the cache's path is not text")?;
    // one percent is looked for: twice the rounds of the datapath's ratios
    let rounds = effort.rounds(90).to_string();
    let seconds = if effort == Effort::Full { "3" } else { "1" };
    let words = ["--softflowd", peer, "--rounds", &rounds, "--seconds", seconds];
    figures.extend(example("axoneme-kernel", "flow_cost", &words)?);
    Ok(figures)
}
