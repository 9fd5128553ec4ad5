//! Pods of one node: real links, real programs.

mod rig;

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use rig::{Node, Pod};

const SHORT: Duration = Duration::from_millis(400);

/// One exchange over TCP. None: no connection in time.
fn tcp(from: &Pod, to: IpAddr, port: u16) -> Option<Vec<u8>> {
    from.ns.run(|| {
        let mut s = TcpStream::connect_timeout(&SocketAddr::new(to, port), SHORT).ok()?;
        s.set_read_timeout(Some(SHORT)).unwrap();
        s.write_all(b"ping").ok()?;
        let mut b = [0; 4];
        s.read_exact(&mut b).ok()?;
        Some(b.to_vec())
    })
}

/// Answers TCP connections of a pod until it is dropped with the process.
fn serve_tcp(pod: &Pod, port: u16) {
    let (ready, wait) = std::sync::mpsc::channel();
    pod.ns.spawn(move || {
        let l = TcpListener::bind(("::", port)).unwrap();
        ready.send(()).unwrap();
        for s in l.incoming() {
            let Ok(mut s) = s else { return };
            std::thread::spawn(move || {
                let mut b = [0; 4];
                while s.read_exact(&mut b).is_ok() {
                    if s.write_all(&b).is_err() {
                        return;
                    }
                }
            });
        }
    });
    wait.recv().unwrap();
}

fn serve_udp(pod: &Pod, port: u16) {
    let (ready, wait) = std::sync::mpsc::channel();
    pod.ns.spawn(move || {
        let s = UdpSocket::bind(("::", port)).unwrap();
        ready.send(()).unwrap();
        let mut b = [0; 65536];
        while let Ok((n, from)) = s.recv_from(&mut b) {
            let _ = s.send_to(&b[..n], from);
        }
    });
    wait.recv().unwrap();
}

fn udp(from: &Pod, to: IpAddr, port: u16, size: usize) -> Option<usize> {
    from.ns.run(|| {
        let s = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
        s.set_read_timeout(Some(SHORT)).unwrap();
        s.connect(SocketAddr::new(to, port)).ok()?;
        s.send(&vec![7; size]).ok()?;
        let mut b = vec![0; 65536];
        s.recv(&mut b).ok()
    })
}

fn ping(from: &Pod, to: IpAddr) -> bool {
    let out = std::process::Command::new("ip")
        .args(["netns", "exec", &from.ns.name, "ping", "-c1", "-W1", &to.to_string()])
        .output()
        .unwrap();
    out.status.success()
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn pods_of_a_node_reach_each_other() {
    let node = Node::alone();
    let (a, b) = (node.pod(1), node.pod(2));
    serve_tcp(&b, 80);
    serve_udp(&b, 53);
    for to in b.addresses() {
        assert_eq!(tcp(&a, to, 80).as_deref(), Some(&b"ping"[..]), "TCP to {to}");
        assert_eq!(udp(&a, to, 53, 100), Some(100), "UDP to {to}");
        assert!(ping(&a, to), "ICMP to {to}");
    }
}
