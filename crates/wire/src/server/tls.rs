//! TLS with a certificate that is exchanged while connections are open.
//!
//! *Guarantees*: a connection that is accepted after an exchange shows the new certificate; those that are open go on. A
//! certificate that can't be used changes nothing. A peer that does not finish its handshake holds up nobody.

use std::{io, sync::Arc, time::Duration};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, watch},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::Tls;

/// Longest time that a handshake takes on a node that lives.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Handshakes under way at once: all nodes of a large cluster come back together after a restart.
const HANDSHAKES: usize = 512;
const ACCEPTED: usize = 64;
/// Out of file descriptors: the next try may succeed.
const PAUSE: Duration = Duration::from_millis(100);

/// A certificate or key that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("certificate of the stream: {0}")]
pub struct BadCertificate(String);

/// Connections with their handshake done.
pub(super) fn incoming(
    listener: TcpListener,
    tls: watch::Receiver<Tls>,
    cancel: CancellationToken,
) -> Result<ReceiverStream<io::Result<TlsStream<TcpStream>>>, BadCertificate> {
    let config = config(&tls.borrow())?;
    let (tx, accepted) = mpsc::channel(ACCEPTED);
    tokio::task::spawn(accept(listener, tls, config, tx, cancel));
    Ok(ReceiverStream::new(accepted))
}

async fn accept(
    listener: TcpListener,
    mut tls: watch::Receiver<Tls>,
    mut now: Arc<ServerConfig>,
    accepted: mpsc::Sender<io::Result<TlsStream<TcpStream>>>,
    cancel: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted,
            () = cancel.cancelled() => return,
        };
        let Ok((stream, peer)) = stream else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        if tls.has_changed().unwrap_or(false) {
            match config(&tls.borrow_and_update()) {
                Ok(new) => {
                    info!("new connections get the new certificate");
                    now = new;
                }
                Err(e) => warn!(error = %e, "the certificate before stays"),
            }
        }
        // the semaphore is never closed
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let (acceptor, accepted, cancel) = (TlsAcceptor::from(now.clone()), accepted.clone(), cancel.clone());
        tokio::task::spawn(async move {
            let _permit = permit;
            let _ = stream.set_nodelay(true);
            let handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream));
            let done = tokio::select! {
                done = handshake => done,
                () = cancel.cancelled() => return,
            };
            match done {
                Ok(Ok(stream)) => drop(accepted.send(Ok(stream)).await),
                Ok(Err(e)) => debug!(%peer, error = %e, "handshake failed"),
                Err(_) => debug!(%peer, "handshake not finished in time"),
            }
        });
    }
}

fn config(tls: &Tls) -> Result<Arc<ServerConfig>, BadCertificate> {
    let bad = |e: String| BadCertificate(e);
    let chain = CertificateDer::pem_slice_iter(tls.certificate_pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|e| bad(e.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(tls.key_pem.as_bytes()).map_err(|e| bad(e.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|e| bad(e.to_string()))?.with_no_client_auth();
    let mut config = builder.with_single_cert(chain, key).map_err(|e| bad(e.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}
