//! `arc init`: a vault on local folders, or on a running coordinator.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use codec::Geometry;
use codec::keys::VaultRecord;
use serde_json::json;
use server::auth::Token;
use server::client::CoordinatorClient;

use super::Global;
use super::serve::read_token;
use crate::config::{Config, Known, Location};
use crate::exit::{Exit, Failure};
use crate::secret;
use crate::ui::{plural, shell_word};
use crate::vault::{self, Vault};

/// Make a vault, or connect to one on a coordinator.
///
/// With a folder, the vault is on local folders or disks: the services run inside each command.
/// With a URL, it is on that coordinator and the storage servers that have joined it. When the
/// coordinator has a vault already, this machine is connected to it. Either way the vault is
/// remembered, and no token has to be given again on this machine.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  arc init ./vault --code 4+2
  arc init /srv/vault --code 2+1 --disks /mnt/a/arc,/mnt/b/arc,/mnt/c/arc
  arc init https://10.0.0.5:7070 --token-file owner.token --code 4+2")]
pub struct Args {
    /// A folder for a vault on local disks, or the URL of a running coordinator
    #[arg(value_name = "DIR|URL")]
    pub place: String,
    /// The code: k data and m parity shards, each on its own disk or server; any m may be lost.
    /// Without it, `init URL` says which codes fit the servers that have joined
    #[arg(long, value_name = "K+M")]
    pub code: Option<Geometry>,
    /// The disks of a local vault, an empty or new folder on each [default: DIR/disks/1 to n]
    #[arg(long, value_name = "A,B,…", value_delimiter = ',')]
    pub disks: Vec<PathBuf>,
    /// The coordinator's owner token: owner.token in its folder
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The name by which --vault finds it [default: the folder's or host's name]
    #[arg(long)]
    pub name: Option<String>,
}

/// See [`Args`].
pub async fn run(args: Args, global: &Global) -> Result<Exit, Failure> {
    if let Some(name) = args.name.as_deref().filter(|name| !is_good_name(name)) {
        let what = format!("{name:?} is no name for a vault");
        return Err(Failure::new(Exit::Usage, what)
            .why("a name has no slash, does not begin with http:// and is not empty"));
    }
    if Location::is_url(&args.place) {
        remote(args, global).await
    } else {
        local(args, global).await
    }
}

fn is_good_name(name: &str) -> bool {
    !name.is_empty() && !name.contains('/') && !name.chars().any(char::is_control)
}

async fn local(args: Args, global: &Global) -> Result<Exit, Failure> {
    if args.token_file.is_some() {
        return Err(Failure::new(Exit::Usage, "--token-file goes with the URL of a coordinator")
            .why(format!("{} is a folder", args.place)));
    }
    let geometry = args.code.ok_or_else(|| no_code(&args.place))?;
    let dir = absolute(Path::new(&args.place))?;
    let disks = (!args.disks.is_empty()).then_some(args.disks.as_slice());
    vault::check_new_local(&dir, geometry, disks)?;
    let secret = choose_secret(global).await?;
    let vault = vault::create_local(&dir, geometry, disks, secret, global).await?;
    let told = tell(&vault, "made", args.name, None, global).await;
    vault.close().await;
    told
}

async fn remote(args: Args, global: &Global) -> Result<Exit, Failure> {
    if !args.disks.is_empty() {
        return Err(Failure::new(
            Exit::Usage,
            "--disks goes with a folder, not with a coordinator",
        )
        .next("arc serve storage    # on each machine with a disk"));
    }
    let location = Location::from(args.place.clone());
    let path = args.token_file.as_ref().ok_or_else(|| {
        Failure::new(Exit::Usage, "a vault on a coordinator needs its owner token")
            .next(format!("arc init {location} --token-file owner.token --code 4+2"))
            .next("owner.token is in the folder that `arc serve coordinator --data` names")
    })?;
    let token = read_token(path)?;
    warn_of_plain_http(&args.place, global);
    let coordinator = vault::client_of_token(&args.place, &token)?;
    let info = coordinator.vault().await?;
    let (vault, done) = if info.record.is_some() {
        let record = vault::record_of(&info, &location)?;
        same_code(&record, args.code)?;
        let keys = secret::unlock(&record, &global.secret).await?;
        (Vault::remote(keys, record, coordinator, location), "connected to the existing vault")
    } else {
        let geometry = match args.code {
            Some(code) => code,
            None => return Err(propose(&coordinator, &args.place, path).await?),
        };
        let secret = choose_secret(global).await?;
        let (keys, record) = vault::create_record(&coordinator, geometry, secret).await?;
        (Vault::remote(keys, record, coordinator, location), "made")
    };
    tell(&vault, done, args.name, Some(&token), global).await
}

fn no_code(place: &str) -> Failure {
    let place = shell_word(place);
    Failure::new(Exit::Usage, "a new vault needs a code: --code K+M")
        .why("k+m disks or servers hold k+m shards; any m of them may be lost")
        .next(format!("arc init {place} --code 4+2    # six disks or servers, any two may be lost"))
        .next(format!("arc init {place} --code 2+1    # three, any one may be lost"))
}

/// What to say where no code was given: those that fit the servers which have joined.
async fn propose(
    coordinator: &CoordinatorClient,
    place: &str,
    token_file: &Path,
) -> Result<Failure, Failure> {
    let servers = vault::all_servers(coordinator).await?;
    let sizes = vault::zone_sizes(servers.iter().map(|server| server.zone.as_str()));
    let codes = vault::proposals(&sizes);
    if codes.is_empty() {
        let joined = plural(servers.len() as u64, "server");
        return Ok(no_code(place).why(format!("{joined} joined so far: a code needs two or more")));
    }
    let command = format!(
        "arc init {} --token-file {}",
        shell_word(place),
        shell_word(&token_file.to_string_lossy())
    );
    let failure = Failure::new(Exit::Usage, "a new vault needs a code: --code K+M");
    Ok(codes.into_iter().fold(failure, |failure, code| {
        let (survives, warnings) = vault::survival_words(code, &sizes);
        let overhead = code.shards() as f64 / code.data() as f64;
        let but = warnings.first().map(|warning| format!("; {warning}")).unwrap_or_default();
        failure
            .why(format!("{survives}, for {overhead:.2} times the space{but}"))
            .next(format!("{command} --code {code}"))
    }))
}

fn same_code(record: &VaultRecord, wanted: Option<Geometry>) -> Result<(), Failure> {
    match wanted {
        Some(wanted) if wanted != record.geometry => {
            let what = format!("the coordinator has a vault already, with {}", record.geometry);
            Err(Failure::new(Exit::Usage, what)
                .why(format!("--code {wanted} was asked for"))
                .state("nothing was changed")
                .next("leave out --code to connect to the vault that is there"))
        }
        _ => Ok(()),
    }
}

async fn choose_secret(global: &Global) -> Result<codec::keys::Secret, Failure> {
    let (secret, generated) = secret::choose(&global.secret).await?;
    if let Some(passphrase) = generated {
        global.ui.tell(format!("The passphrase of the vault is   {}", *passphrase));
        global
            .ui
            .tell("Write it down: without it nobody can read the vault, and nobody can reset it.");
    }
    Ok(secret)
}

fn warn_of_plain_http(url: &str, global: &Global) {
    if url.starts_with("http://") && !is_loopback(url) {
        let what =
            format!("{url} is plain HTTP: whoever can listen on that network can take the token");
        global.ui.warn(&what, None);
    }
}

/// The host in a URL.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    }
}

fn is_loopback(url: &str) -> bool {
    let host = host(url);
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

fn absolute(dir: &Path) -> Result<PathBuf, Failure> {
    let failed = || Failure::io("cannot find", dir);
    // The folder itself may not be there yet, but symlinks on the way to it are followed now,
    // so that it is later found under the same name.
    let path = std::path::absolute(dir).map_err(failed())?;
    if let Ok(found) = path.canonicalize() {
        return Ok(found);
    }
    match (path.parent().map(Path::canonicalize), path.file_name()) {
        (Some(Ok(parent)), Some(name)) => Ok(parent.join(name)),
        _ => Ok(path),
    }
}

fn default_name(location: &Location) -> String {
    let name = match location {
        Location::Url(url) => host(url).to_owned(),
        Location::Dir(dir) => dir.file_name().unwrap_or_default().to_string_lossy().into_owned(),
    };
    if is_good_name(&name) { name } else { "vault".into() }
}

/// Remembers the vault and says what there is now.
async fn tell(
    vault: &Vault,
    done: &str,
    name: Option<String>,
    token: Option<&Token>,
    global: &Global,
) -> Result<Exit, Failure> {
    let known = Known {
        location: vault.location.clone(),
        token: token.map(Token::to_string),
        vault: vault.record.vault,
        generation: vault.record.generation,
        head: None,
    };
    let wish = name.unwrap_or_else(|| default_name(&vault.location));
    let name = Config::update(|config| config.remember(&wish, known))?;
    let servers = vault::all_servers(&vault.coordinator).await?;
    let sizes = vault::zone_sizes(servers.iter().map(|server| server.zone.as_str()));
    let (survives, warnings) = vault::survival_words(vault.geometry(), &sizes);
    let one_device = matches!(vault.location, Location::Dir(_)) && sizes.len() == 1;
    for warning in &warnings {
        match one_device {
            true => global.ui.warn(
                "all disks of this vault are folders on one device: it survives deleted or damaged folders, not the loss of the device",
                None,
            ),
            false => global.ui.warn(warning, None),
        }
    }
    let lines = [
        format!("vault {name} at {}: {done}", vault.location),
        survives.clone(),
        format!("next: arc --vault {} push PATH…", shell_word(&name)),
    ];
    let fields = json!({
        "vault": vault.record.vault,
        "name": name,
        "location": vault.location,
        "code": vault.geometry().to_string(),
        "done": done,
        "servers": servers.len(),
        "zones": sizes.len(),
        "survives": survives,
    });
    global.ui.summary(&lines, fields);
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_found_in_urls() {
        assert_eq!(host("http://nas:7070/x"), "nas");
        assert_eq!(host("http://[::1]:7070"), "::1");
        assert!(is_loopback("http://127.0.0.1:1"));
        assert!(is_loopback("http://[::1]:1/"));
        assert!(is_loopback("http://localhost"));
        assert!(!is_loopback("http://127.0.0.1.example.org:1"));
        assert!(!is_loopback("http://10.0.0.5:1"));
    }

    #[test]
    fn a_vault_is_named_after_its_place() {
        assert_eq!(default_name(&Location::Url("http://nas:7070".into())), "nas");
        assert_eq!(default_name(&Location::Dir("/srv/photos".into())), "photos");
        assert_eq!(default_name(&Location::Dir("/".into())), "vault");
        assert!(!is_good_name("a/b"));
    }

    #[test]
    fn a_code_is_asked_for_with_examples() {
        assert_eq!(no_code("./v").code, Exit::Usage);
        assert!(no_code("./v").next[0].starts_with("arc init ./v --code 4+2"));
    }
}
