//! rsyslog itself as the receiver over TCP.

use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::*;

const AWAY: Duration = Duration::from_secs(10);

#[test]
fn rsyslog_that_was_away_for_ten_seconds_has_every_line_of_the_log() {
    in_network(|net| {
        let mut host = Host::prepare(net, &Setup::default());
        host.write_config(
            "audit.sink = [ { kind = \"syslog\", name = \"siem\", address = \"127.0.0.1:6514\" } ]",
        );
        let [taken, config, pid] = ["taken", "rsyslog.conf", "pid"].map(|it| host.path(it));
        let text = format!(
            "global(maxMessageSize=\"64k\")\nmodule(load=\"imtcp\")\n\
             template(name=\"whole\" type=\"string\" string=\"%rawmsg%\\n\")\n\
             ruleset(name=\"taken\") {{ action(type=\"omfile\" file={taken:?} template=\"whole\") }}\n\
             input(type=\"imtcp\" address=\"127.0.0.1\" port=\"6514\" ruleset=\"taken\")\n",
        );
        fs::write(&config, text).unwrap();
        let start = || {
            let mut rsyslog = Command::new("rsyslogd");
            rsyslog.arg("-n").arg("-f").arg(&config).arg("-i");
            Running(rsyslog.arg(&pid).spawn().expect("rsyslog"))
        };
        let mut rsyslog = start();
        wait_for("rsyslog", || TcpStream::connect("127.0.0.1:6514").ok());
        host.run("rules apply");
        host.start_daemon();
        let got = || {
            let text = fs::read_to_string(&taken).unwrap_or_default();
            let whole = text.lines().filter_map(|it| it.split_once("] {"));
            whole
                .map(|(_, it)| format!("{{{it}"))
                .collect::<BTreeSet<_>>()
        };
        flood(20);
        wait_for("some to arrive", || (got().len() > 20).then_some(()));
        let running = Pid::from_raw(rsyslog.0.id().try_into().unwrap());
        kill(running, Signal::SIGTERM).unwrap();
        rsyslog.0.wait().unwrap();
        let (before, since) = (got().len(), Instant::now());
        while since.elapsed() < AWAY {
            flood(10);
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(got().len(), before);
        let _rsyslog = start();
        wait_for("recovery", || {
            let recovered = host.events("audit.recovered");
            (recovered.first()?["detail"]["lost"] == 0).then_some(())
        });
        host.stop_daemon();
        let log = fs::read_to_string(host.path("log/audit.jsonl")).unwrap();
        let written: BTreeSet<_> = log.lines().map(str::to_owned).collect();
        wait_for("all to arrive", || (written == got()).then_some(()));
        println!("{before} before, {} in all", written.len());
    });
}
