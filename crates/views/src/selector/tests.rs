use std::collections::BTreeMap;

use proptest::{collection as many, prelude::*};

use super::*;

fn selects(selector: &str, labels: &[(&str, &str)]) -> bool {
    let labels: BTreeMap<&str, &str> = labels.iter().copied().collect();
    LabelSelector::parse(selector).unwrap().selects(|k| labels.get(k).copied())
}

#[test]
fn label_selectors_mean_what_they_mean_to_kubernetes() {
    let web = [("app", "web"), ("example.com/tier", "front"), ("rank", "7"), ("empty", "")];
    for selector in [
        "",
        " ",
        "app",
        "app=web",
        "app==web",
        " app = web , rank",
        "app in (web,db)",
        "app in (web)",
        "app notin (db)",
        "none notin (db)",
        "none!=x",
        "!none",
        "! none",
        "example.com/tier=front",
        "rank>6",
        "rank<8,rank>0",
        "empty=",
        "empty in ()",
        "empty in (,x)",
        "app!=db,!none,rank",
    ] {
        assert!(selects(selector, &web), "{selector:?}");
    }
    for selector in
        ["none", "app=db", "app!=web", "!app", "app notin (web,db)", "none in (x)", "rank>7", "app>1", "none="]
    {
        assert!(!selects(selector, &web), "{selector:?}");
    }
}

#[test]
fn what_is_no_label_selector_is_told_where_it_goes_wrong() {
    for (selector, told) in [
        ("app=web,", "found the end, expected: a label's key"),
        (",", "found ',', expected: a label's key"),
        ("app web", "found 'web', expected: in, notin"),
        ("app in web", "expected: '('"),
        ("app in (web", "found the end, expected: ',' or ')'"),
        ("!app=web", "found '=', expected: ',' or the end"),
        ("rank>x", "must be an integer"),
        ("a/b/c", "is no label's key"),
        ("-app", "is no label's key"),
        ("app=-web", "is no label's value"),
        ("app=we b", "found 'b'"),
    ] {
        let error = LabelSelector::parse(selector).unwrap_err();
        assert!(error.contains(told), "{selector:?}: {error}");
    }
    assert!(LabelSelector::parse(&"a,".repeat(LONGEST)).is_err());
}

fn fields(selector: &str, values: &[(&str, &str)]) -> Result<bool, String> {
    let values: BTreeMap<&str, &str> = values.iter().copied().collect();
    let selector = FieldSelector::parse(selector, |f| ["metadata.name", "status.node"].contains(&f))?;
    Ok(selector.selects(|f| values.get(f).map(|v| (*v).to_owned())))
}

#[test]
fn field_selectors_compare_and_unescape() {
    let pod = [("metadata.name", "a,b"), ("status.node", "n1")];
    assert_eq!(fields("", &pod), Ok(true));
    assert_eq!(fields("status.node=n1", &pod), Ok(true));
    assert_eq!(fields("status.node==n1,metadata.name=a\\,b", &pod), Ok(true));
    assert_eq!(fields("status.node!=n1", &pod), Ok(false));
    assert_eq!(fields("status.node=", &pod), Ok(false));
    for (selector, told) in [
        ("spec.node=n1", "field label not supported: spec.node"),
        ("status.node", "expected field=value"),
        ("status.node!n1", "expected field=value"),
        ("status.node=a=b", "unescaped"),
        ("status.node=a\\b", "invalid escape"),
    ] {
        let error = fields(selector, &pod).unwrap_err();
        assert!(error.contains(told), "{selector:?}: {error}");
    }
    let named = FieldSelector::parse("metadata.name=x", |_| true).unwrap();
    assert_eq!((named.exactly("metadata.name"), named.exactly("status.node")), (Some("x"), None));
}

/// A requirement with the text that says it.
fn requirement() -> impl Strategy<Value = (Requirement, String)> {
    let values = many::btree_set("[a-c]{0,2}", 1..3);
    ("[a-c]", 0..6u8, values, -2..3i64).prop_map(|(key, form, values, number)| {
        let listed = values.iter().cloned().collect::<Vec<_>>().join(", ");
        let (test, text) = match form {
            0 => (Test::Exists, key.clone()),
            1 => (Test::Missing, format!("!{key}")),
            2 => (Test::In(values), format!("{key} in ({listed})")),
            3 => (Test::NotIn(values), format!("{key} notin ({listed})")),
            4 if number >= 0 => (Test::Greater(number), format!("{key}>{number}")),
            _ => {
                let first = values.first().cloned().unwrap_or_default();
                (Test::NotIn([first.clone()].into()), format!("{key} != {first}"))
            }
        };
        (Requirement { key, test }, text)
    })
}

proptest! {
    #[test]
    fn a_selector_that_is_written_is_read_as_it_was_meant(
        requirements in many::vec(requirement(), 0..5),
        labels in many::btree_map("[a-c]", "[a-c0-3]{0,2}", 0..4),
    ) {
        let text = requirements.iter().map(|(_, t)| t.as_str()).collect::<Vec<_>>().join(",");
        let read = LabelSelector::parse(&text).unwrap();
        prop_assert_eq!(&read.0, &requirements.iter().map(|(r, _)| r.clone()).collect::<Vec<_>>());
        // by the words of the API's documentation, one requirement after the other
        let expected = requirements.iter().all(|(r, _)| {
            let value = labels.get(&r.key);
            match &r.test {
                Test::Exists => value.is_some(),
                Test::Missing => value.is_none(),
                Test::In(set) => value.is_some_and(|v| set.contains(v)),
                Test::NotIn(set) => !value.is_some_and(|v| set.contains(v)),
                Test::Greater(n) => value.and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v > *n),
                Test::Less(n) => value.and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v < *n),
            }
        });
        prop_assert_eq!(read.selects(|k| labels.get(k).map(String::as_str)), expected);
    }

    #[test]
    fn no_text_is_too_much(text in "(\\PC|[a-z=!,()<>\\\\ ]){0,60}") {
        if let Ok(selector) = LabelSelector::parse(&text) {
            let _ = selector.selects(|_| None);
        }
        let _ = FieldSelector::parse(&text, |_| true);
    }
}
