//! A file that is put aside when it is full.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use axoneme_flow::Time;
use flate2::{Compression, write::GzEncoder};

/// When a file is full and what is kept of those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    pub max_bytes: u64,
    /// Files before this one; 0 keeps all.
    pub backups: usize,
    /// Those before are compressed (gzip).
    pub compress: bool,
}

impl Default for Rotation {
    /// Hubble's defaults: 10 MiB, five files.
    fn default() -> Self {
        Self { max_bytes: 10 << 20, backups: 5, compress: false }
    }
}

#[derive(Debug)]
pub(super) struct Rotated {
    path: PathBuf,
    out: BufWriter<File>,
    bytes: u64,
    rotation: Rotation,
}

impl Rotated {
    /// Goes on with what is there. Only its owner may read it: flows tell who talks to whom.
    pub(super) fn open(path: &Path, rotation: Rotation) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), out: BufWriter::new(file), bytes, rotation })
    }

    /// A line is never parted: the file is put aside before it where there is no room for it.
    pub(super) fn line(&mut self, line: &[u8], now: Time) -> io::Result<()> {
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.rotation.max_bytes {
            self.rotate(now)?;
        }
        self.out.write_all(line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn rotate(&mut self, now: Time) -> io::Result<()> {
        self.out.flush()?;
        let aside =
            self.path.with_file_name(format!("{}{}{}", self.stem(), now.to_string().replace(':', "-"), self.ending()));
        fs::rename(&self.path, &aside)?;
        *self = Self::open(&self.path, self.rotation)?;
        if self.rotation.compress {
            compress(&aside)?;
        }
        self.prune()
    }

    /// `events-` of `events.log`.
    fn stem(&self) -> String {
        format!("{}-", self.path.file_stem().unwrap_or_default().to_string_lossy())
    }

    fn ending(&self) -> String {
        self.path.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default()
    }

    /// Removes the oldest of those that were put aside: their names are in the order of their times.
    fn prune(&self) -> io::Result<()> {
        if self.rotation.backups == 0 {
            return Ok(());
        }
        let (stem, ending) = (self.stem(), self.ending());
        let compressed = format!("{ending}.gz");
        let ours = |name: &str| {
            let rest = name.strip_prefix(&stem).and_then(|r| r.strip_suffix(&compressed).or(r.strip_suffix(&ending)));
            // a time: another file that begins alike is not ours
            rest.is_some_and(|time| time.starts_with(|c: char| c.is_ascii_digit()) && time.contains('T'))
        };
        let directory = self.path.parent().unwrap_or(Path::new("."));
        let mut aside = Vec::new();
        for entry in fs::read_dir(directory)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if ours(&name) {
                aside.push(name);
            }
        }
        aside.sort();
        let extra = aside.len().saturating_sub(self.rotation.backups);
        aside.iter().take(extra).try_for_each(|name| fs::remove_file(directory.join(name)))
    }
}

/// Replaces the file by its compressed form; a half-written one never has the final name.
fn compress(path: &Path) -> io::Result<()> {
    let named = |ending: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    let part = named(".part");
    let out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    let mut encoder = GzEncoder::new(out, Compression::fast());
    io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?;
    fs::rename(&part, named(".gz"))?;
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, io::Read as _};

    use super::*;

    fn files(directory: &Path) -> BTreeMap<String, String> {
        let read = |path: &Path| {
            let mut text = String::new();
            let file = File::open(path).unwrap();
            if path.extension().is_some_and(|e| e == "gz") {
                flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
            } else {
                (&file).read_to_string(&mut text).unwrap();
            }
            text
        };
        let all = fs::read_dir(directory).unwrap().map(|e| e.unwrap().path());
        all.map(|p| (p.file_name().unwrap().to_string_lossy().into_owned(), read(&p))).collect()
    }

    /// Twenty lines of ten bytes into files of thirty.
    fn written(backups: usize, compress: bool) -> (tempfile::TempDir, BTreeMap<String, String>) {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("events-other.log"), "not ours").unwrap();
        let path = directory.path().join("events.log");
        let rotation = Rotation { max_bytes: 30, backups, compress };
        for n in 0..20u64 {
            // opened anew each time, as after a restart
            let mut file = Rotated::open(&path, rotation).unwrap();
            file.line(format!("line {n:04}\n").as_bytes(), Time(1_795_269_600_000_000_000 + n)).unwrap();
            file.flush().unwrap();
        }
        let files = files(directory.path());
        (directory, files)
    }

    #[test]
    fn no_line_is_parted_or_lost_while_files_are_kept() {
        for compress in [false, true] {
            let (_directory, mut all) = written(0, compress);
            assert_eq!(all.remove("events-other.log").unwrap(), "not ours");
            assert_eq!(all.len(), 7, "{all:?}");
            let newest = all.remove("events.log").unwrap();
            let whole: String = all.into_values().collect::<String>() + &newest;
            let expected: Vec<String> = (0..20).map(|n| format!("line {n:04}\n")).collect();
            assert_eq!(whole, expected.concat());
        }
    }

    #[test]
    fn the_oldest_go_and_what_is_another_ones_stays() {
        let (_directory, all) = written(2, true);
        assert_eq!(all.len(), 4, "{all:?}");
        assert!(all.contains_key("events-other.log"));
        assert_eq!(all["events.log"], "line 0018\nline 0019\n");
        assert!(all.values().any(|t| t == "line 0015\nline 0016\nline 0017\n"), "{all:?}");
    }

    #[test]
    fn a_line_larger_than_a_file_is_written_whole() {
        let directory = tempfile::tempdir().unwrap();
        let rotation = Rotation { max_bytes: 4, ..Rotation::default() };
        let mut file = Rotated::open(&directory.path().join("new/events"), rotation).unwrap();
        file.line(b"a long line\n", Time(1)).unwrap();
        file.line(b"another\n", Time(2)).unwrap();
        file.flush().unwrap();
        let all = files(&directory.path().join("new"));
        assert_eq!(all["events"], "another\n");
        assert!(all.values().any(|t| t == "a long line\n"), "{all:?}");
    }
}
