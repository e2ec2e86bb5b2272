//! One command at a time works on a local vault; the others say for whom they wait.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::mem::ManuallyDrop;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::exit::{Exit, Failure};
use crate::ui::{Ui, escaped, path_text, time_text};

/// From one try to the next.
const TRY_EVERY: Duration = Duration::from_millis(100);
/// A command is written down up to this many characters.
const COMMAND_CHARS_MAX: usize = 200;
/// The note of a holder is shorter than this.
const NOTE_BYTES_MAX: u64 = 4096;

/// The lock of a local vault, until [`Lock::release`] or the end of the process. Dropping it
/// keeps it: a command that a signal ends still has its services for a moment.
pub(super) struct Lock {
    file: ManuallyDrop<File>,
}

/// Who holds it, as written in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    pid: u32,
    since_ms: i64,
    command: String,
}

impl Lock {
    /// Takes DIR/lock, waiting for `wait` at most (`None`: without end).
    pub(super) async fn take(dir: &Path, wait: Option<Duration>, ui: &Ui) -> Result<Self, Failure> {
        let path = dir.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(Failure::io("cannot open", &path))?;
        let began = Instant::now();
        let mut told = None;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(e)) => return Err(Failure::io("cannot lock", &path)(e)),
                Err(TryLockError::WouldBlock) => {}
            }
            let holder = read_note(&path);
            if wait.is_some_and(|wait| began.elapsed() >= wait) {
                return Err(timed_out(dir, holder.as_ref()));
            }
            if told.as_ref() != Some(&holder) {
                ui.say(format!("waiting for {} to finish", holder_text(holder.as_ref())));
                told = Some(holder);
            }
            tokio::time::sleep(TRY_EVERY).await;
        }
        write_note(&mut file).map_err(Failure::io("cannot write", &path))?;
        Ok(Self { file: ManuallyDrop::new(file) })
    }

    /// Lets the next command have the vault.
    pub(super) fn release(self) {
        drop(ManuallyDrop::into_inner(self.file));
    }
}

fn timed_out(dir: &Path, holder: Option<&Holder>) -> Failure {
    Failure::new(Exit::LockTimeout, format!("the vault at {} is in use", path_text(dir)))
        .why(format!("by {}", holder_text(holder)))
        .state("nothing was done")
        .next("run the same command later, or with a longer --lock-wait")
}

fn holder_text(holder: Option<&Holder>) -> String {
    match holder {
        Some(Holder { pid, since_ms, command }) => {
            format!("`{command}` (pid {pid}, since {})", time_text(*since_ms))
        }
        None => "another arc that has not written down its name yet".into(),
    }
}

fn read_note(path: &Path) -> Option<Holder> {
    let mut text = String::new();
    let file = File::open(path).ok()?;
    file.take(NOTE_BYTES_MAX).read_to_string(&mut text).ok()?;
    toml::from_str(&text).ok()
}

fn write_note(file: &mut File) -> io::Result<()> {
    let words = std::env::args_os().skip(1).map(|word| escaped(word.as_bytes()));
    let command = std::iter::once("arc".to_owned()).chain(words).collect::<Vec<_>>().join(" ");
    let note = Holder {
        pid: std::process::id(),
        since_ms: jiff::Timestamp::now().as_millisecond(),
        command: command.chars().take(COMMAND_CHARS_MAX).collect(),
    };
    let text = toml::to_string(&note).map_err(io::Error::other)?;
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::Options;

    fn quiet() -> Ui {
        Ui::new(&Options { quiet: true, ..Options::default() })
    }

    #[tokio::test]
    async fn a_second_command_waits_and_says_for_whom() {
        let dir = tempfile::tempdir().unwrap();
        let first = Lock::take(dir.path(), None, &quiet()).await.unwrap();
        let refused = Lock::take(dir.path(), Some(Duration::ZERO), &quiet()).await.err().unwrap();
        assert_eq!(refused.code, Exit::LockTimeout);
        assert!(refused.why[0].contains(&format!("pid {}", std::process::id())), "{refused}");
        let ui = quiet();
        let mut second = std::pin::pin!(Lock::take(dir.path(), None, &ui));
        assert!(tokio::time::timeout(Duration::ZERO, second.as_mut()).await.is_err());
        first.release();
        assert!(second.await.is_ok());
    }
}
