//! Starting: the first time, again, and where it must not.

use std::sync::atomic::Ordering;

use arc_server::serve::Transport;
use arc_server::storage::{self, Config};
use arc_server::wire::*;

use super::support::*;

async fn refused(config: storage::Config) -> String {
    match storage::start(config).await {
        Ok(_) => panic!("it started"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn a_server_comes_back_with_its_shards_and_without_leftovers() {
    let world = World::new().await;
    let shard = shard(300_000);
    let server = world.server().await;
    let receipt = server.put(&shard).await.unwrap();
    server.storage.stop().await;
    std::fs::write(world.data().join("tmp/half"), "half a shard").unwrap();

    // The token is needed once only.
    let server = world.server_with(|config| config.join_token = None).await;
    assert_eq!((server.storage.server, server.storage.name.as_str()), (ServerId(1), "disk-1"));
    assert_eq!(names(&world.data().join("tmp")), Vec::<String>::new());
    assert_eq!(server.found(&shard, Thoroughness::Whole).await, Found::Good);
    assert_eq!(server.put(&shard).await.unwrap(), receipt);
    let hellos = world.coordinator.hellos.lock().unwrap();
    assert_eq!(hellos.iter().map(|hello| hello.starts).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(hellos[1].url, server.storage.running.url());
}

#[tokio::test]
async fn a_folder_without_its_identity_is_taken_for_a_disk_that_is_not_mounted() {
    let world = World::new().await;
    let no_token = || storage::Config { join_token: None, ..world.config() };
    assert!(refused(no_token()).await.contains("not mounted?"));
    assert!(!world.data().exists());
    std::fs::create_dir(world.data()).unwrap();
    assert!(refused(no_token()).await.contains("not mounted?"));
    assert_eq!(names(&world.data()), Vec::<String>::new());
}

#[tokio::test]
async fn a_first_start_takes_no_folder_with_somebodys_files() {
    let world = World::new().await;
    let data = world.data();
    for path in [
        "tmp/thesis.tex",
        "keys",
        "epoch",
        "starts",
        "vault.record",
        "lock",
        "letter.txt",
        "shards/aa/x",
        ".hidden",
        "tmp/",
    ] {
        std::fs::create_dir_all(data.join(path).parent().unwrap()).unwrap();
        std::fs::create_dir(data.join("lost+found")).unwrap();
        match path.strip_suffix('/') {
            Some(folder) => std::fs::create_dir(data.join(folder)).unwrap(),
            None => std::fs::write(data.join(path), "mine").unwrap(),
        }
        let error = refused(world.config()).await;
        assert!(error.contains("not empty") && error.contains("give an empty"), "{error}");
        assert_eq!(names(&data).len(), 2, "{path}: {:?}", names(&data));
        if !path.ends_with('/') {
            assert_eq!(std::fs::read_to_string(data.join(path)).unwrap(), "mine");
        }
        std::fs::remove_dir_all(&data).unwrap();
    }
    // Nor one in which somebody put a file after a first start was cut off.
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("arc-first-start"), "").unwrap();
    std::fs::write(data.join("letter.txt"), "mine").unwrap();
    assert!(refused(world.config()).await.contains("letter.txt"));
    assert_eq!(names(&data).len(), 2);
}

#[tokio::test]
async fn a_first_start_that_was_cut_off_goes_on() {
    let world = World::new().await;
    let data = world.data();
    let nobody = Config { coordinator: "http://127.0.0.1:1".into(), ..world.config() };
    std::fs::create_dir_all(data.join("lost+found")).unwrap();
    for _ in 0..2 {
        assert!(refused(nobody.clone()).await.contains("does not answer"));
    }
    std::fs::write(data.join("tmp/keys"), "half").unwrap();
    std::fs::write(data.join("keys"), "of an earlier join").unwrap();
    world.server().await.storage.stop().await;
    assert!(data.join("server.id").exists() && !data.join("arc-first-start").exists());
    assert_eq!(names(&data.join("tmp")), Vec::<String>::new());
    world.server().await;
}

#[tokio::test]
async fn a_tmp_that_leads_elsewhere_is_not_emptied() {
    let world = World::new().await;
    world.server().await.storage.stop().await;
    let (tmp, elsewhere) = (world.data().join("tmp"), world.dir.path().join("elsewhere"));
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::write(elsewhere.join("thesis.tex"), "mine").unwrap();
    std::fs::remove_dir(&tmp).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &tmp).unwrap();
    assert!(refused(world.config()).await.contains("is not a folder"));
    assert!(elsewhere.join("thesis.tex").exists());
}

#[tokio::test]
async fn one_process_has_a_folder_until_it_stops() {
    let world = World::new().await;
    let server = world.server().await;
    assert!(refused(world.config()).await.contains("another arc server is using"));
    server.put(&shard(5000)).await.unwrap();
    server.storage.stop().await;
    world.server().await;
}

#[tokio::test]
async fn a_name_that_is_taken_is_refused_and_another_is_given_a_place() {
    let world = World::new().await;
    let server = world.server().await;
    server.storage.stop().await;
    // As after a crash between the join and server.id.
    std::fs::remove_file(world.data().join("server.id")).unwrap();
    assert!(refused(world.config()).await.contains("not empty"), "it may have shards");
    for later in ["starts", "epoch", "vault.record"] {
        // An epoch is kept only when a ticket or hello brought one.
        let _ = std::fs::remove_file(world.data().join(later));
    }
    std::fs::write(world.data().join("arc-first-start"), "").unwrap();
    let error = refused(world.config()).await;
    assert!(error.contains("has joined"), "{error}");
    assert!(!world.data().join("server.id").exists());
    let server = world.server_with(|config| config.name = Some("disk-2".into())).await;
    assert_eq!(server.storage.server, ServerId(2));
}

#[tokio::test]
async fn a_folder_on_another_disk_is_refused_until_a_person_says_so() {
    let world = World::new().await;
    world.server().await.storage.stop().await;
    let path = world.data().join("server.id");
    let mut identity: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    identity["disk"]["kind"] = 1.into();
    std::fs::write(&path, identity.to_string()).unwrap();
    assert!(refused(world.config()).await.contains("is this a copy"));
    identity.as_object_mut().unwrap().remove("disk");
    std::fs::write(&path, identity.to_string()).unwrap();
    world.server().await.storage.stop().await;
    assert!(std::fs::read_to_string(&path).unwrap().contains("disk"));
}

#[tokio::test]
async fn nothing_is_granted_before_the_coordinators_time_is_known() {
    let world = World::new().await;
    world.coordinator.deaf.store(true, Ordering::Relaxed);
    let server = world.server().await;
    let shard = shard(5000);
    assert_eq!(server.put(&shard).await.unwrap_err().code, Code::NotReady);
    world.coordinator.deaf.store(false, Ordering::Relaxed);
    let hellos = || world.coordinator.hellos.lock().unwrap().len();
    eventually(|| hellos() >= 2).await;
    // The answer to that hello is on its way.
    while server.put(&shard).await.is_err_and(|refusal| refusal.code == Code::NotReady) {}
    assert_eq!(server.found(&shard, Thoroughness::Whole).await, Found::Good);
}

#[tokio::test]
async fn whoever_listens_at_the_coordinators_address_is_not_believed() {
    let world = World::new().await;
    world.server().await.storage.stop().await;
    let coordinator = &world.coordinator;
    *coordinator.hello_key.lock().unwrap() = [8; 32];
    coordinator.epoch.store(u64::MAX, Ordering::Relaxed);
    *coordinator.record.lock().unwrap() = record(VAULT, 5);
    let server = world.server().await;
    let shard = shard(5000);
    assert_eq!(coordinator.hellos.lock().unwrap().len(), 2);
    coordinator.epoch.store(4, Ordering::Relaxed);
    assert_eq!(server.put(&shard).await.unwrap_err().code, Code::NotReady);
    assert_eq!(std::fs::read(world.data().join("vault.record")).unwrap(), record(VAULT, 1));
    server.storage.stop().await;

    *coordinator.hello_key.lock().unwrap() = SHARED_KEY;
    world.server().await.put(&shard).await.unwrap();
    assert_eq!(std::fs::read(world.data().join("vault.record")).unwrap(), record(VAULT, 5));
}

#[tokio::test]
async fn a_hello_that_brings_an_old_record_is_heard_all_the_same() {
    let world = World::new().await;
    *world.coordinator.record.lock().unwrap() = record(VAULT, 2);
    world.server().await.storage.stop().await;
    *world.coordinator.record.lock().unwrap() = record(VAULT, 1);
    world.server().await.put(&shard(5000)).await.unwrap();
    assert_eq!(std::fs::read(world.data().join("vault.record")).unwrap(), record(VAULT, 2));
}

#[tokio::test]
async fn a_probe_makes_the_time_known_too() {
    let world = World::new().await;
    world.coordinator.deaf.store(true, Ordering::Relaxed);
    let server = world.server().await;
    server.probe().await.unwrap();
    server.put(&shard(5000)).await.unwrap();
}

#[tokio::test]
async fn keys_are_for_the_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new().await;
    let _server = world.server().await;
    let mode = |name: &str| world.data().join(name).metadata().unwrap().permissions().mode();
    assert_eq!(mode("keys") & 0o777, 0o600);
    assert_eq!(mode("") & 0o777, 0o700);
}

#[tokio::test]
async fn an_address_that_nobody_can_reach_is_not_announced() {
    let world = World::new().await;
    let mut config = world.config();
    config.listen.address = ([0, 0, 0, 0], 0).into();
    config.listen.transport = Transport::Plain;
    assert!(refused(config.clone()).await.contains("--advertise"));
    config.advertise = Some("http://storage.example:7000".into());
    let storage = storage::start(config).await.unwrap();
    assert_eq!(world.coordinator.hellos.lock().unwrap()[0].url, "http://storage.example:7000");
    storage.stop().await;
}
