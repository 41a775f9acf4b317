//! Who is measured: the service alone, and each proxy in front of it.

use std::fs::{self, Permissions};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::common::host::{Host, Setup};
use crate::common::http::{V4, token};
use crate::common::net::Net;
use crate::common::nft;
use crate::common::user::ALICE;
use crate::meter;

/// One way to the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    /// No proxy.
    Direct,
    /// nginx, asked at its own port.
    Nginx,
    /// nginx behind the redirect that imdsfw's rules make.
    NginxRedirected,
    /// The same, answering from its cache.
    NginxCache,
    /// haproxy behind the redirect.
    Haproxy,
    /// imdsfw, asking the service for every request.
    Forwarding,
    /// imdsfw, answering from memory.
    Memory,
}

pub(crate) const ALL: [Contender; 7] = [
    Contender::Direct,
    Contender::Nginx,
    Contender::NginxRedirected,
    Contender::NginxCache,
    Contender::Haproxy,
    Contender::Forwarding,
    Contender::Memory,
];

/// nginx and haproxy run as nobody, whom their redirect exempts.
const PROXY_UID: u32 = 65534;
const PROXY_PORT: u16 = 8081;
pub(crate) const PATH: &str = "/latest/meta-data/ami-id";

impl Contender {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::NginxRedirected => "nginx-redirected",
            Self::NginxCache => "nginx-cache",
            Self::Haproxy => "haproxy",
            Self::Forwarding => "imdsfw",
            Self::Memory => "imdsfw-memory",
        }
    }

    /// Where clients connect.
    pub(crate) fn address(self) -> String {
        match self {
            Self::Nginx => format!("127.0.0.1:{PROXY_PORT}"),
            _ => V4.into(),
        }
    }
}

/// A contender on its host, ready.
pub(crate) struct Running<'n> {
    pub(crate) contender: Contender,
    /// For requests, where tokens are asked for.
    pub(crate) token: Option<String>,
    _service: Service,
    _proxy: Option<Service>,
    host: Option<Host<'n>>,
}

impl<'n> Running<'n> {
    pub(crate) fn start(net: &'n Net, contender: Contender) -> Self {
        if contender == Contender::Forwarding {
            return Self::forwarding(net, "memory.enabled = false", Stdio::inherit());
        }
        let service = Service::nginx(net);
        let (mut proxy, mut host, mut own_token) = (None, None, None);
        match contender {
            Contender::Direct | Contender::Forwarding => {}
            Contender::Nginx => proxy = Some(Service::proxy(&nginx_proxy(None), "nginx")),
            Contender::NginxRedirected => {
                proxy = Some(Service::proxy(&nginx_proxy(None), "nginx"));
                redirect();
            }
            Contender::NginxCache => {
                proxy = Some(Service::proxy(&nginx_proxy(Some("cache")), "nginx"));
                redirect();
            }
            Contender::Haproxy => {
                proxy = Some(Service::proxy(HAPROXY, "haproxy"));
                redirect();
            }
            Contender::Memory => {
                (host, own_token) = firewall(net, "memory.enabled = true", Stdio::inherit());
            }
        }
        await_answer(&contender.address());
        Self {
            contender,
            token: own_token,
            _service: service,
            _proxy: proxy,
            host,
        }
    }

    /// imdsfw with this config, asking the service for every request.
    pub(crate) fn forwarding(net: &'n Net, config: &str, stdout: Stdio) -> Self {
        let contender = Contender::Forwarding;
        let service = Service::nginx(net);
        let (host, token) = firewall(net, config, stdout);
        await_answer(&contender.address());
        Self {
            contender,
            token,
            _service: service,
            _proxy: None,
            host,
        }
    }

    /// The processes between client and service.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let roots: Vec<i32> = match (&self.host, &self._proxy) {
            (Some(host), _) => vec![host.daemon_pid().as_raw()],
            (None, Some(proxy)) => vec![proxy.child.id().try_into().unwrap()],
            (None, None) => Vec::new(),
        };
        let mut all = roots.clone();
        for root in roots {
            all.extend(meter::children(root));
        }
        all
    }
}

fn firewall<'n>(net: &'n Net, config: &str, stdout: Stdio) -> (Option<Host<'n>>, Option<String>) {
    let setup = Setup {
        service: false,
        config: config.into(),
        ..Setup::default()
    };
    let mut host = Host::prepare(net, &setup);
    host.run("rules apply");
    let mut command = host.command("run");
    command.stdout(stdout);
    host.start_daemon_by(command);
    (Some(host), Some(token(ALICE, V4, 21600)))
}

/// A server with files of its own; ends with this.
struct Service {
    child: Child,
    _dir: TempDir,
}

impl Service {
    /// The metadata service: nothing answers faster.
    fn nginx(net: &Net) -> Self {
        net.service(|| Self::proxy(&nginx_service(), "nginx"))
    }

    fn proxy(config: &str, program: &str) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("imdsfw-bench-")
            .tempdir()
            .unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
        let file = dir.path().join("config");
        let config = config.replace("@DIR@", &dir.path().display().to_string());
        fs::write(&file, config).unwrap();
        let mut command = Command::new(format!("/usr/sbin/{program}"));
        match program {
            "nginx" => command.arg("-p").arg(dir.path()).arg("-c").arg(&file),
            _ => command.arg("-db").arg("-f").arg(&file),
        };
        let child = command.spawn();
        let child = child.unwrap_or_else(|error| panic!("{program}: {error}; run `.ci/bench`"));
        Self { child, _dir: dir }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        use nix::sys::signal::{Signal, kill};
        use nix::unistd::Pid;
        // SIGKILL would leave nginx's worker.
        let pid = Pid::from_raw(self.child.id().try_into().unwrap());
        let _ = kill(pid, Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

fn await_answer(address: &str) {
    let address: SocketAddr = address.parse().unwrap();
    let start = Instant::now();
    while TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_err() {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "nobody at {address}"
        );
        thread::sleep(Duration::from_millis(5));
    }
}

const NGINX_HEAD: &str = "
    daemon off; user nobody nogroup; worker_processes 1; pid @DIR@/pid;
    error_log /dev/null crit; worker_rlimit_nofile 16384;
    events { worker_connections 8192; }
";

fn nginx_service() -> String {
    format!(
        "{NGINX_HEAD}
        http {{
            access_log off; keepalive_requests 100000000; keepalive_timeout 600s;
            default_type text/plain;
            client_body_temp_path @DIR@/body;
            server {{
                listen 169.254.169.254:80 backlog=4096;
                location = /latest/api/token {{
                    add_header X-Aws-Ec2-Metadata-Token-Ttl-Seconds 21600;
                    return 200 \"AQAEAbenchbenchbenchbenchbenchbenchbenchbenchbenchbenchA==\";
                }}
                location / {{
                    add_header Last-Modified \"Sat, 21 Nov 2026 20:00:00 GMT\";
                    return 200 \"ami-0abcdef1234567890\";
                }}
            }}
        }}"
    )
}

fn nginx_proxy(cache: Option<&str>) -> String {
    let (zone, caching) = match cache {
        Some(name) => (
            format!("proxy_cache_path @DIR@/{name} keys_zone={name}:1m;"),
            format!("proxy_cache {name}; proxy_cache_valid 200 10m;"),
        ),
        None => (String::new(), String::new()),
    };
    format!(
        "{NGINX_HEAD}
        http {{
            access_log off; keepalive_requests 100000000; keepalive_timeout 600s;
            client_body_temp_path @DIR@/body; proxy_temp_path @DIR@/proxy;
            {zone}
            upstream service {{ server 169.254.169.254:80; keepalive 256;
                keepalive_requests 100000000; }}
            server {{
                listen 127.0.0.1:{PROXY_PORT} backlog=4096;
                location / {{
                    proxy_pass http://service;
                    proxy_http_version 1.1; proxy_set_header Connection \"\";
                    {caching}
                }}
            }}
        }}"
    )
}

const HAPROXY: &str = "
global
    user nobody
    group nogroup
    nbthread 1
    maxconn 8000
defaults
    mode http
    timeout connect 1s
    timeout client 600s
    timeout server 600s
    http-reuse always
frontend clients
    bind 127.0.0.1:8081 backlog 4096
    default_backend service
backend service
    server service 169.254.169.254:80
";

/// As imdsfw's own rules lead clients to it.
fn redirect() {
    nft::load(&format!(
        "table ip bench {{
            chain output {{
                type nat hook output priority -100; policy accept;
                ip daddr 169.254.169.254 tcp dport 80 meta skuid != {PROXY_UID} \
                    redirect to :{PROXY_PORT}
            }}
        }}"
    ));
}
