//! The socket of the plugin: one request a connection.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use axoneme_cni::{Answer, Failure, Request, code, frame};
use axoneme_kernel::net::descriptor;
use axoneme_runtime::{
    admin::{own_uid, peer_allowed},
    drain::DrainWatcher,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    task::JoinSet,
};

use crate::run::Mail;

/// Requests at once: more than a kubelet starts pods in parallel.
const REQUESTS: usize = 256;
/// A plugin sends its request at once.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves until the drain starts, then waits for the requests in hand and removes the socket.
pub async fn serve(listener: UnixListener, path: PathBuf, engine: mpsc::Sender<Mail>, mut drain: DrainWatcher) {
    let (own_uid, permits) = (own_uid(), Arc::new(Semaphore::new(REQUESTS)));
    let mut requests = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if peer_allowed(&stream, own_uid) => {
                    let Ok(permit) = permits.clone().acquire_owned().await else { break };
                    let engine = engine.clone();
                    requests.spawn(async move {
                        let _permit = permit;
                        if let Err(error) = request(stream, engine).await {
                            tracing::warn!(%error, "a CNI request ended early");
                        }
                    });
                }
                Ok(_) => tracing::warn!("CNI socket: refused a peer of another user"),
                Err(error) => {
                    tracing::warn!(%error, "CNI socket: accept failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = requests.join_next() => {}
            () = drain.draining() => break,
        }
    }
    let _ = std::fs::remove_file(&path);
    while requests.join_next().await.is_some() {}
}

async fn request(mut stream: UnixStream, engine: mpsc::Sender<Mail>) -> io::Result<()> {
    let (body, netns) = tokio::time::timeout(READ_TIMEOUT, read(&mut stream)).await??;
    let answer = match serde_json::from_slice::<Request>(&body) {
        Ok(request) => ask(request, netns, &engine).await,
        Err(e) => Answer::Failed(Failure::new(code::DECODE, format!("unreadable request of the plugin: {e}"))),
    };
    let body = serde_json::to_vec(&answer)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend(body);
    stream.write_all(&frame).await
}

async fn ask(request: Request, netns: Option<OwnedFd>, engine: &mpsc::Sender<Mail>) -> Answer {
    let (reply, answer) = oneshot::channel();
    let gone = || Answer::Failed(Failure::new(code::TRY_AGAIN, "the axoneme agent is stopping"));
    if engine.send(Mail::Cni { request, netns, reply }).await.is_err() {
        return gone();
    }
    answer.await.unwrap_or_else(|_| gone())
}

/// Reads the frame and the descriptor that comes with its first byte.
async fn read(stream: &mut UnixStream) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let (mut header, mut filled, mut netns) = ([0; 4], 0, None);
    while filled < header.len() {
        let rest = header.get_mut(filled..).unwrap_or_default();
        let (read, fd) = stream.async_io(Interest::READABLE, || descriptor::receive(&*stream, rest)).await?;
        filled += read;
        netns = netns.or(fd);
    }
    check_netns(netns.as_ref())?;
    let mut body = vec![0; frame::length(header)?];
    stream.read_exact(&mut body).await?;
    Ok((body, netns))
}

/// A descriptor that is something else than a namespace would only fail later and less clearly.
fn check_netns(netns: Option<&OwnedFd>) -> io::Result<()> {
    const NSFS_MAGIC: i64 = 0x6e73_6673;
    let Some(fd) = netns else { return Ok(()) };
    let kind = nix::sys::statfs::fstatfs(fd.as_fd())?.filesystem_type();
    if kind.0 != NSFS_MAGIC {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the plugin's descriptor is not a namespace"));
    }
    Ok(())
}
