//! The file under the log: opening, whole appends, and cutting back what a
//! crash left half written.
//!
//! Must never follow a symbolic link and never leave a line unended.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

/// How far from its end a file is searched for the end of its last whole
/// line; far more than any record.
const TAIL: u64 = 1024 * 1024;

/// Opens the log for appending, readable by its group, and gives the number
/// of its last record.
pub(super) fn open(path: &Path) -> io::Result<(File, u64)> {
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ));
    }
    let seq = repair(&mut file)?;
    Ok((file, seq))
}

/// Whether the file has no name any more.
pub(super) fn is_removed(file: &File) -> io::Result<bool> {
    Ok(file.metadata()?.nlink() == 0)
}

/// Appends all of it or, as far as the disk lets us, none of it.
pub(super) fn append_whole(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    let before = file.metadata()?.len();
    file.write_all(bytes).inspect_err(|_| {
        // Should this fail as well, the next opening cuts the line.
        let _ = file.set_len(before);
    })
}

/// Cuts off what stands behind the last whole line; gives the number of the
/// record in that line, 0 where there is none.
pub(crate) fn repair(file: &mut File) -> io::Result<u64> {
    let len = file.metadata()?.len();
    let from = len.saturating_sub(TAIL);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail)?;
    let whole = tail
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at + 1);
    if whole < tail.len() {
        file.set_len(from + u64::try_from(whole).map_err(io::Error::other)?)?;
    }
    let mut lines = tail
        .get(..whole)
        .unwrap_or_default()
        .rsplit(|byte| *byte == b'\n');
    Ok(lines
        .find(|line| !line.is_empty())
        .and_then(seq_of)
        .unwrap_or(0))
}

fn seq_of(line: &[u8]) -> Option<u64> {
    #[derive(serde::Deserialize)]
    struct Numbered {
        seq: u64,
    }
    serde_json::from_slice(line)
        .ok()
        .map(|Numbered { seq }| seq)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(content: &str) -> (String, u64) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        std::fs::write(&path, content).unwrap();
        let (_, seq) = open(&path).unwrap();
        (std::fs::read_to_string(&path).unwrap(), seq)
    }

    #[test]
    fn numbering_goes_on_behind_the_last_whole_record() {
        let whole = "{\"schema\":1,\"seq\":7}\n{\"schema\":1,\"seq\":8}\n";
        assert_eq!(opened(whole), (whole.into(), 8));
        assert_eq!(
            opened(&format!("{whole}{{\"schema\":1,\"se")),
            (whole.into(), 8)
        );
        assert_eq!(opened("{\"schema\":1,\"se"), (String::new(), 0));
        assert_eq!(opened(""), (String::new(), 0));
    }

    #[test]
    fn a_symbolic_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("audit.jsonl"));
        std::fs::write(&target, "").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(open(&link).is_err());
    }
}
