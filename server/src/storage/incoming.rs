//! One shard on its way in: header first, every byte checked while it is
//! written, nothing visible before all of it is there and synced.

use bytes::Bytes;
use codec::Digest;
use codec::shard::{BodyCheck, Header, PEEK_BYTES};

use super::address::Address;
use super::fail_points::FailPoint;
use super::inspect::{Inspection, check_address};
use super::shelf::Shelf;
use super::temporary::Temporary;
use crate::wire::Code;
use crate::{Error, Result};

impl Shelf {
    /// Stores the shard that comes in `pieces`, and gives the hash of its header. The same shard
    /// again changes nothing and gives the same; its pieces are not taken.
    pub(super) fn put(
        &self,
        address: Address,
        file_bytes: u64,
        pieces: impl Iterator<Item = Bytes>,
    ) -> Result<Digest> {
        self.room.require_sound()?;
        if let Inspection::Good(header_hash) = self.stored(address)? {
            return Ok(header_hash);
        }
        let _promise = self.room.promise(file_bytes)?;
        let mut incoming = Incoming::create(self, address, file_bytes)?;
        self.planted.reach(FailPoint::PutBegun);
        for piece in pieces {
            incoming.take(piece)?;
            self.planted.reach(FailPoint::PutPartWritten);
        }
        incoming.finish()
    }
}

struct Incoming<'a> {
    shelf: &'a Shelf,
    address: Address,
    file_bytes: u64,
    seen_bytes: u64,
    written_bytes: u64,
    temporary: Temporary,
    state: State,
}

enum State {
    /// The header as far as it came.
    Header(Vec<u8>),
    Body(Box<BodyCheck>, Digest),
}

impl<'a> Incoming<'a> {
    fn create(shelf: &'a Shelf, address: Address, file_bytes: u64) -> Result<Self> {
        let (temporary, state) = (shelf.temporary(address)?, State::Header(Vec::new()));
        Ok(Self { shelf, address, file_bytes, seen_bytes: 0, written_bytes: 0, temporary, state })
    }

    fn take(&mut self, piece: Bytes) -> Result<()> {
        self.seen_bytes += piece.len() as u64;
        if self.seen_bytes > self.file_bytes {
            let why = format!("more than the {} bytes of the ticket", self.file_bytes);
            return Err(Error::refuse(Code::TooLarge, why));
        }
        match &mut self.state {
            State::Body(check, _) => {
                check.update(&piece)?;
                self.write(&piece)
            }
            State::Header(_) => self.take_header(piece),
        }
    }

    /// Takes bytes of the header, then turns to the body with what is left of the piece.
    fn take_header(&mut self, mut piece: Bytes) -> Result<()> {
        let State::Header(header) = &mut self.state else { return Ok(()) };
        take_up_to(header, &mut piece, PEEK_BYTES);
        if header.len() < PEEK_BYTES {
            return Ok(());
        }
        let header_bytes = Header::peek_bytes(header)?;
        if header_bytes as u64 > self.file_bytes {
            let why = format!("a header of {header_bytes} bytes in {} bytes", self.file_bytes);
            return Err(Error::refuse(Code::BadRequest, why));
        }
        take_up_to(header, &mut piece, header_bytes);
        if header.len() < header_bytes {
            return Ok(());
        }
        let parsed = Header::parse(header)?;
        check_address(&parsed, self.shelf.vault, self.address)?;
        if parsed.file_bytes() != self.file_bytes {
            let (file_bytes, ticket) = (parsed.file_bytes(), self.file_bytes);
            let why = format!("a shard of {file_bytes} bytes, the ticket is for {ticket}");
            return Err(Error::refuse(Code::BadRequest, why));
        }
        let mut check = BodyCheck::new(&parsed);
        check.update(&piece)?;
        let header = std::mem::take(header);
        self.state = State::Body(Box::new(check), parsed.header_hash);
        self.write(&header)?;
        self.write(&piece)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.temporary.write_at(bytes, self.written_bytes)?;
        self.written_bytes += bytes.len() as u64;
        Ok(())
    }

    fn finish(self) -> Result<Digest> {
        let State::Body(check, header_hash) = self.state else {
            return Err(cut_short(self.seen_bytes, self.file_bytes));
        };
        if self.seen_bytes < self.file_bytes {
            return Err(cut_short(self.seen_bytes, self.file_bytes));
        }
        check.finish()?;
        self.shelf.planted.reach(FailPoint::PutWritten);
        self.shelf.sync(&self.temporary)?;
        self.shelf.planted.reach(FailPoint::PutSynced);
        self.shelf.publish(self.temporary.path(), self.address)?;
        self.shelf.planted.reach(FailPoint::PutKept);
        Ok(header_hash)
    }
}

/// Moves bytes from the front of `piece` until `bytes` has `wanted`.
fn take_up_to(bytes: &mut Vec<u8>, piece: &mut Bytes, wanted: usize) {
    let missing = wanted.saturating_sub(bytes.len()).min(piece.len());
    bytes.extend_from_slice(&piece.split_to(missing));
}

fn cut_short(seen_bytes: u64, file_bytes: u64) -> Error {
    let why = format!("the shard was cut short: {seen_bytes} of {file_bytes} bytes came");
    Error::refuse(Code::BadRequest, why)
}
