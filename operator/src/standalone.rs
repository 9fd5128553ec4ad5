//! The operator's part inside of one process with the agent: a directory of manifests in, the same stream out.
//!
//! The stream is the real one, over loopback in clear text, with a token that only this process knows: the agent has no
//! second way to get rows.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use axoneme_runtime::clock;
use axoneme_wire::{
    client::{Credentials, Fixed, Replicas},
    server::{Authenticator, Denied, Inbound, Leadership, Service, serve},
};
use rand::Rng as _;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::error;

use crate::{
    core::{Core, Timing},
    source::{SourceEvent, directory},
};

const QUEUE: usize = 256;
const TICK: Duration = Duration::from_millis(250);

/// The one node's token.
#[derive(Clone)]
struct Secret {
    node: Arc<str>,
    token: Arc<str>,
}

#[async_trait::async_trait]
impl Authenticator for Secret {
    async fn node(&self, token: &str) -> Result<Arc<str>, Denied> {
        if token == &*self.token { Ok(self.node.clone()) } else { Err(Denied::Invalid("not this process".into())) }
    }
}

#[async_trait::async_trait]
impl Credentials for Secret {
    async fn token(&self) -> io::Result<String> {
        Ok(self.token.to_string())
    }
}

/// A running standalone operator. Give [`Self::directory`] and [`Self::credentials`] to the stream's driver.
#[derive(Debug)]
pub struct Standalone {
    address: SocketAddr,
    secret: SecretBox,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

struct SecretBox(Secret);

impl std::fmt::Debug for SecretBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

impl Standalone {
    /// Reads the directory and serves the node of that name, which must be among the manifests.
    pub async fn start(dir: PathBuf, node: &str) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
        let mut random = [0u8; 32];
        rand::rng().fill(&mut random);
        let token = hex::encode(random);
        let secret = Secret { node: node.into(), token: token.into() };
        let (inbound_tx, inbound) = mpsc::channel(QUEUE);
        let (events_tx, events) = mpsc::channel(QUEUE);
        let (ready, is_ready) = watch::channel(false);
        let service = Service::new(Arc::new(secret.clone()), inbound_tx, is_ready, cancel.clone());
        tasks.spawn(serve(listener, None, service));
        let watching = directory::watch(dir, events_tx, cancel.clone());
        tasks.spawn(async move {
            if let Err(e) = watching.await {
                error!(error = %e, "manifests can't be read");
            }
        });
        tasks.spawn(run(events, inbound, ready, cancel.clone()));
        Ok(Self { address, secret: SecretBox(secret), tasks, cancel })
    }

    /// Where the stream is.
    #[must_use]
    pub fn directory(&self) -> Fixed {
        Fixed(Replicas { addresses: vec![self.address.to_string()], ca_pem: String::new() })
    }

    /// The token.
    #[must_use]
    pub fn credentials(&self) -> Arc<dyn Credentials> {
        Arc::new(self.secret.0.clone())
    }

    /// Ends everything.
    pub async fn stop(self) {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn run(
    mut events: mpsc::Receiver<SourceEvent>,
    mut inbound: mpsc::Receiver<Inbound>,
    ready: watch::Sender<bool>,
    cancel: CancellationToken,
) {
    let mut core = Core::standalone(Timing::default());
    // nobody else could be asked for status
    core.hub.set_leadership(Leadership::Me);
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            Some(e) = events.recv() => core.source(e),
            Some(i) = inbound.recv() => core.inbound(i),
            _ = tick.tick() => {}
            () = cancel.cancelled() => return,
        }
        while let Ok(e) = events.try_recv() {
            core.source(e);
        }
        let flushed = core.flush(Instant::now(), &crate::time::rfc3339(clock::wall()));
        if flushed.ready {
            ready.send_if_modified(|r| !std::mem::replace(r, true));
        }
    }
}

#[cfg(test)]
mod tests;
