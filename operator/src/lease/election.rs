//! What to do about the Lease as it is read. Pure: clocks are told.

use std::time::Instant;

use axoneme_wire::server::Leadership;

use super::{DURATION, Renewed};

/// The Lease as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    pub version: String,
    /// Empty: it was given back.
    pub holder: String,
    /// Stream address of the holder.
    pub address: Option<String>,
    pub transitions: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    /// There is none.
    Create,
    /// Take or renew it, onto this version.
    Write {
        version: String,
        transitions: i64,
    },
    Leave(Leadership),
}

/// A time in which nobody else can have held the Lease, by its number in this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Term(u64);

/// A replica's hold of the Lease.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hold {
    renewed: Option<Renewed>,
    term: Term,
}

impl Hold {
    /// When the request started that renewed it last; none: it is lost.
    #[must_use]
    pub const fn renewed(&self) -> Option<Renewed> {
        self.renewed
    }

    /// The newest term, which may be over.
    #[must_use]
    pub const fn term(&self) -> Term {
        self.term
    }

    /// It was renewed by a request that started at this time; none: it is lost. Whether a new term begins: one does unless
    /// the former renewal was still good when the request started.
    pub fn set(&mut self, at: Option<Renewed>) -> bool {
        let goes_on = at.is_none_or(|new| self.renewed.is_some_and(|old| old.is_sure_at(new)));
        self.renewed = at;
        self.term.0 += u64::from(!goes_on);
        !goes_on
    }

    /// Whether a write that was planned in a term may start now. What is planned in one term and carried out in another
    /// would be put onto what others have written between the two.
    #[must_use]
    pub fn lets(&self, term: Term, now: Renewed) -> bool {
        self.term == term && self.renewed.is_some_and(|at| at.is_sure_at(now))
    }
}

/// What was seen last, and since when it is so.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    version: String,
    since: Option<Instant>,
}

impl Seen {
    /// What `me` does about the Lease as it is read `now`, by the steady clock.
    pub fn judge(&mut self, lease: Option<&View>, me: &str, now: Instant) -> Move {
        let Some(lease) = lease else { return Move::Create };
        let mine = lease.holder == me;
        if !mine && !lease.holder.is_empty() && !self.is_over(&lease.version, now) {
            return Move::Leave(lease.address.clone().map_or(Leadership::Unknown, Leadership::Other));
        }
        Move::Write { version: lease.version.clone(), transitions: lease.transitions + i64::from(!mine) }
    }

    fn is_over(&mut self, version: &str, now: Instant) -> bool {
        if *version != self.version || self.since.is_none() {
            (self.version, self.since) = (version.to_owned(), Some(now));
        }
        self.since.is_some_and(|since| now.saturating_duration_since(since) >= DURATION)
    }
}

/// The hold and the leadership after an attempt that `started` then and has ended `now`. `learnt`: nothing, if it failed.
#[must_use]
pub fn after(
    hold: Option<Renewed>,
    learnt: Option<Leadership>,
    started: Renewed,
    now: Renewed,
) -> (Option<Renewed>, Leadership) {
    match learnt {
        Some(Leadership::Me) => (Some(started), Leadership::Me),
        Some(other) => (None, other),
        // not known: a leader stays one for as long as it can be sure
        None if hold.is_some_and(|h| h.is_sure_at(now)) => (hold, Leadership::Me),
        None => (None, Leadership::Unknown),
    }
}

#[cfg(test)]
mod tests;
