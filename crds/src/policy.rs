//! The rule language that CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy share.
//!
//! ```text
//! Rule ─┬─ endpointSelector | nodeSelector      whom the rule is about
//!       ├─ ingress[]      IngressRule      ─┐
//!       ├─ ingressDeny[]  IngressDenyRule  ─┤   peers AND (toPorts OR icmps)
//!       ├─ egress[]       EgressRule       ─┤
//!       ├─ egressDeny[]   EgressDenyRule   ─┘
//!       └─ enableDefaultDeny, labels, description, log
//! ```
//!
//! A missing list and an empty list differ: without a peer list any peer matches, with an empty one none does. So every
//! list is an `Option<Vec<_>>` that is written back exactly as it was read.
//!
//! Source: Cilium's custom resource reference (1.20 line).

mod egress;
mod icmp;
mod ingress;
mod l7;
mod peer;
mod port;
mod rule;
mod status;

pub use egress::{EgressDenyRule, EgressRule};
pub use icmp::{ICMP_TYPES, IcmpFamily, IcmpField, IcmpRule};
pub use ingress::{IngressDenyRule, IngressRule};
pub use l7::{DnsRule, HeaderMatch, HttpRule, KafkaRule, L7Rules, MismatchAction};
pub use peer::{AwsGroup, CidrRule, Entity, FqdnSelector, Group, Service, ServiceByName, ServiceBySelector};
pub use port::{
    EnvoyConfigKind, EnvoyConfigRef, Listener, PortDenyRule, PortProtocol, PortRule, Protocol, SecretRef, TlsContext,
};
pub use rule::{Authentication, AuthenticationMode, DefaultDeny, LogConfig, Rule, RuleLabel};
pub use status::{DerivativePolicy, PolicyStatus};
