//! What the daemon itself takes of the machine. Opened before the sandbox is
//! entered, which lets nothing below /proc be opened any more.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::time::{Duration, SystemTime};

use nix::dir::Dir;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::time::{ClockId, clock_gettime};

/// Where the kernel says it.
pub struct Process {
    status: Option<File>,
    descriptors: Option<Dir>,
    started: SystemTime,
}

/// As of one moment; `None` where the kernel does not say.
pub(super) struct Takes {
    pub(super) started: SystemTime,
    pub(super) processor: Option<Duration>,
    pub(super) resident: Option<u64>,
    pub(super) descriptors: Option<usize>,
}

impl Process {
    /// To be called while /proc can be read.
    pub fn open() -> Self {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Self {
            status: File::open("/proc/self/status").ok(),
            descriptors: Dir::open("/proc/self/fd", flags, Mode::empty()).ok(),
            started: SystemTime::now(),
        }
    }

    pub(super) fn takes(&mut self) -> Takes {
        let resident = self.status.as_mut().and_then(|file| resident(file).ok());
        let descriptors = self.descriptors.as_mut().map(|dir| {
            let found = dir.iter().flatten();
            let named = found.filter(|entry| !entry.file_name().to_bytes().starts_with(b"."));
            named.count()
        });
        let processor = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).ok();
        Takes {
            started: self.started,
            processor: processor.map(Duration::from),
            resident: resident.flatten(),
            descriptors,
        }
    }
}

/// In bytes.
fn resident(status: &mut File) -> io::Result<Option<u64>> {
    let mut text = String::new();
    status.rewind()?;
    status.read_to_string(&mut text)?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kib.map(|kib| kib * 1024))
}
