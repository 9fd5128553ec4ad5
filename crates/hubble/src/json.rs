//! Messages of the API as JSON, in the spelling of Hubble's files and of its client: the names of the proto files, enums
//! by name, defaults left out, 64-bit numbers as text (protobuf's JSON mapping).

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::Value;

use crate::pb::{self, flow::FlowFilter, observer::GetFlowsResponse};

/// Characters of a filter's text; requests are bounded alike.
const MAX_TEXT: usize = 1 << 20;

static POOL: LazyLock<Option<DescriptorPool>> = LazyLock::new(|| DescriptorPool::decode(pb::DESCRIPTORS).ok());

pub(crate) fn message(name: &str) -> Result<MessageDescriptor, String> {
    POOL.as_ref().and_then(|p| p.get_message_by_name(name)).ok_or_else(|| format!("{name}: no such message"))
}

fn dynamic(response: &GetFlowsResponse) -> Result<(DynamicMessage, SerializeOptions), String> {
    let message = DynamicMessage::decode(message("observer.GetFlowsResponse")?, &*response.encode_to_vec());
    Ok((message.map_err(|e| e.to_string())?, SerializeOptions::new().use_proto_field_name(true)))
}

/// A line of a file of flows, with its end.
pub(crate) fn line(response: &GetFlowsResponse, out: &mut Vec<u8>) -> Result<(), String> {
    let (message, options) = dynamic(response)?;
    message.serialize_with_options(&mut serde_json::Serializer::new(&mut *out), &options).map_err(|e| e.to_string())?;
    out.push(b'\n');
    Ok(())
}

/// The same, not as text.
pub(crate) fn value(response: &GetFlowsResponse) -> Result<Value, String> {
    let (message, options) = dynamic(response)?;
    message.serialize_with_options(serde_json::value::Serializer, &options).map_err(|e| e.to_string())
}

/// Filters as Hubble's settings have them: JSON objects of `flow.FlowFilter`, one after the other.
///
/// *Errors*: the number of the filter, and what is wrong with it.
pub fn filters(text: &str) -> Result<Vec<FlowFilter>, String> {
    if text.len() > MAX_TEXT {
        return Err(format!("longer than {MAX_TEXT} bytes"));
    }
    let values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    values.enumerate().map(|(n, v)| filter(v.map_err(|e| format!("filter {n}: {e}"))?, n)).collect()
}

/// One of them; `n` names it in messages.
pub(crate) fn filter(value: Value, n: usize) -> Result<FlowFilter, String> {
    let parsed = DynamicMessage::deserialize(message("flow.FlowFilter")?, value);
    let parsed = parsed.map_err(|e| format!("filter {n}: {e}"))?;
    parsed.transcode_to().map_err(|e| format!("filter {n}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_as_hubble_writes_them() {
        let text = r#"{"source_pod":["kube-system/"],"verdict":["DROPPED","ERROR"]} {"event_type":[{"type":1}],"reply":[false]}"#;
        let parsed = filters(text).unwrap();
        assert_eq!(parsed.len(), 2);
        assert_eq!((&*parsed[0].source_pod[0], &parsed[0].verdict), ("kube-system/", &vec![2, 3]));
        assert_eq!((parsed[1].event_type[0].r#type, &parsed[1].reply), (1, &vec![false]));
        assert!(filters("").unwrap().is_empty());
    }

    #[test]
    fn what_is_no_filter_is_named() {
        for (text, words) in [
            (r#"{"source_pods":["a"]}"#, "source_pods"),
            (r#"{} {"verdict":["DENIED"]}"#, "filter 1"),
            (r#"{"verdict":"#, "filter 0"),
            ("[1]", "filter 0"),
            ("7", "filter 0"),
        ] {
            let error = filters(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
        assert!(filters(&" ".repeat(MAX_TEXT + 1)).is_err());
        // nesting that a recursive reader could die of
        assert!(filters(&"[".repeat(100_000)).is_err());
    }
}
