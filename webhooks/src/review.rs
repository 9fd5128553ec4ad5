//! The decision about one request.

use std::collections::BTreeMap;

use axoneme_intake::{CONFIG_NAME, FieldError, ObjectErrors, Reason, kind_of, parse_as};
use axoneme_model::Kind;
use serde_json::{Value, json};

use crate::{
    answer::Response,
    notes, refusals,
    request::{Operation, Request},
    view::View,
};

/// Annotation that lets a protected object be deleted, with the value `true`.
pub const ALLOW_DELETION: &str = "axoneme.io/allow-deletion";

/// Decides about a request, with all that is wrong with the object and what is known about it.
///
/// *Guarantees*: whatever is refused is refused with every field that is wrong. Anything is allowed that is no user's
/// object of a kind that Axoneme enforces, or no longer that object's content: other kinds, subresources, deletion, and
/// metadata and status of an object whose content stays as wrong as it was. *Caveats*: a dry run gets the same answer,
/// since nothing here has a side effect.
#[must_use]
pub fn review(request: &Request, view: &dyn View) -> Response {
    if !request.sub_resource.is_empty() {
        return Response::allow(&request.uid);
    }
    match request.operation {
        Operation::Connect => Response::allow(&request.uid),
        Operation::Delete => deleted(request, view),
        Operation::Create | Operation::Update => written(request, view),
    }
}

/// Whether users write objects of the kind, and Axoneme reads all of them.
const fn is_judged(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::NetworkPolicy
            | Kind::ClusterNetworkPolicy
            | Kind::CiliumNetworkPolicy
            | Kind::CiliumClusterwideNetworkPolicy
            | Kind::CiliumCIDRGroup
            | Kind::CiliumPodIPPool
            | Kind::AxonemeConfig
    )
}

fn deleted(request: &Request, view: &dyn View) -> Response {
    // a collection that is deleted asks for each object, with no name of the request
    let name = request.old_object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or(&request.name);
    let is = |group: &str, kind: Kind| request.group == group && request.kind == kind.as_str();
    if is("cilium.io", Kind::CiliumPodIPPool) {
        return Response::allow(&request.uid).warn(notes::of_deleted_pool(name, view));
    }
    if !is("axoneme.io", Kind::AxonemeConfig) || name != CONFIG_NAME {
        return Response::allow(&request.uid);
    }
    let annotations = request.old_object.pointer("/metadata/annotations");
    if annotations.and_then(|a| a.get(ALLOW_DELETION)).is_some_and(|v| v == "true") {
        return Response::allow(&request.uid);
    }
    let message = format!(
        "AxonemeConfig {CONFIG_NAME} holds the settings of the whole cluster: without it routing, address pools and all \
         else take their defaults at once. If that is meant: kubectl annotate axonemeconfig {CONFIG_NAME} \
         {ALLOW_DELETION}=true"
    );
    Response::forbidden(request, message)
}

fn written(request: &Request, view: &dyn View) -> Response {
    let object = match named(&request.object, request) {
        Ok(object) => object,
        Err(message) => return Response::bad_request(&request.uid, &message),
    };
    let kind = match kind_of(&object) {
        Ok(Some(kind)) if is_judged(kind) => kind,
        Ok(_) => return Response::allow(&request.uid),
        Err(errors) => return refused(request, &errors, |_| false),
    };
    let options = view.options();
    let is_same = || content(&request.object) == content(&request.old_object);
    match parse_as(kind, &object, &options) {
        // who only touches metadata or status does not want to hear about the content
        Ok(_) if request.operation == Operation::Update && is_same() => Response::allow(&request.uid),
        Ok(parsed) => {
            let warnings = notes::of(&parsed, view);
            let stored = named(&request.old_object, request).unwrap_or_default();
            let errors = refusals::of(&parsed, &stored, request, view);
            let response = if errors.is_empty() {
                Response::allow(&request.uid)
            } else {
                Response::invalid(request, &errors.iter().collect::<Vec<_>>())
            };
            response.warn(warnings)
        }
        Err(errors) => refused(request, &errors, |invalid| {
            let leaves = request.object.pointer("/metadata/deletionTimestamp").is_some_and(|t| !t.is_null());
            let stored = || named(&request.old_object, request).ok().and_then(|o| parse_as(kind, &o, &options).err());
            let was_so = |old: ObjectErrors| {
                leaves
                    || invalid.iter().all(|e| old.errors.iter().any(|o| (&o.path, &o.message) == (&e.path, &e.message)))
            };
            request.operation == Operation::Update && is_same() && stored().is_some_and(was_so)
        }),
    }
}

/// The answer to errors: a refusal, unless none of them says that the object is wrong, or `tolerated` says that they
/// must be lived with.
fn refused(request: &Request, errors: &ObjectErrors, tolerated: impl FnOnce(&[&FieldError]) -> bool) -> Response {
    let (invalid, unsupported): (Vec<_>, Vec<_>) = errors.errors.iter().partition(|e| e.reason == Reason::Invalid);
    let not_yet = unsupported.iter().map(|e| format!("not enforced, object gets Valid=False, reason=Unsupported: {e}"));
    let not_yet = not_yet.collect();
    if invalid.is_empty() {
        return Response::allow(&request.uid).warn(not_yet);
    }
    if tolerated(&invalid) {
        let mended = invalid.iter().map(|e| format!("still wrong, and not enforced as it is: {e}"));
        return Response::allow(&request.uid).warn(mended.chain(not_yet).collect());
    }
    Response::invalid(request, &invalid).warn(not_yet)
}

/// The object with what the request says of it where it does not say so itself; an error if the two disagree.
fn named(object: &Value, request: &Request) -> Result<Value, String> {
    let mut object = object.clone();
    let Some(map) = object.as_object_mut() else { return Ok(object) };
    for (field, asked) in [("apiVersion", request.api_version()), ("kind", request.kind.clone())] {
        match map.get(field) {
            None | Some(Value::Null) => drop(map.insert(field.to_owned(), asked.into())),
            Some(said) if *said == asked => {}
            Some(said) => {
                let said = said.to_string();
                return Err(format!("request.object.{field}: {said:.80}: request.kind says {asked:.80}"));
            }
        }
    }
    let Some(metadata) = map.entry("metadata").or_insert_with(|| json!({})).as_object_mut() else { return Ok(object) };
    let lacks = |m: &serde_json::Map<String, Value>, key| m.get(key).is_none_or(|v| v.is_null() || v == "");
    if lacks(metadata, "name") {
        // the API server may make the name up later, and its beginning is then what the user gave
        let made_up = metadata.get("generateName").filter(|g| g.as_str().is_some_and(|g| !g.is_empty())).cloned();
        let given = (!request.name.is_empty()).then(|| request.name.clone().into());
        if let Some(name) = given.or(made_up) {
            metadata.insert("name".into(), name);
        }
    }
    if lacks(metadata, "namespace") && !request.namespace.is_empty() {
        metadata.insert("namespace".into(), request.namespace.clone().into());
    }
    Ok(object)
}

/// What an object says beside its metadata and status.
fn content(object: &Value) -> BTreeMap<&str, &Value> {
    let fields = object.as_object().into_iter().flatten().map(|(k, v)| (k.as_str(), v));
    fields.filter(|(k, _)| !matches!(*k, "metadata" | "status" | "apiVersion" | "kind")).collect()
}
