//! What kinds need by hand whose fields do not fit under one required `spec`; kube's derive gives it to the others.
//!
//! kube's own `no_spec` flattens a second struct into the root, which makes serde buffer the whole object and lose the
//! position of an error. So these roots are written out.

/// Implements [`kube::Resource`] for a root type that has a field `metadata`.
macro_rules! impl_resource {
    ($kind:ident, $group:literal, $version:literal, $plural:literal, $scope:ident) => {
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
