//! Services as processes, and vaults on them and on local folders.

use std::os::unix::fs::PermissionsExt as _;

use crate::fleet::Fleet;
use crate::sandbox::{PASSPHRASE, Sandbox, Service, text};

/// Three servers in as many zones, and a vault with 2+1.
fn vault(sandbox: &Sandbox) -> (Service, Vec<Service>) {
    let coordinator = sandbox.coordinator("127.0.0.1:0");
    let storage = |name: &str| sandbox.storage(&coordinator, name, name);
    let servers = ["a", "b", "c"].map(storage).into();
    let token = sandbox.path("coordinator/owner.token");
    let made =
        sandbox.arc(["init", &coordinator.url, "--token-file", text(&token), "--code", "2+1"]);
    let said = made.exits(0).stdout();
    assert!(
        said.contains("2+1 on 3 servers in 3 zones: survives the loss of any 1 server"),
        "{said}"
    );
    (coordinator, servers)
}

#[test]
fn a_service_prints_one_line_and_stops_on_sigterm() {
    let sandbox = Sandbox::new();
    let coordinator = sandbox.coordinator("127.0.0.1:0");
    assert_eq!(coordinator.line, format!("coordinator listening on {}\n", coordinator.url));
    let storage = sandbox.storage(&coordinator, "a", "z");
    assert_eq!(storage.line, format!("storage a listening on {}\n", storage.url));
    for name in ["owner.token", "join.token"] {
        let path = sandbox.path("coordinator").join(name);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
    assert_eq!(storage.terminate(), Some(0));
    assert_eq!(coordinator.terminate(), Some(0));
}

#[test]
fn settings_of_a_service_come_from_a_file() {
    let sandbox = Sandbox::new();
    let file = sandbox.path("settings.toml");
    let data = sandbox.path("coordinator");
    std::fs::write(&file, format!("data = {:?}\nlisten = '127.0.0.1:0'\n", text(&data))).unwrap();
    sandbox.serve(["serve", "coordinator", "--config", text(&file)]);
    assert!(data.join("owner.token").exists());
    std::fs::write(&file, "dota = 'x'").unwrap();
    let refused = sandbox.arc(["serve", "coordinator", "--config", text(&file)]).exits(2);
    assert!(refused.stderr().contains("dota"), "{}", refused.stderr());
}

#[test]
fn plain_http_beyond_loopback_has_to_be_asked_for() {
    let sandbox = Sandbox::new();
    let data = sandbox.path("coordinator");
    let line = ["serve", "coordinator", "--listen", "0.0.0.0:0", "--data", text(&data)];
    let nowhere = sandbox.arc(line).exits(1).stderr();
    assert!(nowhere.contains("--advertise"), "{nowhere}");
    let advertised = ["--advertise", "https://127.0.0.1:7070"];
    let service = sandbox.serve(line.into_iter().chain(advertised));
    assert!(service.url.starts_with("https://"), "{}", service.url);
    assert_eq!(service.terminate(), Some(0));
    let service = sandbox.serve(line.into_iter().chain(["--plain-http"]));
    assert!(service.url.starts_with("http://"), "{}", service.url);
}

#[test]
fn a_vault_on_a_coordinator_is_remembered() {
    let sandbox = Sandbox::new();
    let (coordinator, servers) = vault(&sandbox);
    let listed = sandbox.arc(["--json", "servers"]).exits(0).json_of("summary");
    assert_eq!(listed["servers"].as_array().unwrap().len(), 3);
    let page = sandbox.arc(["status"]).exits(0).stdout();
    assert!(page.contains("nothing is stored yet"), "{page}");
    drop(servers);
    assert_eq!(coordinator.terminate(), Some(0));
    sandbox.arc(["status"]).exits(13);
}

#[test]
fn a_second_machine_connects_to_the_vault_that_is_there() {
    let sandbox = Sandbox::of_passphrase();
    let (coordinator, _servers) = vault(&sandbox);
    let token = sandbox.path("coordinator/owner.token");
    let other = Sandbox::of_passphrase();
    let init = ["init", &coordinator.url, "--token-file", text(&token)];
    let wrong = other.command(init).env("ARC_PASSPHRASE", "another").output().unwrap();
    assert_eq!(wrong.status.code(), Some(12));
    other.arc(["status"]).exits(10);
    other.arc(init.into_iter().chain(["--code", "4+2"])).exits(2);
    let said = other.arc(init).exits(0).stdout();
    assert!(said.contains("connected to the existing vault"), "{said}");
    other.arc(["status"]).exits(0);
}

#[test]
fn a_join_token_makes_no_vault() {
    let sandbox = Sandbox::new();
    let coordinator = sandbox.coordinator("127.0.0.1:0");
    let token = sandbox.path("coordinator/join.token");
    let init = ["init", &coordinator.url, "--token-file", text(&token), "--code", "2+1"];
    sandbox.arc(init).exits(12);
}

#[test]
fn too_few_servers_are_said_when_a_vault_is_made() {
    let sandbox = Sandbox::new();
    let coordinator = sandbox.coordinator("127.0.0.1:0");
    let _server = sandbox.storage(&coordinator, "a", "z");
    let token = sandbox.path("coordinator/owner.token");
    let init = ["init", &coordinator.url, "--token-file", text(&token), "--code", "2+1"];
    let ran = sandbox.arc(init).exits(0);
    assert!(ran.stdout().contains("nothing can be stored yet"), "{}", ran.stdout());
    assert!(ran.stderr().contains("warning:"), "{}", ran.stderr());
}

#[test]
fn without_a_code_those_that_fit_what_has_joined_are_proposed() {
    let mut fleet = Fleet::bare(&[]);
    let token = fleet.sandbox.path("coordinator/owner.token");
    let url = fleet.url();
    let init = ["--json", "init", &url, "--token-file", text(&token)];
    let told = fleet.sandbox.arc(init).exits(2).json_of("error");
    assert!(told["why"].to_string().contains("0 servers joined so far"), "{told}");
    for _ in 0..3 {
        fleet.join(&[]);
    }
    let told = fleet.sandbox.arc(init).exits(2).json_of("error");
    let command = format!("arc init {url} --token-file {} --code 2+1", text(&token));
    assert_eq!(told["next"][0], command, "{told}");
    assert!(told["why"][0].to_string().contains("the loss of any 1 server"), "{told}");
    let words: Vec<&str> = command.split(' ').skip(1).collect();
    fleet.sandbox.arc(words).exits(0);
}

#[test]
fn three_machines_of_two_disks_are_told_to_survive_one_of_them() {
    let sandbox = Sandbox::new();
    let coordinator = sandbox.coordinator("127.0.0.1:0");
    let _servers: Vec<_> = ["a1", "a2", "b1", "b2", "c1", "c2"]
        .map(|name| sandbox.storage(&coordinator, name, &name[..1]))
        .into();
    let token = sandbox.path("coordinator/owner.token");
    let init = ["--json", "init", &coordinator.url, "--token-file", text(&token)];
    let told = sandbox.arc(init).exits(2).json_of("error");
    let first = "4+2 on 6 servers in 3 zones: survives the loss of any 2 servers, or of any 1 zone";
    assert!(told["why"][0].as_str().unwrap().starts_with(first), "{told}");
    assert!(told["next"][0].as_str().unwrap().ends_with(" --code 4+2"), "{told}");
}

#[test]
fn a_stranger_at_the_same_address_is_refused() {
    let sandbox = Sandbox::new();
    let (coordinator, _servers) = vault(&sandbox);
    let address = coordinator.address().to_owned();
    coordinator.kill();
    std::fs::rename(sandbox.path("coordinator"), sandbox.path("former")).unwrap();
    let other = Sandbox::new();
    let stranger = other.coordinator(&address);
    let token = other.path("coordinator/owner.token");
    let init = ["init", &stranger.url, "--token-file", text(&token), "--code", "2+1"];
    other.arc(init).exits(0);
    sandbox.arc(["status"]).exits(12);
}

#[test]
fn a_local_vault_counts_a_missing_disk_as_away() {
    let sandbox = Sandbox::new();
    let made = sandbox.arc(["init", "vault", "--code", "2+1"]).exits(0);
    assert!(made.stderr().contains("one device"), "{}", made.stderr());
    sandbox.arc(["init", "vault", "--code", "2+1"]).exits(2);
    sandbox.arc(["status"]).exits(0);
    let (disk, aside) = (sandbox.path("vault/disks/2"), sandbox.path("aside"));
    std::fs::rename(&disk, &aside).unwrap();
    std::fs::create_dir(&disk).unwrap();
    let ran = sandbox.arc(["status"]).exits(7);
    assert!(ran.stderr().contains("not mounted?"), "{}", ran.stderr());
    assert_eq!(disk.read_dir().unwrap().count(), 0, "an empty mount point stays empty");
    std::fs::remove_dir(&disk).unwrap();
    std::fs::rename(&aside, &disk).unwrap();
    sandbox.arc(["status"]).exits(0);
}

#[test]
fn disks_are_given_and_never_taken_from_another_vault() {
    let sandbox = Sandbox::new();
    sandbox.arc(["init", "one", "--code", "2+1", "--disks", "red,green,blue"]).exits(0);
    assert!(sandbox.path("red/server.id").exists());
    assert!(!sandbox.path("one/disks").exists());
    sandbox.arc(["init", "two", "--code", "2+1", "--disks", "red,x,y"]).exits(2);
    assert!(!sandbox.path("two").exists());
    sandbox.arc(["init", "two", "--code", "2+1", "--disks", "x,x,y"]).exits(2);
}

#[test]
fn a_held_local_vault_says_who_holds_it() {
    let sandbox = Sandbox::new();
    sandbox.arc(["init", "vault", "--code", "2+1"]).exits(0);
    let lock = std::fs::File::open(sandbox.path("vault/lock")).unwrap();
    lock.lock().unwrap();
    let ran = sandbox.arc(["--lock-wait", "0", "status"]).exits(11);
    assert!(ran.stderr().contains("`arc init vault --code 2+1` (pid "), "{}", ran.stderr());
    drop(lock);
    sandbox.arc(["--lock-wait", "0", "status"]).exits(0);
}

#[test]
fn the_passphrase_comes_from_a_file_or_a_command() {
    let sandbox = Sandbox::of_passphrase();
    let with = |name: &str, value: &str, args: &[&str]| {
        let mut command = sandbox.command(args);
        let output = command.env_remove("ARC_PASSPHRASE").env(name, value).output().unwrap();
        output.status.code()
    };
    let file = sandbox.path("passphrase");
    std::fs::write(&file, format!("{PASSPHRASE}\nsecond line\n")).unwrap();
    let init = ["init", "vault", "--code", "2+1"];
    assert_eq!(with("NOTHING", "", &init), Some(12), "there is no terminal to ask on");
    assert_eq!(with("ARC_PASSPHRASE_FILE", text(&file), &init), Some(0));
    let verify = ["verify", "--level", "map"];
    assert_eq!(with("ARC_PASSPHRASE_COMMAND", &format!("echo {PASSPHRASE}"), &verify), Some(0));
    assert_eq!(with("ARC_PASSPHRASE_COMMAND", "echo wrong", &verify), Some(12));
}
