//! Graceful end: one trigger, many watchers, a deadline for those who linger.

use std::time::Duration;

use tokio::sync::{mpsc, watch};

/// Starts the drain and waits for its watchers.
#[derive(Debug)]
pub struct DrainTrigger {
    signal: watch::Sender<bool>,
    gone: mpsc::Receiver<()>,
    held: mpsc::Sender<()>,
}

/// Held by everything that must finish before the process ends. Dropping it says "finished".
#[derive(Clone, Debug)]
pub struct DrainWatcher {
    signal: watch::Receiver<bool>,
    _held: mpsc::Sender<()>,
}

/// A trigger and its first watcher.
pub fn channel() -> (DrainTrigger, DrainWatcher) {
    let (signal, watcher) = watch::channel(false);
    let (held, gone) = mpsc::channel(1);
    (DrainTrigger { signal, gone, held: held.clone() }, DrainWatcher { signal: watcher, _held: held })
}

impl DrainTrigger {
    /// Another watcher.
    pub fn watcher(&self) -> DrainWatcher {
        DrainWatcher { signal: self.signal.subscribe(), _held: self.held.clone() }
    }

    /// Tells all watchers and waits until they are dropped. False: some were still there at the deadline.
    pub async fn drain(self, deadline: Duration) -> bool {
        let Self { signal, mut gone, held } = self;
        signal.send_replace(true);
        drop(held);
        tokio::time::timeout(deadline, gone.recv()).await.is_ok()
    }
}

impl DrainWatcher {
    /// Returns when the drain has started (also when the trigger is gone).
    pub async fn draining(&mut self) {
        let _ = self.signal.wait_for(|d| *d).await;
    }

    /// Whether the drain has started.
    pub fn is_draining(&self) -> bool {
        *self.signal.borrow()
    }
}

/// Waits for SIGTERM or SIGINT and names it.
pub async fn terminated() -> std::io::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(tokio::select! { _ = term.recv() => "SIGTERM", _ = int.recv() => "SIGINT" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn drain_waits_for_watchers_and_gives_up_at_the_deadline() {
        let (trigger, mut watcher) = channel();
        assert!(!watcher.is_draining());
        let other = trigger.watcher();
        let worker = tokio::task::spawn(async move {
            watcher.draining().await;
            watcher.is_draining()
        });
        assert!(!trigger.drain(Duration::from_secs(1)).await, "one watcher is never dropped");
        assert!(worker.await.unwrap());
        drop(other);

        let (trigger, watcher) = channel();
        drop(watcher);
        assert!(trigger.drain(Duration::from_secs(1)).await);
    }
}
