//! Looks for what is secret in what a process says.
#![allow(unreachable_pub, reason = "each test file has its own copy")]

/// A secret, and how it would look where it has got out.
#[derive(Debug)]
pub struct Secret {
    what: &'static str,
    forms: Vec<String>,
}

/// As many bytes of a secret as give it away: shorter pieces are found by chance.
const PIECE: usize = 20;

impl Secret {
    /// One line of text: as it is, in pieces, and as the bytes that a careless `{:?}` prints.
    pub fn of(what: &'static str, text: &str) -> Self {
        let piece = text.get(text.len() - PIECE..).expect("a secret of some length");
        let bytes: Vec<String> = piece.bytes().map(|b| b.to_string()).collect();
        let hex = piece.bytes().fold(String::new(), |text, b| text + &format!("{b:02x}"));
        let first = text.get(..PIECE).expect("a secret of some length");
        let escaped = first.escape_debug().to_string();
        Self { what, forms: vec![piece.to_owned(), first.to_owned(), escaped, bytes.join(", "), hex] }
    }

    /// The lines of a PEM block, and its bytes.
    pub fn of_pem(what: &'static str, pem: &str) -> Self {
        let lines = pem.lines().filter(|l| !l.starts_with("-----") && l.len() >= PIECE);
        Self { what, forms: lines.flat_map(|l| Self::of(what, l).forms).collect() }
    }
}

/// What looks like a secret whoever's it is.
const SHAPES: [&str; 2] = ["PRIVATE KEY-----", "authorization: bearer "];

/// What is secret in a text, with the line that has it; the secret itself is not told.
pub fn leaks(text: &str, secrets: &[Secret]) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let small = line.to_lowercase();
        let shape = SHAPES.iter().find(|s| small.contains(&s.to_lowercase())).map(|s| (*s, "in any form"));
        let known = secrets.iter().find_map(|s| {
            let form = s.forms.iter().find(|f| line.contains(f.as_str()) || small.contains(f.as_str()))?;
            Some((s.what, if form.contains(", ") { "as bytes" } else { "as text" }))
        });
        if let Some((what, how)) = known.or(shape) {
            let begin: String = line.chars().take(120).collect();
            found.push(format!("line {}: {what}, {how}: {begin}", number + 1));
        }
    }
    found
}
