//! Servers: how they join, say that they are back, and how they are doing.

use codec::{Digest, VaultId};
use serde::{Deserialize, Serialize};

use super::{Blob, ScrubGlance, ServerId, Weight};

/// `POST /v1/join`, with the join token: a storage server's first start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The name people know it by, unique in the vault.
    pub name: String,
    /// Its failure domain.
    pub zone: String,
    /// Where clients and the coordinator reach it.
    pub url: String,
    /// Bytes of its disk.
    pub capacity_bytes: u64,
    /// Bytes free on its disk.
    pub free_bytes: u64,
    /// What its capacity counts for.
    #[serde(default, skip_serializing_if = "Weight::is_one")]
    pub weight: Weight,
}

/// What a server keeps of its join.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JoinAnswer {
    /// Its number.
    pub server: ServerId,
    /// The vault it belongs to.
    pub vault: VaultId,
    /// The key that server and coordinator share (32 bytes): for receipts and hellos.
    pub shared_key: Blob,
    /// The coordinator's Ed25519 public key, which tickets are checked by.
    pub ticket_key: Blob,
}

/// `POST /v1/hello`: a server that joined before says that it is back, and where.
/// Authenticated by [`crate::auth::hello_mac`] in `mac`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hello {
    /// Its number.
    pub server: ServerId,
    /// Where it is reached now.
    pub url: String,
    /// How often it has started: a hello with a lower number than was seen is a replay.
    pub starts: u64,
    /// What it wants to speak TLS; builds from before that say nothing of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsWish>,
    /// What its capacity counts for from now on.
    #[serde(default, skip_serializing_if = "Weight::is_one")]
    pub weight: Weight,
    /// The MAC over the rest.
    pub mac: Blob,
}

/// What a server that says hello wants to speak TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsWish {
    /// The public key (a P-256 point, 65 bytes) to be certified for its URL; none where it needs
    /// no certificate.
    pub key: Option<Blob>,
}

/// What the coordinator gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsAnswer {
    /// Fingerprints of the CAs by which the vault's services are known.
    pub trust: Vec<Digest>,
    /// The certificate, if one was wanted.
    pub certificate: Option<Certificate>,
}

/// A certificate of the coordinator's CA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The certificate and the CA's, as DER.
    pub chain: Vec<Blob>,
    /// When it was made.
    pub issued_ms: u64,
    /// When it ends.
    pub ends_ms: u64,
}

impl Certificate {
    /// When another one is due: with a third of its time left.
    pub fn renew_ms(&self) -> u64 {
        let life_ms = self.ends_ms.saturating_sub(self.issued_ms);
        self.ends_ms.saturating_sub(life_ms / 3)
    }
}

/// The answer to a hello, authenticated by [`crate::auth::hello_answer_mac`] in `mac`: whoever
/// listens at the coordinator's address while it is away cannot give one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HelloAnswer {
    /// The coordinator's epoch.
    pub epoch: u64,
    /// The coordinator's time.
    pub now_ms: u64,
    /// The vault record, if there is one.
    pub record: Option<Blob>,
    /// What the server wanted for TLS, if it said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsAnswer>,
    /// The MAC over the hello's and the rest.
    pub mac: Blob,
}

/// How a server is doing, by the coordinator's probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Not probed since the coordinator started.
    Unknown,
    /// Answers.
    Up,
    /// Missed three probes: avoided.
    Suspect,
    /// Silent for longer; mostly it comes back, and what it holds is waited for.
    Down,
    /// Silent for the grace: what it held is repaired elsewhere.
    Lost,
    /// Answers again after it was down or lost; what it holds is compared first.
    Returned,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Unknown, Self::Up, Self::Suspect, Self::Down, Self::Lost, Self::Returned];

    /// Whether it was there or looked for, and does not answer.
    pub fn is_away(self) -> bool {
        match self {
            Self::Suspect | Self::Down | Self::Lost => true,
            Self::Unknown | Self::Up | Self::Returned => false,
        }
    }

    /// Whether new shards go there.
    pub fn takes_writes(self, mode: Mode) -> bool {
        (self, mode) == (Self::Up, Mode::Normal)
    }

    /// Whether a good shard there counts towards its stripe's target. One that does not may be
    /// read all the same.
    pub fn counts_as_holder(self, mode: Mode) -> bool {
        let is_here = match self {
            Self::Unknown | Self::Up | Self::Suspect | Self::Returned => true,
            Self::Down | Self::Lost => false,
        };
        is_here && mode != Mode::Draining
    }
}

/// What a person wants of a server, however it is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Everything.
    #[default]
    Normal,
    /// That what it holds moves elsewhere, so that it can be taken away.
    Draining,
    /// That it keeps what it holds and takes no more.
    ReadOnly,
}

/// `PUT /v1/servers/{id}/mode`
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct SetMode {
    /// What is wanted of the server from now on.
    pub mode: Mode,
}

/// `POST /v1/servers/{id}/replace`: the server is given up, so that a new one can join by its name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Replaced {
    /// The name that the former one has now.
    pub former: String,
}

/// That repair waits, since servers went together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Brake {
    /// Since when.
    pub since_ms: u64,
    /// Until when at most; it lifts when all of them are back.
    pub until_ms: u64,
    /// Zones that went as a whole.
    pub zones: Vec<String>,
    /// The names of the servers that are still away.
    pub servers: Vec<String>,
}

/// One row of `GET /v1/servers`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServerInfo {
    /// Its number.
    pub server: ServerId,
    /// Its name.
    pub name: String,
    /// Its failure domain.
    pub zone: String,
    /// Where it is.
    pub url: String,
    /// How it is doing.
    pub state: State,
    /// What is wanted of it.
    #[serde(default)]
    pub mode: Mode,
    /// When it last answered, if ever since the catalog was made.
    pub last_seen_ms: Option<u64>,
    /// Bytes of its disk.
    pub capacity_bytes: u64,
    /// Bytes free on its disk, as of its last answer.
    pub free_bytes: u64,
    /// Shards that the catalog has on it.
    pub shards: u64,
    /// Bytes of these.
    pub shard_bytes: u64,
    /// What its capacity counts for.
    #[serde(default)]
    pub weight: Weight,
    /// The share of all shards, from 0 to 1, that it should hold; none before there is a vault.
    #[serde(default)]
    pub share: Option<f64>,
    /// Where its scrub is, if it said so since the coordinator's start.
    #[serde(default)]
    pub scrub: Option<ScrubGlance>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_is_good_for_follows_from_state_and_mode() {
        let letters = |mode: Mode| -> String {
            let letter = |state: State| match (
                state.takes_writes(mode),
                state.counts_as_holder(mode),
                state.is_away(),
            ) {
                (true, true, false) => 'W',
                (false, true, false) => 'H',
                (false, true, true) => 'a',
                (false, false, true) => 'A',
                (false, false, false) => '-',
                other => panic!("{state:?}: {other:?}"),
            };
            State::ALL.map(letter).into_iter().collect()
        };
        assert_eq!(letters(Mode::Normal), "HWaAAH");
        assert_eq!(letters(Mode::ReadOnly), "HHaAAH");
        assert_eq!(letters(Mode::Draining), "--AAA-");
    }

    #[test]
    fn states_and_modes_have_stable_names() {
        let names = serde_json::to_string(&State::ALL).unwrap();
        assert_eq!(names, r#"["unknown","up","suspect","down","lost","returned"]"#);
        let names = serde_json::to_string(&[Mode::Normal, Mode::Draining, Mode::ReadOnly]).unwrap();
        assert_eq!(names, r#"["normal","draining","read-only"]"#);
    }
}
