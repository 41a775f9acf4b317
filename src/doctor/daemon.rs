//! The daemon and what is its own: account, processes, listeners, log.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use super::{Finding, host, sockets};
use crate::config::Config;
use crate::ids::{MetadataAddr, Uid};
use crate::intercept::RuleSet;

/// Where programs stand that users run.
const FOLDERS: [&str; 9] = [
    "/usr/bin",
    "/usr/sbin",
    "/usr/local/bin",
    "/usr/local/sbin",
    "/usr/libexec",
    "/usr/lib",
    "/bin",
    "/sbin",
    "/tmp",
];
/// Files looked at in one folder.
const FILES_MAX: usize = 20_000;
const S_ISUID: u32 = 0o4000;
/// For the records of our own requests to reach the log.
const RECORDED_WITHIN: Duration = Duration::from_secs(1);

/// The one account that the rules let through to the service.
pub(super) fn account(config: &Config, uid: Uid) -> Vec<Finding> {
    let setuid: Vec<_> = FOLDERS
        .iter()
        .flat_map(|folder| fs::read_dir(folder).into_iter().flatten().take(FILES_MAX))
        .flatten()
        .filter(|file| {
            file.metadata()
                .is_ok_and(|it| it.is_file() && it.uid() == uid.0 && it.mode() & S_ISUID != 0)
        })
        .map(|file| file.path())
        .collect();
    match setuid.as_slice() {
        [] => {
            let what = format!("{} is uid {uid}, and owns no setuid program", config.user);
            vec![Finding::ok("account", what)]
        }
        files => files
            .iter()
            .map(|file| {
                let file = file.display();
                let what = format!(
                    "{file} is setuid to {}: whoever runs it reaches the service unjudged",
                    config.user
                );
                Finding::failure("account", what, format!("chmod u-s {file}"))
            })
            .collect(),
    }
}

/// Nobody else may run as the daemon's user.
pub(super) fn processes(uid: Uid) -> Finding {
    let running = host::running_as(uid.0);
    let mut others = running.iter().filter(|(_, name)| name != "imdsfw");
    match others.next() {
        Some((pid, name)) => {
            let what = format!(
                "process {pid} ({name}) runs as uid {uid} and reaches the service unjudged"
            );
            let mend = format!("kill {pid}; give it another account");
            Finding::failure("processes", what, mend)
        }
        None => {
            let what = format!("nothing but imdsfw runs as uid {uid} ({})", running.len());
            Finding::ok("processes", what)
        }
    }
}

/// Whether the daemon, and it alone, listens for a metadata address.
pub(super) fn listener(rules: &RuleSet, destination: MetadataAddr) -> Finding {
    let address = rules.listener(destination);
    let daemon = rules.daemon_uid().0;
    let start = "systemctl start imdsfw (or: imdsfw run)";
    let inodes = sockets::listening(address);
    if inodes.is_empty() {
        let what = format!("nobody listens on {address}: no user reaches the service");
        return Finding::failure("listener", what, start);
    }
    let mut served = false;
    for (pid, process) in sockets::processes() {
        let Some(uid) = sockets::uid(&process) else {
            continue;
        };
        if !inodes.iter().any(|inode| sockets::holds(&process, *inode)) {
            continue;
        }
        if uid != 0 && uid != daemon {
            let what = format!("process {pid} of uid {uid} listens on {address}");
            return Finding::failure("listener", what, format!("kill {pid}; then: {start}"));
        }
        served |= uid == daemon;
    }
    if served {
        return Finding::ok("listener", format!("the daemon listens on {address}"));
    }
    let what = format!("{address} is kept by root, and no daemon accepts there");
    Finding::failure("listener", what, start)
}

/// Bytes in the log; `None` where there is none to be seen.
pub(super) fn log_size(config: &Config) -> Option<u64> {
    Some(fs::metadata(&config.audit.file).ok()?.len())
}

/// Whether the log has grown by what was asked since it had `before` bytes.
pub(super) fn log_grows(config: &Config, uid: Uid, before: Option<u64>) -> Finding {
    let file = config.audit.file.display();
    let mend = format!(
        "chown {} {file}; df {file}; systemctl restart imdsfw",
        config.user
    );
    let start = Instant::now();
    while start.elapsed() < RECORDED_WITHIN {
        if log_size(config) > before {
            return Finding::ok("audit", format!("{file} takes records"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let what = match fs::metadata(&config.audit.file) {
        Err(error) => format!("{file}: {error}"),
        Ok(meta) if meta.uid() != uid.0 => {
            format!("{file} belongs to uid {}, and takes no records", meta.uid())
        }
        Ok(_) => format!("{file} takes no records of requests"),
    };
    Finding::failure("audit", what, mend)
}
