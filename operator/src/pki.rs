//! The authority that signs the replicas' certificates: its key in a Secret for replicas, its certificate in a ConfigMap
//! for agents. Each replica signs its own certificate, and does so again long before it ends.
//!
//! ```text
//!   prepare:  a second authority is made; agents are told to trust both
//!   switch:   an hour later replicas sign with the second; agents still trust both
//!   forget:   an hour later the first is gone
//! ```
//!
//! *Guarantees*: no agent meets a certificate of an authority that it was not told of an hour before; connections that
//! are open go on. A replica whose clock jumps makes certificates that agents with the right time take, and new ones
//! when the clock is right again. *Assumptions*: agents read the ConfigMap before they connect.

mod flows;
mod keep;

use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use axoneme_wire::{SERVER_NAME, server::Tls};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

pub use keep::{Keeper, authorities};

/// Name of the Secret and of the ConfigMap.
pub const NAME: &str = "axoneme-ca";
/// Annotation of the Secret that asks for a new authority; taken off when that is under way.
pub const ROTATE: &str = "axoneme.io/rotate";

/// How long a certificate of a replica is good, and when it is replaced: by the clock of the wall, which may jump, or by
/// the time that has passed, whichever comes first.
const LEAF_LIFE: Duration = Duration::from_hours(90 * 24);
const LEAF_REST: Duration = Duration::from_hours(45 * 24);
const LEAF_AGE: Duration = Duration::from_hours(30 * 24);
/// After so long the next authority is made.
const AUTHORITY_AGE: Duration = Duration::from_hours(5 * 365 * 24);
/// How long agents have to learn of an authority before it signs, and of a certificate before its authority goes.
const OVERLAP: Duration = Duration::from_hours(1);

/// An authority: certificate and key, PEM.
#[derive(Clone, PartialEq, Eq)]
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
    // agents trust its key for as long as it is in the ConfigMap: that, not a date, is what ends it
    p.not_before = date_time_ymd(2020, 1, 1);
    p.not_after = date_time_ymd(2120, 1, 1);
    p
}

impl Authority {
    /// A new one.
    pub fn generate() -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let certificate = params().self_signed(&key)?;
        Ok(Self { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// A certificate for a replica, good for [`SERVER_NAME`] and for the Services of webhooks and views, from long
    /// ago (an agent's clock may be behind) until that time.
    pub fn issue(&self, namespace: &str, until: SystemTime) -> anyhow::Result<Tls> {
        let services = [crate::admission::server_name(namespace), crate::views::server_name(namespace)];
        let names = [SERVER_NAME.to_owned()].into_iter().chain(services).collect();
        self.sign(names, ExtendedKeyUsagePurpose::ServerAuth, until)
    }

    fn sign(&self, names: Vec<String>, usage: ExtendedKeyUsagePurpose, until: SystemTime) -> anyhow::Result<Tls> {
        let key = KeyPair::from_pem(&self.key_pem).context("key of the authority")?;
        let issuer = Issuer::new(params(), key);
        let mut leaf = CertificateParams::new(names)?;
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.extended_key_usages = vec![usage];
        let since_epoch = until.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        leaf.not_before = date_time_ymd(2020, 1, 1);
        leaf.not_after = date_time_ymd(1970, 1, 1) + since_epoch;
        let leaf_key = KeyPair::generate()?;
        let certificate = leaf.signed_by(&leaf_key, &issuer)?;
        Ok(Tls { certificate_pem: certificate.pem(), key_pem: leaf_key.serialize_pem() })
    }
}

/// All authorities of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorities {
    /// It signs.
    pub current: Authority,
    /// It will sign: agents are learning of it.
    pub next: Option<Authority>,
    /// Certificate of the one that signed before.
    pub old: Option<String>,
    /// When the current one was made.
    pub created: SystemTime,
    /// A new one was asked for.
    pub rotate: bool,
}

/// What to do with the authorities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Prepare,
    Switch,
    Forget,
}

impl Authorities {
    /// What agents are to trust, PEM.
    #[must_use]
    pub fn bundle(&self) -> String {
        let next = self.next.as_ref().map(|n| n.certificate_pem.as_str());
        [Some(self.current.certificate_pem.as_str()), next, self.old.as_deref()].into_iter().flatten().collect()
    }

    /// What is due. `told`: for how long agents have been told the bundle as it is, by a clock that does not jump.
    #[must_use]
    pub fn due(&self, wall: SystemTime, told: Duration) -> Option<Step> {
        let over = told >= OVERLAP;
        match (&self.next, &self.old) {
            (Some(_), _) => over.then_some(Step::Switch),
            (None, Some(_)) => over.then_some(Step::Forget),
            (None, None) => {
                let age = wall.duration_since(self.created).unwrap_or_default();
                (self.rotate || age >= AUTHORITY_AGE).then_some(Step::Prepare)
            }
        }
    }

    /// The authorities after a step.
    pub fn after(&self, step: Step, wall: SystemTime) -> anyhow::Result<Self> {
        let mut new = self.clone();
        match step {
            Step::Prepare => {
                new.next = Some(Authority::generate()?);
                new.rotate = false;
            }
            Step::Switch => {
                if let Some(next) = new.next.take() {
                    new.old = Some(std::mem::replace(&mut new.current, next).certificate_pem);
                    new.created = wall;
                }
            }
            Step::Forget => new.old = None,
        }
        Ok(new)
    }

    /// Until when a certificate is good that is made now. A clock that is far behind is not believed: the authority is
    /// not younger than its certificates.
    #[must_use]
    pub fn until(&self, wall: SystemTime) -> SystemTime {
        wall.max(self.created) + LEAF_LIFE
    }
}

/// Whether a certificate is to be replaced that is good until that time and was made so long ago.
#[must_use]
pub fn is_stale(until: SystemTime, wall: SystemTime, age: Duration) -> bool {
    age >= LEAF_AGE || until.duration_since(wall).unwrap_or_default() < LEAF_REST
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn at(days: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + DAY * 20_000 + DAY * u32::try_from(days).unwrap()
    }

    fn authorities() -> Authorities {
        let current = Authority::generate().unwrap();
        Authorities { current, next: None, old: None, created: at(0), rotate: false }
    }

    #[test]
    fn agents_learn_of_an_authority_before_it_signs_and_keep_the_old_one_after() {
        let (mut a, soon, later) = (authorities(), Duration::from_mins(59), Duration::from_hours(1));
        assert_eq!(a.due(at(5), later), None);
        a.rotate = true;
        assert_eq!(a.due(at(5), Duration::ZERO), Some(Step::Prepare));
        let first = a.current.clone();
        let b = a.after(Step::Prepare, at(5)).unwrap();
        assert!(!b.rotate && b.current == first, "the first still signs");
        assert!(b.bundle().contains(&first.certificate_pem));
        assert_eq!((b.due(at(5), soon), b.due(at(5), later)), (None, Some(Step::Switch)));
        let c = b.after(Step::Switch, at(6)).unwrap();
        assert_eq!(Some(&c.current), b.next.as_ref());
        assert_eq!(c.created, at(6));
        assert!(c.bundle().contains(&first.certificate_pem), "replicas may still show what it signed");
        assert_eq!((c.due(at(6), soon), c.due(at(6), later)), (None, Some(Step::Forget)));
        let d = c.after(Step::Forget, at(6)).unwrap();
        assert!(!d.bundle().contains(&first.certificate_pem));
        assert_eq!(d.due(at(6), later), None);
    }

    #[test]
    fn an_authority_is_replaced_by_age_and_a_clock_that_jumps_back_and_forth_does_no_harm() {
        let a = authorities();
        assert_eq!(a.due(at(5 * 365 - 1), Duration::MAX), None);
        assert_eq!(a.due(at(5 * 365), Duration::ZERO), Some(Step::Prepare));
        assert_eq!(a.due(SystemTime::UNIX_EPOCH, Duration::MAX), None, "a clock that was reset");
        assert_eq!(a.until(SystemTime::UNIX_EPOCH), at(90), "agents with the right time take it");
        let future = a.until(at(10_000));
        assert!(!is_stale(future, at(10_000), Duration::ZERO));
        assert!(!is_stale(future, at(1), Duration::ZERO), "the clock came back: it is good until then");
        assert!(is_stale(a.until(at(1)), at(10_000), Duration::ZERO), "the clock jumped: made anew at once");
    }

    #[test]
    fn a_certificate_is_replaced_long_before_it_ends() {
        let until = authorities().until(at(0));
        assert_eq!(until, at(90));
        assert!(!is_stale(until, at(29), DAY * 29));
        assert!(is_stale(until, at(30), DAY * 30));
        assert!(is_stale(until, at(46), DAY), "by the clock of the wall");
        let tls = authorities().current.issue("axoneme-system", until).unwrap();
        assert!(tls.certificate_pem.contains("BEGIN CERTIFICATE") && tls.key_pem.contains("PRIVATE KEY"));
    }
}
