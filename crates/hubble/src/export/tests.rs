use axoneme_flow::Time;

use super::*;

#[test]
fn a_file_of_exporters_is_read_as_the_peers_write_it() {
    let text = "
flowLogs:
  - name: all
    filePath: /var/log/a.log
    fieldMask: []
    includeFilters: []
    excludeFilters: []
  - name: drops
    filePath: /var/log/b.log
    fieldMask: [source.namespace, source.pod_name, verdict]
    includeFilters:
      - source_pod: [default/]
        event_type: [{type: 1}]
      - destination_pod: [frontend/nginx-975996d4c-7hhgt]
    excludeFilters: [{source_identity: [1]}]
    end: 2023-10-09T23:59:59-07:00
";
    let all = exporters(text).unwrap();
    assert_eq!(all.iter().map(|e| &*e.name).collect::<Vec<_>>(), ["all", "drops"]);
    assert_eq!(all[1].end, Time::parse("2023-10-10T06:59:59Z"));
    assert_eq!(exporters(text).unwrap(), all, "the same text is the same exporters");
    assert!(exporters("").unwrap().is_empty() && exporters("flowLogs: []").unwrap().is_empty());
}

#[test]
fn a_mistake_in_one_exporter_refuses_the_file_and_says_where() {
    let one = |fields: &str| format!("flowLogs: [{{name: a, filePath: /tmp/a, {fields}}}]");
    for (text, words) in [
        (one("colour: red"), "colour"),
        (one("fieldMask: [source.colour]"), "colour"),
        (one("includeFilters: [{source_pods: [a]}]"), "includeFilters: filter 0"),
        (one("excludeFilters: [{source_port: [http]}]"), "source_port"),
        (one("end: tomorrow"), "tomorrow"),
        ("flowLogs: [{name: a}]".to_owned(), "filePath"),
        ("flowLogs: [{name: '', filePath: /tmp/a}]".to_owned(), "a name"),
        ("flowLogs: [{name: a, filePath: /}]".to_owned(), "path of a file"),
        ("flowLogs: [{name: a, filePath: /a}, {name: b, filePath: /a}]".to_owned(), "another one"),
        ("flowLogs: {".to_owned(), ""),
    ] {
        let error = exporters(&text).unwrap_err();
        assert!(error.contains(words), "{text}: {error}");
    }
}

#[test]
fn collectors_and_aggregates_are_read_and_judged() {
    let one = |fields: &str| exporters(&format!("flowLogs: [{{name: a, {fields}}}]"));
    let tls = "otlp: {endpoint: 'https://c:4317', caFile: /ca.pem, certFile: /c.pem, keyFile: /k.pem}";
    assert_eq!(one(tls).unwrap()[0].to.to_string(), "https://c:4317");
    for endpoint in ["http://localhost:4317", "http://127.0.0.2:4317", "http://[::1]:4317"] {
        let here = one(&format!("otlp: {{endpoint: '{endpoint}', headersFile: /h}}"));
        assert_ne!(here.unwrap(), one(&format!("otlp: {{endpoint: '{endpoint}'}}")).unwrap(), "another exporter");
    }
    let http = one("otlp: {endpoint: 'http://c:4318', protocol: http/protobuf}").unwrap();
    assert_ne!(http, one("otlp: {endpoint: 'http://c:4318'}").unwrap(), "another exporter");
    assert_eq!(http, one("otlp: {endpoint: 'http://c:4318', protocol: http/protobuf}").unwrap());
    let two = "flowLogs: [{name: a, otlp: {endpoint: 'http://c:4317'}}, {name: b, otlp: {endpoint: 'http://c:4317'}}]";
    assert_eq!(exporters(two).unwrap().len(), 2, "one collector for several");
    let sum = "filePath: /a, fieldAggregate: [verdict], aggregationInterval: 1m30s";
    assert_eq!(one(sum).unwrap()[0].alike.as_ref().unwrap().every, std::time::Duration::from_secs(90));
    assert_ne!(one(sum).unwrap(), one("filePath: /a").unwrap(), "another exporter");
    assert!(one("filePath: /a, aggregationInterval: 10s").unwrap()[0].alike.is_none());
    for (fields, words) in [
        ("fieldMask: []", "one of filePath and otlp"),
        ("filePath: /a, otlp: {endpoint: 'http://c:1'}", "one of filePath and otlp"),
        ("otlp: {endpoint: 'c:4317'}", "http://"),
        ("otlp: {endpoint: 'http://c:4318', protocol: http/json}", "http/json"),
        ("otlp: {endpoint: 'ftp://c:4317'}", "http://"),
        ("otlp: {endpoint: 'http://user:secret@c:4317'}", "a host and a port"),
        ("otlp: {endpoint: 'https://c:4317'}", "authority is needed"),
        ("otlp: {endpoint: 'http://c:4317', caFile: /ca}", "for https"),
        ("otlp: {endpoint: 'https://c:4317', caFile: /ca, certFile: /c}", "belong together"),
        ("otlp: {endpoint: 'http://c:4317', headersFile: /h}", "headers are for https://"),
        ("otlp: {endpoint: 'https://c:4317', caFile: /ca, headers: {authorization: x}}", "headersFile"),
        ("filePath: /a, fieldAggregate: [verdict]", "belong together"),
        ("filePath: /a, fieldAggregate: [colour], aggregationInterval: 10s", "colour"),
        ("filePath: /a, fieldAggregate: [verdict], aggregationInterval: 10", "not an interval"),
        ("filePath: /a, fieldAggregate: [verdict], aggregationInterval: 10ms", "from 1s to 1h"),
        ("filePath: /a, fieldAggregate: [verdict], aggregationInterval: 99999999999h", "not an interval"),
    ] {
        let error = one(fields).unwrap_err();
        assert!(error.contains(words), "{fields}: {error}");
    }
}
