//! Headers for a collector, of a file: what a backend knows its client by is a secret, and a mounted Secret is a file.
//!
//! A line a header, `name: value`; empty lines and those that begin with `#` are none. *Guarantees*: what is said of a
//! mistake names its line and never what stands there.

use std::{fs::File, io::Read as _, path::Path};

use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};

/// More than any proxy takes.
const MOST: u64 = 64 << 10;
/// Headers that the connection has of its own.
const OWN: [&str; 8] =
    ["connection", "content-length", "content-type", "host", "te", "trailer", "transfer-encoding", "user-agent"];

/// *Errors*: a sentence with the file and, where it is about one, the line.
pub(super) fn read(path: &Path) -> Result<MetadataMap, String> {
    let text = || {
        let mut text = String::new();
        File::open(path)?.take(MOST + 1).read_to_string(&mut text)?;
        Ok::<_, std::io::Error>(text)
    };
    let text = text().map_err(|e| format!("headers of {}: {e}", path.display()))?;
    parse(&text).map_err(|e| format!("headers of {}: {e}", path.display()))
}

fn parse(text: &str) -> Result<MetadataMap, String> {
    if text.len() as u64 > MOST {
        return Err(format!("more than {MOST} bytes"));
    }
    let mut headers = MetadataMap::new();
    for (n, line) in (1..).zip(text.lines().map(str::trim)) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let fail = |what: &str| format!("line {n}: {what}");
        let (name, value) =
            line.split_once(':').ok_or_else(|| fail("not a header, such as authorization: Bearer …"))?;
        let name = name.trim().to_ascii_lowercase();
        let key = AsciiMetadataKey::from_bytes(name.as_bytes())
            .map_err(|_| fail("what stands before the colon is no name of a header (nor may it end in -bin)"))?;
        if OWN.contains(&&*name) || name.starts_with("grpc-") {
            return Err(fail("a header that the connection sets itself"));
        }
        let value = value.trim();
        // what gRPC lets a text consist of
        let mut value = AsciiMetadataValue::try_from(value)
            .ok()
            .filter(|_| value.bytes().all(|b| (b' '..=b'~').contains(&b)))
            .ok_or_else(|| fail("its value has characters that no header may have"))?;
        // neither shown nor kept in the tables of the connection's compression
        value.set_sensitive(true);
        headers.append(key, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_headers_that_are_never_shown() {
        let text =
            "# of the tenant\n\nAuthorization: Bearer a:b=\r\n x-scope-orgid :blue\nx-scope-orgid: green\nx-empty:";
        let headers = parse(text).unwrap();
        assert_eq!(headers.get("authorization").unwrap(), "Bearer a:b=");
        assert_eq!(headers.get_all("x-scope-orgid").iter().collect::<Vec<_>>(), ["blue", "green"]);
        assert_eq!(headers.get("x-empty").unwrap(), "");
        assert_eq!(headers.len(), 4);
        let shown = format!("{headers:?}");
        assert!(!shown.contains("Bearer") && !shown.contains("blue"), "{shown}");
    }

    #[test]
    fn a_mistake_is_told_by_its_line_and_without_the_secret() {
        for (text, words) in [
            ("a: b\nsesame", "line 2: not a header"),
            ("open sesame: x", "line 1: what stands before the colon"),
            ("x-sesame-bin: AAAA", "-bin"),
            ("x-key: ses\u{e4}me", "line 1: its value"),
            ("x-key: sesame\u{7}", "line 1: its value"),
            ("grpc-timeout: 1S", "sets itself"),
            ("Content-Type: sesame", "sets itself"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(words), "{text:?}: {error}");
            assert!(!error.contains("sesame") && !error.contains("ses\u{e4}me"), "{text:?}: {error}");
        }
        assert!(parse(&"x: y\n".repeat(1 << 14)).unwrap_err().contains("more than"));
        let error = read(Path::new("/nowhere/headers")).unwrap_err();
        assert!(error.contains("/nowhere/headers") && error.contains("No such file"), "{error}");
    }
}
