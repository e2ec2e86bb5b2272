use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use codec::VaultId;

use super::*;
use crate::coordinator::catalog::backup::{Copied, check_catalog};

impl Fixture {
    async fn copied(&self) -> (Copied, PathBuf) {
        let to = self._folder.path().join("copy");
        std::fs::write(&to, b"").unwrap();
        (self.catalog.copy(to.clone(), 7).await.unwrap(), to)
    }

    /// A backup of two stripes, made after the copy as it really is.
    async fn back_up(&self, number: u8) {
        let copied = self.copied().await.0;
        let lease = self.begin().await;
        let mut stripes = Vec::new();
        for number in [number, number + 100] {
            let stripe = StripeId([number; 32]);
            let holders = vec![(0, self.servers[0]), (1, self.servers[1])];
            let intended = Intended { lease, stripe, stored: vec![], places: holders.clone() };
            self.catalog.record_intent(self.owner, intended).await.unwrap();
            stripes.push(NewStripe {
                stripe,
                kind: Kind::Record,
                geometry: Geometry::new(1, 1).unwrap(),
                pack_bytes: 100,
                pack_key: vec![2; 84],
                frames: vec![(3, 60)],
                chunks: vec![],
                holders,
            });
        }
        let new = NewBackup { stripes, sequence: copied.sequence, made_ms: 5, bytes: 7 };
        self.catalog.commit_backup(self.owner, lease, new).await.unwrap();
        self.catalog.end_repair(lease).await.unwrap();
    }

    async fn count(&self, table: &'static str) -> i64 {
        let count = move |db: &Connection| {
            let sql = format!("SELECT count(*) FROM {table}");
            Ok(db.query_row(&sql, [], |r| r.get(0))?)
        };
        self.catalog.read(count).await.unwrap()
    }
}

#[tokio::test]
async fn a_copy_takes_nothing_for_left_over_that_may_be_committed_since() {
    let fixture = Fixture::new().await;
    let lease = fixture.begin().await;
    fixture.commit(lease, 1).await.unwrap();
    let surplus = vec![Surplus { index: 1, kept: fixture.servers[0], dropped: fixture.servers[1] }];
    assert!(fixture.catalog.strike_out(1, 1, surplus).await.unwrap());
    assert_eq!(fixture.count("tombstones").await, 1);
    let (copied, path) = fixture.copied().await;
    check_catalog(&path, fixture.catalog.vault).unwrap();
    let copy = Connection::open(&path).unwrap();
    let sql = "SELECT epoch, sequence, whole_since_epoch, (SELECT count(*) FROM tombstones),
                      (SELECT count(*) FROM stripes), (SELECT count(*) FROM intents) FROM meta";
    let row = copy.query_row(sql, [], |r| {
        Ok([r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?, r.get::<_, u64>(5)?])
    });
    let epoch = fixture.catalog.epoch();
    assert_eq!(row.unwrap(), [epoch, copied.sequence, epoch + 1, 0, 1, 2]);
    assert_eq!(copied.epoch, epoch);
    assert_eq!(fixture.count("tombstones").await, 1, "the catalog itself is as it was");
    // Whoever starts with it begins an epoch from which on it is whole.
    drop(copy);
    let (catalog, _) = Catalog::open(&path, true).unwrap();
    assert_eq!(catalog.epoch(), epoch + 1);
}

#[tokio::test]
async fn what_a_push_stored_while_a_copy_was_made_is_no_left_over_to_who_starts_with_it() {
    let fixture = Fixture::new().await;
    let lease = fixture.begin().await;
    let stripe = StripeId([7; 32]);
    let places = vec![(0, fixture.servers[0]), (1, fixture.servers[1])];
    let intended = Intended { lease, stripe, stored: vec![], places };
    fixture.catalog.record_intent(fixture.owner, intended).await.unwrap();
    let (_, path) = fixture.copied().await;
    let shard = || vec![(stripe, 0)];
    // The push is over for both, and only one of them would know whether it was committed.
    fixture.catalog.close_lease(fixture.owner, lease).await.unwrap();
    let known = fixture.catalog.standings(fixture.servers[0], shard()).await.unwrap();
    assert_eq!(known, [Standing::LeftOver]);
    let (copy, _) = Catalog::open(&path, false).unwrap();
    let known = copy.standings(fixture.servers[0], shard()).await.unwrap();
    assert_eq!(known, [Standing::Unknown]);
    assert_eq!(copy.condemn(fixture.servers[0], shard()).await.unwrap(), 0);
}

#[tokio::test]
async fn a_copy_that_is_damaged_or_of_another_vault_is_refused() {
    let fixture = Fixture::new().await;
    let lease = fixture.begin().await;
    for number in 1..100 {
        fixture.commit(lease, number).await.unwrap();
    }
    let (_, path) = fixture.copied().await;
    assert!(check_catalog(&path, VaultId([1; 16])).is_err());
    let bytes = std::fs::metadata(&path).unwrap().len();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[0xff; 4096], bytes / 2).unwrap();
    assert!(check_catalog(&path, fixture.catalog.vault).is_err());
    file.set_len(bytes / 2).unwrap();
    assert!(check_catalog(&path, fixture.catalog.vault).is_err());
}

#[tokio::test]
async fn a_backup_is_no_change_to_the_next_and_whatever_else_is() {
    let fixture = Fixture::new().await;
    assert!(fixture.catalog.backed().await.unwrap().changed);
    fixture.back_up(1).await;
    let backed = fixture.catalog.backed().await.unwrap();
    let last = backed.last.unwrap();
    assert_eq!((last.record, last.stripes), (StripeId([101; 32]), 2));
    assert!(!backed.changed);
    // A push that comes while one is made.
    let lease = fixture.begin().await;
    fixture.back_up(2).await;
    assert!(!fixture.catalog.backed().await.unwrap().changed);
    fixture.commit(lease, 3).await.unwrap();
    assert!(fixture.catalog.backed().await.unwrap().changed);
}

#[tokio::test]
async fn what_is_committed_while_a_backup_is_made_is_news_to_it() {
    let fixture = Fixture::new().await;
    let pushing = fixture.begin().await;
    let copied = fixture.copied().await.0;
    fixture.commit(pushing, 9).await.unwrap();
    let lease = fixture.begin().await;
    let stripe = StripeId([1; 32]);
    let holders = vec![(0, fixture.servers[0]), (1, fixture.servers[1])];
    let intended = Intended { lease, stripe, stored: vec![], places: holders.clone() };
    fixture.catalog.record_intent(fixture.owner, intended).await.unwrap();
    let record = NewStripe {
        stripe,
        kind: Kind::Record,
        geometry: Geometry::new(1, 1).unwrap(),
        pack_bytes: 100,
        pack_key: vec![2; 84],
        frames: vec![(3, 60)],
        chunks: vec![],
        holders,
    };
    let new = NewBackup { stripes: vec![record], sequence: copied.sequence, made_ms: 5, bytes: 7 };
    fixture.catalog.commit_backup(fixture.owner, lease, new).await.unwrap();
    assert!(fixture.catalog.backed().await.unwrap().changed);
}

#[tokio::test]
async fn old_backups_go_with_all_their_shards_and_nothing_else_does() {
    let fixture = Fixture::new().await;
    let lease = fixture.begin().await;
    fixture.commit(lease, 50).await.unwrap();
    for number in 1..=3 {
        fixture.back_up(number).await;
    }
    assert_eq!(fixture.catalog.thin_backups(3, 1000).await.unwrap(), 0);
    assert_eq!(fixture.catalog.thin_backups(1, 1000).await.unwrap(), 4);
    let counts = [
        fixture.count("backups").await,
        fixture.count("backup_stripes").await,
        fixture.count("stripes").await,
        fixture.count("shards").await,
        fixture.count("tombstones").await,
    ];
    assert_eq!(counts, [1, 2, 3, 6, 8]);
    let last = fixture.catalog.backed().await.unwrap().last.unwrap();
    assert_eq!(last.record, StripeId([103; 32]));
    let due = |before_ms| fixture.catalog.order_trash(fixture.servers[0], before_ms, 1, 10);
    assert_eq!(due(1000).await.unwrap(), [], "what was listed before is still there");
    let left = due(1001).await.unwrap();
    let mut gone: Vec<u8> = left.iter().map(|(stripe, _)| stripe.0[0]).collect();
    gone.sort();
    assert_eq!(gone, [1, 2, 101, 102]);
}
