//! Tells a service manager how things stand: sd_notify(3), as far as the
//! daemon uses it. Without `NOTIFY_SOCKET` it tells nobody.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

pub(crate) fn ready() {
    notify("READY=1");
}

pub(super) fn stopping() {
    notify("STOPPING=1");
}

/// Has to come oftener than the manager's `WatchdogSec`, where it has one.
pub(crate) fn watchdog() {
    notify("WATCHDOG=1");
}

/// A manager that does not listen is no reason to fail, nor to wait.
fn notify(state: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let name = name.as_encoded_bytes();
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(String::from_utf8_lossy(name).as_ref()),
    };
    if let (Ok(socket), Ok(address)) = (UnixDatagram::unbound(), address)
        && socket.set_nonblocking(true).is_ok()
    {
        let _ = socket.send_to_addr(state.as_bytes(), &address);
    }
}
