//! A storage server that answers rightly, and far more slowly than the others.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::Duration;

use crate::fleet::Fleet;
use crate::http::Proxy;
use crate::{source, trees};

/// What goes to a server and what comes from it while it is slow, goes in pieces of so many bytes,
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
        let (asks, takes) = (client.try_clone().ok()?, server.try_clone().ok()?);
        let way = Arc::clone(self);
        std::thread::spawn(move || {
            let _ = way.carry(&asks, &takes, &AtomicU64::new(0));
            takes.shutdown(Shutdown::Write)
        });
        self.carry(&server, &client, &self.passed)
    }

    fn carry(&self, mut from: &TcpStream, mut to: &TcpStream, slowly: &AtomicU64) -> Option<()> {
        let mut piece = [0; PIECE_BYTES];
        loop {
            let bytes = from.read(&mut piece).ok().filter(|bytes| *bytes > 0)?;
            if self.is_slow.load(Relaxed) {
                slowly.fetch_add(bytes as u64, Relaxed);
                std::thread::sleep(PAUSE);
            }
            to.write_all(&piece[..bytes]).ok()?;
        }
    }
}

/// Six servers at 4+2, the last one at the end of the way.
fn fleet() -> (Fleet, Arc<Way>, usize) {
    let mut fleet = Fleet::bare(&[]);
    for _ in 1..6 {
        fleet.join(&[]);
    }
    let (way, url) = Way::new();
    let slow = fleet.join(&["--advertise", &url]);
    way.to.set(fleet.server_address(slow).to_owned()).unwrap();
    fleet.init(&fleet.sandbox, Some("4+2"));
    fleet.until_up(6);
    (fleet, way, slow)
}

#[test]
fn what_a_far_slower_server_has_is_made_of_the_others() {
    let (fleet, way, slow) = fleet();
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

#[test]
fn a_push_that_waits_for_a_slow_server_names_it_and_stores_all_shards() {
    let (fleet, way, _) = fleet();
    source::make(&fleet.source(), 32, 40);
    way.is_slow.store(true, Relaxed);
    let mut push = fleet.push_until(3 << 20, &[]);
    push.ask_until("limited by network to f");
    way.is_slow.store(false, Relaxed);
    let ran = push.finish().exits(0);
    assert_eq!(ran.json_of("summary")["stripes_below_target"], 0);
    assert!(ran.json_lines("warning").is_empty(), "there is no spare: it is waited for");
    fleet.is_whole();
}

#[test]
fn a_spare_that_is_far_slower_loses_the_shard_to_the_next() {
    let mut fleet = Fleet::bare(&[]);
    let proxies = [(); 5].map(|()| Proxy::new());
    for proxy in &proxies {
        let server = fleet.join(&["--advertise", &proxy.url()]);
        proxy.stand_before(fleet.server_address(server));
    }
    fleet.init(&fleet.sandbox, Some("2+1"));
    fleet.until_up(5);
    trees::write(fleet.source().join("file"), source::noise(7, 1_000_000));
    // Of each stripe one shard is refused, and the first spare for it does not answer.
    let tries = Arc::new(Mutex::new(HashMap::<String, Vec<String>>::new()));
    let mut held = Vec::new();
    for proxy in &proxies {
        let (go_on, is_over) = mpsc::channel::<()>();
        held.push(go_on);
        let tries = Arc::clone(&tries);
        proxy.tell(move |request, answer| {
            let Some(shard) = request.strip_prefix("PUT /v1/shards/") else { return };
            let (stripe, index) = shard.split_once('/').unwrap();
            let (is_first, same) = {
                let mut tries = tries.lock().unwrap();
                let tries = tries.entry(stripe.to_owned()).or_default();
                tries.push(index.to_owned());
                (tries.len() == 1, tries.iter().filter(|i| *i == index).count())
            };
            match same {
                _ if is_first => answer.set_status("500 No"),
                2 => is_over.recv().unwrap_or_default(),
                _ => {}
            }
        });
    }
    // Nothing but that the others were quick tells that it is slow.
    fleet.push(&["--stall=1h", "--wait-servers=1h"]).exits(0);
    let tries = std::mem::take(&mut *tries.lock().unwrap());
    let most = |tries: &Vec<String>| tries.iter().filter(|i| **i == tries[0]).count();
    assert!(tries.values().all(|tries| most(tries) == 3), "{tries:?}");
    drop(held);
    for proxy in &proxies {
        proxy.tell(|_, _| {});
    }
    fleet.pull_exact("latest");
}
