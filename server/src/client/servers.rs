//! HTTP clients for storage servers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::http_client;
use crate::Result;
use crate::tls::{Peer, Trust};
use crate::wire::ServerId;

/// One client for each server, which takes no other's certificate.
#[derive(Clone)]
pub(crate) struct Servers {
    trust: Trust,
    made: Arc<Mutex<HashMap<ServerId, reqwest::Client>>>,
}

impl Servers {
    pub(crate) fn new(trust: &Trust) -> Self {
        Self { trust: trust.clone(), made: Arc::default() }
    }

    /// The client for that server.
    pub(crate) fn client(&self, server: ServerId) -> Result<reqwest::Client> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = made.get(&server) {
            return Ok(client.clone());
        }
        let client = http_client(&self.trust, Peer::Server(server))?;
        made.insert(server, client.clone());
        Ok(client)
    }
}
