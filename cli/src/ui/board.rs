//! A page on the terminal that is drawn again and again in its place.

use std::sync::Mutex;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Ui, held};

/// Lines of a terminal that does not say how many it has.
const HEIGHT: usize = 24;

/// The page; its last state stays on the terminal when it is dropped.
pub struct Board {
    ui: Ui,
    multi: MultiProgress,
    style: ProgressStyle,
    drawn: Mutex<Drawn>,
}

#[derive(Default)]
struct Drawn {
    bars: Vec<ProgressBar>,
    texts: Vec<String>,
}

impl Board {
    pub(super) fn new(ui: &Ui) -> Self {
        let multi = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        // `wide_msg` cuts a line at the terminal's edge.
        let style = ProgressStyle::with_template("{wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        ui.set_bars(Some(multi.clone()));
        Self { ui: ui.clone(), multi, style, drawn: Mutex::default() }
    }

    /// Draws these lines instead of the last ones, as far as they have room.
    pub fn draw(&self, texts: &[String]) {
        let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
        let height = size.map_or(HEIGHT, |size| usize::from(size.ws_row)).max(2) - 1;
        let shown = &texts[..texts.len().min(height)];
        let mut drawn = held(&self.drawn);
        while drawn.bars.len() > shown.len() {
            if let Some(bar) = drawn.bars.pop() {
                self.multi.remove(&bar);
            }
        }
        while drawn.bars.len() < shown.len() {
            drawn.bars.push(self.multi.add(ProgressBar::new(0).with_style(self.style.clone())));
        }
        for (bar, text) in drawn.bars.iter().zip(shown) {
            bar.set_message(text.clone());
            bar.tick();
        }
        drawn.texts = texts.to_vec();
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        self.ui.set_bars(None);
        let drawn = std::mem::take(&mut *held(&self.drawn));
        // A terminal that went away needs no clearing.
        let _ = self.multi.clear();
        // What the lines say at their end is told below.
        self.multi.set_draw_target(ProgressDrawTarget::hidden());
        drawn.texts.iter().for_each(|text| self.ui.data(text));
    }
}
