//! The parts that the system does: reading files that are in memory, TCP, writing to a disk.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;

use arc_benches::noise;

use crate::sample::Piece;
use crate::{Block, Run};

const TCP_BYTES: usize = 512 << 20;
const TCP_BUFFER_BYTES: usize = 256 << 10;
/// Files that one run writes.
const FILES: usize = 8;

pub(crate) fn blocks(pieces: Vec<Piece>, place: &Path) -> Vec<Block> {
    let mut blocks = vec![read(pieces), loopback()];
    blocks.extend([
        write(place, "write_64k", "64 KiB", 64 << 10, "1.8 ms a file"),
        write(place, "write_1m", "1 MiB", 1 << 20, "3.9 ms a file"),
        write(place, "write", "6 MiB", 6 << 20, "16 MiB: 70 ms a file"),
    ]);
    blocks
}

fn read(pieces: Vec<Piece>) -> Block {
    let bytes = pieces.iter().map(|piece| piece.bytes).sum();
    let longest = pieces.iter().map(|piece| piece.bytes).max().unwrap_or(0);
    let mut buffer = vec![0; longest];
    let mean = bytes / pieces.len() / 1024;
    Block::new("read", "open and read warm files", "memory: 20")
        .noted(format!("{mean} KiB at a time"))
        .runs(move || Run::of(bytes, || pieces.iter().for_each(|piece| piece.read(&mut buffer))))
}

/// Bytes from one thread to another; the processor's time is that of both.
fn loopback() -> Block {
    let sent = noise(TCP_BUFFER_BYTES);
    Block::new("loopback", "TCP on loopback, both ends", "2.3 to 2.7").waiting().runs(move || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut receiver, _) = listener.accept().unwrap();
        let send = || {
            for _ in 0..TCP_BYTES / sent.len() {
                sender.write_all(&sent).unwrap();
            }
            sender.shutdown(Shutdown::Write).unwrap();
        };
        let mut buffer = vec![0; TCP_BUFFER_BYTES];
        let mut received = 0;
        let run = Run::of(TCP_BYTES, || {
            std::thread::scope(|scope| {
                scope.spawn(send);
                loop {
                    match receiver.read(&mut buffer).unwrap() {
                        0 => break,
                        bytes => received += bytes,
                    }
                }
            });
        });
        assert_eq!(received, TCP_BYTES);
        run
    })
}

fn write(place: &Path, name: &str, size: &str, bytes: usize, others: &'static str) -> Block {
    let (contents, place) = (noise(bytes), place.to_owned());
    let what = format!("create, write and sync files of {size}");
    Block::new(name, what, others).waiting().per_file(bytes).runs(move || {
        let paths: Vec<_> = (0..FILES).map(|number| place.join(number.to_string())).collect();
        let run = Run::of(FILES * bytes, || {
            for path in &paths {
                let mut file = File::create_new(path).unwrap();
                file.write_all(&contents).unwrap();
                file.sync_all().unwrap();
            }
        });
        paths.iter().for_each(|path| fs::remove_file(path).unwrap());
        run
    })
}
