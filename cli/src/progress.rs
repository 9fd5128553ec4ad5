//! Signs of life for work that takes more than a second. On standard error, and only if that is a terminal.

use std::{
    io::{self, IsTerminal},
    sync::mpsc::{Sender, channel},
    thread::JoinHandle,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

/// How long work may take unseen.
const QUIET: Duration = Duration::from_secs(1);

/// Shows what is going on from its second second on, until it is dropped.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    stop: Option<Sender<()>>,
    watcher: Option<JoinHandle<()>>,
}

impl Progress {
    #[must_use]
    pub fn start(what: &str) -> Self {
        let bar = ProgressBar::hidden();
        bar.set_message(what.to_owned());
        if !io::stderr().is_terminal() {
            return Self { bar, stop: None, watcher: None };
        }
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        let (stop, stopped) = channel::<()>();
        let shown = bar.clone();
        let watcher = std::thread::spawn(move || {
            if stopped.recv_timeout(QUIET).is_err_and(|e| e == std::sync::mpsc::RecvTimeoutError::Timeout) {
                shown.set_draw_target(indicatif::ProgressDrawTarget::stderr());
                shown.enable_steady_tick(Duration::from_millis(120));
            }
        });
        Self { bar, stop: Some(stop), watcher: Some(watcher) }
    }

    pub fn say(&self, what: String) {
        self.bar.set_message(what);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(watcher) = self.watcher.take() {
            // the watcher only waits and draws
            let _ = watcher.join();
        }
        self.bar.finish_and_clear();
    }
}
