//! What a listener needs of the kernel and of the runtime, and can be told in
//! no safe way.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use nix::errno::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// For how long the kernel keeps a connection to itself whose client sends
/// nothing: until the client answers the second SYN-ACK. Not at all where SYN
/// cookies have to serve, which remember nothing.
pub const DEFERRED: Duration = Duration::from_secs(1);

/// Has the kernel hand a connection over once there is something to read on
/// it, or after [`DEFERRED`] (TCP_DEFER_ACCEPT, tcp(7)).
///
/// # Errors
/// As setsockopt(2).
pub fn defer(socket: &TcpListener) -> Result<(), Errno> {
    let seconds = libc::c_int::try_from(DEFERRED.as_secs()).map_err(|_| Errno::EINVAL)?;
    let length = size_of_val(&seconds)
        .try_into()
        .map_err(|_| Errno::EINVAL)?;
    // SAFETY: the kernel reads one int, which outlives the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            length,
        )
    };
    Errno::result(set).map(drop)
}

/// Has the runtime say when there is a connection to accept. The listener must
/// be non-blocking.
///
/// # Errors
/// As epoll_ctl(2).
///
/// # Panics
/// Outside a runtime.
pub fn watch(socket: TcpListener) -> io::Result<AsyncFd<TcpListener>> {
    // SAFETY: the listener owns its descriptor, is the same one for as long as
    // it is there, and goes into what watches it: nobody can close it before.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}
