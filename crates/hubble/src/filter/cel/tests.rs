//! Expressions against what the same question asked in Rust says, and against what hostile clients may send.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{super::tests::arbitrary_flow, *};

fn says(text: &str, flow: &pb::Flow) -> bool {
    let program = Program::compile(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    program.matches(&Subject::new(flow))
}

fn refused(text: &str) -> String {
    Program::compile(text).err().unwrap_or_else(|| panic!("{text}: taken"))
}

fn sample() -> pb::Flow {
    let end = |pod: &str, identity| pb::Endpoint {
        identity,
        namespace: "shop".into(),
        pod_name: pod.into(),
        labels: vec!["k8s:app=web".into(), "k8s:tier=front".into()],
        workloads: vec![pb::Workload { name: "web".into(), kind: "Deployment".into() }],
        ..pb::Endpoint::default()
    };
    let tcp = pb::Tcp {
        source_port: 40_000,
        destination_port: 80,
        flags: Some(pb::TcpFlags { syn: true, ..pb::TcpFlags::default() }),
    };
    pb::Flow {
        time: Some(prost_types::Timestamp { seconds: 1_795_269_600, nanos: 5 }),
        uuid: "u-1".into(),
        verdict: pb::Verdict::Dropped.into(),
        drop_reason_desc: pb::DropReason::PolicyDeny.into(),
        ip: Some(pb::Ip { source: "10.0.0.1".into(), destination: "10.0.0.2".into(), ..pb::Ip::default() }),
        l4: Some(pb::Layer4 { protocol: Some(pb::layer4::Protocol::Tcp(tcp)) }),
        source: Some(end("web-1", 300)),
        destination: Some(end("db-0", 301)),
        is_reply: Some(false),
        traffic_direction: pb::TrafficDirection::Ingress.into(),
        summary: "TCP Flags: SYN".into(),
        ..pb::Flow::default()
    }
}

#[test]
fn expressions_say_of_a_flow_what_its_fields_say() {
    let flow = sample();
    for (text, expected) in [
        ("true", true),
        ("_flow.verdict == Verdict.DROPPED", true),
        ("_flow.verdict == flow.Verdict.FORWARDED", false),
        ("_flow.verdict == 2", true),
        ("_flow.drop_reason_desc == DropReason.POLICY_DENY", true),
        ("_flow.traffic_direction != TrafficDirection.EGRESS", true),
        ("_flow.l4.TCP.destination_port == 80u", true),
        ("_flow.l4.TCP.destination_port == 80", true),
        ("_flow.l4.TCP.destination_port in [53u, 80u]", true),
        ("_flow.l4.TCP.destination_port in [53, 81]", false),
        ("_flow.l4.TCP.flags.SYN && !_flow.l4.TCP.flags.ACK", true),
        // what is not set reads as its default
        ("_flow.l4.UDP.destination_port == 0u", true),
        ("_flow.source_service.name == ''", true),
        ("has(_flow.l4.TCP) && !has(_flow.l4.UDP)", true),
        ("has(_flow.source_service)", false),
        ("has(_flow.source.pod_name) && !has(_flow.source.cluster_name)", true),
        ("_flow.source.labels.exists(l, l == 'k8s:app=web')", true),
        ("_flow.source.labels.all(l, l.startsWith('k8s:'))", true),
        ("_flow.source.labels.exists_one(l, l.endsWith('web'))", true),
        ("_flow.source.labels.filter(l, l.contains('tier')).size() == 1", true),
        ("_flow.source.labels.map(l, l + '!')[1] == 'k8s:tier=front!'", true),
        ("_flow.source.workloads.exists(w, w.kind == 'Deployment' && w.name == 'web')", true),
        ("'k8s:app=web' in _flow.source.labels", true),
        ("_flow.source.labels.exists(l, l in _flow.destination.labels)", true),
        ("size(_flow.source.labels) == 2 && _flow.source.labels.size() > 1", true),
        ("_flow.source.pod_name.matches('^web-[0-9]+$')", true),
        ("matches(_flow.source.pod_name, 'db') || matches(_flow.destination.pod_name, 'db')", true),
        ("_flow.source.identity < _flow.destination.identity", true),
        ("_flow.source.identity + 1u == _flow.destination.identity", true),
        ("_flow.source.namespace == _flow.destination.namespace", true),
        ("_flow.is_reply == false", true),
        ("_flow.is_reply", false),
        ("_flow.time > timestamp('2026-11-21T13:59:59Z')", true),
        ("_flow.time - timestamp('2026-11-21T14:00:00Z') < duration('1s')", true),
        ("_flow.time.getFullYear() == 2026", true),
        ("_flow.Summary == 'TCP Flags: SYN'", true),
        ("_flow.IP.source.startsWith('10.0.')", true),
        ("int(_flow.source.pod_name.size()) == 5 ? true : false", true),
        ("{'a': _flow.verdict}['a'] == 2", true),
        ("string(_flow.source.identity) == '300'", true),
        ("dyn(_flow.verdict) == 'DROPPED'", false),
        // those that fail on a flow do not match it, and a side that decides alone hides the other's failure
        ("_flow.source.labels[7] == ''", false),
        ("1 / (_flow.verdict - 2) == 1", false),
        ("_flow.source.labels[7] == '' || _flow.verdict == 2", true),
        ("[1, 2][_flow.verdict] == 1 || true", true),
        ("// what for\n_flow.verdict == 2", true),
    ] {
        assert_eq!(says(text, &flow), expected, "{text}");
    }
    assert!(!says("_flow.is_reply", &pb::Flow::default()), "null is not true");
    assert!(says("_flow.time == timestamp(0) && _flow.is_reply == null", &pb::Flow::default()));
}

#[test]
fn what_cannot_be_asked_is_refused_with_its_place() {
    for (text, words) in [
        ("", "at line 1"),
        ("_flow.verdict ==", "at line 1 character"),
        ("_flow.verdict == 'DROPPED", "at line 1 character"),
        ("_flow.sorce.pod_name == 'a'", "at character 6: Flow has no field \"sorce\""),
        ("_flow.source.pod == 'a'", "Endpoint has no field \"pod\""),
        ("has(_flow.source.pod)", "Endpoint has no field \"pod\""),
        ("_flow.source.workloads.exists(w, w.nam == 'a')", "Workload has no field \"nam\""),
        ("flow.verdict == 1", "at character 1: no such name: flow; the flow is _flow"),
        ("_flow.verdict == Verdict.DENIED", "no such name: Verdict"),
        ("_flow.verdict == 'DROPPED'", "== cannot be used with (int, string)"),
        ("_flow.source.labels == 'a'", "== cannot be used with (list(string), string)"),
        ("_flow.source == _flow.destination", "messages cannot be compared"),
        ("_flow.verdict", "gives a int"),
        ("_flow.source.labels", "gives a list(string)"),
        ("_flow.verdict && true", "&& cannot be used with (int, bool)"),
        ("_flow.source.pod_name.exists(c, c == 'a')", "a string has no elements"),
        ("_flow.source.labels.exists(l, l > 1)", "> cannot be used with (string, int)"),
        ("_flow.source.labels.exists(l, m == '')", "no such name: m"),
        ("_flow.source.pod_name.matches(_flow.source.namespace)", "must be a literal"),
        ("_flow.source.pod_name.matches('(')", "at character"),
        ("_flow.source.pod_name.matches('(a{1000}){1000}')", "size limit"),
        ("_flow.source.pod_name.lowerAscii() == 'a'", "no such function: lowerAscii"),
        ("_flow.source.pod_name.startsWith(1)", "startsWith cannot be used with (string, int)"),
        ("Flow{verdict: 1} == _flow", "messages cannot be made"),
        ("_flow.extensions.type_url == ''", "extensions cannot be read"),
        ("optional.none().hasValue()", "no such"),
        ("@pattern0 == 1", "at line 1"),
    ] {
        let said = refused(text);
        assert!(said.contains(words), "{text}: {said}");
    }
}

/// The interpreter is given no more than it was judged for: each of these would cost a node seconds, memory or its life.
#[test]
fn hostile_expressions_are_refused_soon_and_on_a_small_stack() {
    let nest = |open: &str, middle: &str, close: &str, n: usize| open.repeat(n) + middle + &close.repeat(n);
    let lets = |n: usize| nest("[x + x].exists(x, ", "x == ''", ")", n);
    let hostile = [
        "a".repeat(MAX_BYTES + 1),
        nest("(", "true", ")", 900),
        nest("[", "1", "]", 900) + " == 1",
        nest("{1: ", "1", "}", 400) + " == 1",
        nest("true ? (", "true", ") : false", 120),
        "true ? true : ".repeat(140) + "true",
        "1 + ".repeat(500) + "1 == 1",
        format!("_flow{}", ".source".repeat(250)),
        "true && ".repeat(250) + "1",
        nest("_flow.source.labels.exists(l, ", "true", ")", 3),
        nest("[1, 2, 3, 4, 5, 6, 7, 8, 9].all(x, ", "true", ")", 12),
        format!("['{}'].exists(x, {})", "a".repeat(500), lets(20)),
        "_flow.source.labels.map(l, _flow.source.labels).map(l, l + l).size() == 1".to_owned(),
        "// '\n".to_owned() + &nest("(", "true", ")", 900),
        r"r'\' + ".to_owned() + &nest("(", "true", ")", 900),
        "\u{0}\u{1b}[31m\u{202e}".repeat(60),
        nest("[", "", "", 2000),
        "}".repeat(2000),
        "'\\".repeat(900),
        "_flow.source.pod_name.matches('a') && ".repeat(40) + "true",
        "9223372036854775808 == 1".to_owned(),
    ];
    let judged = std::thread::Builder::new().stack_size(1 << 20).spawn(move || {
        for text in hostile {
            let began = Instant::now();
            let said = refused(&text);
            let (shown, took) = (&text[..text.floor_char_boundary(60)], began.elapsed());
            assert!(took < Duration::from_secs(2), "{shown}: {took:?}");
            assert!(said.len() < 400, "{shown}: {} bytes: {said}", said.len());
            assert!(!said.contains('\u{1b}'), "{shown}: {said:?}");
        }
    });
    judged.unwrap().join().unwrap();
    let slow = format!("_flow.uuid.matches('{}') || true", "(a*)*".repeat(300));
    for text in [slow, "!".repeat(1500) + "true", "-".repeat(1500) + "1 == 1", "true || ".repeat(200) + "true"] {
        let began = Instant::now();
        assert!(Program::compile(&text).is_ok_and(|p| p.matches(&Subject::new(&sample()))), "{}", &text[..20]);
        assert!(began.elapsed() < Duration::from_secs(2));
    }
}

/// The dearest that is taken, on a flow that has more than was thought.
#[test]
fn the_dearest_expressions_take_no_more_time_than_they_may() {
    let mut flow = sample();
    flow.source.as_mut().unwrap().labels = (0..64).map(|n| format!("k8s:label-{n}={}", "x".repeat(200))).collect();
    flow.destination.clone_from(&flow.source);
    let dear = [
        "_flow.source.labels.exists(l, l.matches('(x+x+)+y'))",
        "_flow.source.labels.all(l, l in _flow.destination.labels)",
        "_flow.source.labels.map(l, l + l).size() == 64",
        "_flow.source.labels.filter(l, l.contains('63')).exists(l, l.endsWith('x'))",
        "[1,2,3,4,5,6,7,8].exists(a, [1,2,3,4,5,6,7,8].exists(b, a * b == 65))",
    ];
    let subject = Subject::new(&flow);
    for text in dear {
        let program = Program::compile(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        let began = Instant::now();
        for _ in 0..10 {
            std::hint::black_box(program.matches(&subject));
        }
        // of a build without optimization, on a machine that does other things
        assert!(began.elapsed() < Duration::from_secs(1), "{text}: {:?} for {} steps", began.elapsed(), program.cost());
    }
}

const PIECES: &[&str] = &[
    "_flow",
    ".",
    "source",
    "labels",
    "verdict",
    "l4",
    "TCP",
    "Verdict",
    "DROPPED",
    "exists",
    "all",
    "map",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "l",
    ",",
    " == ",
    " && ",
    " || ",
    "!",
    "-",
    " + ",
    "1",
    "2u",
    "0.5",
    "'a'",
    "\"",
    "'",
    "\\",
    "?",
    ":",
    " in ",
    "has(",
    "matches(",
    "size(",
    "null",
    "true",
    "\n",
    "//",
    "é",
    "\u{0}",
    "9999999999999999999",
    "timestamp(",
    "duration(",
    "`",
    "@",
    "%",
    "/",
    "r'",
    "b'x'",
    "_flow.source.labels.exists(l, ",
    "_flow.time",
    "_flow.is_reply",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    /// Whatever is sent: an answer or a sentence.
    #[test]
    fn any_text_is_a_program_or_a_sentence(
        pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..24),
        flow in arbitrary_flow(),
    ) {
        match Program::compile(&pieces.concat()) {
            Ok(program) => drop(program.matches(&Subject::new(&flow))),
            Err(said) => prop_assert!(!said.is_empty() && said.len() < 400, "{}", said),
        }
    }

    /// The same questions in both languages.
    #[test]
    fn expressions_agree_with_the_same_question_in_rust(flow in arbitrary_flow()) {
        let source = flow.source.clone().unwrap_or_default();
        let destination = flow.destination.clone().unwrap_or_default();
        let ip = flow.ip.clone().unwrap_or_default();
        let tcp = match flow.l4.as_ref().and_then(|l| l.protocol.as_ref()) {
            Some(pb::layer4::Protocol::Tcp(tcp)) => Some(*tcp),
            _ => None,
        };
        let event = flow.event_type.unwrap_or_default();
        for (text, expected) in [
            ("_flow.verdict == Verdict.DROPPED", flow.verdict == 2),
            ("_flow.source.identity == 3u || _flow.destination.identity > 6u", source.identity == 3 || destination.identity > 6),
            ("has(_flow.l4.TCP)", tcp.is_some()),
            ("_flow.l4.TCP.destination_port == 80u", tcp.is_some_and(|t| t.destination_port == 80)),
            ("_flow.l4.TCP.flags.SYN", tcp.and_then(|t| t.flags).is_some_and(|f| f.syn)),
            ("_flow.IP.source.startsWith('10.')", ip.source.starts_with("10.")),
            ("_flow.IP.ipVersion == IPVersion.IPv6", ip.ip_version == 2),
            ("_flow.IP.encrypted", ip.encrypted),
            ("_flow.source.labels.exists(l, l == 'k8s:app=web')", source.labels.iter().any(|l| l == "k8s:app=web")),
            ("_flow.source.labels.all(l, l.contains('=')) && size(_flow.source.labels) > 1",
                source.labels.iter().all(|l| l.contains('=')) && source.labels.len() > 1),
            ("_flow.event_type.type == 5 && _flow.event_type.sub_type == 0", (event.r#type, event.sub_type) == (5, 0)),
            ("_flow.is_reply == true", flow.is_reply == Some(true)),
            ("_flow.is_reply == null", flow.is_reply.is_none()),
            ("has(_flow.is_reply)", flow.is_reply.is_some()),
            ("_flow.interface.index == 2u", flow.interface.as_ref().is_some_and(|i| i.index == 2)),
            ("'b.example.com' in _flow.destination_names", flow.destination_names.iter().any(|n| n == "b.example.com")),
            ("_flow.l7.http.code >= 400u", matches!(flow.l7.as_ref().and_then(|l| l.record.as_ref()), Some(pb::layer7::Record::Http(h)) if h.code >= 400)),
            ("_flow.source.workloads.exists(w, w.kind == 'Job')", source.workloads.iter().any(|w| w.kind == "Job")),
            ("_flow.ingress_denied_by.exists(p, p.namespace == 'shop')", flow.ingress_denied_by.iter().any(|p| p.namespace == "shop")),
            ("_flow.node_name.matches('^(prod/)?n[0-9]$')", ["n1", "n2", "prod/n1"].contains(&&*flow.node_name)),
        ] {
            prop_assert_eq!(says(text, &flow), expected, "{}", text);
        }
    }
}
