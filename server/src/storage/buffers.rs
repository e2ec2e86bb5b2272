//! Buffers that are read into again, once nobody has a part of what they held.

use bytes::{Bytes, BytesMut};

/// Those that were given away. There are no more of them than were in use at once.
#[derive(Default)]
pub(super) struct Buffers(Vec<Bytes>);

impl Buffers {
    /// One of `bytes` to be written over: they mean nothing.
    pub(super) fn of(&mut self, bytes: usize) -> BytesMut {
        let mut buffer = self.free();
        buffer.resize(bytes, 0);
        buffer
    }

    /// One that nobody uses any more, or a new one.
    fn free(&mut self) -> BytesMut {
        let free = self.0.iter().position(Bytes::is_unique);
        free.and_then(|at| self.0.swap_remove(at).try_into_mut().ok()).unwrap_or_default()
    }

    /// Gives away what was read; its memory is taken again when all of that is gone.
    pub(super) fn give(&mut self, buffer: BytesMut) -> Bytes {
        let given = buffer.freeze();
        self.0.push(given.clone());
        given
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_taken_again_once_no_part_of_it_is_in_use() {
        let mut buffers = Buffers::default();
        let mut filled = |byte: u8| {
            let mut buffer = buffers.of(1000);
            assert_eq!(buffer.len(), 1000);
            buffer.fill(byte);
            buffers.give(buffer)
        };
        let first = filled(1);
        let (at, part) = (first.as_ptr(), first.slice(10..20));
        drop(first);
        let second = filled(2);
        assert_ne!(second.as_ptr(), at);
        assert_eq!(part, [1; 10][..]);
        drop(part);
        let third = filled(3);
        assert_eq!(third.as_ptr(), at);
        assert_eq!((&second[..], &third[..]), (&[2; 1000][..], &[3; 1000][..]));
        drop(second);
        assert_eq!(buffers.of(900).len(), 900);
    }
}
