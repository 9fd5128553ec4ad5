//! Label and field selectors, in the grammar of `k8s.io/apimachinery`.

use std::collections::BTreeSet;

/// Longest text of a selector that is read.
const LONGEST: usize = 16 * 1024;

/// Requirements, all of which hold. Empty: everything is selected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector(Vec<Requirement>);

/// One requirement on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub test: Test,
}

/// What is asked of the label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    Exists,
    Missing,
    In(BTreeSet<String>),
    /// Also met by objects without the label.
    NotIn(BTreeSet<String>),
    Greater(i64),
    Less(i64),
}

impl Test {
    /// Whether a label of this value, or none, will do.
    #[must_use]
    pub fn holds(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|v| v.parse::<i64>().ok());
        match self {
            Self::Exists => value.is_some(),
            Self::Missing => value.is_none(),
            Self::In(values) => value.is_some_and(|v| values.contains(v)),
            Self::NotIn(values) => value.is_none_or(|v| !values.contains(v)),
            Self::Greater(than) => number().is_some_and(|n| n > *than),
            Self::Less(than) => number().is_some_and(|n| n < *than),
        }
    }
}

impl LabelSelector {
    /// Reads `a=b,c in (d,e),!f`. The error is a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > LONGEST {
            return Err(format!("a selector has at most {LONGEST} bytes"));
        }
        let mut words = Words { rest: text };
        let mut requirements = Vec::new();
        if words.peek() == Word::End {
            return Ok(Self(requirements));
        }
        loop {
            requirements.push(requirement(&mut words)?);
            match words.take() {
                Word::End => return Ok(Self(requirements)),
                Word::Sign(",") => {}
                other => return Err(format!("found {}, expected: ',' or the end", other.told())),
            }
        }
    }

    /// Whether labels, looked up by key, are selected.
    pub fn selects<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|r| r.test.holds(label(&r.key)))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn requirement(words: &mut Words<'_>) -> Result<Requirement, String> {
    let negated = words.peek() == Word::Sign("!");
    if negated {
        words.take();
    }
    let key = match words.take() {
        Word::Name(name) => name,
        other => return Err(format!("found {}, expected: a label's key", other.told())),
    };
    is_key(key)?;
    let key = key.to_owned();
    if negated {
        return Ok(Requirement { key, test: Test::Missing });
    }
    let test = match words.peek() {
        Word::End | Word::Sign(",") => return Ok(Requirement { key, test: Test::Exists }),
        _ => words.take(),
    };
    let test = match test {
        Word::Sign("=" | "==") => Test::In(one(words)?),
        Word::Sign("!=") => Test::NotIn(one(words)?),
        Word::Sign(sign @ (">" | "<")) => {
            let number = one(words)?.pop_first().unwrap_or_default();
            let number =
                number.parse().map_err(|_| format!("for '{sign}' the value must be an integer: {number:?}"))?;
            if sign == ">" { Test::Greater(number) } else { Test::Less(number) }
        }
        Word::Name("in") => Test::In(values(words)?),
        Word::Name("notin") => Test::NotIn(values(words)?),
        other => return Err(format!("found {}, expected: in, notin, =, ==, !=, > or <", other.told())),
    };
    Ok(Requirement { key, test })
}

/// The value of an equation, which may be empty.
fn one(words: &mut Words<'_>) -> Result<BTreeSet<String>, String> {
    let value = match words.peek() {
        Word::Name(value) => {
            words.take();
            value
        }
        Word::End | Word::Sign(",") => "",
        sign @ Word::Sign(_) => return Err(format!("found {}, expected: a value", sign.told())),
    };
    is_value(value)?;
    Ok([value.to_owned()].into())
}

/// `(a,b)`, each of which may be empty.
fn values(words: &mut Words<'_>) -> Result<BTreeSet<String>, String> {
    if words.take() != Word::Sign("(") {
        return Err("expected: '(' and values".to_owned());
    }
    let mut values = BTreeSet::new();
    loop {
        let mut word = words.take();
        let mut value = "";
        if let Word::Name(name) = word {
            (value, word) = (name, words.take());
        }
        is_value(value)?;
        values.insert(value.to_owned());
        match word {
            Word::Sign(",") => {}
            Word::Sign(")") => return Ok(values),
            other => return Err(format!("found {}, expected: ',' or ')'", other.told())),
        }
    }
}

/// `validation.IsQualifiedName`.
fn is_key(key: &str) -> Result<(), String> {
    let (prefix, name) = key.rsplit_once('/').map_or((None, key), |(p, n)| (Some(p), n));
    let of_prefix = |p: &str| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        !p.is_empty() && p.len() <= 253 && p.chars().all(inner)
    };
    if name.is_empty() || !is_word(name) || prefix.is_some_and(|p| !of_prefix(p)) {
        return Err(format!("{key:?} is no label's key"));
    }
    Ok(())
}

fn is_value(value: &str) -> Result<(), String> {
    if value.is_empty() || is_word(value) { Ok(()) } else { Err(format!("{value:?} is no label's value")) }
}

fn is_word(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    text.len() <= 63 && edge(text.chars().next()) && edge(text.chars().last()) && text.chars().all(inner)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word<'a> {
    Name(&'a str),
    Sign(&'a str),
    End,
}

impl Word<'_> {
    fn told(self) -> String {
        match self {
            Self::Name(text) | Self::Sign(text) => format!("'{text}'"),
            Self::End => "the end".to_owned(),
        }
    }
}

#[derive(Clone, Debug)]
struct Words<'a> {
    rest: &'a str,
}

impl<'a> Words<'a> {
    fn peek(&self) -> Word<'a> {
        self.clone().take()
    }

    fn take(&mut self) -> Word<'a> {
        const SIGNS: [&str; 9] = ["==", "!=", "=", "!", ",", "(", ")", ">", "<"];
        let rest = self.rest.trim_start();
        let sign = SIGNS.into_iter().find_map(|sign| Some((sign, rest.strip_prefix(sign)?)));
        if let Some((sign, rest)) = sign {
            self.rest = rest;
            return Word::Sign(sign);
        }
        let ends = |c: char| c.is_whitespace() || matches!(c, '=' | '!' | ',' | '(' | ')' | '>' | '<');
        let (word, rest) = rest.split_at(rest.find(ends).unwrap_or(rest.len()));
        self.rest = rest;
        if word.is_empty() { Word::End } else { Word::Name(word) }
    }
}

/// Equations on fields, all of which hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector(Vec<Equation>);

/// `field=value` or `field!=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Equation {
    pub field: String,
    pub value: String,
    pub equal: bool,
}

impl FieldSelector {
    /// Reads `metadata.name=a,status.node!=b`; in values `\`, `,` and `=` are escaped by `\`. `known`: whether objects
    /// have the field.
    pub fn parse(text: &str, known: impl Fn(&str) -> bool) -> Result<Self, String> {
        if text.len() > LONGEST {
            return Err(format!("a selector has at most {LONGEST} bytes"));
        }
        let terms = split(text).into_iter().filter(|t| !t.is_empty());
        let read = terms.map(|term| {
            let at = term.find(['=', '!']);
            let at = at.ok_or_else(|| format!("invalid field selector {term:?}: expected field=value"))?;
            let (field, rest) = term.split_at(at);
            let equal = !rest.starts_with('!');
            let value = ["==", "!=", "="].into_iter().find_map(|sign| rest.strip_prefix(sign));
            let value = value.ok_or_else(|| format!("invalid field selector {term:?}: expected field=value"))?;
            if !known(field) {
                return Err(format!("field label not supported: {field}"));
            }
            Ok(Equation { field: field.to_owned(), value: unescaped(value)?, equal })
        });
        Ok(Self(read.collect::<Result<_, _>>()?))
    }

    /// Whether fields, looked up by name, are selected. A field that the object lacks is empty.
    pub fn selects(&self, field: impl Fn(&str) -> Option<String>) -> bool {
        self.0.iter().all(|e| (field(&e.field).unwrap_or_default() == e.value) == e.equal)
    }

    /// The value that the field must have, if one is named.
    #[must_use]
    pub fn exactly(&self, field: &str) -> Option<&str> {
        self.0.iter().find(|e| e.equal && e.field == field).map(|e| e.value.as_str())
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Parts between commas that are not escaped.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut from, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.extend(text.get(from..at));
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.extend(text.get(from..));
    parts
}

fn unescaped(value: &str) -> Result<String, String> {
    let (mut out, mut chars) = (String::with_capacity(value.len()), value.chars());
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                other => {
                    return Err(format!("invalid field selector: invalid escape sequence \\{}", other.unwrap_or(' ')));
                }
            },
            '=' | ',' => return Err(format!("invalid field selector: unescaped {c:?} in value {value:?}")),
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
