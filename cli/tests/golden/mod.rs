//! Golden text.

use std::{fs, path::PathBuf};

/// Compares with `tests/golden/NAME.txt`; `AXONEME_BLESS=1` writes it instead.
pub(crate) fn golden(name: &str, actual: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.txt"));
    if std::env::var_os("AXONEME_BLESS").is_some() {
        fs::write(&path, actual).unwrap();
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == actual,
        "{} differs; AXONEME_BLESS=1 accepts it.\n=== expected\n{expected}\n=== actual\n{actual}",
        path.display()
    );
}
