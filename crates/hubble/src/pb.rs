//! The generated messages and services, and their descriptors.
//!
//! Their module paths are the protobuf packages. They are public: the command line, the relay and tests speak them; a
//! flow as the rest of the product knows it is [`axoneme_flow::Flow`].

macro_rules! package {
    ($name:ident) => {
        #[allow(clippy::pedantic, clippy::large_enum_variant, missing_debug_implementations, reason = "generated")]
        pub mod $name {
            include!(concat!(env!("OUT_DIR"), "/", stringify!($name), ".rs"));
        }
    };
}

package!(flow);
package!(observer);
package!(peer);
package!(relay);

/// OTLP's logs: for the exporter, and for tests that stand in for a collector.
#[allow(clippy::pedantic, missing_debug_implementations, reason = "generated")]
pub mod otlp {
    include!(concat!(env!("OUT_DIR"), "/opentelemetry.proto.collector.logs.v1.rs"));
}

/// A `google.protobuf.FileDescriptorSet` of the four files and what they import.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
