//! How much of a pod's traffic passes: the annotations [`INGRESS`] and [`EGRESS`] of a pod.
//!
//! Their value is a quantity of Kubernetes in bits a second: `10M` are ten million, `1Gi` are 2^30. Kubernetes takes from
//! 1k to 1P (kubernetes/pkg/util/bandwidth), and so is it here. A value that is none is no limit, and is told
//! ([`problems`]): a pod without network for a misspelt wish would be worse, and who may write the pod may take the wish
//! off it anyway.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::world::PlainLabels;

/// To the pod.
pub const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
/// From the pod.
pub const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// Cilium's classes of pods whose packets go before others' (`guaranteed`, `burstable`, `bestEffort`). Not enforced, and
/// told.
pub const PRIORITY: &str = "bandwidth.cilium.io/priority";

/// Whether an annotation of a pod is read here.
#[must_use]
pub fn is_read(annotation: &str) -> bool {
    [INGRESS, EGRESS, PRIORITY].contains(&annotation)
}

/// Bits a second.
const LEAST: u128 = 1_000;
const MOST: u128 = 1_000_000_000_000_000;
/// Digits that a number can have: more than any that is in range needs.
const DIGITS: usize = 27;

/// What passes at most, in bytes a second with link-layer headers. 0: as much as comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Bandwidth {
    pub ingress: u64,
    pub egress: u64,
}

impl Bandwidth {
    /// What a pod's annotations say. A value that cannot be read is no limit.
    #[must_use]
    pub fn of(annotations: &PlainLabels) -> Self {
        let of = |name| annotations.get(name).and_then(|v| parse(v).ok()).unwrap_or(0);
        Self { ingress: of(INGRESS), egress: of(EGRESS) }
    }

    /// Whether there is any limit.
    #[must_use]
    pub const fn is_some(&self) -> bool {
        self.ingress != 0 || self.egress != 0
    }
}

/// What is wrong with a pod's annotations about bandwidth, each by name. Empty: nothing.
#[must_use]
pub fn problems(annotations: &PlainLabels) -> Vec<String> {
    let value = |name: &str| annotations.get(name).map(Arc::as_ref);
    let mut out: Vec<String> = [INGRESS, EGRESS]
        .into_iter()
        .filter_map(|name| {
            let wrong = parse(value(name)?).err()?;
            Some(format!("metadata.annotations[{name}]: {:?}: {wrong}: the pod has no such limit", value(name)?))
        })
        .collect();
    out.extend(value(PRIORITY).map(|v| {
        format!("metadata.annotations[{PRIORITY}]: {v:?}: not enforced: pods can have limits, no priorities")
    }));
    out
}

/// Why a quantity is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Not a number with a suffix.
    Form,
    /// Less than a kilobit.
    Small,
    /// More than a petabit.
    Large,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => "must be a quantity of bits a second, as 10M, 1.5G or 512Ki",
            Self::Small => "must be at least 1k (bits a second)",
            Self::Large => "must be at most 1P (bits a second)",
        })
    }
}

/// Bytes a second of a quantity in bits a second: of bits, a part of one counts as one; of bytes, it does not (as in
/// Kubernetes and Cilium).
///
/// # Errors
/// It is not a quantity (apimachinery/pkg/api/resource), or out of range.
pub fn parse(text: &str) -> Result<u64, Wrong> {
    let bits = bits(text)?;
    match bits {
        ..LEAST => Err(Wrong::Small),
        LEAST..=MOST => u64::try_from(bits / 8).map_err(|_| Wrong::Large),
        _ => Err(Wrong::Large),
    }
}

/// `<sign><digits>.<digits><suffix>`: one of the numbers of digits may be zero, the suffix may be empty.
fn bits(text: &str) -> Result<u128, Wrong> {
    let negative = text.starts_with('-');
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && part.is_empty()) || part.contains('.') {
        return Err(Wrong::Form);
    }
    let (binary, decimal) = scale(suffix).ok_or(Wrong::Form)?;
    let (whole, part) = (whole.trim_start_matches('0'), part.trim_end_matches('0'));
    if negative {
        return Err(Wrong::Small);
    }
    let digits = format!("{whole}{part}");
    if digits.is_empty() {
        return Ok(0);
    }
    if digits.len() > DIGITS {
        return Err(Wrong::Form);
    }
    let mantissa: u128 = digits.parse().map_err(|_| Wrong::Form)?;
    let places = decimal - i64::try_from(part.len()).unwrap_or(i64::MAX);
    Ok(scaled(mantissa, binary, places))
}

/// `mantissa * 2^binary * 10^places`, rounded up; what is far too large is some number that is too large.
fn scaled(mantissa: u128, binary: u32, places: i64) -> u128 {
    let power = |n: i64| u32::try_from(n).ok().and_then(|n| 10u128.checked_pow(n));
    let Some(mantissa) = mantissa.checked_mul(1 << binary) else { return u128::MAX };
    if places >= 0 {
        power(places).and_then(|p| mantissa.checked_mul(p)).unwrap_or(u128::MAX)
    } else {
        power(-places).map_or(1, |p| mantissa.div_ceil(p))
    }
}

/// Powers of 2 and of 10 of a suffix.
fn scale(suffix: &str) -> Option<(u32, i64)> {
    Some(match suffix {
        "" => (0, 0),
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            let good = !digits.is_empty() && digits.len() <= 9 && digits.bytes().all(|b| b.is_ascii_digit());
            (0, exponent.parse().ok().filter(|_| good)?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_bits_and_limits_are_bytes() {
        for (text, bytes) in [
            ("10M", 1_250_000),
            ("1G", 125_000_000),
            ("1.5M", 187_500),
            (".5M", 62_500),
            ("5.M", 625_000),
            ("+1k", 125),
            ("1000", 125),
            ("1e3", 125),
            ("1E3", 125),
            ("1e+3", 125),
            ("10000e-1", 125),
            ("1Ki", 128),
            ("1Mi", 131_072),
            ("1P", 125_000_000_000_000),
            ("0.001P", 125_000_000_000),
            ("0000000000000000000000000000000000000001k", 125),
            ("1000000m", 125),
            // a part of a bit is one, a part of a byte is none
            ("999999.1m", 125),
            ("1007", 125),
            ("1008", 126),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_bandwidth_is_told_as_such() {
        for text in [
            "",
            "M",
            "ten",
            "10 M",
            " 10M",
            "10MB",
            "10Mbit",
            "1.2.3",
            "--1",
            "1e",
            "1e+",
            "1K",
            "1ki",
            "1e1M",
            ".",
            "1e9999999999",
        ] {
            assert_eq!(parse(text), Err(Wrong::Form), "{text:?}");
        }
        for text in ["0", "0M", "999", "-10M", "1n", "1m", "1e-999999999", "0.9k"] {
            assert_eq!(parse(text), Err(Wrong::Small), "{text}");
        }
        for text in ["1.1P", "1E", "1Pi", "1e16", "1e999999999", "9Ei"] {
            assert_eq!(parse(text), Err(Wrong::Large), "{text}");
        }
    }

    #[test]
    fn each_direction_is_read_and_told_by_itself() {
        let annotated = |list: &[(&str, &str)]| -> PlainLabels {
            list.iter().map(|(k, v)| (Arc::from(*k), Arc::from(*v))).collect()
        };
        let both = annotated(&[(INGRESS, "8M"), (EGRESS, "16M")]);
        assert_eq!(Bandwidth::of(&both), Bandwidth { ingress: 1_000_000, egress: 2_000_000 });
        assert!(problems(&both).is_empty());
        let half = annotated(&[(INGRESS, "8M"), (EGRESS, "fast"), (PRIORITY, "guaranteed")]);
        assert_eq!(Bandwidth::of(&half), Bandwidth { ingress: 1_000_000, egress: 0 });
        let [egress, priority] = problems(&half).try_into().unwrap();
        assert!(egress.contains("[kubernetes.io/egress-bandwidth]: \"fast\": must be a quantity"), "{egress}");
        assert!(priority.contains("[bandwidth.cilium.io/priority]: \"guaranteed\": not enforced"), "{priority}");
        assert!(!Bandwidth::of(&PlainLabels::new()).is_some());
    }
}
