//! `arc demo`: the whole main job once, with a folder of the newcomer's.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use codec::Geometry;
use codec::keys::Secret;
use zeroize::Zeroizing;

use super::compare::{Compared, compare};
use super::{Global, pull, push, verify};
use crate::exit::{Exit, Failure};
use crate::secret::{self, SecretArgs};
use crate::ui::{bytes_text, path_text, plural, shell_word};
use crate::vault;

/// Differences told before "and more".
const DIFFERENCES_TOLD: usize = 10;
/// The two that are taken away.
const TAKEN: [&str; 2] = ["2", "5"];

/// Show it all once with a folder of yours: push, lose two servers, pull, compare.
///
/// A vault with code 4+2 is made in a new folder of the system's temporary folder, on six storage
/// servers inside this process. It stays there, so that you can go on with it. Nothing of yours is
/// changed.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Args {
    /// The folder to save and get back [default: the current one]
    #[arg(value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// Where things are in a demonstration.
struct Stage {
    source: PathBuf,
    vault: PathBuf,
    restored: PathBuf,
    passphrase_file: PathBuf,
    /// Names that are left out: built things.
    skip: Vec<OsString>,
}

/// See [`Args`].
pub async fn run(args: Args, global: &Global) -> Result<Exit, Failure> {
    let stage = Stage::set(args.dir)?;
    let ui = &global.ui;
    let step = |number: u32, text: String| ui.say(format!("\n{number}/7  {text}"));

    step(
        1,
        format!(
            "A vault with code 4+2: six storage servers, each with its own folder in {}",
            path_text(&stage.vault)
        ),
    );
    let passphrase = secret::generate()?;
    stage.make_vault(&passphrase, global).await?;
    let global = &stage.global(passphrase, global);

    step(2, format!("Push {}{}", path_text(&stage.source), stage.skip_text()));
    let pushed = push::run(stage.push_args(), global).await?;
    must_be(pushed, &[Exit::Done, Exit::SourcesIncomplete], "the push")?;

    step(
        3,
        format!(
            "Two of the six servers are taken away: folders {} are renamed",
            TAKEN.join(" and ")
        ),
    );
    stage.take_away()?;

    step(
        4,
        format!("Pull everything back from the other four into {}", path_text(&stage.restored)),
    );
    must_be(pull::run(stage.pull_args(), global).await?, &[Exit::Done], "the pull")?;

    step(5, "Compare source and result: names, types, modes, times, and every byte".into());
    stage.compare(global)?;

    step(6, "Verify while the two are away: all can be read, but nothing more may be lost".into());
    let away = verify::run(verify::Args::default(), global).await?;
    ui.forget_codes();
    must_be(away, &[Exit::Done, Exit::BelowTarget], "verify")?;

    step(7, "The two servers come back; verify again".into());
    stage.bring_back()?;
    must_be(verify::run(verify::Args::default(), global).await?, &[Exit::Done], "verify")?;

    stage.say_goodbye(global);
    Ok(pushed)
}

impl Stage {
    fn set(dir: Option<PathBuf>) -> Result<Self, Failure> {
        let dir = dir.unwrap_or_else(|| ".".into());
        let source = dir.canonicalize().map_err(|e| {
            Failure::new(Exit::NoSnapshot, format!("there is no {}", path_text(&dir)))
                .why(e.to_string())
        })?;
        let suffix: [u8; 4] = server::auth::random()?;
        let name = format!("arc-demo-{:08x}", u32::from_le_bytes(suffix));
        let folder = std::env::temp_dir().join(&name);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .map_err(Failure::io("cannot make", &folder))?;
        let folder = folder.canonicalize().map_err(Failure::io("cannot find", &folder))?;
        let mut skip = Vec::new();
        if source.join("Cargo.toml").is_file() {
            skip.push(OsString::from("target"));
        }
        // The demonstration must not save itself.
        if folder.starts_with(&source) {
            skip.push(name.into());
        }
        Ok(Self {
            source,
            vault: folder.join("vault"),
            restored: folder.join("restored"),
            passphrase_file: folder.join("passphrase"),
            skip,
        })
    }

    fn skip_text(&self) -> String {
        let names: Vec<_> = self.skip.iter().map(|name| name.to_string_lossy()).collect();
        if names.is_empty() { String::new() } else { format!(" (without {})", names.join(", ")) }
    }

    async fn make_vault(
        &self,
        passphrase: &Zeroizing<String>,
        global: &Global,
    ) -> Result<(), Failure> {
        use std::io::Write as _;
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&self.passphrase_file)
            .and_then(|mut file| writeln!(file, "{}", **passphrase))
            .map_err(Failure::io("cannot write", &self.passphrase_file))?;
        let code: Geometry = Geometry::new(4, 2)?;
        let secret = Secret::Passphrase(passphrase.clone());
        vault::create_local(&self.vault, code, None, secret, global).await?.close().await;
        global.ui.say(format!(
            "     Its passphrase is {}, also in {}",
            **passphrase,
            path_text(&self.passphrase_file)
        ));
        Ok(())
    }

    fn global(&self, passphrase: Zeroizing<String>, global: &Global) -> Global {
        Global {
            vault: Some(self.vault.to_string_lossy().into_owned()),
            secret: SecretArgs { key_file: None, passphrase: Some(passphrase) },
            ..global.clone()
        }
    }

    fn push_args(&self) -> push::Args {
        push::Args {
            paths: vec![self.source.clone()],
            exclude: self.skip.iter().map(|name| name.to_string_lossy().into_owned()).collect(),
            tags: vec!["demo".into()],
            ..push::Args::default()
        }
    }

    fn pull_args(&self) -> pull::Args {
        let mut snapshot = OsString::from("latest:");
        snapshot.push(&self.source);
        pull::Args { snapshot, to: self.restored.clone(), ..pull::Args::default() }
    }

    fn disk(&self, name: &str) -> PathBuf {
        self.vault.join("disks").join(name)
    }

    fn take_away(&self) -> Result<(), Failure> {
        TAKEN
            .iter()
            .try_for_each(|name| rename(&self.disk(name), &self.disk(&format!("{name}.away"))))
    }

    fn bring_back(&self) -> Result<(), Failure> {
        TAKEN
            .iter()
            .try_for_each(|name| rename(&self.disk(&format!("{name}.away")), &self.disk(name)))
    }

    fn compare(&self, global: &Global) -> Result<(), Failure> {
        let Compared { entries, bytes, differences } =
            compare(&self.source, &self.restored, &self.skip)
                .map_err(Failure::io("cannot compare", &self.source))?;
        if differences.is_empty() {
            let entries = plural(entries, "entry").replace("entrys", "entries");
            global.ui.say(format!("     {entries}, {}: all the same", bytes_text(bytes)));
            return Ok(());
        }
        let what =
            format!("{} between source and result", plural(differences.len() as u64, "difference"));
        let told = differences.iter().take(DIFFERENCES_TOLD);
        let failure = told.fold(Failure::new(Exit::Failed, what), |failure, (path, how)| {
            failure.why(format!("{} {how}", path_text(path)))
        });
        Err(failure
            .state(format!("vault and result are left in {}", path_text(self.folder())))
            .next("if those files changed meanwhile, run it with a folder that nobody writes to"))
    }

    fn folder(&self) -> &Path {
        self.vault.parent().unwrap_or(&self.vault)
    }

    fn say_goodbye(&self, global: &Global) {
        let word = |path: &Path| shell_word(&path_text(path));
        let arc = std::env::current_exe().map_or("arc".into(), |path| word(&path));
        let folder = word(self.folder());
        let lines = [
            String::new(),
            "Every byte came back with two of six servers gone. To go on with this vault:".into(),
            format!(
                "  export ARC_PASSPHRASE_FILE={} ARC_VAULT={}",
                word(&self.passphrase_file),
                word(&self.vault)
            ),
            format!("  {arc} snapshots"),
            format!("  {arc} ls latest"),
            format!("  {arc} push {}    # only what changed is sent", word(&self.source)),
            format!("  {arc} status"),
            "A vault of your own keeps its passphrase elsewhere:".into(),
            format!("  {arc} init DIR --code 4+2 --disks A,B,…"),
            format!("When you have seen enough: rm -r {folder}"),
        ];
        let fields = serde_json::json!({
            "folder": self.folder().to_string_lossy(),
            "vault": self.vault.to_string_lossy(),
            "passphrase_file": self.passphrase_file.to_string_lossy(),
        });
        global.ui.summary(&lines, fields);
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), Failure> {
    fs::rename(from, to).map_err(Failure::io("cannot rename", from))
}

fn must_be(exit: Exit, good: &[Exit], what: &str) -> Result<(), Failure> {
    if good.contains(&exit) {
        return Ok(());
    }
    Err(Failure::new(exit, format!("{what} ended with {}: {}", exit.code(), exit.text()))
        .state("the demonstration stops here; its folder is left as it is"))
}
