//! `imdsfw names`, which `imdsfw run` starts for itself.

use std::ffi::OsStr;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::sync::Arc;

use nix::unistd::{Gid, Uid};

use super::Outcome;
use crate::caller::{accounts, names::process};
use crate::sys::privilege;

/// Look up accounts for the daemon, which asks on standard input.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// To run as.
    uid: u32,
    /// The only group.
    gid: u32,
}

pub(super) fn run(args: Args) -> Outcome {
    let _ = nix::sys::prctl::set_name(c"imdsfw-names");
    privilege::drop_to(Uid::from_raw(args.uid), Gid::from_raw(args.gid))?;
    if !accounts::nss_works() {
        eprintln!(
            "imdsfw-names: neither the group of uid {}, nor root's, is found; until it is, no \
             user or group is known by its name (see `id {}` and /etc/nsswitch.conf)",
            args.uid, args.uid
        );
    }
    let socket = Arc::new(std::io::stdin().as_fd().try_clone_to_owned()?);
    match process::serve(&socket, accounts::lookup_warily) {
        process::End::AskerGone => Ok(ExitCode::SUCCESS),
        process::End::Wedged => {
            eprintln!("imdsfw-names: every lookup hangs; starting over");
            let again = Command::new("/proc/self/exe")
                .arg0("imdsfw-names")
                .args([OsStr::new("names")])
                .args([args.uid.to_string(), args.gid.to_string()])
                .exec();
            Err(again.into())
        }
    }
}
