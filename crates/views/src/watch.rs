//! Watches: frames of JSON, one a line, for as long as their reader takes them.
//!
//! A watch holds a version and nothing else: what its reader has not taken waits in the store's log, and a reader that is
//! slower than the log is long is told so with 410, in the stream, and begins anew. (In the stream rather than by the
//! status of the answer, since that is where the API server's own cache says it, and what every client handles.)

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::stream::{self, Stream};
use serde_json::{Value, json};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    kinds::{Key, View},
    list::selects,
    present::Present,
    refusal::Refusal,
    request::{Begin, Query},
    store::{Happened, Store},
};

/// Between two bookmarks.
const BOOKMARK: Duration = Duration::from_mins(1);
/// Objects that are read at once of what is there at the beginning.
const OBJECTS: usize = 256;

/// When a watch ends and what it tells.
#[derive(Clone, Debug)]
pub struct Terms {
    pub begin: Begin,
    pub bookmarks: bool,
    pub timeout: Duration,
    pub cancel: CancellationToken,
}

#[derive(Debug)]
enum Phase {
    /// What is there, behind this key.
    State(Option<Key>),
    Changes,
    Ended,
}

#[derive(Debug)]
struct Watch<T> {
    store: Arc<Store<T>>,
    newest: watch::Receiver<u64>,
    query: Query,
    present: Present,
    terms: Terms,
    phase: Phase,
    /// Everything up to it has been told, or is in what is there.
    version: u64,
    ends: Instant,
    bookmark: Instant,
    /// A bookmark would tell something new.
    unmarked: bool,
    columns_told: bool,
    frames: VecDeque<Bytes>,
}

/// The frames of a watch.
pub fn watch<T: View>(
    store: Arc<Store<T>>,
    query: Query,
    present: Present,
    terms: Terms,
) -> impl Stream<Item = Bytes> + Send + 'static {
    let newest = store.newest();
    let (now, current) = (Instant::now(), *newest.borrow());
    let (phase, version) = match terms.begin {
        Begin::State { .. } => (Phase::State(None), current),
        Begin::Behind(version) => (Phase::Changes, version),
        Begin::Now => (Phase::Changes, current),
    };
    let watch = Watch {
        ends: now + terms.timeout,
        bookmark: now + BOOKMARK,
        unmarked: true,
        columns_told: false,
        frames: VecDeque::new(),
        store,
        newest,
        query,
        present,
        terms,
        phase,
        version,
    };
    stream::unfold(watch, |mut watch| async move { watch.next().await.map(|frame| (frame, watch)) })
}

impl<T: View> Watch<T> {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return Some(frame);
            }
            match std::mem::replace(&mut self.phase, Phase::Ended) {
                Phase::State(after) => self.state(after.as_ref()),
                Phase::Changes => self.changes().await,
                Phase::Ended => return None,
            }
        }
    }

    /// Some of what is there. It is read as it is now, which may be newer than the version that the watch goes on from:
    /// then it is told again.
    fn state(&mut self, after: Option<&Key>) {
        let query = &self.query;
        let batch = self.store.batch(&query.scope, after, |v| selects(query, v), OBJECTS);
        for (view, version) in &batch.items {
            self.tell(Happened::Added, view, *version);
        }
        if let Some(key) = batch.more {
            self.phase = Phase::State(Some(key));
            return;
        }
        if self.terms.begin == (Begin::State { told: true }) {
            self.push(&self.present.bookmark::<T>(self.version, true));
        }
        self.phase = Phase::Changes;
    }

    async fn changes(&mut self) {
        self.newest.borrow_and_update();
        let query = &self.query;
        let changes = self.store.changes(&query.scope, self.version, |v| selects(query, v));
        let Ok(changes) = changes else {
            let message = format!("too old resource version: {}", self.version);
            return self.push(&json!({"type": "ERROR", "object": Refusal::expired(message).status()}));
        };
        self.phase = Phase::Changes;
        if changes.reached != self.version {
            self.version = changes.reached;
            self.unmarked = true;
            for (what, view, version) in &changes.events {
                self.tell(*what, view, *version);
            }
            return;
        }
        let wakes = self.ends.min(self.bookmark);
        tokio::select! {
            changed = self.newest.changed() => if changed.is_err() { self.end() },
            () = tokio::time::sleep_until(wakes) => self.due(Instant::now()),
            () = self.terms.cancel.cancelled() => self.end(),
        }
    }

    fn due(&mut self, now: Instant) {
        if now >= self.ends {
            return self.end();
        }
        self.bookmark = now + BOOKMARK;
        self.mark();
    }

    /// Who begins anew begins from here.
    fn end(&mut self) {
        self.mark();
        self.phase = Phase::Ended;
    }

    fn mark(&mut self) {
        if self.terms.bookmarks && std::mem::take(&mut self.unmarked) {
            self.push(&self.present.bookmark::<T>(self.version, false));
        }
    }

    fn tell(&mut self, what: Happened, view: &T, version: u64) {
        let first = !std::mem::replace(&mut self.columns_told, true);
        self.push(&self.present.event(what, view, version, first));
    }

    fn push(&mut self, frame: &Value) {
        self.frames.push_back(Bytes::from(format!("{frame}\n")));
    }
}
