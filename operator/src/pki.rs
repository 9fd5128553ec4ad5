//! The authority that signs the replicas' certificates: its key in a Secret for replicas, its certificate in a ConfigMap
//! for agents. Each replica signs its own certificate at start.

use anyhow::Context as _;
use axoneme_wire::{SERVER_NAME, server::Tls};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::json;

/// Name of the Secret and of the ConfigMap.
pub const NAME: &str = "axoneme-ca";
const CERTIFICATE: &str = "ca.crt";
const KEY: &str = "ca.key";

/// An authority: certificate and key, PEM.
#[derive(Clone)]
pub struct Authority {
    pub certificate_pem: String,
    key_pem: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("certificate_pem", &self.certificate_pem).finish_non_exhaustive()
    }
}

fn params() -> CertificateParams {
    let mut p = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, "axoneme operator authority");
    p.distinguished_name = name;
    p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    p.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    p
}

impl Authority {
    /// A new one.
    pub fn generate() -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let certificate = params().self_signed(&key)?;
        Ok(Self { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// A certificate for a replica, good for [`SERVER_NAME`].
    pub fn issue(&self) -> anyhow::Result<Tls> {
        let key = KeyPair::from_pem(&self.key_pem).context("key of the authority")?;
        let issuer = Issuer::new(params(), key);
        let mut leaf = CertificateParams::new([SERVER_NAME.to_owned()])?;
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        let leaf_key = KeyPair::generate()?;
        let certificate = leaf.signed_by(&leaf_key, &issuer)?;
        Ok(Tls { certificate_pem: certificate.pem(), key_pem: leaf_key.serialize_pem() })
    }
}

/// The cluster's authority; made by the first replica that asks. The ConfigMap is mended if it says anything else.
pub async fn authority(client: &Client, namespace: &str) -> anyhow::Result<Authority> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let authority = match secrets.get_opt(NAME).await.context("read Secret axoneme-ca")? {
        Some(s) => from_secret(&s)?,
        None => create(&secrets).await?,
    };
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let now = maps.get_opt(NAME).await.context("read ConfigMap axoneme-ca")?;
    let said = now.as_ref().and_then(|m| m.data.as_ref()).and_then(|d| d.get(CERTIFICATE));
    if said != Some(&authority.certificate_pem) {
        publish(&maps, now.is_some(), &authority).await.context("write ConfigMap axoneme-ca")?;
    }
    Ok(authority)
}

async fn create(secrets: &Api<Secret>) -> anyhow::Result<Authority> {
    let new = Authority::generate()?;
    let data = [(CERTIFICATE, &new.certificate_pem), (KEY, &new.key_pem)];
    let secret = Secret {
        metadata: ObjectMeta { name: Some(NAME.into()), ..ObjectMeta::default() },
        data: Some(data.map(|(k, v)| (k.to_owned(), ByteString(v.clone().into_bytes()))).into()),
        ..Secret::default()
    };
    match secrets.create(&PostParams::default(), &secret).await {
        Ok(_) => Ok(new),
        // another replica was faster
        Err(kube::Error::Api(s)) if s.code == 409 => from_secret(&secrets.get(NAME).await?),
        Err(e) => Err(e).context("create Secret axoneme-ca"),
    }
}

fn from_secret(s: &Secret) -> anyhow::Result<Authority> {
    let text = |key: &str| {
        let bytes = s.data.as_ref().and_then(|d| d.get(key));
        let bytes = bytes.with_context(|| format!("Secret axoneme-ca lacks {key}: delete it, and it is made anew"))?;
        String::from_utf8(bytes.0.clone()).with_context(|| format!("Secret axoneme-ca: {key} is no PEM"))
    };
    Ok(Authority { certificate_pem: text(CERTIFICATE)?, key_pem: text(KEY)? })
}

async fn publish(maps: &Api<ConfigMap>, exists: bool, a: &Authority) -> Result<(), kube::Error> {
    let data = json!({ CERTIFICATE: a.certificate_pem });
    if exists {
        return maps.patch(NAME, &PatchParams::default(), &Patch::Merge(json!({"data": data}))).await.map(drop);
    }
    let map = ConfigMap {
        metadata: ObjectMeta { name: Some(NAME.into()), ..ObjectMeta::default() },
        data: Some([(CERTIFICATE.to_owned(), a.certificate_pem.clone())].into()),
        ..ConfigMap::default()
    };
    match maps.create(&PostParams::default(), &map).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(s)) if s.code == 409 => Ok(()),
        Err(e) => Err(e),
    }
}
