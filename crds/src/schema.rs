//! Schemas of values that Rust holds as plain strings, and the patterns that they share.

use std::{borrow::Cow, collections::BTreeSet};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::policy::ICMP_TYPES;

/// A port: a number from 0 to 65535, or a service name (RFC 6335) with at least one letter.
pub(crate) const PORT_PATTERN: &str = "^((6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|\
[0-9]{1,4})|([a-zA-Z0-9]-?)*[a-zA-Z](-?[a-zA-Z0-9])*)$";

/// Declares a marker type that stands for a string with a schema of its own: `#[schemars(with = "schema::Cidr")]`.
macro_rules! string_schema {
    ($(#[$doc:meta])* $name:ident, $schema:tt) => {
        $(#[$doc])*
        pub(crate) struct $name;

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

string_schema!(
    /// An IPv4 or IPv6 prefix. `cidr` is a format that the API server checks itself.
    Cidr,
    { "type": "string", "format": "cidr" }
);

string_schema!(
    /// An IPv4 or IPv6 prefix, checked by a rule, as network-policy-api does it.
    CelCidr,
    {
        "type": "string",
        "maxLength": 43,
        "x-kubernetes-validations": [{ "rule": "isCIDR(self)", "message": "must be a prefix, such as 10.0.0.0/8" }]
    }
);

string_schema!(
    /// A DNS name, or `*.` and a DNS name.
    DomainName,
    {
        "type": "string",
        "pattern": "^(\\*\\.)?([a-zA-Z0-9_]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\\.)+\
[a-zA-Z0-9_]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\\.?$"
    }
);

string_schema!(
    /// The name of a Linux network interface (15 bytes at most), or a prefix of names and `+`.
    DeviceName,
    { "type": "string", "pattern": "^[^/+[:space:]]{1,15}[+]?$" }
);

string_schema!(
    /// A label's value.
    LabelValue,
    { "type": "string", "maxLength": 63, "pattern": "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$" }
);

string_schema!(
    /// A TLS server name or a pattern of such.
    ServerName,
    { "type": "string", "maxLength": 255, "pattern": "^([-a-zA-Z0-9_*]+[.]?)+$" }
);

/// A number from 0 to 255 as integer or string, or a name. The pattern applies to the string form only.
pub(crate) fn icmp_type(_: &mut SchemaGenerator) -> Schema {
    let names: BTreeSet<&str> = ICMP_TYPES.iter().map(|(_, name, _)| *name).collect();
    let names = names.into_iter().collect::<Vec<_>>().join("|");
    let pattern = format!("^([0-9]|[1-9][0-9]|1[0-9][0-9]|2[0-4][0-9]|25[0-5]|{names})$");
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "pattern": pattern,
    })
}
