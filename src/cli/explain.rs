//! `imdsfw explain`.

mod answer;
mod recorded;

use std::process::ExitCode;
use std::sync::Arc;

use nix::unistd;
use serde_json::json;

use super::inputs;
use super::{ConfigArg, Outcome, print};
use crate::caller::{accounts, witness};
use crate::config::{Config, load_policy};
use crate::control::{self, Store};
use crate::diagnose::{Diagnostics, plain_text};
use crate::ids::Uid;
use crate::intercept::daemon_uid;
use crate::policy::{Login, Obscured, Origin, Program, Subject, Unit};
use crate::request::path_of_url;
use answer::Answer;

/// There is no policy to judge by.
const NO_POLICY: u8 = 3;

/// Explain the verdict on one request, by the files as they stand.
///
/// Says which rule decides and why the earlier ones did not match; with --id,
/// of a request in the audit log, under the policy of that time if it is still
/// known. Exits 0 for allow, 1 for deny, 3 when there is no policy to judge by.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  imdsfw explain /latest/meta-data/iam/security-credentials/web
  imdsfw explain --user alice --json /latest/user-data
  imdsfw explain --id 01M8083Y356JM42EG000000004")]
pub(super) struct Args {
    /// The path or URL, as a client sends it or without its version
    #[arg(value_parser = path_or_url, required_unless_present = "id")]
    path: Option<String>,
    /// Explain this request of the audit log; a refusal shows its id
    #[arg(long, value_name = "ID", conflicts_with_all = ["path", "user", "method", "v1", "unit", "exe", "loginuid"])]
    id: Option<String>,
    /// Who asks [default: you]
    #[arg(long, value_name = "NAME|UID")]
    user: Option<String>,
    /// How it is asked
    #[arg(long, value_name = "M", default_value = "GET")]
    method: String,
    /// Ask without a token (IMDSv1)
    #[arg(long)]
    v1: bool,
    /// Ask the running daemon what you would get now, with grants, lockdown
    /// and bypass counted in; `[control] own_verdict` lets others than root
    #[arg(long, conflicts_with_all = ["user", "method", "v1", "unit", "exe", "loginuid", "id"])]
    live: bool,
    /// From which unit; "" for none [default: yours, without --user]
    #[arg(long, value_name = "UNIT")]
    unit: Option<String>,
    /// With which program
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    exe: Option<String>,
    /// Who logged in, or "none" [default: as you, without --user]
    #[arg(long, value_name = "NAME|UID|none")]
    loginuid: Option<String>,
    /// Print the answer as one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArg,
}

fn path_or_url(text: &str) -> Result<String, &'static str> {
    let path = path_of_url(text).unwrap_or(text);
    match path.starts_with('/') {
        true => Ok(path.to_owned()),
        false => Err("expected a path such as /latest/user-data, or its http:// URL"),
    }
}

fn absolute(text: &str) -> Result<String, &'static str> {
    match text.starts_with('/') {
        true => Ok(text.to_owned()),
        false => Err("expected an absolute path, as /proc/PID/exe has it"),
    }
}

/// A request, as it was described.
struct Asked {
    subject: Subject,
    origin: Origin,
    method: String,
    path: String,
    v1: bool,
}

impl Asked {
    /// One program at most: nobody describes more.
    fn program(&self) -> Option<&Program> {
        self.origin.holders.as_ref().ok()?.first()
    }

    fn unit(&self) -> Option<&str> {
        match &self.origin.unit {
            Unit::Named(unit) => Some(unit),
            Unit::Outside | Unit::Unknown => None,
        }
    }

    fn loginuid(&self) -> Option<i64> {
        match &self.program()?.login {
            Login::As(subject) => Some(subject.uid.0.into()),
            Login::Nobody => Some(-1),
            Login::Unknown => None,
        }
    }
}

pub(super) fn run(args: Args) -> Outcome {
    if args.live {
        let path = args.path.unwrap_or_default();
        return super::orders::own_verdict(&args.config, path, args.json);
    }
    let mut found = Diagnostics::new();
    if let Some(id) = &args.id {
        let config = Config::load_with(&args.config.config, &[], &mut found);
        return match config {
            Some(config) => recorded::run(id, &config, args.json),
            None => without_policy(&found, args.json),
        };
    }
    let asked = match asked(&args)? {
        Ok(asked) => asked,
        Err(name) => {
            let name = plain_text(&name);
            eprintln!("imdsfw: no account is called {name}; give its uid, or another name");
            return Ok(ExitCode::from(2));
        }
    };
    let config = Config::load_with(&args.config.config, &[], &mut found);
    let loaded = config.and_then(|config| {
        let loaded = load_policy(&config, &mut found)?;
        // For who may read them; the others are answered by the files alone.
        let owner = daemon_uid(&config.user).unwrap_or(Uid::ROOT);
        let store = Store::new(config.state_directory.clone(), owner);
        let policy = control::ahead_of(loaded, &config, &store);
        Some((config, policy))
    });
    let Some((config, policy)) = loaded else {
        return without_policy(&found, args.json);
    };
    let answer = Answer::new(&asked, config.provider, &policy);
    if args.json {
        let answer = answer.json(&asked, config.policy.mode, &policy);
        print(&format!("{answer}\n"))?;
    } else {
        print(&answer.text(&asked, config.policy.mode))?;
    }
    Ok(ExitCode::from(u8::from(!answer.allowed)))
}

fn without_policy(found: &Diagnostics, as_json: bool) -> Outcome {
    if as_json {
        let answer = json!({ "verdict": null, "diagnostics": found });
        print(&format!("{answer}\n"))?;
    } else {
        inputs::show(found);
        eprintln!("\nimdsfw: there is no policy to judge by, because of the errors above");
    }
    Ok(ExitCode::from(NO_POLICY))
}

/// The request; or the name that no account has.
fn asked(args: &Args) -> Result<Result<Asked, String>, String> {
    let uid = match &args.user {
        None => Uid(unistd::getuid().as_raw()),
        Some(user) => match inputs::uid_of(user)? {
            Some(uid) => uid,
            None => return Ok(Err(user.clone())),
        },
    };
    // Whoever asks about himself asks about this session of his.
    let own = match args.user {
        None => witness::oneself(),
        Some(_) => None,
    };
    let unit = match (&args.unit, &own) {
        (Some(unit), _) if unit.is_empty() => Unit::Outside,
        (Some(unit), _) => Unit::Named(unit.as_str().into()),
        (None, Some(own)) => own
            .unit
            .as_deref()
            .map_or(Unit::Outside, |unit| Unit::Named(unit.into())),
        (None, None) => Unit::Unknown,
    };
    let loginuid = match (args.loginuid.as_deref(), &own) {
        (Some("none"), _) => Some(-1),
        (Some(user), _) => match inputs::uid_of(user)? {
            Some(uid) => Some(i64::from(uid.0)),
            None => return Ok(Err(user.to_owned())),
        },
        (None, own) => own.as_ref().and_then(|own| own.loginuid),
    };
    Ok(Ok(Asked {
        subject: subject(uid),
        origin: Origin {
            unit,
            holders: program(args.exe.clone(), loginuid),
        },
        method: args.method.clone(),
        path: args.path.clone().unwrap_or_default(),
        v1: args.v1,
    }))
}

fn subject(uid: Uid) -> Subject {
    Subject {
        uid,
        account: accounts::lookup(uid),
    }
}

fn program(exe: Option<String>, loginuid: Option<i64>) -> Result<Vec<Program>, Obscured> {
    if exe.is_none() && loginuid.is_none() {
        return Err(Obscured::NotAsked);
    }
    let login = match loginuid.map(u32::try_from) {
        None => Login::Unknown,
        Some(Ok(uid)) => Login::As(Arc::new(subject(Uid(uid)))),
        Some(Err(_)) => Login::Nobody,
    };
    Ok(vec![Program { exe, login }])
}
