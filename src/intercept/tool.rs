//! Running `nft`, and turning what it says into what an admin can act on.
//!
//! Must never read or change a table that is not ours, beyond listing names.

use std::fmt;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Where nft stands when PATH does not say: services and cron start without
/// the sbin directories.
const SBIN: [&str; 2] = ["/usr/sbin", "/sbin"];

/// How much of nft's complaint is passed on; it repeats each faulty line.
const STDERR_LINES: usize = 6;

/// Why the kernel rules could not be read or changed.
#[derive(Debug)]
pub enum InterceptError {
    /// No `nft` to run.
    NftMissing,
    /// `nft` stands there but did not run.
    NftFailed(io::Error),
    /// Without the right to see or change kernel rules.
    NotPermitted,
    /// The kernel does not know something the rules need.
    KernelLacks {
        /// What nft said, shortened.
        stderr: String,
    },
    /// nft refused for another reason.
    Refused {
        /// What nft said, shortened.
        stderr: String,
    },
}

/// Loads a script in one transaction.
pub(super) fn load(script: &str) -> Result<(), InterceptError> {
    run(&["-f", "-"], script).map(drop)
}

/// A table of ours as nft prints it, without counters (`-s`) and all in
/// numbers (`-n`), so that no services file or account database plays a part.
pub(super) fn list(table: &str) -> Result<String, InterceptError> {
    run(&["-s", "-n", "list", "table", "inet", table], "")
}

/// The names of all tables of family inet.
pub(super) fn tables() -> Result<Vec<String>, InterceptError> {
    Ok(run(&["list", "tables", "inet"], "")?
        .lines()
        .filter_map(|line| line.strip_prefix("table inet "))
        .map(|name| name.trim().to_owned())
        .collect())
}

fn run(args: &[&str], stdin: &str) -> Result<String, InterceptError> {
    let nft = find().ok_or(InterceptError::NftMissing)?;
    let mut child = Command::new(nft)
        .args(args)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(InterceptError::NftFailed)?;
    if let Some(mut pipe) = child.stdin.take() {
        // Where nft ends before it has read everything, its own words say
        // more than the broken pipe.
        match pipe.write_all(stdin.as_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(InterceptError::NftFailed(error));
            }
            _ => {}
        }
    }
    let output = child
        .wait_with_output()
        .map_err(InterceptError::NftFailed)?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(explain(&String::from_utf8_lossy(&output.stderr)))
    }
}

fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .filter(|directory| directory.is_absolute())
        .chain(SBIN.map(PathBuf::from))
        .map(|directory| directory.join("nft"))
        .find(|candidate| candidate.is_file())
}

/// Sorts nft's words by the errno that they spell out.
fn explain(stderr: &str) -> InterceptError {
    if stderr.contains("Operation not permitted") {
        return InterceptError::NotPermitted;
    }
    let shortened = shorten(stderr);
    // What a kernel says for an expression or chain type it has no code for
    // (EOPNOTSUPP, EPROTONOSUPPORT, EAFNOSUPPORT), or no module (ENOENT).
    let lacking = [
        "not supported",
        "Could not process rule: No such file or directory",
    ];
    if lacking.iter().any(|words| stderr.contains(words)) {
        InterceptError::KernelLacks { stderr: shortened }
    } else {
        InterceptError::Refused { stderr: shortened }
    }
}

/// The first lines, without those of carets that point at a column.
fn shorten(stderr: &str) -> String {
    let mut lines: Vec<_> = stderr
        .lines()
        .map(str::trim)
        .filter(|line| line.chars().any(|c| !matches!(c, '^' | '~' | ' ')))
        .collect();
    if lines.len() > STDERR_LINES {
        lines.truncate(STDERR_LINES);
        lines.push("...");
    }
    lines.join("\n  ")
}

impl fmt::Display for InterceptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NftMissing => write!(
                f,
                "nft was not found in PATH, /usr/sbin or /sbin; install the package nftables"
            ),
            Self::NftFailed(error) => write!(f, "nft could not be run: {error}"),
            Self::NotPermitted => write!(
                f,
                "not permitted to read or change kernel rules; run this as root, \
                 or with the capability CAP_NET_ADMIN"
            ),
            Self::KernelLacks { stderr } => write!(
                f,
                "the kernel lacks something that the rules need; they need Linux 5.9 or later \
                 with nf_tables, nat for family inet, ct and reject. nft said:\n  {stderr}"
            ),
            Self::Refused { stderr } => write!(
                f,
                "nft refused, and nothing was changed; see `nft --version` and \
                 `imdsfw rules show`. nft said:\n  {stderr}"
            ),
        }
    }
}

impl std::error::Error for InterceptError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NftFailed(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_become_what_an_admin_can_act_on() {
        assert!(matches!(
            explain("Operation not permitted (you must be root)\nnetlink: Error: x"),
            InterceptError::NotPermitted
        ));
        for lacking in [
            "/dev/stdin:9:3-8: Error: Could not process rule: Operation not supported\n\tx\n\t^^",
            "/dev/stdin:9:3-8: Error: Could not process rule: No such file or directory\n\tx",
        ] {
            assert!(matches!(
                explain(lacking),
                InterceptError::KernelLacks { .. }
            ));
        }
        assert!(matches!(
            explain("/dev/stdin:1:1-3: Error: syntax error, unexpected string"),
            InterceptError::Refused { .. }
        ));
    }

    #[test]
    fn long_complaints_are_cut_and_carets_left_out() {
        let many = "Error: first\nthe rule\n   ^^~~^\n".repeat(10);
        let shortened = shorten(&many);
        assert!(!shortened.contains('^'), "{shortened}");
        assert_eq!(shortened.lines().count(), STDERR_LINES + 1);
    }
}
