use axoneme_model::rows::NodeRow;

use super::*;

fn node(name: &str, cidrs: usize) -> Row {
    let cidr = "10.0.0.0/24".parse().unwrap();
    Row::Node(NodeRow { name: name.into(), addresses: vec![], pod_cidrs: vec![cidr; cidrs] })
}

fn batch(revision: u64, complete: &[RowType], changes: Vec<RowChange>) -> Batch {
    Batch { at: Resume { epoch: 1, revision }, complete: complete.to_vec(), changes }
}

#[test]
fn a_snapshot_changes_only_what_differs() {
    let mut d = Desired::default();
    let up = |n, c| RowChange::Upsert(node(n, c));
    d.fold(batch(1, &[RowType::Node], vec![up("a", 0), up("b", 0), up("c", 0)])).unwrap();
    let changes = d.fold(batch(9, &[RowType::Node], vec![up("a", 0), up("b", 1)])).unwrap();
    assert_eq!(changes, vec![up("b", 1), RowChange::Remove(RowKey::Node("c".into()))]);
    assert_eq!(d.at().unwrap().revision, 9);
}

#[test]
fn nothing_is_pruned_of_a_type_that_is_not_complete() {
    let mut d = Desired::default();
    d.fold(batch(1, &[RowType::Node], vec![RowChange::Upsert(node("a", 0))])).unwrap();
    assert_eq!(d.fold(batch(2, &[RowType::Ip, RowType::Endpoint], vec![])).unwrap(), vec![]);
    assert!(d.rows().nodes.contains_key("a"));
}

#[test]
fn a_patch_of_an_unknown_table_asks_for_a_resync() {
    let id = axoneme_model::rows::TableId(7);
    let mut patch = TablePatch::new(id);
    patch.policies = Some([].into());
    let result = Desired::default().fold(batch(1, &[], vec![RowChange::Patch(patch)]));
    assert_eq!(result, Err(MissingTable(id)));
}
