use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::L7Rules;

/// Ports to allow, and what may be spoken on them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortRule {
    /// The ports; any of them matches. Without it all ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxItems" = 40))]
    pub ports: Option<Vec<PortProtocol>>,

    /// Ends the client's TLS session here, so that rules can see what is inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "terminatingTLS")]
    pub terminating_tls: Option<TlsContext>,

    /// Opens a TLS session to the server, after rules have seen what is inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "originatingTLS")]
    pub originating_tls: Option<TlsContext>,

    /// Names that a TLS client may ask for (SNI). `*` stands for one label, `**` at the front for one or more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<crate::schema::ServerName>>")]
    #[schemars(extend("minItems" = 1, "x-kubernetes-list-type" = "set"))]
    pub server_names: Option<Vec<String>>,

    /// Sends the traffic to a listener of an Envoy configuration. Only in egress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<Listener>,

    /// What may be spoken on the ports. Without it, anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<L7Rules>,
}

/// Ports to deny.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortDenyRule {
    /// The ports; any of them matches. Without it all ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<PortProtocol>>,
}

/// A port or a range of ports of a protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortProtocol {
    /// A port number in quotes, or the name of a container port. "0", or leaving it out, means all ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = crate::schema::PORT_PATTERN))]
    pub port: Option<String>,

    /// The last port of a range that begins with `port`, which must be a number then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0, "maximum" = 65535))]
    pub end_port: Option<i32>,

    /// The protocol. Without it, or with ANY: TCP, UDP and SCTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Protocol")]
    pub protocol: Option<Protocol>,
}

/// A protocol above IP. The ones after SCTP have no ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// IP protocol 6.
    Tcp,
    /// IP protocol 17.
    Udp,
    /// IP protocol 132.
    Sctp,
    /// IP protocol 112.
    Vrrp,
    /// IP protocol 2.
    Igmp,
    /// IP protocol 47.
    Gre,
    /// IP protocol 4: IPv4 in IP.
    Ipip,
    /// IP protocol 41: IPv6 in IP.
    Ipv6,
    /// IP protocol 50.
    Esp,
    /// IP protocol 51.
    Ah,
    /// TCP, UDP and SCTP.
    Any,
}

/// Certificates and keys for one side of an intercepted TLS session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TlsContext {
    /// The Secret that holds them.
    pub secret: SecretRef,
    /// The Secret's key of the trusted CA certificates. Without it `ca.crt`, if it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "trustedCA")]
    pub trusted_ca: Option<String>,
    /// The Secret's key of the certificate chain. Without it `tls.crt`, if it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// The Secret's key of the private key. Without it `tls.key`, if it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key: Option<String>,
}

/// A Secret of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// The Secret's namespace. Without it, the policy's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The Secret's name.
    pub name: String,
}

/// A listener of an Envoy configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// The object that defines the listener.
    pub envoy_config: EnvoyConfigRef,
    /// The listener's name in that object.
    #[schemars(length(min = 1))]
    pub name: String,
    /// Which listener wins where rules ask for different ones: the lowest number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 1, "maximum" = 100))]
    pub priority: Option<u8>,
}

/// An object that holds an Envoy configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnvoyConfigRef {
    /// The object's kind. Without it, CiliumEnvoyConfig in a CiliumNetworkPolicy and CiliumClusterwideEnvoyConfig in a
    /// CiliumClusterwideNetworkPolicy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "EnvoyConfigKind")]
    pub kind: Option<EnvoyConfigKind>,
    /// The object's name.
    #[schemars(length(min = 1))]
    pub name: String,
}

/// The kinds that hold an Envoy configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
pub enum EnvoyConfigKind {
    /// Namespaced.
    CiliumEnvoyConfig,
    /// Of the whole cluster.
    CiliumClusterwideEnvoyConfig,
}
