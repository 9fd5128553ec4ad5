//! What the stages of the long way hand to each other.

use axoneme_abi::Conntrack;

use crate::{End, Family, Flow, FlowKind, Verdict, service::Translation};

/// A packet's state between stages.
///
/// In the kernel it lives in a per-CPU map element, and each stage is a function of its own. That is for the verifier's
/// sake: what a stage reads from a map is unknown to it, so that the branches of one stage do not multiply with those of
/// the next (the stages in one piece took more than a million steps), and each stage has a small stack frame.
#[derive(Clone, Copy, Debug)]
pub struct Work<F: Family> {
    pub(crate) flow: Flow<F>,
    pub(crate) key: F::Key,
    pub(crate) done: Translation<F>,
    /// Who is behind the packet's source.
    pub(crate) source: End,
    pub(crate) destination: End,
    /// The entry as it would be made now.
    pub(crate) fresh: Conntrack,
    pub(crate) verdict: Verdict,
    /// The epoch before the ends were looked up, and the slots' revisions before they were judged: what the entry's
    /// verdict is of. Read afterwards they might be those of tables that nobody has looked into.
    pub(crate) epoch: u32,
    pub(crate) revision: u32,
    /// Id in the packet's tunnel header, for events; 0: none, or it was not looked at.
    pub(crate) tunnel: u32,
    /// Flags of the connection's entry.
    pub(crate) flags: u32,
    /// The packet's source is the `b` end of the key.
    pub(crate) from_b: bool,
    /// The packet goes the originator's way.
    pub(crate) forward: bool,
    /// There is an entry, and the packet belongs to it.
    pub(crate) known: bool,
    /// There is an entry, of a connection that is over.
    pub(crate) over: bool,
    /// `source` and `destination` are this packet's.
    pub(crate) resolved: bool,
}

impl<F: Family> Work<F> {
    /// An empty one.
    pub fn new() -> Self {
        let end = End { ifindex: 0, identity: 0, peer: 0, node: 0, flags: 0, slot: 0, mac: 0 };
        let nowhere = F::from_words([0; 4]);
        Self {
            flow: Flow {
                source: nowhere,
                destination: nowhere,
                source_port: 0,
                destination_port: 0,
                policy_port: 0,
                protocol: 0,
                tcp_flags: 0,
                kind: FlowKind::Plain,
                transport: 0,
                id: 0,
            },
            key: F::key(nowhere, nowhere, 0, 0, 0).0,
            done: Translation { frontend: nowhere, frontend_port: 0, client: nowhere, flags: 0 },
            source: end,
            destination: end,
            fresh: Conntrack::default(),
            verdict: Verdict::PASS,
            epoch: 0,
            revision: 0,
            tunnel: 0,
            flags: 0,
            from_b: false,
            forward: true,
            known: false,
            over: false,
            resolved: false,
        }
    }

    /// Ends the way with a verdict.
    #[inline(always)]
    pub(crate) fn end(&mut self, v: Verdict) -> Step {
        self.verdict = v;
        Step::End
    }
}

impl<F: Family> Default for Work<F> {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether the way goes on after a stage. One register wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Step {
    Next = 0,
    /// The verdict is in the work.
    End = 1,
}
