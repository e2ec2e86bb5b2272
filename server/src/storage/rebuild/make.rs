//! Column by column: blocks of k shards in, the missing blocks out, and into
//! the spools. Memory is bounded whatever the length of the shards.

use std::ops::Range;
use std::sync::Arc;

use codec::digest::{self, BLOCK_BYTES};
use codec::erasure::Code;
use codec::shard::Ends;
use codec::{Digest, Geometry};
use futures_util::future::join_all;
use rayon::prelude::*;

use super::grid::{Column, Grid, runs};
use super::pace::Pace;
use super::sources::Sources;
use super::spools::Spools;
use crate::storage::fail_points::FailPoint;
use crate::storage::server::blocking;
use crate::wire::Outcome;
use crate::{Result, cpu};

/// What is read at once of all shards together, but a block of each at least and
/// [`GROUP_BLOCKS_MAX`] at most. While one group is coded and written the next is read; with the
/// copies that the code works on, four times this is in memory.
const GROUP_BYTES: usize = 4 * 1024 * 1024;
const GROUP_BLOCKS_MAX: usize = 16;

/// The making of the shards `wanted`, one for each spool.
pub(super) struct Maker<'a> {
    pub(super) sources: &'a Sources,
    pub(super) spools: &'a Arc<Spools>,
    pub(super) wanted: Arc<[u8]>,
    pub(super) pace: &'a Pace,
}

impl Maker<'_> {
    /// Fills the spools with whole shard files and gives the hashes of their headers; or says why
    /// there are none.
    pub(super) async fn make(&self) -> Result<std::result::Result<Vec<Digest>, Outcome>> {
        let Some(certified) = self.sources.certified() else {
            return Ok(Err(Outcome::TooFewSources));
        };
        let blocks = certified.block_hashes.len();
        let step = GROUP_BYTES / BLOCK_BYTES / certified.geometry.shards();
        let step = step.clamp(1, GROUP_BLOCKS_MAX);
        let mut groups = (0..blocks).step_by(step).map(|first| first..blocks.min(first + step));
        let mut tables = vec![Vec::with_capacity(blocks); self.wanted.len()];
        let mut group = groups.next();
        let mut columns = self.gather(group.clone()).await;
        self.spools.reach(FailPoint::ColumnsRead);
        while let Some(Range { start, .. }) = group {
            let Some(read) = columns else { return Ok(Err(Outcome::TooFewSources)) };
            group = groups.next();
            let made = self.make_group(certified.geometry, start, read);
            let (made, ahead) = tokio::join!(made, self.gather(group.clone()));
            for hashes in made? {
                tables.iter_mut().zip(hashes).for_each(|(table, hash)| table.push(hash));
            }
            columns = ahead;
        }
        // Every block that went in was right, so a wrong root lies with the stripe.
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

    /// The columns of a group, each with k checked blocks, or with those wanted; `None` when one
    /// of them cannot be had, or there is no group.
    async fn gather(&self, group: Option<Range<usize>>) -> Option<Vec<Column>> {
        let group = group?;
        let geometry = self.sources.order.geometry;
        let indexes = self.sources.all.iter().map(|source| source.index).collect();
        let mut grid = Grid::new(geometry.data(), &self.wanted, indexes, group.len());
        // What could not be read at one go may be had block by block.
        for longest in [group.len(), 1] {
            loop {
                let (own, peers) = self.sources.preferred();
                let mut plan = grid.plan(&own);
                if plan.is_empty() {
                    plan = grid.plan(&peers);
                }
                if plan.is_empty() {
                    break;
                }
                let reads = plan.iter().map(|(source, blocks)| async {
                    let mut cells = Vec::with_capacity(blocks.len());
                    for run in runs(blocks, longest) {
                        let run = group.start + run.start..group.start + run.end;
                        cells.extend(self.sources.read(*source, run).await);
                    }
                    cells
                });
                let read = join_all(reads).await;
                for ((source, blocks), cells) in plan.iter().zip(read) {
                    blocks.iter().zip(cells).for_each(|(&at, cell)| grid.set(at, *source, cell));
                }
            }
            if let Some(columns) = grid.columns(geometry.shards()) {
                return Some(columns);
            }
            grid.forget_failures();
        }
        None
    }

    /// Makes the missing blocks of columns that begin with block `first`, and gives their hashes.
    async fn make_group(
        &self,
        geometry: Geometry,
        first: usize,
        columns: Vec<Column>,
    ) -> Result<Vec<Vec<Digest>>> {
        let (code, wanted) = (Code::new(geometry), Arc::clone(&self.wanted));
        let make = move |column| make_column(&code, geometry, &wanted, column);
        let made: codec::Result<Vec<_>> =
            cpu::run(move || columns.into_par_iter().map(make).collect()).await;
        let (blocks, hashes): (Vec<_>, Vec<_>) = made?.into_iter().unzip();
        self.pace
            .take(blocks.iter().flatten().map(|block: &Vec<u8>| block.len() as u64).sum())
            .await;
        let spools = Arc::clone(self.spools);
        blocking(move || spools.write(first, &blocks)).await?;
        Ok(hashes)
    }
}

/// The wanted blocks of one column, and their hashes.
fn make_column(
    code: &Code,
    geometry: Geometry,
    wanted: &[u8],
    mut column: Column,
) -> codec::Result<(Vec<Vec<u8>>, Vec<Digest>)> {
    let missing = || wanted.iter().map(|&index| usize::from(index));
    let missing: Vec<usize> = missing().filter(|&index| column[index].is_none()).collect();
    match missing.iter().max() {
        None => {}
        Some(&last) if last < geometry.data() => code.decode(&mut column)?,
        Some(_) => code.rebuild(&mut column)?,
    }
    let blocks: Vec<_> =
        wanted.iter().filter_map(|&index| column[usize::from(index)].take()).collect();
    let hashes = blocks.iter().map(|block| digest::block_hash(block)).collect();
    Ok((blocks, hashes))
}
