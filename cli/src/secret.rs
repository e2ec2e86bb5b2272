//! What opens a vault: a passphrase, a key file or the recovery key, never from argv.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use codec::keys::{KEY_FILE_BYTES_MIN, RecoveryKey, Secret, VaultKeys, VaultRecord};
use dialoguer::Password;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::exit::{Exit, Failure};

/// The passphrase itself.
const VALUE: &str = "ARC_PASSPHRASE";
/// A file with it.
const FILE: &str = "ARC_PASSPHRASE_FILE";
/// A shell command that prints it.
const COMMAND: &str = "ARC_PASSPHRASE_COMMAND";
/// A file with the recovery key.
const RECOVERY: &str = "ARC_RECOVERY_KEY_FILE";
/// A longer passphrase or key file is a mistake.
const SECRET_BYTES_MAX: usize = 64 * 1024;
/// How often a passphrase may be mistyped at the prompt.
const TRIES: u32 = 3;

/// Where the secret comes from, as far as options say.
#[derive(Clone, Default, clap::Args)]
pub struct SecretArgs {
    /// Open the vault with this key file instead of a passphrase
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub key_file: Option<PathBuf>,
    /// A passphrase that the program itself made up, for `arc demo`.
    #[arg(skip)]
    pub passphrase: Option<Zeroizing<String>>,
}

/// Opens `record`; a passphrase mistyped at the prompt may be tried again.
pub async fn unlock(record: &VaultRecord, args: &SecretArgs) -> Result<VaultKeys, Failure> {
    unlock_any(std::slice::from_ref(record), args).await.map(|(keys, _)| keys)
}

/// Opens the first of `records` that can be, and says which.
pub async fn unlock_any(
    records: &[VaultRecord],
    args: &SecretArgs,
) -> Result<(VaultKeys, usize), Failure> {
    if let Some(secret) = given(args).await? {
        return open(records, secret).await;
    }
    must_be_terminal()?;
    for left in (0..TRIES).rev() {
        let text = match left + 1 {
            TRIES => "Passphrase of the vault",
            _ => "That does not open it. Passphrase of the vault",
        };
        let passphrase = prompt(move || Password::new().with_prompt(text)).await?;
        let opened = match secret_of(passphrase, "the prompt") {
            Ok(secret) => open(records, secret).await,
            Err(failure) => Err(failure),
        };
        match opened {
            Err(failure) if failure.code == Exit::WrongKey && left > 0 => {}
            opened => return opened,
        }
    }
    Err(wrong())
}

/// The secret of a new vault. Second is a generated passphrase that the person must be told.
pub async fn choose(args: &SecretArgs) -> Result<(Secret, Option<Zeroizing<String>>), Failure> {
    match given(args).await? {
        Some(Secret::RecoveryKey(_)) => {
            let what = "a new vault needs a passphrase or a key file, not a recovery key";
            return Err(Failure::new(Exit::Usage, what).next("arc key export    makes one, later"));
        }
        Some(secret) => return Ok((secret, None)),
        None => must_be_terminal()?,
    }
    let question = || {
        Password::new()
            .with_prompt("Passphrase of the new vault (empty: generate one)")
            .allow_empty_password(true)
            .with_confirmation("The same again", "They differ")
    };
    let typed = prompt(question).await?;
    if !typed.is_empty() {
        return Ok((Secret::Passphrase(typed), None));
    }
    let made = generate()?;
    Ok((Secret::Passphrase(made.clone()), Some(made)))
}

/// A passphrase that nobody guesses: 125 random bits as five groups of letters and digits
/// without those that are mistaken for others.
pub fn generate() -> Result<Zeroizing<String>, Failure> {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let random = Zeroizing::new(server::auth::random::<25>()?);
    let mut text = Zeroizing::new(String::with_capacity(29));
    for (i, byte) in random.iter().enumerate() {
        if i > 0 && i % 5 == 0 {
            text.push('-');
        }
        text.push(ALPHABET[usize::from(byte % 32)] as char);
    }
    Ok(text)
}

async fn open(records: &[VaultRecord], secret: Secret) -> Result<(VaultKeys, usize), Failure> {
    let records = records.to_vec();
    // Argon2 takes most of a second.
    let opened = server::cpu::run(move || {
        let mut failed = codec::Error::Key { what: "the vault" };
        for (number, record) in records.iter().enumerate() {
            match record.unlock(&secret) {
                Ok(keys) => return Ok((keys, number)),
                Err(codec::Error::Key { .. }) => {}
                Err(error) => failed = error,
            }
        }
        Err(failed)
    });
    opened.await.map_err(|error| match error {
        codec::Error::Key { .. } => wrong(),
        other => other.into(),
    })
}

/// What somebody typed where a passphrase is asked for: that, or the recovery key.
fn secret_of(text: Zeroizing<String>, source: &str) -> Result<Secret, Failure> {
    if !RecoveryKey::is_meant_by(&text) {
        return Ok(Secret::Passphrase(text));
    }
    RecoveryKey::from_text(&text).map(Secret::RecoveryKey).map_err(|error| {
        Failure::new(Exit::WrongKey, format!("the recovery key of {source} cannot be read"))
            .why(error.to_string())
            .state("nothing was read or changed")
    })
}

fn wrong() -> Failure {
    Failure::new(Exit::WrongKey, "the passphrase, key file or recovery key does not open this vault")
        .state("nothing was read or changed")
        .next(format!(
            "check {VALUE}, {FILE}, {COMMAND}, {RECOVERY}, --key-file, and that --vault is the one meant"
        ))
}

/// What options or the environment give; `None`: ask.
async fn given(args: &SecretArgs) -> Result<Option<Secret>, Failure> {
    if let Some(made) = &args.passphrase {
        return Ok(Some(Secret::Passphrase(made.clone())));
    }
    if let Some(path) = &args.key_file {
        let bytes = read_bounded(path)?;
        if bytes.len() < KEY_FILE_BYTES_MIN {
            let what = format!("{} is too short for a key file", crate::ui::path_text(path));
            return Err(Failure::new(Exit::Usage, what)
                .why(format!("{} bytes, not {KEY_FILE_BYTES_MIN} or more", bytes.len())));
        }
        return Ok(Some(Secret::KeyFile(bytes)));
    }
    if let Some(path) = env::var_os(RECOVERY) {
        let key = recovery_key(read_bounded(Path::new(&path))?);
        return key.map(Some);
    }
    let (passphrase, source) = if let Some(value) = env::var_os(VALUE) {
        (text(value.into_vec(), VALUE)?, VALUE)
    } else if let Some(path) = env::var_os(FILE) {
        (first_line(read_bounded(Path::new(&path))?, FILE)?, FILE)
    } else if let Some(command) = env::var_os(COMMAND) {
        (first_line(output(command).await?, COMMAND)?, COMMAND)
    } else {
        return Ok(None);
    };
    secret_of(passphrase, source).map(Some)
}

/// The recovery key in a file: all of it, for it may stand on several lines.
fn recovery_key(bytes: Zeroizing<Vec<u8>>) -> Result<Secret, Failure> {
    let key = text(bytes.to_vec(), RECOVERY)?;
    match secret_of(key, RECOVERY)? {
        Secret::Passphrase(_) => Err(Failure::new(
            Exit::Usage,
            format!("{RECOVERY} names a file without a recovery key"),
        )
        .why("a recovery key begins with ARCKEY")),
        key => Ok(key),
    }
}

/// Runs it on a thread of its own, so that a signal is heard meanwhile.
async fn output(command: OsString) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let failed =
        |why: String| Failure::new(Exit::Usage, format!("{COMMAND} gave no passphrase")).why(why);
    let run = move || Command::new("sh").arg("-c").arg(command).stderr(Stdio::inherit()).output();
    let output = tokio::task::spawn_blocking(run).await.map_err(|e| failed(e.to_string()))?;
    let output = output.map_err(|e| failed(e.to_string()))?;
    let stdout = Zeroizing::new(output.stdout);
    match output.status.success() {
        true => Ok(stdout),
        false => Err(failed(format!("it ended with {}", output.status))),
    }
}

fn read_bounded(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_BYTES_MAX + 1));
    File::open(path)
        .and_then(|file| file.take(SECRET_BYTES_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(Failure::io("cannot read", path))?;
    if bytes.len() > SECRET_BYTES_MAX {
        let what = format!("{} is too long for a secret", crate::ui::path_text(path));
        return Err(
            Failure::new(Exit::Usage, what).why(format!("more than {SECRET_BYTES_MAX} bytes"))
        );
    }
    Ok(bytes)
}

fn first_line(bytes: Zeroizing<Vec<u8>>, source: &str) -> Result<Zeroizing<String>, Failure> {
    let line = bytes.split(|&b| b == b'\n').next().unwrap_or_default();
    text(line.strip_suffix(b"\r").unwrap_or(line).to_vec(), source)
}

fn text(bytes: Vec<u8>, source: &str) -> Result<Zeroizing<String>, Failure> {
    match String::from_utf8(bytes) {
        Ok(text) if !text.is_empty() => Ok(Zeroizing::new(text)),
        Ok(_) => Err(Failure::new(Exit::Usage, format!("the passphrase of {source} is empty"))),
        Err(error) => {
            drop(Zeroizing::new(error.into_bytes()));
            Err(Failure::new(Exit::Usage, format!("the passphrase of {source} is not UTF-8")))
        }
    }
}

fn must_be_terminal() -> Result<(), Failure> {
    if io::stdin().is_terminal() && io::stderr().is_terminal() {
        return Ok(());
    }
    Err(Failure::new(Exit::WrongKey, "no passphrase was given, and there is no terminal to ask on")
        .next(format!("set {VALUE}, {FILE}, {COMMAND} or {RECOVERY}, or give --key-file FILE")))
}

/// Asks on a thread of its own, so that a signal is heard meanwhile.
async fn prompt(
    question: impl FnOnce() -> Password<'static> + Send + 'static,
) -> Result<Zeroizing<String>, Failure> {
    let _echo = Echo::remember();
    let failed = |why: String| {
        Failure::new(Exit::WrongKey, "the passphrase could not be asked for").why(why)
    };
    let typed = tokio::task::spawn_blocking(|| question().interact().map(Zeroizing::new)).await;
    typed.map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))
}

/// The terminal's settings before a prompt that may be left by a signal.
struct Echo(Option<Termios>);

impl Echo {
    fn remember() -> Self {
        Self(tcgetattr(io::stdin()).ok())
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // A terminal that is gone needs no echo.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(bytes: &[u8]) -> Result<String, Exit> {
        let read = first_line(Zeroizing::new(bytes.to_vec()), FILE);
        read.map(|text| text.to_string()).map_err(|failure| failure.code)
    }

    #[test]
    fn a_file_or_command_gives_its_first_line() {
        assert_eq!(line(b"open sesame\nand more"), Ok("open sesame".into()));
        assert_eq!(line(b"open\r\n"), Ok("open".into()));
        assert_eq!(line(b" spaces stay "), Ok(" spaces stay ".into()));
        assert_eq!(line(b"\nsecond"), Err(Exit::Usage));
        assert_eq!(line(b"\xff\n"), Err(Exit::Usage));
    }

    #[test]
    fn a_recovery_key_is_known_wherever_a_passphrase_is_asked_for() {
        let key = RecoveryKey::new([5; 32]).to_text();
        let of = |text: &str| secret_of(Zeroizing::new(text.to_owned()), VALUE);
        assert!(matches!(of(&key.to_lowercase()), Ok(Secret::RecoveryKey(_))));
        assert!(matches!(of("open sesame"), Ok(Secret::Passphrase(_))));
        let mistyped = of(&key[..key.len() - 1]).err().unwrap();
        assert_eq!(mistyped.code, Exit::WrongKey);
        assert!(!mistyped.to_string().contains(&key[20..]), "{mistyped}");
        let in_file = |text: &str| recovery_key(Zeroizing::new(text.as_bytes().to_vec()));
        let (first, second) = key.split_at(41);
        assert!(in_file(&format!("{first}\n  {second}\n")).is_ok());
        assert_eq!(in_file("open sesame").err().unwrap().code, Exit::Usage);
    }

    #[tokio::test]
    async fn a_command_that_fails_gives_no_passphrase() {
        let said = output("echo secret; echo noise".into()).await.unwrap();
        assert_eq!(*said, b"secret\nnoise\n");
        let failed = output("echo secret; exit 3".into()).await.unwrap_err();
        assert_eq!(failed.code, Exit::Usage);
    }

    #[tokio::test]
    async fn a_short_key_file_is_refused_before_anything_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, [7; KEY_FILE_BYTES_MIN - 1]).unwrap();
        let args = SecretArgs { key_file: Some(path), passphrase: None };
        assert_eq!(given(&args).await.err().unwrap().code, Exit::Usage);
    }

    #[test]
    fn a_secret_file_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, vec![b'x'; SECRET_BYTES_MAX + 1]).unwrap();
        assert_eq!(read_bounded(&path).unwrap_err().code, Exit::Usage);
        std::fs::write(&path, b"0123").unwrap();
        assert_eq!(*read_bounded(&path).unwrap(), b"0123".to_vec());
    }

    #[test]
    fn generated_passphrases_differ_and_read_well() {
        let (a, b) = (generate().unwrap(), generate().unwrap());
        assert_ne!(*a, *b);
        assert_eq!(a.len(), 29);
        assert_eq!(a.split('-').count(), 5);
        assert!(!a.contains(['0', '1', 'l', 'O']));
    }
}
