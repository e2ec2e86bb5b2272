//! Asks servers at random for what they say they hold: a shard's table and one block of it,
//! which the stripe's id certifies. A server cannot answer from memory of hashes alone, and does
//! not know what it will be asked.

use std::ops::Range;
use std::sync::Weak;
use std::time::Duration;

use codec::digest::BLOCK_BYTES;
use codec::shard::Header;
use codec::{Geometry, StripeId};

use super::catalog::Mapped;
use super::events::{Kind, Told};
use super::fleet::Member;
use super::{Core, prober, reconcile};
use crate::auth::{self, Grant};
use crate::client::StorageClient;
use crate::wire::{Code, ReadTicket, State, StripeMap, Work};
use crate::{Error, Result};

/// A server that gives nothing for so long does not answer.
const SILENCE: Duration = Duration::from_secs(10);

/// What is asked for, drawn before anything of the stripe is known.
#[derive(Debug, Clone, Copy)]
struct Draw {
    /// The shard is that of the first stripe from here on.
    from: StripeId,
    /// Which of its blocks: at this share of all of them.
    block: u64,
}

impl Draw {
    fn new(random: [u8; 40]) -> Self {
        let (mut from, mut block) = ([0; StripeId::LEN], [0; 8]);
        from.copy_from_slice(&random[..StripeId::LEN]);
        block.copy_from_slice(&random[StripeId::LEN..]);
        Self { from: StripeId(from), block: u64::from_le_bytes(block) }
    }

    fn block_of(self, blocks: u64) -> u64 {
        // Less than `blocks`, which is 64 bits.
        ((u128::from(self.block) * u128::from(blocks)) >> 64) as u64
    }
}

/// Where things are in a shard file, by the map.
#[derive(Debug, PartialEq, Eq)]
struct Places {
    header: Range<u64>,
    /// The number of the block, and where it is.
    block: (u64, Range<u64>),
}

fn places(geometry: Geometry, pack_bytes: u64, pack_key_bytes: usize, draw: Draw) -> Places {
    let shard_bytes = geometry.shard_bytes(pack_bytes);
    let header_bytes = Header::encoded_bytes(geometry, pack_key_bytes, shard_bytes);
    let number = draw.block_of(shard_bytes.div_ceil(BLOCK_BYTES as u64));
    let begin = number * BLOCK_BYTES as u64;
    let end = shard_bytes.min(begin + BLOCK_BYTES as u64);
    Places { header: 0..header_bytes, block: (number, header_bytes + begin..header_bytes + end) }
}

/// How a server answered.
#[derive(Debug)]
enum Answer {
    Right,
    /// With something else than the shard, or that it has it not.
    Wrong(String),
    /// Not, this time.
    None(Error),
}

/// Audits one shard of every server that is up, again and again, until the coordinator is gone.
pub(super) async fn run(core: Weak<Core>, every: Duration) {
    let mut client = None;
    loop {
        tokio::time::sleep(every).await;
        let Some(core) = core.upgrade() else { return };
        let client = client.get_or_insert_with(|| {
            let trust = core.certifier.trust(core.catalog.clock);
            StorageClient::new(SILENCE, &trust).with_work(Work::Background)
        });
        for member in core.fleet.members() {
            if member.health.state != State::Up {
                continue;
            }
            let name = &member.row.name;
            match audit(&core, client, &member).await {
                Ok(()) => {}
                Err(error) => tracing::warn!(name, %error, "no audit"),
            }
        }
    }
}

async fn audit(core: &Core, client: &StorageClient, member: &Member) -> Result<()> {
    let draw = Draw::new(auth::random()?);
    let server = member.row.server;
    let Some((map, mapped)) = core.catalog.sample(server, draw.from).await? else { return Ok(()) };
    let ticket = ReadTicket {
        server,
        name: member.row.name.clone(),
        zone: member.row.zone.clone(),
        url: member.row.url.clone(),
        state: member.health.state,
        ticket: prober::ticket(core, member, Grant::Read, core.catalog.epoch())?,
    };
    let (name, index) = (&member.row.name, mapped.index);
    match ask(core, client, &ticket, &map, mapped, draw).await {
        Answer::Right => tracing::debug!(name, stripe = %map.stripe, index, "audited"),
        Answer::None(error) => {
            tracing::info!(name, %error, "an audit got no answer");
            if !matches!(error.code(), Some(Code::Busy | Code::NotReady)) {
                core.fleet.failed(&[server], core.catalog.clock.now_ms());
            }
        }
        Answer::Wrong(why) => {
            tracing::warn!(name, stripe = %map.stripe, index, why, "an audit got a wrong answer");
            let told = Told::of(Kind::Audit, format!("a wrong answer for shard {index}: {why}"));
            let now_ms = core.catalog.clock.now_ms();
            core.journal.note(told.on(name).in_stripe(map.stripe), now_ms);
            if let Err(why) = reconcile::look_again(core, member, mapped).await {
                tracing::warn!(name, why, "what the audit met was not looked at");
            }
        }
    }
    Ok(())
}

async fn ask(
    core: &Core,
    client: &StorageClient,
    ticket: &ReadTicket,
    map: &StripeMap,
    Mapped { stripe, index, .. }: Mapped,
    draw: Draw,
) -> Answer {
    let Places { header, block: (number, block) } =
        places(map.geometry, map.pack_bytes, map.pack_key.0.len(), draw);
    let asked = async {
        let header = Header::parse(&client.get_range(ticket, stripe, index, header).await?)?;
        let is = (header.vault, header.stripe, header.index);
        if is != (core.catalog.vault, stripe, index) {
            let why = format!("it is shard {} of stripe {}", header.index, header.stripe);
            return Err(codec::Error::damaged("shard file", why).into());
        }
        let block = client.get_range(ticket, stripe, index, block).await?;
        Ok(header.check_block(number as usize, &block)?)
    };
    match asked.await {
        Ok(()) => Answer::Right,
        Err(Error::Codec(error)) => Answer::Wrong(error.to_string()),
        Err(error) => match error.code() {
            Some(Code::NotFound | Code::Damaged) => Answer::Wrong(error.to_string()),
            _ => Answer::None(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(block: u64) -> Draw {
        Draw { from: StripeId([0; 32]), block }
    }

    #[test]
    fn every_block_is_drawn_as_often_as_any_other() {
        let mut drawn = [0; 7];
        for n in 0..7000_u64 {
            drawn[draw(n * (u64::MAX / 7000)).block_of(7) as usize] += 1;
        }
        assert!(drawn.iter().all(|&times| (999..=1001).contains(&times)), "{drawn:?}");
        assert_eq!([0, u64::MAX].map(|block| draw(block).block_of(1)), [0, 0]);
        assert_eq!(draw(u64::MAX).block_of(u64::MAX), u64::MAX - 1);
        let random = Draw::new(std::array::from_fn(|at| at as u8));
        assert_eq!((random.from.0[31], random.block), (31, 0x2726_2524_2322_2120));
    }

    #[test]
    fn the_blocks_of_a_shard_lie_behind_its_header_and_the_last_is_short() {
        let geometry = Geometry::new(2, 1).unwrap();
        let (pack_bytes, block) = (300_000, BLOCK_BYTES as u64);
        let shard_bytes = geometry.shard_bytes(pack_bytes);
        let first = places(geometry, pack_bytes, 64, draw(0));
        let header_bytes = first.header.end;
        assert_eq!(header_bytes % 4096, 0);
        assert_eq!(first.block, (0, header_bytes..header_bytes + block));
        let last = places(geometry, pack_bytes, 64, draw(u64::MAX));
        assert_eq!(last.block, (2, header_bytes + 2 * block..header_bytes + shard_bytes));
    }
}
