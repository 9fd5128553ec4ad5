//! Objects in the form that is wanted.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::{
    accept::Form,
    kinds::{View, object, partial},
    request::Include,
    resource::{API_VERSION, Resource},
    store::Happened,
};

/// How objects are shown to one who asks.
#[derive(Clone, Copy, Debug)]
pub struct Present {
    pub form: Form,
    pub include: Include,
}

impl Present {
    /// One object, on its own.
    pub fn one<T: View>(self, view: &T, version: u64) -> Value {
        let version = version.to_string();
        match self.form {
            Form::Object => object(view, &version),
            Form::Metadata => partial(view, &version),
            Form::Table => Self::table::<T>(&[self.row(view, &version)], &version, true),
        }
    }

    /// One object among those of a list.
    pub fn item<T: View>(self, view: &T, version: u64) -> Value {
        let version = version.to_string();
        match self.form {
            Form::Object => object(view, &version),
            Form::Metadata => partial(view, &version),
            Form::Table => self.row(view, &version),
        }
    }

    /// A list up to its first item.
    pub fn head<T: View>(self) -> String {
        let resource = T::resource();
        let (kind, api, items) = match self.form {
            Form::Object => (resource.list_kind(), API_VERSION, "items"),
            Form::Metadata => ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1", "items"),
            Form::Table => ("Table".to_owned(), "meta.k8s.io/v1", "rows"),
        };
        let mut head = format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{api}\",");
        if self.form == Form::Table {
            // writing into a String can't fail
            let _ = write!(head, "\"columnDefinitions\":{},", columns(resource));
        }
        let _ = write!(head, "\"{items}\":[");
        head
    }

    /// A list behind its last item.
    pub fn tail(version: u64, next: Option<&str>) -> String {
        let mut metadata = json!({"resourceVersion": version.to_string()});
        if let (Some(next), Some(metadata)) = (next, metadata.as_object_mut()) {
            metadata.insert("continue".into(), json!(next));
        }
        format!("],\"metadata\":{metadata}}}\n")
    }

    /// A frame of a watch. `first`: whoever reads it has seen no columns yet.
    pub fn event<T: View>(self, what: Happened, view: &T, version: u64, first: bool) -> Value {
        let what = match what {
            Happened::Added => "ADDED",
            Happened::Modified => "MODIFIED",
            Happened::Deleted => "DELETED",
        };
        let text = version.to_string();
        let object = match self.form {
            Form::Table => Self::table::<T>(&[self.row(view, &text)], &text, first),
            Form::Object | Form::Metadata => self.one(view, version),
        };
        json!({"type": what, "object": object})
    }

    /// That everything up to the version was told. `state`: and with it what was there at the beginning.
    pub fn bookmark<T: View>(self, version: u64, state: bool) -> Value {
        let version = version.to_string();
        let mut metadata = json!({"resourceVersion": version, "creationTimestamp": null});
        if let (true, Some(metadata)) = (state, metadata.as_object_mut()) {
            metadata.insert("annotations".into(), json!({"k8s.io/initial-events-end": "true"}));
        }
        let object = match self.form {
            Form::Object => json!({"kind": T::resource().kind, "apiVersion": API_VERSION, "metadata": metadata}),
            Form::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            Form::Table => {
                let of = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata});
                Self::table::<T>(&[json!({"cells": null, "object": of})], &version, false)
            }
        };
        json!({"type": "BOOKMARK", "object": object})
    }

    fn table<T: View>(rows: &[Value], version: &str, with_columns: bool) -> Value {
        let columns = if with_columns { columns(T::resource()) } else { json!([]) };
        json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": version},
            "columnDefinitions": columns, "rows": rows})
    }

    fn row<T: View>(self, view: &T, version: &str) -> Value {
        let of = match self.include {
            Include::None => return json!({"cells": view.cells()}),
            Include::Metadata => partial(view, version),
            Include::Object => object(view, version),
        };
        json!({"cells": view.cells(), "object": of})
    }
}

fn columns(resource: &Resource) -> Value {
    let column = |c: &crate::resource::Column| {
        let format = if c.name == "Name" { "name" } else { "" };
        json!({"name": c.name, "type": c.kind, "format": format, "description": c.about, "priority": c.priority})
    };
    resource.columns.iter().map(column).collect()
}
