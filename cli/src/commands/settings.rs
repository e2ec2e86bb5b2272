//! Settings of a service from a TOML file, whose keys are the long flags' names.
//!
//! They are appended to the command line as flags, so that one parser and one
//! set of messages serves both. Flags and the environment go before the file.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches};
use toml::Value;

/// A settings file is shorter than this.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// The flags that the file of `--config` adds to what `matches` has; none without one.
pub(super) fn from_file(
    command: &clap::Command,
    matches: &ArgMatches,
) -> Result<Vec<OsString>, clap::Error> {
    let Some((serve, role_matches)) = matches.subcommand().filter(|(name, _)| *name == "serve")
    else {
        return Ok(vec![]);
    };
    let role = role_matches.subcommand().and_then(|(role, matches)| {
        let command = command.find_subcommand(serve)?.find_subcommand(role)?;
        Some((command, matches))
    });
    let Some((role, matches)) = role else { return Ok(vec![]) };
    let Some(path) = matches.get_one::<PathBuf>("config") else { return Ok(vec![]) };
    let bad = |why: String| {
        let message = format!("settings file {}: {why}\n", crate::ui::path_text(path));
        command.clone().error(ErrorKind::ValueValidation, message)
    };
    let table = read(path).map_err(bad)?;
    let mut flags = Vec::new();
    for (key, value) in table {
        let arg = role.get_arguments().find(|arg| arg.get_long() == Some(&key) && key != "config");
        let arg = arg.ok_or_else(|| bad(format!("there is no setting {key:?}")))?;
        let source = matches.value_source(arg.get_id().as_str());
        if matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable)) {
            continue;
        }
        let switch = matches!(arg.get_action(), ArgAction::SetTrue);
        flags.extend(flag(&key, &value, switch).map_err(bad)?.map(OsString::from));
    }
    Ok(flags)
}

fn read(path: &Path) -> Result<toml::Table, String> {
    let mut text = String::new();
    let file = File::open(path).map_err(|e| e.to_string())?;
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(|e| e.to_string())?;
    text.parse::<toml::Table>().map_err(|e| e.to_string())
}

fn flag(key: &str, value: &Value, switch: bool) -> Result<Option<String>, String> {
    match (switch, value) {
        (true, Value::Boolean(on)) => Ok(on.then(|| format!("--{key}"))),
        (false, Value::String(text)) => Ok(Some(format!("--{key}={text}"))),
        (false, Value::Integer(number)) => Ok(Some(format!("--{key}={number}"))),
        (true, _) => Err(format!("{key} is true or false")),
        (false, _) => Err(format!("{key} is a string or a number")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::serve::{Coordinator, Role};
    use super::super::{Cli, Command, parse};

    fn coordinator(file: &str, flags: &[&str]) -> Result<Coordinator, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("arc.toml");
        std::fs::write(&path, file).unwrap();
        let start = ["arc", "serve", "coordinator", "--config", path.to_str().unwrap()];
        let argv = start.iter().chain(flags).map(Into::into).collect();
        let Cli { command, .. } = parse(argv).map_err(|e| e.to_string())?;
        match command {
            Command::Serve(args) => match args.role {
                Role::Coordinator(coordinator) => Ok(coordinator),
                Role::Storage(_) => panic!("not a coordinator"),
            },
            _ => panic!("not serve"),
        }
    }

    #[test]
    fn flags_go_before_the_file_and_the_file_before_defaults() {
        let file = "data = '/srv/arc'\nprobe-every = '10s'\nmisses = 5\nplain-http = true\n";
        let set = coordinator(file, &["--probe-every", "7s"]).unwrap();
        assert_eq!(set.data.as_deref(), Some("/srv/arc".as_ref()));
        assert_eq!(set.probe_every, Duration::from_secs(7));
        assert_eq!(set.misses, 5);
        assert_eq!(set.good, 3);
        assert!(set.transport.plain_http);
    }

    #[test]
    fn a_setting_that_does_not_exist_or_fit_is_refused_by_name() {
        for (file, named) in [
            ("colour = 'red'", "colour"),
            ("plain-http = 'yes'", "plain-http"),
            ("probe-every = 'often'", "probe-every"),
            ("misses = [1]", "misses"),
            ("data = ", "settings file"),
        ] {
            let error = coordinator(file, &[]).err().unwrap();
            assert!(error.contains(named), "{file}: {error}");
        }
    }
}
