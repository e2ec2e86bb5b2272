//! What a service shows: a certificate that can be replaced while it runs.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use codec::Digest;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;

use super::{ALPN, Key, crypto, fingerprint};
use crate::wire::Certificate;
use crate::{Error, Result};

/// Bytes of a file with certificates, or a key, at most.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// Certificates that somebody else made.
#[derive(Debug, Clone)]
pub struct OwnCertificate {
    /// A file with the chain, as PEM: the service's own first, and last the one that it is
    /// trusted by.
    pub chain: PathBuf,
    /// A file with the private key, as PEM.
    pub key: PathBuf,
}

/// What a service shows whoever connects; nothing, until it has something.
#[derive(Default)]
pub struct Certificates {
    shown: RwLock<Option<Arc<CertifiedKey>>>,
    /// The last of a chain that was given.
    given: Option<Digest>,
}

impl Certificates {
    /// Those in files.
    pub(crate) fn given(own: &OwnCertificate) -> Result<Self> {
        let bytes = read(&own.chain)?;
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(&bytes).collect::<Result<_, _>>().map_err(|error| {
                Error::Config(format!("{} is no PEM file: {error}", own.chain.display()))
            })?;
        let Some(last) = chain.last().map(fingerprint) else {
            let why = format!("{} has no certificate in it", own.chain.display());
            return Err(Error::Config(why));
        };
        let key = PrivateKeyDer::from_pem_slice(&read(&own.key)?).map_err(|error| {
            Error::Config(format!("{} has no private key in it: {error}", own.key.display()))
        })?;
        let certified = CertifiedKey::from_der(chain, key, &crypto()).map_err(|error| {
            let (chain, key) = (own.chain.display(), own.key.display());
            Error::Config(format!("{chain} and {key} cannot be used together: {error}"))
        })?;
        Ok(Self { shown: RwLock::new(Some(Arc::new(certified))), given: Some(last) })
    }

    /// Shows a certificate of the vault's CA from now on.
    pub(crate) fn show(&self, certificate: &Certificate, key: &Key) -> Result<()> {
        let chain = certificate.chain.iter().map(|der| der.0.clone().into()).collect();
        let certified = CertifiedKey::from_der(chain, key.private(), &crypto())
            .map_err(|error| Error::Config(format!("the certificate cannot be used: {error}")))?;
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(certified));
        Ok(())
    }

    /// The fingerprint that certificates which were given are trusted by; none for those of the
    /// vault's CA.
    pub(crate) fn given_by(&self) -> Option<Digest> {
        self.given
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("given", &self.given).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.shown.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The server's side of handshakes. No session is resumed: every connection is checked.
pub(crate) fn acceptor(certificates: Arc<Certificates>) -> Result<TlsAcceptor> {
    let mut config = ServerConfig::builder_with_provider(crypto())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| Error::Config(format!("TLS cannot be set up: {error}")))?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes))
        .map_err(Error::io("cannot read", path))?;
    Ok(bytes)
}
