//! The daemon's end of the control socket: who asks, the kernel says.
//!
//! Root is answered. Anybody else is where the config lets users ask for
//! their own verdict, and for that alone; every other question is refused and
//! recorded. Whatever comes, and however much of it, no more than a few
//! connections are open at once, each for a moment, with little memory. Where
//! everybody may connect, others can be in front of root; so root has a socket
//! of its own as well.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::acceptor::{Acceptor, Peer};
use super::desk::Desk;
use super::protocol::{Answer, Ask, QUESTION_MAX, Question, Reply, VERSION, Why, framed, length};
use super::refusals::Refusals;
use crate::ids::Uid;

/// Questions of root's under way at once; the others' have as many places.
const PLACES: usize = 16;
/// Refusals that are still to be taken.
const PARTINGS: usize = 32;
const PARTS_WITHIN: Duration = Duration::from_millis(200);
/// For a question to be there as a whole.
const ASKED_WITHIN: Duration = Duration::from_secs(2);
/// For an answer to be taken.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);

/// Answers on one socket for as long as the daemon lives.
pub async fn serve(mut acceptor: Acceptor, desk: Arc<Desk>) {
    let places = [PLACES, PLACES, PARTINGS].map(|places| Arc::new(Semaphore::new(places)));
    let [of_root, of_users, partings] = places;
    let refusals = Arc::new(Refusals::new(desk.log().clone()));
    tokio::spawn(Arc::clone(&refusals).tell());
    loop {
        let (stream, peer) = acceptor.accept_peer().await;
        let is_root = peer.uid == Uid::ROOT;
        if !is_root && !desk.is_open_to_users() {
            refusals.note(peer, Why::Forbidden);
            let message = "only root may ask here";
            refuse(stream, Why::Forbidden, message, &partings);
            continue;
        }
        let places = if is_root { &of_root } else { &of_users };
        match Arc::clone(places).try_acquire_owned() {
            Ok(place) => {
                let (desk, refusals) = (Arc::clone(&desk), Arc::clone(&refusals));
                tokio::spawn(converse(stream, peer, desk, refusals, place));
            }
            Err(_) => {
                refusals.note(peer, Why::Busy);
                let message = "too many ask at once; try again";
                refuse(stream, Why::Busy, message, &partings);
            }
        }
    }
}

/// A new connection takes so little at once, or nobody is there to hear it.
/// Closed with something unread, it would lose that again: so what comes is
/// dropped for a moment, while there is a place for that.
fn refuse(stream: UnixStream, why: Why, message: &str, partings: &Arc<Semaphore>) {
    let answer = Answer {
        v: VERSION,
        reply: Reply::refused(why, message),
    };
    if let Ok(frame) = framed(&answer) {
        let _ = stream.try_write(&frame);
    }
    if let Ok(place) = Arc::clone(partings).try_acquire_owned() {
        tokio::spawn(async move {
            let _ = timeout(PARTS_WITHIN, part(stream)).await;
            drop(place);
        });
    }
}

/// Until the other end has closed, or has sent more than any question.
async fn part(mut stream: UnixStream) {
    let _ = stream.shutdown().await;
    let mut rest = stream.take(QUESTION_MAX.into());
    let _ = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await;
}

async fn converse(
    mut stream: UnixStream,
    peer: Peer,
    desk: Arc<Desk>,
    refusals: Arc<Refusals>,
    _place: OwnedSemaphorePermit,
) {
    let asked = timeout(ASKED_WITHIN, question(&mut stream)).await;
    let is_root = peer.uid == Uid::ROOT;
    let reply = match asked.unwrap_or(None) {
        None => {
            refusals.note(peer, Why::Malformed);
            let message = format!("expected one question of version {VERSION}");
            Reply::refused(Why::Malformed, message)
        }
        Some(Question { ask, .. }) if !is_root && !matches!(ask, Ask::Verdict { .. }) => {
            refusals.note(peer, Why::Forbidden);
            let message = "only root may ask this; others may ask for their own verdict";
            Reply::refused(Why::Forbidden, message)
        }
        Some(question) => desk.answer(peer, question).await,
    };
    let Ok(frame) = framed(&Answer { v: VERSION, reply }) else {
        return;
    };
    // Whoever does not take it, or has gone, does without.
    if timeout(TAKEN_WITHIN, stream.write_all(&frame))
        .await
        .is_ok()
    {
        let _ = timeout(PARTS_WITHIN, part(stream)).await;
    }
}

/// `None` where it is none, ends early, or says that it is too long.
async fn question(stream: &mut UnixStream) -> Option<Question> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).await.ok()?;
    let mut body = vec![0; length(head, QUESTION_MAX)?];
    stream.read_exact(&mut body).await.ok()?;
    let question: Question = serde_json::from_slice(&body).ok()?;
    (question.v == VERSION).then_some(question)
}
