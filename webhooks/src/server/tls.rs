//! The certificate that is shown, exchanged while connections are open.

use std::sync::Arc;

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::sync::watch;

/// A certificate or key that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("certificate of the webhooks: {0}")]
pub struct BadCertificate(String);

/// What new connections are shown. Clones share it.
///
/// *Guarantees*: a connection that is accepted after [`Certificates::replace`] shows the new certificate; those that are
/// open go on. A certificate that can't be used changes nothing.
#[derive(Clone, Debug)]
pub struct Certificates(watch::Sender<Arc<ServerConfig>>);

impl Certificates {
    /// PEM: the chain, own certificate first, and its key.
    pub fn new(chain: &str, key: &str) -> Result<Self, BadCertificate> {
        Ok(Self(watch::Sender::new(config(chain, key)?)))
    }

    pub fn replace(&self, chain: &str, key: &str) -> Result<(), BadCertificate> {
        self.0.send_replace(config(chain, key)?);
        Ok(())
    }

    pub(super) fn now(&self) -> Arc<ServerConfig> {
        self.0.borrow().clone()
    }
}

fn config(chain: &str, key: &str) -> Result<Arc<ServerConfig>, BadCertificate> {
    let bad = |e: String| BadCertificate(e);
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
    let chain = chain.map_err(|e| bad(e.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| bad(e.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    // the API server shows no certificate, unless its administrator gave it one: what is answered here is no secret
    let builder = builder.map_err(|e| bad(e.to_string()))?.with_no_client_auth();
    let mut config = builder.with_single_cert(chain, key).map_err(|e| bad(e.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
