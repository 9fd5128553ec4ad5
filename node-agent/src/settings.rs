//! What `AxonemeConfig` says of the agent as a process, and of what the container runtime is told.

use std::{sync::Arc, time::Duration};

use axoneme_flow::Hub;
use axoneme_model::rows::AgentRow;
use axoneme_runtime::telemetry;
use tokio::sync::watch;

use crate::cni::install;

/// Between attempts to write what the runtime reads.
const AGAIN: Duration = Duration::from_secs(5);
/// What the runtime reads is looked at so often: another product's installer may have written there.
const LOOK: Duration = Duration::from_secs(3);

/// The newest settings; the defaults until the operator has sent some.
pub type Settings = watch::Receiver<AgentRow>;

/// Keeps the log level, the number of flows that are remembered and the interval of Events of denials as the settings
/// say. `log` is none where the command line decides. Ends with the engine.
pub async fn heed(
    mut settings: Settings,
    flows: Arc<Hub>,
    denials: watch::Sender<Duration>,
    log: Option<telemetry::Filter>,
) {
    loop {
        let (level, buffer, interval) = {
            let s = settings.borrow_and_update();
            (s.log_level.clone(), s.flow_buffer, Duration::from_secs(s.drop_events.into()))
        };
        flows.keep(buffer as usize);
        denials.send_if_modified(|old| std::mem::replace(old, interval) != interval);
        if let Some(Err(error)) = log.as_ref().map(|log| log.set(&level)) {
            tracing::warn!(%error, "the log level stays");
        }
        if settings.changed().await.is_err() {
            return;
        }
    }
}

/// The runtime learns of us once we can serve; from then on CNI STATUS says how we are. What it is told follows the
/// settings, and stays ours: pods that another plugin networks would be outside of all policy.
pub async fn tell_runtime(mut ready: watch::Receiver<bool>, mut settings: Settings, paths: install::Paths) {
    if ready.wait_for(|r| *r).await.is_err() {
        return;
    }
    let mut known = None;
    loop {
        let told = wanted(&paths, &settings.borrow_and_update());
        let new = known.as_ref() != Some(&told);
        if new {
            for plugin in install::missing(&told) {
                tracing::warn!(plugin, dir = %told.bin_dir.display(), "spec.cni.chainedPlugins names a plugin that is not there: pods fail until it is");
            }
        }
        let done = tokio::task::spawn_blocking(move || install::install(&told).map(|wrote| (wrote, told))).await;
        let dir = paths.config_dir.display();
        let failed = match done {
            Ok(Ok((wrote, told))) => {
                if new {
                    tracing::info!(wrote, %dir, "the node is ready for pods");
                } else if wrote {
                    tracing::warn!(%dir, "somebody else changed what the container runtime reads: it is ours again");
                }
                known = Some(told);
                None
            }
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(error) = failed {
            tracing::error!(%error, "the container runtime is not told of the plugin");
            tokio::time::sleep(AGAIN).await;
        } else if let Ok(Err(_)) = tokio::time::timeout(LOOK, settings.changed()).await {
            return;
        }
    }
}

/// The command line may keep others' configurations in use, whatever the settings say.
fn wanted(paths: &install::Paths, settings: &AgentRow) -> install::Paths {
    let chained = settings.cni_chained.iter().filter_map(|text| match serde_json::from_str(text) {
        Ok(plugin) => Some(plugin),
        Err(error) => {
            tracing::warn!(%error, text = %text, "a chained plugin that is no JSON is left out");
            None
        }
    });
    install::Paths { exclusive: paths.exclusive && settings.cni_exclusive, chained: chained.collect(), ..paths.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_flow_buffer_and_the_events_follow_the_settings() {
        let (tx, rx) = watch::channel(AgentRow::default());
        let (hub, _feed) = Hub::new("n1", "", 1, 8);
        let (denials, every) = watch::channel(Duration::ZERO);
        let task = tokio::spawn(heed(rx, hub.clone(), denials, None));
        for wanted in [64, 1024] {
            tx.send_replace(AgentRow { flow_buffer: wanted, drop_events: wanted * 2, ..AgentRow::default() });
            tokio::time::timeout(Duration::from_secs(5), async {
                let interval = Duration::from_secs(u64::from(wanted) * 2);
                while hub.capacity() != u64::from(wanted) || *every.borrow() != interval {
                    tokio::task::yield_now().await;
                }
            })
            .await
            .unwrap();
        }
        drop(tx);
        task.await.unwrap();
    }

    #[tokio::test]
    async fn the_runtime_is_told_of_chained_plugins_and_of_others_when_they_are_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let paths = install::Paths {
            config_dir: dir.path().join("net.d"),
            bin_dir: dir.path().join("bin"),
            plugin: None,
            socket: "/run/axoneme/cni.sock".into(),
            exclusive: true,
            chained: Vec::new(),
        };
        std::fs::create_dir(&paths.config_dir).unwrap();
        std::fs::write(paths.config_dir.join("10-other.conflist"), b"{}").unwrap();
        let (tx, rx) = watch::channel(AgentRow::default());
        let (ready, is_ready) = watch::channel(false);
        let task = tokio::spawn(tell_runtime(is_ready, rx, paths.clone()));
        let list = || {
            let text = std::fs::read(paths.config_dir.join(install::CONFIG)).ok()?;
            let list: serde_json::Value = serde_json::from_slice(&text).unwrap();
            let kind = |p: &serde_json::Value| p["type"].as_str().unwrap().to_owned();
            Some(list["plugins"].as_array().unwrap().iter().map(kind).collect::<Vec<_>>())
        };
        let eventually = async |what: &str, holds: &dyn Fn() -> bool| {
            tokio::time::timeout(LOOK * 4, async {
                while !holds() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
            .await
            .unwrap_or_else(|_| panic!("{what}: {:?}", list()));
        };
        assert_eq!(list(), None, "not before pods can be served");
        ready.send_replace(true);
        eventually("ours alone", &|| list().is_some_and(|l| l.len() == 1)).await;
        assert!(!paths.config_dir.join("10-other.conflist").exists());
        // another product installs itself, in front and in our place
        std::fs::write(paths.config_dir.join("00-first.conflist"), b"{}").unwrap();
        std::fs::write(paths.config_dir.join(install::CONFIG), br#"{"plugins": [{"type": "theirs"}]}"#).unwrap();
        eventually("ours alone again", &|| {
            let ours = list().is_some_and(|l| l.len() == 1 && l[0] != "theirs");
            ours && !paths.config_dir.join("00-first.conflist").exists()
        })
        .await;
        let tuning = AgentRow {
            cni_exclusive: false,
            cni_chained: vec![r#"{"type": "tuning", "sysctl": {}}"#.into(), "no JSON".into()],
            ..AgentRow::default()
        };
        tx.send_replace(tuning);
        eventually("and one behind it", &|| list().is_some_and(|l| l.last().is_some_and(|k| k == "tuning"))).await;
        eventually("others are back", &|| paths.config_dir.join("10-other.conflist").exists()).await;
        drop(tx);
        task.await.unwrap();
    }
}
