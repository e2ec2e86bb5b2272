//! The systemd unit of a service says what systemd takes, whatever the paths.

use std::fs;
use std::process::Command;

use crate::sandbox::{Sandbox, text};
use crate::trees::skipped;

/// The unit for this command line.
fn unit(sandbox: &Sandbox, args: &[&str]) -> String {
    let printed = sandbox.arc(args).exits(0);
    assert_eq!(printed.stderr(), "");
    printed.stdout()
}

#[test]
fn a_unit_has_the_whole_command_line_and_nothing_is_started() {
    // A key file in the environment would stand in the unit too.
    let sandbox = Sandbox::of_passphrase();
    let data = sandbox.path("my disk");
    let printed = unit(
        &sandbox,
        &[
            "serve",
            "storage",
            "--data",
            "my disk",
            "--coordinator=https://10.0.0.1:7070",
            "--join-token-file",
            "join.token",
            "--weight",
            "2",
            "--print-unit",
        ],
    );
    for line in [
        format!("\"--data={}\"", data.display()),
        format!("--join-token-file={} ", sandbox.path("join.token").display()),
        " --weight=2\n".to_owned(),
        " --coordinator=https://10.0.0.1:7070 ".to_owned(),
        format!("ReadWritePaths=\"{}\"", data.display()),
        "User=arc".to_owned(),
        "NoNewPrivileges=yes".to_owned(),
        "ProtectSystem=strict".to_owned(),
        "Restart=on-failure".to_owned(),
        "After=network-online.target".to_owned(),
    ] {
        assert!(printed.contains(&line), "{line} in {printed}");
    }
    assert!(!printed.contains("print-unit"), "{printed}");
    assert!(!data.exists(), "nothing was made");
    let refused = sandbox.arc(["serve", "coordinator", "--print-unit"]).exits(2);
    assert!(refused.stderr().contains("--data"), "{}", refused.stderr());
}

#[test]
fn systemd_takes_units_with_odd_paths() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return skipped("there is no systemd-analyze here");
    }
    let sandbox = Sandbox::new();
    for (n, name) in ["plain", "a b", "50%", "$HOME", "back\\slash", "it's", "a\"b", "ä;#"]
        .into_iter()
        .enumerate()
    {
        let data = sandbox.path(name);
        for role in ["coordinator", "storage"] {
            let line = ["serve", role, "--data", text(&data), "--tls-key", name, "--print-unit"];
            let file = sandbox.path(&format!("arc-{role}-{n}.service"));
            fs::write(&file, unit(&sandbox, &line)).unwrap();
            let verified =
                Command::new("systemd-analyze").arg("verify").arg(&file).output().unwrap();
            let said = String::from_utf8_lossy(&verified.stderr).into_owned();
            // Of this unit; others of this machine are no matter.
            let about_it: Vec<&str> =
                said.lines().filter(|l| l.contains(&format!("arc-{role}-{n}"))).collect();
            assert!(verified.status.success() && about_it.is_empty(), "{name}: {said}");
        }
    }
}
