//! The CA at work: what the coordinator shows itself, and what it certifies for servers.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use codec::Digest;
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

use super::Core;
use super::clock::Clock;
use super::events::{Kind, Told};
use crate::tls::{Authority, Certificates, Key, Trust};
use crate::wire::{Blob, Certificate, Code, ServerId, TlsAnswer, TlsWish};
use crate::{Error, Result};

/// A certificate that could not be made is tried again after this.
const RETRY: Duration = Duration::from_secs(60);
/// The longest sleep until one is due: a machine that was put to sleep finds out late.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

/// The CA, and how long its certificates last.
pub(super) struct Certifier {
    authority: Authority,
    /// What the coordinator shows; `None` where it speaks plain HTTP.
    shown: Option<Arc<Certificates>>,
    /// What it is reached by.
    hosts: Vec<String>,
    life: Duration,
}

impl Certifier {
    /// One for a coordinator that listens there, and tells others to reach it by `advertise`.
    pub(super) fn new(
        authority: Authority,
        shown: Option<Arc<Certificates>>,
        (address, advertise): (SocketAddr, Option<&str>),
        life: Duration,
    ) -> Result<Self> {
        let mut hosts = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
        let advertise = advertise.filter(|_| shown.is_some());
        hosts.extend(advertise.map(host).transpose()?);
        if !address.ip().is_unspecified() {
            hosts.push(address.ip().to_string());
        }
        hosts.sort();
        hosts.dedup();
        Ok(Self { authority, shown, hosts, life })
    }

    /// The CAs by which the vault's services are known: the own one, and that of a certificate
    /// which the coordinator was given.
    pub(super) fn pins(&self) -> Vec<Digest> {
        let given = self.shown.as_ref().and_then(|shown| shown.given_by());
        let own = self.authority.fingerprint();
        given.filter(|given| *given != own).into_iter().chain([own]).collect()
    }

    /// Whom the coordinator trusts: servers are asked at its own time, which certificates go by.
    pub(super) fn trust(&self, clock: Clock) -> Trust {
        Trust::new(self.pins(), Arc::new(clock))
    }

    /// Shows a new certificate, and says when the next one is due; `None` if none is shown that
    /// is made here.
    pub(super) fn renew(&self, now_ms: u64) -> Result<Option<u64>> {
        let Some(shown) = self.shown.as_ref().filter(|shown| shown.given_by().is_none()) else {
            return Ok(None);
        };
        let key = Key::generate()?;
        let made = self.authority.certify_coordinator(&key, &self.hosts, now_ms, self.life)?;
        shown.show(&made, &key)?;
        Ok(Some(made.renew_ms()))
    }

    /// What a server at `url` gets for its wish.
    pub(super) fn answer(
        &self,
        server: ServerId,
        url: &str,
        wish: &TlsWish,
        now_ms: u64,
    ) -> Result<TlsAnswer> {
        let certify = |key: &Blob| -> Result<Certificate> {
            self.authority.certify_server(server, key.0.clone(), &host(url)?, now_ms, self.life)
        };
        let certificate = wish.key.as_ref().map(certify).transpose()?;
        Ok(TlsAnswer { trust: self.pins(), certificate })
    }
}

/// Renews what the coordinator shows, until it is gone.
pub(super) async fn keep_renewing(core: Weak<Core>, mut due_ms: u64) {
    loop {
        let Some(now_ms) = core.upgrade().map(|core| core.catalog.clock.now_ms()) else { return };
        if now_ms < due_ms {
            let wait = Duration::from_millis(due_ms - now_ms);
            tokio::time::sleep(wait.min(SLEEP_MAX)).await;
            continue;
        }
        let Some(here) = core.upgrade() else { return };
        match here.certifier.renew(now_ms) {
            Ok(None) => return,
            Ok(Some(next_ms)) => {
                tracing::info!("the coordinator's certificate was renewed");
                due_ms = next_ms.max(now_ms + 1);
            }
            Err(error) => {
                tracing::error!(%error, "the coordinator's certificate is not renewed");
                let what = format!("the coordinator's own is not renewed: {error}");
                here.journal.note(Told::of(Kind::Certificate, what), now_ms);
                drop(here);
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// The host of a URL, an IPv6 address without its brackets.
fn host(url: &str) -> Result<String> {
    let parsed = reqwest::Url::parse(url).ok();
    let host = parsed.as_ref().and_then(|url| url.host_str());
    let host = host.map(|host| host.trim_start_matches('[').trim_end_matches(']').to_owned());
    host.ok_or_else(|| Error::refuse(Code::BadRequest, format!("{url:?} has no host")))
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.now_ms())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_and_bare_addresses() {
        for (url, expected) in [
            ("https://10.0.0.1:7070", "10.0.0.1"),
            ("https://[::1]:7070", "::1"),
            ("https://Nas.example", "nas.example"),
        ] {
            assert_eq!(host(url).unwrap(), expected);
        }
        assert!(host("nas").is_err());
    }
}
