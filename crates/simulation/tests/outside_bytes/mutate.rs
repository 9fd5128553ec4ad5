//! Bytes that are nearly right, and what happens when a parser gets them.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

/// A parser that is at it for longer hangs. Generous: debug builds on busy machines.
const LIMIT: Duration = Duration::from_secs(20);

/// Somebody who reads what others wrote.
pub struct Parser {
    pub name: &'static str,
    /// Inputs that it should take, made by today's code.
    pub samples: fn() -> Vec<Vec<u8>>,
    /// Reads; whether it took it. It may refuse anything, and must neither panic nor hang.
    pub read: fn(&[u8]) -> bool,
    /// Inputs that CI tries.
    pub cases: u32,
}

/// One step away from what is right.
#[derive(Clone, Debug)]
enum Change {
    Flip(Index, u8),
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Delete(Index, usize),
    /// A piece once more, elsewhere.
    Repeat(Index, Index, usize),
    Cut(Index),
    /// A number in digits becomes another.
    Number(Index, &'static str),
    /// Four bytes become an extreme length or number.
    Word(Index, [u8; 4]),
}

const WORDS: [&str; 26] = [
    "null",
    "true",
    "[]",
    "{}",
    "\"\"",
    "-1",
    "0",
    "65536",
    "4294967296",
    "18446744073709551616",
    "1e999",
    "/",
    "::/0",
    "0.0.0.0/0",
    "::ffff:1.2.3.4",
    "10.0.0.0/33",
    "*",
    "\u{0}",
    "\u{202e}",
    "ÿ",
    "%00",
    "&a=%",
    "\n---\n",
    "!!binary ",
    "&a *a",
    "{\"matchLabels\":{}}",
];
const NUMBERS: [&str; 9] =
    ["0", "-1", "65535", "65536", "4294967295", "9223372036854775808", "18446744073709551615", "1e400", "0x7f"];

const EXTREMES: [[u8; 4]; 5] =
    [[0xff; 4], [0; 4], [0x7f, 0xff, 0xff, 0xff], [0xff, 0xff, 0xff, 0x7f], [0x80, 0x80, 0x80, 0x80]];

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    prop_oneof![
        4 => (at(), 0u8..8).prop_map(|(i, bit)| Change::Flip(i, 1 << bit)),
        3 => (at(), any::<u8>()).prop_map(|(i, b)| Change::Set(i, b)),
        2 => (at(), vec(any::<u8>(), 1..12)).prop_map(|(i, b)| Change::Insert(i, b)),
        3 => (at(), select(&WORDS[..])).prop_map(|(i, w)| Change::Insert(i, w.as_bytes().to_vec())),
        3 => (at(), 1usize..40).prop_map(|(i, n)| Change::Delete(i, n)),
        3 => (at(), at(), 1usize..80).prop_map(|(i, j, n)| Change::Repeat(i, j, n)),
        1 => at().prop_map(Change::Cut),
        3 => (at(), select(&NUMBERS[..])).prop_map(|(i, n)| Change::Number(i, n)),
        2 => (at(), select(&EXTREMES[..])).prop_map(|(i, w)| Change::Word(i, w)),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    let place = |i: &Index, bytes: &Vec<u8>| i.index(bytes.len() + 1);
    match change {
        Change::Flip(i, bit) => {
            let at = place(i, bytes);
            bytes.get_mut(at).into_iter().for_each(|b| *b ^= bit);
        }
        Change::Set(i, value) => {
            let at = place(i, bytes);
            bytes.get_mut(at).into_iter().for_each(|b| *b = *value);
        }
        Change::Insert(i, piece) => {
            let at = place(i, bytes);
            bytes.splice(at..at, piece.iter().copied());
        }
        Change::Delete(i, n) => {
            let at = place(i, bytes);
            bytes.drain(at..(at + n).min(bytes.len()));
        }
        Change::Repeat(i, j, n) => {
            let (from, to) = (place(i, bytes), place(j, bytes));
            let piece = bytes[from..(from + n).min(bytes.len())].to_vec();
            bytes.splice(to..to, piece);
        }
        Change::Cut(i) => bytes.truncate(place(i, bytes)),
        Change::Number(i, number) => {
            let at = place(i, bytes);
            let Some(from) = (at..bytes.len()).find(|p| bytes[*p].is_ascii_digit()) else { return };
            let to = (from..bytes.len()).find(|p| !bytes[*p].is_ascii_digit()).unwrap_or(bytes.len());
            bytes.splice(from..to, number.bytes());
        }
        Change::Word(i, word) => {
            let at = place(i, bytes);
            bytes.iter_mut().skip(at).zip(word).for_each(|(b, w)| *b = *w);
        }
    }
}

/// Samples of today's code and what the corpus keeps.
pub fn samples(parser: &Parser) -> Vec<Vec<u8>> {
    let mut all = (parser.samples)();
    let mut kept: Vec<PathBuf> = std::fs::read_dir(corpus(parser.name))
        .into_iter()
        .flatten()
        .map(|e| e.expect("the corpus can be read").path())
        .collect();
    kept.sort();
    all.extend(kept.iter().map(|p| std::fs::read(p).expect("the corpus can be read")));
    assert!(!all.is_empty(), "{}: nothing to begin with", parser.name);
    all
}

pub fn corpus(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name)
}

/// Since when an input is read, and which.
type Reading = Option<(Instant, Vec<u8>)>;

/// Tells of a parser that does not come back: nothing else could.
struct Watchdog {
    at: Arc<Mutex<Reading>>,
    done: Arc<AtomicBool>,
}

impl Watchdog {
    fn new(name: &'static str) -> Self {
        let (at, done) = (Arc::<Mutex<Option<(Instant, Vec<u8>)>>>::default(), Arc::new(AtomicBool::new(false)));
        let (looks_at, ends) = (at.clone(), done.clone());
        std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(500));
                if let Some((since, input)) = &*looks_at.lock().unwrap()
                    && since.elapsed() > LIMIT * 4
                {
                    eprintln!("{name} hangs on\n{}", shown(input));
                    std::process::exit(101);
                }
            }
        });
        Self { at, done }
    }

    fn watch(&self, input: &[u8], read: impl FnOnce() -> bool) -> (bool, Duration) {
        let begun = Instant::now();
        *self.at.lock().unwrap() = Some((begun, input.to_vec()));
        let took = read();
        *self.at.lock().unwrap() = None;
        (took, begun.elapsed())
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
    }
}

pub fn shown(input: &[u8]) -> String {
    let hex = input.iter().fold(String::new(), |hex, b| hex + &format!("{b:02x}"));
    format!("text: {}\nhex: {hex}", input.escape_ascii())
}

/// Tries the samples as they are and then changed ones, always the same for a seed.
pub fn run(parser: &Parser, seed: u64, cases: u32) {
    let (samples, dog) = (samples(parser), Watchdog::new(parser.name));
    let taken = samples.iter().filter(|s| dog.watch(s, || (parser.read)(s)).0).count();
    assert!(taken > 0, "{}: it takes none of its samples, so nothing behind its door is tried", parser.name);
    let nearly = (any::<Index>(), vec(change(), 0..10)).prop_map(move |(which, changes)| {
        let mut bytes = samples[which.index(samples.len())].clone();
        for c in &changes {
            apply(&mut bytes, c);
        }
        bytes
    });
    let inputs = prop_oneof![15 => nearly, 1 => vec(any::<u8>(), 0..200)];
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 4000, ..Config::default() };
    let mut bytes = [0u8; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let result = runner.run(&inputs, |input| {
        let (_, time) = dog.watch(&input, || (parser.read)(&input));
        prop_assert!(time < LIMIT, "it takes {time:?}");
        Ok(())
    });
    if let Err(proptest::test_runner::TestError::Fail(why, input)) = result {
        panic!(
            "{}: {why}\n{}\nseed {seed}; keep it as a file in {} once it is mended",
            parser.name,
            shown(&input),
            corpus(parser.name).display()
        );
    }
}
