//! Which blocks of a group of columns to read from which source: decided from
//! what has been read and checked of them so far, without touching any of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

/// One block of one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cell {
    Unread,
    /// Its hash is still to be looked at.
    Read(Bytes),
    /// Its hash holds, or is not looked at.
    Good(Bytes),
    /// Its hash does not.
    Bad,
    /// It could not be read, perhaps only not together with its neighbours.
    Failed,
}

/// The blocks of a group of columns, by block and source.
pub(super) struct Grid {
    needs: Needs,
    cells: Vec<Vec<Cell>>,
}

/// What a column needs.
pub(super) struct Needs {
    /// So many blocks of different shards, for a code.
    data: usize,
    /// Or those of these shards.
    wanted: Arc<[u8]>,
    /// The index of each source.
    indexes: Vec<u8>,
}

/// One column: the blocks by index of their shards.
pub(super) type Column = Vec<Option<Bytes>>;

impl Grid {
    /// For the shards `wanted` of a code that needs `data` of a column's blocks.
    pub(super) fn new(data: usize, wanted: Arc<[u8]>, indexes: Vec<u8>, blocks: usize) -> Self {
        let cells = vec![vec![Cell::Unread; indexes.len()]; blocks];
        Self { needs: Needs { data, wanted, indexes }, cells }
    }

    /// Which further blocks of `sources`, the preferred ones first, would be enough for every
    /// column, or as many as they have. Empty: none are needed, or none are left.
    pub(super) fn plan(&self, sources: &[usize]) -> Vec<(usize, Vec<usize>)> {
        let mut good: Vec<BTreeSet<u8>> =
            self.cells.iter().map(|cells| self.needs.good(cells)).collect();
        let mut plan = Vec::new();
        // What is wanted and still somewhere is copied: one block for k.
        let is_wanted = |source: &usize| self.needs.wanted.contains(&self.needs.indexes[*source]);
        let (wanted, others): (Vec<usize>, Vec<usize>) = sources.iter().partition(|s| is_wanted(s));
        for source in wanted.into_iter().chain(others) {
            let index = self.needs.indexes[source];
            let blocks: Vec<usize> = (0..self.cells.len())
                .filter(|&block| self.cells[block][source] == Cell::Unread)
                .filter(|&block| !self.needs.are_met(&good[block]) && good[block].insert(index))
                .collect();
            if !blocks.is_empty() {
                plan.push((source, blocks));
            }
        }
        plan
    }

    pub(super) fn set(&mut self, block: usize, source: usize, cell: Cell) {
        self.cells[block][source] = cell;
    }

    /// Lets what failed be tried once more.
    pub(super) fn forget_failures(&mut self) {
        self.cells.iter_mut().flatten().filter(|cell| **cell == Cell::Failed).for_each(|cell| {
            *cell = Cell::Unread;
        });
    }

    /// The cells of each column, one for each source.
    pub(super) fn columns(&mut self) -> (&Needs, &mut [Vec<Cell>]) {
        (&self.needs, &mut self.cells)
    }
}

impl Needs {
    /// The column of a code of so many `shards`, if there are enough blocks for it.
    pub(super) fn column(&self, cells: &[Cell], shards: usize) -> Option<Column> {
        if !self.are_met(&self.good(cells)) {
            return None;
        }
        let mut column = vec![None; shards];
        for (cell, &index) in cells.iter().zip(&self.indexes) {
            if let Cell::Good(block) = cell {
                column[usize::from(index)] = Some(block.clone());
            }
        }
        Some(column)
    }

    /// The shards whose block is at hand.
    fn good(&self, cells: &[Cell]) -> BTreeSet<u8> {
        let cells = cells.iter().zip(&self.indexes);
        cells.filter(|(cell, _)| matches!(cell, Cell::Good(_))).map(|(_, &index)| index).collect()
    }

    /// What is there already need not be computed.
    fn are_met(&self, good: &BTreeSet<u8>) -> bool {
        good.len() >= self.data || self.wanted.iter().all(|index| good.contains(index))
    }
}

/// Cuts ascending block numbers into runs without gaps, `longest` blocks at most.
pub(super) fn runs(blocks: &[usize], longest: usize) -> Vec<std::ops::Range<usize>> {
    let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
    for &block in blocks {
        match runs.last_mut().filter(|run| run.end == block && run.len() < longest) {
            Some(run) => run.end += 1,
            None => runs.push(block..block + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Cell {
        Cell::Good(Bytes::from_static(b"x"))
    }

    fn column(grid: &mut Grid, block: usize) -> Option<Vec<bool>> {
        let (needs, cells) = grid.columns();
        let column = needs.column(&cells[block], 4)?;
        Some(column.iter().map(Option::is_some).collect())
    }

    fn is_complete(grid: &mut Grid) -> bool {
        (0..3).all(|block| column(grid, block).is_some())
    }

    #[test]
    fn what_is_wanted_and_still_there_is_all_that_is_read() {
        let mut moved = grid(&[0, 1, 3]);
        assert_eq!(moved.plan(&[0, 1, 2]), [(2, vec![0, 1, 2])]);
        (0..3).for_each(|block| moved.set(block, 2, good()));
        assert!(moved.plan(&[0, 1, 2]).is_empty() && is_complete(&mut moved));
        // A block of it that is bad costs its column.
        moved.set(1, 2, Cell::Bad);
        assert_eq!(moved.plan(&[0, 1, 2]), [(0, vec![1]), (1, vec![1])]);
    }

    /// 2+2 with shard 3 wanted, three blocks.
    fn grid(indexes: &[u8]) -> Grid {
        Grid::new(2, [3].into(), indexes.to_vec(), 3)
    }

    #[test]
    fn only_what_is_lacking_is_read_from_the_next_source() {
        let mut grid = grid(&[0, 1, 2]);
        assert_eq!(grid.plan(&[0, 1, 2]), [(0, vec![0, 1, 2]), (1, vec![0, 1, 2])]);
        for block in 0..3 {
            grid.set(block, 0, good());
            grid.set(block, 1, good());
        }
        assert_eq!(grid.plan(&[2]), []);
        grid.set(1, 0, Cell::Bad);
        assert!(!is_complete(&mut grid));
        assert_eq!(grid.plan(&[0, 1, 2]), [(2, vec![1])]);
        grid.set(1, 2, good());
        assert!(is_complete(&mut grid));
        assert_eq!(column(&mut grid, 0).unwrap(), [true, true, false, false]);
        assert_eq!(column(&mut grid, 1).unwrap(), [false, true, true, false]);
    }

    #[test]
    fn a_wanted_block_that_is_there_needs_no_others() {
        let mut grid = grid(&[3, 0, 1]);
        grid.set(0, 0, good());
        grid.set(1, 0, Cell::Bad);
        grid.set(2, 0, good());
        assert_eq!(grid.plan(&[1, 2]), [(1, vec![1]), (2, vec![1])]);
    }

    #[test]
    fn the_same_shard_elsewhere_counts_once() {
        let mut grid = grid(&[0, 0, 1]);
        assert_eq!(grid.plan(&[0, 1, 2]), [(0, vec![0, 1, 2]), (2, vec![0, 1, 2])]);
        grid.set(0, 0, good());
        grid.set(0, 1, good());
        assert!(!is_complete(&mut grid));
        assert_eq!(grid.plan(&[1]), [(1, vec![1, 2])]);
    }

    #[test]
    fn what_failed_is_tried_again_only_when_asked_and_what_is_bad_never() {
        let mut grid = grid(&[0, 1]);
        for block in 0..3 {
            grid.set(block, 0, Cell::Failed);
            grid.set(block, 1, Cell::Bad);
        }
        assert_eq!(grid.plan(&[0, 1]), []);
        grid.forget_failures();
        assert_eq!(grid.plan(&[0, 1]), [(0, vec![0, 1, 2])]);
    }

    #[test]
    fn runs_have_no_gaps() {
        assert_eq!(runs(&[0, 1, 2, 5, 6], 9), [0..3, 5..7]);
        assert_eq!(runs(&[0, 1, 2, 5, 6], 2), [0..2, 2..3, 5..7]);
        assert_eq!(runs(&[3, 4], 1), [3..4, 4..5]);
        assert_eq!(runs(&[], 1), []);
    }
}
