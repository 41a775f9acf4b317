use super::*;
use crate::config::sinks::{Format, SinkConfig, SinkTarget};
use crate::provider::Class;

/// Every key that the contract names, each with another value than the default.
const EVERY_KEY: &str = r#"
schema = 1
user = "fw"
witness_user = "fw-witness"
provider = "aws"

[listen]
port = 254

[rules]
egress_deny = false
backend = "iptables-legacy"
mark = 0x10
listener_mark = 17
mask = 0xff

[upstream]
addresses = ["127.0.0.1:8080", "[::1]:8081"]
connect_timeout = "500ms"
timeout = "2m"

[policy]
mode = "observe"
default = "allow"
directories = ["/a", "/b"]
watch = true
hide_denied = true

[tokens]
mode = "relay"

[audit]
file = "/c"
on_failure = "allow"
rotate_size = "2MiB"
rotate_age = "24h"
keep = 3

[[audit.sink]]
kind = "syslog"
name = "siem"
address = "10.0.0.5:6514"
format = "native"
events = ["request", "policy.*"]
classes = ["credentials"]
decisions = ["deny"]
summarise = "60s"
queue = "1MiB"

[[audit.sink]]
kind = "stream"
path = "/f"

[control]
socket = "/d"
own_verdict = true

[state]
directory = "/e"

[memory]
enabled = false

[limits]
enabled = false
connections = 1
new_connections_per_second = 2
tokens_per_minute = 3
denials_recorded_per_second = 1_000
host_upstream_requests_per_second = 5

[metrics]
listen = "[::1]:9253"
"#;

fn parse(texts: &[&str]) -> (Config, Diagnostics) {
    let sources: Vec<_> = texts
        .iter()
        .enumerate()
        .map(|(at, text)| Source::new(format!("{at}.toml"), *text))
        .collect();
    let mut found = Diagnostics::new();
    let config = Config::parse(&sources, &mut found);
    (config, found)
}

/// The one error of a config, as `line:col message`.
fn error(text: &str) -> String {
    let (_, found) = parse(&[text]);
    let errors: Vec<_> = found.iter().collect();
    assert_eq!(errors.len(), 1, "{found}");
    let (line, column) = errors[0].place.line_and_column();
    format!("{line}:{column} {}", errors[0].message)
}

#[test]
fn nothing_written_means_the_defaults() {
    let (config, found) = parse(&["", "# nothing"]);
    assert!(found.is_empty(), "{found}");
    assert_eq!(config, Config::default());
}

#[test]
fn every_key_is_read() {
    let (config, found) = parse(&[EVERY_KEY]);
    assert!(found.is_empty(), "{found}");
    let expected = Config {
        user: "fw".into(),
        witness_user: "fw-witness".into(),
        provider: Provider::Aws,
        listen_port: 254,
        rules: super::super::RulesConfig {
            backend: Some(super::super::Backend::IptablesLegacy),
            marks: super::super::Marks {
                connection: 0x10,
                listener: 0x11,
                mask: 0xff,
            },
            egress_deny: false,
        },
        upstream: super::super::Upstream {
            addresses: vec![
                "127.0.0.1:8080".parse().unwrap(),
                "[::1]:8081".parse().unwrap(),
            ],
            connect_timeout: Duration::from_millis(500),
            timeout: Duration::from_secs(120),
        },
        policy: super::super::PolicyConfig {
            mode: Mode::Observe,
            default: Action::Allow,
            directories: vec!["/a".into(), "/b".into()],
            watch: true,
            hide_denied: true,
        },
        tokens: TokenMode::Relay,
        audit: super::super::AuditConfig {
            file: "/c".into(),
            on_failure: Action::Allow,
            rotation: super::super::Rotation {
                size: 2 << 20,
                age: Duration::from_secs(24 * 3600),
                keep: 3,
            },
            sinks: vec![
                SinkConfig {
                    name: "siem".into(),
                    to: SinkTarget::SyslogTcp("10.0.0.5:6514".parse().unwrap()),
                    format: Format::Native,
                    events: vec!["request".into(), "policy.*".into()],
                    classes: vec![Class::Credentials],
                    decisions: vec![Action::Deny],
                    summarise: Some(Duration::from_secs(60)),
                    queue: 1 << 20,
                },
                SinkConfig {
                    name: "stream".into(),
                    to: SinkTarget::Stream("/f".into()),
                    format: Format::Native,
                    events: Vec::new(),
                    classes: Vec::new(),
                    decisions: Vec::new(),
                    summarise: None,
                    queue: 8 << 20,
                },
            ],
        },
        control_socket: "/d".into(),
        own_verdict: true,
        state_directory: "/e".into(),
        memory: false,
        limits: super::super::Limits {
            enabled: false,
            connections: 1,
            new_connections_per_second: 2,
            tokens_per_minute: 3,
            denials_recorded_per_second: 1000,
            host_upstream_requests_per_second: 5,
        },
        metrics: Some(MetricsAt::Loopback("[::1]:9253".parse().unwrap())),
    };
    assert_eq!(config, expected);
}

#[test]
fn a_later_file_replaces_single_keys() {
    let (config, found) = parse(&[
        "[policy]\nmode = \"observe\"\nwatch = true",
        "[policy]\nmode = \"enforce\"",
    ]);
    assert!(found.is_empty(), "{found}");
    assert_eq!(
        (config.policy.mode, config.policy.watch),
        (Mode::Enforce, true)
    );
}

#[test]
fn what_is_not_understood_is_refused_at_its_place() {
    for (text, expected) in [
        ("schema = 2", "1:10 2 is out of range"),
        ("usr = \"x\"", "1:1 unknown key `usr`"),
        ("[listen]\nport = 0", "2:8 0 is out of range"),
        ("[listen]\nport = 65536", "2:8 65536 is out of range"),
        ("[listen]\nport = \"253\"", "2:8 this is a string"),
        ("[listen]\nport = -1", "2:8 -1 is out of range"),
        ("listen = 253", "1:10 this is an integer"),
        (
            "[policy]\nmode = \"enforced\"",
            "2:8 unknown word \"enforced\"",
        ),
        ("[policy]\nwatch = \"yes\"", "2:9 this is a string"),
        ("[policy]\ndirectories = []", "2:15 this list is empty"),
        (
            "[policy]\ndirectories = [\"policy.d\"]",
            "2:16 this path is not absolute",
        ),
        (
            "[upstream]\ntimeout = \"5\"",
            "2:11 \"5\" is not a length of time",
        ),
        (
            "[upstream]\ntimeout = \"0s\"",
            "2:11 \"0s\" is not a length of time",
        ),
        ("[upstream]\ntimeout = 5", "2:11 this is an integer"),
        ("[upstream]\naddresses = []", "2:13 this list is empty"),
        (
            "[upstream]\naddresses = [\"1.2.3.4:80\", \"1.2.3.5:80\"]",
            "2:28 a second IPv4 address, after 1.2.3.4:80",
        ),
        (
            "[upstream]\naddresses = [\"instance-data:80\"]",
            "2:14 \"instance-data:80\" is not an address with a port",
        ),
        (
            "[upstream]\naddresses = [\"[::ffff:1.2.3.4]:80\"]",
            "2:14 an IPv4 address in IPv6 writing",
        ),
        ("[audit]\nrotate_size = \"5\"", "2:15 \"5\" is not a size"),
        ("[audit]\nrotate_size = 5", "2:15 5 is out of range"),
        ("[audit]\nsink = 1", "2:8 this is an integer"),
        ("[[audit.sink]]\npath = \"/x\"", "1:1 `kind` is missing"),
        (
            "[[audit.sink]]\nkind = \"kafka\"",
            "2:8 unknown word \"kafka\"",
        ),
        (
            "[[audit.sink]]\nkind = \"stdout\"\npath = \"/x\"",
            "3:8 a sink of kind \"stdout\" is not told so where to go",
        ),
        (
            "[[audit.sink]]\nkind = \"syslog\"\naddress = \"log.example:514\"",
            "3:11 \"log.example:514\" is not an address with a port",
        ),
        (
            "[[audit.sink]]\nkind = \"stdout\"\nevents = [\"polcy.*\"]",
            "3:11 no event is called \"polcy.*\"",
        ),
        (
            "[[audit.sink]]\nkind = \"stdout\"\n[[audit.sink]]\nkind = \"stdout\"",
            "3:1 a second sink \"stdout\"",
        ),
        ("[rules]\nmark = 0", "2:8 0 is out of range"),
        ("[rules]\nbackend = \"pf\"", "2:11 unknown word \"pf\""),
        ("[limits]\nconnections = 0", "2:15 0 is out of range"),
        (
            "[metrics]\nlisten = \"0.0.0.0:9253\"",
            "2:10 0.0.0.0 is not an address of this host alone",
        ),
        (
            "[metrics]\nlisten = \"[fd00::1]:9253\"",
            "2:10 fd00::1 is not an address of this host alone",
        ),
        (
            "[metrics]\nlisten = \"localhost:9253\"",
            "2:10 \"localhost:9253\" is not an address with a port",
        ),
        (
            "[metrics]\nlisten = \"127.0.0.1:0\"",
            "2:10 \"127.0.0.1:0\" is not an address with a port",
        ),
        (
            "[metrics]\nsocket = \"m.sock\"",
            "2:10 this path is not absolute",
        ),
        (
            "[metrics]\nlisten = \"127.0.0.1:9253\"\nsocket = \"/m\"",
            "3:10 a second place for metrics",
        ),
        ("user = \"\"", "1:8 no account can have this name"),
        ("user = \"a\" b", "1:12 unexpected key or value"),
    ] {
        assert_eq!(error(text), expected, "{text}");
    }
}

#[test]
fn all_errors_of_all_files_come_at_once() {
    let (_, found) = parse(&[
        "usr = 1\n[listen]\nport = 0\nprot = 1",
        "[tokens]\nmode = \"none\"",
    ]);
    assert_eq!(found.iter().count(), 4, "{found}");
    assert!(
        found.to_string().contains("did you mean `user`?"),
        "{found}"
    );
}

#[test]
fn sinks_of_a_later_file_are_added_and_one_of_the_same_name_replaces() {
    let sink = |kind: &str, more: &str| format!("[[audit.sink]]\nkind = \"{kind}\"\n{more}");
    let (config, found) = parse(&[
        &(sink("stdout", "") + &sink("stream", "path = \"/a\"")),
        &(sink("journald", "") + &sink("stream", "path = \"/b\"")),
    ]);
    assert!(found.is_empty(), "{found}");
    let sinks = config.audit.sinks.iter();
    let names: Vec<_> = sinks.map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["stdout", "journald", "stream"]);
    assert_eq!(config.audit.sinks[2].to, SinkTarget::Stream("/b".into()));
}
