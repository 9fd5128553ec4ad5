use proptest::prelude::*;

use super::*;
use crate::kinds::{Endpoint, View as _};

const BASE: &str = "/apis/views.axoneme.io/v1alpha1";

fn target(text: &str) -> Target {
    match path(&format!("{BASE}{text}")).unwrap() {
        Path::Resource(target) => target,
        other => panic!("{other:?}"),
    }
}

#[test]
fn paths_lead_where_the_api_conventions_say() {
    let of = |t: &str| {
        let t = target(t);
        (t.resource.plural, t.namespace.as_deref().map(str::to_owned), t.name.as_deref().map(str::to_owned))
    };
    let text = |t: &str| Some(t.to_owned());
    assert_eq!(of("/endpoints"), ("endpoints", None, None));
    assert_eq!(of("/namespaces/shop/endpoints/"), ("endpoints", text("shop"), None));
    assert_eq!(of("/namespaces/shop/endpoints/web-1"), ("endpoints", text("shop"), text("web-1")));
    assert_eq!(of("/identities/4711"), ("identities", None, text("4711")));
    assert_eq!(of("/namespaces/sh%6fp/endpoints"), ("endpoints", text("shop"), None));
    for wrong in [
        "/endpoints/web",
        "/namespaces/shop/identities",
        "/namespaces/shop/nodes/n",
        "/pods",
        "/namespaces//endpoints",
        "/namespaces/shop",
        "/endpoints/a/b/c",
        "/watch/endpoints",
        "/nodes/..%2f..",
        "/nodes/%ff",
        "/nodes/a%00",
    ] {
        assert!(path(&format!("{BASE}{wrong}")).is_err(), "{wrong}");
    }
    for wrong in ["", "/", "//", "apis", "/apis/other.io", "/api/v1", "/apis/views.axoneme.io/v1"] {
        assert!(path(wrong).is_err(), "{wrong}");
    }
    for right in ["/apis", "/apis/", "/apis/views.axoneme.io", BASE, "/openapi/v2", "/openapi/v3", "/readyz"] {
        assert!(path(right).is_ok(), "{right}");
    }
}

fn begin(query_text: &str) -> Result<Begin, String> {
    match query(&target("/endpoints"), query_text).map_err(|e| format!("{} {}", e.code.as_u16(), e.message))?.what {
        What::Watch { begin, .. } => Ok(begin),
        What::List { .. } => Err("a list".to_owned()),
    }
}

#[test]
fn a_watch_begins_where_its_version_says() {
    assert_eq!(begin("watch=true"), Ok(Begin::State { told: false }));
    assert_eq!(begin("watch=1&resourceVersion=0"), Ok(Begin::State { told: false }));
    assert_eq!(begin("watch=true&resourceVersion=42&allowWatchBookmarks=true"), Ok(Begin::Behind(42)));
    let initial = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
    assert_eq!(begin(initial), Ok(Begin::State { told: false }), "nobody asked for bookmarks");
    assert_eq!(begin(&format!("{initial}&allowWatchBookmarks=1&resourceVersion=42")), Ok(Begin::State { told: true }));
    let none = "watch=true&sendInitialEvents=false&resourceVersionMatch=NotOlderThan";
    assert_eq!(begin(none), Ok(Begin::Now));
    assert_eq!(begin(&format!("{none}&resourceVersion=42")), Ok(Begin::Behind(42)));
    for (wrong, code) in [
        ("watch=true&sendInitialEvents=true", "422"),
        ("watch=true&sendInitialEvents=true&resourceVersionMatch=Exact", "422"),
        ("watch=true&resourceVersionMatch=NotOlderThan", "422"),
        ("watch=true&resourceVersion=x", "400"),
        ("watch=true&resourceVersion=-1", "400"),
        ("watch=true&timeoutSeconds=x", "400"),
        ("watch=false", "a list"),
    ] {
        assert!(begin(wrong).is_err_and(|e| e.starts_with(code)), "{wrong}: {:?}", begin(wrong));
    }
}

#[test]
fn a_watch_ends_when_it_is_asked_to_and_in_half_an_hour_at_the_latest() {
    for (text, seconds) in
        [("timeoutSeconds=7", 7), ("timeoutSeconds=0", 1800), ("timeoutSeconds=99999999", 1800), ("", 1800)]
    {
        let What::Watch { timeout, .. } = query(&target("/nodes"), &format!("watch=true&{text}")).unwrap().what else {
            panic!("{text}")
        };
        assert_eq!(timeout.as_secs(), seconds, "{text}");
    }
}

#[test]
fn lists_refuse_what_contradicts_itself() {
    let key: crate::kinds::Key = ("a".into(), "b".into());
    let token = Token::new(Endpoint::resource().plural, 9, &key).text();
    let list = |text: &str| query(&target("/endpoints"), text).map_err(|e| e.code.as_u16());
    for (good, expected) in [
        ("", (0, None)),
        ("limit=500", (500, None)),
        ("resourceVersion=0", (0, None)),
        ("resourceVersion=7&resourceVersionMatch=NotOlderThan", (0, None)),
        ("resourceVersion=7&resourceVersionMatch=Exact", (0, Some(7))),
    ] {
        let What::List { limit, exactly, .. } = list(good).unwrap().what else { panic!("{good}") };
        assert_eq!((limit, exactly), expected, "{good}");
    }
    assert!(list(&format!("continue={token}&limit=2&resourceVersion=0")).is_ok());
    for (wrong, code) in [
        ("limit=-1", 400),
        ("limit=x", 400),
        ("continue=x", 400),
        ("resourceVersionMatch=Exact", 422),
        ("resourceVersion=0&resourceVersionMatch=Exact", 422),
        ("resourceVersion=7&resourceVersionMatch=Odd", 422),
        ("labelSelector=%2C", 400),
        ("fieldSelector=spec.x%3D1", 400),
        ("includeObject=All", 400),
        (&*format!("continue={token}&resourceVersion=7"), 400),
        (&*format!("continue={token}&resourceVersion=7&resourceVersionMatch=Exact"), 422),
    ] {
        assert_eq!(list(wrong).err(), Some(code), "{wrong}");
    }
}

proptest! {
    #[test]
    fn no_path_and_no_query_is_too_much(text in "(/|%|[a-z0-9.%]|\\PC){0,80}", asked in "(&|=|%|watch|limit|continue|\\PC){0,80}") {
        let _ = path(&text);
        let _ = path(&format!("{BASE}/{text}"));
        let _ = query(&target("/endpoints"), &asked);
        let _ = query(&target("/nodes"), &format!("watch=1&{asked}"));
    }
}
