//! `arc throttle`: how fast servers do work in the background, and how much of it at once.

use serde_json::json;
use server::wire::{BACKGROUND_BYTES_PER_SECOND_MIN, RepairStatus, ServerPace, SetRepair};

use super::Global;
use super::quantity::parse_bytes;
use crate::exit::{Exit, Failure};
use crate::ui::{bytes_text, escaped};
use crate::vault;

/// Show or set how fast scrub, repair and rebalance may go.
///
/// What is set counts at once, for what runs too, and outlives restarts. While clients read and
/// write, such work has a quarter of its pace. A stripe with nothing to spare is repaired at full
/// speed all the same. Needs no passphrase.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = "Examples:
  arc throttle
  arc throttle --bytes-per-second 200M --per-server 50M
  arc throttle --bytes-per-second none --at-once 2")]
pub struct Args {
    /// Bytes that all servers together read and write in a second: each has an equal part
    #[arg(long, value_name = "BYTES|none", value_parser = parse_pace)]
    pub bytes_per_second: Option<u64>,
    /// Bytes that each server reads and writes in a second
    #[arg(long, value_name = "BYTES|none", value_parser = parse_pace)]
    pub per_server: Option<u64>,
    /// Stripes repaired or moved at once
    #[arg(long, value_name = "N")]
    pub at_once: Option<u32>,
}

/// A pace; 0 for none.
fn parse_pace(text: &str) -> Result<u64, String> {
    match text {
        "none" => Ok(0),
        _ => match parse_bytes(text)? {
            pace @ 1..BACKGROUND_BYTES_PER_SECOND_MIN => {
                let least = bytes_text(BACKGROUND_BYTES_PER_SECOND_MIN);
                Err(format!("{} a second is too slow: {least} are the least", bytes_text(pace)))
            }
            pace => Ok(pace),
        },
    }
}

/// See [`Args`].
pub async fn run(args: Args, global: &Global) -> Result<Exit, Failure> {
    let connection = vault::connect(global).await?;
    let Args { bytes_per_second, per_server, at_once } = args;
    let wanted = SetRepair { bytes_per_second, per_server, at_once, ..SetRepair::default() };
    let status = match wanted == SetRepair::default() {
        true => connection.coordinator.repair_status().await,
        false => connection.coordinator.set_repair(&wanted).await,
    };
    connection.close().await;
    let status = status?;
    let fields = json!({
        "bytes_per_second": status.settings.bytes_per_second,
        "per_server": status.settings.per_server,
        "at_once": status.settings.at_once,
        "servers": status.paces,
    });
    global.ui.summary(&lines(&status), fields);
    Ok(Exit::Done)
}

fn lines(status: &RepairStatus) -> Vec<String> {
    let pace = |pace: Option<u64>| match pace {
        None => "no limit".to_owned(),
        Some(pace) => format!("{} a second", bytes_text(pace)),
    };
    let settings = &status.settings;
    let mut lines = vec![
        format!("all servers together: {}", pace(settings.bytes_per_second)),
        format!("each server: {}", pace(settings.per_server)),
        format!("stripes repaired or moved at once: {}", settings.at_once),
    ];
    if let Some(ServerPace { bytes_per_second: Some(part), .. }) = status.paces.first() {
        lines.push(format!("that is {} a second for each server", bytes_text(*part)));
    }
    let waiting = status.paces.iter().filter(|pace| !pace.taken);
    let waiting: Vec<String> = waiting.map(|pace| escaped(pace.name.as_bytes())).collect();
    if !waiting.is_empty() {
        lines.push(format!("{} will be told when back", waiting.join(", ")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_bytes_or_none() {
        assert_eq!((parse_pace("50M"), parse_pace("none")), (Ok(50 << 20), Ok(0)));
        assert!(parse_pace("fast").is_err() && parse_pace("1K").is_err());
    }
}
