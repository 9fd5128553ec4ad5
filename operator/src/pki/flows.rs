//! Certificates for those who serve and read flows, as Secrets that kubelets mount.
//!
//! Secrets and not a request over the node's stream: the relay and other clients have no stream, a stock relay takes
//! the same files, and neither agent nor relay needs a right at the API server to get them. A private key is therefore
//! shared by all agents, as it is with the peers; a node that is taken over can read flows as a relay does not, and serve
//! wrong ones in another node's name, but it can sign nothing and reads no relay's key.
//!
//! ```text
//!   hubble-server-certs         agents on 4244        *.<cluster>.hubble-grpc.cilium.io, hubble-peer
//!   hubble-relay-client-certs   the relay to agents   *.hubble-relay.cilium.io
//!   hubble-relay-server-certs   the relay on 4245     *.hubble-relay.cilium.io, hubble-relay
//!   hubble-ui-client-certs      clients of the relay  *.hubble-ui.cilium.io
//! ```
//!
//! Each has `ca.crt`, `tls.crt` and `tls.key`; names of Secrets, keys and certificates are those of Cilium. They follow
//! the authority: a change of what is trusted makes them anew, an hour before what they replace is of no more use.
//! A Secret of such a name that was not made here is left alone: that is how one's own certificates are brought.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use axoneme_crds::AxonemeConfig;
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};
use rcgen::ExtendedKeyUsagePurpose as Usage;
use tracing::info;

use super::{Authorities, is_stale};

/// Annotation: seconds since 1970 at which the certificate ends.
const UNTIL: &str = "axoneme.io/valid-until";
/// Annotation: names in the certificate.
const NAMES: &str = "axoneme.io/names";
const CA: &str = "ca.crt";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// A certificate that somebody needs.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    secret: &'static str,
    names: Vec<String>,
    usage: Usage,
}

fn wanted(namespace: &str, cluster: &str) -> Vec<Wanted> {
    // the name that agents announce themselves by
    let nodes = format!("*.{}.hubble-grpc.cilium.io", cluster.replace('.', "-"));
    let service = |name: &str| {
        [name.to_owned(), format!("{name}.{namespace}.svc"), format!("{name}.{namespace}.svc.cluster.local")]
    };
    let with = |first: &str, name: &str| std::iter::once(first.to_owned()).chain(service(name)).collect();
    let of = |secret, names, usage| Wanted { secret, names, usage };
    vec![
        of("hubble-server-certs", with(&nodes, "hubble-peer"), Usage::ServerAuth),
        of("hubble-relay-client-certs", vec!["*.hubble-relay.cilium.io".into()], Usage::ClientAuth),
        of("hubble-relay-server-certs", with("*.hubble-relay.cilium.io", "hubble-relay"), Usage::ServerAuth),
        of("hubble-ui-client-certs", vec!["*.hubble-ui.cilium.io".into()], Usage::ClientAuth),
    ]
}

/// Whether it was made here.
fn is_ours(secret: &Secret) -> bool {
    secret.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(NAMES))
}

/// Whether a Secret is what it should be: of the authorities as they are, for these names, and good for long.
fn is_good(secret: &Secret, wanted: &Wanted, authorities: &Authorities, wall: SystemTime) -> bool {
    let annotation = |key: &str| secret.metadata.annotations.as_ref().and_then(|a| a.get(key));
    let data = |key: &str| secret.data.as_ref().and_then(|d| d.get(key)).map(|b| b.0.as_slice());
    let until = annotation(UNTIL).and_then(|t| t.parse().ok()).map(Duration::from_secs);
    let until = until.and_then(|t| SystemTime::UNIX_EPOCH.checked_add(t));
    // no age: who made it may be gone, and its end is enough to go by
    data(CA) == Some(authorities.bundle().as_bytes())
        && data(CERTIFICATE).is_some_and(|c| !c.is_empty())
        && data(KEY).is_some_and(|k| !k.is_empty())
        && annotation(NAMES) == Some(&wanted.names.join(","))
        && until.is_some_and(|until| !is_stale(until, wall, Duration::ZERO))
}

/// `version`: of the Secret that it replaces.
fn make(
    wanted: &Wanted,
    authorities: &Authorities,
    wall: SystemTime,
    version: Option<String>,
) -> anyhow::Result<Secret> {
    let until = authorities.until(wall);
    let tls = authorities.current.sign(wanted.names.clone(), wanted.usage.clone(), until)?;
    let seconds = until.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let annotations = [(UNTIL, seconds.to_string()), (NAMES, wanted.names.join(","))];
    let data = [(CA, authorities.bundle()), (CERTIFICATE, tls.certificate_pem), (KEY, tls.key_pem)];
    Ok(Secret {
        metadata: ObjectMeta {
            name: Some(wanted.secret.to_owned()),
            resource_version: version,
            labels: Some([("app.kubernetes.io/part-of".to_owned(), "axoneme".to_owned())].into()),
            annotations: Some(annotations.map(|(k, v)| (k.to_owned(), v)).into()),
            ..ObjectMeta::default()
        },
        data: Some(
            data.map(|(k, v)| (k.to_owned(), ByteString(v.into_bytes()))).into_iter().collect::<BTreeMap<_, _>>(),
        ),
        type_: Some("kubernetes.io/tls".to_owned()),
        ..Secret::default()
    })
}

/// Makes what is missing and, if `may_replace`, mends what is not as it should be. Of two replicas only one makes it.
pub(super) async fn keep(
    client: &Client,
    namespace: &str,
    authorities: &Authorities,
    wall: SystemTime,
    may_replace: bool,
) -> anyhow::Result<()> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    for wanted in wanted(namespace, &cluster(client).await?) {
        let name = wanted.secret;
        let about = || format!("Secret {name}");
        let now = secrets.get_opt(name).await.with_context(about)?;
        let done = match now {
            Some(now) if !may_replace || !is_ours(&now) || is_good(&now, &wanted, authorities, wall) => continue,
            Some(now) => {
                let new = make(&wanted, authorities, wall, now.metadata.resource_version)?;
                secrets.replace(name, &PostParams::default(), &new).await
            }
            None => secrets.create(&PostParams::default(), &make(&wanted, authorities, wall, None)?).await,
        };
        match done {
            Ok(_) => info!(secret = name, "certificate for flows"),
            // another replica was faster
            Err(kube::Error::Api(s)) if s.code == 409 => {}
            Err(e) => return Err(e).with_context(about),
        }
    }
    Ok(())
}

/// The cluster's name, which agents announce in their own.
async fn cluster(client: &Client) -> anyhow::Result<String> {
    let configs: Api<AxonemeConfig> = Api::all(client.clone());
    let configs = configs.list(&ListParams::default().limit(1)).await.context("AxonemeConfig")?;
    Ok(configs.items.into_iter().next().map_or_else(|| "default".to_owned(), |c| c.spec.cluster_name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Authority, Step};

    const DAY: Duration = Duration::from_hours(24);

    fn at(days: u32) -> SystemTime {
        SystemTime::UNIX_EPOCH + DAY * 20_000 + DAY * days
    }

    fn authorities() -> Authorities {
        let current = Authority::generate().unwrap();
        Authorities { current, next: None, old: None, created: at(0), rotate: false }
    }

    #[test]
    fn agents_are_named_as_they_announce_themselves() {
        let all = wanted("axoneme-system", "prod.eu");
        assert!(all[0].names.contains(&"*.prod-eu.hubble-grpc.cilium.io".to_owned()), "{all:?}");
        assert!(all[0].names.contains(&"hubble-peer".to_owned()), "{all:?}");
        let usages: Vec<_> = all.iter().map(|w| w.usage.clone()).collect();
        assert_eq!(usages, [Usage::ServerAuth, Usage::ClientAuth, Usage::ServerAuth, Usage::ClientAuth]);
    }

    #[test]
    fn a_certificate_is_made_anew_by_age_by_name_and_with_its_authority() {
        let a = authorities();
        let w = &wanted("axoneme-system", "default")[0];
        let made = make(w, &a, at(1), None).unwrap();
        assert!(is_good(&made, w, &a, at(1)));
        assert!(is_good(&made, w, &a, at(45)));
        assert!(!is_good(&made, w, &a, at(47)), "half of its life is over");
        assert!(!is_good(&made, &wanted("axoneme-system", "other")[0], &a, at(1)), "the cluster was renamed");
        let b = a.after(Step::Prepare, at(2)).unwrap();
        assert!(!is_good(&made, w, &b, at(2)), "its reader has to learn of the next authority");
        let second = make(w, &b, at(2), None).unwrap();
        let c = b.after(Step::Switch, at(3)).unwrap();
        assert!(is_good(&second, w, &b, at(2)) && !is_good(&second, w, &c, at(3)), "another one signs");
    }

    #[test]
    fn a_secret_that_somebody_has_emptied_or_scribbled_in_is_no_good() {
        let a = authorities();
        let w = &wanted("axoneme-system", "default")[0];
        for key in [CA, CERTIFICATE, KEY] {
            let mut spoilt = make(w, &a, at(1), None).unwrap();
            spoilt.data.as_mut().unwrap().remove(key);
            assert!(!is_good(&spoilt, w, &a, at(1)), "{key}");
        }
        for until in ["", "soon", "-1", "18446744073709551615"] {
            let mut spoilt = make(w, &a, at(1), None).unwrap();
            spoilt.metadata.annotations.as_mut().unwrap().insert(UNTIL.to_owned(), until.to_owned());
            assert!(!is_good(&spoilt, w, &a, at(1)), "{until}");
        }
        assert!(!is_good(&Secret::default(), w, &a, at(1)));
        assert!(!is_ours(&Secret::default()) && is_ours(&make(w, &a, at(1), None).unwrap()));
    }
}
