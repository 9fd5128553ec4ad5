//! Replicas, an API server and a network in virtual time.

use std::time::{Duration, SystemTime};

use proptest::{collection as many, prelude::*};

use super::{
    super::{REQUEST, RETRY},
    *,
};

/// A write that starts while the Lease is sure ends so late at most.
const WRITE: u64 = 3000;

/// The API server's Lease.
#[derive(Clone, Debug, Default)]
struct Server {
    lease: Option<View>,
    version: u64,
}

impl Server {
    fn write(&mut self, onto: Option<&str>, holder: &str, transitions: i64) -> bool {
        if self.lease.as_ref().map(|l| l.version.as_str()) != onto {
            return false;
        }
        self.version += 1;
        let version = self.version.to_string();
        self.lease = Some(View { version, holder: holder.to_owned(), address: Some(holder.to_owned()), transitions });
        true
    }
}

/// A request for the Lease on its way: read at one time, written at another, answered at a third; milliseconds of the
/// world. None: it never gets there.
#[derive(Clone, Debug)]
struct Attempt {
    started: Renewed,
    gives_up: u64,
    read: Option<u64>,
    decided: Option<Move>,
    write: Option<u64>,
    answer: Option<u64>,
    learnt: Option<Leadership>,
}

#[derive(Clone, Debug)]
struct Replica {
    name: String,
    /// Per mille that its steady clock runs faster.
    fast: i64,
    /// Milliseconds that its clock of the wall is off.
    off: i64,
    /// Milliseconds that its steady clock has missed: its machine slept.
    missed: u64,
    asleep_until: u64,
    /// When its clock of the wall was set.
    set_at: Option<u64>,
    seen: Seen,
    hold: Hold,
    leadership: Leadership,
    attempt: Option<Attempt>,
    next: u64,
    /// No request gets through until then.
    cut_until: u64,
    /// How long requests take.
    delay: u64,
}

impl Replica {
    fn now(&self, base: Renewed, world: u64) -> Renewed {
        let awake = world - self.missed;
        let steady = awake + awake * u64::try_from(self.fast + 1000).unwrap() / 1000 - awake;
        let off = Duration::from_millis(self.off.unsigned_abs());
        let right = base.wall + Duration::from_millis(world);
        Renewed {
            steady: base.steady + Duration::from_millis(steady),
            wall: if self.off < 0 { right - off } else { right + off },
        }
    }

    /// One step of the candidate's loop, as `run` makes it.
    fn step(&mut self, base: Renewed, world: u64, server: &mut Server) {
        let now = self.now(base, world);
        let Some(mut a) = self.attempt.take() else {
            if world >= self.next {
                let cut = world < self.cut_until;
                let at = |n: u64| (!cut).then(|| world + self.delay * n);
                self.attempt = Some(Attempt {
                    started: now,
                    gives_up: world + u64::try_from(REQUEST.as_millis()).unwrap(),
                    read: at(1),
                    decided: None,
                    write: at(3),
                    answer: at(4),
                    learnt: None,
                });
            }
            return;
        };
        if a.decided.is_none() && a.read.is_some_and(|t| world >= t) {
            a.decided = Some(self.seen.judge(server.lease.as_ref(), &self.name, a.started.steady));
            if let Some(Move::Leave(l)) = &a.decided {
                (a.learnt, a.answer) = (Some(l.clone()), Some(world));
            }
        }
        // what is on its way arrives, whether anybody waits for the answer or not
        if a.learnt.is_none() && a.write.is_some_and(|t| world >= t) {
            let won = match &a.decided {
                Some(Move::Create) => server.write(None, &self.name, 0),
                Some(Move::Write { version, transitions }) => server.write(Some(version), &self.name, *transitions),
                _ => false,
            };
            a.learnt = Some(if won { Leadership::Me } else { Leadership::Unknown });
        }
        let answered = a.answer.is_some_and(|t| world >= t) && a.learnt.is_some();
        if !answered && world < a.gives_up {
            self.attempt = Some(a);
            return;
        }
        let learnt = a.learnt.filter(|_| answered);
        let (renewed, leadership) = after(self.hold.renewed(), learnt, a.started, now);
        self.leadership = leadership;
        self.hold.set(renewed);
        self.next = world + u64::try_from(RETRY.as_millis()).unwrap();
    }
}

/// What happens to a replica.
#[derive(Clone, Debug)]
enum Fault {
    /// Cut off from the API server.
    Cut(u64),
    /// Requests take so long.
    Slow(u64),
    /// Its clock of the wall is set.
    Set(i64),
    /// Its machine sleeps, and its steady clock with it.
    Sleep(u64),
    /// It is killed and comes back.
    Restart,
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        3 => (0..20_000u64).prop_map(Fault::Cut),
        3 => (1..900u64).prop_map(Fault::Slow),
        2 => (-100_000..100_000i64).prop_map(Fault::Set),
        2 => (0..30_000u64).prop_map(Fault::Sleep),
        1 => Just(Fault::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Three replicas whose clocks run up to 4 % apart, cut off, slowed, put to sleep, killed, their clocks set: a write
    /// that started under one hold has ended before anybody else's hold begins, within one term nobody else has written,
    /// and whenever all is well for a while exactly one of them leads.
    #[test]
    fn writes_of_two_holders_never_overlap(
        fast in many::vec(-20..=20i64, 3),
        faults in many::vec((0..3usize, 500..15_000u64, fault()), 0..16),
    ) {
        let base = Renewed { steady: Instant::now(), wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000) };
        let mut server = Server::default();
        let mut replicas: Vec<Replica> = fast.iter().enumerate().map(|(i, fast)| Replica {
            name: format!("r{i}"), fast: *fast, off: 0, missed: 0, asleep_until: 0, set_at: None, seen: Seen::default(), hold: Hold::default(),
            leadership: Leadership::Unknown, attempt: None, next: i as u64 * 300, cut_until: 0, delay: 5,
        }).collect();
        let (mut world, mut due) = (0u64, 0u64);
        let mut schedule = Vec::new();
        for (who, wait, fault) in faults {
            due += wait;
            schedule.push((due, who, fault));
        }
        let end = due + 80_000;
        let mut schedule = schedule.into_iter().peekable();
        // of each replica: when the last write that it began would end
        let mut busy = [0u64; 3];
        // of each replica: its term, and who wrote last when that began or it wrote itself
        let mut terms = [Term::default(); 3];
        let mut last = None;
        let mut leaders = 0;
        while world < end {
            while let Some((_, who, fault)) = schedule.next_if(|(at, ..)| *at <= world) {
                let r = &mut replicas[who];
                match fault {
                    Fault::Cut(ms) => r.cut_until = world + ms,
                    Fault::Slow(ms) => r.delay = ms,
                    // nobody sets back the clock of a machine by just the time that it slept, or is about to sleep, before
                    // its replica has looked at the Lease again: two clocks that are held back alike can't be told
                    Fault::Set(ms) if world >= r.asleep_until + 5000 => (r.off, r.set_at) = (ms, Some(world)),
                    Fault::Set(_) => {}
                    Fault::Sleep(_) if r.set_at.is_some_and(|at| world < at + 5000) => {}
                    Fault::Sleep(ms) => {
                        r.asleep_until = r.asleep_until.max(world + ms);
                        // what it has sent arrives or is lost; what it has not sent, it asks again before it does
                        busy[who] = 0;
                    }
                    Fault::Restart => {
                        (r.seen, r.attempt, r.leadership) = (Seen::default(), None, Leadership::Unknown);
                        r.hold.set(None);
                        r.next = world + 1000;
                        busy[who] = 0;
                    }
                }
            }
            if world >= due + 35_000 {
                // all is well again
                for r in &mut replicas {
                    (r.delay, r.cut_until) = (5, 0);
                }
            }
            leaders = 0;
            for i in 0..3 {
                if world < replicas[i].asleep_until {
                    replicas[i].missed += 50;
                    continue;
                }
                replicas[i].step(base, world, &mut server);
                let now = replicas[i].now(base, world);
                if replicas[i].hold.lets(replicas[i].hold.term(), now) {
                    leaders += 1;
                    if std::mem::replace(&mut terms[i], replicas[i].hold.term()) == replicas[i].hold.term() {
                        prop_assert_eq!(last, Some(i), "another one wrote within the term of r{} at {} ms", i, world);
                    }
                    last = Some(i);
                    // a write may begin now
                    for j in (0..3).filter(|j| *j != i) {
                        prop_assert!(busy[j] <= world, "r{} begins to write at {} ms while a write of r{} goes on", i, world, j);
                    }
                    busy[i] = world + WRITE;
                }
            }
            prop_assert!(leaders <= 1, "{} replicas may write at {} ms", leaders, world);
            world += 50;
        }
        prop_assert_eq!(leaders, 1, "somebody leads when all is well");
    }
}

#[test]
fn a_hold_that_the_clocks_do_not_agree_on_is_none() {
    let base = Renewed { steady: Instant::now(), wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1000) };
    let at = |steady: u64, wall: i64| Renewed {
        steady: base.steady + Duration::from_millis(steady),
        wall: SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(1_000_000 + wall).unwrap()),
    };
    assert!(base.is_sure_at(at(3999, 3999)));
    assert!(base.is_sure_at(at(3999, 4100)), "a clock that is slewed");
    assert!(!base.is_sure_at(at(4000, 4000)));
    assert!(!base.is_sure_at(at(100, 60_000)), "the machine slept");
    assert!(!base.is_sure_at(at(100, -1)), "the clock was set back");
}
