//! Patterns of names with `*`, as filters by DNS name and node have them.
//!
//! `*` stands for any letters, digits, `-` and `.`; a pattern is compared in lower case and without a dot at its end.

use std::fmt::Write as _;

use regex::{Regex, RegexBuilder};

/// Bytes that a compiled expression may take.
const REGEX_LIMIT: usize = 1 << 20;

/// Any DNS name, with underscores.
const ANY_NAME: &str = r"(?:[-0-9_a-z]+(?:\.[-0-9_a-z]+)*)";

/// A regular expression of a client. It is matched in linear time and within bounded memory.
pub(super) fn regex(text: &str) -> Result<Regex, String> {
    RegexBuilder::new(text).size_limit(REGEX_LIMIT).build().map_err(|e| e.to_string())
}

/// One expression for all of the patterns.
pub(super) fn names(patterns: &[String]) -> Result<Regex, (String, String)> {
    alternatives(patterns, name)
}

/// `node`, `cluster/node`, `cluster/`; a name without a cluster is one of any cluster.
pub(super) fn node_names(patterns: &[String]) -> Result<Regex, (String, String)> {
    alternatives(patterns, |pattern| {
        let part = |text: &str| if text.is_empty() { Ok(ANY_NAME.to_owned()) } else { name(text) };
        match *pattern.split('/').collect::<Vec<_>>() {
            _ if pattern.is_empty() => Err("empty pattern".to_owned()),
            [node] => Ok(format!("{ANY_NAME}/{}", part(node)?)),
            [cluster, node] => Ok(format!("{}/{}", part(cluster)?, part(node)?)),
            _ => Err("more than one slash; use cluster/node".to_owned()),
        }
    })
}

fn alternatives(
    patterns: &[String],
    translate: impl Fn(&str) -> Result<String, String>,
) -> Result<Regex, (String, String)> {
    let mut all = String::from(r"\A(?:");
    for (n, pattern) in patterns.iter().enumerate() {
        let translated = translate(pattern).map_err(|what| (pattern.clone(), what))?;
        let _ = write!(all, "{}{translated}", if n > 0 { "|" } else { "" });
    }
    all.push_str(r")\z");
    regex(&all).map_err(|what| (patterns.join(" "), what))
}

fn name(pattern: &str) -> Result<String, String> {
    let pattern = pattern.trim().to_lowercase();
    let pattern = pattern.strip_suffix('.').unwrap_or(&pattern);
    if pattern.is_empty() {
        return Err("empty pattern".to_owned());
    }
    if pattern.ends_with('.') {
        return Err("more than one dot at the end".to_owned());
    }
    let mut out = String::new();
    for c in pattern.chars() {
        match c {
            '.' => out.push_str(r"\."),
            '*' => out.push_str("[-.0-9a-z]*"),
            '-' | '_' | '0'..='9' | 'a'..='z' => out.push(c),
            other => return Err(format!("{other:?} is not for names; use letters, digits, -, _, . and *")),
        }
    }
    Ok(out)
}
