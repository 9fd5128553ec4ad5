//! What kinds need by hand whose fields do not fit under one required `spec`; kube's derive gives it to the others.
//!
//! kube's own `no_spec` flattens a second struct into the root, which makes serde buffer the whole object and lose the
//! position of an error. So these roots are written out.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceDefinitionNames, CustomResourceDefinitionSpec,
    CustomResourceDefinitionVersion, CustomResourceSubresourceStatus, CustomResourceSubresources,
    CustomResourceValidation,
};
use schemars::JsonSchema;

pub(crate) use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

/// Implements [`kube::Resource`] and [`kube::CustomResourceExt`] for a root type that has a field `metadata`. A column
/// is its name, type, description and path.
macro_rules! impl_resource {
    ($kind:ident {
        group: $group:literal,
        version: $version:literal,
        plural: $plural:literal,
        singular: $singular:literal,
        scope: $scope:ident $scope_name:literal,
        short_names: [$($short_name:literal),*],
        categories: [$($category:literal),*],
        columns: [$(($column:literal, $type:literal, $description:literal, $path:literal)),*],
    }) => {
        impl kube::Resource for $kind {
            type DynamicType = ();
            type Scope = k8s_openapi::$scope;

            fn kind((): &()) -> std::borrow::Cow<'_, str> {
                stringify!($kind).into()
            }

            fn group((): &()) -> std::borrow::Cow<'_, str> {
                $group.into()
            }

            fn version((): &()) -> std::borrow::Cow<'_, str> {
                $version.into()
            }

            fn plural((): &()) -> std::borrow::Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                &mut self.metadata
            }
        }

        impl kube::CustomResourceExt for $kind {
            fn crd() -> $crate::resource::CustomResourceDefinition {
                $crate::resource::definition::<Self>(&$crate::resource::Definition {
                    kind: stringify!($kind),
                    group: $group,
                    version: $version,
                    plural: $plural,
                    singular: $singular,
                    scope: $scope_name,
                    short_names: Self::shortnames(),
                    categories: &[$($category),*],
                    columns: &[$(($column, $type, $description, $path)),*],
                })
            }

            fn crd_name() -> &'static str {
                concat!($plural, ".", $group)
            }

            fn api_resource() -> kube::core::ApiResource {
                kube::core::ApiResource::erase::<Self>(&())
            }

            fn shortnames() -> &'static [&'static str] {
                &[$($short_name),*]
            }
        }
    };
}

/// Implements `Serialize` for a root type: `apiVersion`, `kind`, `metadata`, then the fields named, optional ones only
/// where they are set.
macro_rules! impl_serialize {
    ($kind:ident, required: [$($required:ident as $required_key:literal),*], optional: [$($field:ident),*]) => {
        impl serde::Serialize for $kind {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                use serde::ser::SerializeMap as _;

                let mut map = serializer.serialize_map(None)?;
                map.serialize_entry("apiVersion", &<Self as kube::Resource>::api_version(&()))?;
                map.serialize_entry("kind", stringify!($kind))?;
                map.serialize_entry("metadata", &self.metadata)?;
                $(map.serialize_entry($required_key, &self.$required)?;)*
                $(
                    if let Some(value) = &self.$field {
                        map.serialize_entry(stringify!($field), value)?;
                    }
                )*
                map.end()
            }
        }
    };
}

pub(crate) use {impl_resource, impl_serialize};

/// The names of a kind that is written by hand, as its CustomResourceDefinition gives them.
pub(crate) struct Definition {
    pub(crate) kind: &'static str,
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) singular: &'static str,
    pub(crate) scope: &'static str,
    pub(crate) short_names: &'static [&'static str],
    pub(crate) categories: &'static [&'static str],
    pub(crate) columns: &'static [(&'static str, &'static str, &'static str, &'static str)],
}

/// The definition of a kind with one version, which is served and stored, and with a status subresource.
pub(crate) fn definition<T: JsonSchema>(names: &Definition) -> CustomResourceDefinition {
    let strings = |list: &[&str]| Some(list.iter().map(ToString::to_string).collect());
    let column = |(name, type_, description, path): &(&str, &str, &str, &str)| CustomResourceColumnDefinition {
        name: (*name).into(),
        type_: (*type_).into(),
        description: Some(*description).filter(|text| !text.is_empty()).map(Into::into),
        json_path: (*path).into(),
        ..Default::default()
    };
    CustomResourceDefinition {
        metadata: kube::core::ObjectMeta {
            name: Some(format!("{}.{}", names.plural, names.group)),
            ..Default::default()
        },
        spec: CustomResourceDefinitionSpec {
            group: names.group.into(),
            names: CustomResourceDefinitionNames {
                kind: names.kind.into(),
                plural: names.plural.into(),
                singular: Some(names.singular.into()),
                short_names: strings(names.short_names),
                categories: strings(names.categories),
                ..Default::default()
            },
            scope: names.scope.into(),
            versions: vec![CustomResourceDefinitionVersion {
                name: names.version.into(),
                served: true,
                storage: true,
                additional_printer_columns: Some(names.columns.iter().map(column).collect()),
                schema: Some(CustomResourceValidation { open_api_v3_schema: Some(crate::schema::root_schema::<T>()) }),
                subresources: Some(CustomResourceSubresources {
                    status: Some(CustomResourceSubresourceStatus(serde_json::json!({}))),
                    ..Default::default()
                }),
                ..Default::default()
            }],
            ..Default::default()
        },
        ..Default::default()
    }
}
