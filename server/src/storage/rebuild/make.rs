//! Column by column: blocks of k shards in, the missing blocks out, and into
//! the spools. Memory is bounded whatever the length of the shards.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use codec::Digest;
use codec::digest::{self, BLOCK_BYTES};
use codec::erasure::Code;
use codec::shard::{Ends, Header};
use futures_util::future::join_all;

use super::grid::{Cell, Column, Grid, runs};
use super::pace::Pace;
use super::sources::{Sources, body_range};
use super::spools::Spools;
use crate::Result;
use crate::storage::fail_points::FailPoint;
use crate::storage::server::blocking;
use crate::wire::Outcome;

/// What is read at once of all shards together, but a block of each at least and
/// [`GROUP_BLOCKS_MAX`] at most. While one group is coded and written the next is read: twice
/// this is in memory, and what is on its way.
const GROUP_BYTES: usize = 2 * 1024 * 1024;
const GROUP_BLOCKS_MAX: usize = 16;

/// The making of the shards `wanted`, one for each spool.
pub(super) struct Maker<'a> {
    pub(super) sources: &'a Sources,
    pub(super) spools: &'a Arc<Spools>,
    pub(super) wanted: Arc<[u8]>,
    pub(super) pace: &'a Pace,
}

/// How far what sources send is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// What was made of it has to give the recorded roots: a third of the hashing.
    Result,
    /// Block by block, which also tells whose are bad.
    EachBlock,
}

/// Some columns on their way.
struct Group {
    check: Check,
    /// The number of the first one's block.
    first: usize,
    grid: Grid,
    /// The wanted blocks of each column, once they were made, and their hashes.
    made: Vec<Option<Made>>,
    /// All of them are in the spools.
    is_written: bool,
}

type Made = (Vec<Bytes>, Vec<Digest>);

impl Maker<'_> {
    /// Fills the spools with whole shard files and gives the hashes of their headers; or says why
    /// there are none.
    pub(super) async fn make(&self) -> Result<std::result::Result<Vec<Digest>, Outcome>> {
        if self.sources.are_sound(&self.wanted) {
            match self.attempt(Check::Result).await? {
                Err(Outcome::Inconsistent) => tracing::info!("a block was bad: all are checked"),
                made => return Ok(made),
            }
        }
        self.attempt(Check::EachBlock).await
    }

    async fn attempt(&self, check: Check) -> Result<std::result::Result<Vec<Digest>, Outcome>> {
        let Some(certified) = self.sources.certified() else {
            return Ok(Err(Outcome::TooFewSources));
        };
        let blocks = certified.block_hashes.len();
        let step = GROUP_BYTES / BLOCK_BYTES / certified.geometry.shards();
        let step = step.clamp(1, GROUP_BLOCKS_MAX);
        let mut groups = (0..blocks).step_by(step).map(|first| first..blocks.min(first + step));
        let mut tables = vec![Vec::with_capacity(blocks); self.wanted.len()];
        let mut ahead = self.begin(groups.next(), check).await?;
        self.spools.reach(FailPoint::ColumnsRead);
        while let Some(group) = ahead {
            let (made, begun) = tokio::join!(self.finish(group), self.begin(groups.next(), check));
            let Some(hashes) = made? else { return Ok(Err(Outcome::TooFewSources)) };
            for hashes in hashes {
                tables.iter_mut().zip(hashes).for_each(|(table, hash)| table.push(hash));
            }
            ahead = begun?;
        }
        // Where every block that went in was right, a wrong root lies with the stripe.
        let ends = self.wanted.iter().zip(&tables);
        let ends = ends.map(|(&index, table)| certified.sibling(index, table));
        let Ok(ends) = ends.collect::<codec::Result<Vec<Ends>>>() else {
            return Ok(Err(Outcome::Inconsistent));
        };
        let header_hashes = ends.iter().map(|ends| ends.header_hash).collect();
        let spools = Arc::clone(self.spools);
        blocking(move || spools.close(&ends)).await?;
        Ok(Ok(header_hashes))
    }

    /// Reads what a group is made of, if no block is bad: of the own disk first, and of that it is
    /// known.
    async fn begin(&self, columns: Option<Range<usize>>, check: Check) -> Result<Option<Group>> {
        let Some(Range { start, end }) = columns else { return Ok(None) };
        let data = self.sources.order.geometry.data();
        let indexes = self.sources.all.iter().map(|source| source.index).collect();
        let grid = Grid::new(data, Arc::clone(&self.wanted), indexes, end - start);
        let made = (start..end).map(|_| None).collect();
        let mut group = Group { check, first: start, grid, made, is_written: false };
        loop {
            let (own, peers) = self.sources.preferred();
            let plan = group.grid.plan(&own);
            if plan.is_empty() {
                let plan = group.grid.plan(&peers);
                self.read(&mut group, plan, end - start, true).await;
                return Ok(Some(group));
            }
            self.read(&mut group, plan, end - start, true).await;
            group = self.code(group).await?;
        }
    }

    /// Makes the missing blocks of a group, reading what its columns lack, and writes them. Gives
    /// their hashes; `None` where a column cannot be had.
    async fn finish(&self, mut group: Group) -> Result<Option<Vec<Vec<Digest>>>> {
        let mut longest = Some(group.made.len());
        if let Some(certified) = self.sources.certified() {
            let blocks = body_range(&certified, group.first..group.first + group.made.len());
            self.pace.take((blocks.end - blocks.start) * self.wanted.len() as u64).await;
        }
        loop {
            group = self.code(group).await?;
            if group.is_written {
                let made = group.made.into_iter().flatten();
                return Ok(Some(made.map(|(_, hashes)| hashes).collect()));
            }
            let (own, peers) = self.sources.preferred();
            let mut plan = group.grid.plan(&own);
            if plan.is_empty() {
                plan = group.grid.plan(&peers);
            }
            match (plan.is_empty(), longest) {
                (true, None) => return Ok(None),
                // What could not be read at one go may be had block by block.
                (true, Some(_)) => {
                    longest = None;
                    group.grid.forget_failures();
                }
                (false, _) => self.read(&mut group, plan, longest.unwrap_or(1), false).await,
            }
        }
    }

    /// Reads blocks of a group, in runs of `longest`. If `is_next`, what follows them is read next.
    async fn read(&self, group: &mut Group, plan: Plan, longest: usize, is_next: bool) {
        let (first, all) = (group.first, group.made.len());
        let reads = plan.iter().map(|(source, blocks)| async {
            let mut cells = Vec::with_capacity(blocks.len());
            for run in runs(blocks, longest) {
                let is_next = is_next && run == (0..all);
                let run = first + run.start..first + run.end;
                cells.extend(self.sources.read(*source, run, is_next).await);
            }
            cells
        });
        let read = join_all(reads).await;
        for ((source, blocks), cells) in plan.iter().zip(read) {
            blocks.iter().zip(cells).for_each(|(&at, cell)| group.grid.set(at, *source, cell));
        }
    }

    /// Checks what was read of a group, makes what can be made of it, and writes it once that is all.
    /// One thread does this to the end, column by column: handing them to others would cost more.
    async fn code(&self, mut group: Group) -> Result<Group> {
        let geometry = self.sources.order.geometry;
        let code = Code::new(geometry);
        let (spools, wanted) = (Arc::clone(self.spools), Arc::clone(&self.wanted));
        let headers: Vec<_> = self.sources.all.iter().map(|s| Arc::clone(&s.header)).collect();
        let (group, bad) = blocking(move || -> Result<_> {
            let bad = group.code(&code, geometry.shards(), &wanted, &headers)?;
            group.write(&spools)?;
            Ok((group, bad))
        })
        .await?;
        for (source, errors) in bad {
            self.sources.note_bad(source, errors).await;
        }
        Ok(group)
    }
}

/// Blocks to be read, by their sources.
type Plan = Vec<(usize, Vec<usize>)>;

impl Group {
    /// Column by column, while it is in the processor's cache. Gives what is bad of each source.
    fn code(
        &mut self,
        code: &Code,
        shards: usize,
        wanted: &[u8],
        headers: &[Arc<Header>],
    ) -> codec::Result<BTreeMap<usize, Vec<codec::Error>>> {
        let (needs, cells) = self.grid.columns();
        let mut bad: BTreeMap<usize, Vec<codec::Error>> = BTreeMap::new();
        for (number, (cells, made)) in (self.first..).zip(cells.iter_mut().zip(&mut self.made)) {
            for (source, error) in look_at(cells, headers, number, self.check) {
                bad.entry(source).or_default().push(error);
            }
            if made.is_none()
                && let Some(column) = needs.column(cells, shards)
            {
                *made = Some(make_column(code, wanted, column)?);
            }
        }
        Ok(bad)
    }

    /// Writes the columns into the spools, if all are made.
    fn write(&mut self, spools: &Spools) -> Result<()> {
        if self.is_written || !self.made.iter().all(Option::is_some) {
            return Ok(());
        }
        let columns = self.made.iter().flatten().map(|(blocks, _)| blocks.as_slice());
        spools.write(self.first, columns)?;
        self.is_written = true;
        Ok(())
    }
}

/// Looks at what was read of column `number`; gives which sources' hashes are wrong.
fn look_at(
    cells: &mut [Cell],
    headers: &[Arc<Header>],
    number: usize,
    check: Check,
) -> Vec<(usize, codec::Error)> {
    let mut bad = Vec::new();
    for (source, (cell, header)) in cells.iter_mut().zip(headers).enumerate() {
        let Cell::Read(block) = cell else { continue };
        let looked_at = match check {
            Check::Result => Ok(()),
            Check::EachBlock => header.check_block(number, block),
        };
        *cell = match looked_at {
            Ok(()) => Cell::Good(std::mem::take(block)),
            Err(error) => {
                bad.push((source, error));
                Cell::Bad
            }
        };
    }
    bad
}

/// The wanted blocks of one column, and their hashes.
fn make_column(code: &Code, wanted: &[u8], mut column: Column) -> codec::Result<Made> {
    let is_wanted = |index| wanted.iter().any(|&wanted| usize::from(wanted) == index);
    // What is all there may be of fewer shards than the code needs.
    if wanted.iter().any(|&index| column[usize::from(index)].is_none()) {
        code.fill(&mut column, is_wanted)?;
    }
    let blocks: Vec<_> =
        wanted.iter().filter_map(|&index| column[usize::from(index)].take()).collect();
    let hashes = blocks.iter().map(|block| digest::block_hash(block)).collect();
    Ok((blocks, hashes))
}
