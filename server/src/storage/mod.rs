//! One storage server on one disk.

use std::path::PathBuf;
use std::time::Duration;

use crate::Result;
use crate::auth::Token;
use crate::serve::{Listen, Running};
use crate::wire::ServerId;

/// How a storage server is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its folder.
    pub data: PathBuf,
    /// Where it listens.
    pub listen: Listen,
    /// The coordinator's URL.
    pub coordinator: String,
    /// The join token, needed on the first start only.
    pub join_token: Option<Token>,
    /// Its name; the host's name unless given. Used at the join only.
    pub name: Option<String>,
    /// Its failure domain; the host's name unless given. Used at the join only.
    pub zone: Option<String>,
    /// The URL that others reach it by, when it is not the one it listens on.
    pub advertise: Option<String>,
    /// Bytes of the disk that pushes may not use; `None`: the smaller of 2 % and 1 GiB.
    pub reserve_bytes: Option<u64>,
    /// How long requests under way may take to finish when it stops.
    pub drain: Duration,
}

/// A running storage server.
pub struct Storage {
    /// Its HTTP service.
    pub running: Running,
    /// Its number.
    pub server: ServerId,
    /// Its name.
    pub name: String,
}

/// Starts the server: opens (or, on the first start, joins and makes) its folder, listens,
/// and says hello to the coordinator; keeps trying that in the background while the coordinator is away.
pub async fn start(_config: Config) -> Result<Storage> {
    todo!()
}
