//! Who may ask for what: tokens, tickets, receipts, hellos.
//!
//! A **token** is what a person hands to `arc init` or to a joining server. A
//! **ticket** is a short permission, signed by the coordinator with Ed25519,
//! that a storage server checks by itself. A **receipt**, a **hello** and the
//! answer to it carry a MAC by the key that one server shares with the
//! coordinator.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use aws_lc_rs::{constant_time, digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use codec::fact::{self, Fact};
use codec::{Digest, StripeId, VaultId};
use serde::{Deserialize, Serialize};

use crate::wire::{Certificate, Code, Hello, HelloAnswer, Receipt, ServerId, TlsAnswer};
use crate::{Error, Result};

/// `n` fresh random bytes from the system.
// Not from aws-lc, which gathers entropy of its own first: 30 ms of every command.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|_| Error::Config("the system gives no random bytes".into()))?;
    Ok(bytes)
}

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything a client does.
    Owner,
    /// Joining as a storage server.
    Join,
}

/// One string with all that is needed to reach and enter a coordinator.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// What it allows.
    pub role: Role,
    /// The coordinator's URL.
    pub url: String,
    /// Fingerprints of the CAs by which the vault's services are known, with commas between; one
    /// mostly. Empty in tokens from before TLS.
    pub ca: String,
    /// The secret: base64url of 32 random bytes.
    pub secret: String,
}

impl Token {
    /// A new token with a fresh secret.
    pub fn generate(role: Role, url: String) -> Result<Self> {
        Ok(Self { role, url, ca: String::new(), secret: BASE64URL.encode(random::<32>()?) })
    }

    /// What the coordinator keeps of the secret.
    pub fn secret_hash(secret: &str) -> Digest {
        let hash = digest::digest(&digest::SHA256, secret.as_bytes());
        Digest(hash.as_ref().try_into().unwrap_or_default())
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match self.role {
            Role::Owner => "owner",
            Role::Join => "join",
        };
        let fields = format!("{}\n{}\n{}", self.url, self.ca, self.secret);
        write!(f, "arc1.{role}.{}", BASE64URL.encode(fields))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({:?} of {})", self.role, self.url)
    }
}

impl FromStr for Token {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let bad =
            || Error::Config("not an arc token: it begins with arc1.owner. or arc1.join.".into());
        let (role, rest) =
            s.trim().strip_prefix("arc1.").and_then(|s| s.split_once('.')).ok_or_else(bad)?;
        let role = match role {
            "owner" => Role::Owner,
            "join" => Role::Join,
            _ => return Err(bad()),
        };
        let text =
            BASE64URL.decode(rest).ok().and_then(|b| String::from_utf8(b).ok()).ok_or_else(bad)?;
        match text.split('\n').collect::<Vec<_>>()[..] {
            [url, ca, secret] if !url.is_empty() && !secret.is_empty() => {
                Ok(Self { role, url: url.into(), ca: ca.into(), secret: secret.into() })
            }
            _ => Err(bad()),
        }
    }
}

/// What a ticket allows at one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "op")]
pub enum Grant {
    /// Storing one shard.
    Put {
        /// The stripe.
        stripe: StripeId,
        /// Index of the shard.
        index: u8,
        /// Bytes of its file.
        file_bytes: u64,
    },
    /// Reading and checking any shard.
    Read,
    /// What only the coordinator asks for: probe, inventory, trash, rebuild, vault record.
    Control,
}

/// A ticket's claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// What it allows.
    #[serde(flatten)]
    pub grant: Grant,
    /// The vault.
    pub vault: VaultId,
    /// Where it is good.
    pub server: ServerId,
    /// The coordinator's epoch when it was signed.
    pub epoch: u64,
    /// When it was signed, in the coordinator's time.
    pub issued_ms: u64,
    /// When it ends.
    pub expires_ms: u64,
}

const TICKET_DOMAIN: &[u8] = b"arc v0 ticket\0";
/// Tickets are shorter than this; what is longer is refused unread.
const TICKET_TEXT_BYTES_MAX: usize = 1024;

/// The coordinator's half of the ticket key.
pub struct TicketSigner(Ed25519KeyPair);

impl TicketSigner {
    /// The signer of a 32-byte seed.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self> {
        Ed25519KeyPair::from_seed_unchecked(seed)
            .map(Self)
            .map_err(|_| Error::Config("the ticket key is not usable".into()))
    }

    /// What servers pin at the join.
    pub fn public_key(&self) -> Vec<u8> {
        self.0.public_key().as_ref().to_vec()
    }

    /// The ticket as it goes into `Authorization: Ticket …`.
    pub fn sign(&self, ticket: &Ticket) -> Result<String> {
        let claims =
            serde_json::to_vec(ticket).map_err(|e| Error::Config(format!("ticket: {e}")))?;
        let signature = self.0.sign(&[TICKET_DOMAIN, &claims].concat());
        Ok(format!("{}.{}", BASE64URL.encode(claims), BASE64URL.encode(signature.as_ref())))
    }

    /// The record of a backup with its signature behind it: anybody could seal one to the vault's
    /// public key.
    pub fn sign_backup(&self, vault: VaultId, mut record: Vec<u8>) -> Vec<u8> {
        let signature = self.0.sign(&backup_claims(vault, &record));
        record.extend_from_slice(signature.as_ref());
        record
    }
}

/// The record of a backup, if `public_key` signed it. Without a key nobody can tell.
pub fn verify_backup<'a>(
    signed: &'a [u8],
    vault: VaultId,
    public_key: Option<&[u8]>,
) -> Result<&'a [u8]> {
    let refuse = || Error::refuse(Code::Unauthorized, "the coordinator did not sign it");
    let (record, signature) = signed.split_last_chunk::<64>().ok_or_else(refuse)?;
    if let Some(public_key) = public_key {
        UnparsedPublicKey::new(&ED25519, public_key)
            .verify(&backup_claims(vault, record), signature)
            .map_err(|_| refuse())?;
    }
    Ok(record)
}

fn backup_claims(vault: VaultId, record: &[u8]) -> Vec<u8> {
    [b"arc v0 backup\0", vault.as_bytes().as_slice(), record].concat()
}

impl TicketSigner {
    /// Encodes a fact with its signature.
    pub fn sign_fact(&self, fact: &Fact) -> Result<Vec<u8>> {
        // Ed25519 signatures have 64 bytes.
        let sign = |bytes: &[u8]| {
            self.0.sign(bytes).as_ref().try_into().unwrap_or([0; fact::SIGNATURE_BYTES])
        };
        Ok(fact.encode(sign)?)
    }
}

/// The claims of `text` if `public_key` signed it. Epoch, time, server and vault are the
/// caller's to check.
pub fn verify_ticket(text: &str, public_key: &[u8]) -> Result<Ticket> {
    let refuse = || Error::refuse(Code::Unauthorized, "no valid ticket");
    if text.len() > TICKET_TEXT_BYTES_MAX {
        return Err(refuse());
    }
    let (claims, signature) = text.split_once('.').ok_or_else(refuse)?;
    let claims = BASE64URL.decode(claims).map_err(|_| refuse())?;
    let signature = BASE64URL.decode(signature).map_err(|_| refuse())?;
    UnparsedPublicKey::new(&ED25519, public_key)
        .verify(&[TICKET_DOMAIN, &claims].concat(), &signature)
        .map_err(|_| refuse())?;
    serde_json::from_slice(&claims).map_err(|_| refuse())
}

/// The MAC of a receipt under the key that server and coordinator share.
pub fn receipt_mac(shared_key: &[u8], vault: VaultId, receipt: &Receipt) -> Vec<u8> {
    let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, shared_key));
    mac.update(b"arc v0 receipt\0");
    mac.update(vault.as_bytes());
    mac.update(receipt.stripe.as_bytes());
    mac.update(&[receipt.index]);
    mac.update(&receipt.server.0.to_le_bytes());
    mac.update(receipt.header_hash.as_bytes());
    mac.update(&receipt.epoch.to_le_bytes());
    mac.sign().as_ref().to_vec()
}

/// The MAC of a hello under the same key.
pub fn hello_mac(shared_key: &[u8], hello: &Hello) -> Vec<u8> {
    let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, shared_key));
    let Hello { server, url, starts, tls, weight, mac: _ } = hello;
    if !weight.is_one() {
        mac.update(b"arc v0 weight\0");
        mac.update(&weight.hundredths().to_le_bytes());
    }
    mac.update(if tls.is_some() { b"arc v0 hello, TLS\0" } else { b"arc v0 hello\0" });
    mac.update(&server.0.to_le_bytes());
    mac.update(&starts.to_le_bytes());
    match tls {
        // As builds from before TLS have it.
        None => mac.update(url.as_bytes()),
        Some(wish) => {
            measured(&mut mac, url.as_bytes());
            measured(&mut mac, wish.key.as_ref().map_or(&[], |key| &key.0));
        }
    }
    mac.sign().as_ref().to_vec()
}

/// The MAC of the answer to a hello under the same key. It covers the hello's own, so that an
/// answer is good for one start of the server only.
pub fn hello_answer_mac(shared_key: &[u8], hello: &Hello, answer: &HelloAnswer) -> Vec<u8> {
    let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, shared_key));
    let HelloAnswer { epoch, now_ms, record, tls, mac: _ } = answer;
    mac.update(if tls.is_some() {
        b"arc v0 hello answer, TLS\0"
    } else {
        b"arc v0 hello answer\0"
    });
    mac.update(&hello_mac(shared_key, hello));
    mac.update(&epoch.to_le_bytes());
    mac.update(&now_ms.to_le_bytes());
    mac.update(&[record.is_some().into()]);
    let record = record.as_ref().map_or(&[][..], |record| &record.0);
    match tls {
        None => mac.update(record),
        Some(TlsAnswer { trust, certificate }) => {
            measured(&mut mac, record);
            measured(&mut mac, &trust.iter().flat_map(|pin| pin.0).collect::<Vec<u8>>());
            if let Some(Certificate { chain, issued_ms, ends_ms }) = certificate {
                mac.update(&issued_ms.to_le_bytes());
                mac.update(&ends_ms.to_le_bytes());
                chain.iter().for_each(|der| measured(&mut mac, &der.0));
            }
        }
    }
    mac.sign().as_ref().to_vec()
}

/// Adds bytes with their number, so that no two rows of fields give the same.
fn measured(mac: &mut hmac::Context, bytes: &[u8]) {
    mac.update(&(bytes.len() as u64).to_le_bytes());
    mac.update(bytes);
}

/// Whether two MACs or hashes are the same, in constant time.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(a, b).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Blob, TlsWish, Weight};

    #[test]
    fn the_mac_of_a_hello_and_its_answer_covers_every_field() {
        let hello = Hello {
            server: ServerId(1),
            url: "http://a".into(),
            starts: 2,
            tls: None,
            weight: Weight::ONE,
            mac: Blob::default(),
        };
        let wish = |key: Option<&[u8]>| TlsWish { key: key.map(|key| Blob(key.to_vec())) };
        let hellos = [
            hello.clone(),
            Hello { server: ServerId(2), ..hello.clone() },
            Hello { starts: 3, ..hello.clone() },
            Hello { url: "http://b".into(), ..hello.clone() },
            Hello { weight: Weight::try_from(200).unwrap(), ..hello.clone() },
            Hello { weight: Weight::try_from(1).unwrap(), ..hello.clone() },
            Hello { tls: Some(wish(None)), ..hello.clone() },
            Hello { tls: Some(wish(Some(b"k"))), ..hello.clone() },
            Hello { url: "http://ak".into(), tls: Some(wish(None)), ..hello.clone() },
        ];
        let certificate = Certificate { chain: vec![Blob(vec![1])], issued_ms: 3, ends_ms: 4 };
        let tls =
            TlsAnswer { trust: vec![Digest([7; 32])], certificate: Some(certificate.clone()) };
        let answer =
            HelloAnswer { epoch: 1, now_ms: 2, record: None, tls: None, mac: Blob::default() };
        let with = |tls: TlsAnswer| HelloAnswer { tls: Some(tls), ..answer.clone() };
        let certified =
            |certificate| with(TlsAnswer { certificate: Some(certificate), ..tls.clone() });
        let (two, none) = (vec![Blob(vec![1]), Blob::default()], vec![]);
        let answers = [
            answer.clone(),
            HelloAnswer { epoch: 2, ..answer.clone() },
            HelloAnswer { now_ms: 3, ..answer.clone() },
            HelloAnswer { record: Some(Blob(vec![])), ..answer.clone() },
            HelloAnswer { record: Some(Blob(vec![1])), ..answer.clone() },
            with(TlsAnswer { certificate: None, ..tls.clone() }),
            with(TlsAnswer { trust: vec![], certificate: None }),
            with(TlsAnswer { trust: vec![], ..tls.clone() }),
            with(tls.clone()),
            certified(Certificate { chain: two, ..certificate.clone() }),
            certified(Certificate { chain: none, ..certificate.clone() }),
            certified(Certificate { issued_ms: 4, ..certificate.clone() }),
            certified(Certificate { ends_ms: 5, ..certificate.clone() }),
        ];
        let mut macs: Vec<Vec<u8>> =
            hellos.iter().map(|hello| hello_mac(&[1; 32], hello)).collect();
        for hello in &hellos[..2] {
            macs.extend(answers.iter().map(|answer| hello_answer_mac(&[1; 32], hello, answer)));
        }
        let all = macs.len();
        macs.sort();
        macs.dedup();
        assert_eq!(macs.len(), all);
    }

    #[test]
    fn a_token_survives_being_written_down() {
        let token = Token::generate(Role::Join, "http://127.0.0.1:7070".into()).unwrap();
        assert_eq!(token.to_string().parse::<Token>().unwrap(), token);
        assert!(!format!("{token:?}").contains(&token.secret));
    }

    #[test]
    fn a_ticket_is_good_only_as_it_was_signed() {
        let signer = TicketSigner::from_seed(&[7; 32]).unwrap();
        let ticket = Ticket {
            grant: Grant::Put { stripe: StripeId([1; 32]), index: 3, file_bytes: 99 },
            vault: VaultId([2; 16]),
            server: ServerId(4),
            epoch: 5,
            issued_ms: 6,
            expires_ms: 7,
        };
        let text = signer.sign(&ticket).unwrap();
        assert_eq!(verify_ticket(&text, &signer.public_key()).unwrap(), ticket);
        let other = TicketSigner::from_seed(&[8; 32]).unwrap();
        assert!(verify_ticket(&text, &other.public_key()).is_err());
        for at in 0..text.len() {
            let mut bent = text.clone().into_bytes();
            bent[at] = if bent[at] == b'A' { b'B' } else { b'A' };
            let bent = String::from_utf8(bent).unwrap();
            assert!(verify_ticket(&bent, &signer.public_key()).is_err(), "byte {at}");
        }
    }
}
