//! What is told of a datagram on its way, as the flows that a client is shown, against what the oracle and the network's
//! layout say must be told: by whom, where, and how policy judged it. Each flow once, and nothing for what follows.

use axoneme_flow::{ClockOffset, Event as Told, Facet, Point, Record, decode_drop, decode_flows};
use axoneme_kernel::{
    bpf::{Loader, Testing},
    datapath::Hook,
};
use axoneme_model::{Decision, rows::RuleId};

use super::{
    Compiled, Direction, Duration, Event, EventReader, Instant, LINES, Line, Mode, Options, PATIENCE, PORT, Place,
    SAYS, Side, SocketAddr, Traffic, UDP, UdpSocket, compile, service_port, verdict, vip, world,
};
use crate::rig::cluster::index;

/// Flows by node, in the order of their texts: `trace to-overlay`, `verdict Dropped Ingress`.
type Flows = [Vec<String>; 2];

/// Datagrams that follow the first of a connection.
const MORE: usize = 20;

fn verdict_of(sides: &[(Direction, &Side)], unjudged: Option<Direction>) -> Option<String> {
    let said = sides.iter().find_map(|(direction, side)| {
        let became = match (&side.audit, side.allow) {
            (Some(_), _) => "Audit",
            (None, false) => "Dropped",
            (None, true) if !side.rules.is_empty() => "Forwarded",
            _ => return None,
        };
        Some(format!("verdict {became} {direction:?}"))
    });
    said.or_else(|| unjudged.map(|direction| format!("verdict Forwarded {direction:?}")))
}

/// What one node must tell of a packet that it meets at one point and that would go on to another; whether it goes on.
/// `sides`: those of its own pods. `unjudged`: the direction of a pod that nobody's policy judges, if that is told, too.
fn at_node(
    from: Point,
    to: Point,
    sides: &[(Direction, &Side)],
    unjudged: Option<Direction>,
    into: &mut Vec<String>,
) -> bool {
    into.extend(verdict_of(sides, unjudged));
    if let Some((direction, _)) = sides.iter().find(|(_, side)| !side.allow) {
        into.push(format!("drop {direction:?}"));
        return false;
    }
    into.extend([from, to].map(|point| format!("trace {}", point.word())));
    true
}

/// What must be told of the first datagram of a line.
fn expected(mode: Mode, line: &Line, decision: &Decision) -> Flows {
    let mut flows = Flows::default();
    let (from, to) = (line.from.node(), line.to.node());
    let wire = if mode == Mode::Native {
        (Point::ToNetwork, Point::FromNetwork)
    } else {
        (Point::ToOverlay, Point::FromOverlay)
    };
    let egress = decision.egress.as_ref().map(|side| (Direction::Egress, side));
    let ingress = decision.ingress.as_ref().map(|side| (Direction::Ingress, side));
    if line.from.app().is_some() {
        let (onward, ends) = match (line.to.app().is_some(), from == to) {
            (true, true) => (Point::ToEndpoint, ingress),
            (true, false) => (wire.0, None),
            // the outside is behind the first node
            (false, _) if line.to == super::Who::Node => (Point::ToHost, None),
            (false, _) => (Point::ToStack, None),
        };
        let sides: Vec<_> = egress.into_iter().chain(ends).collect();
        let on = at_node(Point::FromEndpoint, onward, &sides, Some(Direction::Egress), &mut flows[from]);
        if !on || from == to || line.to.app().is_none() {
            return sorted(flows);
        }
    }
    let sides: Vec<_> = ingress.into_iter().collect();
    let (met, unjudged) = match line.from {
        super::Who::Node => (Point::FromHost, Some(Direction::Ingress)),
        super::Who::Outside => (Point::FromNetwork, None),
        _ => (wire.1, None),
    };
    at_node(met, Point::ToEndpoint, &sides, unjudged, &mut flows[to]);
    sorted(flows)
}

fn sorted(mut flows: Flows) -> Flows {
    for all in &mut flows {
        all.sort();
    }
    flows
}

fn shown(record: &Record, facet: Facet, compiled: &Compiled) -> String {
    match facet {
        Facet::Judgement => {
            let path = (record.rule != RuleId(0)).then(|| &compiled.rows.rules[&record.rule].rule.path);
            let whose = match path {
                Some(path) if path.contains("egress") => Direction::Egress,
                Some(_) => Direction::Ingress,
                None => record.direction.unwrap(),
            };
            format!("verdict {:?} {whose:?}", record.verdict)
        }
        Facet::Packet if record.event == Told::Drop => format!("drop {:?}", record.direction.unwrap()),
        Facet::Packet => format!("trace {}", record.point.word()),
        Facet::Onward => format!("trace {}", record.onward.word()),
    }
}

/// The flows of an event of what has this source port.
fn of_port(event: &Event, port: u16, compiled: &Compiled) -> Vec<String> {
    let records: Vec<Record> = match event {
        Event::Drop(d) if d.source_port == port.to_be() => vec![decode_drop(event.bytes(), ClockOffset(0)).unwrap()],
        Event::Flow(f) if f.source_port == port.to_be() => {
            decode_flows(event.bytes(), ClockOffset(0)).unwrap().collect()
        }
        _ => Vec::new(),
    };
    let flows = records.iter().flat_map(|r| r.facets().iter().map(|facet| shown(r, *facet, compiled)));
    flows.collect()
}

impl Place {
    /// What was told since the last time, with the node that told it.
    fn told_by_node(&mut self) -> Vec<(usize, Event)> {
        let mut all = Vec::new();
        for (node, reader) in self.events.iter_mut().enumerate() {
            let mut events = Vec::new();
            reader.read(10_000, &mut events);
            all.extend(events.into_iter().map(|event| (node, event)));
        }
        all
    }

    /// Adds the flows of what has this source port and was told since the last time.
    fn flows(&mut self, port: u16, compiled: &Compiled, into: &mut Flows) {
        for (node, event) in self.told_by_node() {
            into[node].extend(of_port(&event, port, compiled));
        }
        for all in into {
            all.sort();
        }
    }

    fn socket(&self, line: &Line, v6: bool) -> UdpSocket {
        let target = if line.by_service {
            SocketAddr::new(vip(v6), service_port(line.to))
        } else {
            SocketAddr::new(line.to.address(v6), PORT)
        };
        let socket = self.namespace(line.from).run(|| UdpSocket::bind((line.from.address(v6), 0))).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        socket.connect(target).unwrap();
        socket
    }

    /// What a process that starts anew does: it opens what is pinned, and puts its programs in the place of the old ones.
    fn restart(&mut self) {
        let ends = [vec![self.cluster.pods[0].ifindex, self.near.ifindex], vec![self.cluster.pods[1].ifindex]];
        let outside = index(&self.cluster.nodes[0].ns, "ext0");
        for (n, ends) in ends.into_iter().enumerate() {
            let node = &mut self.cluster.nodes[n];
            let config = node.config.clone();
            let (uplink, overlay) = (config.uplink_ifindex, config.overlay_ifindex);
            node.datapath = node.ns.run(move || Loader::open_with(config, &Testing::default())).unwrap();
            for link in ends {
                node.attach(Hook::Endpoint, link);
            }
            node.attach(Hook::Uplink, uplink);
            if n == 0 {
                node.attach(Hook::Uplink, outside);
            }
            if overlay != 0 {
                node.attach(Hook::Overlay, overlay);
            }
        }
        self.events = [0, 1].map(|n| -> EventReader { self.cluster.nodes[n].datapath.events().unwrap() });
    }
}

/// Sends until it is answered; a datagram that is denied has one try.
fn speak(socket: &UdpSocket, allowed: bool) {
    let end = Instant::now() + PATIENCE;
    socket.send(b"flows").unwrap();
    if !allowed {
        return;
    }
    while let Err(e) = socket.recv(&mut [0; 64]) {
        assert!(Instant::now() < end, "no answer: {e}");
    }
}

/// What the oracle says of the line.
fn decided(line: &Line, v6: bool, world: &axoneme_model::World) -> Decision {
    let (source, destination) = (line.from.address(v6), line.to.address(v6));
    verdict(world, &Traffic { source, destination, protocol: UDP, port: PORT })
}

/// Every line, judgement and family: flows as the oracle says, and no more of them for what follows. How many there were.
fn all(place: &mut Place, when: &str) -> usize {
    let mut count = 0;
    for line in &LINES {
        for says in SAYS {
            let world = world(line, says);
            let compiled = compile(&world);
            place.obey(&compiled);
            for v6 in [false, true] {
                let decision = decided(line, v6, &world);
                let expected = expected(place.mode, line, &decision);
                let socket = place.socket(line, v6);
                let port = socket.local_addr().unwrap().port();
                speak(&socket, decision.allow);
                let mut found = Flows::default();
                let end = Instant::now() + PATIENCE;
                while found != expected && Instant::now() < end {
                    place.flows(port, &compiled, &mut found);
                }
                let context = format!("{when} {:?} {} {:?} {says:?} v6={v6}", place.mode, line.what, line.side);
                assert_eq!(found, expected, "{context}");
                if decision.allow {
                    (0..MORE).for_each(|_| speak(&socket, true));
                    place.flows(port, &compiled, &mut found);
                    assert_eq!(found, expected, "{context}: a known connection tells nothing");
                }
                count += found.iter().map(Vec::len).sum::<usize>();
            }
        }
    }
    count
}

/// What happens while no process reads is told by the next one.
fn while_away(place: &mut Place) {
    let remote = LINES.iter().find(|line| line.is_remote() && line.side == Direction::Ingress).unwrap();
    for says in SAYS {
        let world = world(remote, says);
        let compiled = compile(&world);
        place.obey(&compiled);
        let mut asked = Vec::new();
        for v6 in [false, true] {
            let decision = decided(remote, v6, &world);
            let socket = place.socket(remote, v6);
            speak(&socket, decision.allow);
            asked.push((socket.local_addr().unwrap().port(), expected(place.mode, remote, &decision), socket));
        }
        // the denied ones are on their way to the other node
        std::thread::sleep(Duration::from_millis(100));
        place.restart();
        place.obey(&compiled);
        let mut events = Vec::new();
        for (port, expected, socket) in &asked {
            let mut found = Flows::default();
            events.extend(place.told_by_node());
            for (node, event) in &events {
                found[*node].extend(of_port(event, *port, &compiled));
            }
            assert_eq!(sorted(found), *expected, "{:?} {says:?}: read by the next process", place.mode);
            // what was known is known to it, too
            if says != super::Says::Deny {
                speak(socket, true);
                let more: Vec<_> = place.told_by_node();
                let told = more.iter().flat_map(|(_, event)| of_port(event, *port, &compiled)).collect::<Vec<_>>();
                assert_eq!(told, Vec::<String>::new(), "{:?} {says:?}: an open connection", place.mode);
            }
        }
    }
}

/// Two nodes in one mode: everything before, during and after a restart of both nodes' process.
pub fn hold(mode: Mode) -> usize {
    let mut place = Place::new(mode, &Options::default());
    let before = all(&mut place, "before");
    while_away(&mut place);
    before + all(&mut place, "after")
}
