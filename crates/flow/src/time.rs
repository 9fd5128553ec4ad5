//! Wall-clock instants as Hubble writes them.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Nanoseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// RFC 3339 in UTC or with an offset (`2026-11-21T14:00:00.123Z`). None for anything else and before 1970.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let t: jiff::Timestamp = text.parse().ok()?;
        u64::try_from(t.as_nanosecond()).ok().map(Self)
    }

    /// `Nov 21 14:00:00.123`, in UTC: the form of lines for people.
    #[must_use]
    pub fn stamp(self) -> String {
        format!("{}.{:03}", self.timestamp().strftime("%b %e %H:%M:%S"), self.0 / 1_000_000 % 1000)
    }

    fn timestamp(self) -> jiff::Timestamp {
        // u64 nanoseconds end in 2554, jiff in 9999
        jiff::Timestamp::from_nanosecond(i128::from(self.0)).unwrap_or(jiff::Timestamp::MAX)
    }
}

/// RFC 3339 with 0, 3, 6 or 9 digits of fraction, as the JSON form of protobuf's Timestamp has it.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.timestamp().strftime("%Y-%m-%dT%H:%M:%S"))?;
        match self.0 % 1_000_000_000 {
            0 => {}
            n if n % 1_000_000 == 0 => write!(f, ".{:03}", n / 1_000_000)?,
            n if n % 1000 == 0 => write!(f, ".{:06}", n / 1000)?,
            n => write!(f, ".{n:09}")?,
        }
        f.write_str("Z")
    }
}

impl std::str::FromStr for Time {
    type Err = NotATime;

    fn from_str(text: &str) -> Result<Self, NotATime> {
        Self::parse(text).ok_or(NotATime)
    }
}

/// The text is no RFC 3339 time after 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 3339 time after 1970")]
pub struct NotATime;

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom(format!("not an RFC 3339 time after 1970: {text:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_have_the_digits_of_protobuf() {
        for (ns, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_000_000_000, "1970-01-01T00:00:01Z"),
            (1_120_000_000, "1970-01-01T00:00:01.120Z"),
            (1_000_001_000, "1970-01-01T00:00:01.000001Z"),
            (1_000_000_001, "1970-01-01T00:00:01.000000001Z"),
        ] {
            assert_eq!(Time(ns).to_string(), text);
            assert_eq!(Time::parse(text), Some(Time(ns)));
        }
        assert_eq!(Time::parse("yesterday"), None);
        assert_eq!(Time::parse("1960-01-01T00:00:00Z"), None);
    }

    #[test]
    fn every_number_is_a_time() {
        assert_eq!(Time(u64::MAX).to_string(), "2554-07-21T23:34:33.709551615Z");
        assert_eq!(Time(1_795_269_600_123_000_000).stamp(), "Nov 21 14:00:00.123");
    }
}
