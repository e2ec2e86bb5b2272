//! A vault that stores whatever it is told to, manifests that no arc writes among it.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use codec::keys::{Secret, VaultKeys, VaultRecord};
use codec::manifest::{ChunkRef, Entry, PageRef};
use codec::pack::{Pack, PackBuilder, seal_record};
use codec::seal::{FrameKind, PackKey, PackKeyField};
use codec::shard::Kind;
use codec::snapshot::{Snapshot, Stats};
use codec::stripe::Stripe;
use codec::{Geometry, frame};
use server::auth::{Token, random};
use server::client::{CoordinatorClient, PutShard, StorageClient};
use server::tls::Trust;
use server::wire::{BeginRequest, CommitSnapshot, CommitStripe, Ids, Lease, PlaceRequest};

use crate::sandbox::{KEY_FILE, Sandbox, Service, text};

/// A vault on servers, and a client of it that stores whatever it is told to.
pub(crate) struct Hostile {
    pub(crate) sandbox: Sandbox,
    client: CoordinatorClient,
    record: VaultRecord,
    keys: VaultKeys,
    /// Stripes of this kind are sealed as anybody can, to the vault's public key.
    pub(crate) foreign: Option<Kind>,
    _services: Vec<Service>,
}

/// Chunks to be stored: their kind and bytes.
pub(crate) type Chunks<'a> = &'a [(FrameKind, &'a [u8])];

impl Hostile {
    pub(crate) async fn new() -> Self {
        let sandbox = Sandbox::new();
        let coordinator = sandbox.coordinator("127.0.0.1:0");
        let storage = |name: &str| sandbox.storage(&coordinator, name, name);
        let mut services: Vec<Service> = ["a", "b", "c"].map(storage).into();
        let token = sandbox.path("coordinator/owner.token");
        let init = ["init", &coordinator.url, "--token-file", text(&token), "--code", "2+1"];
        sandbox.arc(init).exits(0);
        let token: Token = fs::read_to_string(token).unwrap().trim().parse().unwrap();
        let client =
            CoordinatorClient::new(&coordinator.url, &token.secret, &Trust::none()).unwrap();
        let record = client.vault().await.unwrap().record.unwrap();
        let record = VaultRecord::decode(&record.0).unwrap();
        let secret = Secret::KeyFile(KEY_FILE.to_vec().into());
        let keys = record.unlock(&secret).unwrap();
        services.push(coordinator);
        Self { sandbox, client, record, keys, foreign: None, _services: services }
    }

    pub(crate) fn chunk_ref(&self, bytes: &[u8]) -> ChunkRef {
        ChunkRef { id: self.keys.chunk_id(bytes), bytes: bytes.len() as u32 }
    }

    /// Makes a snapshot of one manifest page with these entries, unchecked; `chunks` besides.
    pub(crate) async fn snapshot(&self, entries: &[Entry], chunks: Chunks<'_>) -> String {
        let page = page(0, 0, entries);
        let root = PageRef { chunk: self.chunk_ref(&page), height: 0, count: entries.len() as u64 };
        let chunks = [chunks, &[(FrameKind::Metadata, &page)]].concat();
        self.snapshot_of(root, &chunks).await
    }

    /// Makes a snapshot of that root.
    pub(crate) async fn snapshot_of(&self, root: PageRef, chunks: Chunks<'_>) -> String {
        let source_set = self.keys.source_set("hostile", &[]);
        let lease = self.client.begin(&BeginRequest { source_set, parent: None }).await.unwrap();
        let (key, field) = self.pack_key(Kind::Data);
        let mut pack = PackBuilder::new(self.record.vault, key, Vec::new());
        for (kind, bytes) in chunks {
            let id = self.keys.chunk_id(bytes);
            let frame = frame::encode(&[(id, bytes)], 3).unwrap();
            pack.append(*kind, frame, &[(id, bytes.len() as u32)]).unwrap();
        }
        let pack = pack.finish().unwrap();
        let geometry = self.record.geometry.for_pack(pack.bytes.len() as u64);
        let commit = self.store(&lease, Kind::Data, geometry, pack, field).await;
        self.client.commit_stripe(&commit).await.unwrap();

        let record = Snapshot {
            manifest: root,
            host: "hostile".into(),
            user: String::new(),
            sources: vec![],
            tags: vec![],
            began_ms: 0,
            ended_ms: 0,
            parent: None,
            stats: Stats::default(),
            program: String::new(),
        };
        let (key, field) = self.pack_key(Kind::Snapshot);
        let pack = seal_record(self.record.vault, key, &record.encode().unwrap()).unwrap();
        let copies = self.record.geometry.copies();
        let stripe = self.store(&lease, Kind::Snapshot, copies, pack, field).await;
        let commit = CommitSnapshot { stripe, source_set };
        let row = self.client.commit_snapshot(&commit).await.unwrap();
        self.client.end(lease.lease).await.unwrap();
        row.id.to_string()
    }

    fn pack_key(&self, kind: Kind) -> (PackKey, PackKeyField) {
        let key = PackKey::new(random().unwrap());
        let (vault, random_bytes) = (self.record.vault, random().unwrap());
        let field = match self.foreign {
            Some(foreign) if foreign == kind => {
                key.seal_to(self.record.public_key(), vault, random_bytes.into()).unwrap()
            }
            _ => key.wrap(&self.keys, vault, random().unwrap()),
        };
        (key, field)
    }

    /// Puts all shards of a pack where the coordinator says; the commit of its stripe.
    async fn store(
        &self,
        lease: &Lease,
        kind: Kind,
        geometry: Geometry,
        pack: Pack,
        pack_key: PackKeyField,
    ) -> CommitStripe {
        let Pack { bytes, frames, chunks } = pack;
        let stripe = Stripe::encode(self.record.vault, kind, geometry, pack_key, bytes).unwrap();
        let place = PlaceRequest {
            lease: lease.lease,
            stripe: stripe.id,
            geometry,
            file_bytes: stripe.file_bytes(),
            stored: vec![],
            avoid: vec![],
            min_shards: geometry.shards() as u8,
        };
        let placement = self.client.place(&place).await.unwrap();
        let storage = StorageClient::new(Duration::from_secs(30), &Trust::none());
        let mut receipts = Vec::new();
        for place in &placement.places {
            let ends = &stripe.shards[usize::from(place.index)];
            let shard = PutShard {
                stripe: stripe.id,
                header: Bytes::from(ends.header.clone()),
                header_hash: ends.header_hash,
                body: Bytes::copy_from_slice(stripe.body(place.index.into())),
                footer: Bytes::from(ends.footer.clone()),
                on_sent: Arc::new(|_| {}),
            };
            receipts.push(storage.put_shard(place, placement.epoch, shard).await.unwrap());
        }
        let (ids, chunk_frames) = chunks.into_iter().unzip();
        CommitStripe {
            lease: lease.lease,
            stripe: stripe.id,
            kind,
            geometry,
            pack_bytes: stripe.pack_bytes,
            pack_key: stripe.pack_key.clone(),
            frames: frames.into_iter().map(|(kind, end)| (kind as u8, end)).collect(),
            chunks: Ids(ids),
            chunk_frames,
            receipts,
        }
    }
}

/// A page with these items; of a manifest if its kind is 0, of a list of chunks if it is 1.
pub(crate) fn page(kind: u8, height: u8, items: &[impl serde::Serialize]) -> Vec<u8> {
    let mut page = Vec::new();
    ciborium::into_writer(&codec::FORMAT_VERSION, &mut page).unwrap();
    ciborium::into_writer(&(kind, height, items.len()), &mut page).unwrap();
    for item in items {
        ciborium::into_writer(item, &mut page).unwrap();
    }
    page
}
