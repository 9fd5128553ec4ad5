//! Manifests from files, directories and standard input.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{failure::Failure, progress::Progress};

/// One document of one file.
#[derive(Clone, Debug)]
pub struct Document {
    /// `shop.yaml`, or `-`.
    pub file: String,
    /// Line on which it begins, from 1.
    pub line: usize,
    /// The object, or why there is none.
    pub object: Result<Value, String>,
}

/// All documents below the paths, in the order of the paths and of the names in directories. Lists come as their items;
/// empty documents not at all.
pub fn load(paths: &[PathBuf], progress: &Progress) -> Result<Vec<Document>, Failure> {
    let mut documents = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map_err(|e| Failure::file(path, &e))?;
            split("-", &text, &mut documents);
        } else {
            for file in files(path)? {
                progress.say(format!("reading {}", file.display()));
                let text = fs::read_to_string(&file).map_err(|e| Failure::file(&file, &e))?;
                split(&file.display().to_string(), &text, &mut documents);
            }
        }
    }
    if documents.is_empty() {
        let names: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
        let what = "no manifest there; files end in .yaml, .yml or .json";
        return Err(Failure::Usage(format!("--filename: {}: {what}", names.join(" "))));
    }
    Ok(documents)
}

/// The file itself, or the manifests below a directory, sorted.
fn files(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    if !fs::metadata(path).map_err(|e| Failure::file(path, &e))?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let (mut out, mut open) = (Vec::new(), vec![path.to_owned()]);
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).map_err(|e| Failure::file(&directory, &e))? {
            let entry = entry.map_err(|e| Failure::file(&directory, &e))?;
            // links are not followed: they could lead in circles
            let kind = entry.file_type().map_err(|e| Failure::file(&entry.path(), &e))?;
            let hidden = entry.file_name().to_string_lossy().starts_with('.');
            if kind.is_dir() && !hidden {
                open.push(entry.path());
            } else if !hidden && is_manifest(&entry.path()) {
                out.push(entry.path());
            }
        }
    }
    out.sort();
    Ok(out)
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|e| ["yaml", "yml", "json"].iter().any(|known| e.eq_ignore_ascii_case(known)))
}

/// Each document by itself, so that a broken one hides no other.
fn split(file: &str, text: &str, out: &mut Vec<Document>) {
    let (mut start, mut part) = (1, String::new());
    for (number, line) in (1..).zip(text.lines()) {
        // YAML 1.2 §9.1.2: three dashes at the beginning of a line end a document wherever they stand
        let rest = line.strip_prefix("---").filter(|r| r.is_empty() || r.starts_with(char::is_whitespace));
        if let Some(rest) = rest {
            document(file, start, &std::mem::take(&mut part), out);
            start = number + 1;
            if !rest.trim().is_empty() && !rest.trim_start().starts_with('#') {
                start = number;
                part.push_str(rest);
                part.push('\n');
            }
            continue;
        }
        part.push_str(line);
        part.push('\n');
    }
    document(file, start, &part, out);
}

fn document(file: &str, start: usize, text: &str, out: &mut Vec<Document>) {
    let leading = text.lines().take_while(|l| l.trim().is_empty() || l.trim_start().starts_with('#')).count();
    if leading == text.lines().count() {
        return;
    }
    let mut push = |object| out.push(Document { file: file.to_owned(), line: start + leading, object });
    match serde_saphyr::from_str::<Value>(text) {
        Ok(Value::Null) => {}
        Ok(list) if is_list(&list) => {
            for item in list.get("items").and_then(Value::as_array).into_iter().flatten() {
                push(Ok(item.clone()));
            }
        }
        Ok(object) => push(Ok(object)),
        Err(error) => {
            // once more behind as many lines as there are before it, so that the message has the file's line numbers
            let padded = "\n".repeat(start - 1) + text;
            let error = serde_saphyr::from_str::<Value>(&padded).err().unwrap_or(error);
            push(Err(format!("not YAML: {}", error.to_string().trim_end())));
        }
    }
}

/// `kind: List` of kubectl, and lists of the API server that carry kinds in their items.
fn is_list(object: &Value) -> bool {
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
    kind.ends_with("List") && object.get("items").is_some_and(Value::is_array)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(usize, Result<Value, String>)> {
        let mut out = Vec::new();
        split("f", text, &mut out);
        out.into_iter().map(|d| (d.line, d.object)).collect()
    }

    #[test]
    fn documents_know_their_lines_and_empty_ones_vanish() {
        let got = read("# head\n\na: 1\n---\n---\n# only words\n--- # next\nb: '---'\nc: |\n  ---\n--- {d: 4}\n");
        let lines: Vec<_> = got.iter().map(|d| (d.0, d.1.clone().unwrap().to_string())).collect();
        assert_eq!(
            lines,
            [(3, r#"{"a":1}"#.to_owned()), (8, r#"{"b":"---","c":"---\n"}"#.to_owned()), (11, r#"{"d":4}"#.to_owned())]
        );
    }

    #[test]
    fn a_broken_document_hides_no_other() {
        let got = read("a: [1\n---\nb: 2\n");
        assert!(got[0].1.as_ref().unwrap_err().starts_with("not YAML: "));
        assert_eq!(got[1].1.as_ref().unwrap()["b"], 2);
    }

    #[test]
    fn lists_come_as_their_items() {
        let got = read("kind: List\nitems:\n- {kind: A}\n- {kind: B}\n");
        assert_eq!(got.len(), 2);
        assert_eq!(read(r#"{"kind": "PodList", "items": []}"#).len(), 0);
    }
}
