//! `arc serve … --print-unit`: a systemd unit for the same command line.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf, absolute};
use std::time::Duration;

use clap::builder::ValueParser;
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches};

use crate::exit::{Exit, Failure};
use crate::ui::path_text;

/// The flag itself, which the service is not given.
const FLAG: &str = "print_unit";
/// What a service may take to stop beyond its drain.
const STOP_EXTRA: Duration = Duration::from_secs(60);

/// What a unit is made of.
#[derive(Debug, Clone)]
pub(super) struct Unit {
    /// What it is, for people.
    pub(super) what: &'static str,
    /// The program.
    pub(super) program: PathBuf,
    /// What it is given.
    pub(super) words: Vec<OsString>,
    /// The one folder that it writes to.
    pub(super) data: PathBuf,
    /// How long requests may take to finish when it stops.
    pub(super) drain: Duration,
}

impl Unit {
    /// That of this very command line, of the service `role` whose folder is `data`.
    pub(super) fn of_this_process(
        role: &'static str,
        data: &Path,
        drain: Duration,
    ) -> Result<Self, Failure> {
        let program =
            std::env::current_exe().map_err(Failure::io("cannot find", "this program"))?;
        let usage = |error: clap::Error| Failure::new(Exit::Usage, error.to_string());
        let argv: Vec<OsString> = std::env::args_os().collect();
        let command = super::super::command();
        let given = command.clone().try_get_matches_from(&argv).map_err(usage)?;
        // Those that the settings file has: its relative paths are relative to here.
        let from_file = super::super::settings::from_file(&command, &given).map_err(usage)?;
        let all = command.clone().try_get_matches_from(argv.into_iter().chain(from_file));
        let words = words(&command, role, &given, &all.map_err(usage)?)?;
        let what = if role == "storage" { "storage server" } else { "coordinator" };
        Ok(Self { what, program, words, data: whole(data)?, drain })
    }

    /// The unit's text.
    pub(super) fn text(&self) -> Result<String, Failure> {
        let Self { what, program, words, data, drain } = self;
        let mut command = quoted(program.as_os_str(), false);
        for word in words {
            command.push_str(" \\\n    ");
            command.push_str(&quoted(word, true));
        }
        let folder = listed(data)?;
        // Where backslashes and quotes are read otherwise, the mount has to be named by hand.
        let is_plain = !data.as_os_str().as_bytes().iter().any(|c| b"\\\"'".contains(c));
        let mounts = if is_plain { format!("RequiresMountsFor={folder}\n") } else { String::new() };
        let stop = drain.saturating_add(STOP_EXTRA).as_secs();
        Ok(format!(
            "# Before the first start, make the user and the folder:\n\
             #   useradd --system arc\n\
             #   install -d -o arc -g arc -m 700 DIR    # that of ReadWritePaths\n\
             [Unit]\n\
             Description=arc {what}\n\
             Wants=network-online.target\n\
             After=network-online.target\n\
             {mounts}\n\
             [Service]\n\
             Type=exec\n\
             ExecStart={command}\n\
             User=arc\n\
             Restart=on-failure\n\
             RestartSec=5\n\
             # A wrong setting stays wrong.\n\
             RestartPreventExitStatus=2\n\
             TimeoutStopSec={stop}\n\
             LimitNOFILE=65536\n\
             UMask=0077\n\
             NoNewPrivileges=yes\n\
             ProtectSystem=strict\n\
             ProtectHome=read-only\n\
             ReadWritePaths={folder}\n\
             PrivateTmp=yes\n\
             PrivateDevices=yes\n\
             ProtectKernelTunables=yes\n\
             ProtectKernelModules=yes\n\
             ProtectControlGroups=yes\n\
             RestrictSUIDSGID=yes\n\
             RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX\n\
             LockPersonality=yes\n\
             CapabilityBoundingSet=\n\
             \n\
             [Install]\n\
             WantedBy=multi-user.target\n"
        ))
    }
}

/// The command line once more: what was given on it and in the environment, with whole paths.
fn words(
    command: &clap::Command,
    role: &str,
    given: &ArgMatches,
    all: &ArgMatches,
) -> Result<Vec<OsString>, Failure> {
    let mut words = vec![OsString::from("serve"), role.into()];
    let of_role = |matches: &ArgMatches| {
        let serve = matches.subcommand_matches("serve")?;
        serve.subcommand_matches(role).cloned()
    };
    let serve = command.find_subcommand("serve").and_then(|serve| serve.find_subcommand(role));
    let (Some(given), Some(all), Some(serve)) = (of_role(given), of_role(all), serve) else {
        return Ok(words);
    };
    let path = ValueParser::path_buf().type_id();
    for arg in serve.get_arguments().chain(command.get_arguments()) {
        let (id, Some(long)) = (arg.get_id().as_str(), arg.get_long()) else { continue };
        if id == FLAG {
            continue;
        }
        let is_path = arg.get_value_parser().type_id() == path;
        let matches = match (is_given(&given, id), is_path && is_given(&all, id)) {
            (true, _) => &given,
            (false, true) => &all,
            (false, false) => continue,
        };
        match arg.get_action() {
            ArgAction::SetTrue => {
                if matches.get_flag(id) {
                    words.push(format!("--{long}").into());
                }
            }
            ArgAction::Count => {
                let flag = OsString::from(format!("--{long}"));
                words.extend(std::iter::repeat_n(flag, matches.get_count(id).into()));
            }
            _ => {
                for value in matches.get_raw(id).into_iter().flatten() {
                    let value = match is_path {
                        true => whole(Path::new(value))?.into_os_string(),
                        false => value.to_owned(),
                    };
                    let mut word = OsString::from(format!("--{long}="));
                    word.push(value);
                    words.push(word);
                }
            }
        }
    }
    Ok(words)
}

fn is_given(matches: &ArgMatches, id: &str) -> bool {
    let source = matches.try_contains_id(id).ok().and_then(|_| matches.value_source(id));
    matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
}

fn whole(path: &Path) -> Result<PathBuf, Failure> {
    absolute(path).map_err(Failure::io("cannot find", path))
}

/// A word of `ExecStart`. Variables are looked for in all but the program.
fn quoted(word: &OsStr, has_variables: bool) -> String {
    let is_plain = |c: &u8| c.is_ascii_alphanumeric() || b"-_./:=,+@".contains(c);
    if let Some(plain) = word.to_str().filter(|w| !w.is_empty() && w.bytes().all(|c| is_plain(&c)))
    {
        return plain.to_owned();
    }
    let mut text = String::from("\"");
    for piece in word.as_bytes().utf8_chunks() {
        for c in piece.valid().chars() {
            match c {
                '"' | '\\' => text.extend(['\\', c]),
                '%' => text.push_str("%%"),
                '$' if has_variables => text.push_str("$$"),
                c if c.is_ascii_control() => text.push_str(&format!("\\x{:02x}", c as u8)),
                c => text.push(c),
            }
        }
        piece.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
    }
    text.push('"');
    text
}

/// A path in a list of paths, where a backslash is one and nothing else is escaped.
fn listed(path: &Path) -> Result<String, Failure> {
    let refused = |why: &str| {
        let what = format!("no unit can name the folder {}", path_text(path));
        Err(Failure::new(Exit::Usage, what).why(why).next("use a folder with a plainer name"))
    };
    let Ok(text) = String::from_utf8(path.as_os_str().to_owned().into_vec()) else {
        return refused("systemd takes paths in UTF-8 only");
    };
    if text.chars().any(|c| c.is_ascii_control()) {
        return refused("it has control characters, which lists of paths cannot have");
    }
    let quote = match (text.contains('"'), text.contains('\'')) {
        (false, _) => '"',
        (true, false) => '\'',
        (true, true) => return refused("it has both kinds of quotes"),
    };
    Ok(format!("{quote}{}{quote}", text.replace('%', "%%")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(program: &str, words: &[&[u8]], data: &str) -> Unit {
        Unit {
            what: "storage server",
            program: program.into(),
            words: words.iter().map(|word| OsString::from_vec(word.to_vec())).collect(),
            data: data.into(),
            drain: Duration::from_secs(30),
        }
    }

    fn line<'a>(text: &'a str, key: &str) -> &'a str {
        let at = text.find(&format!("\n{key}=")).unwrap() + 1;
        let rest = &text[at + key.len() + 1..];
        &rest[..rest.find('\n').unwrap()]
    }

    #[test]
    fn odd_words_and_paths_are_quoted_as_systemd_reads_them() {
        let words: [&[u8]; 4] = [b"serve", b"--data=/a b", b"--x=5%$h\\\"'", b"--y=\xff\n"];
        let text = unit("/opt/a $1%/arc", &words, "/mnt/a b%\\c").text().unwrap();
        let command = "\nExecStart=\"/opt/a $1%%/arc\" \\\n    serve \\\n    \"--data=/a b\" \
                       \\\n    \"--x=5%%$$h\\\\\\\"'\" \\\n    \"--y=\\xff\\x0a\"\nUser=arc\n";
        assert!(text.contains(command), "{text}");
        assert_eq!(line(&text, "ReadWritePaths"), r#""/mnt/a b%%\c""#);
        assert!(!text.contains("RequiresMountsFor"), "it reads backslashes otherwise");
        assert_eq!(line(&text, "TimeoutStopSec"), "90");
        let text = unit("/arc", &[], "/mnt/it's").text().unwrap();
        assert_eq!(line(&text, "ReadWritePaths"), "\"/mnt/it's\"");
        let text = unit("/arc", &[], "/mnt/a \"b\"").text().unwrap();
        assert_eq!(line(&text, "ReadWritePaths"), "'/mnt/a \"b\"'");
        for refused in ["/a\nb", "/a\"b'c"] {
            assert_eq!(unit("/arc", &[], refused).text().unwrap_err().code, Exit::Usage);
        }
    }

    #[test]
    fn the_command_line_comes_once_more_with_whole_paths() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("arc.toml");
        std::fs::write(&file, "data = 'vault'\nmisses = 5\n").unwrap();
        let command = super::super::super::command();
        let argv: Vec<OsString> = [
            "arc",
            "--log",
            "debug",
            "serve",
            "coordinator",
            "--listen",
            "10.0.0.1:7070",
            "--tls",
            "--print-unit",
            "--grace=20m",
            "--config",
        ]
        .into_iter()
        .map(OsString::from)
        .chain([file.clone().into()])
        .collect();
        let given = command.clone().try_get_matches_from(&argv).unwrap();
        let more = super::super::super::settings::from_file(&command, &given).unwrap();
        let all = command.clone().try_get_matches_from(argv.into_iter().chain(more)).unwrap();
        let mut words = words(&command, "coordinator", &given, &all).unwrap();
        words.sort();
        let here = absolute("vault").unwrap();
        let mut expected: Vec<OsString> = [
            "serve",
            "coordinator",
            "--listen=10.0.0.1:7070",
            "--tls",
            "--grace=20m",
            "--log=debug",
        ]
        .map(OsString::from)
        .into();
        expected.push(format!("--config={}", file.display()).into());
        expected.push(format!("--data={}", here.display()).into());
        expected.sort();
        assert_eq!(words, expected);
    }
}
