//! Keeps Secret, ConfigMap and the replica's certificate up to date.

use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use axoneme_runtime::clock;
use axoneme_wire::server::Tls;
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Authorities, Authority, NAME, ROTATE, Step, flows, is_stale};
use crate::lease::LeaseHold;

const CERTIFICATE: &str = "ca.crt";
const KEY: &str = "ca.key";
const NEXT_CERTIFICATE: &str = "next.crt";
const NEXT_KEY: &str = "next.key";
const OLD_CERTIFICATE: &str = "old.crt";
/// Annotation of the Secret: seconds since 1970 at which the current authority was made.
const CREATED: &str = "axoneme.io/created";
/// How often the Secret is looked at.
const LOOK: Duration = Duration::from_mins(1);

/// The cluster's authorities; made by the first replica that asks. The ConfigMap is mended if it says anything else.
pub async fn authorities(client: &Client, namespace: &str) -> anyhow::Result<Authorities> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = match secrets.get_opt(NAME).await.context("read Secret axoneme-ca")? {
        Some(s) => s,
        None => create(&secrets).await?,
    };
    let authorities = from_secret(&secret)?;
    publish(client, namespace, &authorities).await.context("ConfigMap axoneme-ca")?;
    Ok(authorities)
}

async fn create(secrets: &Api<Secret>) -> anyhow::Result<Secret> {
    let now = clock::wall();
    let new = Authorities { current: Authority::generate()?, next: None, old: None, created: now, rotate: false };
    match secrets.create(&PostParams::default(), &to_secret(&new, None)).await {
        Ok(s) => Ok(s),
        // another replica was faster
        Err(kube::Error::Api(s)) if s.code == 409 => Ok(secrets.get(NAME).await?),
        Err(e) => Err(e).context("create Secret axoneme-ca"),
    }
}

fn from_secret(s: &Secret) -> anyhow::Result<Authorities> {
    let text = |key: &str| {
        let bytes = s.data.as_ref().and_then(|d| d.get(key)).map(|b| b.0.clone());
        bytes.map(|b| String::from_utf8(b).with_context(|| format!("Secret axoneme-ca: {key} is no PEM"))).transpose()
    };
    let needed = |key: &str| {
        text(key)?.with_context(|| format!("Secret axoneme-ca lacks {key}: delete it, and it is made anew"))
    };
    let next = text(NEXT_CERTIFICATE)?.zip(text(NEXT_KEY)?);
    let annotation = |key: &str| s.metadata.annotations.as_ref().and_then(|a| a.get(key));
    let noted = annotation(CREATED).and_then(|t| t.parse().ok()).map(Duration::from_secs);
    let made = s.metadata.creation_timestamp.as_ref().and_then(|t| u64::try_from(t.0.as_second()).ok());
    let created = noted.or(made.map(Duration::from_secs)).unwrap_or_default();
    Ok(Authorities {
        current: Authority { certificate_pem: needed(CERTIFICATE)?, key_pem: needed(KEY)? },
        next: next.map(|(certificate_pem, key_pem)| Authority { certificate_pem, key_pem }),
        old: text(OLD_CERTIFICATE)?,
        created: SystemTime::UNIX_EPOCH + created,
        rotate: annotation(ROTATE).is_some(),
    })
}

/// `version`: of the Secret that it replaces.
fn to_secret(a: &Authorities, version: Option<String>) -> Secret {
    let mut data = vec![(CERTIFICATE, &a.current.certificate_pem), (KEY, &a.current.key_pem)];
    if let Some(next) = &a.next {
        data.extend([(NEXT_CERTIFICATE, &next.certificate_pem), (NEXT_KEY, &next.key_pem)]);
    }
    data.extend(a.old.as_ref().map(|old| (OLD_CERTIFICATE, old)));
    let created = a.created.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut annotations = vec![(CREATED.to_owned(), created.to_string())];
    if a.rotate {
        annotations.push((ROTATE.to_owned(), "now".to_owned()));
    }
    let metadata = ObjectMeta {
        name: Some(NAME.into()),
        resource_version: version,
        annotations: Some(annotations.into_iter().collect()),
        ..ObjectMeta::default()
    };
    let data = data.into_iter().map(|(k, v)| (k.to_owned(), ByteString(v.clone().into_bytes()))).collect();
    Secret { metadata, data: Some(data), ..Secret::default() }
}

/// Tells agents whom to trust, if the ConfigMap says anything else.
async fn publish(client: &Client, namespace: &str, a: &Authorities) -> Result<(), kube::Error> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let now = maps.get_opt(NAME).await?;
    let bundle = a.bundle();
    if now.as_ref().and_then(|m| m.data.as_ref()).and_then(|d| d.get(CERTIFICATE)) == Some(&bundle) {
        return Ok(());
    }
    if now.is_some() {
        let patch = Patch::Merge(json!({"data": {CERTIFICATE: bundle}}));
        return maps.patch(NAME, &PatchParams::default(), &patch).await.map(drop);
    }
    let map = ConfigMap {
        metadata: ObjectMeta { name: Some(NAME.into()), ..ObjectMeta::default() },
        data: Some([(CERTIFICATE.to_owned(), bundle)].into()),
        ..ConfigMap::default()
    };
    match maps.create(&PostParams::default(), &map).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(s)) if s.code == 409 => Ok(()),
        Err(e) => Err(e),
    }
}

/// Keeps the certificate of a replica good, and the cluster's authorities if this replica leads.
#[expect(missing_debug_implementations, reason = "the client has no Debug")]
pub struct Keeper {
    pub client: Client,
    pub namespace: String,
    pub hold: LeaseHold,
    tls: watch::Sender<Tls>,
    bundle: watch::Sender<String>,
    now: Authorities,
    /// Since when agents have been told the bundle as it is, as this process saw it.
    told: Instant,
    made: Instant,
    until: SystemTime,
}

impl Keeper {
    /// With the replica's first certificate, which [`server::serve`](axoneme_wire::server::serve) shows.
    pub fn new(
        client: Client,
        namespace: &str,
        hold: LeaseHold,
        authorities: Authorities,
    ) -> anyhow::Result<(Self, watch::Receiver<Tls>)> {
        let until = authorities.until(clock::wall());
        let (tls, shown) = watch::channel(authorities.current.issue(namespace, until)?);
        let bundle = watch::Sender::new(authorities.bundle());
        let (told, made) = (Instant::now(), Instant::now());
        let namespace = namespace.to_owned();
        Ok((Self { client, namespace, hold, tls, bundle, now: authorities, told, made, until }, shown))
    }

    /// What whoever calls a replica is to trust, PEM.
    #[must_use]
    pub fn bundle(&self) -> watch::Receiver<String> {
        self.bundle.subscribe()
    }

    /// Runs until cancelled.
    pub async fn run(mut self, cancel: CancellationToken) {
        self.flows().await;
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = cancel.cancelled() => return,
            }
            if let Err(e) = self.look().await {
                warn!(error = format!("{e:#}"), "authorities can't be looked after; what is there stays");
            }
            self.flows().await;
        }
    }

    /// Those of flows are of use beside the rest: what goes wrong with them is told and tried again.
    async fn flows(&self) {
        let kept = flows::keep(&self.client, &self.namespace, &self.now, clock::wall(), self.hold.is_sure());
        if let Err(e) = kept.await {
            warn!(error = format!("{e:#}"), "certificates for flows can't be made; what is there stays");
        }
    }

    async fn look(&mut self) -> anyhow::Result<()> {
        // a certificate about to end is replaced even while the API server is away
        let signer = self.now.current.clone();
        self.renew(&signer)?;
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let Some(secret) = secrets.get_opt(NAME).await.context("read Secret axoneme-ca")? else {
            warn!("Secret axoneme-ca was deleted; it is made anew, and agents connect again when they have read it");
            self.take(authorities(&self.client, &self.namespace).await?);
            return self.renew(&signer);
        };
        let authorities = from_secret(&secret)?;
        publish(&self.client, &self.namespace, &authorities).await.context("ConfigMap axoneme-ca")?;
        self.take(authorities);
        self.renew(&signer)?;
        let wall = clock::wall();
        let Some(step) = self.now.due(wall, self.told.elapsed()).filter(|_| self.hold.is_sure()) else { return Ok(()) };
        let new = self.now.after(step, wall)?;
        // onto the version that was read: of two replicas only one takes the step
        secrets.replace(NAME, &PostParams::default(), &to_secret(&new, secret.metadata.resource_version)).await?;
        info!(?step, "certificate authority");
        publish(&self.client, &self.namespace, &new).await.context("ConfigMap axoneme-ca")?;
        self.take(new);
        if step == Step::Switch { self.renew(&signer) } else { Ok(()) }
    }

    fn take(&mut self, authorities: Authorities) {
        if authorities.bundle() != self.now.bundle() {
            self.told = Instant::now();
            self.bundle.send_replace(authorities.bundle());
        }
        self.now = authorities;
    }

    /// Makes a new certificate if the one that is shown comes of age, or if another than `signer` signs now.
    fn renew(&mut self, signer: &Authority) -> anyhow::Result<()> {
        let wall = clock::wall();
        if *signer == self.now.current && !is_stale(self.until, wall, self.made.elapsed()) {
            return Ok(());
        }
        let until = self.now.until(wall);
        self.tls.send_replace(self.now.current.issue(&self.namespace, until).context("certificate of this replica")?);
        (self.made, self.until) = (Instant::now(), until);
        Ok(())
    }
}
