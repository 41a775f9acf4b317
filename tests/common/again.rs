//! What waits with a time limit is interrupted without a signal of its own: by
//! the end of another test's child, where a thread that starts one has blocked
//! all signals just then (signal(7), "Interruption of system calls").

use std::io;

/// Does it again until it is not interrupted.
pub(crate) fn again<T>(mut what: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match what() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}
