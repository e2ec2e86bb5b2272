//! The shards of one stripe on their way, in one buffer that goes back to its pool.

use std::sync::Arc;

use bytes::Bytes;
use codec::stripe::Stripe;
use codec::{Digest, Geometry, StripeId};
use server::client::PutShard;

use super::packer::BufferReturn;

/// A stripe's shards, ready to be sent any number of times without a copy.
pub struct Shards {
    /// The stripe.
    pub stripe: StripeId,
    /// Its code.
    pub geometry: Geometry,
    /// Bytes of each shard file.
    pub file_bytes: u64,
    body_bytes: usize,
    ends: Vec<(Bytes, Digest, Bytes)>,
    bodies: Bytes,
}

impl Shards {
    /// The shards of `stripe`, whose buffer goes back to `buffers` when all are sent.
    pub fn new(stripe: Stripe, buffers: Option<BufferReturn>) -> Self {
        Self {
            stripe: stripe.id,
            geometry: stripe.geometry,
            file_bytes: stripe.file_bytes(),
            body_bytes: stripe.shard_bytes as usize,
            ends: stripe
                .shards
                .into_iter()
                .map(|ends| (Bytes::from(ends.header), ends.header_hash, Bytes::from(ends.footer)))
                .collect(),
            bodies: Bytes::from_owner(Lent { buffer: stripe.bodies, buffers }),
        }
    }

    /// Shard `index`; none when the code has fewer.
    pub fn shard(&self, index: u8, on_sent: Arc<dyn Fn(u64) + Send + Sync>) -> Option<PutShard> {
        let at = usize::from(index);
        let (header, header_hash, footer) = self.ends.get(at)?;
        Some(PutShard {
            stripe: self.stripe,
            header: header.clone(),
            header_hash: *header_hash,
            body: self.bodies.slice(at * self.body_bytes..(at + 1) * self.body_bytes),
            footer: footer.clone(),
            on_sent,
        })
    }
}

/// A pool's buffer while its bytes are being sent; goes back when the last of them is let go.
struct Lent {
    buffer: Vec<u8>,
    buffers: Option<BufferReturn>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(buffers) = &self.buffers {
            // The pool is gone when the push is over.
            let _ = buffers.send(std::mem::take(&mut self.buffer));
        }
    }
}
