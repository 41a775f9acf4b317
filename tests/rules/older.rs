//! Connections to the service that are older than the first rules.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use imdsfw::intercept::{self, Ended};

use crate::common::again::again;
use crate::common::net::{Net, families};
use crate::common::shown::shown;
use crate::common::user::{ALICE, ROOT, listen};
use crate::kernel::on_each;

/// Clients of both families, and one whose v6 socket talks to the v4 address.
fn clients(net: &Net) -> Vec<(TcpStream, TcpStream)> {
    let [v4, v6] = families().map(|family| family.service);
    let mapped: SocketAddr = "[::ffff:169.254.169.254]:80".parse().unwrap();
    let listeners = [v4, v6].map(|service| net.service(|| listen(service)));
    [(ALICE, v4), (ROOT, v6), (ALICE, mapped)]
        .into_iter()
        .map(|(user, to)| {
            let client = user.connect(to).unwrap();
            let listener = &listeners[usize::from(to == v6)];
            (client, listener.accept().unwrap().0)
        })
        .collect()
}

#[test]
fn the_first_apply_ends_them_and_says_how_many() {
    ended();
    listening_under_the_rules_alone();
    shown(
        "A user asked before the rules were loaded, and waits for the answer.",
        "the first apply destroys the 3 connections (IPv4, IPv6, v4-mapped): ECONNABORTED",
        "the rules loaded without that: the credential that the service sends is read",
    );
}

fn ended() {
    on_each(|net, kernel| {
        let older = clients(net);
        let elsewhere = net.service(|| listen(families()[0].elsewhere));
        let mut unconcerned = ALICE.connect(families()[0].elsewhere).unwrap();
        let (mut other_end, _) = elsewhere.accept().unwrap();
        let applied = intercept::apply(&kernel.rule_set()).unwrap();
        assert_eq!(applied.ended, Some(Ended::Destroyed(older.len())));
        for (mut client, mut server) in older {
            let _ = server.write_all(b"a credential");
            let error = again(|| client.read(&mut [0; 16])).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
        }
        unconcerned.write_all(b"x").unwrap();
        other_end.read_exact(&mut [0]).unwrap();
        let again = intercept::apply(&kernel.rule_set()).unwrap();
        assert_eq!(again.ended, None);
    });
}

/// The guards are for what leaves: an answer still comes in.
fn listening_under_the_rules_alone() {
    on_each(|net, kernel| {
        let older = clients(net);
        kernel.load();
        for (mut client, mut server) in older {
            server.write_all(b"a credential").unwrap();
            let mut answer = [0; 12];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"a credential");
        }
    });
}
