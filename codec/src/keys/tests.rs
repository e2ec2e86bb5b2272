use proptest::prelude::*;

use super::*;
use crate::seal::tests::damage;
use crate::{Error, Geometry, Result, VaultId};

const VAULT: VaultId = VaultId([7; 16]);
const TINY: Argon2Cost = Argon2Cost { memory_kib: 8, passes: 1, lanes: 1 };

fn passphrase(words: &str) -> Secret {
    Secret::Passphrase(Zeroizing::new(words.into()))
}

fn key_file(byte: u8, bytes: usize) -> Secret {
    Secret::KeyFile(Zeroizing::new(vec![byte; bytes]))
}

fn random() -> VaultRandom {
    VaultRandom {
        master: [1; 32],
        salt: [2; 32],
        nonce: [3; 12],
        private_key: [4; 32],
        private_nonce: [5; 12],
    }
}

fn geometry() -> Geometry {
    Geometry::new(4, 2).unwrap()
}

fn create(secret: &Secret) -> Result<(VaultRecord, VaultKeys)> {
    VaultRecord::create(VAULT, geometry(), secret, TINY, random())
}

fn keys(master: u8) -> VaultKeys {
    VaultKeys::derive(MasterKey::new([master; 32]))
}

fn closed() -> Error {
    Error::Key { what: "the vault" }
}

#[test]
fn chunk_ids_are_hmac_sha_256() {
    let subkey = [0xab; 32];
    let reference = hmac::Key::new(hmac::HMAC_SHA256, &subkey);
    for bytes in [0, 1, 55, 56, 64, 1000] {
        let plaintext = vec![3; bytes];
        let id = ChunkIdKey::new(&subkey).of(&plaintext);
        assert_eq!(id.as_bytes(), hmac::sign(&reference, &plaintext).as_ref());
    }
}

#[test]
fn what_follows_from_a_master_key_stays_what_it_is() {
    let keys = keys(1);
    assert_eq!(format!("{:.16}", keys.chunk_id(b"chunk")), "32cecd88bd5d1a59");
    assert_eq!(keys.chunker_seed(), 0x2259_3881_e9c8_3d5b);
    assert_eq!(format!("{:.16}", keys.source_set("host", &[b"a".to_vec()])), "eb9c42aab6568923");
}

#[test]
fn another_master_key_changes_everything_derived() {
    let (a, b) = (keys(1), keys(2));
    assert_ne!(a.chunk_id(b"chunk"), b.chunk_id(b"chunk"));
    assert_ne!(a.chunker_seed(), b.chunker_seed());
    assert_ne!(a.source_set("host", &[]), b.source_set("host", &[]));
}

#[test]
fn source_sets_do_not_run_together() {
    let set = |host: &str, sources: &[&str]| {
        let sources: Vec<_> = sources.iter().map(|source| source.as_bytes().to_vec()).collect();
        keys(1).source_set(host, &sources)
    };
    assert_eq!(set("host", &["home", "etc"]), set("host", &["home", "etc"]));
    assert_ne!(set("host", &["home", "etc"]), set("host", &["homeetc"]));
    assert_ne!(set("host", &["home"]), set("hosth", &["ome"]));
    assert_ne!(set("host", &["home"]), set("host", &["home", ""]));
}

#[test]
fn keys_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + Clone>() {}
    shared::<VaultKeys>();
}

#[test]
fn keys_and_secrets_do_not_show_themselves() {
    assert_eq!(format!("{:?}", MasterKey::new([171; 32])), "MasterKey { .. }");
    assert_eq!(format!("{:?}", keys(1)), "VaultKeys { .. }");
    assert_eq!(format!("{:?}", passphrase("correct")), "Secret { .. }");
    assert_eq!(format!("{:?}", random()), "VaultRandom { .. }");
}

#[test]
fn a_vault_opens_with_its_passphrase_only() {
    let (record, keys) = create(&passphrase("correct horse battery staple")).unwrap();
    let unlocked = record.unlock(&passphrase("correct horse battery staple")).unwrap();
    assert_eq!(unlocked.chunk_id(b"chunk"), keys.chunk_id(b"chunk"));
    assert_eq!(record.unlock(&passphrase("correct horse")).unwrap_err(), closed());
    assert_eq!(record.unlock(&key_file(1, 32)).unwrap_err(), closed());
}

#[test]
fn a_vault_opens_with_its_key_file_only() {
    let (record, keys) = create(&key_file(1, 32)).unwrap();
    let unlocked = record.unlock(&key_file(1, 32)).unwrap();
    assert_eq!(unlocked.chunker_seed(), keys.chunker_seed());
    assert_eq!(record.unlock(&key_file(1, 33)).unwrap_err(), closed());
    assert_eq!(record.unlock(&key_file(2, 32)).unwrap_err(), closed());
    assert_eq!(record.unlock(&passphrase("correct")).unwrap_err(), closed());
}

#[test]
fn a_short_key_file_is_refused() {
    assert!(create(&key_file(1, KEY_FILE_BYTES_MIN - 1)).is_err());
    let (record, _) = create(&key_file(1, KEY_FILE_BYTES_MIN)).unwrap();
    let error = record.unlock(&key_file(1, KEY_FILE_BYTES_MIN - 1)).unwrap_err();
    assert!(matches!(error, Error::Damaged { what: "key file", .. }), "{error}");
}

#[test]
fn every_slot_opens_the_vault() {
    let (mut record, keys) = create(&passphrase("first")).unwrap();
    record.add_slot(&keys, &passphrase("second"), TINY, [8; 32], [9; 12]).unwrap();
    record.add_slot(&keys, &key_file(3, 40), TINY, [8; 32], [9; 12]).unwrap();
    let record = VaultRecord::decode(&record.encode()).unwrap();
    assert_eq!(record.generation, 3);
    for secret in [passphrase("first"), passphrase("second"), key_file(3, 40)] {
        assert_eq!(record.unlock(&secret).unwrap().chunker_seed(), keys.chunker_seed());
    }
    assert_eq!(record.unlock(&passphrase("third")).unwrap_err(), closed());
}

#[test]
fn a_recovery_key_opens_the_vault_until_another_takes_its_place() {
    let (mut record, keys) = create(&passphrase("first")).unwrap();
    assert!(!record.has_recovery_key());
    let opens = |record: &VaultRecord, byte: u8| {
        record.unlock(&Secret::RecoveryKey(RecoveryKey::new([byte; 32]))).is_ok()
    };
    record.set_recovery_key(&keys, RecoveryKey::new([1; 32]), [8; 32], [9; 12]).unwrap();
    record.add_slot(&keys, &key_file(3, 40), TINY, [8; 32], [9; 12]).unwrap();
    let first = VaultRecord::decode(&record.encode()).unwrap();
    assert_eq!((first.has_recovery_key(), first.generation), (true, 3));
    assert!(opens(&first, 1) && !opens(&first, 2));
    record.set_recovery_key(&keys, RecoveryKey::new([2; 32]), [6; 32], [7; 12]).unwrap();
    let second = VaultRecord::decode(&record.encode()).unwrap();
    assert_eq!(second.generation, 4);
    assert!(opens(&second, 2) && !opens(&second, 1));
    for secret in [passphrase("first"), key_file(3, 40)] {
        assert!(second.unlock(&secret).is_ok());
    }
    let other = self::keys(2);
    let key = RecoveryKey::new([3; 32]);
    assert!(record.set_recovery_key(&other, key, [6; 32], [7; 12]).is_err());
    assert_eq!(record, second);
}

#[test]
fn a_vault_has_at_most_16_slots() {
    let (mut record, keys) = create(&passphrase("first")).unwrap();
    let add =
        |record: &mut VaultRecord| record.add_slot(&keys, &key_file(1, 32), TINY, [8; 32], [9; 12]);
    for _ in 1..SLOTS_MAX {
        add(&mut record).unwrap();
    }
    let full = record.clone();
    assert!(matches!(add(&mut record), Err(Error::Bound { limit: 16, .. })));
    assert_eq!(record, full);
    assert_eq!(VaultRecord::decode(&full.encode()).unwrap(), full);
}

#[test]
fn the_key_of_another_vault_adds_no_slot() {
    let (mut record, _) = create(&passphrase("first")).unwrap();
    assert!(record.add_slot(&keys(2), &key_file(1, 32), TINY, [8; 32], [9; 12]).is_err());
}

#[test]
fn the_encryption_key_pair_belongs_together() {
    let (record, keys) = create(&passphrase("first")).unwrap();
    assert_eq!(*record.private_key(&keys).unwrap(), [4; 32]);
    let pair =
        aws_lc_rs::agreement::PrivateKey::from_private_key(&aws_lc_rs::agreement::X25519, &[4; 32]);
    assert_eq!(pair.unwrap().compute_public_key().unwrap().as_ref(), record.public_key());
    assert!(record.private_key(&self::keys(2)).is_err());
}

#[test]
fn the_right_secret_tells_a_changed_record() {
    let (record, _) = create(&passphrase("first")).unwrap();
    let (mut newer, mut wider) = (record.clone(), record);
    newer.generation = 9;
    wider.geometry = Geometry::new(5, 2).unwrap();
    for record in [newer, wider] {
        let record = VaultRecord::decode(&record.encode()).unwrap();
        let error = record.unlock(&passphrase("first")).unwrap_err();
        assert!(matches!(error, Error::Damaged { what: "vault record", .. }), "{error}");
        assert_eq!(record.unlock(&passphrase("second")).unwrap_err(), closed());
    }
}

#[test]
fn argon2_costs_out_of_bounds_are_refused_in_new_records() {
    let cost = |memory_kib, passes, lanes| Argon2Cost { memory_kib, passes, lanes };
    for cost in [
        cost(7, 1, 1),
        cost(15, 1, 2),
        cost(1024 * 1024 + 1, 1, 1),
        cost(u32::MAX, 1, 1),
        cost(8, 0, 1),
        cost(8, 17, 1),
        cost(8, 1, 0),
        cost(1024, 1, 9),
        cost(1024, 1, u32::MAX),
    ] {
        let made = VaultRecord::create(VAULT, geometry(), &passphrase("first"), cost, random());
        assert!(made.is_err(), "{cost:?}");
    }
}

/// The encoding of a record with one CBOR number replaced: what follows the text `field`.
fn with_number(field: &str, number: u32) -> Vec<u8> {
    let bytes = create(&passphrase("first")).unwrap().0.encode();
    let at = bytes.windows(field.len()).position(|text| text == field.as_bytes()).unwrap();
    let (before, after) = bytes.split_at(at + field.len());
    let mut out = before.to_vec();
    ciborium::into_writer(&number, &mut out).unwrap();
    out.extend_from_slice(&after[1..]);
    out
}

#[test]
fn argon2_costs_out_of_bounds_are_refused_in_records_from_outside() {
    assert!(VaultRecord::decode(&with_number("memory_kib", 9)).is_ok());
    for (field, number) in [
        ("memory_kib", 7),
        ("memory_kib", 1024 * 1024 + 1),
        ("passes", 0),
        ("passes", 17),
        ("lanes", 0),
        ("lanes", 9),
    ] {
        assert!(VaultRecord::decode(&with_number(field, number)).is_err(), "{field} {number}");
    }
}

#[test]
fn a_newer_version_is_named_as_such() {
    let error = VaultRecord::decode(&with_number("version", 9)).unwrap_err();
    assert!(matches!(error, Error::Version { found: 9, .. }), "{error}");
}

#[test]
fn a_number_in_a_longer_form_is_refused() {
    let bytes = create(&passphrase("first")).unwrap().0.encode();
    let at = bytes.windows(10).position(|text| text == b"generation").unwrap() + 10;
    assert_eq!(bytes[at], 1);
    let longer = [&bytes[..at], &[0x18, 1], &bytes[at + 1..]].concat();
    let error = VaultRecord::decode(&longer).unwrap_err();
    assert!(error.to_string().contains("canonical"), "{error}");
}

#[test]
fn a_long_record_is_refused_by_its_length() {
    let error = VaultRecord::decode(&vec![0; VAULT_RECORD_BYTES_MAX + 1]).unwrap_err();
    assert!(matches!(error, Error::Bound { .. }), "{error}");
}

#[test]
fn the_bytes_of_a_record_stay_what_they_are() {
    let (record, _) = create(&passphrase("correct horse battery staple")).unwrap();
    assert_eq!(
        blake3::hash(&record.encode()).to_hex().as_str(),
        "64694960cb8d186f13c1bb696e3840c9faaeaad6062b7ce95a30496706a79058"
    );
}

proptest! {
    #[test]
    fn records_round_trip(k in 1..200u8, m in 1..50u8, master: [u8; 32], salt: [u8; 32]) {
        let geometry = Geometry::new(k, m).unwrap();
        let random = VaultRandom { master, salt, ..random() };
        let (record, _) =
            VaultRecord::create(VAULT, geometry, &passphrase("first"), TINY, random).unwrap();
        let read = VaultRecord::decode(&record.encode()).unwrap();
        prop_assert_eq!(&read, &record);
        prop_assert!(read.unlock(&passphrase("first")).is_ok());
    }

    #[test]
    fn damage_to_a_record_is_noticed(damage in damage()) {
        let (record, _) = create(&key_file(1, 32)).unwrap();
        if let Some(bytes) = damage.apply(&record.encode()) {
            let unlocked = VaultRecord::decode(&bytes).and_then(|r| r.unlock(&key_file(1, 32)));
            prop_assert!(unlocked.is_err());
        }
    }

    #[test]
    fn any_bytes_may_come_as_a_record(bytes: Vec<u8>) {
        prop_assert!(VaultRecord::decode(&bytes).is_err());
    }
}
