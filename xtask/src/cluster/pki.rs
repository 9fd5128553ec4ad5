//! Certificates and kubeconfigs of one cluster.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use super::layout::{Layout, Place};
use super::state::Paths;

/// Who a certificate names: organization (a Kubernetes group) and common name (the user).
#[derive(Clone, Copy, Debug)]
struct Subject<'a> {
    group: Option<&'a str>,
    user: &'a str,
}

/// A certificate authority that can sign.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn params(subject: Subject<'_>, names: Vec<String>) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    if let Some(group) = subject.group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.distinguished_name.push(DnType::CommonName, subject.user);
    // Wide on purpose: tests move the clock, and a local cluster does not live long.
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2049, 12, 31);
    Ok(params)
}

fn write_secret(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}

impl Authority {
    fn make(dir: &Path, file: &str, name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = params(Subject { group: None, user: name }, Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let pem = params.self_signed(&key)?.pem();
        fs::write(dir.join(format!("{file}.crt")), &pem)?;
        write_secret(&dir.join(format!("{file}.key")), &key.serialize_pem())?;
        Ok(Self { pem, issuer: Issuer::new(params, key) })
    }

    fn sign(&self, dir: &Path, file: &str, subject: Subject<'_>, server: Option<Vec<String>>) -> Result<Pair> {
        let key = KeyPair::generate()?;
        let usage = match server {
            Some(_) => ExtendedKeyUsagePurpose::ServerAuth,
            None => ExtendedKeyUsagePurpose::ClientAuth,
        };
        let mut params = params(subject, server.unwrap_or_default())?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let pair = Pair { certificate: params.signed_by(&key, &self.issuer)?.pem(), key: key.serialize_pem() };
        fs::write(dir.join(format!("{file}.crt")), &pair.certificate)?;
        write_secret(&dir.join(format!("{file}.key")), &pair.key)?;
        Ok(pair)
    }
}

/// A certificate and its key, in PEM.
struct Pair {
    certificate: String,
    key: String,
}

fn kubeconfig(path: &Path, layout: Layout, authority: &str, user: &str, pair: &Pair) -> Result<()> {
    let name = layout.prefix();
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: {name}\n\
         clusters:\n- name: {name}\n  cluster:\n    server: {server}\n    certificate-authority-data: {authority}\n\
         users:\n- name: {user}\n  user:\n    client-certificate-data: {certificate}\n    client-key-data: {key}\n\
         contexts:\n- name: {name}\n  context:\n    cluster: {name}\n    user: {user}\n",
        server = layout.api_url(),
        authority = BASE64.encode(authority),
        certificate = BASE64.encode(&pair.certificate),
        key = BASE64.encode(&pair.key),
    );
    write_secret(path, &text)
}

/// The API server's names: its service, its addresses, and the loopback.
fn server_names(layout: Layout) -> Vec<String> {
    let mut names: Vec<String> = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
    ]
    .map(str::to_owned)
    .to_vec();
    names.extend(["127.0.0.1".to_owned(), "::1".to_owned(), layout.service_address(1)]);
    names.extend(layout.addresses(Place::ControlPlane).iter().map(ToString::to_string));
    names
}

/// Where a component's kubeconfig lies.
pub(crate) fn config_path(paths: &Paths, component: &str) -> PathBuf {
    paths.root.join(format!("{component}.conf"))
}

/// Makes everything: authorities, the control plane's and each node's certificates, kubeconfigs.
pub(crate) fn make(paths: &Paths, layout: Layout, nodes: &[(String, u8)]) -> Result<()> {
    let dir = paths.pki();
    fs::create_dir_all(&dir)?;
    let cluster = Authority::make(&dir, "ca", "kubernetes-ca")?;
    let front = Authority::make(&dir, "front-proxy-ca", "front-proxy-ca")?;
    let plain = |user| Subject { group: None, user };
    let masters = |user| Subject { group: Some("system:masters"), user };

    cluster.sign(&dir, "apiserver", plain("kube-apiserver"), Some(server_names(layout)))?;
    cluster.sign(&dir, "apiserver-kubelet-client", masters("kube-apiserver-kubelet-client"), None)?;
    front.sign(&dir, "front-proxy-client", plain("front-proxy-client"), None)?;
    for (component, subject) in [
        ("admin", masters("kubernetes-admin")),
        ("controller-manager", plain("system:kube-controller-manager")),
        ("scheduler", plain("system:kube-scheduler")),
        ("kube-proxy", plain("system:kube-proxy")),
    ] {
        let pair = cluster.sign(&dir, component, subject, None)?;
        kubeconfig(&config_path(paths, component), layout, &cluster.pem, subject.user, &pair)?;
    }
    for (node, number) in nodes {
        let user = format!("system:node:{node}");
        let subject = Subject { group: Some("system:nodes"), user: &user };
        let pair = cluster.sign(&dir, node, subject, None)?;
        kubeconfig(&config_path(paths, node), layout, &cluster.pem, &user, &pair)?;
        let mut names = vec![node.clone()];
        names.extend(layout.addresses(Place::Node(*number)).iter().map(ToString::to_string));
        cluster.sign(&dir, &format!("{node}-server"), plain(node), Some(names))?;
    }
    let accounts = KeyPair::generate()?;
    write_secret(&dir.join("service-accounts.key"), &accounts.serialize_pem())?;
    fs::write(dir.join("service-accounts.pub"), accounts.public_key_pem()).context("writing the service account key")
}
