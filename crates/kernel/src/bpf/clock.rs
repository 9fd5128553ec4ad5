//! The kernel's jiffies, as the programs count time. No file tells them on every kernel, so two programs of a few
//! instructions do.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use axoneme_abi::constants::TICK_SHIFT;

use super::{sys, system::explain};
use crate::datapath::Result;

/// `call bpf_jiffies64`, `r0 >>= 32`, `exit` (include/uapi/linux/bpf.h; helper 118).
const CALL_JIFFIES: u64 = 0x85 | 118 << 32;
const HIGH_HALF: u64 = 0x77 | 32 << 32;
const EXIT: u64 = 0x95;

/// Reads jiffies.
#[derive(Debug)]
pub(super) struct Clock {
    low: OwnedFd,
    high: OwnedFd,
    hertz: u32,
}

impl Clock {
    pub(super) fn open() -> Result<Self> {
        let load = |code: &[u64]| sys::load_classifier(code).map_err(|e| explain("read the kernel's clock", e));
        let mut clock =
            Self { low: load(&[CALL_JIFFIES, EXIT])?, high: load(&[CALL_JIFFIES, HIGH_HALF, EXIT])?, hertz: 0 };
        clock.hertz = clock.find_hertz()?;
        Ok(clock)
    }

    fn half(program: &OwnedFd) -> Result<u64> {
        let out =
            sys::test_run(program.as_fd(), &[0; 64], None, 1).map_err(|e| explain("read the kernel's clock", e))?;
        Ok(u64::from(u32::from_ne_bytes(out.result.to_ne_bytes())))
    }

    fn jiffies(&self) -> Result<u64> {
        loop {
            let high = Self::half(&self.high)?;
            let low = Self::half(&self.low)?;
            if high == Self::half(&self.high)? {
                return Ok(high << 32 | low);
            }
        }
    }

    /// Jiffies per second.
    pub(super) const fn hertz(&self) -> u32 {
        self.hertz
    }

    /// The programs' tick.
    pub(super) fn tick(&self) -> Result<u32> {
        Ok((self.jiffies()? >> TICK_SHIFT) as u32)
    }

    /// `jiffies_64` starts at `2^32 - 300·HZ` (`INITIAL_JIFFIES`), so that of the usual rates only the right one makes
    /// it agree with the monotonic clock.
    fn find_hertz(&self) -> Result<u32> {
        let jiffies = self.jiffies()?;
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
            .map_err(|e| explain("read the monotonic clock", io::Error::from(e)))?;
        let milliseconds =
            u64::try_from(now.tv_sec()).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec()).unwrap_or(0) / 1_000_000;
        Ok(best_rate(jiffies, milliseconds))
    }
}

fn best_rate(jiffies: u64, milliseconds: u64) -> u32 {
    let error = |rate: &u32| {
        let rate = u64::from(*rate);
        let since = jiffies.saturating_sub((1u64 << 32) - 300 * rate);
        (since * 1000 / rate).abs_diff(milliseconds)
    };
    [100, 250, 300, 1000].into_iter().min_by_key(error).unwrap_or(250)
}

#[cfg(test)]
mod tests {
    use super::best_rate;

    #[test]
    fn rate_is_found_from_one_minute_to_five_years_of_uptime() {
        for rate in [100u32, 250, 300, 1000] {
            for seconds in [60u64, 1000, 86_400, 5 * 365 * 86_400] {
                let jiffies = (1u64 << 32) - 300 * u64::from(rate) + seconds * u64::from(rate);
                assert_eq!(best_rate(jiffies, seconds * 1000 + 3), rate, "after {seconds} s");
            }
        }
    }
}
