//! The order of the stages.

use axoneme_abi::{
    Conntrack, Direction, DropEvent, DropReason, FlowEvent, FlowKind as EventKind,
    conntrack::{FLAG_AUDITED, FLAG_LOOPBACK, FLAG_SERVICE},
    constants::{LAPS, MARK_LAPS_MASK, MARK_MET_SHIFT, MARK_WAITING, feature},
    event::METRIC_ALLOWED,
    tables::{IDENTITY_FIRST_POD, IDENTITY_HOST, IDENTITY_REMOTE_NODE},
};

use crate::{
    Family, FlowKind, Kind, Maps, Packet, Verdict,
    conntrack::{self, Standing, begin, create, renew, revision, standing, track},
    family::{SCTP, Side},
    forward::{belongs, verdict},
    fragment, hook, icmp, neighbour,
    policy::{judge, mac, resolve},
    reject, service,
    work::{Step, Work},
};

/// The short way: TCP or UDP without anything special, of a connection that is known. None: see [`slow`].
#[inline(always)]
pub fn fast<F: Family, E: Maps<F>, P: Packet, const HOOK: u8>(env: &E, packet: P) -> Option<Verdict> {
    if !env.feature(F::FEATURE) {
        return None;
    }
    let flow = F::simple(&packet)?;
    if !conntrack::goes_on(flow.tcp_flags) {
        return None;
    }
    // In overlay mode what comes by the underlay for no pod of this node is the tunnel's or the host's own.
    if HOOK == hook::FROM_NETDEV && !env.feature(feature::NATIVE) && env.endpoint(flow.destination).is_none() {
        return Some(Verdict::PASS);
    }
    let (key, from_b) = F::key(flow.source, flow.destination, flow.source_port, flow.destination_port, flow.protocol);
    env.with_conntrack(&key, |ct| {
        conntrack::established::<F, E, HOOK>(env, ct, &flow, from_b, (packet.ifindex(), packet.length()))
    })
    .flatten()
}

/// Where the packet was met first, as events number it.
#[inline(always)]
fn met<P: Packet, const HOOK: u8>(packet: P) -> u8 {
    if HOOK == hook::FROM_WAITING { (packet.mark() >> MARK_MET_SHIFT & 0xf) as u8 } else { HOOK }
}

#[inline(always)]
fn direction<P: Packet, const HOOK: u8>(packet: P) -> Direction {
    if met::<P, HOOK>(packet) == hook::FROM_CONTAINER { Direction::Egress } else { Direction::Ingress }
}

/// Any packet. Drops are counted and reported here. The verdict is in the work.
#[inline(always)]
pub fn slow<F: Family, E: Maps<F>, P: Packet, const HOOK: u8>(env: &E, packet: P, w: &mut Work<F>) -> Verdict {
    w.verdict = Verdict::PASS;
    w.resolved = false;
    w.tunnel = 0;
    if HOOK == hook::FROM_WAITING {
        env.leave_room(packet.length());
    }
    if headers::<F, E, P, HOOK>(env, packet, w) == Step::Next {
        stages::<F, E, P, HOOK>(env, packet, w);
    } else if w.verdict.kind == Kind::Wait {
        wait::<F, E, P, HOOK>(env, packet, w);
    }
    if w.verdict.kind == Kind::Drop {
        report::<F, E, P, HOOK>(env, packet, w);
        // After that: an answer overwrites what is to be reported.
        if HOOK == hook::FROM_CONTAINER {
            refuse(env, packet, w);
        }
    }
    w.verdict
}

#[inline(always)]
fn stages<F: Family, E: Maps<F>, P: Packet, const HOOK: u8>(env: &E, packet: P, w: &mut Work<F>) {
    if w.flow.kind == FlowKind::IcmpError && icmp::related::<F, E, P, HOOK>(env, packet, w) == Step::End {
        return;
    }
    let mut step = lookup::<F, E, P, HOOK>(env, packet, w);
    // A frontend's address has no entry of its own that holds: a new frontend made the epoch grow.
    if step == Step::Next && met::<P, HOOK>(packet) == hook::FROM_CONTAINER && env.feature(feature::SERVICES) {
        if services(env, w) == Step::End {
            return;
        }
        if w.done.flags != 0 {
            step = lookup::<F, E, P, HOOK>(env, packet, w);
        }
    }
    if step == Step::Next {
        if who::<F, E, P, HOOK>(env, packet, w) == Step::End {
            return;
        }
        if decide::<F, E, P, HOOK>(env, packet, w) == Step::End {
            return;
        }
        if w.known {
            again::<F, E, P, HOOK>(env, packet, w);
        } else {
            record::<F, E, P, HOOK>(env, packet, w);
        }
    }
    if !w.verdict.is_drop() {
        translate(env, packet, w);
    }
}

/// Reads the headers, and settles what needs nothing else.
#[inline(never)]
fn headers<F: Family, E: Maps<F>, P: Packet, const HOOK: u8>(env: &E, packet: P, w: &mut Work<F>) -> Step {
    if !env.feature(F::FEATURE) {
        // A family that is off is not ours outside of pods.
        let off = Verdict::drop(DropReason::UnsupportedL3, Direction::Egress);
        return w.end(if HOOK == hook::FROM_CONTAINER { off } else { Verdict::PASS });
    }
    let mut flow = match F::parse(&packet) {
        Ok(f) => f,
        // The host's stack has its own opinion on malformed packets of the underlay.
        Err(_) if HOOK == hook::FROM_NETDEV => return w.end(Verdict::PASS),
        Err(reason) => {
            w.flow.source = F::from_words([0; 4]);
            w.flow.destination = w.flow.source;
            w.flow.source_port = 0;
            w.flow.destination_port = 0;
            w.flow.protocol = 0;
            w.flow.tcp_flags = 0;
            return w.end(Verdict::drop(reason, direction::<P, HOOK>(packet)));
        }
    };
    if flow.kind == FlowKind::Neighbour {
        let v = match HOOK {
            hook::FROM_CONTAINER => neighbour::discovery(env, &packet, &flow),
            hook::FROM_OVERLAY => Verdict::drop(DropReason::ForbiddenIcmp6, Direction::Ingress),
            _ => Verdict::PASS,
        };
        w.flow = flow;
        return w.end(v);
    }
    // The underlay's own traffic is none of ours.
    if HOOK == hook::FROM_NETDEV && env.endpoint(flow.destination).is_none() {
        return w.end(Verdict::PASS);
    }
    w.done.flags = 0;
    let followed = fragment::follow(env, &mut flow);
    w.flow = flow;
    // Not called from here: the stack of this stage would be below that one's, which is deep on its own.
    if followed { Step::Next } else { w.end(Verdict::wait(0)) }
}

/// A fragment that came before its first one: it waits where the kernel holds packets anyway, in a queue, and is looked
/// at again when it comes out. Who it comes from is checked here, where it is known which link it came by.
#[inline(never)]
fn wait<F: Family, E: Maps<F>, P: Packet, const HOOK: u8>(env: &E, packet: P, w: &mut Work<F>) {
    let room = env.room();
    let mark = if HOOK == hook::FROM_WAITING { packet.mark() } else { MARK_WAITING | (HOOK as u32) << MARK_MET_SHIFT };
    if room == 0 || mark & MARK_LAPS_MASK >= LAPS {
        w.verdict = Verdict::drop(DropReason::FragmentNotFound, direction::<P, HOOK>(packet));
        return;
    }
    if HOOK != hook::FROM_WAITING {
        w.flags = 0;
        w.forward = true;
        if who::<F, E, P, HOOK>(env, packet, w) == Step::End {
            return;
        }
        packet.set_note(w.source.identity);
    }
    if !env.enter_room(packet.length()) {
        w.verdict = Verdict::drop(DropReason::WaitingRoomFull, direction::<P, HOOK>(packet));
        return;
    }
    packet.set_mark(mark + 1);
    w.verdict = Verdict::wait(room);
}

/// Turns a packet to a Service into one to a backend, in the work only.
#[inline(never)]
fn services<F: Family, E: Maps<F>>(env: &E, w: &mut Work<F>) -> Step {
    let mut flow = w.flow;
    match service::translate(env, &mut flow) {
        Ok(done) => {
            w.done = done;
            w.flow = flow;
            Step::Next
        }
        Err(v) => w.end(v),
    }
}

/// Tells the sender of a dropped packet, where that is to be told: see [`reject`]. The packet is as the pod sent it, since
/// nothing is translated before it may pass.
#[inline(never)]
fn refuse<F: Family, E: Maps<F>, P: Packet>(env: &E, packet: P, w: &mut Work<F>) {
    let Some(word) = reject::word(env, w) else { return };
    let mut flow = w.flow;
    if w.done.flags != 0 {
        flow.source = w.done.client;
        flow.destination = w.done.frontend;
    }
    let own = env.endpoint(flow.source).is_some_and(|e| e.ifindex == packet.ifindex());
    if own
        && reject::may_be_answered(&packet, &flow)
        && reject::has_answers_left(env, packet.ifindex())
        && reject::answer(&packet, &flow, word)
    {
        w.verdict = Verdict { kind: Kind::Reject, ..w.verdict };
    }
}

/// The connection's entry. End: it is known and its verdict holds.
#[inline(never)]
fn lookup<F: Family, E: Maps<F>, P: Packet, const HOOK: u8>(env: &E, packet: P, w: &mut Work<F>) -> Step {
    let (ifindex, length) = (packet.ifindex(), packet.length());
    let met = met::<P, HOOK>(packet);
    let flow = w.flow;
    let (key, from_b) = F::key(flow.source, flow.destination, flow.source_port, flow.destination_port, flow.protocol);
    w.key = key;
    w.from_b = from_b;
    w.known = false;
    w.over = false;
    w.forward = true;
    w.flags = w.done.flags;
    let step = env.with_conntrack(&key, |ct| {
        let standing = standing::<F, E, HOOK>(env, ct, &flow, from_b, ifindex);
        if standing == Standing::New {
            w.over = true;
            return Step::Next;
        }
        w.known = true;
        w.forward = ct.origin_is_b() == from_b;
        w.flags = ct.flags;
        if standing == Standing::Elsewhere || ct.revision != revision(env, ct.slots) {
            return Step::Next;
        }
        if track(env, ct, &flow, from_b, length) {
            env.flow_event(&conntrack::event(ct, &flow, from_b, EventKind::Closed, 0, (ifindex, met)));
        }
        w.verdict = verdict::<E, HOOK>(env, ct, from_b);
        Step::End
    });
    step.unwrap_or(Step::Next)
}

/// Who speaks to whom, and whether they may be where they are met.
#[inline(never)]
fn who<F: Family, E: Maps<F>, P: Packet, const HOOK: u8>(env: &E, packet: P, w: &mut Work<F>) -> Step {
    ends::<F, E, HOOK>(env, w);
    place::<F, E, P, HOOK>(env, packet, w)
}

/// Whether they may speak, and the entry that says so.
#[inline(never)]
fn decide<F: Family, E: Maps<F>, P: Packet, const HOOK: u8>(env: &E, packet: P, w: &mut Work<F>) -> Step {
    let step = policy(env, w);
    if step == Step::Next {
        prepare::<F, E, P, HOOK>(env, packet, w);
    }
    step
}

/// Who is behind both addresses. Both ends of a loopback are the pod, whichever address the packet shows for it.
#[inline(always)]
fn ends<F: Family, E: Maps<F>, const HOOK: u8>(env: &E, w: &mut Work<F>) {
    // Before the addresses are looked up: who changes them lets the epoch grow afterwards.
    w.epoch = env.epoch();
    let loopback = w.flags & FLAG_LOOPBACK != 0;
    let source = if loopback && w.forward { w.flow.destination } else { w.flow.source };
    let destination = if loopback && !w.forward { w.flow.source } else { w.flow.destination };
    w.source = resolve::<F, E>(env, source, w.epoch);
    w.destination = resolve::<F, E>(env, destination, w.epoch);
    w.resolved = true;
}

/// Whether the packet may be where it is met. End: it may not, or it is none of ours.
#[inline(always)]
fn place<F: Family, E: Maps<F>, P: Packet, const HOOK: u8>(env: &E, packet: P, w: &mut Work<F>) -> Step {
    let spoofed = Verdict::drop(DropReason::InvalidSourceIp, direction::<P, HOOK>(packet));
    let nobody = Verdict::drop(DropReason::NoLocalEndpoint, Direction::Ingress);
    let here = packet.ifindex();
    match HOOK {
        hook::FROM_CONTAINER if w.source.ifindex != here || F::is_group(w.flow.source) => w.end(spoofed),
        hook::FROM_CONTAINER => source_mac(packet, w),
        hook::TO_CONTAINER if w.destination.ifindex != here => w.end(nobody),
        hook::TO_CONTAINER => Step::Next,
        hook::FROM_WAITING => waited(met::<P, HOOK>(packet), packet.note(), spoofed, w),
        _ if w.source.is_local() => w.end(spoofed),
        hook::FROM_NETDEV => {
            // In overlay mode pods of other nodes come by the tunnel only. Where some come without, all may: nodes do not
            // begin and end to send so in one moment, and whoever is on the underlay can make a tunnel header, too.
            let direct = env.feature(feature::NATIVE | feature::DIRECT);
            let by_tunnel = w.source.node != 0 && !w.source.is_node() && !direct;
            if by_tunnel { w.end(spoofed) } else { Step::Next }
        }
        _ => {
            let Some(identity) = packet.tunnel() else {
                return w.end(Verdict::drop(DropReason::NoTunnelKey, Direction::Ingress));
            };
            if identity == IDENTITY_HOST || identity == 0 {
                return w.end(Verdict::drop(DropReason::InvalidIdentity, Direction::Ingress));
            }
            w.tunnel = identity;
            claim(identity, w);
            if w.destination.is_local() {
                Step::Next
            } else {
                w.end(if w.destination.is_node() { Verdict::PASS } else { nobody })
            }
        }
    }
}

/// The sender's word counts where this node knows of no pod at the address, which has just started. Of a pod that it
/// knows, what it was told counts: by that its tables are made, and whoever gets a packet into the tunnel cannot choose
/// whom it comes from. So a pod is judged as with native routing, and by one state while it changes.
#[inline(always)]
fn claim<F: Family>(identity: u32, w: &mut Work<F>) {
    let node = identity == IDENTITY_REMOTE_NODE && w.source.is_node();
    let known = w.source.identity >= IDENTITY_FIRST_POD;
    if w.source.identity != identity && !node && !known {
        w.source.identity = identity;
        w.source.peer = identity;
    }
}

/// What was checked when the fragment was met still holds: its source has not come to live here, or gone from here.
#[inline(always)]
fn waited<F: Family>(met: u8, identity: u32, spoofed: Verdict, w: &mut Work<F>) -> Step {
    let own = w.source.is_local();
    match met {
        hook::TO_CONTAINER => Step::Next,
        hook::FROM_CONTAINER if own => Step::Next,
        hook::FROM_NETDEV if !own => Step::Next,
        hook::FROM_OVERLAY if !own => {
            claim(identity, w);
            Step::Next
        }
        _ => w.end(spoofed),
    }
}

/// A pod's link-layer source must be its own, where it is known.
#[inline(always)]
fn source_mac<F: Family, P: Packet>(packet: P, w: &mut Work<F>) -> Step {
    let own = w.source.mac;
    if own == 0 || packet.get(6).is_some_and(|sent| mac(sent) == own) {
        return Step::Next;
    }
    w.end(Verdict::drop(DropReason::InvalidSourceMac, Direction::Egress))
}

/// Judges the connection in its originator's direction.
#[inline(always)]
fn policy<F: Family, E: Maps<F>>(env: &E, w: &mut Work<F>) -> Step {
    // Before the tables are looked into: who changes them lets the revision grow afterwards.
    let revision = env.revision(w.source.slot).wrapping_add(env.revision(w.destination.slot));
    w.revision = revision;
    let v = if w.flags & FLAG_LOOPBACK != 0 {
        Verdict::PASS
    } else {
        let protocol = w.flow.protocol;
        if w.forward {
            judge::<F, E>(env, &w.source, &w.destination, (protocol, w.flow.policy_port), revision)
        } else {
            let port = u16::from_be(w.flow.source_port);
            judge::<F, E>(env, &w.destination, &w.source, (protocol, port), revision)
        }
    };
    w.verdict = v;
    if v.is_drop() { Step::End } else { Step::Next }
}

#[inline(always)]
fn prepare<F: Family, E: Maps<F>, P: Packet, const HOOK: u8>(env: &E, packet: P, w: &mut Work<F>) {
    let revision = w.epoch.wrapping_add(w.revision);
    let audited = if w.verdict.argument != 0 { FLAG_AUDITED } else { 0 };
    let seen = (packet.length(), w.done.flags | audited);
    w.fresh = create::<F, E, HOOK>(env, &w.flow, &w.source, &w.destination, w.from_b, seen, revision);
}

/// A connection that was judged anew.
#[inline(never)]
fn again<F: Family, E: Maps<F>, P: Packet, const HOOK: u8>(env: &E, packet: P, w: &mut Work<F>) {
    let (ifindex, length) = (packet.ifindex(), packet.length());
    let met = met::<P, HOOK>(packet);
    let key = w.key;
    let judged = w.verdict;
    let v = env.with_conntrack(&key, |ct| {
        let told = ct.flags & FLAG_AUDITED != 0;
        renew(ct, &w.fresh);
        if !belongs::<HOOK>(ct, w.from_b, ifindex) {
            return Verdict::drop(DropReason::InvalidSourceIp, direction::<P, HOOK>(packet));
        }
        let closed = track(env, ct, &w.flow, w.from_b, length);
        if closed || (judged.argument != 0 && !told) {
            let kind = if closed { EventKind::Closed } else { EventKind::Audited };
            let event = conntrack::event(ct, &w.flow, w.from_b, kind, 0, (ifindex, met));
            let audited = FlowEvent { detail: [0; 2], ..conntrack::audited(event, judged) };
            env.flow_event(&if closed { event } else { audited });
        }
        verdict::<E, HOOK>(env, ct, w.from_b)
    });
    // Evicted in between: this one packet goes as judged.
    w.verdict = match v {
        Some(v) => v,
        None => verdict::<E, HOOK>(env, &w.fresh, w.from_b),
    };
}

/// Records a new connection.
#[inline(never)]
fn record<F: Family, E: Maps<F>, P: Packet, const HOOK: u8>(env: &E, packet: P, w: &mut Work<F>) {
    let judged = w.verdict;
    let failed = Verdict::drop(DropReason::ConntrackInsert, direction::<P, HOOK>(packet));
    if w.done.flags & FLAG_SERVICE != 0 && !service::remember(env, w) {
        w.verdict = failed;
        return;
    }
    // The entry of a connection that is over is written anew where it stands: that is a fifth of making one.
    let written = w.over && env.with_conntrack(&w.key, |ct| begin(ct, &w.fresh)).is_some();
    if !written && !env.put_conntrack(&w.key, &w.fresh) {
        w.verdict = failed;
        return;
    }
    env.count(METRIC_ALLOWED as u8, direction::<P, HOOK>(packet) as u8, 0);
    let seen = (packet.ifindex(), met::<P, HOOK>(packet));
    let event = conntrack::event(&w.fresh, &w.flow, w.from_b, EventKind::New, 0, seen);
    let mut event = conntrack::audited(event, judged);
    event.detail = if env.feature(feature::FLOWS) { sender(packet, seen.1, w) } else { [0; 2] };
    // The entry's own bits, not the verdict: that comes after the event, and would be one more thing to keep.
    event.towards = Conntrack::action_bits(w.fresh.flags, !w.from_b) as u16;
    env.flow_event(&event);
    w.verdict = verdict::<E, HOOK>(env, &w.fresh, w.from_b);
}

/// Writes a Service's translation into the packet, there and back.
#[inline(always)]
fn translate<F: Family, E: Maps<F>, P: Packet>(env: &E, packet: P, w: &mut Work<F>) {
    if w.done.flags != 0 {
        if !service::apply(packet, w) {
            w.verdict = Verdict::drop(DropReason::WriteFailed, Direction::Egress);
        } else {
            let port = w.flow.destination_port;
            associate(packet, w, Side::Destination, port, Direction::Egress);
        }
    } else if w.flags & FLAG_SERVICE != 0 && w.known && !w.forward {
        service::turn_back(env, packet, w);
        if !w.verdict.is_drop() {
            let port = w.done.frontend_port;
            associate(packet, w, Side::Source, port, Direction::Ingress);
        }
    }
}

/// SCTP's port, where its packet has one.
#[inline(always)]
fn associate<F: Family, P: Packet>(packet: P, w: &mut Work<F>, side: Side, port: u16, direction: Direction) {
    if w.flow.protocol != SCTP || w.flow.kind == FlowKind::LaterFragment {
        return;
    }
    if !service::associate(packet, w, side, port) {
        w.verdict = Verdict::drop(DropReason::WriteFailed, direction);
    }
}

#[inline(never)]
fn report<F: Family, E: Maps<F>, P: Packet, const HOOK: u8>(env: &E, packet: P, w: &Work<F>) {
    let (reason, direction) = w.verdict.drop_numbers();
    env.count(reason, direction, packet.length());
    let flow = w.flow;
    // What every stack sends on its own (multicast listener reports, address probes) is counted, not reported.
    let from_pod =
        HOOK == hook::FROM_CONTAINER && reason == DropReason::InvalidSourceIp as u8 && F::is_link_local(flow.source);
    let noise = F::NUMBER == 6 && (F::is_group(flow.destination) || from_pod);
    if noise || reason == DropReason::ForbiddenIcmp6 as u8 {
        return;
    }
    env.drop_event(&DropEvent {
        time: 0,
        source: F::words(flow.source),
        destination: F::words(flow.destination),
        source_identity: if w.resolved {
            w.source.identity
        } else {
            resolve::<F, E>(env, flow.source, env.epoch()).identity
        },
        destination_identity: if w.resolved {
            w.destination.identity
        } else {
            resolve::<F, E>(env, flow.destination, env.epoch()).identity
        },
        rule: w.verdict.node,
        ifindex: packet.ifindex(),
        length: packet.length(),
        source_port: flow.source_port,
        destination_port: flow.destination_port,
        reason,
        direction,
        family: F::NUMBER,
        protocol: flow.protocol,
        tcp_flags: flow.tcp_flags,
        hook: met::<P, HOOK>(packet),
        reserved: 0,
        sender: sender(packet, met::<P, HOOK>(packet), w),
    });
}

/// Where a packet comes from that was met first at a hook, as [`DropEvent::sender`] tells it.
#[inline(always)]
fn sender<F: Family, P: Packet>(packet: P, met: u8, w: &Work<F>) -> [u64; 2] {
    match met {
        hook::FROM_OVERLAY => [w.tunnel as u64, 0],
        // What comes by the underlay is of no socket here: between nodes of one machine it would still have another's.
        hook::FROM_NETDEV => [0; 2],
        _ => packet.socket(),
    }
}
