//! How long the kernel waits for its readers while it changes network devices.
//!
//! Attaching a program to an interface, and removing the interface, waits for RCU grace periods with the lock of all
//! network configuration held (`tcx_entry_sync` in kernel/bpf/tcx.c, since 6.6). An ordinary grace period takes several
//! ticks: 16 to 28 ms at 250 Hz, in which no other link of the machine can be changed either. An expedited one asks every
//! CPU at once and takes less than a tenth of a millisecond. `/sys/kernel/rcu_expedited` chooses for the whole machine, so it
//! is switched on only while a change is being made.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

const SWITCH: &str = "/sys/kernel/rcu_expedited";

/// The machine's switch. A marker on disk says that it is on because of us: it is written first and removed last, so
/// that a process that died in between is tidied up after by the next.
#[derive(Debug)]
pub struct GracePeriods {
    switch: PathBuf,
    marker: PathBuf,
    /// Who wants short ones right now, and whether it was us who switched.
    users: Mutex<(u32, bool)>,
}

/// As long as it lives, grace periods are short.
#[derive(Debug)]
pub struct Short<'a>(&'a GracePeriods);

impl GracePeriods {
    /// Switches off what a former process has left on.
    ///
    /// Errors: the switch can't be written though it has to be (marker there, `/sys` read-only).
    pub fn open(marker: PathBuf) -> io::Result<Self> {
        Self::at(Path::new(SWITCH), marker)
    }

    fn at(switch: &Path, marker: PathBuf) -> io::Result<Self> {
        if marker.exists() {
            fs::write(switch, "0")?;
            fs::remove_file(&marker)?;
        }
        Ok(Self { switch: switch.to_owned(), marker, users: Mutex::default() })
    }

    /// Why grace periods cannot be shortened on this machine, if that is so; everything works, only slower.
    pub fn obstacle(&self) -> Option<String> {
        let slower = "programs are attached to a pod's link some 20 ms slower each";
        if fs::read_to_string("/sys/kernel/rcu_normal").is_ok_and(|v| v.trim() == "1") {
            return Some(format!("/sys/kernel/rcu_normal is 1: {slower}"));
        }
        let failed = fs::OpenOptions::new().write(true).open(&self.switch).err()?;
        Some(format!("{} cannot be written ({failed}): {slower}", self.switch.display()))
    }

    /// Makes grace periods short until the value is dropped. Where the switch is on already, or cannot be used, nothing is
    /// changed.
    pub fn shorten(&self) -> Short<'_> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if users.0 == 0 {
            users.1 = self.switch_on();
        }
        users.0 += 1;
        Short(self)
    }

    fn switch_on(&self) -> bool {
        let off = fs::read_to_string(&self.switch).is_ok_and(|v| v.trim() == "0");
        if !off || fs::write(&self.marker, "").is_err() {
            return false;
        }
        let on = fs::write(&self.switch, "1").is_ok();
        if !on {
            let _ = fs::remove_file(&self.marker);
        }
        on
    }

    fn switch_off(&self) {
        // a marker that stays makes the next process try again
        if let Err(error) = fs::write(&self.switch, "0").and_then(|()| fs::remove_file(&self.marker)) {
            tracing::warn!(%error, switch = %self.switch.display(), "grace periods stay short");
        }
    }
}

impl Drop for Short<'_> {
    fn drop(&mut self) {
        let mut users = self.0.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.0 = users.0.saturating_sub(1);
        if users.0 == 0 && std::mem::take(&mut users.1) {
            self.0.switch_off();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    struct Machine(PathBuf);

    impl Machine {
        fn new(name: &str, value: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("axoneme-grace-{name}-{}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("switch"), value).unwrap();
            Self(dir)
        }
        fn open(&self) -> GracePeriods {
            GracePeriods::at(&self.0.join("switch"), self.0.join("marker")).unwrap()
        }
        fn value(&self) -> String {
            fs::read_to_string(self.0.join("switch")).unwrap().trim().to_owned()
        }
        fn marked(&self) -> bool {
            self.0.join("marker").exists()
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn short_only_while_somebody_wants_it() {
        let machine = Machine::new("wanted", "0\n");
        let grace = machine.open();
        let first = grace.shorten();
        let second = grace.shorten();
        assert_eq!((machine.value(), machine.marked()), ("1".into(), true));
        drop(first);
        assert_eq!(machine.value(), "1");
        drop(second);
        assert_eq!((machine.value(), machine.marked()), ("0".into(), false));
    }

    #[test]
    fn a_switch_that_somebody_else_has_set_stays() {
        let machine = Machine::new("foreign", "1\n");
        drop(machine.open().shorten());
        assert_eq!((machine.value(), machine.marked()), ("1".into(), false));
    }

    #[test]
    fn a_process_that_died_with_it_on_is_tidied_up_after() {
        let machine = Machine::new("died", "0\n");
        let grace = machine.open();
        std::mem::forget(grace.shorten());
        assert_eq!((machine.value(), machine.marked()), ("1".into(), true));
        let next = machine.open();
        assert_eq!((machine.value(), machine.marked()), ("0".into(), false));
        drop(next.shorten());
        assert_eq!(machine.value(), "0");
    }

    #[test]
    fn a_switch_that_cannot_be_used_is_named_and_does_no_harm() {
        let machine = Machine::new("none", "0");
        let grace = GracePeriods::at(&machine.0.join("absent/switch"), machine.0.join("marker")).unwrap();
        drop(grace.shorten());
        assert!(!machine.marked());
        assert!(grace.obstacle().unwrap().contains("absent/switch"));
    }
}
