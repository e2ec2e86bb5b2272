//! The CA of a vault, and the keys that it certifies.

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use codec::Digest;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
    SignatureAlgorithm, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

use super::{STORAGE, crypto, fingerprint, server_name};
use crate::auth::random;
use crate::wire::{Blob, Certificate, ServerId};
use crate::{Error, Result};

/// Bytes of a P-256 point that is not compressed.
const POINT_BYTES: usize = 65;
/// Certificates say no later date than this, the last one that they can.
const LAST_S: u64 = 253_402_300_799;

/// A P-256 key that certificates are made for.
pub(crate) struct Key(KeyPair);

impl Key {
    /// A new one.
    pub(crate) fn generate() -> Result<Self> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map(Self).map_err(failed("a key"))
    }

    /// The key in these bytes (PKCS#8).
    pub(crate) fn from_der(der: &[u8]) -> Result<Self> {
        let der = PrivatePkcs8KeyDer::from(der);
        KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256)
            .map(Self)
            .map_err(failed("a key"))
    }

    /// Its bytes (PKCS#8): secret.
    pub(crate) fn to_der(&self) -> Vec<u8> {
        self.0.serialize_der()
    }

    /// The same, for TLS.
    pub(crate) fn private(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.to_der()).into()
    }

    /// The public half: a P-256 point.
    pub(crate) fn public(&self) -> Vec<u8> {
        self.0.public_key_raw().to_vec()
    }
}

/// The public half of somebody else's key.
struct Point(Vec<u8>);

impl PublicKeyData for Point {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// The CA.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Authority {
    /// A new one. It never ends: whoever trusts it goes by its fingerprint, and a date would
    /// only break what works.
    pub(crate) fn generate() -> Result<Self> {
        let key = Key::generate()?.0;
        let mut params = params();
        params.serial_number = Some(serial()?);
        last_until(LAST_S, &mut params);
        let certificate = params.self_signed(&key).map_err(failed("the CA"))?;
        Ok(Self { issuer: Issuer::new(params, key), certificate: certificate.into() })
    }

    /// The CA that [`Authority::to_pem`] wrote; `None` if this is none.
    pub(crate) fn from_pem(pem: &[u8]) -> Option<Self> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem).ok()?;
        let certificate = CertificateDer::from_pem_slice(pem).ok()?;
        let key = Key::from_der(key.secret_pkcs8_der()).ok()?;
        // They belong together.
        CertifiedKey::from_der(vec![certificate.clone()], key.private(), &crypto()).ok()?;
        Some(Self { issuer: Issuer::new(params(), key.0), certificate })
    }

    /// Key and certificate: secret.
    pub(crate) fn to_pem(&self) -> String {
        let key = pem("PRIVATE KEY", self.issuer.key().serialized_der());
        key + &pem("CERTIFICATE", &self.certificate)
    }

    /// What it is trusted by.
    pub(crate) fn fingerprint(&self) -> Digest {
        fingerprint(&self.certificate)
    }

    /// A certificate of the coordinator for these hosts.
    pub(crate) fn certify_coordinator(
        &self,
        key: &Key,
        hosts: &[String],
        now_ms: u64,
        life: Duration,
    ) -> Result<Certificate> {
        self.certify(key.public(), hosts, now_ms, life)
    }

    /// A certificate of a storage server at this host, for its public key: refused if that is no
    /// P-256 point.
    pub(crate) fn certify_server(
        &self,
        server: ServerId,
        point: Vec<u8>,
        host: &str,
        now_ms: u64,
        life: Duration,
    ) -> Result<Certificate> {
        let names = [host.to_owned(), server_name(server), STORAGE.to_owned()];
        self.certify(point, &names, now_ms, life)
    }

    fn certify(
        &self,
        point: Vec<u8>,
        names: &[String],
        now_ms: u64,
        life: Duration,
    ) -> Result<Certificate> {
        if point.len() != POINT_BYTES || point[0] != 4 {
            return Err(Error::refuse(crate::wire::Code::BadRequest, "not a P-256 key"));
        }
        // In whole seconds, as certificates count.
        let issued_s = now_ms / 1000;
        let ends_s = issued_s.saturating_add(life.as_secs().max(1)).min(LAST_S);
        let names = names.iter().map(|name| subject(name)).collect::<Result<Vec<_>>>()?;
        let mut params = CertificateParams::default();
        params.serial_number = Some(serial()?);
        params.subject_alt_names = names;
        params.distinguished_name = named("arc");
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        last_until(ends_s, &mut params);
        let certificate =
            params.signed_by(&Point(point), &self.issuer).map_err(failed("a certificate"))?;
        let chain = [&**certificate.der(), &*self.certificate];
        Ok(Certificate {
            chain: chain.map(|der| Blob(der.to_vec())).into(),
            issued_ms: issued_s.saturating_mul(1000),
            ends_ms: ends_s * 1000,
        })
    }
}

/// What the CA's own certificate says of it. The issuer in every certificate is made of this:
/// it may not change.
fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named("arc CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn subject(name: &str) -> Result<SanType> {
    if let Ok(ip) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(ip));
    }
    let name = name.trim_end_matches('.').try_into().map_err(failed("a certificate"))?;
    Ok(SanType::DnsName(name))
}

fn serial() -> Result<SerialNumber> {
    let mut bytes = random::<16>()?;
    // A positive number that does not begin with zeros.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// Has a certificate be good from 1970 until `ends_s` seconds later.
///
/// Machines that wake up in 1970, until they have asked for the time, are common, and a later
/// beginning protects nothing here: the key is as good before as after.
fn last_until(ends_s: u64, params: &mut CertificateParams) {
    params.not_before = date_time_ymd(1970, 1, 1);
    params.not_after = params.not_before + Duration::from_secs(ends_s.min(LAST_S));
}

/// Seconds since 1970 as people write them.
pub(crate) fn date_text(seconds: u64) -> String {
    let date = date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds.min(LAST_S));
    let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", date.hour(), date.minute())
}

fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in BASE64.encode(der).as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}

fn failed(what: &'static str) -> impl FnOnce(rcgen::Error) -> Error {
    move |error| Error::Config(format!("{what} cannot be made: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_is_read_back_as_it_was_written() {
        let made = Authority::generate().unwrap();
        let read = Authority::from_pem(made.to_pem().as_bytes()).unwrap();
        assert_eq!(read.fingerprint(), made.fingerprint());
        assert_eq!(read.to_pem(), made.to_pem());
        let (pem, other) = (made.to_pem(), Authority::generate().unwrap().to_pem());
        let at = |pem: &str| pem.find("-----BEGIN CERT").unwrap();
        let mixed = pem[..at(&pem)].to_owned() + &other[at(&other)..];
        for bad in ["", "nonsense", &pem[..100], &pem[at(&pem)..], &mixed] {
            assert!(Authority::from_pem(bad.as_bytes()).is_none(), "{bad}");
        }
        assert_ne!(Authority::generate().unwrap().fingerprint(), made.fingerprint());
    }

    #[test]
    fn certificates_say_when_they_end_in_whole_seconds() {
        let (ca, key) = (Authority::generate().unwrap(), Key::generate().unwrap());
        let certify = |now_ms, life| {
            let hosts = ["127.0.0.1".to_owned(), "nas.example".to_owned()];
            ca.certify_coordinator(&key, &hosts, now_ms, life).unwrap()
        };
        let made = certify(1999, Duration::from_secs(9));
        assert_eq!((made.issued_ms, made.ends_ms, made.chain.len()), (1000, 10_000, 2));
        assert_eq!(made.renew_ms(), 7000);
        let longest = certify(u64::MAX, Duration::MAX);
        assert_eq!(longest.ends_ms, LAST_S * 1000);
        assert!(longest.renew_ms() >= longest.issued_ms.min(longest.ends_ms));
    }

    #[test]
    fn only_keys_of_the_one_kind_are_certified() {
        let ca = Authority::generate().unwrap();
        let certify =
            |point: Vec<u8>| ca.certify_server(ServerId(1), point, "a", 0, Duration::from_secs(9));
        let point = Key::generate().unwrap().public();
        assert!(certify(point.clone()).is_ok());
        for bad in [vec![], point[1..].to_vec(), [&[2], &point[1..]].concat(), vec![4; 4096]] {
            assert!(certify(bad).is_err());
        }
        let nowhere = ca.certify_server(ServerId(1), point, "ä", 0, Duration::from_secs(9));
        assert!(nowhere.is_err());
    }

    #[test]
    fn dates_are_written_as_people_do() {
        assert_eq!(date_text(0), "1970-01-01 00:00 UTC");
        assert_eq!(date_text(1_795_427_143), "2026-11-23 09:45 UTC");
        assert_eq!(date_text(u64::MAX), "9999-12-31 23:59 UTC");
    }
}
