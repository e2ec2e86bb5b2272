//! Shows a running command's counters: bars on a terminal, lines elsewhere.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Ui;
use super::counters::Counters;
use super::lines::{self, Meter, View};

/// Redraws of bars.
const BARS_EVERY: Duration = Duration::from_millis(100);
/// Lines with `--progress=plain`.
const PLAIN_EVERY: Duration = Duration::from_secs(60);
/// `progress` objects with `--json`.
const JSON_EVERY: Duration = Duration::from_secs(5);

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Bars,
    Plain,
    Json,
    Nothing,
}

/// What is watched just now.
#[derive(Clone)]
pub(super) struct Watched {
    counters: Arc<Counters>,
    view: View,
    began: Instant,
}

impl Watched {
    /// One line on it, with rates since the start.
    pub(super) fn line(&self, warnings: u64) -> String {
        let mut meter = Meter::default();
        meter.update(self.view, self.began.elapsed(), self.counters.numbers());
        lines::plain_line(self.view, &meter, warnings)
    }
}

/// Shows progress until it is dropped; bars leave no trace.
pub struct Watch {
    ui: Ui,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(super) fn start(ui: &Ui, counters: Arc<Counters>, view: View) -> Self {
        let watched = Watched { counters, view, began: Instant::now() };
        ui.set_watched(Some(watched.clone()));
        let (stop, stopped) = mpsc::channel();
        let ui_of_thread = ui.clone();
        let thread = match ui.style() {
            Style::Nothing => None,
            // Without a thread there is no display; the work itself goes on.
            style => std::thread::Builder::new()
                .name("progress".into())
                .spawn(move || show(&ui_of_thread, style, &watched, &stopped))
                .ok(),
        };
        Self { ui: ui.clone(), stop: Some(stop), thread }
    }

    /// Ends the display, as dropping does.
    pub fn finish(self) {}
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the display is not worth failing the command for.
            let _ = thread.join();
        }
        self.ui.set_watched(None);
    }
}

fn show(ui: &Ui, style: Style, watched: &Watched, stopped: &mpsc::Receiver<()>) {
    let every = match style {
        Style::Bars => BARS_EVERY,
        Style::Plain => PLAIN_EVERY,
        Style::Json | Style::Nothing => JSON_EVERY,
    };
    let view = watched.view;
    let bars = (style == Style::Bars).then(|| Bars::new(ui, view.height()));
    let mut meter = Meter::default();
    while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
        meter.update(view, watched.began.elapsed(), watched.counters.numbers());
        match (style, &bars) {
            (_, Some(bars)) => bars.draw(lines::lines(view, &meter, ui.warnings())),
            (Style::Json, _) => ui.json("progress", lines::progress_json(view, &meter)),
            _ => ui.line(&lines::plain_line(view, &meter, ui.warnings())),
        }
    }
}

/// The lines of a display, drawn in place on stderr.
struct Bars {
    ui: Ui,
    multi: MultiProgress,
    lines: Vec<ProgressBar>,
}

impl Bars {
    fn new(ui: &Ui, height: usize) -> Self {
        let multi = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        // `wide_msg` cuts a line at the terminal's edge.
        let style = ProgressStyle::with_template("{wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let line = |_| multi.add(ProgressBar::new(0).with_style(style.clone()));
        let lines = (0..height).map(line).collect();
        ui.set_bars(Some(multi.clone()));
        Self { ui: ui.clone(), multi, lines }
    }

    fn draw(&self, texts: Vec<String>) {
        for (line, text) in self.lines.iter().zip(texts) {
            line.set_message(text);
            line.tick();
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.ui.set_bars(None);
        for line in &self.lines {
            line.finish_and_clear();
        }
        // A terminal that went away needs no clearing.
        let _ = self.multi.clear();
    }
}
