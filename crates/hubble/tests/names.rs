//! The protocol against the written table: each line of `names.txt` is a field, an enum's value or a method, as
//! `message number name type [repeated] [oneof=…]`, `enum number NAME enum` or `service - method request response kind`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

use std::collections::BTreeSet;

use axoneme_hubble::pb::DESCRIPTORS;
use prost::Message;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

const PACKAGES: [&str; 4] = ["flow", "observer", "peer", "relay"];

fn type_of(f: &FieldDescriptorProto) -> String {
    match f.r#type() {
        Type::Message | Type::Enum => f.type_name().trim_start_matches('.').to_owned(),
        Type::Double => "double".into(),
        Type::Uint64 => "uint64".into(),
        Type::Int64 => "int64".into(),
        Type::Uint32 => "uint32".into(),
        Type::Int32 => "int32".into(),
        Type::Bool => "bool".into(),
        Type::String => "string".into(),
        other => panic!("no field of the API is a {other:?}"),
    }
}

fn message(prefix: &str, m: &DescriptorProto, out: &mut BTreeSet<String>) {
    let name = format!("{prefix}.{}", m.name());
    if m.field.is_empty() {
        out.insert(format!("{name} - - empty"));
    }
    for f in &m.field {
        let repeated = if f.label() == Label::Repeated { " repeated" } else { "" };
        let oneof = f
            .oneof_index
            .map(|i| format!(" oneof={}", m.oneof_decl[usize::try_from(i).unwrap()].name()))
            .unwrap_or_default();
        out.insert(format!("{name} {} {} {}{repeated}{oneof}", f.number(), f.name(), type_of(f)));
    }
    m.nested_type.iter().for_each(|inner| message(&name, inner, out));
    m.enum_type.iter().for_each(|inner| enumeration(&name, inner, out));
}

fn enumeration(prefix: &str, e: &EnumDescriptorProto, out: &mut BTreeSet<String>) {
    for v in &e.value {
        out.insert(format!("{prefix}.{} {} {} enum", e.name(), v.number(), v.name()));
    }
}

fn ours() -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for file in FileDescriptorSet::decode(DESCRIPTORS).unwrap().file {
        let package = file.package().to_owned();
        if !PACKAGES.contains(&&*package) {
            continue;
        }
        file.message_type.iter().for_each(|m| message(&package, m, &mut out));
        file.enum_type.iter().for_each(|e| enumeration(&package, e, &mut out));
        for service in &file.service {
            for m in &service.method {
                let kind = if m.server_streaming() { "stream" } else { "unary" };
                let (input, output) = (m.input_type().trim_start_matches('.'), m.output_type().trim_start_matches('.'));
                out.insert(format!("{package}.{} - {} {input} {output} {kind}", service.name(), m.name()));
            }
        }
    }
    out
}

#[test]
fn names_numbers_and_types_are_those_of_the_table() {
    let table: BTreeSet<String> = include_str!("names.txt").lines().map(str::to_owned).collect();
    assert!(table.len() > 500, "the table is there");
    let ours = ours();
    let missing: Vec<_> = table.difference(&ours).collect();
    let extra: Vec<_> = ours.difference(&table).collect();
    assert!(missing.is_empty() && extra.is_empty(), "missing: {missing:#?}\nnot in the table: {extra:#?}");
}

#[test]
fn every_drop_reason_of_the_api_has_its_name_and_number() {
    let reasons: Vec<(u8, &str)> = include_str!("names.txt")
        .lines()
        .filter_map(|l| l.strip_prefix("flow.DropReason "))
        .map(|l| {
            let (number, rest) = l.split_once(' ').unwrap();
            (number.parse().unwrap(), rest.strip_suffix(" enum").unwrap())
        })
        .collect();
    assert!(reasons.len() > 70);
    for (number, name) in &reasons {
        assert_eq!(axoneme_flow::DropReason(*number).name(), *name);
    }
    assert_eq!(axoneme_flow::DropReason::names().count(), reasons.len());
}
