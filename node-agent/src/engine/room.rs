//! Maps that fill up: told before anything is refused.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use axoneme_flow::admin::MapUsage;
use axoneme_kernel::datapath::{Fullness, when_full};

use super::Engine;

/// Between looks.
const LOOK: Duration = Duration::from_secs(30);
/// Percent from which on a map fills up, and from which on it is nearly full.
const LEVELS: [u32; 2] = [70, 90];
/// Percent by which a map has to fall below a level before that is told again.
const SLACK: u32 = 5;

/// What was seen last.
#[derive(Debug, Default)]
pub(super) struct Room {
    next: Option<Instant>,
    seen: Vec<Fullness>,
    /// How many of [`LEVELS`] were told of a map.
    told: BTreeMap<&'static str, usize>,
}

/// A level that a map has reached since it was told last.
fn reached(map: &Fullness, told: &mut BTreeMap<&'static str, usize>) -> Option<u32> {
    let percent = map.percent();
    let at = |slack: u32| LEVELS.iter().filter(|level| percent + slack >= **level).count();
    let before = told.get(map.map).copied().unwrap_or(0);
    // a level is kept until the map is well below it
    let now = at(0).max(before.min(at(SLACK)));
    told.insert(map.map, now);
    if now > before { LEVELS.get(now - 1).copied() } else { None }
}

impl Room {
    pub(super) const fn wake_at(&self) -> Option<Instant> {
        self.next
    }

    pub(super) fn view(&self) -> Vec<MapUsage> {
        let usage = |f: &Fullness| MapUsage {
            map: f.map.to_owned(),
            used: f.used.into(),
            capacity: f.capacity.into(),
            when_full: when_full(f.map).to_owned(),
        };
        self.seen.iter().map(usage).collect()
    }
}

impl Engine {
    /// Looks how full the maps are, and has the operator tell what is new about it in an Event of the node.
    pub(super) fn look_at_room(&mut self) {
        let Some(datapath) = self.datapath.clone() else { return };
        let now = self.parts.clock.now();
        if self.room.next.is_some_and(|at| at > now) {
            return;
        }
        self.room.next = Some(now + LOOK);
        let seen = match datapath.fullness() {
            Ok(seen) => seen,
            Err(error) => return tracing::warn!(%error, "maps are not looked at"),
        };
        for map in &seen {
            let Some(level) = reached(map, &mut self.room.told) else { continue };
            let (name, used, capacity) = (map.map, map.used, map.capacity);
            let message = format!(
                "map {name} is {}% full ({used} of {capacity}); when it is full: {}",
                map.percent(),
                when_full(name)
            );
            tracing::warn!(map = name, used, capacity, "a map fills up");
            self.event(true, if level == 70 { "MapFillsUp" } else { "MapNearlyFull" }, message);
        }
        self.room.seen = seen;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_told_once_and_again_after_the_map_was_well_below_it() {
        let mut told = BTreeMap::new();
        let mut at = |used| reached(&Fullness { map: "CT4", used, capacity: 1000 }, &mut told);
        assert_eq!([0, 699, 700, 710, 690, 700].map(&mut at), [None, None, Some(70), None, None, None]);
        assert_eq!([899, 900, 1000, 880, 905].map(&mut at), [None, Some(90), None, None, None]);
        assert_eq!([840, 900].map(&mut at), [None, Some(90)]);
        assert_eq!([640, 1000].map(&mut at), [None, Some(90)], "of two levels at once the higher one");
    }
}
