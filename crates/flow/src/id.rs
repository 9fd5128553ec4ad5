//! What a flow is called.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A UUID of version 8 (RFC 9562, "custom"): node and start, then the sequence number. It is text in JSON and on the
/// wire only, so that a flow that nobody prints costs no text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId(u128);

impl FlowId {
    /// Length of its text.
    pub const TEXT: usize = 36;

    /// The id of an instance's flow with that sequence number.
    #[must_use]
    pub(crate) const fn new(instance: u64, sequence: u64) -> Self {
        let high = ((instance >> 16) << 16) | 0x8000 | (instance & 0x0fff);
        let low = (1 << 63) | (sequence & ((1 << 62) - 1));
        Self((high as u128) << 64 | low as u128)
    }

    /// The id of the other thing that the same record tells: it differs in one bit of the random part.
    #[must_use]
    pub const fn twin(self) -> Self {
        Self(self.0 | 1 << 61)
    }

    /// The id of the packet at the second of the places that a record tells: it differs in the next bit.
    #[must_use]
    pub const fn onward(self) -> Self {
        Self(self.0 | 1 << 60)
    }

    /// The text, without an allocation.
    #[must_use]
    pub fn text(self) -> [u8; Self::TEXT] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let (mut text, mut left) = ([b'-'; Self::TEXT], self.0);
        for (at, place) in text.iter_mut().enumerate().rev() {
            if !matches!(at, 8 | 13 | 18 | 23) {
                *place = DIGITS.get((left & 15) as usize).copied().unwrap_or_default();
                left >>= 4;
            }
        }
        text
    }
}

impl fmt::Display for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.text()).unwrap_or_default())
    }
}

/// The text is no UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a UUID such as 018f6b2c-8a3e-8c5d-8000-00000000002a")]
pub struct NotAnId;

impl FromStr for FlowId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let digits: String = text.split('-').collect();
        let plain = digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        let id = u128::from_str_radix(&digits, 16).ok().filter(|_| plain).map(Self).ok_or(NotAnId)?;
        if text.eq_ignore_ascii_case(&id.to_string()) { Ok(id) } else { Err(NotAnId) }
    }
}

impl Serialize for FlowId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FlowId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(|e| D::Error::custom(format!("{e}: {text:?}")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_id_is_a_uuid_of_version_8_and_reads_back(instance: u64, sequence in 0..1u64 << 60) {
            let id = FlowId::new(instance, sequence);
            let text = id.to_string();
            prop_assert_eq!((text.len(), &text[14..15], text.parse()), (36, "8", Ok(id)));
            prop_assert!(matches!(&text[19..20], "8" | "9"), "variant of RFC 9562: {}", text);
            let end = format!("{:012x}", sequence & 0xffff_ffff_ffff);
            prop_assert!(text.ends_with(&end));
            let twin = id.twin().to_string();
            prop_assert!(twin != text && matches!(&twin[19..20], "a" | "b"));
            let onward = id.onward().to_string();
            prop_assert!(onward != text && onward != twin && &onward[19..20] == "9");
            prop_assert_ne!(FlowId::new(instance, sequence + 1), id);
        }

        #[test]
        fn any_text_is_an_id_or_none(text in ".{0,40}") {
            if let Ok(id) = text.parse::<FlowId>() {
                prop_assert_eq!(id.to_string(), text.to_lowercase());
            }
        }
    }
}
