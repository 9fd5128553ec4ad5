//! From Rust types to schemas that an API server takes.
//!
//! Here are the schemas of values that Rust holds as plain strings, and the last step that makes a schema structural.

use std::{borrow::Cow, collections::BTreeSet};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::core::schema::{OptionalEnum, OptionalIntOrString, StructuralSchemaRewriter};
use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema, transform::AddNullable};

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

/// The schema of a root type that is written by hand, in the same steps that kube's derive takes.
///
/// # Panics
/// If the type's schema is none that an API server could take. That is a bug in the type; the test that compares the
/// generated files meets it first.
pub(crate) fn root_schema<T: JsonSchema>() -> JSONSchemaProps {
    let generator = SchemaSettings::openapi3()
        .with(|settings| {
            settings.inline_subschemas = true;
            settings.meta_schema = None;
        })
        .with_transform(AddNullable::default())
        .with_transform(StructuralSchemaRewriter)
        .with_transform(OptionalEnum)
        .with_transform(OptionalIntOrString)
        .into_generator();
    serde_json::from_value(generator.into_root_schema_for::<T>().to_value())
        .expect("the schema of a type of this crate is a JSONSchemaProps")
}

/// Makes the schemas of a definition what an API server takes without a warning, and what upstream's are.
pub(crate) fn finish(mut definition: CustomResourceDefinition) -> CustomResourceDefinition {
    definition
        .spec
        .versions
        .iter_mut()
        .filter_map(|version| version.schema.as_mut()?.open_api_v3_schema.as_mut())
        .for_each(finish_schema);
    definition
}

fn finish_schema(schema: &mut JSONSchemaProps) {
    // Nothing is nullable upstream: the API server then drops a null before it defaults and validates, and a rule's
    // has(self.x) means what it says.
    schema.nullable = None;
    schema.title = None;
    schema.description = schema.description.as_deref().map(unwrap_lines);
    finish_integer(schema);
    visit_subschemas(schema, finish_schema);
}

/// Joins the lines of each paragraph: kubectl breaks lines where the terminal ends, not where the source does.
fn unwrap_lines(text: &str) -> String {
    let join = |paragraph: &str| paragraph.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    text.split("\n\n").map(join).collect::<Vec<_>>().join("\n\n")
}

/// The API server knows the formats int32 and int64 only and warns of others, so the range moves into bounds.
fn finish_integer(schema: &mut JSONSchemaProps) {
    let (format, maximum) = match schema.format.as_deref() {
        Some("uint8") => ("int32", Some(f64::from(u8::MAX))),
        Some("uint16") => ("int32", Some(f64::from(u16::MAX))),
        Some("uint32") => ("int64", Some(f64::from(u32::MAX))),
        Some("uint64") => ("int64", None),
        _ => return,
    };
    schema.format = Some(format.into());
    schema.minimum = schema.minimum.or(Some(0.0));
    schema.maximum = schema.maximum.or(maximum);
}

fn visit_subschemas(schema: &mut JSONSchemaProps, mut visit: impl FnMut(&mut JSONSchemaProps)) {
    schema.properties.iter_mut().flat_map(|properties| properties.values_mut()).for_each(&mut visit);
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        visit(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        visit(values);
    }
}
