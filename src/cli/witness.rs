//! `imdsfw witness`.

use std::path::PathBuf;
use std::process::ExitCode;

use nix::unistd::geteuid;

use super::{ConfigArg, Outcome};
use crate::caller::witness::{self, Ends, RunAs};
use crate::ids::{Gid, Uid};
use crate::intercept;

/// Tell the daemon which processes hold a socket, and do nothing else.
///
/// `imdsfw run` starts one by itself when it is started as root. Apart from
/// it, as in a unit of its own, it connects to a socket that only root or the
/// user that the daemon runs as may listen on, waits until it can, and ends
/// when the daemon does. It needs CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH and
/// keeps nothing else; as root it becomes `witness_user`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example: imdsfw witness --connect /run/imdsfw/witness.sock")]
pub(super) struct Args {
    /// Where the daemon, or a service manager for it, listens.
    #[arg(long, value_name = "SOCKET")]
    connect: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArg,
    /// What the daemon that starts it has looked up.
    #[arg(long, hide = true, requires = "gid", conflicts_with = "connect")]
    uid: Option<u32>,
    #[arg(long, hide = true)]
    gid: Option<u32>,
}

pub(super) fn run(args: Args) -> Outcome {
    let (ends, run_as) = match args.connect {
        Some(socket) => {
            super::log_to_stderr();
            let config = args.config.load()?;
            let daemon = intercept::daemon_uid(&config.user)?;
            let run_as = geteuid()
                .is_root()
                .then(|| RunAs::new(&config.witness_user, daemon))
                .transpose()?;
            (Ends::Dial(socket, daemon), run_as)
        }
        None => {
            let ids = args.uid.zip(args.gid).map(|(uid, gid)| RunAs {
                uid: Uid(uid),
                gid: Gid(gid),
            });
            (Ends::Parent, ids)
        }
    };
    witness::serve(ends, run_as)?;
    Ok(ExitCode::SUCCESS)
}
