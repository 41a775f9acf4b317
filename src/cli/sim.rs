//! `imdsfw sim`.

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use tokio::signal::unix::{SignalKind, signal};

use super::Outcome;
use crate::sim::{self, Item, RoleName, Rotation, Settings};

/// Run a simulated EC2 metadata service.
///
/// Prints `listening on ADDRESS` for each address once it can be asked, and
/// runs until SIGTERM or SIGINT. Its credentials are examples that no AWS
/// endpoint accepts.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  imdsfw sim --listen 127.0.0.1:8254 &\n  \
    curl -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://127.0.0.1:8254/latest/api/token")]
pub(super) struct Args {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", required = true, num_args = 1..)]
    listen: Vec<SocketAddr>,

    /// Whether GET needs a session token (IMDSv2).
    #[arg(long, value_enum, default_value = "required")]
    http_tokens: HttpTokens,

    /// Wait at least so long before every answer, e.g. 5ms.
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    latency: humantime::Duration,

    /// Answer 503 past so many requests per second.
    #[arg(long, value_name = "REQUESTS")]
    throttle: Option<NonZeroU32>,

    /// Hand out new credentials so often [default: 1h, or as often as a
    /// shorter life needs].
    #[arg(long, value_name = "DURATION")]
    rotate_every: Option<humantime::Duration>,

    /// How long credentials are valid.
    #[arg(long, value_name = "DURATION", default_value = "6h20m")]
    credential_life: humantime::Duration,

    /// The instance's role.
    #[arg(long, value_name = "NAME", default_value = "web")]
    role: RoleName,

    /// No role: 404 on everything below iam/.
    #[arg(long, conflicts_with = "role")]
    no_role: bool,

    /// Serve this file as user data.
    #[arg(long, value_name = "FILE")]
    user_data: Option<PathBuf>,

    /// Serve VALUE at PATH, below any version; may be given more than once.
    /// PATH is, for example, meta-data/spot/instance-action.
    #[arg(long = "item", value_name = "PATH=VALUE")]
    items: Vec<Item>,

    /// Append one JSON line per connection and per request to this file,
    /// before the answer is sent: "event" is connection or request; "token"
    /// says whether one was presented, tokens themselves are not recorded.
    #[arg(long, value_name = "FILE")]
    request_log: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum HttpTokens {
    Required,
    Optional,
}

pub(super) fn run(args: Args) -> Outcome {
    let listeners = args
        .listen
        .iter()
        .map(|address| listen(*address))
        .collect::<Result<Vec<_>, _>>()?;
    let settings = settings(args)?;
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_max_level(tracing::Level::WARN)
        .init();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(serve(settings, listeners))
}

async fn serve(settings: Settings, listeners: Vec<TcpListener>) -> Outcome {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let addresses = listeners
        .iter()
        .map(TcpListener::local_addr)
        .collect::<Result<Vec<_>, _>>()?;
    let serving = sim::serve(settings, listeners)?;
    for address in addresses {
        println!("listening on {address}");
    }
    io::stdout().flush()?;
    tokio::select! {
        never = serving => match never {},
        _ = terminate.recv() => Ok(ExitCode::SUCCESS),
        _ = interrupt.recv() => Ok(ExitCode::SUCCESS),
    }
}

fn settings(args: Args) -> Result<Settings, Box<dyn std::error::Error>> {
    let user_data = match &args.user_data {
        None => Settings::default().user_data,
        Some(path) => std::fs::read(path)
            .map_err(|error| format!("cannot read the user data {}: {error}", path.display()))?
            .into(),
    };
    Ok(Settings {
        http_tokens: match args.http_tokens {
            HttpTokens::Required => sim::HttpTokens::Required,
            HttpTokens::Optional => sim::HttpTokens::Optional,
        },
        latency: *args.latency,
        requests_per_second: args.throttle,
        rotation: Rotation::new(*args.credential_life, args.rotate_every.map(|d| *d))?,
        role: (!args.no_role).then_some(args.role),
        user_data,
        items: args.items,
        request_log: args.request_log,
    })
}

fn listen(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::AddrNotAvailable => format!(
                "; no interface here has it: `ip address add {} dev lo` gives it one. (To stand \
                 behind `imdsfw run`, the service must be on the far side of a link, in a network \
                 namespace of its own; `imdsfw demo --shell` is such a host.)",
                address.ip()
            ),
            io::ErrorKind::PermissionDenied => "; ports below 1024 need root".into(),
            io::ErrorKind::AddrInUse => "; another process holds it, see: ss -lntp".into(),
            _ => String::new(),
        };
        format!("cannot listen on {address}: {error}{advice}")
    })
}
