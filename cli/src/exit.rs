//! Exit codes, and failures that say what, why, in what state, and what next.

use std::fmt;
use std::io;

use server::wire::Code;

/// How a command ended. The numbers are stable and listed in every `--help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Exit {
    /// Done, also when damage was healed on the way.
    Done = 0,
    /// Failed for a reason without a number of its own.
    Failed = 1,
    /// The command line or a setting is wrong.
    Usage = 2,
    /// Saved, but some sources were unreadable or changed while they were read.
    SourcesIncomplete = 3,
    /// Damage was found, and all of it can be repaired.
    Repairable = 4,
    /// Data is lost.
    Lost = 5,
    /// Too few servers: no snapshot was committed, or not enough shards to read.
    TooFewServers = 6,
    /// Stored below target, or a server could not be reached.
    BelowTarget = 7,
    /// A limit or quota was reached; running it again goes on.
    Limit = 8,
    /// There was nothing to do (only where that was asked to be told).
    NothingToDo = 9,
    /// No such vault.
    NoVault = 10,
    /// A lock was not had in time, or a lease ended.
    LockTimeout = 11,
    /// A wrong key, not allowed, a service that is not trusted, or a vault older than one seen before.
    WrongKey = 12,
    /// The coordinator does not answer.
    CoordinatorUnreachable = 13,
    /// No such snapshot or path.
    NoSnapshot = 14,
    /// No space.
    NoSpace = 15,
    /// Interrupted (SIGINT).
    Interrupted = 130,
    /// Terminated (SIGTERM).
    Terminated = 143,
}

use Exit::*;

impl Exit {
    /// All of them, by number.
    pub const ALL: [Self; 18] = [
        Done,
        Failed,
        Usage,
        SourcesIncomplete,
        Repairable,
        Lost,
        TooFewServers,
        BelowTarget,
        Limit,
        NothingToDo,
        NoVault,
        LockTimeout,
        WrongKey,
        CoordinatorUnreachable,
        NoSnapshot,
        NoSpace,
        Interrupted,
        Terminated,
    ];

    /// When several apply, the first of these is the process's exit code.
    const ORDER: [Self; 18] = [
        Interrupted,
        Terminated,
        Usage,
        NoVault,
        NoSnapshot,
        Lost,
        TooFewServers,
        NoSpace,
        WrongKey,
        CoordinatorUnreachable,
        LockTimeout,
        BelowTarget,
        Repairable,
        SourcesIncomplete,
        Limit,
        Failed,
        NothingToDo,
        Done,
    ];

    /// The number.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// What it means, for `--help`.
    pub fn text(self) -> &'static str {
        match self {
            Done => "done, also when damage was healed on the way",
            Failed => "failed",
            Usage => "wrong usage or setting",
            SourcesIncomplete => "saved, but some sources were unreadable or changed while read",
            Repairable => "damage found, all of it repairable",
            Lost => "data lost",
            TooFewServers => "too few servers; no snapshot committed",
            BelowTarget => "stored below target, or a server unreachable",
            Limit => "a limit was reached; run it again to go on",
            NothingToDo => "nothing to do",
            NoVault => "no such vault",
            LockTimeout => "lock or lease ran out of time",
            WrongKey => {
                "wrong key, not allowed, not trusted, or an older vault than was seen before"
            }
            CoordinatorUnreachable => "coordinator unreachable",
            NoSnapshot => "no such snapshot or path",
            NoSpace => "no space",
            Interrupted => "interrupted",
            Terminated => "terminated",
        }
    }

    /// The one that the process ends with when all of `codes` apply.
    pub fn worst(codes: &[Self]) -> Self {
        Self::ORDER.into_iter().find(|code| codes.contains(code)).unwrap_or(Done)
    }

    /// The list for `--help`.
    pub fn help() -> String {
        let rows = Self::ALL.map(|exit| format!("  {:>3}  {}", exit.code(), exit.text()));
        format!("Exit codes (an unknown one is a failure):\n{}", rows.join("\n"))
    }
}

/// Why a command failed, as a person needs it. Each part has any number of lines but `what`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub code: Exit,
    /// What failed, on what.
    pub what: String,
    /// Why.
    pub why: Vec<String>,
    /// What state things are in.
    pub state: Vec<String>,
    /// What to do next: commands that work when pasted.
    pub next: Vec<String>,
}

impl Failure {
    /// A failure of which only `what` is known.
    pub fn new(code: Exit, what: impl Into<String>) -> Self {
        Self { code, what: what.into(), why: vec![], state: vec![], next: vec![] }
    }

    /// Adds a line on why.
    pub fn why(mut self, line: impl Into<String>) -> Self {
        self.why.push(line.into());
        self
    }

    /// Adds a line on the state things are in.
    pub fn state(mut self, line: impl Into<String>) -> Self {
        self.state.push(line.into());
        self
    }

    /// Adds a line on what to do.
    pub fn next(mut self, line: impl Into<String>) -> Self {
        self.next.push(line.into());
        self
    }

    /// For `map_err`: a file operation failed. `doing` as in "cannot write".
    pub fn io(doing: &str, path: impl AsRef<std::path::Path>) -> impl FnOnce(io::Error) -> Self {
        let what = format!("{doing} {}", crate::ui::path_text(path.as_ref()));
        move |error| Self::new(io_exit(&error), what).why(error.to_string())
    }

    /// For `map_err`: says in `what` what was being done, and moves the former `what` to `why`.
    pub fn when<E: Into<Self>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |error| {
            let mut failure = error.into();
            failure.why.insert(0, std::mem::replace(&mut failure.what, what));
            failure
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        let parts = [("why", &self.why), ("state", &self.state), ("next", &self.next)];
        for (label, lines) in parts {
            for (i, line) in lines.iter().enumerate() {
                write!(f, "\n  {:<6} {line}", if i == 0 { label } else { "" })?;
            }
        }
        Ok(())
    }
}

fn io_exit(error: &io::Error) -> Exit {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => NoSpace,
        _ => Failed,
    }
}

impl From<server::Error> for Failure {
    fn from(error: server::Error) -> Self {
        Self::from(&error)
    }
}

impl From<&server::Error> for Failure {
    fn from(error: &server::Error) -> Self {
        use server::Error as E;
        let what = error.to_string();
        match error {
            E::Unreachable { service, .. } if is_coordinator(service) => {
                Self::new(CoordinatorUnreachable, what).next(
                    "start it (`arc serve coordinator`), or check its address and the network",
                )
            }
            E::Unreachable { .. } => {
                Self::new(TooFewServers, what).next("arc servers    # which servers are up")
            }
            E::Untrusted { service, .. } if is_coordinator(service) => Self::new(WrongKey, what)
                .state("nothing was sent there")
                .next("check that this is the coordinator's address")
                .next(
                    "arc init URL --token-file F    # with its present owner.token, where it was \
                     made anew or has another certificate",
                ),
            E::Untrusted { .. } => Self::new(WrongKey, what).state("nothing was sent there").next(
                "see that server's log: it gets a certificate when it reaches the coordinator",
            ),
            E::Refused { refusal, .. } | E::Refuse(refusal) => of_refusal(refusal.code, what),
            E::Io { source, .. } => Self::new(io_exit(source), what),
            E::Codec(error) => error.into(),
            E::Nonsense { .. } => {
                Self::new(Failed, what).next("check that this is the address of an arc service")
            }
            E::Catalog(error) if is_full(error) => {
                Self::new(NoSpace, what).next("make room on the disk with the coordinator's folder")
            }
            E::Catalog(_) | E::Config(_) => Self::new(Failed, what),
        }
    }
}

fn is_coordinator(service: &str) -> bool {
    service.starts_with("coordinator")
}

fn is_full(error: &impl fmt::Display) -> bool {
    error.to_string().contains("database or disk is full")
}

fn of_refusal(code: Code, what: String) -> Failure {
    match code {
        Code::Unauthorized | Code::Expired => Failure::new(WrongKey, what)
            .next("arc init URL --token-file F    # with a token of this coordinator"),
        Code::Forbidden => Failure::new(WrongKey, what)
            .next("use the owner token: DIR/owner.token on the coordinator's machine"),
        Code::NoVault => Failure::new(NoVault, what)
            .next("arc init URL --token-file F --code 4+2    # makes the vault"),
        Code::NotFound => Failure::new(NoSnapshot, what).next("arc snapshots    # what there is"),
        Code::NoSpace => Failure::new(NoSpace, what)
            .state("what was stored before stays; the next run goes on from there")
            .next("arc servers    # how full each one is"),
        Code::TooFewServers => Failure::new(TooFewServers, what)
            .state("nothing new was committed; what is stored already is used by the next run")
            .next("arc servers    # which servers are up")
            .next("arc push --wait-servers 30m …    # waits for them"),
        Code::LeaseOver => Failure::new(LockTimeout, what)
            .state("what was committed before stays")
            .next("run the same push again"),
        Code::Busy => Failure::new(Limit, what).next("run the same command again in a while"),
        Code::NotReady => Failure::new(CoordinatorUnreachable, what)
            .next("run the same command again in a few seconds"),
        Code::Protocol => Failure::new(Failed, what),
        Code::VaultExists => Failure::new(Failed, what)
            .next("arc init URL --token-file F    # connects to the vault that is there"),
        Code::NameTaken => Failure::new(Failed, what)
            .next("mount its disk, or give a new server another name: --name NAME")
            .next("arc servers replace NAME    # gives it up, if its disk is gone"),
        Code::Damaged => {
            Failure::new(Repairable, what).next("arc verify    # finds what is damaged")
        }
        Code::BadReceipt => {
            Failure::new(Failed, what).next("look at that server, it is not to be trusted as it is")
        }
        Code::CatalogOld => Failure::new(WrongKey, what)
            .state("nothing was changed; what is stored already is used by the next run")
            .next(
                "arc catalog rebuild --merge    # without --merge where the catalog was made anew",
            ),
        Code::StaleEpoch => Failure::new(Failed, what).next("run the same command again"),
        Code::Conflict | Code::BadRequest | Code::TooLarge => Failure::new(Failed, what),
        Code::Internal => Failure::new(Failed, what).next("see the log of that service"),
    }
}

impl From<codec::Error> for Failure {
    fn from(error: codec::Error) -> Self {
        Self::from(&error)
    }
}

impl From<&codec::Error> for Failure {
    fn from(error: &codec::Error) -> Self {
        use codec::Error as E;
        let what = error.to_string();
        match error {
            E::Key { .. } => Self::new(WrongKey, what).next(
                "check ARC_PASSPHRASE, ARC_PASSPHRASE_FILE, ARC_PASSPHRASE_COMMAND or --key-file",
            ),
            E::Damaged { .. } | E::Bound { .. } | E::Foreign => {
                Self::new(Repairable, what).next("arc verify    # finds what is damaged")
            }
            E::TooFewShards { .. } => {
                Self::new(TooFewServers, what).next("arc servers    # which servers are up")
            }
            E::Version { .. } => Self::new(Failed, what).next("upgrade arc on this machine"),
            E::Geometry(_) => Self::new(Usage, what).next("give a code such as --code 4+2"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use server::wire::Refusal;

    #[test]
    fn the_worst_code_is_the_first_of_the_documented_order() {
        let documented = [2, 10, 14, 5, 6, 15, 12, 13, 11, 7, 4, 3, 8, 1, 9];
        let order: Vec<u8> = Exit::ORDER.iter().map(|e| e.code()).collect();
        assert_eq!(order[2..17], documented);
        assert_eq!(Exit::worst(&[Repairable, Lost, Failed]), Lost);
        assert_eq!(Exit::worst(&[Done, SourcesIncomplete, BelowTarget]), BelowTarget);
        assert_eq!(Exit::worst(&[]), Done);
        for exit in Exit::ALL {
            assert_eq!(Exit::worst(&[Done, exit]), exit);
        }
    }

    #[test]
    fn help_names_every_code() {
        let help = Exit::help();
        for exit in Exit::ALL {
            assert!(help.contains(&format!("{:>3}  {}", exit.code(), exit.text())));
        }
    }

    #[test]
    fn a_failure_is_told_as_what_why_state_next() {
        let failure = Failure::new(TooFewServers, "only 3 of 6 storage servers answered")
            .why("c, e, f refused connections")
            .state("nothing was committed")
            .next("arc status")
            .next("arc push --wait-servers 30m");
        assert_eq!(
            failure.to_string(),
            "only 3 of 6 storage servers answered\n  \
             why    c, e, f refused connections\n  \
             state  nothing was committed\n  \
             next   arc status\n         arc push --wait-servers 30m"
        );
    }

    #[test]
    fn codes_of_services_become_exit_codes() {
        let exit = |code| {
            let refusal = Refusal::new(code, "no");
            Failure::from(server::Error::Refuse(refusal)).code
        };
        assert_eq!(exit(Code::NoSpace), NoSpace);
        assert_eq!(exit(Code::LeaseOver), LockTimeout);
        assert_eq!(exit(Code::Unauthorized), WrongKey);
        assert_eq!(exit(Code::TooFewServers), TooFewServers);
        assert_eq!(exit(Code::NoVault), NoVault);
        let away = |service: &str| server::Error::Unreachable {
            service: service.into(),
            why: "connection refused".into(),
        };
        assert_eq!(Failure::from(away("coordinator http://x")).code, CoordinatorUnreachable);
        assert_eq!(Failure::from(away("a http://x")).code, TooFewServers);
        for service in ["coordinator https://x", "a https://x"] {
            let (service, why) = (service.into(), "another CA".into());
            assert_eq!(Failure::from(server::Error::Untrusted { service, why }).code, WrongKey);
        }
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert_eq!(Failure::io("cannot write", "/x")(full).code, NoSpace);
    }
}
