//! HPKE (RFC 9180) in base mode, for one message: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256,
//! AES-256-GCM. Whoever has the public key can seal, and only the private key opens.

use aws_lc_rs::{agreement, hmac};
use zeroize::Zeroizing;

use super::Aead;
use crate::{Error, Result};

/// Bytes of a private key, a public key, and of what is sent along (`enc`: an ephemeral public key).
pub(super) const KEY_BYTES: usize = 32;

type Secret = Zeroizing<[u8; 32]>;

const VERSION: &[u8] = b"HPKE-v1";
/// "KEM", and DHKEM(X25519, HKDF-SHA256).
const KEM_SUITE: &[u8] = b"KEM\x00\x20";
/// "HPKE", and the ids of KEM, KDF and AEAD.
const SUITE: &[u8] = b"HPKE\x00\x20\x00\x01\x00\x02";
const MODE_BASE: u8 = 0;

/// The AEAD for a message to `public_key`, its nonce, and what is sent along. `ephemeral` is 32
/// fresh random bytes, for this message alone.
pub(super) fn sender(
    public_key: &[u8; KEY_BYTES],
    ephemeral: &[u8; KEY_BYTES],
    info: &[u8],
) -> Result<(Aead, [u8; 12], [u8; KEY_BYTES])> {
    let sent = public_half(ephemeral)?;
    let shared = shared_secret(ephemeral, public_key, &sent, public_key)?;
    let (key, nonce) = key_schedule::<32>(SUITE, &shared, info);
    Ok((Aead::new(&key), nonce, sent))
}

/// The AEAD of a message that came with `sent`, and its nonce.
pub(super) fn recipient(
    private_key: &[u8; KEY_BYTES],
    sent: &[u8; KEY_BYTES],
    info: &[u8],
) -> Result<(Aead, [u8; 12])> {
    let shared = shared_secret(private_key, sent, sent, &public_half(private_key)?)?;
    let (key, nonce) = key_schedule::<32>(SUITE, &shared, info);
    Ok((Aead::new(&key), nonce))
}

/// The X25519 public key of a private one.
pub(crate) fn public_half(private_key: &[u8; KEY_BYTES]) -> Result<[u8; KEY_BYTES]> {
    let public = private(private_key)?.compute_public_key().map_err(|_| not_a_key())?;
    public.as_ref().try_into().map_err(|_| not_a_key())
}

fn private(key: &[u8; KEY_BYTES]) -> Result<agreement::PrivateKey> {
    agreement::PrivateKey::from_private_key(&agreement::X25519, key).map_err(|_| not_a_key())
}

/// What sender and recipient share: each has its own private key and the other's public one.
fn shared_secret(
    own: &[u8; KEY_BYTES],
    other: &[u8; KEY_BYTES],
    sent: &[u8; KEY_BYTES],
    recipient: &[u8; KEY_BYTES],
) -> Result<Secret> {
    let own = private(own)?;
    let other = agreement::UnparsedPublicKey::new(&agreement::X25519, other);
    agreement::agree(&own, other, not_a_key(), |agreed| {
        let extracted = extract(KEM_SUITE, b"", b"eae_prk", agreed);
        let context = [sent.as_slice(), recipient].concat();
        Ok(expand(KEM_SUITE, &extracted, b"shared_secret", &context))
    })
}

/// The AEAD's key and base nonce, which is that of the first message.
fn key_schedule<const KEY: usize>(
    suite: &[u8],
    shared: &[u8; 32],
    info: &[u8],
) -> (Zeroizing<[u8; KEY]>, [u8; 12]) {
    let psk_id_hash = extract(suite, b"", b"psk_id_hash", b"");
    let info_hash = extract(suite, b"", b"info_hash", info);
    let context = [&[MODE_BASE], psk_id_hash.as_slice(), info_hash.as_slice()].concat();
    let secret = extract(suite, shared, b"secret", b"");
    let key = expand(suite, &secret, b"key", &context);
    (key, *expand(suite, &secret, b"base_nonce", &context))
}

/// LabeledExtract.
fn extract(suite: &[u8], salt: &[u8], label: &[u8], input: &[u8]) -> Secret {
    mac(salt, &[VERSION, suite, label, input])
}

/// LabeledExpand to at most 32 bytes, which is one round of HKDF-Expand.
fn expand<const N: usize>(
    suite: &[u8],
    key: &[u8; 32],
    label: &[u8],
    info: &[u8],
) -> Zeroizing<[u8; N]> {
    const { assert!(N <= 32) };
    let round = mac(key, &[&(N as u16).to_be_bytes(), VERSION, suite, label, info, &[1]]);
    let mut out = Zeroizing::new([0; N]);
    out.copy_from_slice(&round[..N]);
    out
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Secret {
    let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    parts.iter().for_each(|part| mac.update(part));
    let mut out = Zeroizing::new([0; 32]);
    out.copy_from_slice(mac.sign().as_ref());
    out
}

fn not_a_key() -> Error {
    Error::damaged("key", "it is not an X25519 key")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        assert_eq!(text.len(), 2 * N);
        std::array::from_fn(|n| u8::from_str_radix(&text[2 * n..2 * n + 2], 16).unwrap())
    }

    /// RFC 9180, A.1.1. Its AEAD is AES-128-GCM: all up to the AEAD's key is ours but for the
    /// suite's id and the key's length.
    #[test]
    fn key_agreement_and_key_schedule_are_those_of_the_rfc() {
        let info = hex::<20>("4f6465206f6e2061204772656369616e2055726e");
        let ephemeral = hex("52c4a758a802cd8b936eceea314432798d5baf2d7e9235dc084ab1b9cfa2f736");
        let sent = hex("37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431");
        let private = hex("4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8");
        let public = hex("3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d");
        assert_eq!(public_half(&ephemeral).unwrap(), sent);
        assert_eq!(public_half(&private).unwrap(), public);
        let shared = shared_secret(&ephemeral, &public, &sent, &public).unwrap();
        assert_eq!(
            *shared,
            hex("fe0e18c9f024ce43799ae393c7e8fe8fce9d218875e8227b0187c04e7d2ea1fc")
        );
        assert_eq!(shared_secret(&private, &sent, &sent, &public).unwrap(), shared);
        let suite = b"HPKE\x00\x20\x00\x01\x00\x01";
        let (key, nonce) = key_schedule::<16>(suite, &shared, &info);
        assert_eq!(*key, hex("4531685d41d65f03dc48f6b8302c05b0"));
        assert_eq!(nonce, hex("56d890e5accaaf011cff4b7d"));
    }

    #[test]
    fn a_public_key_that_gives_no_secret_is_refused() {
        assert!(sender(&[0; 32], &[7; 32], b"").is_err());
        assert!(recipient(&[7; 32], &[0; 32], b"").is_err());
    }
}
