//! What the files of the policy say, for whoever fetches the page. Reading them
//! may take longer than a reader of the page stays: there is one reading at a
//! time, and it is gone on with whoever has left.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::control::OnDisk;

/// For so long they are not read again.
const HOLDS: Duration = Duration::from_secs(30);
/// Who has them read waits for so long, and is then told what they said before.
const PATIENCE: Duration = Duration::from_millis(500);

#[derive(Default)]
pub(super) struct Disk(Mutex<State>);

#[derive(Default)]
struct State {
    known: Option<(Instant, OnDisk)>,
    reading: Option<JoinHandle<OnDisk>>,
}

impl Disk {
    /// `read` is done where that is due.
    pub(super) async fn says<R>(&self, read: R) -> OnDisk
    where
        R: Future<Output = OnDisk> + Send + 'static,
    {
        // While nothing is known, all wait here for whoever came first, or for
        // the next of them once that one has left.
        let mut state = self.0.lock().await;
        let State { known, reading } = &mut *state;
        if let Some((at, on_disk)) = known
            && at.elapsed() < HOLDS
        {
            return on_disk.clone();
        }
        let patience = match reading {
            Some(_) => Duration::ZERO,
            None => PATIENCE,
        };
        let under_way = reading.get_or_insert_with(|| tokio::spawn(read));
        let read = match known {
            None => under_way.await,
            Some((_, before)) => match timeout(patience, &mut *under_way).await {
                Ok(read) => read,
                Err(_) => return before.clone(),
            },
        };
        *reading = None;
        let error = "a fault in this program; see the daemon's log";
        let on_disk = read.unwrap_or_else(|_| OnDisk::Refused {
            error: error.into(),
        });
        *known = Some((Instant::now(), on_disk.clone()));
        on_disk
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    fn refused(error: &str) -> OnDisk {
        OnDisk::Refused {
            error: error.into(),
        }
    }

    fn error(on_disk: OnDisk) -> String {
        match on_disk {
            OnDisk::Refused { error } => error,
            other => panic!("{other:?}"),
        }
    }

    async fn never() -> OnDisk {
        panic!("read a second time")
    }

    #[tokio::test]
    async fn one_reading_serves_all_also_when_who_asked_has_left() {
        let disk = Disk::default();
        let (tell, told) = oneshot::channel();
        let reading = disk.says(async { refused(told.await.unwrap()) });
        let left = timeout(Duration::from_millis(10), reading).await;
        assert!(left.is_err());
        tell.send("first").unwrap();
        assert_eq!(error(disk.says(never()).await), "first");
        assert_eq!(error(disk.says(never()).await), "first", "it holds");
    }

    #[tokio::test]
    async fn while_it_takes_long_what_was_known_is_told() {
        let disk = Disk::default();
        disk.says(async { refused("first") }).await;
        let age = || async {
            let long_ago = Instant::now().checked_sub(HOLDS * 2).unwrap();
            disk.0.lock().await.known.as_mut().unwrap().0 = long_ago;
        };
        age().await;
        let (tell, told) = oneshot::channel();
        let slow = disk.says(async { refused(told.await.unwrap()) });
        assert_eq!(error(slow.await), "first");
        assert_eq!(error(disk.says(never()).await), "first", "at once");
        tell.send("second").unwrap();
        while disk
            .0
            .lock()
            .await
            .reading
            .as_ref()
            .is_some_and(|it| !it.is_finished())
        {
            tokio::task::yield_now().await;
        }
        assert_eq!(error(disk.says(never()).await), "second");
        age().await;
        let third = disk.says(async { refused("third") }).await;
        assert_eq!(error(third), "third");
    }
}
