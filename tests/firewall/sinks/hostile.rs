//! Texts that users make up, of what a host lets them: requests, programs,
//! command lines and, where accounts come from elsewhere, names.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use super::*;
use crate::common::host::copy_program;
use crate::common::http::raw;
use crate::common::user::User;

const MALLORY: User = User {
    uid: 6666,
    gid: 6100,
};
/// What ends a text elsewhere: quotes, brackets, tags; colours and a screen
/// cleared, in seven bits and in eight; writing direction.
const NAME: &str = "m\"]\\<xmp>\u{1b}[31m\u{9b}2J\u{202e}";
/// With a line break, and what is no UTF-8.
const PROGRAM: &[u8] = b"c\n\"]<xmp>\x1b[2J\xff";
/// What a program says that it was called as.
const FORGED: &str = "x\n{\"schema\":1,\"seq\":1,\"event\":\"request\",\"decision\":\"allow\"}";
const AGENT: &str = "'\"]},\t<script>{\"decision\":\"allow\"}";
const TARGET: &[u8] = b"/latest/\"]<script>%0a\x1b[2J\xc2\x9b\xff\\";

/// The fields of a datagram, taken apart as the journal does.
fn fields(mut entry: &[u8]) -> Vec<(String, Vec<u8>)> {
    let position = |bytes: &[u8], wanted: &[u8]| bytes.iter().position(|it| wanted.contains(it));
    let mut fields = Vec::new();
    while !entry.is_empty() {
        let (name, rest) = entry.split_at(position(entry, b"=\n").unwrap());
        let (value, rest) = match rest.strip_prefix(b"=") {
            Some(rest) => rest.split_at(position(rest, b"\n").unwrap()),
            None => {
                let len = u64::from_le_bytes(rest[1..9].try_into().unwrap());
                rest[9..].split_at(len.try_into().unwrap())
            }
        };
        fields.push((String::from_utf8(name.into()).unwrap(), value.into()));
        entry = rest.strip_prefix(b"\n").unwrap();
    }
    fields
}

/// The parameters of a message, and what stands behind them (RFC 5424).
fn taken_apart(message: &str) -> (Vec<(String, String)>, &str) {
    let (_, mut rest) = message.split_once(" [imdsfw@32473").unwrap();
    let mut parameters = Vec::new();
    while let Some(parameter) = rest.strip_prefix(' ') {
        let (name, value) = parameter.split_once("=\"").unwrap();
        let (mut text, mut chars) = (String::new(), value.chars());
        while let Some(char) = chars.next().filter(|it| *it != '"') {
            let is_escape = char == '\\';
            text.extend(if is_escape { chars.next() } else { Some(char) });
        }
        parameters.push((name.to_owned(), text));
        rest = chars.as_str();
    }
    (parameters, rest.strip_prefix("] ").unwrap())
}

/// One line, that steers no terminal.
#[track_caller]
fn plain(text: &str) {
    let steers = |it: char| it.is_control() || it == '\u{202e}';
    assert!(!text.contains(steers), "{text:?}");
}

fn read(line: &str) -> Value {
    serde_json::from_str(line).unwrap()
}

/// Mallory asks for credentials until the witness has seen her program in
/// time, and then for nonsense; how many records there are of it.
fn ask(host: &Host) -> usize {
    let program = host.path(".").join(OsStr::from_bytes(PROGRAM));
    copy_program("/usr/bin/curl", &program);
    let token = token(MALLORY, V4, 60);
    let mut sent = 1;
    wait_for("the program to be known", || {
        let mut curl = Command::new(&program);
        curl.arg0(FORGED).args(["-s", "-A", AGENT, "-H"]);
        curl.arg(format!("X-aws-ec2-metadata-token: {token}"));
        curl.arg(format!("http://169.254.169.254{CREDENTIALS}"));
        let output = curl.uid(MALLORY.uid).gid(MALLORY.gid).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        sent += 1;
        let record = host.records(sent).pop().unwrap();
        record["caller"]["exe"].is_string().then_some(())
    });
    let head = [b"GET ", TARGET, b" HTTP/1.1\r\nHost: x\r\n\r\n"];
    assert_eq!(raw(MALLORY, V4, &head.concat()).status, 400);
    sent + 1
}

#[test]
fn what_a_user_makes_up_is_one_record_in_every_sink_and_says_what_the_log_says() {
    in_network(|net| {
        let mut host = Host::prepare(
            net,
            &Setup {
                accounts: vec![(NAME, MALLORY)],
                ..Setup::default()
            },
        );
        let [journal, syslog, ocsf] =
            ["journal", "syslog", "ocsf"].map(|it| datagrams(&host.path(it)));
        let (stdout, stream) = (host.path("stdout"), host.path("stream"));
        host.write_config(&format!(
            "audit.sink = [ {{ kind = \"stdout\" }},\n\
             {{ kind = \"journald\", path = {:?} }},\n\
             {{ kind = \"syslog\", path = {:?} }},\n\
             {{ kind = \"syslog\", name = \"ocsf\", path = {:?}, format = \"ocsf\" }},\n\
             {{ kind = \"syslog\", name = \"siem\", address = \"127.0.0.1:6514\" }},\n\
             {{ kind = \"stream\", path = {stream:?} }} ]",
            host.path("journal"),
            host.path("syslog"),
            host.path("ocsf"),
        ));
        let receiver = Receiver::listen(TcpListener::bind("127.0.0.1:6514").unwrap());
        host.run("rules apply");
        let mut daemon = host.command("run");
        daemon.stdout(fs::File::create(&stdout).unwrap());
        host.start_daemon_by(daemon);
        let follower = UnixStream::connect(&stream).unwrap();
        let sent = ask(&host);
        host.records(sent);
        host.stop_daemon();

        // What she made up forged no record, and is in those of hers.
        let log = fs::read_to_string(host.path("log/audit.jsonl")).unwrap();
        log.lines().for_each(plain);
        let records = host.audit();
        let asked = host.records(sent);
        assert_eq!(asked.len(), sent);
        assert!(asked.iter().all(|it| it["caller"]["uid"] == MALLORY.uid));
        let caller = &asked[sent - 2]["caller"];
        let exe = caller["exe"].as_str().unwrap();
        assert!(exe.contains("/c\\x0a\"]<xmp>\\x1b[2J"), "{exe}");
        assert_eq!(caller["user"], NAME, "{caller}");

        let lines = fs::read_to_string(&stdout).unwrap();
        lines.lines().for_each(plain);
        let lines: Vec<_> = lines.lines().map(read).collect();
        assert_eq!(lines, records);
        let lines = BufReader::new(follower).lines().map(Result::unwrap);
        let lines: Vec<_> = lines.inspect(|it| plain(it)).map(|it| read(&it)).collect();
        // The follower may have come after the first.
        assert!(asked[1..].iter().all(|it| lines.contains(it)));

        for record in &records {
            let text = |value: &Value| value.as_str().map(str::to_owned);
            let entry = fields(&receive(&journal));
            let names: BTreeSet<_> = entry.iter().map(|(name, _)| name).collect();
            assert_eq!(names.len(), entry.len(), "{entry:?}");
            let value = |wanted: &str| {
                let found = entry.iter().find(|(name, _)| name == wanted);
                found.map(|(_, value)| String::from_utf8(value.clone()).unwrap())
            };
            assert_eq!(read(&value("IMDSFW_RECORD").unwrap()), *record);
            assert_eq!(value("IMDSFW_USER"), text(&record["caller"]["user"]));
            assert_eq!(value("IMDSFW_EXE"), text(&record["caller"]["exe"]));
            plain(&value("MESSAGE").unwrap());

            let message = String::from_utf8(receive(&syslog)).unwrap();
            plain(&message);
            let (parameters, rest) = taken_apart(&message);
            assert_eq!(read(rest), *record);
            let uid = parameters.iter().filter(|(name, _)| name == "uid");
            let uid: Vec<_> = uid.map(|(_, value)| value.clone()).collect();
            let of_record = record["caller"]["uid"].as_u64();
            assert_eq!(uid, Vec::from_iter(of_record.map(|it| it.to_string())));

            let message = String::from_utf8(receive(&ocsf)).unwrap();
            plain(&message);
            let event = read(taken_apart(&message).1);
            assert_eq!(event["metadata"]["sequence"], record["seq"]);
            assert_eq!(event["actor"]["user"]["name"], record["caller"]["user"]);
        }
        wait_for("all by TCP", || {
            (receiver.seqs() == seqs(&records)).then_some(())
        });
        let taken = receiver.messages.lock().unwrap();
        taken.iter().for_each(|it| plain(it));
        let taken: Vec<_> = taken.iter().map(|it| read(taken_apart(it).1)).collect();
        assert_eq!(taken, records);

        for words in [
            "audit query",
            "audit query --csv",
            "audit report",
            "top --once",
        ] {
            let output = host.command(words).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            let text = String::from_utf8(output.stdout).unwrap();
            text.lines().for_each(plain);
            assert!(
                !text.contains("<xmp>") || !words.contains("report"),
                "{text}"
            );
        }
    });
}
