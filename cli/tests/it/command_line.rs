//! Help, usage errors, and what is said when there is no vault.

use crate::sandbox::Sandbox;

const COMMANDS: [&str; 10] =
    ["init", "push", "pull", "verify", "snapshots", "ls", "status", "servers", "serve", "demo"];

#[test]
fn help_names_every_command_and_exit_code() {
    let help = Sandbox::new().arc(["--help"]).exits(0).stdout();
    for command in COMMANDS {
        assert!(help.contains(&format!("\n  {command} ")), "{command} in {help}");
    }
    for code in ["  0  done", "  7  stored below target", "143  terminated"] {
        assert!(help.contains(code), "{code} in {help}");
    }
}

#[test]
fn every_command_explains_itself() {
    let sandbox = Sandbox::new();
    for command in COMMANDS {
        let help = sandbox.arc([command, "--help"]).exits(0).stdout();
        assert!(help.contains("Exit codes") && help.contains("Usage: arc"), "{command}: {help}");
    }
}

#[test]
fn a_wrong_command_line_is_2() {
    let sandbox = Sandbox::new();
    for line in [
        "",
        "frobnicate",
        "push",
        "push . --bogus",
        "push . --memory lots",
        "pull latest",
        "verify --level most",
        "init ./v --code 4",
        "init ./v --code 4+0",
        "init ./v",
        "init http://127.0.0.1:1 --code 4+2",
        "init ./v --code 4+2 --disks a,b,c,d",
        "serve coordinator",
        "serve storage --data d",
        "serve storage --data d --puts 0",
    ] {
        let ran = sandbox.arc(line.split_whitespace()).exits(2);
        assert_eq!(ran.stdout(), "", "{line}");
        assert!(!ran.stderr().is_empty(), "{line}");
    }
    assert!(!sandbox.path("v").exists(), "a refused init makes nothing");
}

#[test]
fn without_a_vault_every_command_says_so_with_10() {
    let sandbox = Sandbox::new();
    for line in
        ["status", "servers", "snapshots", "verify", "ls latest", "push .", "pull latest --to x"]
    {
        let ran = sandbox.arc(line.split_whitespace()).exits(10);
        assert!(ran.stderr().contains("arc init"), "{line}: {}", ran.stderr());
    }
    sandbox.arc(["--vault", "nowhere", "status"]).exits(10);
    sandbox.arc(["--vault", "http://127.0.0.1:1", "status"]).exits(10);
}

#[test]
fn json_lines_end_with_the_exit() {
    let ran = Sandbox::new().arc(["--json", "status"]).exits(10);
    let types: Vec<_> = ran.json().iter().map(|line| line["type"].clone()).collect();
    assert_eq!(types, ["start", "error", "exit"]);
    assert_eq!(ran.json_of("exit")["code"], 10);
    assert_eq!(ran.json_of("error")["next"], ran.json_of("exit")["next"]);
    assert_eq!(ran.stderr(), "");
}

#[test]
fn options_come_from_the_environment_too() {
    let sandbox = Sandbox::new();
    let run = |value: &str| sandbox.command(["status"]).env("ARC_JSON", value).output().unwrap();
    assert!(String::from_utf8(run("1").stdout).unwrap().contains("\"type\":\"exit\""));
    assert_eq!(run("0").stdout, b"");
}
