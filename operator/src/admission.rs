//! Admission in the operator: serves the webhooks, and tells the API server whom to trust for it.
//!
//! ```text
//!   Loop ──every event──▶ Known ◀──View── axoneme_webhooks::Server ◀──TLS── API server      (every replica)
//!   pki::Keeper ──certificate──▶ Server                    Registration ──caBundle──▶ ValidatingWebhookConfiguration
//!               └──bundle──────────────────────────────────────┘                           (the Lease holder)
//! ```
//!
//! *Guarantees*: the API server is told the authority only when this replica has read the cluster, so that no review
//! comes before it can be answered. Nothing else of the operator waits for any of this: a port that is taken, a
//! configuration that is gone or not ours cost reviews, and nothing more. *Caveats*: objects are read by the operator as
//! if nobody had looked at them before.

mod known;
mod registration;

use std::{sync::Arc, time::Duration};

use axoneme_webhooks::server::{Answered, Certificates, Limits, Server};
use axoneme_wire::server::Tls;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use self::{
    known::{About, Known},
    registration::{NAME, Registration},
};
use crate::metrics::Metrics;

/// Service that the API server calls.
pub const SERVICE: &str = "axoneme-webhooks";
/// Port of the host that the Service leads to.
pub const DEFAULT_PORT: u16 = 4251;

/// The name by which the API server knows the webhooks, and which their certificate must hold.
#[must_use]
pub fn server_name(namespace: &str) -> String {
    format!("{SERVICE}.{namespace}.svc")
}

/// Serves reviews until cancelled, with the certificate as it is.
pub async fn serve(
    listener: TcpListener,
    mut tls: watch::Receiver<Tls>,
    known: Arc<Known>,
    metrics: Arc<Metrics>,
    cancel: CancellationToken,
) {
    let Tls { certificate_pem, key_pem } = tls.borrow_and_update().clone();
    let certificates = match Certificates::new(&certificate_pem, &key_pem) {
        Ok(certificates) => certificates,
        Err(e) => return warn!(error = %e, "no webhooks are served"),
    };
    let shown = certificates.clone();
    let exchange = async move {
        while tls.changed().await.is_ok() {
            let Tls { certificate_pem, key_pem } = tls.borrow_and_update().clone();
            match shown.replace(&certificate_pem, &key_pem) {
                Ok(()) => info!("webhooks get the new certificate"),
                Err(e) => warn!(error = %e, "the certificate before stays"),
            }
        }
        // nobody makes certificates any more: the last one stays
        std::future::pending::<()>().await;
    };
    let told = move |a: &Answered<'_>| metrics.reviewed(a.kind, a.allowed, a.took);
    let serve = Server::new(known, Limits::default(), told).serve(listener, certificates, cancel);
    tokio::select! {
        () = serve => {}
        () = exchange => {}
    }
}

/// Between two looks at what the API server has been told.
const LOOK: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests;
