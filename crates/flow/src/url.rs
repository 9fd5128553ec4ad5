//! A query as the part of a URL behind the question mark: `pod=shop/web&verdict=DROPPED&not.port=53&last=20`.
//!
//! Each field of the filter is a parameter of its name, once for each value; those of `not` have `not.` before them.

use serde_json::{Map, Value};

use crate::{
    spec::{FieldError, FilterSpec},
    stream::Query,
};

const NOT: &str = "not.";
/// How deep "not" may nest: more than anyone writes, and no depth of recursion that a peer could choose.
const DEPTH: usize = 8;

impl Query {
    /// The parameters, percent-encoded.
    #[must_use]
    pub fn to_url(&self) -> String {
        let mut out = form_urlencoded::Serializer::new(String::new());
        append(&mut out, "", &self.filter);
        if let Some(last) = self.last {
            out.append_pair("last", &last.to_string());
        }
        if self.follow {
            out.append_pair("follow", "true");
        }
        for (name, time) in [("since", self.since), ("until", self.until)] {
            if let Some(time) = time {
                out.append_pair(name, &time.to_string());
            }
        }
        out.finish()
    }

    /// The query of percent-encoded parameters. Values of the filter are judged when a reader is opened; here only that
    /// there are such parameters.
    pub fn from_url(text: &str) -> Result<Self, FieldError> {
        let mut query = Self::default();
        let mut filter = Vec::new();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            let time =
                || value.parse().map_err(|_| bad(&name, &value, "not a time", "use RFC 3339, as 2026-11-21T14:00:00Z"));
            match &*name {
                "last" => {
                    query.last = Some(value.parse().map_err(|_| bad(&name, &value, "not a number", "use 0 or more"))?);
                }
                "follow" => query.follow = truth(&name, &value)?,
                "since" => query.since = Some(time()?),
                "until" => query.until = Some(time()?),
                _ => filter.push((name, value)),
            }
        }
        query.filter = FilterSpec::from_pairs(filter.iter().map(|(n, v)| (&**n, &**v)))?;
        Ok(query)
    }
}

impl FilterSpec {
    /// The filter of `(field, value)` pairs, `not.field` included. Values are judged by [`FilterSpec::parse`]; here only
    /// that there are such fields.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, FieldError> {
        let mut filter = Map::new();
        for (name, value) in pairs {
            let place = place(&mut filter, name);
            match name.rsplit('.').next() {
                Some("reply") => *place = truth(name, value)?.into(),
                _ => push(place, value),
            }
        }
        serde_json::from_value(Value::Object(filter)).map_err(|e| {
            // serde says: unknown field `colour`, expected one of `pod`, `from_pod`, …
            let text = e.to_string();
            let mut names = text.split('`').skip(1).step_by(2);
            let field = names.next().unwrap_or_default();
            bad(field, "", "no such filter", &format!("use one of {}", names.collect::<Vec<_>>().join(", ")))
        })
    }
}

fn truth(name: &str, value: &str) -> Result<bool, FieldError> {
    value.parse().map_err(|_| bad(name, value, "not a truth value", "use true or false"))
}

fn bad(name: &str, value: &str, problem: &str, choices: &str) -> FieldError {
    FieldError { field: name.into(), value: value.into(), problem: problem.into(), choices: choices.into() }
}

fn append(out: &mut form_urlencoded::Serializer<'_, String>, prefix: &str, filter: &FilterSpec) {
    let Ok(Value::Object(fields)) = serde_json::to_value(FilterSpec { not: None, ..filter.clone() }) else { return };
    for (name, value) in fields {
        match value {
            Value::Array(values) => {
                for v in values.iter().filter_map(Value::as_str) {
                    out.append_pair(&format!("{prefix}{name}"), v);
                }
            }
            other => {
                out.append_pair(&format!("{prefix}{name}"), &other.to_string());
            }
        }
    }
    if let Some(not) = &filter.not {
        append(out, &format!("{prefix}{NOT}"), not);
    }
}

/// Where a parameter stands in the filter's JSON, made if it was not there. A "not" deeper than [`DEPTH`] is no field.
fn place<'a>(mut filter: &'a mut Map<String, Value>, mut name: &str) -> &'a mut Value {
    for _ in 0..DEPTH {
        let Some(inner) = name.strip_prefix(NOT) else { break };
        match filter.entry("not").or_insert_with(|| Value::Object(Map::new())) {
            Value::Object(not) => filter = not,
            // somebody wrote "not=…", which no filter is
            other => return other,
        }
        name = inner;
    }
    filter.entry(name).or_insert(Value::Null)
}

fn push(place: &mut Value, value: &str) {
    match place {
        Value::Array(values) => values.push(value.into()),
        other => *other = Value::Array(vec![value.into()]),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{filter::tests::arbitrary_spec, time::Time};

    proptest! {
        #[test]
        fn a_query_comes_back_from_its_url(
            spec in arbitrary_spec(),
            not in proptest::option::of(arbitrary_spec()),
            last in any::<Option<u64>>(),
            follow in any::<bool>(),
            since in any::<Option<u64>>(),
            until in any::<Option<u64>>(),
        ) {
            // an empty "not" says nothing and is not written
            let not = not.filter(|n| *n != FilterSpec::default()).map(Box::new);
            let filter = FilterSpec { not, ..spec };
            let query = Query { filter, last, follow, since: since.map(Time), until: until.map(Time) };
            prop_assert_eq!(Query::from_url(&query.to_url()).unwrap(), query);
        }

        #[test]
        fn any_text_is_a_query_or_an_error(text in ".{0,60}", name in "(not\\.){0,3}[a-z_]{0,12}", value in ".{0,12}") {
            let _ = Query::from_url(&text);
            let _ = Query::from_url(&format!("{name}={value}&{name}={text}"));
        }
    }

    #[test]
    fn bad_parameters_are_named() {
        let error = |url: &str| Query::from_url(url).unwrap_err().to_string();
        assert_eq!(error("last=many"), r#"last: "many": not a number; use 0 or more"#);
        assert_eq!(error("follow=yes"), r#"follow: "yes": not a truth value; use true or false"#);
        assert!(error("since=now").contains("RFC 3339"));
        assert!(error(&format!("{}pod=a", "not.".repeat(10_000))).contains("no such filter"));
        assert!(error("not=a&not.pod=b").contains("no such filter"));
        assert!(error("prot=tcp").starts_with("prot: \"\": no such filter; use one of pod, from_pod, "));
    }

    #[test]
    fn it_reads_like_a_filter() {
        let filter = FilterSpec {
            pod: vec!["shop/web".into(), "ops/".into()],
            not: Some(Box::new(FilterSpec { label: vec!["app in (a, b)".into()], ..FilterSpec::default() })),
            ..FilterSpec::default()
        };
        let query = Query { filter, last: Some(5), follow: true, ..Query::default() };
        assert_eq!(query.to_url(), "pod=shop%2Fweb&pod=ops%2F&not.label=app+in+%28a%2C+b%29&last=5&follow=true");
    }
}
