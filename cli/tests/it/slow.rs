//! A storage server that answers rightly, and far more slowly than the others.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::fleet::Fleet;
use crate::source;

/// What a server says while it is slow, comes in pieces of so many bytes,
const PIECE_BYTES: usize = 16 * 1024;
/// one after such a pause: something always moves.
const PAUSE: Duration = Duration::from_millis(100);

/// A way to a server, which can be made slow.
#[derive(Default)]
struct Way {
    to: OnceLock<String>,
    is_slow: AtomicBool,
    /// Bytes that came from the server while it was slow.
    passed: AtomicU64,
}

impl Way {
    /// One that leads nowhere yet, and where it begins; its threads end with the process.
    fn new() -> (Arc<Self>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let way = Arc::new(Self::default());
        let ways = Arc::clone(&way);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let way = Arc::clone(&ways);
                // Whoever asks may go away in the middle.
                std::thread::spawn(move || way.join(client.ok()?));
            }
        });
        (way, url)
    }

    fn join(self: &Arc<Self>, client: TcpStream) -> Option<()> {
        let server = TcpStream::connect(self.to.get()?).ok()?;
        let (mut asks, mut takes) = (client.try_clone().ok()?, server.try_clone().ok()?);
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut asks, &mut takes);
            takes.shutdown(Shutdown::Write)
        });
        self.answer(server, client)
    }

    fn answer(&self, mut server: TcpStream, mut client: TcpStream) -> Option<()> {
        let mut piece = [0; PIECE_BYTES];
        loop {
            let bytes = server.read(&mut piece).ok().filter(|bytes| *bytes > 0)?;
            if self.is_slow.load(Relaxed) {
                self.passed.fetch_add(bytes as u64, Relaxed);
                std::thread::sleep(PAUSE);
            }
            client.write_all(&piece[..bytes]).ok()?;
        }
    }
}

#[test]
fn what_a_far_slower_server_has_is_made_of_the_others() {
    let mut fleet = Fleet::bare(&[]);
    for _ in 1..6 {
        fleet.join(&[]);
    }
    let (way, url) = Way::new();
    let slow = fleet.join(&["--advertise", &url]);
    way.to.set(fleet.server_address(slow).to_owned()).unwrap();
    fleet.init(&fleet.sandbox, Some("4+2"));
    fleet.until_up(6);
    source::make(&fleet.source(), 31, 40);
    fleet.push(&[]).exits(0);
    let shards = fleet.shards();
    let data = shards.iter().filter(|shard| shard.server == slow && shard.index < 4);
    let held: u64 = data.map(|shard| shard.bytes).sum();
    assert!(held > 3 << 20, "{held} bytes of data are there to be read slowly");
    way.is_slow.store(true, Relaxed);
    fleet.pull_exact("latest");
    let passed = way.passed.load(Relaxed);
    assert!(passed > 0, "the pull asked it");
    assert!(passed < held / 2, "{passed} of {held} bytes came from the slow server");
}
