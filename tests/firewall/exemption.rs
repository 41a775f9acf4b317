//! The one account that the rules let through to the service, and programs
//! that run as it whoever starts them.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};

use crate::common::host::{Host, Setup, copy_program};
use crate::common::net::in_network;
use crate::common::shown::shown;
use crate::common::user::{ALICE, DAEMON};

const PROGRAM: &str = "/usr/local/sbin/helper";
/// Asks with a token of its own; prints the status.
const ASK: &str = r#"
url=http://169.254.169.254/latest
token=$("$0" -s -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' $url/api/token)
"$0" -s -w ' %{http_code}' -H "X-aws-ec2-metadata-token: $token" \
    $url/meta-data/iam/security-credentials/web
"#;

fn run_by_alice() -> String {
    let mut shell = Command::new("sh");
    shell.args(["-c", ASK, PROGRAM]);
    let output = shell.uid(ALICE.uid).gid(ALICE.gid).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_program_that_is_setuid_to_the_daemons_account_is_found() {
    in_network(|net| {
        let host = Host::start(net, &Setup::default());
        let (none, tmpfs) = (None::<&str>, Some("tmpfs"));
        let folder = Path::new(PROGRAM).parent().unwrap();
        mount(tmpfs, folder, tmpfs, MsFlags::empty(), none).unwrap();
        copy_program("/usr/bin/curl", PROGRAM);
        chown(PROGRAM, Some(DAEMON.uid), None).unwrap();
        fs::set_permissions(PROGRAM, Permissions::from_mode(0o4755)).unwrap();

        let said = run_by_alice();
        assert!(
            said.contains("SecretAccessKey") && said.ends_with(" 200"),
            "{said}"
        );
        assert_eq!(host.records(0).len(), 0, "not even recorded");

        let doctor = host.command("doctor").output().unwrap();
        assert_eq!(doctor.status.code(), Some(1));
        let found = String::from_utf8(doctor.stdout).unwrap();
        let mend = format!("chmod u-s {PROGRAM}");
        assert!(found.contains(&mend), "{found}");
        let mended = Command::new("sh").args(["-c", &mend]).status().unwrap();
        assert!(mended.success());
        let said = run_by_alice();
        assert!(
            !said.contains("SecretAccessKey") && said.ends_with(" 403"),
            "{said}"
        );
    });
    shown(
        "A user runs a program that is setuid to the daemon's account, which the rules exempt.",
        "`imdsfw doctor` fails and names it; mended as it says (chmod u-s), the user gets 403",
        "left as it is: 200 with credentials, past the daemon and without a record",
    );
}
