//! The rest of a peer's shard on its way here, asked for once: what a rebuild reads next is
//! coming while it works on what it has.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;

use crate::client::ShardRange;
use crate::{Error, Result};

#[derive(Default)]
pub(super) struct Flow(Mutex<State>);

#[derive(Default)]
enum State {
    #[default]
    NotAsked,
    /// What is to come, and where in the file it begins.
    Coming(Box<ShardRange>, u64),
    /// It broke off, or something else was read.
    Over,
}

impl Flow {
    /// Reads the `bytes` from `at` on of a file; `false` where they do not come: they are to be asked
    /// for by themselves. `open` asks for all from there on.
    ///
    /// # Errors
    ///
    /// The server does not answer, or nothing moves.
    pub(super) async fn read(
        &self,
        at: u64,
        bytes: usize,
        buffer: &mut BytesMut,
        open: impl Future<Output = Result<ShardRange>>,
    ) -> Result<bool> {
        // Over, unless all goes well.
        let state = std::mem::replace(&mut *self.lock(), State::Over);
        let read = async {
            let mut range = match state {
                State::NotAsked => Box::new(open.await?),
                State::Coming(range, next) if next == at => range,
                State::Coming(..) | State::Over => return Ok(false),
            };
            range.read(buffer, bytes).await?;
            *self.lock() = State::Coming(range, at + bytes as u64);
            Ok(true)
        };
        match read.await {
            Err(error @ Error::Unreachable { .. }) => Err(error),
            read => Ok(read.unwrap_or(false)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
