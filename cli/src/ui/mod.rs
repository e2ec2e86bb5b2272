//! The only place that prints.
//!
//! Data goes to stdout, talk to stderr. With `--json` stdout carries one object
//! a line: `v` (the schema, 1), `type` (start, progress, warning, error, heal,
//! summary, exit) and that type's fields. Everything passes through one [`Ui`],
//! so that bars and lines do not tear each other.

mod board;
mod counters;
mod forecast;
mod lines;
mod text;
mod watch;

use std::io::{self, IsTerminal as _, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use indicatif::MultiProgress;
use serde_json::{Map, Value, json};

use server::wire::Found;

use crate::exit::{Exit, Failure};
use crate::fetch::{Heal, PassedOver};
use watch::{Style, Watched};

pub use board::Board;
pub use counters::{Counters, RepairNumbers};
pub use forecast::Forecast;
pub use lines::View;
pub use text::{
    age_text, bytes_text, count_text, duration_text, escaped, path_text, plural, shell_word,
    time_text,
};
pub use watch::Watch;

/// Version of the JSON lines.
const SCHEMA: u64 = 1;

/// How much is said, and in which form.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Options {
    /// Print one JSON object a line on stdout
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// Say nothing but warnings and errors
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub quiet: bool,
    /// Say more; twice: much more
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Global options")]
    pub verbose: u8,
    /// How to show progress
    #[arg(
        long,
        global = true,
        value_name = "HOW",
        default_value = "auto",
        help_heading = "Global options"
    )]
    pub progress: Progress,
}

/// How to show progress.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Progress {
    /// Bars on a terminal, nothing elsewhere
    #[default]
    Auto,
    /// Bars
    Bars,
    /// A line every minute
    Plain,
    /// Nothing
    None,
}

/// The one mouth of a command; a clone is the same one.
#[derive(Clone)]
pub struct Ui(Arc<Inner>);

struct Inner {
    json: bool,
    quiet: bool,
    verbose: u8,
    color: bool,
    style: Style,
    /// Stdout is a terminal, and something may be drawn there.
    draws: bool,
    warnings: AtomicU64,
    /// Stdout carries a file's contents: nothing else may go there.
    stdout_taken: AtomicBool,
    /// Whoever read stdout has gone.
    stdout_closed: AtomicBool,
    codes: Mutex<Vec<Exit>>,
    next: Mutex<Vec<String>>,
    bars: Mutex<Option<MultiProgress>>,
    watched: Mutex<Option<Watched>>,
}

impl Ui {
    /// As the options, the environment (`NO_COLOR`) and the terminal have it.
    pub fn new(options: &Options) -> Self {
        let terminal = io::stderr().is_terminal();
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let style = match options.progress {
            Progress::None => Style::Nothing,
            _ if options.json => Style::Json,
            Progress::Bars => Style::Bars,
            Progress::Plain => Style::Plain,
            Progress::Auto if terminal && !options.quiet => Style::Bars,
            Progress::Auto => Style::Nothing,
        };
        Self(Arc::new(Inner {
            json: options.json,
            quiet: options.quiet,
            verbose: options.verbose,
            color: terminal && !no_color,
            style,
            draws: io::stdout().is_terminal() && !options.json && !options.quiet,
            warnings: AtomicU64::new(0),
            stdout_taken: AtomicBool::new(false),
            stdout_closed: AtomicBool::new(false),
            codes: Mutex::default(),
            next: Mutex::default(),
            bars: Mutex::default(),
            watched: Mutex::default(),
        }))
    }

    /// Talk, on stderr: what goes on. Not with `--quiet` or `--json`.
    pub fn say(&self, line: impl AsRef<str>) {
        if !self.0.quiet && !self.0.json {
            self.line(line.as_ref());
        }
    }

    /// Talk that only `-v` asked for.
    pub fn detail(&self, line: impl AsRef<str>) {
        if self.0.verbose > 0 {
            self.say(line);
        }
    }

    /// Talk that must be seen whatever the options say.
    pub fn tell(&self, line: impl AsRef<str>) {
        self.line(line.as_ref());
    }

    /// Data, on stdout: what the command was asked for. With `--json` use [`Ui::json`] instead.
    pub fn data(&self, line: impl AsRef<str>) {
        let mut text = line.as_ref().to_owned();
        text.push('\n');
        self.out(text.as_bytes());
    }

    /// Something the person should know about, though the command goes on; `path` in bytes.
    pub fn warn(&self, what: &str, path: Option<&[u8]>) {
        self.0.warnings.fetch_add(1, Relaxed);
        if self.0.json {
            let mut fields = path.map(path_json).unwrap_or_default();
            fields.insert("what".into(), what.into());
            return self.json("warning", Value::Object(fields));
        }
        let at = path.map(|path| format!("{}: ", escaped(path))).unwrap_or_default();
        self.line(&format!("{} {at}{what}", self.painted("33", "warning:")));
    }

    /// How many warnings there were.
    pub fn warnings(&self) -> u64 {
        self.0.warnings.load(Relaxed)
    }

    /// One JSON object on stdout; nothing without `--json`. `fields` is an object.
    pub fn json(&self, kind: &str, fields: Value) {
        if self.0.json {
            self.object(kind, fields);
        }
    }

    /// One JSON object on stdout, with `--json` or without.
    pub fn object(&self, kind: &str, fields: Value) {
        let mut object =
            Map::from_iter([("v".into(), SCHEMA.into()), ("type".into(), kind.into())]);
        if let Value::Object(fields) = fields {
            object.extend(fields);
        }
        let mut text = Value::Object(object).to_string();
        text.push('\n');
        self.out(text.as_bytes());
    }

    /// Whether JSON lines were asked for.
    pub fn is_json(&self) -> bool {
        self.0.json
    }

    /// How often `-v` was given.
    pub fn verbose(&self) -> u8 {
        self.0.verbose
    }

    /// The end of a command that went well enough: a few lines, or one object.
    pub fn summary(&self, lines: &[impl AsRef<str>], fields: Value) {
        if self.0.json {
            return self.json("summary", fields);
        }
        if !self.0.quiet {
            lines.iter().for_each(|line| self.data(line));
        }
    }

    /// Tells a failure; its exit code takes part in [`Ui::exit`].
    pub fn failure(&self, failure: &Failure) {
        self.note(failure.code);
        held(&self.0.next).extend(failure.next.iter().cloned());
        if self.0.json {
            let Failure { code, what, why, state, next } = failure;
            let fields = json!({ "code": code.code(), "what": what, "why": why, "state": state, "next": next });
            return self.json("error", fields);
        }
        self.line(&format!("{} {failure}", self.painted("31", "error:")));
    }

    /// Whether progress is shown while a command runs.
    pub fn shows_progress(&self) -> bool {
        !matches!(self.0.style, Style::Nothing)
    }

    /// Remembers that `code` applies besides what the command returns.
    pub fn note(&self, code: Exit) {
        held(&self.0.codes).push(code);
    }

    /// [`Ui::note`] for several.
    pub fn note_all(&self, codes: &[Exit]) {
        held(&self.0.codes).extend(codes);
    }

    /// Forgets what was noted: a step of a larger command is over, and its codes with it.
    pub fn forget_codes(&self) {
        held(&self.0.codes).clear();
    }

    /// A shard that was missing or damaged, and was done without: said once, no failure.
    pub fn heal(&self, heal: &Heal) {
        let what = self.heal_line(heal);
        self.say(format!("{what}; done without, and reported for repair"));
    }

    /// The same where there may be many and nobody to repair them: only with `-v`, or as JSON.
    pub fn damage(&self, heal: &Heal) {
        let what = self.heal_line(heal);
        self.detail(format!("{what}; done without"));
    }

    fn heal_line(&self, heal: &Heal) -> String {
        let Heal { stripe, index, server, found } = heal;
        let what = match found {
            Found::Damaged(why) => format!("damaged: {why}"),
            _ => "missing".to_owned(),
        };
        self.json(
            "heal",
            json!({ "stripe": stripe, "index": index, "server": server, "what": what }),
        );
        format!("stripe {stripe:.8} shard {index} on {} is {what}", escaped(server.as_bytes()))
    }

    /// A server that gave no usable answer, and was done without: said once, no failure.
    pub fn passed_over(&self, server: &PassedOver) {
        let PassedOver { server, why, .. } = server;
        if self.0.json {
            return self.json("passed_over", json!({ "server": server, "why": why }));
        }
        self.say(format!("{}; others were read instead", escaped(why.as_bytes())));
    }

    /// The last word: the code that the process ends with, of `codes` and all that were noted.
    pub fn exit(&self, codes: &[Exit]) -> Exit {
        let mut all = held(&self.0.codes);
        all.extend(codes);
        let mut numbers: Vec<u8> = all.iter().map(|code| code.code()).filter(|&c| c != 0).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let worst = Exit::worst(&all);
        let fields = json!({
            "code": worst.code(),
            "meaning": worst.text(),
            "codes": numbers,
            "warnings": self.warnings(),
            "next": *held(&self.0.next),
        });
        drop(all);
        self.json("exit", fields);
        worst
    }

    /// Shows `counters` until the returned value is dropped.
    #[must_use]
    pub fn watch(&self, counters: Arc<Counters>, view: View) -> Watch {
        Watch::start(self, counters, view)
    }

    /// A page that is drawn in place on stdout, where that is a terminal.
    pub fn board(&self) -> Option<Board> {
        self.0.draws.then(|| Board::new(self))
    }

    /// One line on what is going on, for SIGUSR1.
    pub fn report(&self) {
        let line = held(&self.0.watched).as_ref().map(|w| w.line(self.warnings()));
        self.line(&line.unwrap_or_else(|| "nothing is being counted just now".into()));
    }

    /// Stdout carries a file's contents: summaries and JSON lines go to stderr.
    pub fn take_stdout(&self) {
        self.0.stdout_taken.store(true, Relaxed);
    }

    /// Whether whoever read stdout has gone, so that more data would be in vain.
    pub fn stdout_closed(&self) -> bool {
        self.0.stdout_closed.load(Relaxed)
    }

    /// A line on stderr, whatever the options say.
    fn line(&self, line: &str) {
        let text = format!("{line}\n");
        // Nobody can be told that stderr is closed.
        self.aside(|| drop(io::stderr().lock().write_all(text.as_bytes())));
    }

    fn out(&self, text: &[u8]) {
        if self.0.stdout_taken.load(Relaxed) {
            return self.aside(|| drop(io::stderr().lock().write_all(text)));
        }
        if self.stdout_closed() {
            return;
        }
        let mut wrote = Ok(());
        self.aside(|| {
            let mut out = io::stdout().lock();
            wrote = out.write_all(text).and_then(|()| out.flush());
        });
        if let Err(error) = wrote {
            self.0.stdout_closed.store(true, Relaxed);
            // `arc ls | head` is no failure, a full disk is.
            if error.kind() != io::ErrorKind::BrokenPipe {
                self.failure(&Failure::io("cannot write to", "standard output")(error));
            }
        }
    }

    /// Writes while the bars are out of the way.
    fn aside(&self, write: impl FnOnce()) {
        let bars = held(&self.0.bars).clone();
        match bars {
            Some(bars) => bars.suspend(write),
            None => write(),
        }
    }

    fn painted(&self, color: &str, word: &str) -> String {
        if self.0.color { format!("\x1b[1;{color}m{word}\x1b[0m") } else { word.to_owned() }
    }

    fn style(&self) -> Style {
        self.0.style
    }

    fn set_bars(&self, bars: Option<MultiProgress>) {
        *held(&self.0.bars) = bars;
    }

    fn set_watched(&self, watched: Option<Watched>) {
        *held(&self.0.watched) = watched;
    }
}

/// Log lines of the services go the same way as talk.
impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Ui {
    type Writer = LogLine;

    fn make_writer(&'a self) -> LogLine {
        LogLine(self.clone())
    }
}

/// One log line on its way to stderr.
pub struct LogLine(Ui);

impl Write for LogLine {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.aside(|| drop(io::stderr().lock().write_all(text)));
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The fields `path` and, where it is not UTF-8, `path_b64`.
pub fn path_json(path: &[u8]) -> Map<String, Value> {
    let mut fields = Map::from_iter([("path".into(), String::from_utf8_lossy(path).into())]);
    if str::from_utf8(path).is_err() {
        fields.insert("path_b64".into(), BASE64.encode(path).into());
    }
    fields
}

/// The lock; what is behind it is whole after every statement, so a panic elsewhere is no matter.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_not_utf8_comes_twice() {
        assert_eq!(Value::Object(path_json(b"a/b")), json!({ "path": "a/b" }));
        assert_eq!(
            Value::Object(path_json(b"a\xff")),
            json!({ "path": "a\u{fffd}", "path_b64": "Yf8=" })
        );
    }

    #[test]
    fn the_exit_counts_every_code_that_was_noted() {
        let ui = Ui::new(&Options { quiet: true, ..Options::default() });
        ui.note(Exit::SourcesIncomplete);
        ui.note(Exit::BelowTarget);
        assert_eq!(ui.exit(&[Exit::Done]), Exit::BelowTarget);
    }
}
