//! What the decider takes for the size of a table is what the maps are made with.

#[test]
fn rows_and_maps_agree_on_how_many_entries_a_table_has() {
    assert_eq!(axoneme_model::rows::TABLE_ENTRIES, axoneme_abi::policy::TABLE_ENTRIES as usize);
}
