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
