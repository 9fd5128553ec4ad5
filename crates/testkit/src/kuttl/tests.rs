//! Each rule with a case that it passes and one that it fails.

use std::{fs, path::Path, time::Duration};

use serde_json::json;

use super::{Failure, Outcome, Shell, Suite, fake::Fake};

const SUITE: &str = "apiVersion: kuttl.dev/v1beta1\nkind: TestSuite\ntestDirs: [e2e]\ntimeout: 10\n";
const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {app: web}}\n";

/// A suite of files, read.
fn load(suite: &str, files: &[(&str, &str)]) -> anyhow::Result<(Suite, Shell, tempfile::TempDir)> {
    let root = tempfile::tempdir()?;
    let write = |name: &str, text: &str| {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        fs::write(path, text)
    };
    write("kuttl-test.yaml", suite)?;
    for (name, text) in files {
        write(&format!("e2e/{name}"), text)?;
    }
    let shell = Shell::new(root.path(), &root.path().join("kubeconfig"));
    let suite = Suite::load(&root.path().join("kuttl-test.yaml"), root.path(), &shell)?;
    Ok((suite, shell, root))
}

fn refusal(suite: &str, files: &[(&str, &str)]) -> String {
    load(suite, files).map_or_else(|e| format!("{e:#}"), |_| String::new())
}

/// All cases of a suite of files.
async fn all(fake: &Fake, suite: &str, files: &[(&str, &str)]) -> Vec<Outcome> {
    let (suite, shell, _root) = load(suite, files).unwrap();
    suite.run(fake, &shell, |_| {}).await.unwrap()
}

/// The one case `t` of these files.
async fn case(fake: &Fake, files: &[(&str, &str)]) -> Outcome {
    let files: Vec<(String, &str)> = files.iter().map(|(name, text)| (format!("t/{name}"), *text)).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), *text)).collect();
    all(fake, SUITE, &files).await.remove(0)
}

fn passed(outcome: &Outcome) {
    assert_eq!(outcome.failure, None, "{:#?}", outcome.log);
}

/// That it failed in this step, and with these words.
fn failed(outcome: &Outcome, step: &str, words: &str) {
    let Some(Failure { step: at, errors }) = &outcome.failure else { panic!("passed: {:#?}", outcome.log) };
    assert_eq!(at, step, "{errors:?}");
    assert!(errors.iter().any(|e| e.contains(words)), "no {words:?} in {errors:?}");
}

fn took(outcome: &Outcome) -> u64 {
    outcome.took.as_secs()
}

#[tokio::test(start_paused = true)]
async fn what_is_asserted_is_waited_for_until_the_timeout() {
    let assert = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nstatus: {phase: Running}\n";
    let files = [("00-pod.yaml", POD), ("00-assert.yaml", assert)];
    let runs = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "*"}, "status": {"phase": "Running"}});
    let good = case(&Fake::new().after(7, runs.clone()), &files).await;
    passed(&good);
    assert_eq!(took(&good), 7);
    let late = case(&Fake::new().after(12, runs.clone()), &files).await;
    failed(&late, "0-pod", ".status: key is missing from map");
    assert_eq!(took(&late), 10);
    // its own timeout is not the suite's
    let own = format!("apiVersion: kuttl.dev/v1beta1\nkind: TestAssert\ntimeout: 15\n---\n{assert}");
    passed(&case(&Fake::new().after(12, runs), &[("00-pod.yaml", POD), ("00-assert.yaml", &own)]).await);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_not_there_fails_an_assert() {
    let other = "apiVersion: v1\nkind: Pod\nmetadata: {name: b}\n";
    failed(&case(&Fake::new(), &[("00-pod.yaml", POD), ("00-assert.yaml", other)]).await, "0-pod", "not found");
    let unknown = "apiVersion: v1\nkind: Nothing\nmetadata: {name: b}\n";
    failed(&case(&Fake::new(), &[("00-assert.yaml", unknown)]).await, "0-", "retrieving API resource");
}

#[tokio::test(start_paused = true)]
async fn a_nameless_assert_is_met_by_any_object_of_its_labels() {
    let pod = |name: &str, phase: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nstatus: {{phase: {phase}}}\n"
        )
    };
    let pods = pod("a", "Failed") + &pod("b", "Running");
    let with = |assert: &str| format!("apiVersion: v1\nkind: Pod\n{assert}");
    for (assert, words) in [
        ("metadata: {labels: {app: b}}\nstatus: {phase: Running}\n", ""),
        ("status: {phase: Running}\n", ""),
        ("metadata: {labels: {app: a}}\nstatus: {phase: Running}\n", "value mismatch"),
        ("metadata: {labels: {app: c}}\n", "no resources matched of kind: v1 Pod"),
    ] {
        let done = case(&Fake::new(), &[("00-pods.yaml", &pods), ("00-assert.yaml", &with(assert))]).await;
        if words.is_empty() { passed(&done) } else { failed(&done, "0-pods", words) }
    }
    // those of another namespace are others
    let elsewhere = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespace": "other"}});
    let any = with("");
    failed(
        &case(&Fake::new().with(elsewhere.clone()), &[("00-assert.yaml", &any)]).await,
        "0-",
        "no resources matched",
    );
    let there = with("metadata: {namespace: other}\n");
    passed(&case(&Fake::new().with(elsewhere), &[("00-assert.yaml", &there)]).await);
}

#[tokio::test(start_paused = true)]
async fn errors_files_fail_while_an_object_is_as_they_say() {
    let errors = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nstatus: {phase: Failed}\n";
    let status = |phase: &str| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "*"}, "status": {"phase": phase}});
    let files = [("00-pod.yaml", POD), ("00-errors.yaml", errors)];
    passed(&case(&Fake::new(), &files).await);
    let fake = Fake::new().after(0, status("Failed"));
    failed(&case(&fake, &files).await, "0-pod", "Pod:");
    // it is asked again, as for what is asserted
    let mends = Fake::new().after(0, status("Failed")).after(5, status("Running"));
    passed(&case(&mends, &files).await);
    let any = "apiVersion: v1\nkind: Pod\nmetadata: {labels: {app: web}}\n";
    let two = format!("{POD}---\n{}", POD.replace("name: a", "name: b"));
    let done = case(&Fake::new(), &[("00-pods.yaml", &two), ("00-errors.yaml", any)]).await;
    failed(&done, "0-pods", "(and 1 other resources) matched error assertion");
    let none = "apiVersion: v1\nkind: Pod\nmetadata: {labels: {app: other}}\n";
    passed(&case(&Fake::new(), &[("00-pods.yaml", &two), ("00-errors.yaml", none)]).await);
    failed(&case(&Fake::new(), &[("00-errors.yaml", "apiVersion: v1\nkind: Nothing\n")]).await, "0-", "API resource");
}

#[tokio::test(start_paused = true)]
async fn steps_run_in_the_order_of_their_indices_and_stop_at_the_first_failure() {
    let fake = Fake::new();
    let map = |name: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\n");
    let missing = map("missing");
    let files = [
        ("10-last.yaml", map("never")),
        ("2-second.yaml", map("two")),
        ("2-assert.yaml", missing),
        ("00-first.yaml", map("one")),
        ("README.md", "not a step".to_owned()),
    ];
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let done = case(&fake, &files).await;
    failed(&done, "2-second", "ConfigMap");
    let writes = fake.writes.borrow().join("\n");
    let at = |what: &str| writes.find(what);
    assert!(at("/one") < at("/two") && at("/one").is_some() && at("/never").is_none(), "{writes}");
}

#[tokio::test(start_paused = true)]
async fn a_folder_is_a_step_and_a_step_can_have_a_name() {
    let step = "apiVersion: kuttl.dev/v1beta1\nkind: TestStep\nmetadata: {name: named}\n";
    let wrong = "apiVersion: v1\nkind: Pod\nmetadata: {name: z}\n";
    let files = [("00-folder/pod.yaml", POD), ("00-folder/assert.yaml", POD)];
    passed(&case(&Fake::new(), &files).await);
    let files = [("03-folder/step.yaml", step), ("03-folder/pod.yaml", POD), ("03-folder/assert.yaml", wrong)];
    failed(&case(&Fake::new(), &files).await, "3-named", "not found");
}

#[tokio::test(start_paused = true)]
async fn objects_are_made_or_changed_by_a_merge_patch() {
    let there = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": {"keep": "1", "drop": "1"}}, "spec": {"a": 1}});
    let patch = "apiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {drop: null, new: '1'}}\n";
    let good = "apiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {keep: '1', new: '1'}}\nspec: {a: 1}\n";
    let dropped = "apiVersion: v1\nkind: Node\nmetadata: {labels: {drop: '1'}}\n";
    let files = [("00-node.yaml", patch), ("00-assert.yaml", good), ("00-errors.yaml", dropped)];
    let fake = Fake::new().with(there.clone());
    passed(&case(&fake, &files).await);
    // what was there before the case stays
    assert!(fake.names().contains(&"Node:n1".to_owned()));
    let fake = Fake::new();
    failed(&case(&fake, &files).await, "0-node", ".metadata.labels.keep: key is missing");
    assert!(!fake.names().contains(&"Node:n1".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_write_that_meets_another_is_tried_again_and_a_refused_one_is_not() {
    let fake = Fake::new();
    *fake.conflicts.borrow_mut() = 5;
    passed(&case(&fake, &[("00-pod.yaml", POD)]).await);
    let fake = Fake::new();
    *fake.conflicts.borrow_mut() = 1_000_000;
    let done = case(&fake, &[("00-pod.yaml", POD)]).await;
    failed(&done, "0-pod", "modified");
    assert_eq!(took(&done), 10);
    let mut fake = Fake::new();
    fake.refused.push("a".to_owned());
    let done = case(&fake, &[("00-pod.yaml", POD), ("00-assert.yaml", POD)]).await;
    failed(&done, "0-pod", "a is invalid");
    assert_eq!(took(&done), 0, "a refusal is final: nothing is asserted after it");
}

#[tokio::test(start_paused = true)]
async fn deletions_come_first_and_are_waited_for() {
    let step = |more: &str| {
        format!("apiVersion: kuttl.dev/v1beta1\nkind: TestStep\ndelete:\n- {{apiVersion: v1, kind: Pod{more}}}\n")
    };
    let gone = "apiVersion: v1\nkind: Pod\nmetadata: {labels: {app: web}}\n";
    let other = "apiVersion: v1\nkind: Pod\nmetadata: {name: b, labels: {app: db}}\n";
    let pods = format!("{POD}---\n{other}");
    for (which, left) in [
        (", name: a", true),
        (", labels: {app: web}", true),
        (", name: not-there", false),
        (", labels: {app: none}", false),
        ("", true),
    ] {
        let fake = Fake::new().lingering(Duration::from_secs(4));
        let files = [("00-pods.yaml", pods.as_str()), ("01-delete.yaml", &step(which)), ("01-errors.yaml", gone)];
        let done = case(&fake, &files).await;
        if left {
            passed(&done);
        } else {
            failed(&done, "1-delete", "matched error assertion");
        }
        // all of its kind, where it names neither
        let both = fake.writes.borrow().iter().filter(|w| w.starts_with("delete Pod")).count();
        assert!(which.is_empty() || both > 0, "{:?}", fake.writes);
    }
    let stays = Fake::new().lingering(Duration::from_hours(1));
    let done = case(&stays, &[("00-pods.yaml", &pods), ("01-delete.yaml", &step(", name: a"))]).await;
    failed(&done, "1-delete", "timed out waiting for resource deletion");
}

#[tokio::test(start_paused = true)]
async fn a_case_leaves_nothing_whether_it_passes_or_fails() {
    let node = "---\napiVersion: v1\nkind: Node\nmetadata: {name: n1}\n";
    let objects = format!("{POD}{node}");
    for (assert, good) in [(POD, true), ("apiVersion: v1\nkind: Pod\nmetadata: {name: z}\n", false)] {
        let fake = Fake::new().lingering(Duration::from_secs(3));
        let done = case(&fake, &[("00-objects.yaml", &objects), ("00-assert.yaml", assert)]).await;
        assert_eq!(done.failure.is_none(), good);
        let writes = fake.writes.borrow().clone();
        let deleted: Vec<&String> = writes.iter().filter(|w| w.starts_with("delete")).collect();
        assert_eq!(deleted.len(), 3, "{writes:?}");
        assert!(
            deleted[0].contains("Node") && deleted[1].contains("Pod") && deleted[2].contains("Namespace"),
            "{deleted:?}"
        );
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(fake.names(), [""; 0]);
    }
    // a namespace that does not go is a failure of its own
    let stuck = Fake::new().lingering(Duration::from_hours(1));
    failed(&case(&stuck, &[("00-pod.yaml", POD)]).await, "cleanup", "to be deleted timed out");
}

#[tokio::test(start_paused = true)]
async fn each_case_has_a_namespace_of_its_own_unless_the_suite_names_one() {
    let fake = Fake::new();
    let done = all(&fake, SUITE, &[("one/00-pod.yaml", POD), ("two/00-pod.yaml", POD)]).await;
    assert_eq!(done.len(), 2);
    done.iter().for_each(passed);
    let made: Vec<String> =
        fake.writes.borrow().iter().filter(|w| w.starts_with("create Namespace")).cloned().collect();
    assert!(made.len() == 2 && made[0] != made[1] && made.iter().all(|m| m.contains(":/kuttl-")), "{made:?}");
    let shared = format!("{SUITE}namespace: lab\n");
    let lab = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "lab"}});
    let fake = Fake::new().with(lab);
    passed(&all(&fake, &shared, &[("one/00-pod.yaml", POD)]).await[0]);
    // one that was there before stays
    assert_eq!(fake.names(), ["Namespace:lab"]);
    let fake = Fake::new();
    passed(&all(&fake, &shared, &[("one/00-pod.yaml", POD)]).await[0]);
    assert_eq!(fake.names(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn skip_delete_leaves_all() {
    let fake = Fake::new();
    passed(&all(&fake, &format!("{SUITE}skipDelete: true\n"), &[("one/00-pod.yaml", POD)]).await[0]);
    assert!(fake.names().contains(&"Pod:a".to_owned()), "{:?}", fake.names());
}

#[tokio::test]
async fn commands_run_before_objects_are_applied_and_in_the_case_folder() {
    let step = |script: &str| format!("apiVersion: kuttl.dev/v1beta1\nkind: TestStep\ncommands:\n- script: {script}\n");
    let good = step("test -f 00-step.yaml && test -n \"$NAMESPACE\"");
    let fake = Fake::new();
    passed(&case(&fake, &[("00-step.yaml", &good), ("00-pod.yaml", POD)]).await);
    let bad = step("echo because; false");
    let done = case(&fake, &[("00-step.yaml", &bad), ("00-assert.yaml", POD)]).await;
    failed(&done, "0-step", "because");
    // the first that fails ends them
    let two = format!("{}- script: touch made\n", step("exit 1"));
    let made = "apiVersion: kuttl.dev/v1beta1\nkind: TestStep\ncommands:\n- script: test ! -e made\n";
    failed(&case(&fake, &[("00-step.yaml", &two), ("01-look.yaml", made)]).await, "0-step", "exit status");
}

#[tokio::test]
async fn asserted_commands_are_run_again_until_they_succeed() {
    let assert = |script: &str, timeout: u32| {
        format!("apiVersion: kuttl.dev/v1beta1\nkind: TestAssert\ntimeout: {timeout}\ncommands:\n- script: {script}\n")
    };
    let third = assert("echo x >> tries; test $(wc -l < tries) -ge 3", 10);
    passed(&case(&Fake::new(), &[("00-assert.yaml", &third)]).await);
    let never = assert("echo no; false", 2);
    failed(&case(&Fake::new(), &[("00-assert.yaml", &never)]).await, "0-", "no");
    // one that uses up the time is not tried again
    let slow = assert("echo x >> tries; sleep 30", 1);
    let done = case(&Fake::new(), &[("00-assert.yaml", &slow)]).await;
    failed(&done, "0-", "exceeded 1 sec timeout");
}

#[tokio::test(start_paused = true)]
async fn expressions_are_asked_again_until_they_hold() {
    let assert = "apiVersion: kuttl.dev/v1beta1\nkind: TestAssert\nresourceRefs:\n- {apiVersion: v1, kind: Pod, name: a, ref: pod}\n\
                  assertAll:\n- celExpr: \"has(pod.status) && pod.status.conditions.exists(c, c.type == 'Ready' && c.status == 'True')\"\n";
    let files = [("00-pod.yaml", POD), ("00-assert.yaml", assert)];
    let ready = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "*"},
        "status": {"conditions": [{"type": "Other", "status": "False"}, {"type": "Ready", "status": "True"}]}});
    passed(&case(&Fake::new().after(4, ready), &files).await);
    failed(&case(&Fake::new(), &files).await, "0-pod", "not all assertAll");
    failed(&case(&Fake::new(), &[("00-assert.yaml", assert)]).await, "0-", "failed to get referenced resource");
}

#[tokio::test]
async fn collectors_and_events_tell_of_a_failure_only() {
    let assert = format!(
        "apiVersion: kuttl.dev/v1beta1\nkind: TestAssert\ntimeout: 1\ncollectors:\n- {{command: echo collected-words}}\n---\n{}",
        POD.replace("name: a", "name: z")
    );
    let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "*"}, "reason": "Because", "message": "words"});
    let done = case(&Fake::new().after(0, event.clone()), &[("00-pod.yaml", POD), ("00-assert.yaml", &assert)]).await;
    failed(&done, "0-pod", "not found");
    let log = done.log.join("\n");
    assert!(log.contains("collected: collected-words") && log.contains("event: Because"), "{log}");
    let good = assert.replace("name: z", "name: a");
    let done = case(&Fake::new().after(0, event), &[("00-pod.yaml", POD), ("00-assert.yaml", &good)]).await;
    passed(&done);
    assert!(!done.log.join("\n").contains("collected"), "{:?}", done.log);
}

#[tokio::test(start_paused = true)]
async fn a_step_applies_and_asserts_what_other_files_have() {
    let step = "apiVersion: kuttl.dev/v1beta1\nkind: TestStep\napply: [more]\nassert: [../../shared/there.yaml]\nerror: [not.yaml]\n";
    let other = POD.replace("name: a", "name: b");
    for (applied, good) in [(POD, true), (other.as_str(), false)] {
        let files = [
            ("t/00-step.yaml", step),
            // a folder and a file that are no steps, but named by one
            ("t/more/pod.yaml", applied),
            ("t/not.yaml", other.as_str()),
            ("../shared/there.yaml", POD),
        ];
        let done = all(&Fake::new(), SUITE, &files).await.remove(0);
        if good { passed(&done) } else { failed(&done, "0-step", "matched error assertion") }
    }
}

#[tokio::test(start_paused = true)]
async fn cases_run_side_by_side_as_many_as_the_suite_says() {
    let assert = "apiVersion: v1\nkind: Pod\nmetadata: {name: z}\n";
    let names = ["a", "b", "c", "d"].map(|case| format!("{case}/00-assert.yaml"));
    let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), assert)).collect();
    for (parallel, seconds) in [(4, 10), (2, 20), (1, 40)] {
        let began = tokio::time::Instant::now();
        let done = all(&Fake::new(), &format!("{SUITE}parallel: {parallel}\n"), &files).await;
        assert_eq!((done.len(), began.elapsed().as_secs()), (4, seconds));
    }
}

#[tokio::test]
async fn a_suite_that_cannot_be_prepared_runs_nothing() {
    let suite = format!("{SUITE}commands:\n- script: echo why; test $NAMESPACE = other\n");
    let fake = Fake::new();
    let (read, shell, _root) = load(&suite, &[("t/00-pod.yaml", POD)]).unwrap();
    let told = read.run(&fake, &shell, |_| {}).await.unwrap_err().to_string();
    assert!(told.contains("why") && fake.writes.borrow().is_empty(), "{told}");
    let good = suite.replace("other", "default");
    assert_eq!(all(&fake, &good, &[("t/00-pod.yaml", POD)]).await.len(), 1);
}

#[test]
fn what_this_runner_has_not_is_refused_by_name() {
    let pod = [("t/00-pod.yaml", POD)];
    assert_eq!(refusal(SUITE, &pod), "");
    for (more, words) in [
        ("startKIND: true\n", "unknown field `startKIND`"),
        ("crdDir: crds\n", "unknown field `crdDir`"),
        ("suppress: [logs]\n", "only events"),
        ("timeout: -1\n", "timeout"),
    ] {
        let told = refusal(&format!("{}{more}", SUITE.replace("timeout: 10\n", "")), &pod);
        assert!(told.contains(words), "{told}");
    }
    let own = |kind: &str, more: &str| format!("apiVersion: kuttl.dev/v1beta1\nkind: {kind}\n{more}");
    for (name, text, words) in [
        ("00-step.yaml", own("TestStep", "kubeconfig: other\n"), "unknown field `kubeconfig`"),
        ("00-step.yaml", own("TestStep", "apply: [\"https://example.com/a.yaml\"]\n"), "URLs"),
        ("00-step.yaml", own("TestStep", "apply: [missing]\n"), "missing"),
        ("00-step.yaml", own("TestFile", ""), "TestFile"),
        ("00-step.yaml", own("TestAssert", ""), "TestAssert"),
        ("00-assert.yaml", own("TestStep", ""), "TestStep"),
        ("00-errors.yaml", own("TestAssert", ""), "TestAssert"),
        ("00-assert.yaml", own("TestAssert", "timeout: -1\n"), "nothing would be asked"),
        ("00-assert.yaml", own("TestAssert", "assertAll: [{celExpr: \"a ==\"}]\n"), "a =="),
        ("00-step.yaml", format!("{}---\n{}", own("TestStep", ""), own("TestStep", "")), "more than one"),
        ("00-pod.gotmpl.yaml", POD.to_owned(), "templates"),
        ("00-pod.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {labels: {}}\n".to_owned(), "has no name"),
    ] {
        let told = refusal(SUITE, &[(&format!("t/{name}"), text.as_str())]);
        assert!(told.contains(words), "{name}: no {words:?} in {told:?}");
    }
    let idle = refusal(SUITE, &[("t/00-pod.yaml", POD), ("t/pod.yaml", POD)]);
    assert!(idle.contains("no TestStep names it"), "{idle}");
    assert!(refusal(SUITE, &[("t/README.md", "")]).contains("without a step"));
    assert!(refusal(SUITE, &[("file.yaml", POD)]).contains("no case"));
}

#[test]
fn one_case_is_chosen_by_its_name() {
    let (mut suite, ..) = load(SUITE, &[("one/00-pod.yaml", POD), ("two/00-pod.yaml", POD)]).unwrap();
    let told = suite.only("three").unwrap_err().to_string();
    assert!(told.contains("one, two"), "{told}");
    suite.only("two").unwrap();
    assert_eq!(suite.cases().iter().map(super::Case::name).collect::<Vec<_>>(), ["two"]);
}

/// The product's own suite can be read: each name, setting and expression of it.
#[test]
fn the_suite_of_the_repository_is_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kuttl-tests");
    let shell = Shell::new(&root, &root.join("kubeconfig"));
    let suite = Suite::load(&root.join("kuttl-test.yaml"), &root, &shell).unwrap();
    assert!(suite.cases().len() >= 10, "{:?}", suite.cases().len());
}
