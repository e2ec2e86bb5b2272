//! Work in the background goes through one bucket, which counts it.

use arc_server::auth::Grant;
use arc_server::wire::*;
use reqwest::Method;

use super::fleet::*;
use super::support::*;

impl Server<'_> {
    async fn throttle(&self) -> ThrottleStatus {
        self.fetch("/v1/throttle").await.unwrap()
    }

    async fn set_pace(&self, bytes_per_second: Option<u64>) -> Result<ThrottleStatus, Refusal> {
        let ticket = self.sign(Grant::Control);
        let request = self.request(Method::PUT, "/v1/throttle", &ticket);
        answer(request.json(&SetThrottle { bytes_per_second }).send().await.unwrap()).await
    }

    async fn scrub_ended(&self) -> ScrubPass {
        loop {
            let status: ScrubStatus = self.fetch("/v1/scrub").await.unwrap();
            if status.pass.is_none() {
                return status.last.unwrap();
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }

    async fn begin_scrub(&self) {
        let order = ScrubOrder { start_now: true, ..ScrubOrder::default() };
        let ticket = self.sign(Grant::Control);
        let request = self.request(Method::PUT, "/v1/scrub", &ticket).json(&order);
        answer::<ScrubStatus>(request.send().await.unwrap()).await.unwrap();
    }
}

fn bytes(status: ThrottleStatus) -> (u64, u64) {
    (status.paced_bytes, status.urgent_bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_goes_through_the_bucket_and_on_at_once_when_its_pace_is_raised() {
    let world = World::new().await;
    let server = world.server().await;
    let shards = stripe(VAULT, 4 << 20, 1);
    for shard in &shards {
        server.put(shard).await.unwrap();
    }
    assert_eq!(bytes(server.throttle().await), (0, 0), "what clients bring is not counted");
    assert!(server.throttle().await.yields);
    // At that pace it takes more than a minute and a half.
    let slow = server.set_pace(Some(64 << 10)).await.unwrap();
    assert_eq!(slow.bytes_per_second, Some(64 << 10));
    server.begin_scrub().await;
    assert_eq!(server.set_pace(None).await.unwrap().bytes_per_second, None);
    let pass = server.scrub_ended().await;
    assert_eq!((pass.shards, pass.bad), (3, 0));
    // The headers were read to know how long the shards are.
    let (paced, urgent) = bytes(server.throttle().await);
    let headers: u64 = shards.iter().map(|shard| shard.header_bytes as u64).sum();
    assert!((pass.bytes - headers..=pass.bytes).contains(&paced), "{paced} of {}", pass.bytes);
    assert_eq!(urgent, 0);

    let refusal = server.set_pace(Some(1000)).await.unwrap_err();
    assert_eq!(refusal.code, Code::BadRequest);
    let request = server.request(Method::GET, "/v1/throttle", &server.sign(Grant::Read));
    let refusal = answer::<ThrottleStatus>(request.send().await.unwrap()).await.unwrap_err();
    assert_eq!(refusal.code, Code::Forbidden);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_is_counted_where_it_reads_and_writes_and_goes_past_the_pace_if_urgent() {
    let world = World::new().await;
    let fleet = fleet(&world, (2, 2), 1 << 20).await;
    let file_bytes = fleet.header_bytes() + fleet.body_bytes() + 4096;
    let status = async |number: u8| bytes(fleet.servers[usize::from(number)].throttle().await);
    fleet.remove(2);
    fleet.remove(3);
    let order = fleet.order([0, 1], &[2, 3]);
    let answer = fleet.rebuild(2, &order).await.unwrap();
    fleet.holds(2, &answer, &[2, 3]).await;
    let read = fleet.header_bytes() + fleet.body_bytes();
    assert_eq!(answer.read_bytes, 2 * read);
    for source in [0, 1] {
        assert_eq!(status(source).await, (read, 0));
    }
    // The other place takes a whole file; the target reads, writes, reads back and sends on.
    let (placed, _) = status(3).await;
    assert!((read..=file_bytes).contains(&placed), "{placed}");
    let (paced, urgent) = status(2).await;
    let made = 2 * read + 2 * fleet.body_bytes() + 2 * placed;
    assert_eq!((paced, urgent), (made, 0));

    // Slower than anybody would wait for, and nothing waits.
    for server in &fleet.servers {
        server.set_pace(Some(64 << 10)).await.unwrap();
    }
    fleet.remove(2);
    fleet.remove(3);
    let target = &fleet.servers[2];
    let request = target.request(Method::POST, "/v1/rebuild", &target.sign(Grant::Control));
    let request = request.header(WORK_HEADER, "urgent").json(&order);
    let answer: RebuildAnswer =
        super::support::answer(request.send().await.unwrap()).await.unwrap();
    fleet.holds(2, &answer, &[2, 3]).await;
    for source in [0, 1] {
        assert_eq!(status(source).await, (read, read));
    }
    assert_eq!(status(3).await, (placed, placed));
    assert_eq!(status(2).await, (made, made));
}
