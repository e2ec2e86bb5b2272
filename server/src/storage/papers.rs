//! What a server keeps for TLS, in its file `tls`: a key that never leaves this machine, the
//! coordinator's certificate for it, and whom it trusts.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use codec::Digest;
use rustls::time_provider::TimeProvider;
use serde::{Deserialize, Serialize};

use super::folder::Folder;
use super::server::blocking;
use crate::auth::Token;
use crate::tls::{Certificates, Key, Trust};
use crate::wire::{Blob, Certificate, TlsAnswer, TlsWish};
use crate::{Error, Result};

const FILE: &str = "tls";

/// The file.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// The key (PKCS#8), once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<Blob>,
    /// The last certificate for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificate: Option<Certificate>,
    /// The CAs of the vault.
    #[serde(default)]
    trust: Vec<Digest>,
}

/// These, and what is made of them.
pub(super) struct Papers {
    folder: Arc<Folder>,
    /// Whom this server trusts.
    pub(super) trust: Trust,
    /// What it shows with a key of its own; none where it speaks plain HTTP, or shows a
    /// certificate that it was given.
    own: Option<(Arc<Certificates>, Key)>,
    kept: Mutex<Kept>,
}

impl Papers {
    /// Reads the file, and shows the last certificate until the coordinator gives another. The
    /// CAs that a token names are trusted too.
    pub(super) fn open(
        folder: Arc<Folder>,
        shown: Option<Arc<Certificates>>,
        token: Option<&Token>,
        time: Arc<dyn TimeProvider>,
    ) -> Result<Self> {
        let mut kept = match folder.read(FILE)?.map(|bytes| serde_json::from_slice(&bytes)) {
            None => Kept::default(),
            Some(Ok(kept)) => kept,
            Some(Err(error)) => {
                // The coordinator gives all of it again.
                tracing::warn!(%error, "{} is not used", folder.root().join(FILE).display());
                Kept::default()
            }
        };
        let mut pins = token.map_or(Ok(vec![]), |token| Trust::of(token).map(|t| t.pins()))?;
        pins.extend(kept.trust.iter().filter(|pin| !pins.contains(pin)).collect::<Vec<_>>());
        let own = match shown.filter(|shown| shown.given_by().is_none()) {
            None => None,
            Some(shown) => {
                let key = match kept.key.as_ref().map(|key| Key::from_der(&key.0)) {
                    Some(Ok(key)) => key,
                    _ => Key::generate()?,
                };
                kept.key = Some(Blob(key.to_der()));
                if let Some(certificate) = &kept.certificate
                    && let Err(error) = shown.show(certificate, &key)
                {
                    tracing::warn!(%error, "the certificate that was kept is not shown");
                    kept.certificate = None;
                }
                Some((shown, key))
            }
        };
        let trust = Trust::new(pins, time);
        Ok(Self { folder, trust, own, kept: Mutex::new(kept) })
    }

    /// What to ask the coordinator for.
    pub(super) fn wish(&self) -> TlsWish {
        TlsWish { key: self.own.as_ref().map(|(_, key)| Blob(key.public())) }
    }

    /// When another certificate is due, in the coordinator's time; `None` where none is needed.
    pub(super) fn renew_ms(&self) -> Option<u64> {
        self.own.as_ref()?;
        Some(self.kept().certificate.as_ref().map_or(0, Certificate::renew_ms))
    }

    /// Takes what the coordinator gave. What cannot be kept, since the disk is full, is used all
    /// the same.
    pub(super) async fn take(self: &Arc<Self>, answer: TlsAnswer) -> Result<()> {
        let TlsAnswer { trust, certificate } = answer;
        if let (Some((shown, key)), Some(certificate)) = (&self.own, &certificate) {
            shown.show(certificate, key)?;
            tracing::info!("the coordinator gave a certificate");
        }
        self.trust.set(trust.clone());
        let changed = {
            let mut kept = self.kept();
            let before = kept.clone();
            kept.trust = trust;
            kept.certificate = certificate.or(kept.certificate.take());
            *kept != before
        };
        if !changed {
            return Ok(());
        }
        let papers = Arc::clone(self);
        if let Err(error) = blocking(move || papers.write()).await {
            tracing::warn!(%error, "what the coordinator gave for TLS is not kept");
        }
        Ok(())
    }

    fn write(&self) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(&*self.kept())
            .map_err(|error| Error::Config(format!("cannot write {FILE}: {error}")))?;
        self.folder.write(FILE, &bytes)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
