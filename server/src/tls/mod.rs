//! TLS: who a service is, and whom it believes.
//!
//! A vault has one CA, the coordinator's (`authority`). `certificates` is what
//! a service shows, `trust` how whoever connects to it decides: by the CA's
//! fingerprint, which comes with the token, so that nobody's list of public
//! CAs matters. TLS 1.3 only: both ends are this program.
//!
//! Certificates say more than an address: those that the CA makes for storage
//! servers name the server's number, and none of them passes for the
//! coordinator's or for another server's, whatever address it announced.

mod authority;
mod certificates;
mod trust;

use std::sync::Arc;

use aws_lc_rs::digest;
use codec::Digest;
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::pki_types::CertificateDer;

pub(crate) use self::authority::{Authority, Key, date_text};
pub(crate) use self::certificates::acceptor;
pub use self::certificates::{Certificates, OwnCertificate};
pub use self::trust::Trust;
pub(crate) use self::trust::{Peer, explain};
use crate::wire::ServerId;

/// All that TLS carries here.
const ALPN: &[u8] = b"http/1.1";

/// Every certificate that the CA makes for a storage server has this name, and that of
/// [`server_name`]. No host has it: `.invalid` is reserved.
const STORAGE: &str = "storage.arc.invalid";

/// The name in the certificate of one storage server.
fn server_name(server: ServerId) -> String {
    format!("server-{}.{STORAGE}", server.0)
}

/// Whether a host has a name that stands for something else in certificates.
pub(crate) fn is_reserved(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host == "arc.invalid" || host.ends_with(".arc.invalid")
}

/// Makes this program's cryptography the process's default; the first thing in `main`, since
/// HTTP clients that are made without it panic.
pub fn install_provider() {
    // It fails where one is installed already, which is as good.
    let _ = provider::default_provider().install_default();
}

fn crypto() -> Arc<CryptoProvider> {
    Arc::new(provider::default_provider())
}

/// What a certificate is known by: the SHA-256 of its DER.
pub(crate) fn fingerprint(certificate: &CertificateDer<'_>) -> Digest {
    let hash = digest::digest(&digest::SHA256, certificate);
    Digest(hash.as_ref().try_into().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_names_are_known_in_every_spelling() {
        for host in ["storage.arc.invalid", "server-1.STORAGE.arc.invalid.", "arc.invalid"] {
            assert!(is_reserved(host), "{host}");
        }
        for host in ["arc.invalid.example.org", "notarc.invalid", "127.0.0.1"] {
            assert!(!is_reserved(host), "{host}");
        }
    }
}
