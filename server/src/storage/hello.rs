//! What a storage server asks of its coordinator: to join once, and to be
//! known again after every start.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::wire::{
    BUILD_HEADER, Hello, HelloAnswer, JoinAnswer, JoinRequest, PROTOCOL, PROTOCOL_HEADER, Refusal,
};
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
    pub(super) fn new(url: &str) -> Result<Self> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIMEOUT)
            .build()
            .map_err(|error| Error::Config(format!("cannot make an HTTP client: {error}")))?;
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
        self.http
            .post(format!("{}{path}", self.url))
            .header(PROTOCOL_HEADER, PROTOCOL)
            .header(BUILD_HEADER, env!("CARGO_PKG_VERSION"))
            .json(body)
    }

    async fn answer<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T> {
        let service = || format!("coordinator at {}", self.url);
        let unreachable = |error| Error::Unreachable { service: service(), why: innermost(&error) };
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

/// The cause that a person can act on; the outer texts repeat the URL.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
