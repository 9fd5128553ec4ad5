//! What a test breaks on purpose, to see that it is noticed.

/// One broken part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sabotage {
    #[default]
    None,
    /// An agent loses one batch of changes and goes on as if it had obeyed it.
    AgentLosesDelta,
    /// A kernel that says yes to a patch of a policy table and does nothing.
    KernelIgnoresPatch,
    /// An operator that takes every resume for its own newest: it sends nothing of what was missed.
    OperatorIgnoresResume,
    /// A watch that loses a deletion.
    WatchLosesDelete,
    /// A new leader that does not read what was handed out, while its watch of that lags.
    LeaderDoesNotRead,
    /// A kernel whose tables allow what no entry names.
    KernelOpensDefaults,
    /// An agent that hands an address out again at once, to whomever.
    AgentForgetsIntents,
}
