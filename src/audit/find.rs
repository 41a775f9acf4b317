//! One record, out of the log and of what logrotate(8) made of it.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use serde_json::Value;

/// The record of this id, in `log` or in a rotated file beside it, the newest
/// first.
///
/// # Errors
/// When the log is there but cannot be read.
pub fn find(log: &Path, id: &str) -> io::Result<Option<Value>> {
    // Ids are letters and digits; anything else is in no record.
    if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Ok(None);
    }
    for file in files(log)? {
        if let Some(record) = within(&file, id)? {
            return Ok(Some(record));
        }
    }
    Ok(None)
}

/// `audit.jsonl`, `audit.jsonl.1`, `audit.jsonl.2.gz`, `audit.jsonl-20261121`.
fn files(log: &Path) -> io::Result<Vec<PathBuf>> {
    let directory = log.parent().unwrap_or(Path::new("/"));
    let name = log.file_name().unwrap_or_default().as_encoded_bytes();
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let own = entry.file_name();
        let Some(rest) = own.as_encoded_bytes().strip_prefix(name) else {
            continue;
        };
        if rest.is_empty() || rest.starts_with(b".") || rest.starts_with(b"-") {
            let written = entry
                .metadata()?
                .modified()
                .unwrap_or(SystemTime::UNIX_EPOCH);
            files.push((written, entry.path()));
        }
    }
    files.sort();
    Ok(files.into_iter().rev().map(|(_, path)| path).collect())
}

fn within(path: &Path, id: &str) -> io::Result<Option<Value>> {
    // Denied here, rather than by the program that unpacks it.
    let file = File::open(path)?;
    if path.extension().is_none_or(|it| it != "gz") {
        return record(BufReader::new(file), id);
    }
    let mut gzip = Command::new("gzip")
        .arg("-dc")
        .stdin(file)
        .stdout(Stdio::piped())
        .spawn()?;
    let found = match gzip.stdout.take() {
        Some(unpacked) => record(BufReader::new(unpacked), id),
        None => Ok(None),
    };
    // It may have more to say than anybody reads.
    let _ = gzip.kill();
    let _ = gzip.wait();
    found
}

fn record(mut lines: impl BufRead, id: &str) -> io::Result<Option<Value>> {
    let mut line = Vec::new();
    let wanted = format!("\"id\":\"{id}\"");
    while lines.read_until(b'\n', &mut line)? > 0 {
        let has_it = line
            .windows(wanted.len())
            .any(|window| window == wanted.as_bytes());
        if has_it
            && let Ok(record) = serde_json::from_slice::<Value>(&line)
            && record.get("id").and_then(Value::as_str) == Some(id)
        {
            return Ok(Some(record));
        }
        line.clear();
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_found_in_the_log_and_in_what_was_rotated_away() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("audit.jsonl");
        let line = |id: &str, rule: &str| format!("{{\"id\":\"{id}\",\"rule\":\"{rule}\"}}\n");
        fs::write(&log, line("C", "now") + &line("D", "\\\"id\\\":\\\"E\\\"")).unwrap();
        fs::write(dir.path().join("audit.jsonl.1"), line("B", "before")).unwrap();
        let packed = dir.path().join("audit.jsonl.2");
        fs::write(&packed, line("A", "long ago")).unwrap();
        assert!(
            Command::new("gzip")
                .arg(&packed)
                .status()
                .unwrap()
                .success()
        );
        fs::write(dir.path().join("audit.jsonly"), line("E", "another's")).unwrap();
        for (id, rule) in [
            ("C", Some("now")),
            ("B", Some("before")),
            ("A", Some("long ago")),
            ("E", None),
            ("", None),
            ("A\"", None),
        ] {
            let found = find(&log, id).unwrap();
            let said = found.as_ref().and_then(|it| it["rule"].as_str());
            assert_eq!(said, rule, "{id}");
        }
    }
}
