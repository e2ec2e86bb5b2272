//! What a storage server asks of its coordinator: to join once, and to be
//! known again after every start.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::client::{http_client, unreachable};
use crate::tls::{Peer, Trust};
use crate::wire::{Hello, HelloAnswer, JoinAnswer, JoinRequest, Refusal};
use crate::{Error, Result};

const TIMEOUT: Duration = Duration::from_secs(5);
/// A longer answer is not from a coordinator.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// The coordinator, as a storage server knows it.
pub(super) struct Coordinator {
    http: reqwest::Client,
    url: String,
}

impl Coordinator {
    pub(super) fn new(url: &str, trust: &Trust) -> Result<Self> {
        if url.starts_with("https://") && trust.is_none() {
            return Err(Error::Untrusted {
                service: format!("coordinator {url}"),
                why: "no fingerprint is known to check it by: give --join-token-file with its \
                      present join.token"
                    .to_owned(),
            });
        }
        let http = http_client(trust, Peer::Coordinator)?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned() })
    }

    /// Joins under a new name, with the secret of a join token.
    pub(super) async fn join(&self, secret: &str, request: &JoinRequest) -> Result<JoinAnswer> {
        self.answer(self.post("/v1/join", request).bearer_auth(secret)).await
    }

    pub(super) async fn hello(&self, hello: &Hello) -> Result<HelloAnswer> {
        self.answer(self.post("/v1/hello", hello)).await
    }

    fn post(&self, path: &str, body: &impl Serialize) -> reqwest::RequestBuilder {
        self.http.post(format!("{}{path}", self.url)).timeout(TIMEOUT).json(body)
    }

    async fn answer<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T> {
        let service = || format!("coordinator at {}", self.url);
        let unreachable = |error| unreachable(&service(), &error);
        let nonsense = |why: String| Error::Nonsense { service: service(), why };
        let mut response = request.send().await.map_err(unreachable)?;
        let mut bytes = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(unreachable)? {
            if bytes.len() + piece.len() > ANSWER_BYTES_MAX {
                return Err(nonsense(format!("more than {ANSWER_BYTES_MAX} bytes")));
            }
            bytes.extend_from_slice(&piece);
        }
        let status = response.status();
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(|error| nonsense(error.to_string()));
        }
        let refusal: Refusal = serde_json::from_slice(&bytes)
            .map_err(|_| nonsense(format!("status {status} without a reason")))?;
        Err(Error::Refused { service: service(), refusal })
    }
}
