//! Nodes whose streams are whole, as agents have them: they say when a policy's change has come.

use std::{io, sync::Arc, time::Instant};

use axoneme_wire::{
    RowChange,
    client::{Credentials, Driver, Event, Fixed, Replicas, Settings},
};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A port that a node was told to let pass, and when.
pub(crate) type Seen = (u16, Instant);

struct Token(String);

#[async_trait::async_trait]
impl Credentials for Token {
    async fn token(&self) -> io::Result<String> {
        Ok(self.0.clone())
    }
}

/// Connects a node. Its rows are dropped as they come, its batches acknowledged.
pub(crate) fn start(
    name: &str,
    replicas: &Replicas,
    seen: mpsc::Sender<Seen>,
    first: mpsc::Sender<()>,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) {
    let settings = Settings { node: name.into(), agent_version: "probe".into(), resume: None };
    let token = Arc::new(Token(name.to_owned()));
    let (driver, client, mut events) = Driver::new(settings, Arc::new(Fixed(replicas.clone())), token);
    tasks.spawn(driver.run(cancel.clone()));
    tasks.spawn(async move {
        while let Some(event) = events.recv().await {
            let Event::Batch(batch) = event else { continue };
            let at = Instant::now();
            for port in batch.changes.iter().flat_map(ports) {
                if seen.send((port, at)).await.is_err() {
                    return;
                }
            }
            if client.ack(batch.at).await.is_err() {
                return;
            }
            let _ = first.try_send(());
        }
    });
}

/// Ports that a change of a policy table brings.
fn ports(change: &RowChange) -> Vec<u16> {
    match change {
        RowChange::Patch(p) => p.upserts.keys().map(|k| k.port).collect(),
        _ => Vec::new(),
    }
}
