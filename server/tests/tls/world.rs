//! A coordinator and a storage server in folders of their own, started and stopped at will.

use std::path::{Path, PathBuf};
use std::time::Duration;

use arc_server::auth::Token;
use arc_server::client::CoordinatorClient;
use arc_server::coordinator::{self, Coordinator, Timings};
use arc_server::serve::{Listen, Transport};
use arc_server::storage::{self, Limits, Storage};
use arc_server::tls::{OwnCertificate, Trust};
use arc_server::wire::{PageQuery, State, Weight};
use arc_server::{Error, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use reqwest::tls::TlsInfo;
use tempfile::TempDir;

/// Plenty for a busy machine; nothing waits this long unless it fails.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct World {
    dir: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        Self { dir: TempDir::new().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A coordinator that probes fast.
    pub(crate) fn coordinator_config(&self, transport: Transport) -> coordinator::Config {
        coordinator::Config {
            data: self.path("coordinator"),
            listen: listen(transport),
            advertise: None,
            timings: Timings {
                probe_every: Duration::from_millis(20),
                probe_timeout: Duration::from_secs(5),
                good: 1,
                drain: Duration::from_secs(5),
                ..Timings::default()
            },
            fail_at: None,
        }
    }

    pub(crate) async fn coordinator(&self, transport: Transport) -> Coordinator {
        coordinator::start(self.coordinator_config(transport)).await.unwrap()
    }

    /// A server with a token.
    pub(crate) fn storage_config(
        &self,
        coordinator: &Coordinator,
        transport: Transport,
    ) -> storage::Config {
        storage::Config {
            data: self.path("server"),
            listen: listen(transport),
            coordinator: coordinator.running.url(),
            join_token: Some(coordinator.join.clone()),
            name: Some("a".into()),
            zone: Some("z".into()),
            advertise: None,
            weight: Weight::ONE,
            reserve_bytes: Some(0),
            drain: Duration::from_secs(5),
            limits: Limits::default(),
            scrub: storage::ScrubRules::default(),
            fault: None,
            fail_at: None,
        }
    }

    pub(crate) async fn storage(&self, coordinator: &Coordinator, transport: Transport) -> Storage {
        storage::start(self.storage_config(coordinator, transport)).await.unwrap()
    }

    /// A certificate that signed itself, as `openssl req -x509` makes them.
    pub(crate) fn self_signed(&self, name: &str) -> OwnCertificate {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let chain = pem("CERTIFICATE", params.self_signed(&key).unwrap().der());
        self.write_own(name, chain, &key)
    }

    /// A certificate for loopback, with the CA that signed it.
    pub(crate) fn own_certificate(&self, name: &str) -> OwnCertificate {
        let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = ca.self_signed(&ca_key).unwrap();
        let leaf = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
        let chain = pem("CERTIFICATE", leaf.der()) + &pem("CERTIFICATE", root.der());
        self.write_own(name, chain, &key)
    }

    fn write_own(&self, name: &str, chain: String, key: &KeyPair) -> OwnCertificate {
        let write = |path: PathBuf, text: String| {
            std::fs::write(&path, text).unwrap();
            path
        };
        OwnCertificate {
            chain: write(self.path(&format!("{name}.pem")), chain),
            key: write(self.path(&format!("{name}.key")), pem("PRIVATE KEY", key.serialized_der())),
        }
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", BASE64.encode(der))
}

pub(crate) fn listen(transport: Transport) -> Listen {
    Listen { address: ([127, 0, 0, 1], 0).into(), transport }
}

/// A client with that token, which does not try twice.
pub(crate) fn client(url: &str, token: &Token) -> CoordinatorClient {
    let client = CoordinatorClient::new(url, &token.secret, &Trust::of(token).unwrap()).unwrap();
    client.with_patience(Duration::ZERO)
}

/// The coordinator's owner.
pub(crate) fn owner(coordinator: &Coordinator) -> CoordinatorClient {
    client(&coordinator.running.url(), &coordinator.owner)
}

/// Waits until the one server is in that state; its URL.
pub(crate) async fn state_becomes(coordinator: &Coordinator, state: State) -> String {
    let owner = owner(coordinator);
    let reached = async {
        loop {
            let page = owner.servers(&PageQuery::default()).await.unwrap();
            if let Some(row) = page.rows.into_iter().find(|row| row.state == state) {
                return row.url;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("never {state:?}"))
}

/// The certificate that is shown there now.
pub(crate) async fn shown(url: &str) -> Vec<u8> {
    arc_server::tls::install_provider();
    let anybody = reqwest::Client::builder()
        .no_proxy()
        .tls_danger_accept_invalid_certs(true)
        .tls_info(true)
        .build()
        .unwrap();
    let response = anybody.get(url).send().await.unwrap();
    let info: &TlsInfo = response.extensions().get().unwrap();
    info.peer_certificate().unwrap().to_vec()
}

/// Waits until another certificate than `before` is shown there.
pub(crate) async fn shows_another(url: &str, before: &[u8]) -> Vec<u8> {
    let changed = async {
        loop {
            let now = shown(url).await;
            if now != before {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, changed).await.expect("no other certificate came")
}

/// Why something is not trusted.
#[track_caller]
pub(crate) fn distrust<T>(result: Result<T>) -> String {
    match result {
        Err(error @ Error::Untrusted { .. }) => error.to_string(),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it was trusted"),
    }
}

pub(crate) fn read_json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}
