//! The steps in and out, each with a way back: what is not confirmed from a new
//! login in time is undone by a process that needs nobody's help.
//!
//! Must never leave a host with rules and no daemon because of a failed step:
//! whatever fails is undone, and where going back fails too, the rules go.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use nix::unistd::geteuid;

use super::error::AdoptionError;
use super::processes::Process;
use super::services::{self, Services};
use super::session::{Session, ToldBy};
use super::state::{
    Places, State, What, Window, lock, mode_file, seconds_of_boot, shown, write_whole,
};
use crate::config::{Config, Mode};
use crate::diagnose::Style;
use crate::doctor::{self, Finding, State as How};
use crate::ids::Uid;
use crate::intercept::{self, Drift, RuleSet};

/// How often removing the rules is tried, a second between.
const TRIES: u32 = 120;

/// What came of a step.
#[derive(Debug)]
pub struct Done {
    /// The mode in force.
    pub mode: Mode,
    /// When it is undone, unless it is confirmed.
    pub until: Option<String>,
    /// What the doctor found, after it.
    pub findings: Vec<Finding>,
    /// What is left to do.
    pub more: Option<&'static str>,
}

/// Rules and daemon, where there were none.
///
/// # Errors
/// [`AdoptionError`]; nothing has changed then, or all of it was undone.
pub fn enable(
    path: &Path,
    observe: bool,
    confirm: Option<Duration>,
) -> Result<Done, AdoptionError> {
    let (places, services) = begin(path, confirm)?;
    let _lock = lock(&places)?.ok_or(AdoptionError::Busy)?;
    let mut state = load(&places)?;
    let found = doctor::before(path);
    if found.iter().any(is_failure) {
        return Err(AdoptionError::Checks(found));
    }
    let (_, rules) = read(path)?;
    let daemon = rules.daemon_uid();
    let had_rules = intercept::are_loaded()?;
    if had_rules && let Some(drift) = intercept::verify(&rules)?.into_iter().find(Drift::is_open) {
        return Err(AdoptionError::OtherRules(drift.to_string()));
    }
    let what = What::Enable {
        had_rules,
        units: services.idle_units(),
        observe,
    };
    let ran = services::runs(daemon);
    open_window(&mut state, services, &what, confirm)?;
    let outcome = (|| {
        if observe {
            set_mode_for_now(&mut state, Mode::Observe)?;
        }
        services.start(&mut state, daemon).map_err(Failure::from)?;
        if ran && observe {
            services.put_in_force(&mut state, daemon)?;
        }
        examined(path)
    })();
    settle(&mut state, services, &what, outcome, confirm)
}

/// Denials bind from now on.
///
/// # Errors
/// As [`enable`].
pub fn enforce(path: &Path, confirm: Option<Duration>) -> Result<Done, AdoptionError> {
    let (places, services) = begin(path, confirm)?;
    let _lock = lock(&places)?.ok_or(AdoptionError::Busy)?;
    let mut state = load(&places)?;
    let (config, rules) = read(path)?;
    let daemon = rules.daemon_uid();
    if !services::runs(daemon) {
        return Err(AdoptionError::NoDaemon);
    }
    if config.policy.mode == Mode::Enforce {
        return Err(AdoptionError::EnforcedAlready);
    }
    if !services.is_ours(&state) {
        return Err(AdoptionError::NotOurs);
    }
    let found = doctor::before(path);
    if found.iter().any(is_failure) {
        return Err(AdoptionError::Checks(found));
    }
    let what = What::Enforce;
    open_window(&mut state, services, &what, confirm)?;
    let outcome = (|| {
        set_mode_for_now(&mut state, Mode::Enforce)?;
        services.put_in_force(&mut state, daemon)?;
        examined(path)
    })();
    settle(&mut state, services, &what, outcome, confirm)
}

/// What waits for a yes stays; by what the login was told from the other.
///
/// # Errors
/// [`AdoptionError`]; it waits on then.
pub fn confirm(path: &Path) -> Result<(Done, ToldBy), AdoptionError> {
    let (places, services) = begin(path, None)?;
    let _lock = lock(&places)?.ok_or(AdoptionError::Busy)?;
    let mut state = State::load(&places).map_err(AdoptionError::State)?;
    let Some(window) = state.window.clone() else {
        return Err(AdoptionError::NothingToConfirm(state.last));
    };
    let told_by = Session::own()
        .is_another_than(&window.session)
        .map_err(|by| AdoptionError::SameLogin(by, window.until_shown.clone()))?;
    if seconds_of_boot() >= window.until {
        return Err(AdoptionError::TooLate);
    }
    // A config that would not be taken at the next start is not for good.
    let mode = read(path)?.0.policy.mode;
    let more = keep(&mut state, services, &window.what)?;
    services.let_stand(window.undoer.as_ref());
    state.window = None;
    state.save().map_err(AdoptionError::State)?;
    let findings = Vec::new();
    let done = Done {
        mode,
        until: None,
        findings,
        more,
    };
    Ok((done, told_by))
}

/// Rules and daemon go, and with them what the other steps have written.
///
/// # Errors
/// What could not be ended or removed.
pub fn disable(path: &Path) -> Result<(), AdoptionError> {
    let (places, services) = begin(path, None)?;
    let _lock = lock(&places)?.ok_or(AdoptionError::Busy)?;
    let mut state = State::load(&places).map_err(AdoptionError::State)?;
    services.stop_watcher(&state, &services.all_units());
    if let Some(pid) = doctor::watcher() {
        return Err(AdoptionError::Watched(pid));
    }
    intercept::remove(None)?;
    // Until then, what was to be undone by itself still is.
    if let Some(window) = state.window.take() {
        services.let_stand(window.undoer.as_ref());
    }
    services.stop(&mut state, &[]);
    services.disable().map_err(AdoptionError::Services)?;
    let _ = fs::remove_file(places.mode());
    unset_mode_for_now(&mut state);
    state.last = None;
    state.save().map_err(AdoptionError::State)
}

/// Waits until the window is over, unless `now`, and undoes it if it still
/// waits for its yes.
pub fn undo_when_due(file: &Path, id: u64, now: bool) -> Result<(), AdoptionError> {
    let Some(runtime) = file.parent() else {
        return Ok(());
    };
    let places = Places {
        config: Path::new(crate::config::DEFAULT_PATH).to_owned(),
        runtime: runtime.to_owned(),
    };
    let waiting = |state: &State| state.window.clone().filter(|window| window.id == id);
    loop {
        let state = State::load(&places).map_err(AdoptionError::State)?;
        let Some(window) = waiting(&state) else {
            return Ok(());
        };
        if now || seconds_of_boot() >= window.until {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    // One that hangs while it holds this must not keep the way back shut.
    let _lock = lock(&places);
    let mut state = State::load(&places).map_err(AdoptionError::State)?;
    let Some(window) = waiting(&state) else {
        return Ok(());
    };
    let services = Services::of_this_host(&state.places.config).unwrap_or(Services::Nobody);
    let troubles = undo(&mut state, services, &window.what);
    let mut said = format!(
        "{} was undone at {}: nobody had confirmed it",
        window.what,
        shown(Duration::ZERO)
    );
    for trouble in troubles {
        said += &format!("; {trouble}");
    }
    eprintln!("imdsfw: {said}");
    state.window = None;
    state.last = Some(said);
    state.save().map_err(AdoptionError::State)
}

/// Why a step was taken back.
enum Failure {
    Said(String),
    Found(Vec<Finding>),
}

impl From<String> for Failure {
    fn from(said: String) -> Self {
        Self::Said(said)
    }
}

impl From<AdoptionError> for Failure {
    fn from(error: AdoptionError) -> Self {
        Self::Said(error.to_string())
    }
}

fn begin(path: &Path, confirm: Option<Duration>) -> Result<(Places, Services), AdoptionError> {
    if !geteuid().is_root() {
        return Err(AdoptionError::NotRoot);
    }
    let services = Services::of_this_host(path).map_err(AdoptionError::Services)?;
    let places = Places::of(path);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&places.runtime)
        .map_err(AdoptionError::State)?;
    if confirm.is_some() && !places.is_forgotten_at_boot() {
        return Err(AdoptionError::Remembered(places.runtime));
    }
    Ok((places, services))
}

fn load(places: &Places) -> Result<State, AdoptionError> {
    let state = State::load(places).map_err(AdoptionError::State)?;
    match state.window {
        Some(window) => Err(AdoptionError::Waiting(window.until_shown)),
        None => Ok(state),
    }
}

fn read(path: &Path) -> Result<(Config, RuleSet), AdoptionError> {
    let config = Config::load(path);
    let config = config.map_err(|found| AdoptionError::Config(found.render(Style::Plain)))?;
    let rules = RuleSet::from_config(&config);
    let rules = rules.map_err(|error| AdoptionError::Config(error.to_string()))?;
    Ok((config, rules))
}

/// The undoing is under way before anything is done.
fn open_window(
    state: &mut State,
    services: Services,
    what: &What,
    confirm: Option<Duration>,
) -> Result<(), AdoptionError> {
    state.last = None;
    let Some(confirm) = confirm else {
        return state.save().map_err(AdoptionError::State);
    };
    let id =
        getrandom::u64().map_err(|error| AdoptionError::State(std::io::Error::other(error)))?;
    state.window = Some(Window {
        id,
        what: what.clone(),
        until: seconds_of_boot() + confirm.as_secs().max(1),
        until_shown: shown(confirm),
        session: Session::own(),
        undoer: None,
    });
    state.save().map_err(AdoptionError::State)?;
    let undoer = services.undo_after(&state.places, id, confirm);
    let started = undoer.map_err(|error| {
        state.window = None;
        let _ = state.save();
        AdoptionError::NoWayBack(error)
    })?;
    if let Some(window) = &mut state.window {
        window.undoer = started;
    }
    state.save().map_err(AdoptionError::State)
}

fn settle(
    state: &mut State,
    services: Services,
    what: &What,
    outcome: Result<Vec<Finding>, Failure>,
    confirm: Option<Duration>,
) -> Result<Done, AdoptionError> {
    let kept = outcome.and_then(|found| match confirm {
        Some(_) => Ok((found, None)),
        None => Ok((found, keep(state, services, what)?)),
    });
    match kept {
        Ok((findings, more)) => {
            state.save().map_err(AdoptionError::State)?;
            Ok(Done {
                mode: read(&state.places.config)?.0.policy.mode,
                until: state.window.as_ref().map(|it| it.until_shown.clone()),
                findings,
                more,
            })
        }
        Err(failure) => {
            let troubles = undo(state, services, what);
            if let Some(window) = state.window.take() {
                services.let_stand(window.undoer.as_ref());
            }
            state.save().map_err(AdoptionError::State)?;
            let (why, findings) = match failure {
                Failure::Said(why) => (why, Vec::new()),
                Failure::Found(findings) => ("the checks failed".to_owned(), findings),
            };
            Err(AdoptionError::Undone {
                why,
                findings,
                troubles,
            })
        }
    }
}

fn is_failure(finding: &Finding) -> bool {
    finding.state == How::Failure
}

/// As root and as somebody else.
fn examined(path: &Path) -> Result<Vec<Finding>, Failure> {
    let nobody = nix::unistd::User::from_name("nobody").ok().flatten();
    let mut users = vec![Uid::ROOT];
    users.extend(nobody.map(|nobody| Uid(nobody.uid.as_raw())));
    let found = doctor::examine(path, &users);
    match found.iter().any(is_failure) {
        true => Err(Failure::Found(found)),
        false => Ok(found),
    }
}

/// Until somebody says yes, and no longer than this boot.
fn set_mode_for_now(state: &mut State, mode: Mode) -> Result<(), AdoptionError> {
    let places = &state.places;
    let link = places.mode_for_now();
    if let Some(directory) = link.parent()
        && !directory.exists()
    {
        fs::create_dir(directory).map_err(AdoptionError::State)?;
        state.made_directory = true;
    }
    let text = mode_file(mode);
    let _ = fs::remove_file(&link);
    write_whole(&places.behind_the_link(), text.as_bytes(), 0o644)
        .and_then(|()| symlink(places.behind_the_link(), &link))
        .map_err(AdoptionError::State)?;
    state.save().map_err(AdoptionError::State)?;
    match read(&state.places.config)?.0.policy.mode == mode {
        true => Ok(()),
        false => Err(AdoptionError::OtherMode),
    }
}

fn unset_mode_for_now(state: &mut State) {
    let link = state.places.mode_for_now();
    let _ = fs::remove_file(&link);
    let _ = fs::remove_file(state.places.behind_the_link());
    if state.made_directory
        && let Some(directory) = link.parent()
    {
        // Only where nothing else is in it.
        let _ = fs::remove_dir(directory);
    }
}

/// What was for now is for good.
fn keep(
    state: &mut State,
    services: Services,
    what: &What,
) -> Result<Option<&'static str>, AdoptionError> {
    let mode = match what {
        What::Enable { observe: false, .. } => None,
        What::Enable { observe: true, .. } => Some(Mode::Observe),
        What::Enforce => Some(Mode::Enforce),
    };
    // Before the mode is written, which nothing undoes.
    let said = match what {
        What::Enable { .. } => services.keep().map_err(AdoptionError::Services)?,
        What::Enforce => None,
    };
    if let Some(mode) = mode {
        let text = mode_file(mode);
        write_whole(&state.places.mode(), text.as_bytes(), 0o644).map_err(AdoptionError::State)?;
        unset_mode_for_now(state);
    }
    Ok(said)
}

/// Back to what was before; what went wrong on the way.
fn undo(state: &mut State, services: Services, what: &What) -> Vec<String> {
    let mut troubles = Vec::new();
    unset_mode_for_now(state);
    match what {
        What::Enable {
            had_rules,
            units,
            observe,
        } => {
            if !had_rules {
                services.stop_watcher(state, units);
                troubles.extend(open_the_door());
            }
            let was_idle = !state.started.is_empty() || !units.is_empty();
            services.stop(state, units);
            if *observe && !was_idle {
                troubles.extend(read_again(state, services).err());
            }
        }
        What::Enforce => {
            if let Err(why) = read_again(state, services) {
                // A daemon that does not come back would keep everybody out.
                let units = services.all_units();
                services.stop_watcher(state, &units);
                troubles.push(format!("{why}; the rules were taken out"));
                troubles.extend(open_the_door());
            }
        }
    }
    troubles
}

fn read_again(state: &mut State, services: Services) -> Result<(), String> {
    let (_, rules) = read(&state.places.config).map_err(|error| error.to_string())?;
    services.put_in_force(state, rules.daemon_uid())
}

/// Takes the rules out, whoever would restore them.
fn open_the_door() -> Option<String> {
    let mut trouble = None;
    for _ in 0..TRIES {
        if let Some(watcher) = doctor::watcher().and_then(|pid| Process::of(pid, "")) {
            watcher.end();
        }
        match intercept::remove(None) {
            Ok(_) if doctor::watcher().is_none() => return None,
            Ok(_) => trouble = Some("something restores the rules".to_owned()),
            Err(error) => trouble = Some(format!("the rules are not removed: {error}")),
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    trouble
}
