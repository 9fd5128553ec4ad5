//! The screen: drawn anew each interval until somebody presses q.

use std::{
    io::{self, BufRead, Write},
    sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use axoneme_flow::{
    Query, Response, Time,
    admin::{self, Status},
};
use crossterm::{
    cursor::{Hide, MoveTo, Show},
    event::{self, Event, KeyCode, KeyModifiers},
    queue,
    terminal::{self, Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen},
};

use super::{Report, Tally, response};
use crate::{
    agent::Agent,
    args,
    failure::Failure,
    output::{Output, Tone},
};

/// Seconds that are looked at where nothing else is asked for.
const WINDOW: u64 = 60;
/// Flows on their way from the stream to the screen.
const QUEUE: usize = 4096;
/// How long flows are taken before keys and the clock have their turn.
const TURN: Duration = Duration::from_millis(100);

pub(super) fn run(agent: &Agent, args: &args::Top, out: &mut Output) -> Result<(), Failure> {
    // what cannot be asked is said before the screen is taken
    let status: Status = agent.get(admin::STATUS)?;
    let flows = follow(agent)?;
    let mut tally = Tally::new(Some(args.window.unwrap_or(WINDOW)));
    let taken = Taken::take(out)?;
    let ended = show(agent, args, out, &flows, &mut tally, status);
    let given_back = taken.give_back(out);
    ended.and(given_back)
}

/// The terminal while it shows the screen.
struct Taken;

impl Taken {
    fn take(out: &mut Output) -> Result<Self, Failure> {
        terminal::enable_raw_mode().map_err(|e| Failure::output(&e))?;
        write(out, |to| queue!(to, EnterAlternateScreen, Hide))?;
        Ok(Self)
    }

    fn give_back(self, out: &mut Output) -> Result<(), Failure> {
        let Self = self;
        let shown = write(out, |to| queue!(to, Show, LeaveAlternateScreen));
        terminal::disable_raw_mode().map_err(|e| Failure::output(&e)).and(shown)
    }
}

fn write(out: &mut Output, what: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> Result<(), Failure> {
    let mut bytes = Vec::new();
    what(&mut bytes).map_err(|e| Failure::output(&e))?;
    out.raw(&bytes)?;
    out.flush()
}

/// The flows of the history and those that come, read beside the screen.
fn follow(agent: &Agent) -> Result<Receiver<Result<Response, Failure>>, Failure> {
    let path = format!("{}?{}", admin::FLOWS, Query { follow: true, ..Query::default() }.to_url());
    let lines = agent.lines(&path, true)?.lines();
    let (to, from) = sync_channel(QUEUE);
    let agent = agent.clone();
    let read = move || forward(&agent, &path, lines, &to);
    thread::Builder::new().name("flows".into()).spawn(read).map_err(|e| Failure::output(&e))?;
    Ok(from)
}

/// Until the stream ends, which is told, or nobody listens any more.
fn forward(
    agent: &Agent,
    path: &str,
    lines: impl Iterator<Item = io::Result<String>>,
    to: &SyncSender<Result<Response, Failure>>,
) {
    for line in lines {
        let flow = line.map_err(|e| agent.lost(path, &e)).and_then(|line| response(&line));
        let last = flow.is_err();
        if to.send(flow).is_err() || last {
            return;
        }
    }
    // if nobody listens, nobody wants to know
    let _ = to.send(Err(agent.lost(path, &io::ErrorKind::UnexpectedEof.into())));
}

fn show(
    agent: &Agent,
    args: &args::Top,
    out: &mut Output,
    flows: &Receiver<Result<Response, Failure>>,
    tally: &mut Tally,
    mut status: Status,
) -> Result<(), Failure> {
    let interval = Duration::from_secs(args.interval.max(1));
    let (mut newest, mut due) = ((Time::default(), Instant::now()), Instant::now());
    loop {
        take(flows, tally)?;
        match tally.newest() {
            // the agent's clock goes on while nothing comes
            Some(time) if time <= newest.0 => tally.advance(later(newest.0, newest.1.elapsed())),
            Some(time) => newest = (time, Instant::now()),
            None => {}
        }
        if Instant::now() >= due {
            status = agent.get(admin::STATUS).or_else(|e| if flows_end(&e) { Err(e) } else { Ok(status) })?;
            draw(out, &Report::of(tally, &status, args))?;
            due = Instant::now() + interval;
        }
        if event::poll(TURN).map_err(|e| Failure::output(&e))? {
            match event::read().map_err(|e| Failure::output(&e))? {
                Event::Key(key) if ends(key.code, key.modifiers) => return Ok(()),
                Event::Key(_) | Event::Resize(..) => due = Instant::now(),
                _ => {}
            }
        }
    }
}

/// An agent that is gone has no flows either; a document that is not understood can wait for the next one.
fn flows_end(failure: &Failure) -> bool {
    matches!(failure, Failure::Unreachable(_))
}

fn later(time: Time, by: Duration) -> Time {
    Time(time.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
}

fn ends(key: KeyCode, with: KeyModifiers) -> bool {
    let interrupt = key == KeyCode::Char('c') && with.contains(KeyModifiers::CONTROL);
    matches!(key, KeyCode::Char('q') | KeyCode::Esc) || interrupt
}

fn take(flows: &Receiver<Result<Response, Failure>>, tally: &mut Tally) -> Result<(), Failure> {
    let ends = Instant::now() + TURN;
    while Instant::now() < ends {
        match flows.try_recv() {
            Ok(flow) => tally.add(&flow?),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => return Ok(()),
        }
    }
    Ok(())
}

fn draw(out: &mut Output, report: &Report) -> Result<(), Failure> {
    let (width, height) = terminal::size().unwrap_or((80, 24));
    let lines = frame(report, width.into(), height.into());
    let toned: Vec<String> =
        lines.iter().map(|(tone, line)| tone.map_or_else(|| line.clone(), |tone| out.tone(tone, line))).collect();
    write(out, |to| {
        queue!(to, MoveTo(0, 0), Clear(ClearType::All))?;
        write!(to, "{}", toned.join("\r\n"))
    })
}

/// The report in a terminal of that size: what does not fit is cut, the last line says how to leave.
fn frame(report: &Report, width: usize, height: usize) -> Vec<(Option<Tone>, String)> {
    let mut lines = report.lines();
    lines.truncate(height.saturating_sub(1));
    lines.push((Some(Tone::Faint), "q ends".into()));
    lines.into_iter().map(|(tone, line)| (tone, line.chars().take(width).collect())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{args::Cli, args::Command};
    use clap::Parser as _;

    fn report() -> Report {
        let Command::Top(args) = Cli::parse_from(["axoneme", "top"]).command else { panic!("top is a command") };
        let status =
            Status { node: "worker-1".into(), reasons: vec!["bpffs is not mounted".into()], ..Status::default() };
        Report::of(&Tally::new(Some(60)), &status, &args)
    }

    #[test]
    fn a_frame_fits_its_terminal() {
        for (width, height) in [(0, 0), (1, 1), (20, 3), (400, 100)] {
            let frame = frame(&report(), width, height);
            assert!(frame.len() <= height.max(1), "{width}×{height}: {frame:?}");
            assert!(frame.iter().all(|l| l.1.chars().count() <= width), "{width}×{height}: {frame:?}");
        }
        let whole = frame(&report(), 400, 100);
        assert_eq!(whole[0], (Some(Tone::Bad), "node worker-1: not ready".into()));
        assert!(whole.iter().any(|l| l.1.contains("bpffs is not mounted")), "{whole:?}");
        assert_eq!(whole.last().unwrap().1, "q ends");
    }

    #[test]
    fn the_screen_is_left_by_the_keys_that_people_try() {
        let none = KeyModifiers::NONE;
        assert!(ends(KeyCode::Char('q'), none) && ends(KeyCode::Esc, none));
        assert!(ends(KeyCode::Char('c'), KeyModifiers::CONTROL) && !ends(KeyCode::Char('c'), none));
    }
}
