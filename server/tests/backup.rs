//! A coordinator that backs itself up onto real storage servers.

// Clippy knows test functions, not the helpers beside them.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use arc_server::client::CoordinatorClient;
use arc_server::coordinator::{self, Coordinator, Timings};
use arc_server::serve::{Listen, Transport};
use arc_server::storage::{self, Limits, ScrubRules, Storage};
use arc_server::tls::Trust;
use arc_server::wire::{BackupStatus, StatusQuery, Weight};
use codec::keys::{Argon2Cost, Secret, VaultRandom, VaultRecord};
use codec::seal::{PackKey, PackKeyField};
use codec::{Geometry, VaultId};
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256 as REFERENCE;
use rustls::crypto::hpke::{Hpke as _, HpkePublicKey};

/// Plenty for a busy machine; nothing waits this long unless it fails.
const PATIENCE: Duration = Duration::from_secs(60);
const EVERY: Duration = Duration::from_millis(50);

fn listen() -> Listen {
    Listen { address: ([127, 0, 0, 1], 0).into(), transport: Transport::Usual }
}

async fn coordinator(dir: &Path, backup_every: Duration) -> Coordinator {
    coordinator_at(dir, backup_every, listen().address).await
}

async fn coordinator_at(dir: &Path, backup_every: Duration, address: SocketAddr) -> Coordinator {
    let timings = Timings {
        probe_every: Duration::from_millis(20),
        probe_timeout: Duration::from_secs(5),
        good: 1,
        repair_every: Duration::ZERO,
        audit_every: Duration::ZERO,
        backup_every,
        drain: Duration::from_secs(5),
        ..Timings::default()
    };
    let data = dir.join("coordinator");
    let listen = Listen { address, transport: Transport::Usual };
    let config = coordinator::Config { data, listen, advertise: None, timings, fail_at: None };
    coordinator::start(config).await.unwrap()
}

async fn storage(dir: &Path, coordinator: &Coordinator, name: &str) -> Storage {
    let config = storage::Config {
        data: dir.join(name),
        listen: listen(),
        coordinator: coordinator.running.url(),
        join_token: Some(coordinator.join.clone()),
        name: Some(name.into()),
        zone: Some(name.into()),
        advertise: None,
        reserve_bytes: Some(0),
        drain: Duration::from_secs(5),
        limits: Limits::default(),
        scrub: ScrubRules::default(),
        fault: None,
        fail_at: None,
        weight: Weight::ONE,
    };
    storage::start(config).await.unwrap()
}

fn client(coordinator: &Coordinator) -> CoordinatorClient {
    let owner = &coordinator.owner;
    CoordinatorClient::new(&coordinator.running.url(), &owner.secret, &Trust::none()).unwrap()
}

fn record(vault: VaultId) -> (VaultRecord, codec::keys::VaultKeys) {
    let random = VaultRandom {
        master: [1; 32],
        salt: [2; 32],
        nonce: [3; 12],
        private_key: [4; 32],
        private_nonce: [5; 12],
    };
    let cost = Argon2Cost { memory_kib: 8, passes: 1, lanes: 1 };
    let secret = Secret::KeyFile(vec![9; 32].into());
    VaultRecord::create(vault, Geometry::new(2, 1).unwrap(), &secret, cost, random).unwrap()
}

async fn until(client: &CoordinatorClient, is: impl Fn(&BackupStatus) -> bool) -> BackupStatus {
    let reached = async {
        loop {
            let status = client.backup().await.unwrap();
            if is(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_made_when_something_changed_and_outlives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let first = coordinator(dir.path(), EVERY).await;
    let asking = client(&first);
    let mut servers = Vec::new();
    for name in ["a", "b", "c"] {
        servers.push(storage(dir.path(), &first, name).await);
    }
    // Without a vault there is no key to seal it to.
    let begun = asking.begin_backup().await.unwrap();
    let failed = until(&asking, |status| status.ended >= begun.run).await;
    assert_eq!(failed.failed.as_deref(), Some("there is no vault yet"));
    assert_eq!(failed.last, None);
    let (record, _) = record(asking.vault().await.unwrap().vault);
    asking.put_vault(record.encode()).await.unwrap();
    let made = until(&asking, |status| status.last.is_some() && !status.running).await;
    let last = made.last.clone().unwrap();
    assert!(made.failed.is_none() && last.stripes >= 2 && last.bytes > 0, "{made:?}");
    let status = asking.status(StatusQuery::default()).await.unwrap();
    assert_eq!((status.stripes, status.leases, status.leftover_shards), (last.stripes, 0, 0));
    assert_eq!(status.stripes_below_target, 0);

    // Nothing has changed: however long it waits, there is no other.
    let later_ms = made.now_ms + 10 * EVERY.as_millis() as u64;
    let later = until(&asking, |status| status.now_ms > later_ms).await;
    assert_eq!((later.ended, later.last), (made.ended, made.last));
    servers.push(storage(dir.path(), &first, "d").await);
    let changed = until(&asking, |status| status.last.as_ref() != Some(&last)).await;
    first.stop().await;

    let second = coordinator(dir.path(), Duration::ZERO).await;
    let asking = client(&second);
    let kept = asking.backup().await.unwrap();
    assert_eq!((kept.last, kept.ended, kept.running), (changed.last, 0, false));
    second.stop().await;
    for server in servers {
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn seven_backups_are_kept_and_older_ones_trashed() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = coordinator(dir.path(), Duration::ZERO).await;
    let asking = client(&coordinator);
    let mut servers = Vec::new();
    for name in ["a", "b", "c"] {
        servers.push(storage(dir.path(), &coordinator, name).await);
    }
    let (record, _) = record(asking.vault().await.unwrap().vault);
    asking.put_vault(record.encode()).await.unwrap();
    for _ in 0..9 {
        let begun = asking.begin_backup().await.unwrap();
        let ended = until(&asking, |status| status.ended >= begun.run).await;
        assert_eq!(ended.failed, None);
    }
    let status = asking.status(StatusQuery::default()).await.unwrap();
    let stripes = status.backup.last.unwrap().stripes;
    assert_eq!(status.stripes, 7 * stripes);
    assert_eq!(held(dir.path()), 9 * stripes * 2, "copies on two servers each");
    // What was struck out stays for a while, or until a start; then it goes with the next backup.
    let url = coordinator.running.url();
    let address = url.split_once("://").unwrap().1.parse().unwrap();
    coordinator.stop().await;
    let coordinator = coordinator_at(dir.path(), Duration::ZERO, address).await;
    let asking = client(&coordinator);
    let begun = asking.begin_backup().await.unwrap();
    let ended = until(&asking, |status| status.ended >= begun.run).await;
    assert_eq!(ended.failed, None);
    assert_eq!(held(dir.path()), 8 * stripes * 2);
    coordinator.stop().await;
    for server in servers {
        server.stop().await;
    }
}

/// Shard files of all servers.
fn held(dir: &Path) -> u64 {
    let count = |name: &str| {
        let folders = dir.join(name).join("shards").read_dir().unwrap();
        folders.map(|folder| folder.unwrap().path().read_dir().unwrap().count()).sum::<usize>()
    };
    ["a", "b", "c"].iter().map(|name| count(name) as u64).sum()
}

#[test]
fn slot_2_is_hpke_as_others_do_it() {
    let vault = VaultId([7; 16]);
    let (record, keys) = record(vault);
    let info = [b"arc v0 pack key", vault.as_bytes().as_slice()].concat();
    // What another implementation seals, opens here.
    let public = HpkePublicKey(record.public_key().to_vec());
    let (sent, sealed) = REFERENCE.seal(&info, &[], &[5; 32], &public).unwrap();
    let field = PackKeyField([&[2, 0, 0, 0], sent.0.as_slice(), &sealed].concat());
    let mut frame = b"plaintext".to_vec();
    let kind = codec::seal::FrameKind::Record;
    PackKey::new([5; 32]).seal(vault, kind, 0, &mut frame);
    let opened = PackKey::unwrap_from_anyone(&field, &keys, vault).unwrap();
    assert_eq!(opened.open(vault, kind, 0, &mut frame).unwrap(), b"plaintext");
    // And the other way round.
    let field = PackKey::new([6; 32]).seal_to(record.public_key(), vault, [8; 32].into()).unwrap();
    let (sent, sealed) = field.0[4..].split_at(32);
    let sent = rustls::crypto::hpke::EncapsulatedSecret(sent.to_vec());
    let private = record.private_key(&keys).unwrap().to_vec().into();
    assert_eq!(REFERENCE.open(&sent, &info, &[], sealed, &private).unwrap(), [6; 32]);
}
