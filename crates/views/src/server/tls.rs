//! The certificate that is shown and the authority that the front proxy's must be signed by, exchanged while connections
//! are open.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio::sync::watch;

use crate::front_proxy::FrontProxy;

/// A certificate, key or authority that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("certificates of the views: {0}")]
pub struct BadCertificate(String);

/// What new connections are shown, and whom they are believed. Clones share it.
///
/// *Guarantees*: a connection that is accepted after a change goes by it; those that are open go on as they began. What
/// can't be used changes nothing.
#[derive(Clone, Debug)]
pub struct Certificates {
    now: watch::Sender<Arc<Terms>>,
    parts: Arc<Mutex<Parts>>,
}

/// What one connection goes by.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) config: Arc<ServerConfig>,
    pub(super) proxy: Option<Arc<FrontProxy>>,
}

#[derive(Clone)]
struct Parts {
    chain: String,
    key: String,
    proxy: Option<Arc<FrontProxy>>,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("chain", &self.chain).finish_non_exhaustive()
    }
}

impl Certificates {
    /// PEM: the chain, own certificate first, and its key.
    pub fn new(chain: &str, key: &str) -> Result<Self, BadCertificate> {
        let parts = Parts { chain: chain.to_owned(), key: key.to_owned(), proxy: None };
        Ok(Self { now: watch::Sender::new(parts.terms()?), parts: Arc::new(Mutex::new(parts)) })
    }

    /// Shows another certificate.
    pub fn replace(&self, chain: &str, key: &str) -> Result<(), BadCertificate> {
        self.change(|parts| (parts.chain, parts.key) = (chain.to_owned(), key.to_owned()))
    }

    /// Believes another front proxy.
    pub fn trust(&self, proxy: FrontProxy) -> Result<(), BadCertificate> {
        self.change(|parts| parts.proxy = Some(Arc::new(proxy)))
    }

    /// Whether any front proxy is believed.
    #[must_use]
    pub fn is_trusting(&self) -> bool {
        self.now.borrow().proxy.is_some()
    }

    fn change(&self, change: impl FnOnce(&mut Parts)) -> Result<(), BadCertificate> {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new = parts.clone();
        change(&mut new);
        self.now.send_replace(new.terms()?);
        *parts = new;
        Ok(())
    }

    pub(super) fn now(&self) -> Arc<Terms> {
        self.now.borrow().clone()
    }
}

impl Parts {
    fn terms(&self) -> Result<Arc<Terms>, BadCertificate> {
        let bad = |e: String| BadCertificate(e);
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(self.chain.as_bytes()).collect();
        let chain = chain.map_err(|e| bad(e.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(|e| bad(e.to_string()))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|e| bad(e.to_string()))?;
        let builder = match &self.proxy {
            Some(proxy) => builder.with_client_cert_verifier(verifier(&proxy.authority)?),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|e| bad(e.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(Terms { config: Arc::new(config), proxy: self.proxy.clone() }))
    }
}

/// Who shows a certificate shows a good one; who shows none may have a token.
fn verifier(authority: &str) -> Result<Arc<dyn ClientCertVerifier>, BadCertificate> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        let certificate = certificate.map_err(|e| BadCertificate(format!("authority of the front proxy: {e}")))?;
        roots.add(certificate).map_err(|e| BadCertificate(format!("authority of the front proxy: {e}")))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).allow_unauthenticated().build();
    verifier
        .map(|v| v as Arc<dyn ClientCertVerifier>)
        .map_err(|e| BadCertificate(format!("authority of the front proxy: {e}")))
}
