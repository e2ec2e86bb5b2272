//! What is printed where: JSON lines, silence, and streams that are closed.

use std::fs::File;
use std::io::Read as _;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::fleet::eventually;
use crate::sandbox::{Ran, Sandbox, text};
use crate::shards;
use crate::trees::{fill, noise, write};

/// Every command on a vault that ends well, in an order in which it does.
const COMMANDS: [&str; 13] = [
    "push tree",
    "push tree --dry-run",
    "pull latest --to out",
    "verify --level map",
    "verify latest --level data",
    "verify --level restore --subset oldest",
    "drill --subset 50%",
    "snapshots",
    "ls latest",
    "status",
    "events",
    "servers",
    "init other --code 2+1",
];

fn vault() -> Sandbox {
    let sandbox = Sandbox::with_vault("2+1");
    fill(&sandbox.path("tree"), 60, 500);
    sandbox
}

#[test]
fn json_lines_begin_with_a_start_and_end_with_the_exit() {
    let sandbox = vault();
    for command in COMMANDS {
        let ran = sandbox.arc(["--json"].into_iter().chain(command.split(' '))).exits(0);
        let lines = ran.json();
        assert_eq!(lines[0]["type"], "start", "{command}");
        assert_eq!(lines[0]["command"], command.split(' ').next().unwrap());
        let exit = lines.last().unwrap();
        assert_eq!(exit["type"], "exit", "{command}");
        assert_eq!((&exit["code"], &exit["codes"]), (&json!(0), &json!([])), "{command}");
        assert_eq!(ran.json_lines("exit").len(), 1, "{command}");
        let of_interest = match command.split(' ').next().unwrap() {
            "snapshots" => "snapshot",
            "ls" => "entry",
            "events" => "event",
            _ => "summary",
        };
        assert!(!ran.json_lines(of_interest).is_empty(), "{command}: {}", ran.stdout());
        if !command.starts_with("init") {
            assert_eq!(ran.stderr(), "", "{command}");
        }
    }
}

#[test]
fn json_lines_tell_failures_with_all_their_parts() {
    let sandbox = vault();
    for (command, code) in [
        ("push gone", 14),
        ("pull latest --to out", 14),
        ("verify beef", 14),
        ("ls latest", 14),
        ("--vault nowhere status", 10),
        ("pull latest --to tree", 2),
        ("push tree --pack-size 1", 2),
    ] {
        let ran = sandbox.arc(["--json"].into_iter().chain(command.split(' '))).exits(code);
        let error = ran.json_of("error");
        assert_eq!(error["code"], code, "{command}");
        assert!(!error["what"].as_str().unwrap().is_empty(), "{command}");
        for part in ["why", "state", "next"] {
            assert!(error[part].is_array(), "{command}: {part}");
        }
        assert_eq!(ran.json_of("exit")["codes"], json!([code]), "{command}");
        assert_eq!(ran.stderr(), "", "{command}");
    }
}

#[test]
fn the_exit_line_has_all_codes_that_apply() {
    let sandbox = vault();
    // Larger than what is stored in copies, for which two disks are enough.
    write(sandbox.path("tree/large"), noise(1, 400_000));
    // It can be opened, and reading its start fails.
    let unreadable = "/proc/self/mem";
    std::fs::rename(sandbox.path("vault/disks/1"), sandbox.path("aside")).unwrap();
    let push = ["--json", "push", "tree", unreadable, "--min-shards", "2", "--wait-servers", "0"];
    let exit = sandbox.arc(push).exits(7).json_of("exit");
    assert_eq!(exit["codes"], json!([3, 7]));
    assert_eq!(exit["warnings"], 2, "the disk and the file");
}

#[test]
fn names_that_are_no_text_come_in_base64_too() {
    use std::os::unix::ffi::OsStrExt as _;
    let sandbox = Sandbox::with_vault("2+1");
    let name = sandbox.path("tree").join(std::ffi::OsStr::from_bytes(b"\xff"));
    write(&name, "x");
    sandbox.arc(["push", "tree"]).exits(0);
    let entries = sandbox.arc(["--json", "ls", "latest"]).exits(0).json_lines("entry");
    assert_eq!(entries.len(), 2);
    assert!(entries[0].get("path_b64").is_none());
    use base64::Engine as _;
    let encoded = entries[1]["path_b64"].as_str().unwrap();
    let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap();
    assert_eq!(bytes, name.as_os_str().as_bytes());
    let listed = sandbox.arc(["ls", "latest"]).exits(0).stdout();
    assert!(listed.contains("/tree/\\xff\n"), "{listed}");
}

#[test]
fn quiet_says_nothing_of_success() {
    let sandbox = vault();
    for command in COMMANDS {
        let ran = sandbox.arc(["--quiet"].into_iter().chain(command.split(' '))).exits(0);
        // What a command was asked for is no talk.
        if !["snapshots", "events", "ls"].contains(&command.split(' ').next().unwrap()) {
            assert_eq!(ran.stdout(), "", "{command}");
        }
        if !command.starts_with("init") {
            assert_eq!(ran.stderr(), "", "{command}");
        }
    }
    let warned = sandbox.arc(["--quiet", "push", "gone"]).exits(14);
    assert!(warned.stderr().starts_with("error: "), "{}", warned.stderr());
}

#[test]
fn off_a_terminal_there_is_no_talk_and_no_color() {
    let sandbox = vault();
    for command in COMMANDS {
        let ran = sandbox.arc(command.split(' ')).exits(0);
        if !command.starts_with("init") {
            assert_eq!(ran.stderr(), "", "{command}");
        }
        assert!(!ran.stdout().is_empty() && !ran.stdout().contains('\x1b'), "{command}");
    }
    let said = sandbox.arc(["push", "gone"]).exits(14).stderr();
    assert!(!said.contains('\x1b'), "{said}");
}

#[test]
fn a_terminal_gets_color_unless_it_says_no() {
    let sandbox = vault();
    // `script` gives a command a terminal.
    let arc = format!("{} push gone", env!("CARGO_BIN_EXE_arc"));
    let on_terminal = |no_color: &str| {
        let template = sandbox.command(["push"]);
        let mut script = std::process::Command::new("script");
        script.args(["-q", "-e", "-c", &arc, "/dev/null"]).env_clear();
        script.envs(template.get_envs().filter_map(|(name, value)| Some((name, value?))));
        script.env("NO_COLOR", no_color).env("TERM", "xterm").stdin(Stdio::null());
        script.current_dir(sandbox.path("")).output().map(Ran)
    };
    let Ok(colored) = on_terminal("") else { return crate::trees::skipped("no script") };
    assert!(colored.exits(14).stdout().contains("\x1b[1;31merror:\x1b[0m cannot push"));
    let plain = on_terminal("1").unwrap().exits(14).stdout();
    assert!(plain.contains("error: cannot push") && !plain.contains("\x1b[1;31m"), "{plain}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let sandbox = vault();
    fill(&sandbox.path("more"), 3_000, 1);
    sandbox.arc(["push", "more"]).exits(0);
    for args in [&["ls", "latest"][..], &["--json", "ls", "latest"]] {
        let mut command = sandbox.command(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = [0; 10];
        child.stdout.take().unwrap().read_exact(&mut first).unwrap();
        // The pipe is closed here: 3,000 lines do not fit into it.
        let ran = Ran(child.wait_with_output().unwrap()).exits(0);
        assert_eq!(ran.stderr(), "");
    }
}

#[test]
fn a_file_for_a_reader_that_stops_is_no_failure_and_can_be_interrupted() {
    let sandbox = Sandbox::with_vault("2+1");
    write(sandbox.path("file"), noise(1, 3 << 20));
    sandbox.arc(["push", "file"]).exits(0);
    let file = format!("latest:{}", text(&sandbox.path("file")));
    let start = || {
        let mut command = sandbox.command(["pull", &file, "--to", "-"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        // The pipe holds far less than the file.
        out.read_exact(&mut [0; 10]).unwrap();
        (child, out)
    };
    let (gone, out) = start();
    drop(out);
    assert_eq!(Ran(gone.wait_with_output().unwrap()).exits(0).stderr(), "");
    let (mut stopped, _out) = start();
    kill_process(Pid::from_child(&stopped), Signal::INT).unwrap();
    eventually("it ends", || stopped.try_wait().unwrap().is_some());
    Ran(stopped.wait_with_output().unwrap()).exits(130);
}

#[test]
fn a_full_standard_output_is_a_failure() {
    let sandbox = vault();
    sandbox.arc(["push", "tree"]).exits(0);
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let file = format!("latest:{}/0/1", text(&sandbox.path("tree")));
    for args in [&["ls", "latest"][..], &["pull", &file, "--to", "-"]] {
        let ran = Ran(sandbox.command(args).stdout(full()).output().unwrap()).exits(15);
        assert!(ran.stderr().contains("standard output"), "{}", ran.stderr());
    }
}

#[test]
fn pull_to_standard_output_has_the_file_there_and_all_else_on_stderr() {
    let sandbox = Sandbox::with_vault("2+1");
    write(sandbox.path("file"), "content\n");
    sandbox.arc(["push", "file"]).exits(0);
    let damaged = shards::all(&sandbox).into_iter().find(|file| file.index == 0).unwrap();
    damaged.flip(damaged.header_bytes, 0);
    let file = format!("latest:{}", text(&sandbox.path("file")));
    let ran = sandbox.arc(["--json", "pull", &file, "--to", "-"]).exits(0);
    assert_eq!(ran.stdout(), "content\n");
    let on_stderr: Vec<serde_json::Value> =
        ran.stderr().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(on_stderr.last().unwrap()["type"], "exit", "{}", ran.stderr());
}

#[test]
fn progress_lines_are_asked_for() {
    let sandbox = vault();
    for progress in ["plain", "none", "auto"] {
        let ran = sandbox.arc(["push", "tree", "--progress", progress]).exits(0);
        assert_eq!(ran.stderr(), "", "{progress}: it is over before a minute");
    }
    sandbox.arc(["push", "tree", "--progress", "lots"]).exits(2);
}
