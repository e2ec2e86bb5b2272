use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::Geometry;
use crate::keys::{Argon2Cost, MasterKey, Secret, VaultRandom, VaultRecord};

/// A change that storage may do to bytes.
#[derive(Debug, Clone)]
pub(crate) enum Damage {
    Flip(Index, u8),
    Cut(Index),
    Zero(Index, Index),
}

pub(crate) fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        3 => (any::<Index>(), 0..8u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        1 => any::<Index>().prop_map(Damage::Cut),
        1 => any::<(Index, Index)>().prop_map(|(a, b)| Damage::Zero(a, b)),
    ]
}

impl Damage {
    /// The changed bytes; `None` when nothing changes.
    pub(crate) fn apply(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut out = bytes.to_vec();
        match self {
            Self::Flip(at, bit) => out[at.index(bytes.len())] ^= 1 << bit,
            Self::Cut(at) => out.truncate(at.index(bytes.len())),
            Self::Zero(a, b) => {
                let (a, b) = (a.index(bytes.len()), b.index(bytes.len()));
                out[a.min(b)..=a.max(b)].fill(0);
            }
        }
        (out != bytes).then_some(out)
    }
}

const VAULT: VaultId = VaultId([7; 16]);

fn keys(master: u8) -> VaultKeys {
    VaultKeys::derive(MasterKey::new([master; 32]))
}

fn sealed(plaintext: &[u8]) -> Vec<u8> {
    let mut frame = plaintext.to_vec();
    PackKey::new([1; 32]).seal(VAULT, FrameKind::Data, 3, &mut frame);
    frame
}

#[test]
fn a_frame_opens_only_as_what_it_was_sealed() {
    let opens = |key: u8, vault: u8, kind, number| {
        let mut frame = sealed(b"some plaintext");
        let key = PackKey::new([key; 32]);
        key.open(VaultId([vault; 16]), kind, number, &mut frame).is_ok()
    };
    assert!(opens(1, 7, FrameKind::Data, 3));
    assert!(!opens(2, 7, FrameKind::Data, 3), "another key");
    assert!(!opens(1, 8, FrameKind::Data, 3), "another vault");
    assert!(!opens(1, 7, FrameKind::Metadata, 3), "another kind");
    assert!(!opens(1, 7, FrameKind::Data, 4), "another number");
}

#[test]
fn the_bytes_of_a_sealed_frame_stay_what_they_are() {
    let hash = blake3::hash(&sealed(b"some plaintext"));
    assert_eq!(
        hash.to_hex().as_str(),
        "e37254f6c937de0933f82e8f3b03601fe97ebb7788fa17813af027c2b97feede"
    );
}

#[test]
fn a_pack_key_field_opens_only_with_its_vault_and_keys() {
    let field = PackKey::new([1; 32]).wrap(&keys(1), VAULT, [2; 12]);
    assert_eq!(field.0.len(), 64);
    assert_eq!(PackKey::unwrap_field(&field, &keys(1), VAULT).unwrap().0, [1; 32]);
    let closed = Error::Key { what: "the pack key field" };
    assert_eq!(PackKey::unwrap_field(&field, &keys(2), VAULT).unwrap_err(), closed);
    assert_eq!(PackKey::unwrap_field(&field, &keys(1), VaultId([8; 16])).unwrap_err(), closed);
}

fn vault_keys(private_key: u8) -> (VaultRecord, VaultKeys) {
    let random = VaultRandom {
        master: [1; 32],
        salt: [2; 32],
        nonce: [3; 12],
        private_key: [private_key; 32],
        private_nonce: [5; 12],
    };
    let secret = Secret::KeyFile(vec![9; 32].into());
    let cost = Argon2Cost { memory_kib: 8, passes: 1, lanes: 1 };
    VaultRecord::create(VAULT, Geometry::new(2, 1).unwrap(), &secret, cost, random).unwrap()
}

fn sealed_to(record: &VaultRecord, ephemeral: u8) -> PackKeyField {
    let key = PackKey::new([1; 32]);
    key.seal_to(record.public_key(), VAULT, Zeroizing::new([ephemeral; 32])).unwrap()
}

#[test]
fn slot_2_is_a_key_that_is_not_at_hand() {
    let field = PackKeyField(vec![2; 80]);
    let error = PackKey::unwrap_from_anyone(&field, &keys(1), VAULT).unwrap_err();
    assert!(matches!(error, Error::Key { .. }), "{error}");
}

#[test]
fn what_is_sealed_to_the_public_key_opens_with_the_vaults_keys_alone() {
    let (record, made) = vault_keys(4);
    let field = sealed_to(&record, 6);
    assert_eq!(field.0.len(), 84);
    let unlocked = record.unlock(&Secret::KeyFile(vec![9; 32].into())).unwrap();
    for keys in [made, unlocked.clone()] {
        assert_eq!(PackKey::unwrap_from_anyone(&field, &keys, VAULT).unwrap().0, [1; 32]);
    }
    assert_ne!(sealed_to(&record, 7), field);
    let closed = Error::Key { what: "the pack key field" };
    let opened =
        |keys: &VaultKeys, vault| PackKey::unwrap_from_anyone(&field, keys, vault).map(drop);
    assert_eq!(opened(&vault_keys(5).1, VAULT), Err(closed.clone()), "another key pair");
    assert_eq!(opened(&unlocked, VaultId([8; 16])), Err(closed), "another vault");
    let without = Error::Key { what: "a pack sealed to the public key" };
    assert_eq!(opened(&keys(1), VAULT), Err(without), "the master key without the record");
}

#[test]
fn what_anybody_could_have_sealed_opens_only_where_that_is_asked_for() {
    let (record, keys) = vault_keys(4);
    let own = PackKey::new([1; 32]).wrap(&keys, VAULT, [2; 12]);
    let foreign = sealed_to(&record, 6);
    assert_eq!(PackKey::unwrap_field(&own, &keys, VAULT).unwrap().0, [1; 32]);
    assert_eq!(PackKey::unwrap_from_anyone(&own, &keys, VAULT).unwrap().0, [1; 32]);
    assert_eq!(PackKey::unwrap_field(&foreign, &keys, VAULT).unwrap_err(), Error::Foreign);
    assert_eq!(PackKey::unwrap_from_anyone(&foreign, &keys, VAULT).unwrap().0, [1; 32]);
}

#[test]
fn a_pack_key_does_not_show_itself() {
    assert_eq!(format!("{:?}", PackKey::new([171; 32])), "PackKey { .. }");
}

proptest! {
    #[test]
    fn sealing_round_trips(plaintext: Vec<u8>, number: u32) {
        let key = PackKey::new([9; 32]);
        let mut frame = plaintext.clone();
        key.seal(VAULT, FrameKind::Record, number, &mut frame);
        prop_assert_eq!(frame.len(), plaintext.len() + TAG_BYTES);
        prop_assert_eq!(key.open(VAULT, FrameKind::Record, number, &mut frame).unwrap(), plaintext);
    }

    #[test]
    fn damage_to_a_sealed_frame_is_noticed(plaintext: Vec<u8>, damage in damage()) {
        if let Some(mut frame) = damage.apply(&sealed(&plaintext)) {
            let opened = PackKey::new([1; 32]).open(VAULT, FrameKind::Data, 3, &mut frame);
            let noticed = matches!(opened, Err(Error::Damaged { .. }));
            prop_assert!(noticed);
        }
    }

    #[test]
    fn damage_to_a_pack_key_field_is_noticed(damage in damage()) {
        let field = PackKey::new([1; 32]).wrap(&keys(1), VAULT, [2; 12]);
        if let Some(bytes) = damage.apply(&field.0) {
            prop_assert!(PackKey::unwrap_field(&PackKeyField(bytes), &keys(1), VAULT).is_err());
        }
    }

    #[test]
    fn sealing_to_the_public_key_round_trips(key: [u8; 32], ephemeral: [u8; 32], private in 1..255u8) {
        let (record, keys) = vault_keys(private);
        let sealed = PackKey::new(key).seal_to(record.public_key(), VAULT, ephemeral.into());
        let opened = PackKey::unwrap_from_anyone(&sealed.unwrap(), &keys, VAULT);
        prop_assert_eq!(opened.unwrap().0, key);
    }

    #[test]
    fn damage_to_a_field_of_slot_2_is_noticed(damage in damage()) {
        let (record, keys) = vault_keys(4);
        if let Some(bytes) = damage.apply(&sealed_to(&record, 6).0) {
            // X25519 takes no notice of the highest bit of a public key, the key schedule does.
            let field = PackKeyField(bytes);
            prop_assert!(PackKey::unwrap_field(&field, &keys, VAULT).is_err());
            prop_assert!(PackKey::unwrap_from_anyone(&field, &keys, VAULT).is_err());
        }
    }

    #[test]
    fn any_bytes_may_come_as_a_pack_key_field(bytes: Vec<u8>) {
        let field = PackKeyField(bytes);
        prop_assert!(PackKey::unwrap_field(&field, &keys(1), VAULT).is_err());
        prop_assert!(PackKey::unwrap_from_anyone(&field, &keys(1), VAULT).is_err());
    }
}
