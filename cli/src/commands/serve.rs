//! `arc serve`: a coordinator or a storage server in this process.

mod unit;

use std::fs::File;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use server::auth::Token;
use server::coordinator::{self, Timings};
use server::fail_point::{FailAt, Point};
use server::serve::{Listen, Transport};
use server::storage::{self, Fault, Limits, ScrubRules};
use server::tls::OwnCertificate;
use server::wire::Weight;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::unit::Unit;
use super::Global;
use super::quantity::{parse_bytes, parse_duration};
use crate::exit::{Exit, Failure};
use crate::ui::path_text;

/// A token file is shorter than this.
const TOKEN_BYTES_MAX: u64 = 8 * 1024;

/// Run a coordinator or a storage server.
#[derive(clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Args {
    /// Which one.
    #[command(subcommand)]
    pub role: Role,
}

/// What to serve; the text for `--help` stands at the arguments.
#[derive(clap::Subcommand)]
pub enum Role {
    Coordinator(Coordinator),
    Storage(Storage),
}

/// Run the coordinator: it knows where everything is, and sees ciphertext only.
///
/// On its first start it writes owner.token (for `arc init`) and join.token (for storage servers)
/// into its folder. Once it serves, it prints one line with the address in use.
#[derive(clap::Args)]
#[command(after_help = "Example:
  arc serve coordinator --data /srv/arc/coordinator --listen 10.0.0.5:7070

A settings file has the names of the long options as keys: probe-every = \"10s\". Options and the
environment go before it.")]
pub struct Coordinator {
    /// Its folder: catalog and keys (needed)
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where to listen; port 0 takes any free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7070")]
    pub listen: SocketAddr,
    /// The URL that others reach it by, when it is not the one it listens on
    #[arg(long, value_name = "URL")]
    pub advertise: Option<String>,
    /// How it speaks.
    #[command(flatten)]
    pub transport: TransportArgs,
    /// Read settings from this TOML file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print a systemd unit for this command line, and end
    #[arg(long)]
    pub print_unit: bool,
    /// From one probe of a server to the next
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = parse_duration)]
    pub probe_every: Duration,
    /// How long a probe waits for its answer
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    pub probe_timeout: Duration,
    /// Missed probes in a row that make a server suspect
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u32).range(1..))]
    pub misses: u32,
    /// Good probes in a row that bring it back
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u32).range(1..))]
    pub good: u32,
    /// Silence after which a server is down
    #[arg(long, value_name = "TIME", default_value = "120s", value_parser = parse_duration)]
    pub down_after: Duration,
    /// Silence after which a server is lost; doubled for each time that it was down in 24 h
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = parse_duration)]
    pub grace: Duration,
    /// What the grace grows to at most
    #[arg(long, value_name = "TIME", default_value = "4h", value_parser = parse_duration)]
    pub grace_max: Duration,
    /// How long servers are waited for by stripes that cannot bear another loss
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_duration)]
    pub grace_thin: Duration,
    /// Servers that go within this time go together: a quarter of eight or more, or a zone
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_duration)]
    pub brake_within: Duration,
    /// How long repair waits after servers went together; 0s: not at all
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_duration)]
    pub brake: Duration,
    /// Look for stripes to repair this often at most; 0s: repair only what is asked for
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    pub repair_every: Duration,
    /// How often what a server holds is compared with the catalog; 0: only when it is back or finds
    /// something
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_duration)]
    pub compare_every: Duration,
    /// How often each server is asked for a random block of a random shard; 0: never
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_duration)]
    pub audit_every: Duration,
    /// How often the catalog and the keys are backed up onto the storage servers, where something
    /// was committed since; 0: only when asked (arc catalog backup)
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_duration)]
    pub backup_every: Duration,
    /// How long a push's lease lasts
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_duration)]
    pub lease: Duration,
    /// How long a ticket lasts
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = parse_duration)]
    pub ticket: Duration,
    /// Kill this process when it gets there, for tests
    #[arg(long, hide = true, value_name = "NAME[:NTH]")]
    pub fail_at: Option<FailAt<coordinator::FailPoint>>,
    /// List where it can be made to, one name a line
    #[arg(long, hide = true)]
    pub list_fail_points: bool,
    /// How long requests under way may take to finish when it stops
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    pub drain: Duration,
}

/// Run a storage server on one disk.
///
/// Its first start joins the coordinator with the join token and marks the folder with server.id;
/// later starts need neither token nor name. Once it serves, it prints one line with the address.
#[derive(clap::Args)]
#[command(after_help = "Example:
  arc serve storage --data /mnt/disk1/arc --listen 10.0.0.6:7071 --name nas-1 --zone nas \\
      --coordinator https://10.0.0.5:7070 --join-token-file join.token

A settings file has the names of the long options as keys: join-token-file = \"/etc/arc/join.token\".
Options and the environment go before it.")]
pub struct Storage {
    /// Its folder on the disk (needed)
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where to listen; port 0 takes any free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// The coordinator (needed)
    #[arg(long, value_name = "URL")]
    pub coordinator: Option<String>,
    /// The join token; needed on the first start
    #[arg(long, value_name = "FILE")]
    pub join_token_file: Option<PathBuf>,
    /// Its name, unique in the vault [default: the host's name]
    #[arg(long)]
    pub name: Option<String>,
    /// What fails together: a machine, a room [default: the host's name]
    #[arg(long)]
    pub zone: Option<String>,
    /// The URL that others reach it by, when it is not the one it listens on
    #[arg(long, value_name = "URL")]
    pub advertise: Option<String>,
    /// What its disk's size counts for where shards are placed: 2 is as a disk of twice the size;
    /// 0.01 to 100, and another at a later start moves shards
    #[arg(long, value_name = "N", default_value = "1")]
    pub weight: Weight,
    /// How it speaks.
    #[command(flatten)]
    pub transport: TransportArgs,
    /// Leave so much of the disk free [default: 2 % or 1G, the smaller]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub reserve: Option<u64>,
    /// Shards being written at once; more wait
    #[arg(long, value_name = "N", default_value = "16", value_parser = parse_slots)]
    pub puts: usize,
    /// Shards being read at once; more wait
    #[arg(long, value_name = "N", default_value = "16", value_parser = parse_slots)]
    pub gets: usize,
    /// How long a request waits for its turn before it is put off
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_duration)]
    pub busy_wait: Duration,
    /// A client that sends or takes nothing for so long is dropped
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    pub client_silence: Duration,
    /// All shards are read and checked once in this time; 0: not by itself
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = parse_duration)]
    pub scrub_every: Duration,
    /// Bytes that this reads in a second at most
    #[arg(long, value_name = "SIZE", default_value = "32M", value_parser = parse_bytes)]
    pub scrub_rate: u64,
    /// A failure to plant, for tests
    #[arg(long, hide = true)]
    pub fault: Option<Fault>,
    /// Kill this process when it gets there, for tests
    #[arg(long, hide = true, value_name = "NAME[:NTH]")]
    pub fail_at: Option<FailAt<storage::FailPoint>>,
    /// List where it can be made to, one name a line
    #[arg(long, hide = true)]
    pub list_fail_points: bool,
    /// Read settings from this TOML file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print a systemd unit for this command line, and end
    #[arg(long)]
    pub print_unit: bool,
    /// How long requests under way may take to finish when it stops
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    pub drain: Duration,
}

/// How a service speaks: plain HTTP on loopback and TLS elsewhere, unless told otherwise.
#[derive(clap::Args)]
pub struct TransportArgs {
    /// Speak plain HTTP beyond loopback too: only on a network that is trusted
    #[arg(long)]
    pub plain_http: bool,
    /// Speak TLS on loopback too
    #[arg(long)]
    pub tls: bool,
    /// Show this certificate (PEM, the CA's last) instead of one of the coordinator's own CA
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
}

impl TransportArgs {
    /// What they come to.
    fn chosen(self) -> Result<Transport, Failure> {
        let Self { plain_http, tls, tls_cert, tls_key } = self;
        match (plain_http, tls, tls_cert, tls_key) {
            (false, false, None, None) => Ok(Transport::Usual),
            (true, false, None, None) => Ok(Transport::Plain),
            (false, true, None, None) => Ok(Transport::Tls),
            (false, _, Some(chain), Some(key)) => Ok(Transport::Own(OwnCertificate { chain, key })),
            (true, ..) => Err(Failure::new(Exit::Usage, "--plain-http does not go with TLS")
                .why("a service speaks one or the other")),
            _ => Err(Failure::new(Exit::Usage, "--tls-cert and --tls-key go together")),
        }
    }
}

fn parse_slots(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(slots) if (1..=1024).contains(&slots) => Ok(slots),
        _ => Err(format!("{text:?} is not a number from 1 to 1024")),
    }
}

/// See [`Args`].
pub async fn run(args: Args, global: &Global) -> Result<Exit, Failure> {
    let stop = Stop::listen()?;
    match args.role {
        Role::Coordinator(args) if args.print_unit => {
            print_unit("coordinator", args.data, args.drain, global)
        }
        Role::Storage(args) if args.print_unit => {
            print_unit("storage", args.data, args.drain, global)
        }
        Role::Coordinator(args) => serve_coordinator(args, global, stop).await,
        Role::Storage(args) => serve_storage(args, global, stop).await,
    }
}

/// The unit on stdout.
fn print_unit(
    role: &'static str,
    data: Option<PathBuf>,
    drain: Duration,
    global: &Global,
) -> Result<Exit, Failure> {
    let text = Unit::of_this_process(role, &needed(data, "data")?, drain)?.text()?;
    match global.ui.is_json() {
        true => global.ui.json("unit", json!({ "text": text })),
        false => global.ui.data(text.trim_end()),
    }
    Ok(Exit::Done)
}

async fn serve_coordinator(
    args: Coordinator,
    global: &Global,
    stop: Stop,
) -> Result<Exit, Failure> {
    if args.list_fail_points {
        return Ok(list::<coordinator::FailPoint>(global));
    }
    let config = coordinator::Config {
        data: needed(args.data, "data")?,
        listen: Listen { address: args.listen, transport: args.transport.chosen()? },
        advertise: args.advertise,
        timings: Timings {
            probe_every: args.probe_every,
            probe_timeout: args.probe_timeout,
            misses: args.misses,
            good: args.good,
            down_after: args.down_after,
            grace: args.grace,
            grace_max: args.grace_max,
            grace_thin: args.grace_thin,
            brake_within: args.brake_within,
            brake: args.brake,
            repair_every: args.repair_every,
            compare_every: args.compare_every,
            audit_every: args.audit_every,
            backup_every: args.backup_every,
            lease: args.lease,
            ticket: args.ticket,
            drain: args.drain,
            ..Timings::default()
        },
        fail_at: args.fail_at,
    };
    let mut stop = stop;
    let Some(started) = stop.unless_before(coordinator::start(config)).await else {
        return Ok(Exit::Done);
    };
    let coordinator = started.map_err(Failure::when("the coordinator cannot start"))?;
    listening(global, "coordinator", None, &coordinator.running.url());
    stop.wait().await;
    tracing::info!("stopping");
    coordinator.stop().await;
    Ok(Exit::Done)
}

async fn serve_storage(args: Storage, global: &Global, stop: Stop) -> Result<Exit, Failure> {
    if args.list_fail_points {
        return Ok(list::<storage::FailPoint>(global));
    }
    let config = storage::Config {
        data: needed(args.data, "data")?,
        listen: Listen { address: args.listen, transport: args.transport.chosen()? },
        coordinator: needed(args.coordinator, "coordinator")?,
        join_token: args.join_token_file.as_deref().map(read_token).transpose()?,
        name: args.name,
        zone: args.zone,
        advertise: args.advertise,
        weight: args.weight,
        reserve_bytes: args.reserve,
        drain: args.drain,
        limits: Limits {
            puts: args.puts,
            gets: args.gets,
            busy_wait: args.busy_wait,
            client_silence: args.client_silence,
            ..Limits::default()
        },
        scrub: ScrubRules { every: args.scrub_every, bytes_per_second: args.scrub_rate },
        fault: args.fault,
        fail_at: args.fail_at,
    };
    let mut stop = stop;
    let Some(started) = stop.unless_before(storage::start(config)).await else {
        return Ok(Exit::Done);
    };
    let storage = started.map_err(Failure::when("the storage server cannot start"))?;
    listening(global, "storage", Some(&storage.name), &storage.running.url());
    stop.wait().await;
    tracing::info!("stopping");
    storage.stop().await;
    Ok(Exit::Done)
}

/// Prints the names of a service's fail points.
fn list<P: Point>(global: &Global) -> Exit {
    for (name, _) in P::ALL {
        global.ui.data(name);
    }
    Exit::Done
}

/// The one line on stdout that says where it serves.
fn listening(global: &Global, role: &str, name: Option<&str>, url: &str) {
    if global.ui.is_json() {
        return global.ui.json("listening", json!({ "role": role, "name": name, "url": url }));
    }
    let name =
        name.map(|name| format!(" {}", crate::ui::escaped(name.as_bytes()))).unwrap_or_default();
    global.ui.data(format!("{role}{name} listening on {url}"));
}

fn needed<T>(value: Option<T>, name: &str) -> Result<T, Failure> {
    value.ok_or_else(|| {
        let variable = name.replace('-', "_").to_uppercase();
        Failure::new(Exit::Usage, format!("--{name} is needed"))
            .next(format!("give --{name}, ARC_{variable}, or {name} in the file of --config"))
    })
}

/// The token in a file.
pub(super) fn read_token(path: &Path) -> Result<Token, Failure> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(TOKEN_BYTES_MAX).read_to_string(&mut text))
        .map_err(Failure::io("cannot read", path))?;
    text.parse().map_err(|e: server::Error| {
        Failure::new(Exit::WrongKey, format!("{} is not usable", path_text(path)))
            .why(e.to_string())
    })
}

/// SIGTERM and SIGINT, heard from the beginning.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn listen() -> Result<Self, Failure> {
        let of = |kind| {
            signal(kind).map_err(|e| {
                Failure::new(Exit::Failed, "cannot listen for signals").why(e.to_string())
            })
        };
        Ok(Self {
            terminate: of(SignalKind::terminate())?,
            interrupt: of(SignalKind::interrupt())?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// What `start` gives, unless a signal comes first.
    async fn unless_before<T>(&mut self, start: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            started = start => Some(started),
            () = self.wait() => None,
        }
    }
}
