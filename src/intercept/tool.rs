//! Running the tools that load kernel rules, and turning what they say into
//! what an admin can act on.

use std::fmt;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// Where the tools stand when PATH does not say: services and cron start
/// without the sbin directories.
const SBIN: [&str; 2] = ["/usr/sbin", "/sbin"];

/// How much of a tool's complaint is passed on; nft repeats each faulty line.
const STDERR_LINES: usize = 6;

/// Why the kernel rules could not be read or changed.
#[derive(Debug)]
pub enum InterceptError {
    /// The tool is not installed.
    Missing(Tool),
    /// It is there, but did not run.
    Failed(Tool, io::Error),
    /// Without the right to see or change kernel rules.
    NotPermitted,
    /// The kernel does not know something the rules need.
    KernelLacks {
        /// Which tool was told.
        tool: Tool,
        /// What it said, shortened.
        stderr: String,
    },
    /// The tool refused for another reason.
    Refused {
        /// Which tool.
        tool: Tool,
        /// What it said, shortened.
        stderr: String,
    },
}

/// A program that reads or loads kernel rules, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tool {
    name: &'static str,
    package: &'static str,
}

impl Tool {
    /// nft.
    pub(crate) const fn nft() -> Self {
        Self {
            name: "nft",
            package: "nftables",
        }
    }

    /// One of the programs of iptables.
    pub(super) const fn iptables(name: &'static str) -> Self {
        Self {
            name,
            package: "iptables",
        }
    }

    /// Whether it is installed.
    pub(super) fn is_there(self) -> bool {
        self.find().is_some()
    }

    /// To be run from where it is installed, and speaking English.
    pub(crate) fn command(self) -> Result<Command, InterceptError> {
        let mut command = Command::new(self.find().ok_or(InterceptError::Missing(self))?);
        command.env("LC_ALL", "C");
        Ok(command)
    }

    /// Runs it with this input; what it prints.
    pub(super) fn run(self, args: &[&str], stdin: &str) -> Result<String, InterceptError> {
        let failed = |error| InterceptError::Failed(self, error);
        let mut child = self.spawn(args, Stdio::piped)?;
        if let Some(mut pipe) = child.stdin.take() {
            // Where it ends before it has read everything, its own words say
            // more than the broken pipe.
            match pipe.write_all(stdin.as_bytes()) {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(failed(error));
                }
                _ => {}
            }
        }
        let output = child.wait_with_output().map_err(failed)?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(explain(self, &String::from_utf8_lossy(&output.stderr)))
        }
    }

    /// Starts it with this input. Nobody hears what it prints.
    pub(super) fn start(self, args: &[&str], stdin: &str) -> Result<Child, InterceptError> {
        let mut child = self.spawn(args, Stdio::null)?;
        if let Some(mut pipe) = child.stdin.take() {
            // It tells by its end what became of it.
            let _ = pipe.write_all(stdin.as_bytes());
        }
        Ok(child)
    }

    fn spawn(self, args: &[&str], said: fn() -> Stdio) -> Result<Child, InterceptError> {
        let mut command = self.command()?;
        command.args(args).stdin(Stdio::piped());
        let child = command.stdout(said()).stderr(said()).spawn();
        child.map_err(|error| InterceptError::Failed(self, error))
    }

    fn find(self) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .filter(|directory| directory.is_absolute())
            .chain(SBIN.map(PathBuf::from))
            .map(|directory| directory.join(self.name))
            .find(|candidate| candidate.is_file())
    }
}

/// Sorts a tool's words by the errno that they spell out.
fn explain(tool: Tool, stderr: &str) -> InterceptError {
    let denied = ["Operation not permitted", "Permission denied"];
    if denied.iter().any(|words| stderr.contains(words)) {
        return InterceptError::NotPermitted;
    }
    let shortened = shorten(stderr);
    // What a kernel says for an expression or chain type it has no code for
    // (EOPNOTSUPP, EPROTONOSUPPORT, EAFNOSUPPORT), or no module (ENOENT), and
    // what iptables says for a table or an extension that is not there.
    let lacking = [
        "not supported",
        "Could not process rule: No such file or directory",
        "table does not exist",
        "Couldn't load match",
        "Couldn't load target",
    ];
    if lacking.iter().any(|words| stderr.contains(words)) {
        InterceptError::KernelLacks {
            tool,
            stderr: shortened,
        }
    } else {
        InterceptError::Refused {
            tool,
            stderr: shortened,
        }
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
            Self::Missing(tool) => write!(
                f,
                "{tool} was not found in PATH, /usr/sbin or /sbin; install the package {}",
                tool.package
            ),
            Self::Failed(tool, error) => write!(f, "{tool} could not be run: {error}"),
            Self::NotPermitted => write!(
                f,
                "not permitted to read or change kernel rules; run this as root, \
                 or with the capability CAP_NET_ADMIN"
            ),
            Self::KernelLacks { tool, stderr } if *tool == Tool::nft() => write!(
                f,
                "the kernel lacks something that the rules need; they need Linux 5.9 or later \
                 with nf_tables, nat for family inet, ct and reject (or see `--backend \
                 iptables`). nft said:\n  {stderr}"
            ),
            Self::KernelLacks { tool, stderr } => write!(
                f,
                "the kernel or iptables lacks something that the rules need; they need the \
                 tables mangle, filter and nat with conntrack, connmark, owner, connlimit and \
                 REJECT. {tool} said:\n  {stderr}"
            ),
            Self::Refused { tool, stderr } => write!(
                f,
                "{tool} refused; see `{tool} --version` and `imdsfw rules show`. It said:\n  \
                 {stderr}"
            ),
        }
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl std::error::Error for InterceptError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Failed(_, error) => Some(error),
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
            explain(
                Tool::nft(),
                "Operation not permitted (you must be root)\nnetlink: Error: x"
            ),
            InterceptError::NotPermitted
        ));
        for lacking in [
            "/dev/stdin:9:3-8: Error: Could not process rule: Operation not supported\n\tx\n\t^^",
            "/dev/stdin:9:3-8: Error: Could not process rule: No such file or directory\n\tx",
        ] {
            assert!(matches!(
                explain(Tool::nft(), lacking),
                InterceptError::KernelLacks { .. }
            ));
        }
        assert!(matches!(
            explain(
                Tool::nft(),
                "/dev/stdin:1:1-3: Error: syntax error, unexpected string"
            ),
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
