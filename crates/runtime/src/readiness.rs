//! Readiness as a set of named conditions that are still awaited.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;

/// All conditions of a process. Ready when none is awaited.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    awaited: Mutex<BTreeMap<String, String>>,
    ready: watch::Sender<bool>,
}

impl Default for Inner {
    fn default() -> Self {
        Self { awaited: Mutex::default(), ready: watch::channel(true).0 }
    }
}

/// One condition. Not ready from its creation; dropping it takes the condition away.
#[derive(Debug)]
pub struct Guard {
    inner: Arc<Inner>,
    name: String,
}

impl Readiness {
    /// A new condition that is awaited because of `reason`.
    pub fn guard(&self, name: &str, reason: &str) -> Guard {
        let guard = Guard { inner: self.inner.clone(), name: name.to_owned() };
        guard.not_ready(reason);
        guard
    }

    /// The conditions that are awaited, with their reasons.
    pub fn awaited(&self) -> BTreeMap<String, String> {
        self.inner.awaited.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether nothing is awaited.
    pub fn is_ready(&self) -> bool {
        *self.inner.ready.borrow()
    }

    /// Follows readiness.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.inner.ready.subscribe()
    }
}

impl Inner {
    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, String>)) {
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut awaited);
        let ready = awaited.is_empty();
        self.ready.send_if_modified(|r| std::mem::replace(r, ready) != ready);
    }
}

impl Guard {
    pub fn ready(&self) {
        self.inner.change(|a| {
            a.remove(&self.name);
        });
    }

    pub fn not_ready(&self, reason: &str) {
        self.inner.change(|a| {
            a.insert(self.name.clone(), reason.to_owned());
        });
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.ready();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_when_every_condition_holds() {
        let r = Readiness::default();
        assert!(r.is_ready());
        let (rows, bpf) = (r.guard("rows", "no snapshot yet"), r.guard("datapath", "loading"));
        rows.ready();
        assert_eq!(r.awaited().into_iter().collect::<Vec<_>>(), [("datapath".to_owned(), "loading".to_owned())]);
        assert!(!r.is_ready());
        bpf.ready();
        assert!(r.is_ready());
        rows.not_ready("stream lost");
        assert!(!r.is_ready());
        drop(rows);
        assert!(r.is_ready());
    }
}
