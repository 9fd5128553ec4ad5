//! Values that are written as text, as in a ConfigMap.

use std::num::ParseIntError;

use serde_json::Value;

use crate::{config::knob::Shape, field::Field};

/// The value that the text stands for.
pub(crate) fn value(field: &Field<'_>, shape: Shape, text: &str) -> Option<Value> {
    match shape {
        Shape::Flag => flag(field, text).map(Value::Bool),
        Shape::Number => number(field, text).map(Value::from),
        Shape::Seconds if text.bytes().all(|b| b.is_ascii_digit()) => number(field, text).map(Value::from),
        Shape::Seconds => {
            let seconds = go_seconds(text);
            if seconds.is_none() {
                field.invalid("must be a number of seconds, or a duration such as 2h13m20s");
            }
            seconds.map(Value::from)
        }
        // empty, as the Helm chart writes what is not set
        Shape::Text => Some(if text.is_empty() { Value::Null } else { text.into() }),
        Shape::List => {
            let items = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|item| !item.is_empty());
            Some(items.collect())
        }
        Shape::Json => match serde_json::from_str(text) {
            Ok(value) => Some(value),
            Err(error) => {
                field.invalid(format!("must be JSON: {error}"));
                None
            }
        },
    }
}

/// What Go's `strconv.ParseBool` takes, which reads the ConfigMap.
pub(crate) fn flag(field: &Field<'_>, text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => {
            field.invalid("must be \"true\" or \"false\"");
            None
        }
    }
}

fn number(field: &Field<'_>, text: &str) -> Option<i64> {
    let parsed: Result<i64, ParseIntError> = text.parse();
    if parsed.is_err() {
        field.invalid("must be a whole number");
    }
    parsed.ok()
}

/// Whole seconds of a duration as Go writes it, rounded up; none if it is none, or negative.
fn go_seconds(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (amount, tail) = rest.split_at_checked(digits)?;
        let letters = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(letters)?;
        nanos = nanos.checked_add(of_unit(amount, unit)?)?;
        rest = tail;
    }
    let seconds = u64::try_from(nanos.div_ceil(1_000_000_000)).ok()?;
    (!text.is_empty()).then_some(seconds)
}

/// Nanoseconds of a decimal number of the unit.
fn of_unit(amount: &str, unit: &str) -> Option<u128> {
    let nanos: u128 = match unit {
        "ns" => 1,
        "us" | "µs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = amount.split_once('.').unwrap_or((amount, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let part: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let scale = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    whole.checked_mul(nanos)?.checked_add(part.checked_mul(nanos)? / scale)
}

#[cfg(test)]
mod tests {
    use super::go_seconds;

    #[test]
    fn durations_are_those_of_go() {
        let cases = [
            ("2h13m20s", Some(8000)),
            ("60s", Some(60)),
            ("1.5h", Some(5400)),
            (".5m", Some(30)),
            ("1500ms", Some(2)),
            ("0s", Some(0)),
            ("", None),
            ("10", None),
            ("-1s", None),
            ("1d", None),
            ("1.2.3s", None),
            (".s", None),
            ("99999999999999999999999999999999999999h", None),
        ];
        for (text, seconds) in cases {
            assert_eq!(go_seconds(text), seconds, "{text:?}");
        }
    }
}
