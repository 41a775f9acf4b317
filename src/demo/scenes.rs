//! Plays the scenes: each request by a real client, as the uid it is meant for,
//! and the audit record behind it.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::script::{Ending, Expected, SCENES, Scene, Token};
use super::show::Show;
use super::stage::{Person, ROOT, Stage};
use super::{DemoError, Verdict};

const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn play(stage: &Stage, show: &Show) -> Result<Verdict, DemoError> {
    let roots = token(ROOT, "169.254.169.254")?;
    let mut verdict = Verdict::AsStated;
    for (number, scene) in (1..).zip(SCENES) {
        let token = match scene.token {
            Token::Own => Some(token(scene.who, scene.address)?),
            Token::Roots => Some(roots.clone()),
            Token::None => None,
        };
        let ending = perform(stage, number, scene, token)?;
        let as_stated = ending.is(scene.expected);
        show.scene(number, scene, &ending, as_stated);
        if !as_stated {
            verdict = Verdict::Otherwise;
        }
    }
    let leaked = credentials_requests(stage)?;
    show.closing(SCENES.len(), leaked, verdict);
    // Root's own, in the first scene.
    Ok(if leaked == 1 {
        verdict
    } else {
        Verdict::Otherwise
    })
}

fn perform(
    stage: &Stage,
    number: usize,
    scene: &Scene,
    token: Option<String>,
) -> Result<Ending, DemoError> {
    let agent = format!("demo-scene-{number}");
    let mut curl = curl(scene.who);
    // As written: curl would tidy up `..` by itself.
    curl.args(["--path-as-is", "-i", "-A", &agent]);
    if let Some(token) = token {
        curl.arg("-H")
            .arg(format!("X-aws-ec2-metadata-token: {token}"));
    }
    curl.arg(format!("http://{}{}", scene.address, scene.path));
    let output = curl
        .output()
        .map_err(|error| DemoError::Run("curl", error))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let record = match scene.expected {
        Expected::Refused => None,
        Expected::Answer(..) => Some(record(stage, &agent, scene.title)?),
    };
    let said = if status.is_some() {
        without_secrets(body)
    } else {
        String::from_utf8_lossy(&output.stderr).trim().to_owned()
    };
    Ok(Ending {
        status,
        said,
        record,
    })
}

fn token(who: Person, address: &str) -> Result<String, DemoError> {
    let output = curl(who)
        .args([
            "-X",
            "PUT",
            "-H",
            "X-aws-ec2-metadata-token-ttl-seconds: 60",
        ])
        .arg(format!("http://{address}/latest/api/token"))
        .output()
        .map_err(|error| DemoError::Run("curl", error))?;
    let token = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() || token.len() != 56 {
        return Err(DemoError::Failed("curl", "no token was handed out".into()));
    }
    Ok(token)
}

fn curl(who: Person) -> Command {
    let mut curl = Command::new("curl");
    curl.uid(who.uid)
        .gid(who.gid)
        .env_clear()
        .args(["-q", "-sS", "-g", "--max-time", "5"]);
    // Found by the parent's PATH.
    curl.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    curl
}

/// The record of the request that carried this User-Agent.
fn record(stage: &Stage, agent: &str, scene: &'static str) -> Result<Value, DemoError> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        let found = lines(&stage.audit_log())?
            .into_iter()
            .find(|record| record.pointer("/request/user_agent") == Some(&agent.into()));
        if let Some(record) = found {
            return Ok(record);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err(DemoError::NoRecord(scene))
}

/// How often the service itself was asked for credentials.
fn credentials_requests(stage: &Stage) -> Result<usize, DemoError> {
    let asked = |line: &Value| {
        let path = line.get("path").and_then(Value::as_str);
        path.is_some_and(|path| path.contains("security-credentials"))
    };
    Ok(lines(&stage.service_log())?
        .iter()
        .filter(|line| asked(line))
        .count())
}

fn lines(path: &std::path::Path) -> Result<Vec<Value>, DemoError> {
    let text = fs::read_to_string(path)
        .map_err(|error| DemoError::File(path.display().to_string(), error))?;
    Ok(text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect())
}

/// Of credentials only the key's id and end; else the first line.
fn without_secrets(body: &str) -> String {
    let document: Option<Value> = serde_json::from_str(body).ok();
    let field = |name| {
        document
            .as_ref()
            .and_then(|it| it.get(name))
            .and_then(Value::as_str)
    };
    match (field("AccessKeyId"), field("message")) {
        (Some(key), _) => format!("credentials, key id {key}"),
        (None, Some(message)) => message.to_owned(),
        (None, None) if body.is_empty() => "(an empty body)".into(),
        (None, None) => body.lines().next().unwrap_or_default().to_owned(),
    }
}
