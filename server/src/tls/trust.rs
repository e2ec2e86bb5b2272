//! Whom the one that connects believes.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use codec::Digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
};

use super::{ALPN, STORAGE, crypto, date_text, fingerprint, is_reserved, server_name};
use crate::auth::Token;
use crate::wire::ServerId;
use crate::{Error, Result};

/// More CAs than this are nobody's.
const PINS_MAX: usize = 8;
/// Names of a certificate that are told.
const NAMES_TOLD: usize = 8;

/// Whom to believe: fingerprints of CAs, which may be learned while connections are made.
#[derive(Debug, Clone)]
pub struct Trust(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pins: RwLock<Vec<Digest>>,
    time: Arc<dyn TimeProvider>,
}

impl Trust {
    /// Nobody: enough for plain HTTP.
    pub fn none() -> Self {
        Self::new(Vec::new(), Arc::new(DefaultTimeProvider))
    }

    /// The CAs that a token names.
    pub fn of(token: &Token) -> Result<Self> {
        let named = token.ca.split(',').filter(|pin| !pin.is_empty());
        let pins: Vec<Digest> = named.map(str::parse).collect::<Result<_, _>>().map_err(|_| {
            Error::Config("the token has something else where its fingerprint should be".into())
        })?;
        Ok(Self::new(pins, Arc::new(DefaultTimeProvider)))
    }

    /// These CAs, whose certificates are good at that `time`.
    pub(crate) fn new(mut pins: Vec<Digest>, time: Arc<dyn TimeProvider>) -> Self {
        pins.truncate(PINS_MAX);
        Self(Arc::new(Inner { pins: RwLock::new(pins), time }))
    }

    /// The CAs.
    pub(crate) fn pins(&self) -> Vec<Digest> {
        self.0.pins.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it is nobody.
    pub fn is_none(&self) -> bool {
        self.pins().is_empty()
    }

    /// Believes these from now on, instead of those before.
    pub(crate) fn set(&self, mut pins: Vec<Digest>) {
        pins.truncate(PINS_MAX);
        *self.0.pins.write().unwrap_or_else(PoisonError::into_inner) = pins;
    }

    /// The client's side of handshakes with `peer`. No session is resumed: every connection is
    /// checked.
    pub(crate) fn client(&self, peer: Peer) -> Result<ClientConfig> {
        let (crypto, time) = (crypto(), Arc::clone(&self.0.time));
        let algorithms = crypto.signature_verification_algorithms;
        let verifier = Verifier { trust: self.clone(), peer, algorithms };
        let mut config = ClientConfig::builder_with_details(crypto, time)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| Error::Config(format!("TLS cannot be set up: {error}")))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

/// Who is to be at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// The coordinator.
    Coordinator,
    /// That storage server.
    Server(ServerId),
}

/// Holds the chain that is shown against the fingerprints.
struct Verifier {
    trust: Trust,
    peer: Peer,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Verifier {
    fn verify(
        &self,
        shown: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let pins = self.trust.pins();
        if pins.is_empty() {
            return Err(Distrust::NoPin.into());
        }
        // A certificate that is trusted by itself needs no other, nor names, nor dates.
        if pins.contains(&fingerprint(shown)) {
            return Ok(());
        }
        let is_pinned =
            |certificate: &&CertificateDer<'_>| pins.contains(&fingerprint(certificate));
        let anchor = chain.iter().find(is_pinned).ok_or(Distrust::OtherCa)?;
        let mut roots = RootCertStore::empty();
        roots.add(anchor.clone())?;
        let shown = ParsedCertificate::try_from(shown)?;
        let algorithms = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&shown, &roots, chain, now, algorithms)?;
        verify_server_name(&shown, name)?;
        if self.is_of_peer(&shown)? { Ok(()) } else { Err(Distrust::OtherService.into()) }
    }

    /// Whether a certificate that the vault's CA made for a storage server is for this one.
    /// Others say nothing of it.
    fn is_of_peer(&self, shown: &ParsedCertificate<'_>) -> Result<bool, rustls::Error> {
        let has_name = |name: String| {
            let name = ServerName::try_from(name).map_err(|_| CertificateError::BadEncoding)?;
            Ok::<_, rustls::Error>(verify_server_name(shown, &name).is_ok())
        };
        if !has_name(STORAGE.to_owned())? {
            return Ok(true);
        }
        match self.peer {
            Peer::Coordinator => Ok(false),
            Peer::Server(server) => has_name(server_name(server)),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, server_name, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// What X.509 has no word for.
#[derive(Debug, Clone, Copy, thiserror::Error)]
enum Distrust {
    #[error("no fingerprint is known to check it by: take the coordinator's present token")]
    NoPin,
    #[error(
        "it shows no certificate of a CA that is trusted here: another service listens there, or \
         somebody in between"
    )]
    OtherCa,
    #[error("it shows the certificate of another service of the vault")]
    OtherService,
}

impl From<Distrust> for rustls::Error {
    fn from(why: Distrust) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why))))
    }
}

/// What a failed handshake with a service means; `None` for what may pass, or is none.
pub(crate) fn explain(service: &str, error: &reqwest::Error) -> Option<Error> {
    let service = service.to_owned();
    match tls_error(error)? {
        rustls::Error::InvalidCertificate(why) => {
            Some(Error::Untrusted { service, why: why_not(why) })
        }
        rustls::Error::InvalidMessage(_) => {
            let why = "it does not speak TLS; the URL of a service that speaks plain HTTP begins \
                       with http://";
            Some(Error::Nonsense { service, why: why.to_owned() })
        }
        _ => None,
    }
}

fn tls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        // An I/O error passes by the one that it wraps.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref());
        let found = match wrapped {
            Some(wrapped) => wrapped.downcast_ref(),
            None => error.downcast_ref(),
        };
        if found.is_some() {
            return found;
        }
        next = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

fn why_not(error: &CertificateError) -> String {
    use CertificateError as E;
    let clocks = |time: &UnixTime| {
        format!(
            "it is {} here. Services renew theirs while they reach the coordinator: see that \
             service's log, and both clocks",
            date_text(time.as_secs())
        )
    };
    match error {
        E::ExpiredContext { time, not_after } => {
            let ended = date_text(not_after.as_secs());
            format!("its certificate ended {ended}, and {}", clocks(time))
        }
        E::NotValidYetContext { time, not_before } => {
            let begins = date_text(not_before.as_secs());
            format!("its certificate begins {begins}, and {}", clocks(time))
        }
        E::NotValidForNameContext { expected, presented } => format!(
            "its certificate is for {}, not for {}: ask it by such a name, or start it with \
             --advertise and the URL that is asked",
            names_text(presented),
            expected.to_str()
        ),
        E::UnknownIssuer | E::BadSignature => {
            "it shows a certificate that its CA did not sign: somebody is in between".to_owned()
        }
        E::Other(OtherError(why)) => why.to_string(),
        other => format!("its certificate does not hold: {other}"),
    }
}

/// The names in a certificate, which the library gives as `DnsName("nas")` and
/// `IpAddress(10.0.0.1)`.
fn names_text(presented: &[String]) -> String {
    let bare = |name: &String| {
        let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
        inner.unwrap_or(name).trim_matches('"').to_owned()
    };
    let hosts = presented.iter().map(bare).filter(|name| !is_reserved(name));
    hosts.take(NAMES_TOLD).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::auth::Role;
    use crate::tls::{Authority, Key};
    use crate::wire::Certificate;

    const DAY: Duration = Duration::from_secs(86_400);
    const NOW_S: u64 = 1_800_000_000;

    fn verify(trust: &Trust, peer: Peer, shown: &Certificate, name: &str, now_s: u64) -> String {
        let algorithms = crypto().signature_verification_algorithms;
        let verifier = Verifier { trust: trust.clone(), peer, algorithms };
        let chain: Vec<CertificateDer> = shown.chain.iter().map(|c| c.0.clone().into()).collect();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now_s));
        match verifier.verify(&chain[0], &chain[1..], &name, now) {
            Ok(()) => "good".into(),
            Err(rustls::Error::InvalidCertificate(why)) => why_not(&why),
            Err(other) => panic!("{other}"),
        }
    }

    fn trusting(ca: &Authority) -> Trust {
        Trust::new(vec![ca.fingerprint()], Arc::new(DefaultTimeProvider))
    }

    fn coordinator(ca: &Authority) -> Certificate {
        let hosts = ["10.0.0.1", "::1", "home.example"].map(str::to_owned);
        ca.certify_coordinator(&Key::generate().unwrap(), &hosts, NOW_S * 1000, DAY).unwrap()
    }

    #[test]
    fn a_certificate_is_good_for_its_hosts_and_days() {
        let ca = Authority::generate().unwrap();
        let (trust, shown) = (trusting(&ca), coordinator(&ca));
        let verify = |name, now_s| verify(&trust, Peer::Coordinator, &shown, name, now_s);
        for name in ["10.0.0.1", "::1", "home.example", "HOME.example"] {
            assert_eq!(verify(name, NOW_S), "good", "{name}");
        }
        for name in ["10.0.0.2", "example", "x.home.example"] {
            assert!(verify(name, NOW_S).contains(&format!("not for {name}")), "{name}");
        }
        assert_eq!(verify("10.0.0.1", 0), "good", "a clock that was never set");
        assert_eq!(verify("10.0.0.1", NOW_S + 86_400), "good");
        let late = verify("10.0.0.1", NOW_S + 86_401);
        assert!(late.contains("ended 2027-01-16 08:00 UTC"), "{late}");
        assert!(late.contains("it is 2027-01-16 08:00 UTC here"), "{late}");
    }

    #[test]
    fn a_chain_holds_only_with_the_ca_that_is_trusted_and_signed_it() {
        let (ca, other) = (Authority::generate().unwrap(), Authority::generate().unwrap());
        let (shown, theirs) = (coordinator(&ca), coordinator(&other));
        let at = |trust: &Trust, shown: &Certificate| {
            verify(trust, Peer::Coordinator, shown, "10.0.0.1", NOW_S)
        };
        assert!(at(&Trust::none(), &shown).contains("no fingerprint"));
        assert!(at(&trusting(&ca), &theirs).contains("another service listens there"));
        // The trusted CA's certificate is no secret: anybody can put it behind their own.
        let forged =
            Certificate { chain: vec![theirs.chain[0].clone(), shown.chain[1].clone()], ..theirs };
        assert!(at(&trusting(&ca), &forged).contains("did not sign"));
        let alone = Certificate { chain: vec![shown.chain[0].clone()], ..shown.clone() };
        assert!(at(&trusting(&ca), &alone).contains("another service listens there"));

        // A fingerprint of the certificate itself is the strictest trust there is.
        let itself = Trust::new(
            vec![fingerprint(&alone.chain[0].0.clone().into())],
            Arc::new(DefaultTimeProvider),
        );
        assert_eq!(at(&itself, &alone), "good");
        let both = trusting(&other);
        both.set(vec![other.fingerprint(), ca.fingerprint()]);
        assert_eq!(at(&both, &shown), "good");
    }

    #[test]
    fn no_storage_server_passes_for_the_coordinator_or_for_another() {
        let ca = Authority::generate().unwrap();
        let trust = trusting(&ca);
        let point = Key::generate().unwrap().public();
        // It announced the coordinator's host.
        let seven = ca.certify_server(ServerId(7), point, "10.0.0.1", NOW_S * 1000, DAY).unwrap();
        let as_peer = |peer| verify(&trust, peer, &seven, "10.0.0.1", NOW_S);
        assert_eq!(as_peer(Peer::Server(ServerId(7))), "good");
        assert!(as_peer(Peer::Server(ServerId(70))).contains("another service of the vault"));
        assert!(as_peer(Peer::Coordinator).contains("another service of the vault"));
        let elsewhere = verify(&trust, Peer::Server(ServerId(7)), &seven, "nas", NOW_S);
        assert!(elsewhere.contains("is for 10.0.0.1, not for nas:"), "{elsewhere}");
    }

    #[test]
    fn a_token_names_its_cas() {
        let token =
            |ca: &str| Token { ca: ca.into(), ..Token::generate(Role::Owner, "u".into()).unwrap() };
        let (a, b) = (Digest([1; 32]), Digest([2; 32]));
        assert!(Trust::of(&token("")).unwrap().is_none());
        assert_eq!(Trust::of(&token(&a.to_string())).unwrap().pins(), [a]);
        assert_eq!(Trust::of(&token(&format!("{a},{b}"))).unwrap().pins(), [a, b]);
        assert!(Trust::of(&token("none")).is_err());
    }
}
