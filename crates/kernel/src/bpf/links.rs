//! Programs on interfaces and on the cgroup.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

use super::{
    datapath::BpfDatapath,
    loader::{self, GUARDS, Programs, SOCKETS, program},
    sys,
    system::{Version, explain, io_error},
};
use crate::datapath::{DatapathError, Hook, Result};

/// Where a program hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    program: &'static str,
    ingress: bool,
}

const FROM_CONTAINER: Place = Place { program: "from_container", ingress: true };
const TO_CONTAINER: Place = Place { program: "to_container", ingress: false };
const FROM_NETDEV: Place = Place { program: "from_netdev", ingress: true };
const FROM_OVERLAY: Place = Place { program: "from_overlay", ingress: true };
const TO_OVERLAY: Place = Place { program: "to_overlay", ingress: false };

/// Programs of a hook. The order matters at first attachment: a packet that comes from a pod before the way to the pod
/// is watched would be answered around the policy.
const fn places(hook: Hook) -> &'static [Place] {
    match hook {
        Hook::Endpoint => &[TO_CONTAINER, FROM_CONTAINER],
        Hook::Uplink => &[FROM_NETDEV],
        Hook::Overlay => &[TO_OVERLAY, FROM_OVERLAY],
    }
}

/// The host firewall: on every interface that has a hook's programs, behind these, while a guard is in force.
const GUARD: [Place; 2] =
    [Place { program: "guard_out", ingress: false }, Place { program: "guard_in", ingress: true }];

/// Where fragments come out of the waiting room.
const FROM_WAITING: Place = Place { program: super::waiting::PROGRAM, ingress: true };

/// Before everything else of a pod whose sending has a limit, and where it comes out of its queue.
pub(super) const TO_QUEUE: Place = Place { program: "to_queue", ingress: true };
pub(super) const FROM_QUEUE: Place = Place { program: "from_queue", ingress: true };

/// `BPF_F_BEFORE`; without saying whom: before all.
const BEFORE: u32 = 1 << 3;

const HOOKS: [Hook; 3] = [Hook::Endpoint, Hook::Uplink, Hook::Overlay];

/// Attach types of `enum bpf_attach_type` for [`SOCKETS`], in its order.
const SOCKET_TYPES: [u32; 8] = [10, 11, 14, 15, 19, 20, 29, 30];

/// Pin of the waiting room's link.
const ROOM: &str = "room_from_waiting";

pub(super) fn dir(pin_dir: &Path) -> PathBuf {
    pin_dir.join("links")
}

pub(super) fn pin_of(pin_dir: &Path, ifindex: u32, place: Place) -> PathBuf {
    dir(pin_dir).join(format!("{ifindex}_{}", place.program))
}

/// Interface and program of a pin's name. Programs of the host firewall and of queues belong to no hook.
fn parse(name: &str) -> Option<(u32, Option<Hook>, Place)> {
    let (ifindex, program) = name.split_once('_')?;
    let ifindex = ifindex.parse().ok()?;
    if let Some(place) = GUARD.into_iter().chain([TO_QUEUE, FROM_QUEUE]).find(|p| p.program == program) {
        return Some((ifindex, None, place));
    }
    HOOKS.into_iter().find_map(|hook| {
        let place = places(hook).iter().find(|p| p.program == program)?;
        Some((ifindex, Some(hook), *place))
    })
}

/// Interface, hook, program and path of a pin.
type Pin = (u32, Option<Hook>, Place, PathBuf);

/// Pins of links, and notes of attachments without one.
fn list(pin_dir: &Path) -> Result<Vec<Pin>> {
    let dir = dir(pin_dir);
    let list = fs::read_dir(&dir).map_err(|e| io_error(format!("list {}", dir.display()), e))?;
    let mut found = Vec::new();
    for entry in list {
        let entry = entry.map_err(|e| io_error(format!("list {}", dir.display()), e))?;
        if let Some((ifindex, hook, place)) = entry.file_name().to_str().and_then(parse) {
            found.push((ifindex, hook, place, entry.path()));
        }
    }
    Ok(found)
}

/// Takes programs off the devices that hold them by a filter and not by a pinned link (kernels before 6.6): nothing else
/// would, since such a filter lives as long as its device. Needs no datapath, and is repeatable. The empty `clsact`
/// queue stays: others may have filters in it.
pub fn remove_filters(pin_dir: &Path) -> Result<u32> {
    if !dir(pin_dir).exists() {
        return Ok(0);
    }
    let mut removed = 0;
    for (ifindex, _, place, path) in list(pin_dir)?.into_iter().filter(|(.., path)| path.is_dir()) {
        super::clsact::detach(place.program, ifindex, place.ingress)?;
        unpin(&path)?;
        removed += 1;
    }
    Ok(removed)
}

impl BpfDatapath {
    fn pins(&self) -> Result<Vec<Pin>> {
        list(&self.config.pin_dir)
    }

    /// Attaches as on a kernel that has no links, whatever this one has.
    #[doc(hidden)]
    pub fn attach_filters(&self, hook: Hook, ifindex: u32) -> Result<()> {
        let programs = self.programs();
        places(hook)
            .iter()
            .try_for_each(|place| filter(&programs, *place, ifindex, &pin_of(&self.config.pin_dir, ifindex, *place)))
    }

    /// Puts the loaded programs behind all pinned links. Pins of vanished interfaces are removed.
    pub(super) fn update_links(&self) -> Result<()> {
        let programs = self.programs();
        for (ifindex, _, place, path) in self.pins()? {
            if !programs.contains_key(place.program) {
                // The host firewall was switched off.
                self.take_off_now(ifindex, place, &path)?;
                continue;
            }
            let there = if self.version < Version::TCX {
                refilter(&programs, ifindex, place)?
            } else {
                self.renew(&programs, ifindex, place, &path)?
            };
            if !there {
                unpin(&path)?;
            }
        }
        let path = dir(&self.config.pin_dir).join(ROOM);
        if self.version >= Version::TCX
            && let Ok(link) = sys::open_pin(&path)
        {
            let far = sys::link_info(link.as_fd()).map_or(0, |i| i.ifindex);
            if !self.renew(&programs, far, FROM_WAITING, &path)? {
                unpin(&path)?;
            }
        }
        drop(programs);
        Ok(())
    }

    /// Puts the waiting room's program on its far end.
    pub(super) fn attach_room(&self, ifindex: u32) -> Result<()> {
        let programs = self.programs();
        self.attach_place(&programs, FROM_WAITING, ifindex, &dir(&self.config.pin_dir).join(ROOM))
    }

    /// Replaces the program behind a pin. False: there is no link, or its interface is gone.
    fn renew(&self, programs: &Programs, ifindex: u32, place: Place, path: &Path) -> Result<bool> {
        let link = match sys::open_pin(path) {
            Ok(link) => link,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(false),
            Err(e) => return Err(io_error(format!("open {}", path.display()), e)),
        };
        if self.version >= Version::TCX && sys::link_info(link.as_fd()).is_ok_and(|i| i.ifindex != ifindex) {
            return Ok(false);
        }
        match sys::update_link(link.as_fd(), program(programs, place.program)?) {
            Ok(()) => Ok(true),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOLINK | libc::ENODEV)) => Ok(false),
            Err(e) => Err(explain(&format!("replace {} on interface {ifindex}", place.program), e)),
        }
    }

    pub(super) fn attach_interface(&self, hook: Hook, ifindex: u32) -> Result<()> {
        self.catch_up(false)?;
        self.open_room()?;
        let programs = self.programs();
        let guard: &[Place] = if self.is_guarded()? { &GUARD } else { &[] };
        for place in places(hook).iter().chain(guard) {
            self.attach_place(&programs, *place, ifindex, &pin_of(&self.config.pin_dir, ifindex, *place))?;
        }
        drop(programs);
        Ok(())
    }

    /// Puts the host firewall's programs on every interface that has others.
    pub(super) fn attach_guard(&self) -> Result<()> {
        let programs = self.programs();
        for (_, ifindex) in self.attached_interfaces()? {
            for place in GUARD {
                self.attach_place(&programs, place, ifindex, &pin_of(&self.config.pin_dir, ifindex, place))?;
            }
        }
        drop(programs);
        Ok(())
    }

    pub(super) fn attach_queue(&self, place: Place, ifindex: u32) -> Result<()> {
        let programs = self.programs();
        self.attach_place(&programs, place, ifindex, &pin_of(&self.config.pin_dir, ifindex, place))
    }

    /// Interfaces that have the program.
    pub(super) fn with_program(&self, place: Place) -> Result<Vec<u32>> {
        Ok(self.pins()?.into_iter().filter(|p| p.2 == place).map(|p| p.0).collect())
    }

    pub(super) fn detach_queue(&self, place: Place, ifindex: u32) -> Result<()> {
        self.take_off_now(ifindex, place, &pin_of(&self.config.pin_dir, ifindex, place))
    }

    /// Takes them off all interfaces.
    pub(super) fn detach_guard(&self) -> Result<()> {
        for (ifindex, _, place, path) in self.pins()?.into_iter().filter(|p| GUARD.contains(&p.2)) {
            self.take_off_now(ifindex, place, &path)?;
        }
        Ok(())
    }

    /// As [`Self::take_off`], but at once, so that the same program can come back to the same place: without its pin alone
    /// a link stays until the kernel finds the time.
    fn take_off_now(&self, ifindex: u32, place: Place, path: &Path) -> Result<()> {
        if self.version >= Version::TCX
            && let Ok(link) = sys::open_pin(path)
        {
            match sys::detach_link(link.as_fd()) {
                // the interface is gone, and it from it
                Err(e) if !matches!(e.raw_os_error(), Some(libc::ENOLINK | libc::ENODEV | libc::ENOENT)) => {
                    return Err(explain(&format!("take {} off interface {ifindex}", place.program), e));
                }
                _ => {}
            }
        }
        self.take_off(ifindex, place, path)
    }

    fn take_off(&self, ifindex: u32, place: Place, path: &Path) -> Result<()> {
        if self.version < Version::TCX {
            super::clsact::detach(place.program, ifindex, place.ingress)?;
        }
        unpin(path)
    }

    fn attach_place(&self, programs: &Programs, place: Place, ifindex: u32, path: &Path) -> Result<()> {
        if self.version < Version::TCX {
            return filter(programs, place, ifindex, path);
        }
        if self.renew(programs, ifindex, place, path)? {
            return Ok(());
        }
        unpin(path)?;
        let kind = if place.ingress { sys::TCX_INGRESS } else { sys::TCX_EGRESS };
        let flags = if place == TO_QUEUE { BEFORE } else { 0 };
        let operation = || format!("attach {} to interface {ifindex}", place.program);
        let link = sys::create_tcx(program(programs, place.program)?, ifindex, [kind, flags])
            .map_err(|e| explain(&operation(), e))?;
        sys::pin(link.as_fd(), path).map_err(|e| explain(&format!("pin {}", path.display()), e))
    }

    pub(super) fn detach_interface(&self, ifindex: u32) -> Result<()> {
        for (_, _, place, path) in self.pins()?.into_iter().filter(|p| p.0 == ifindex) {
            self.take_off(ifindex, place, &path)?;
        }
        self.forget_limit(ifindex)
    }

    pub(super) fn attached_interfaces(&self) -> Result<Vec<(Hook, u32)>> {
        let mut found = Vec::new();
        for (ifindex, hook, _, path) in self.pins()? {
            let Some(hook) = hook else { continue };
            let alive = self.version < Version::TCX
                || sys::open_pin(&path).and_then(|l| sys::link_info(l.as_fd())).is_ok_and(|i| i.ifindex == ifindex);
            if alive && !found.contains(&(hook, ifindex)) {
                found.push((hook, ifindex));
            }
        }
        Ok(found)
    }

    /// Kernel ids of the programs on an interface, by name: what is really attached. Empty below kernel 6.6.
    pub fn program_ids(&self, ifindex: u32) -> Result<Vec<(&'static str, u32)>> {
        let mut found = Vec::new();
        for (_, _, place, path) in self.pins()?.into_iter().filter(|p| p.0 == ifindex) {
            if let Ok(info) = sys::open_pin(&path).and_then(|l| sys::link_info(l.as_fd())) {
                found.push((place.program, info.program));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Puts the socket programs on the cgroup, or replaces those that are there; removes them if they are switched off.
    pub(super) fn attach_sockets(&self) -> Result<()> {
        let programs = self.programs();
        let cgroup = match self.config.cgroup.as_deref().filter(|_| self.config.socket_lb) {
            Some(path) => {
                Some(fs::File::open(path).map_err(|e| io_error(format!("open cgroup {}", path.display()), e))?)
            }
            None => None,
        };
        for (name, kind) in SOCKETS.into_iter().zip(SOCKET_TYPES) {
            let path = dir(&self.config.pin_dir).join(format!("cgroup_{name}"));
            let (Some(cgroup), true) = (&cgroup, programs.contains_key(name)) else {
                unpin(&path)?;
                continue;
            };
            socket_link(program(&programs, name)?, cgroup.as_fd(), kind, name, &path)?;
        }
        drop(programs);
        Ok(())
    }
}

fn socket_link(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>, kind: u32, name: &str, path: &Path) -> Result<()> {
    if let Ok(link) = sys::open_pin(path)
        && sys::update_link(link.as_fd(), program).is_ok()
    {
        return Ok(());
    }
    unpin(path)?;
    let link =
        sys::create_cgroup(program, cgroup, kind).map_err(|e| explain(&format!("attach {name} to the cgroup"), e))?;
    sys::pin(link.as_fd(), path).map_err(|e| explain(&format!("pin {}", path.display()), e))
}

/// Attaches where there are no links, and notes it in the place of a pin.
fn filter(programs: &Programs, place: Place, ifindex: u32, path: &Path) -> Result<()> {
    super::clsact::attach(program(programs, place.program)?, place.program, ifindex, place.ingress)?;
    note(path)
}

/// Replaces a filter, where there are no links. False: the interface is gone.
fn refilter(programs: &Programs, ifindex: u32, place: Place) -> Result<bool> {
    match super::clsact::attach(program(programs, place.program)?, place.program, ifindex, place.ingress) {
        Ok(()) => Ok(true),
        Err(DatapathError::Io { source, .. }) if source.raw_os_error() == Some(libc::ENODEV) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Removes a pin, with which its link goes if nothing else holds it, or the note of an attachment without link.
fn unpin(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error(format!("unpin {}", path.display()), e)),
        _ => Ok(()),
    }
}

/// Marks an attachment that is not a link (clsact) in the place where its pin would be.
fn note(path: &Path) -> Result<()> {
    match fs::create_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(io_error(format!("note {}", path.display()), e)),
        _ => Ok(()),
    }
}

const _: () = assert!(GUARD.len() == GUARDS.len());
const _: () = assert!(SOCKET_TYPES.len() == loader::SOCKETS.len());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pins_are_read_back() {
        for hook in HOOKS {
            for place in places(hook) {
                let path = pin_of(Path::new("/x"), 17, *place);
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                assert_eq!(parse(&name), Some((17, Some(hook), *place)));
            }
        }
        for place in [TO_QUEUE, FROM_QUEUE] {
            let path = pin_of(Path::new("/x"), 17, place);
            assert_eq!(parse(path.file_name().unwrap().to_str().unwrap()), Some((17, None, place)));
        }
        assert_eq!(parse("cgroup_connect4"), None);
        assert_eq!(parse("17_nothing"), None);
    }
}
