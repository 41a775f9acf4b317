//! What is shipped around the program fits it: units and scripts name
//! commands that there are, and the tools that read these files accept them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use imdsfw::config::Config;

const BINARY: &str = env!("CARGO_BIN_EXE_imdsfw");
const INSTALLED: &str = "/usr/sbin/imdsfw";
const SERVICES: [&str; 3] = [
    "imdsfw.service",
    "imdsfw-rules.service",
    "imdsfw-witness.service",
];
const EXAMPLES: &str = "usr/share/doc/imdsfw/examples";
const SOCKETS: [&str; 2] = ["imdsfw.socket", "imdsfw-control.socket"];
/// Exposure in tenths, of ten: as `systemd-analyze security` counts.
const EXPOSURE_MAX: &str = "--threshold=15";

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy")
        .join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(deploy(path)).unwrap()
}

fn run(command: &mut Command) -> Output {
    command
        .env("LC_ALL", "C")
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; run `.ci/setup tests`"))
}

fn must(command: &mut Command) -> String {
    let output = run(command);
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The values of a key in a unit, words apart.
fn words<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    unit.lines()
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        .flat_map(str::split_whitespace)
        .collect()
}

/// The units as they would be with the program in place of its path.
fn units() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(deploy("systemd")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let text = text.replace(INSTALLED, BINARY);
        fs::write(dir.path().join(path.file_name().unwrap()), text).unwrap();
    }
    dir
}

#[test]
fn every_command_line_is_one_the_program_takes() {
    let mut lines = Vec::new();
    for service in SERVICES {
        let unit = read(&format!("systemd/{service}"));
        let commands = unit.lines().filter(|line| line.starts_with("Exec"));
        let ours = commands.filter_map(|line| line.split_once(&format!("={INSTALLED} ")));
        let before = lines.len();
        lines.extend(ours.map(|(_, arguments)| arguments.to_owned()));
        assert!(lines.len() > before, "{service} does not run the program");
    }
    for script in [
        "openrc/imdsfw",
        "openrc/imdsfw-rules",
        "install.sh",
        "debian/prerm",
    ] {
        let text = read(script);
        let ours = text
            .lines()
            .map(|line| line.trim().trim_start_matches("/usr/sbin/"))
            .filter_map(|line| line.strip_prefix("imdsfw "))
            .map(|line| line.trim_end_matches("||").trim().to_owned());
        lines.extend(ours);
        let variable = text
            .lines()
            .filter_map(|line| line.strip_prefix("command_args="));
        lines.extend(variable.map(|it| it.trim_matches('"').to_owned()));
    }
    for (line, times) in [("rules watch", 2), ("run", 2), ("rules remove", 2)] {
        let found = lines.iter().filter(|it| *it == line).count();
        assert_eq!(found, times, "{line}: {lines:#?}");
    }
    for line in lines {
        // What stands before it is read first, and refused if it is not known.
        let arguments = line.split_whitespace().chain(["--help"]);
        must(Command::new(BINARY).args(arguments));
    }
}

#[test]
fn the_service_manager_accepts_the_units() {
    let dir = units();
    let metrics = "imdsfw-metrics.socket";
    let example = deploy("monitoring").join(metrics);
    fs::copy(example, dir.path().join(metrics)).unwrap();
    let names = SERVICES.into_iter().chain(SOCKETS).chain([metrics]);
    let output = run(Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(names.map(|name| dir.path().join(name))));
    // Keys that it does not know are warnings to it.
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
}

#[test]
fn an_attacker_gains_little_from_any_of_them() {
    for service in SERVICES {
        must(
            Command::new("systemd-analyze")
                .args(["security", "--offline=yes", EXPOSURE_MAX])
                .arg(deploy("systemd").join(service)),
        );
        let unit = read(&format!("systemd/{service}"));
        // Either would hide from them whose sockets and processes they see.
        assert!(words(&unit, "PrivateUsers").is_empty());
        if service != "imdsfw-witness.service" {
            assert!(words(&unit, "PrivateNetwork").is_empty());
        }
    }
    // With a hostname of its own it would not see the host's change.
    let daemon = read("systemd/imdsfw.service");
    assert!(words(&daemon, "ProtectHostname").is_empty());
    let capabilities = |service| {
        let unit = read(&format!("systemd/{service}"));
        let bounding = unit
            .lines()
            .find(|line| line.starts_with("CapabilityBoundingSet="));
        bounding.unwrap().split_once('=').unwrap().1.to_owned()
    };
    assert_eq!(
        SERVICES.map(capabilities),
        ["", "CAP_NET_ADMIN", "CAP_SYS_PTRACE CAP_DAC_READ_SEARCH"]
    );
}

#[test]
fn they_start_before_cloud_init_asks_and_wait_for_nothing_slow() {
    let early = [
        "imdsfw.socket",
        "imdsfw-control.socket",
        "imdsfw-rules.service",
        "imdsfw-witness.service",
        "systemd-sysusers.service",
        "systemd-modules-load.service",
        "nftables.service",
        "netfilter-persistent.service",
    ];
    for name in SERVICES.into_iter().chain(SOCKETS) {
        let unit = read(&format!("systemd/{name}"));
        assert_eq!(words(&unit, "DefaultDependencies"), ["no"], "{name}");
        let before = words(&unit, "Before");
        for stage in ["cloud-init-local.service", "cloud-init.service"] {
            assert!(before.contains(&stage), "{name} is not before {stage}");
        }
        let late: Vec<_> = ["After", "Requires", "Requisite", "BindsTo"]
            .into_iter()
            .flat_map(|key| words(&unit, key))
            .filter(|unit| !early.contains(unit))
            .collect();
        assert!(late.is_empty(), "{name} waits for {late:?}");
        // Has the service manager order it after every local file system.
        assert!(words(&unit, "PrivateTmp").is_empty(), "{name}");
        // One that ends over and over is started again, and its listeners stay.
        let limit = match name {
            name if SOCKETS.contains(&name) => "TriggerLimitIntervalSec",
            _ => "StartLimitIntervalSec",
        };
        assert_eq!(words(&unit, limit), ["0"], "{name}");
    }
    let rules = read("systemd/imdsfw-rules.service");
    assert!(words(&rules, "Before").contains(&"network-pre.target"));
    assert!(!rules.contains("\nExecStop"), "stopping takes no rule out");
}

#[test]
fn they_are_watched_and_one_that_ends_is_back_before_it_is_missed() {
    for name in SERVICES {
        let unit = read(&format!("systemd/{name}"));
        assert_eq!(words(&unit, "Restart"), ["always"], "{name}");
        assert_eq!(words(&unit, "RestartSec"), ["100ms"], "{name}");
    }
    // What comes after these comes after the rules and the first answer.
    for name in ["imdsfw.service", "imdsfw-rules.service"] {
        let unit = read(&format!("systemd/{name}"));
        assert_eq!(words(&unit, "Type"), ["notify"], "{name}");
        assert_eq!(words(&unit, "NotifyAccess"), ["main"], "{name}");
        assert_eq!(words(&unit, "WatchdogSec").len(), 1, "{name}");
    }
}

#[test]
fn the_defaults_of_units_and_program_agree() {
    let config = Config::default();
    let socket = read("systemd/imdsfw.socket");
    let port = config.listen_port;
    let beside_control = |name| {
        let path = config.control_socket.with_file_name(name);
        path.display().to_string()
    };
    let watcher = beside_control("watch.sock");
    assert_eq!(
        words(&socket, "ListenStream"),
        [
            format!("127.0.0.1:{port}"),
            format!("[::1]:{port}"),
            watcher,
            beside_control("root.sock"),
        ]
    );
    // Everybody may knock there, and is recorded; who is heard, the daemon says.
    let control = read("systemd/imdsfw-control.socket");
    let path = config.control_socket.display().to_string();
    assert_eq!(words(&control, "ListenStream"), [path]);
    assert_eq!(words(&control, "SocketMode"), ["0666"]);
    assert_eq!(words(&control, "Service"), ["imdsfw.service"]);
    let mark = format!("{:#x}", config.rules.marks.listener);
    assert_eq!(words(&socket, "Mark"), [mark]);
    let daemon = read("systemd/imdsfw.service");
    assert_eq!(words(&daemon, "User"), [config.user.as_str()]);
    assert_eq!(words(&daemon, "Sockets"), SOCKETS);
    let witness = read("systemd/imdsfw-witness.service");
    assert_eq!(words(&witness, "User"), [config.witness_user.as_str()]);
    let connects = beside_control("witness.sock");
    assert!(words(&witness, "ExecStart").contains(&connects.as_str()));
    assert_eq!(words(&socket, "ListenSequentialPacket"), [connects]);
    // What stands at their end sees who connects; nobody else gets so far.
    assert_eq!(words(&socket, "SocketUser"), [""; 0]);
    assert_eq!(words(&socket, "SocketGroup"), words(&witness, "Group"));
    assert_eq!(words(&socket, "SocketMode"), ["0660"]);
    let log = config.audit.file.display().to_string();
    assert!(read("logrotate").contains(&format!("\n{log} {{\n")));
    for (key, directory) in [
        ("LogsDirectory", config.audit.file.parent().unwrap()),
        ("StateDirectory", &config.state_directory),
    ] {
        let name = directory.file_name().unwrap().to_str().unwrap();
        assert_eq!(words(&daemon, key), [name], "{key}");
    }
}

#[test]
fn accounts_and_directories_are_made_once_and_belong_to_whom_they_should() {
    let root = tempfile::tempdir().unwrap();
    let make = |tool: &str, file: &str| {
        let mut command = Command::new(tool);
        command.arg(format!("--root={}", root.path().display()));
        if tool == "systemd-tmpfiles" {
            command.arg("--create");
        }
        must(command.arg(deploy("systemd").join(file)));
    };
    let at = |path: &str| root.path().join(path);
    fs::create_dir(at("etc")).unwrap();
    for _ in 0..2 {
        make("systemd-sysusers", "imdsfw.sysusers");
        make("systemd-tmpfiles", "imdsfw.tmpfiles");
    }
    let passwd = fs::read_to_string(at("etc/passwd")).unwrap();
    let uid = |user: &str| -> u32 {
        let mut lines = passwd
            .lines()
            .filter(|it| it.starts_with(&format!("{user}:")));
        let line = lines.next().unwrap();
        assert!(
            lines.next().is_none() && line.ends_with("/nologin"),
            "{line}"
        );
        line.split(':').nth(2).unwrap().parse().unwrap()
    };
    let (daemon, witness) = (uid("imdsfw"), uid("imdsfw-witness"));
    assert!(daemon != witness && daemon != 0 && witness != 0);
    for (path, owner, mode) in [
        ("run/imdsfw", 0, 0o755),
        ("var/lib/imdsfw", daemon, 0o700),
        ("var/log/imdsfw", daemon, 0o750),
    ] {
        let found = fs::metadata(at(path)).unwrap();
        assert_eq!(
            (found.uid(), found.mode() & 0o7777),
            (owner, mode),
            "{path}"
        );
    }
}

#[test]
fn logrotate_accepts_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("imdsfw");
    // An account that is there before the package is.
    let text = read("logrotate").replace("su imdsfw imdsfw", "su nobody nogroup");
    fs::write(&file, text).unwrap();
    let output = run(Command::new("/usr/sbin/logrotate").arg("-d").arg(&file));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("error"), "{said}");
    assert!(said.contains("/var/log/imdsfw/audit.jsonl"), "{said}");
}

#[test]
fn every_command_has_a_page_and_is_completed() {
    let dir = tempfile::tempdir().unwrap();
    let (man, completions) = (dir.path().join("man"), dir.path().join("completions"));
    must(Command::new(BINARY).args(["generate", "man"]).arg(&man));
    must(
        Command::new(BINARY)
            .args(["generate", "completions"])
            .arg(&completions),
    );
    let pages: BTreeSet<String> = names(&man);
    let help = must(Command::new(BINARY).arg("--help"));
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let commands: Vec<_> = commands
        .lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect();
    assert!(commands.len() > 6 && pages.contains("imdsfw.8"));
    assert!(pages.contains("imdsfw-rules-apply.8") && !pages.contains("imdsfw-generate.8"));
    for command in commands {
        let page = fs::read_to_string(man.join(format!("imdsfw-{command}.8"))).unwrap();
        assert!(page.contains(&format!(".TH imdsfw-{command} 8")), "{page}");
        assert!(page.contains("Example"), "{command} has no example");
        for shell in names(&completions) {
            let text = fs::read_to_string(completions.join(&shell)).unwrap();
            assert!(text.contains(command), "{shell} does not know {command}");
        }
    }
    assert_eq!(names(&completions).len(), 3);
}

#[test]
fn the_installer_takes_away_what_it_brought() {
    let root = tempfile::tempdir().unwrap();
    let installer = || {
        let mut command = Command::new("sh");
        command
            .arg(deploy("install.sh"))
            .env("DESTDIR", root.path());
        command
    };
    must(installer().arg(BINARY));
    let program = root.path().join("usr/sbin/imdsfw");
    assert_eq!(
        must(Command::new(&program).arg("--version")),
        must(Command::new(BINARY).arg("--version"))
    );
    let config = root.path().join("etc/imdsfw/imdsfw.toml");
    fs::write(&config, "schema = 1\n# of this host\n").unwrap();
    // Over what is there, as an upgrade does.
    must(installer().arg(BINARY));
    assert!(
        fs::read_to_string(&config)
            .unwrap()
            .contains("of this host")
    );
    let installed = files(root.path());
    for needed in [
        "usr/lib/imdsfw/policy.d/90-base.toml",
        "usr/lib/systemd/system/imdsfw.socket",
        "usr/share/man/man8/imdsfw-run.8",
        "etc/logrotate.d/imdsfw",
    ] {
        assert!(installed.contains(&root.path().join(needed)), "{needed}");
    }
    // One policy is in force, and all are there to choose from.
    assert_eq!(names(&root.path().join("usr/lib/imdsfw/policy.d")).len(), 1);
    for (ours, theirs) in [
        ("../policies/agents", "agents"),
        ("monitoring", "monitoring"),
    ] {
        let theirs = root.path().join(EXAMPLES).join(theirs);
        assert_eq!(names(&theirs), names(&deploy(ours)));
    }
    let mut examples = names(&root.path().join(EXAMPLES));
    assert!(examples.remove("monitoring"));
    assert_eq!(examples, names(&deploy("../policies")));
    must(installer().arg("--uninstall"));
    assert_eq!(files(root.path()), [config].into());
    assert_eq!(run(installer().arg("--unknown")).status.code(), Some(2));
}

/// The package brings what the installer brings.
#[test]
fn the_package_has_every_policy_and_example() {
    let cargo = include_str!("../Cargo.toml");
    for (from, to) in [
        (
            "policies/multi-user.toml",
            "usr/lib/imdsfw/policy.d/90-base.toml",
        ),
        ("policies/*.toml", &format!("{EXAMPLES}/")),
        ("policies/agents/*.toml", &format!("{EXAMPLES}/agents/")),
        ("deploy/monitoring/*", &format!("{EXAMPLES}/monitoring/")),
    ] {
        let asset = format!("[{from:?}, {to:?}, \"644\"],");
        assert!(cargo.contains(&asset), "{asset}");
    }
}

fn names(directory: &Path) -> BTreeSet<String> {
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn files(directory: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path);
        }
    }
    found
}
