//! A vault on processes of its own: a coordinator and storage servers, each of which can be
//! killed, stopped and started again at its address.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::sandbox::{Ran, Running, Sandbox, Service, text};
use crate::source::{assert_same, bytes_below};

/// What is waited for comes long before this.
const PATIENCE: Duration = Duration::from_secs(120);

/// How a fleet differs from the usual one.
#[derive(Clone, Copy, Default)]
pub(crate) struct Setup<'a> {
    /// The code, as in `4+2`.
    pub(crate) code: &'a str,
    /// How many storage servers.
    pub(crate) servers: usize,
    /// More options of the coordinator.
    pub(crate) coordinator: &'a [&'a str],
    /// More options of every storage server.
    pub(crate) storage: &'a [&'a str],
}

/// Coordinator, storage servers `a`, `b`, `c`, … in zones of their own, and a vault on them.
pub(crate) struct Fleet {
    pub(crate) sandbox: Sandbox,
    coordinator: Option<Service>,
    coordinator_options: Vec<String>,
    server_options: Vec<String>,
    servers: Vec<Option<Service>>,
    /// Addresses of coordinator and servers, kept for those that are down.
    url: String,
    addresses: Vec<String>,
    pulls: AtomicU32,
}

/// A shard file on a server.
#[derive(Debug, Clone)]
pub(crate) struct ShardFile {
    pub(crate) server: usize,
    pub(crate) stripe: String,
    pub(crate) index: u8,
    pub(crate) bytes: u64,
    pub(crate) path: PathBuf,
}

impl Fleet {
    /// A fleet of `servers` with a vault of `code`.
    pub(crate) fn new(code: &str, servers: usize) -> Self {
        Self::of(Setup { code, servers, ..Setup::default() })
    }

    pub(crate) fn of(setup: Setup) -> Self {
        let mut fleet = Self::bare(setup.coordinator);
        fleet.server_options = setup.storage.iter().map(|&o| o.to_owned()).collect();
        for _ in 0..setup.servers {
            fleet.join(&[]);
        }
        fleet.init(&fleet.sandbox, Some(setup.code));
        fleet
    }

    /// A coordinator alone.
    pub(crate) fn bare(coordinator_options: &[&str]) -> Self {
        Self::bare_in(Sandbox::new(), coordinator_options)
    }

    /// A coordinator alone, in a sandbox that was prepared.
    pub(crate) fn bare_in(sandbox: Sandbox, coordinator_options: &[&str]) -> Self {
        let options: Vec<String> = coordinator_options.iter().map(|&o| o.to_owned()).collect();
        let coordinator = serve_coordinator(&sandbox, "127.0.0.1:0", &options);
        Self {
            sandbox,
            url: coordinator.url.clone(),
            coordinator: Some(coordinator),
            coordinator_options: options,
            server_options: Vec::new(),
            servers: Vec::new(),
            addresses: Vec::new(),
            pulls: AtomicU32::new(0),
        }
    }

    /// One more storage server; its number.
    pub(crate) fn join(&mut self, options: &[&str]) -> usize {
        let number = self.servers.len();
        let service = self.serve_storage(number, "127.0.0.1:0", options);
        self.addresses.push(service.address().to_owned());
        self.servers.push(Some(service));
        number
    }

    /// Makes the vault, or connects `sandbox` to the one that is there.
    pub(crate) fn init(&self, sandbox: &Sandbox, code: Option<&str>) {
        let token = self.sandbox.path("coordinator/owner.token");
        let (url, token) = (self.url(), text(&token).to_owned());
        let start = ["init", &url, "--token-file", &token];
        let code = code.iter().flat_map(|code| ["--code", code]);
        sandbox.arc(start.into_iter().chain(code)).exits(0);
    }

    /// The coordinator's URL.
    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    pub(crate) fn coordinator_address(&self) -> &str {
        self.url.split_once("://").unwrap().1
    }

    /// A server's address, whether it runs or not.
    pub(crate) fn server_address(&self, number: usize) -> &str {
        &self.addresses[number]
    }

    pub(crate) fn server_folder(&self, number: usize) -> PathBuf {
        self.sandbox.path(&format!("server-{}", name(number)))
    }

    /// SIGKILL of a server.
    pub(crate) fn kill(&mut self, number: usize) {
        self.servers[number].take().unwrap().kill();
    }

    /// A signal for a server.
    pub(crate) fn signal(&self, number: usize, signal: Signal) {
        self.servers[number].as_ref().unwrap().signal(signal);
    }

    /// SIGTERM of a server, and its exit code.
    pub(crate) fn terminate(&mut self, number: usize) -> Option<i32> {
        self.servers[number].take().unwrap().terminate()
    }

    /// Starts a server again at its address.
    pub(crate) fn revive(&mut self, number: usize) {
        self.revive_with(number, &[]);
    }

    /// The same, with more options.
    pub(crate) fn revive_with(&mut self, number: usize, options: &[&str]) {
        let address = self.addresses[number].clone();
        self.servers[number] = Some(self.serve_storage(number, &address, options));
    }

    /// Whether a server has killed itself at a fail point.
    pub(crate) fn has_died(&mut self, number: usize) -> bool {
        self.servers[number].as_mut().unwrap().was_killed()
    }

    /// SIGKILL of the coordinator.
    pub(crate) fn kill_coordinator(&mut self) {
        self.coordinator.take().unwrap().kill();
    }

    /// A signal for the coordinator.
    pub(crate) fn signal_coordinator(&self, signal: Signal) {
        self.coordinator.as_ref().unwrap().signal(signal);
    }

    /// SIGTERM of the coordinator, and its exit code.
    pub(crate) fn terminate_coordinator(&mut self) -> Option<i32> {
        self.coordinator.take().unwrap().terminate()
    }

    /// Starts the coordinator again at its address.
    pub(crate) fn revive_coordinator(&mut self) {
        self.revive_coordinator_with(&[]);
    }

    /// The same, with more options.
    pub(crate) fn revive_coordinator_with(&mut self, options: &[&str]) {
        let more = options.iter().map(|&option| option.to_owned());
        let options: Vec<String> = self.coordinator_options.iter().cloned().chain(more).collect();
        let coordinator = serve_coordinator(&self.sandbox, self.coordinator_address(), &options);
        self.coordinator = Some(coordinator);
    }

    /// Waits until the coordinator has killed itself at a fail point.
    #[track_caller]
    pub(crate) fn until_coordinator_died(&mut self, point: &str) {
        let mut service = self.coordinator.take().unwrap();
        eventually(&format!("it dies at {point}"), || service.was_killed());
    }

    /// Has all shards checked, and what is bad reported, whatever that comes to.
    pub(crate) fn verify_any(&self) {
        let code = self.sandbox.arc(["verify"]).code();
        assert!([0, 4].contains(&code), "{code}");
    }

    /// Waits until so many servers are up in the coordinator's eyes.
    #[track_caller]
    pub(crate) fn until_up(&self, servers: usize) {
        eventually("the servers that run are up", || {
            let rows = self.sandbox.arc(["--json", "servers"]).json_of("summary");
            let up = |row: &&serde_json::Value| row["state"] == "up";
            rows["servers"].as_array().is_some_and(|rows| rows.iter().filter(up).count() == servers)
        });
    }

    /// The folder that is pushed.
    pub(crate) fn source(&self) -> PathBuf {
        self.sandbox.path("source")
    }

    /// The command line of a push of [`Fleet::source`] in small packs.
    pub(crate) fn push_line(&self, options: &[&str]) -> Vec<String> {
        let source = self.source();
        let line = ["--json", "push", text(&source), "--pack-size=1M"];
        line.into_iter().chain(options.iter().copied()).map(str::to_owned).collect()
    }

    /// Pushes and waits for the end.
    pub(crate) fn push(&self, options: &[&str]) -> Ran {
        self.sandbox.arc(self.push_line(options))
    }

    /// Begins a push.
    pub(crate) fn start_push(&self, options: &[&str]) -> Running {
        self.sandbox.start(self.push_line(options))
    }

    /// Begins a push, and comes back once it has sent so many bytes of shards.
    #[track_caller]
    pub(crate) fn push_until(&self, sent_bytes: u64, options: &[&str]) -> Running {
        let before = self.stored_bytes();
        let mut push = self.start_push(options);
        eventually("the push has sent its part", || {
            assert!(push.runs(), "the push ended before it had sent {sent_bytes} bytes");
            self.stored_bytes() >= before + sent_bytes
        });
        push
    }

    /// Pulls a snapshot of [`Fleet::source`] and compares every name, mode, time and byte.
    #[track_caller]
    pub(crate) fn pull_exact(&self, snapshot: &str) -> Ran {
        let to = self.target();
        let ran = self.sandbox.arc(self.pull_line(snapshot, &to)).exits(0);
        assert_same(&self.source(), &to);
        std::fs::remove_dir_all(to).unwrap();
        ran
    }

    /// A new folder to pull into.
    pub(crate) fn target(&self) -> PathBuf {
        self.sandbox.path(&format!("pulled-{}", self.pulls.fetch_add(1, Relaxed)))
    }

    pub(crate) fn pull_line(&self, snapshot: &str, to: &Path) -> Vec<String> {
        let what = format!("{snapshot}:{}", text(&self.source()));
        ["--json", "pull", &what, "--to", text(to)].map(str::to_owned).into()
    }

    /// That every shard of every stripe is on its server and whole.
    #[track_caller]
    pub(crate) fn is_whole(&self) {
        let verified = self.sandbox.arc(["--json", "verify", "--level", "data"]).exits(0);
        assert_eq!(verified.json_of("summary")["bad_shards"], 0);
    }

    /// How many snapshots the vault has.
    pub(crate) fn snapshots(&self) -> usize {
        let listed = self.sandbox.arc(["--json", "snapshots"]).exits(0);
        listed.json().iter().filter(|line| line["type"] == "snapshot").count()
    }

    /// All shard files.
    pub(crate) fn shards(&self) -> Vec<ShardFile> {
        let mut found = Vec::new();
        for server in 0..self.servers.len() {
            let folders = self.server_folder(server).join("shards").read_dir().unwrap();
            for entry in folders.flat_map(|folder| folder.unwrap().path().read_dir().unwrap()) {
                let entry = entry.unwrap();
                let file_name = entry.file_name().into_string().unwrap();
                let (stripe, index) = file_name.split_once('.').unwrap();
                found.push(ShardFile {
                    server,
                    stripe: stripe.to_owned(),
                    index: index.parse().unwrap(),
                    bytes: entry.metadata().unwrap().len(),
                    path: entry.path(),
                });
            }
        }
        found
    }

    /// Bytes of all shard files.
    pub(crate) fn stored_bytes(&self) -> u64 {
        (0..self.servers.len()).map(|n| bytes_below(&self.server_folder(n).join("shards"))).sum()
    }

    fn serve_storage(&self, number: usize, listen: &str, options: &[&str]) -> Service {
        let (data, token) =
            (self.server_folder(number), self.sandbox.path("coordinator/join.token"));
        let (url, name) = (self.url(), name(number));
        let line = [
            "serve",
            "storage",
            "--listen",
            listen,
            "--data",
            text(&data),
            "--coordinator",
            &url,
            "--join-token-file",
            text(&token),
            "--name",
            &name,
            "--zone",
            &name,
        ];
        let all = self.server_options.iter().map(String::as_str).chain(options.iter().copied());
        self.sandbox.serve(line.into_iter().chain(all))
    }
}

/// A server's name.
pub(crate) fn name(number: usize) -> String {
    char::from(b'a' + number as u8).to_string()
}

/// Looks again and again until `is`; a minute or two is a failure.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < end, "not within {} s: {what}", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn serve_coordinator(sandbox: &Sandbox, listen: &str, options: &[String]) -> Service {
    let data = sandbox.path("coordinator");
    let fast = ["--probe-every=100ms", "--probe-timeout=2s", "--good=1", "--misses=2"];
    let line = ["serve", "coordinator", "--listen", listen, "--data", text(&data)];
    // Damage stays until a test has it mended, and stripes are those of pushes, unless it asks for
    // more.
    let is_set = |idle: &str| {
        let name = idle.split('=').next().unwrap_or(idle);
        options.iter().any(|option| option.split('=').next() == Some(name))
    };
    let idle = ["--repair-every=0s", "--backup-every=0s"];
    let idle = idle.into_iter().filter(|option| !is_set(option));
    sandbox
        .serve(line.into_iter().chain(fast).chain(idle).chain(options.iter().map(String::as_str)))
}
