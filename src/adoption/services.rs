//! What runs the firewall on this host: the service manager with the units
//! that come with it, or nobody.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use super::processes::Process;
use super::state::{Places, State};
use crate::config::DEFAULT_PATH;
use crate::doctor;
use crate::ids::Uid;

/// In the order of their start; each waits until it is ready.
const UNITS: [&str; 5] = [
    "imdsfw-rules.service",
    "imdsfw.socket",
    "imdsfw-control.socket",
    "imdsfw-witness.service",
    "imdsfw.service",
];
/// Sockets that the admin may have added.
const ADDED: [&str; 2] = ["imdsfw-stream.socket", "imdsfw-metrics.socket"];
const DAEMON: &str = "imdsfw.service";
/// The timer that undoes, and the service it starts.
const UNDO: &str = "imdsfw-undo";

/// Who starts and ends processes here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Services {
    /// systemd, with the units of the package.
    Systemd,
    /// None: processes of their own, gone after a boot.
    Nobody,
}

impl Services {
    /// What this host has.
    ///
    /// # Errors
    /// Units that read another config.
    pub fn of_this_host(config: &Path) -> Result<Self, String> {
        if !Path::new("/run/systemd/system").is_dir() {
            return Ok(Self::Nobody);
        }
        if config != Path::new(DEFAULT_PATH) {
            return Err(format!(
                "the units read {DEFAULT_PATH}; leave out --config, or start the firewall by hand"
            ));
        }
        Ok(Self::Systemd)
    }

    /// All that come with it.
    pub(super) fn all_units(self) -> Vec<String> {
        match self {
            Self::Systemd => UNITS.map(str::to_owned).into(),
            Self::Nobody => Vec::new(),
        }
    }

    /// Units that do not run now.
    pub(super) fn idle_units(self) -> Vec<String> {
        match self {
            Self::Systemd => UNITS
                .iter()
                .filter(|unit| !does(&["is-active", "--quiet", unit]))
                .map(ToString::to_string)
                .collect(),
            Self::Nobody => Vec::new(),
        }
    }

    /// Rules and daemon, where they do not run; returns when both are ready.
    pub(super) fn start(self, state: &mut State, daemon: Uid) -> Result<(), String> {
        if self == Self::Systemd {
            return UNITS
                .iter()
                .try_for_each(|unit| systemctl(&["start", unit]));
        }
        if doctor::watcher().is_none() {
            self.start_one(state, &["rules", "watch"])?;
        }
        if !runs(daemon) {
            self.start_one(state, &["run"])?;
        }
        Ok(())
    }

    fn start_one(self, state: &mut State, words: &[&str]) -> Result<(), String> {
        let Places { config, runtime } = &state.places;
        let name = words.last().unwrap_or(&"imdsfw");
        let log = runtime.join(format!("adoption-{name}.log"));
        let process = Process::start_ready(words, config, &log)?;
        state.started.push(process);
        // So that whoever undoes it knows, whatever becomes of us.
        state.save().map_err(|error| error.to_string())
    }

    /// Has the daemon read its config again. The one place to change once it
    /// can do so while it runs.
    pub(super) fn put_in_force(self, state: &mut State, daemon: Uid) -> Result<(), String> {
        if self == Self::Systemd {
            return systemctl(&["restart", DAEMON]);
        }
        let (own, others): (Vec<_>, Vec<_>) =
            (state.started.drain(..)).partition(|process| process.does.starts_with("run "));
        state.started = others;
        for process in &own {
            process.end();
        }
        if runs(daemon) {
            return Err(
                "the daemon was not started by `imdsfw enable`: start it again yourself".to_owned(),
            );
        }
        self.start_one(state, &["run"])
    }

    /// Whether [`Services::put_in_force`] can work.
    pub(super) fn is_ours(self, state: &State) -> bool {
        match self {
            Self::Systemd => does(&["is-active", "--quiet", DAEMON]),
            Self::Nobody => (state.started.iter())
                .any(|process| process.does.starts_with("run ") && process.is_alive()),
        }
    }

    /// Ends the watcher of the rules, so that they can be removed.
    pub(super) fn stop_watcher(self, state: &State, units: &[String]) {
        let unit = UNITS.first().copied().unwrap_or_default();
        if self == Self::Systemd && units.iter().any(|it| it == unit) {
            let _ = systemctl(&["stop", unit]);
        }
        for process in &state.started {
            if process.does.starts_with("rules ") {
                process.end();
            }
        }
    }

    /// Ends the rest of what was started.
    pub(super) fn stop(self, state: &mut State, units: &[String]) {
        if self == Self::Systemd {
            for unit in units.iter().rev() {
                let _ = systemctl(&["stop", unit]);
            }
        }
        for process in state.started.drain(..) {
            process.end();
        }
    }

    /// From now on started at boot; what else there is to do for that.
    ///
    /// # Errors
    /// What systemd says.
    pub(super) fn keep(self) -> Result<Option<&'static str>, String> {
        match self {
            Self::Systemd => {
                let words: Vec<_> = ["enable", "--quiet"].into_iter().chain(UNITS).collect();
                systemctl(&words).map(|()| None)
            }
            Self::Nobody => Ok(Some(
                "No service manager was found that would start this at boot: have `imdsfw rules \
                 watch` and `imdsfw run` started before users can log in.",
            )),
        }
    }

    /// Not started at boot any more, and ended now.
    pub(super) fn disable(self) -> Result<(), String> {
        match self {
            Self::Systemd => {
                // Left, they start the daemon again for whoever connects. Most
                // hosts have none.
                for socket in ADDED {
                    let _ = systemctl(&["disable", "--quiet", "--now", socket]);
                }
                let words: Vec<_> = ["disable", "--quiet", "--now"]
                    .into_iter()
                    .chain(UNITS)
                    .collect();
                systemctl(&words)
            }
            Self::Nobody => Ok(()),
        }
    }

    /// Has `imdsfw undo` run after that time, whatever becomes of this process
    /// and its terminal.
    pub(super) fn undo_after(
        self,
        places: &Places,
        id: u64,
        after: Duration,
    ) -> Result<Option<Process>, String> {
        let (state, id) = (places.state(), id.to_string());
        if self == Self::Nobody {
            let words = ["undo".as_ref(), state.as_os_str(), id.as_ref()];
            let log = places.runtime.join("adoption-undo.log");
            return Process::start(&words, &log, None).map(Some);
        }
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new("systemd-run");
        command
            .args(["--quiet", "--collect", "--timer-property=AccuracySec=100ms"])
            .arg(format!("--unit={UNDO}"))
            .arg(format!("--on-active={}ms", after.as_millis()))
            .arg(own)
            .args(["undo", "--now"])
            .args([state.as_os_str(), id.as_ref()]);
        run(command).map(|()| None)
    }

    /// Nobody undoes it any more.
    pub(super) fn let_stand(self, undoer: Option<&Process>) {
        if self == Self::Systemd {
            let _ = systemctl(&["stop", &format!("{UNDO}.timer")]);
        }
        if let Some(undoer) = undoer {
            undoer.end();
        }
    }
}

/// Whether a daemon of that uid runs on this network.
pub(super) fn runs(daemon: Uid) -> bool {
    doctor::running_as(daemon.0)
        .iter()
        .any(|(_, name)| name == "imdsfw")
}

fn systemctl(words: &[&str]) -> Result<(), String> {
    let mut command = Command::new("systemctl");
    command.args(words);
    run(command)
}

fn does(words: &[&str]) -> bool {
    let outcome = Command::new("systemctl").args(words).output();
    outcome.is_ok_and(|output| output.status.success())
}

fn run(mut command: Command) -> Result<(), String> {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let words = words.join(" ");
    match command.output() {
        Ok(Output { status, .. }) if status.success() => Ok(()),
        Ok(Output { stderr, .. }) => {
            let said = String::from_utf8_lossy(&stderr);
            Err(format!("`{words}` failed: {}", said.trim()))
        }
        Err(error) => Err(format!("`{words}` cannot be run: {error}")),
    }
}
