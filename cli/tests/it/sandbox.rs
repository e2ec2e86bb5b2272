//! A machine for one test: its own home, configuration, and processes that end with it.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// The passphrase of the vaults that are opened by one.
pub(crate) const PASSPHRASE: &str = "a passphrase of tests";
/// The key file of all others: a passphrase takes time to stretch at every command.
pub(crate) const KEY_FILE: [u8; 32] = *b"the bytes of the tests' key file";

/// Folders of one test, and `arc` run in them.
pub(crate) struct Sandbox {
    dir: TempDir,
    /// What opens its vaults, as a variable of the environment.
    opener: (&'static str, OsString),
}

impl Sandbox {
    /// Its vaults are opened by a key file.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key_file = dir.path().join("arc.key");
        std::fs::write(&key_file, KEY_FILE).unwrap();
        Self { dir, opener: ("ARC_KEY_FILE", key_file.into()) }
    }

    /// Its vaults are opened by [`PASSPHRASE`].
    pub(crate) fn of_passphrase() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir, opener: ("ARC_PASSPHRASE", PASSPHRASE.into()) }
    }

    /// With a vault on local folders in `vault/`.
    pub(crate) fn with_vault(code: &str) -> Self {
        Self::new().vault(code)
    }

    /// The same, with a vault on local folders in `vault/`.
    pub(crate) fn vault(self, code: &str) -> Self {
        self.arc(["init", "vault", "--code", code]).exits(0);
        self
    }

    /// A path below the sandbox; nothing is made.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `arc` with these arguments, not yet run; what opens the vault is in the environment.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_arc"));
        // No ARC_ variable of the machine that runs the tests may take part.
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path("home"))
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("TMPDIR", self.dir.path())
            .env(self.opener.0, &self.opener.1)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .args(args);
        command
    }

    /// Runs `arc` and waits for its end.
    pub(crate) fn arc<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        Ran(self.command(args).output().unwrap())
    }

    /// Pushes with `--json`, and gives the summary.
    #[track_caller]
    pub(crate) fn pushed<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Value {
        let args = args.into_iter().map(|arg| arg.as_ref().to_owned());
        let words = ["--json", "push"].map(OsString::from);
        self.arc(words.into_iter().chain(args)).exits(0).json_of("summary")
    }

    /// Pulls what `source`, an absolute path, is in the newest snapshot into `to`.
    pub(crate) fn pull(&self, source: &Path, to: &Path) -> Ran {
        self.arc(["pull", &format!("latest:{}", text(source)), "--to", text(to)])
    }

    /// Starts `arc` and lets it run.
    pub(crate) fn start<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Running {
        let mut command = self.command(args);
        Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Starts `arc serve …` and waits for the line with its address.
    pub(crate) fn serve<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Service {
        let log = self.path("services.log");
        let file = std::fs::File::options().append(true).create(true).open(&log).unwrap();
        let mut child = self.command(args).stdout(Stdio::piped()).stderr(file).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim_end().rsplit(' ').next().unwrap().to_owned();
        let service = Service { child, line, url };
        assert!(
            service.url.starts_with("http://") || service.url.starts_with("https://"),
            "instead of an address: {:?}\n{}",
            service.line,
            std::fs::read_to_string(&log).unwrap_or_default()
        );
        service
    }

    /// A coordinator with its data in `coordinator/`, probing fast.
    pub(crate) fn coordinator(&self, listen: &str) -> Service {
        let data = self.path("coordinator");
        let fast = [
            "--probe-every=100ms",
            "--probe-timeout=5s",
            "--good=1",
            "--misses=2",
            "--repair-every=0s",
        ];
        let start = ["serve", "coordinator", "--listen", listen, "--data", text(&data)];
        self.serve(start.into_iter().chain(fast))
    }

    /// A storage server with its data in `server-NAME/`.
    pub(crate) fn storage(&self, coordinator: &Service, name: &str, zone: &str) -> Service {
        let data = self.path(&format!("server-{name}"));
        let token = self.path("coordinator/join.token");
        self.serve([
            "serve",
            "storage",
            "--listen",
            "127.0.0.1:0",
            "--data",
            text(&data),
            "--coordinator",
            &coordinator.url,
            "--join-token-file",
            text(&token),
            "--name",
            name,
            "--zone",
            zone,
        ])
    }
}

/// A file system in memory on a folder, gone with the test.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of `bytes` (as in `2m`) at `path`, which is made; none where that is not allowed.
    pub(crate) fn mount(path: &Path, bytes: &str) -> Option<Self> {
        std::fs::create_dir(path).unwrap();
        let size = format!("size={bytes}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path).stderr(Stdio::null());
        mount.status().is_ok_and(|status| status.success()).then(|| Self(path.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A mount that stays is seen when the sandbox cannot be removed.
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// A path of a sandbox as text.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A command that has ended.
pub(crate) struct Ran(pub(crate) Output);

impl Ran {
    /// The exit code; a failure shows all output.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.0.status.code(), Some(code), "{}\n{}", self.stdout(), self.stderr());
        self
    }

    pub(crate) fn code(&self) -> i32 {
        self.0.status.code().unwrap()
    }

    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).into_owned()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }

    /// The JSON lines of stdout; each must have the schema's version and a type.
    #[track_caller]
    pub(crate) fn json(&self) -> Vec<Value> {
        let parse = |line: &str| {
            let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
            assert_eq!(value["v"], 1, "{line}");
            assert!(value["type"].is_string(), "{line}");
            value
        };
        self.stdout().lines().map(parse).collect()
    }

    /// The JSON lines of that type.
    #[track_caller]
    pub(crate) fn json_lines(&self, kind: &str) -> Vec<Value> {
        self.json().into_iter().filter(|line| line["type"] == kind).collect()
    }

    /// The one JSON line of that type.
    #[track_caller]
    pub(crate) fn json_of(&self, kind: &str) -> Value {
        let mut of_kind: Vec<Value> = self.json();
        of_kind.retain(|value| value["type"] == kind);
        assert_eq!(of_kind.len(), 1, "lines of type {kind} in {}", self.stdout());
        of_kind.remove(0)
    }
}

/// A command under way; it may say less than a pipe holds.
pub(crate) struct Running(Child);

impl Running {
    /// Whether it has not ended yet.
    pub(crate) fn runs(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Asks it how far things are (SIGUSR1) until its answer has `what` in it.
    #[track_caller]
    pub(crate) fn ask_until(&mut self, what: &str) {
        let pid = Pid::from_child(&self.0);
        let mut answers = BufReader::new(self.0.stderr.as_mut().unwrap());
        let mut said = String::new();
        while !said.lines().next_back().unwrap_or_default().contains(what) {
            kill_process(pid, Signal::USR1).unwrap();
            let bytes = answers.read_line(&mut said).unwrap();
            assert!(bytes > 0, "it ended, and did not say {what:?}: {said}");
        }
    }

    /// Waits for its end.
    pub(crate) fn finish(self) -> Ran {
        Ran(self.0.wait_with_output().unwrap())
    }
}

/// A running service, killed with the test.
pub(crate) struct Service {
    child: Child,
    /// What it printed.
    pub(crate) line: String,
    /// Its address.
    pub(crate) url: String,
}

impl Service {
    /// Its address without `http://` or `https://`.
    pub(crate) fn address(&self) -> &str {
        self.url.split_once("://").unwrap().1
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Whether it has ended, which must have been by SIGKILL.
    #[track_caller]
    pub(crate) fn was_killed(&mut self) -> bool {
        let ended = self.child.try_wait().unwrap();
        ended.inspect(|status| assert_eq!(status.signal(), Some(9), "{status}")).is_some()
    }

    /// SIGTERM, and the exit code.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.child.wait().unwrap().code()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Both fail when it was ended before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
