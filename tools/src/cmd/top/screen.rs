//! Looks one after the other, on a terminal.
//!
//! ```text
//!   +-- planes ------------------------------------+
//!   |  PLANE   PID  CPU  STATE  SENT/S ..          |   the chosen one in reverse
//!   +-- counters ------------+-- histograms -------+
//!   |  messages_sent  ..     |  round_trip ..      |   of the chosen one
//!   +------------------------+---------------------+
//!    q quit   arrows choose   + - faster, slower
//! ```
//!
//! Ctrl-C arrives as a key. Whoever ends it by a signal (`timeout 10 spinwire top`) has the terminal back in order, too, as after a panic.

use core::sync::atomic::Ordering;
use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table, TableState};
use ratatui::{DefaultTerminal, Frame};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::compare;
use super::sample::{Looks, Rates, look};
use super::text::{COLUMNS, PATH_COLUMNS, SPREAD_COLUMNS, cells, path_cells, spread_cells};
use crate::cmd::ps::table::{Lean, plain, thousands};
use crate::report::Failure;

/// The shortest and the longest time between two looks, in ms.
const INTERVAL_MS: (u64, u64) = (10, 3_600_000);

/// For so long a signal may go unheeded.
const SIGNAL_LOOK: Duration = Duration::from_millis(50);

/// What a key asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wish {
    Quit,
    Up,
    Down,
    Faster,
    Slower,
}

/// What is on the screen.
#[derive(Debug)]
struct Screen {
    names: Vec<String>,
    interval: Duration,
    before: Looks,
    planes: Vec<Rates>,
    chosen: TableState,
}

/// Shows planes until q, Esc, Ctrl-C or a signal.
pub(super) fn run(names: &[String], interval: Duration) -> Result<(), Failure> {
    // Before the terminal is touched: a folder that cannot be read is said in plain text.
    let before = look(names)?;
    let mut screen = Screen {
        names: names.to_vec(),
        interval,
        planes: compare(&Looks::default(), &before),
        before,
        chosen: TableState::default().with_selected(0),
    };
    let stop = Arc::default();
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let mut terminal =
        ratatui::try_init().map_err(|e| format!("the terminal: {e}; {NO_SCREEN}"))?;
    let ended = screen.turn_until_quit(&mut terminal, || stop.load(Ordering::Relaxed));
    // A terminal that has gone is in order.
    let _gone = ratatui::try_restore();
    ended
}

/// Where there is no terminal to draw on.
const NO_SCREEN: &str = "remedy: spinwire top --once";

impl Screen {
    fn turn_until_quit(
        &mut self,
        terminal: &mut DefaultTerminal,
        is_over: impl Fn() -> bool,
    ) -> Result<(), Failure> {
        let mut due = Instant::now() + self.interval.min(Duration::from_millis(250));
        loop {
            terminal.draw(|frame| self.draw(frame))?;
            while let Some(left) =
                due.checked_duration_since(Instant::now()).filter(|d| !d.is_zero())
            {
                if is_over() {
                    return Ok(());
                }
                if !event::poll(left.min(SIGNAL_LOOK))? {
                    continue;
                }
                match wish(&event::read()?) {
                    Some(Wish::Quit) => return Ok(()),
                    Some(other) => self.heed(other),
                    None => {}
                }
                terminal.draw(|frame| self.draw(frame))?;
            }
            let after = look(&self.names)?;
            self.planes = compare(&self.before, &after);
            self.before = after;
            due = Instant::now() + self.interval;
        }
    }

    fn heed(&mut self, wish: Wish) {
        let ms = u64::try_from(self.interval.as_millis()).unwrap_or(INTERVAL_MS.1);
        let last = self.planes.len().saturating_sub(1);
        let chosen = self.chosen.selected().unwrap_or(0).min(last);
        match wish {
            Wish::Up => self.chosen.select(Some(chosen.saturating_sub(1))),
            Wish::Down => self.chosen.select(Some(chosen.saturating_add(1).min(last))),
            Wish::Faster => self.interval = Duration::from_millis((ms / 2).max(INTERVAL_MS.0)),
            Wish::Slower => {
                self.interval = Duration::from_millis(ms.saturating_mul(2).min(INTERVAL_MS.1));
            }
            Wish::Quit => {}
        }
    }

    fn draw(&mut self, frame: &mut Frame<'_>) {
        let rows = u16::try_from(self.planes.len().clamp(1, 12)).unwrap_or(12);
        let [list, details, keys] = Layout::vertical([
            Constraint::Length(rows.saturating_add(3)),
            Constraint::Min(3),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        self.draw_planes(frame, list);
        let chosen = self.chosen.selected().and_then(|at| self.planes.get(at));
        let chosen = chosen.or(self.planes.last());
        if let Some(rates) = chosen {
            let lines = u16::try_from(rates.paths.len()).unwrap_or(u16::MAX);
            let lines = if lines == 0 { 0 } else { lines.saturating_add(3) };
            let [paths, rest] =
                Layout::vertical([Constraint::Length(lines), Constraint::Min(3)]).areas(details);
            draw_paths(frame, paths, rates);
            let [counters, histograms] = split(rest, rates);
            draw_counters(frame, counters, rates);
            draw_histograms(frame, histograms, rates);
        } else {
            let text = "No planes. A plane shows up here as soon as it has opened its stats page.";
            frame.render_widget(Paragraph::new(text).block(Block::bordered()), details);
        }
        frame.render_widget(Line::from(self.footer()), keys);
    }

    fn footer(&self) -> String {
        let refused = self.before.refused.first().map_or_else(String::new, |(name, why)| {
            format!("   {} could not be read: {}", plain(name), plain(why))
        });
        let ms = self.interval.as_millis();
        format!(" q quit   up, down choose   + - faster, slower: every {ms} ms{refused}")
    }

    fn draw_planes(&mut self, frame: &mut Frame<'_>, area: Rect) {
        let shown = Shown::of(&COLUMNS, &PLANE_WIDTHS, &PLANE_RANKS, area);
        let rows: Vec<Row<'_>> = self.planes.iter().map(|rates| shown.row(&cells(rates))).collect();
        let table = shown
            .table(rows)
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
            .block(Block::bordered().title(" planes "));
        frame.render_stateful_widget(table, area, &mut self.chosen);
    }
}

/// Widths of the columns of the list of planes, and which of them are wanted most where there is no room for all.
const PLANE_WIDTHS: [u16; 12] = [20, 8, 4, 9, 8, 9, 10, 10, 10, 9, 5, 12];
const PLANE_RANKS: [usize; 12] = [0, 4, 5, 6, 10, 11, 1, 7, 8, 9, 3, 2];
/// The same of the list of histograms.
const SPREAD_WIDTHS: [u16; 7] = [16, 8, 9, 9, 9, 9, 9];
const SPREAD_RANKS: [usize; 7] = [0, 2, 4, 6, 1, 5, 3];
/// The same of the list of counters.
const COUNTER_COLUMNS: [(&str, Lean); 3] =
    [("COUNTER", Lean::Left), ("PER SECOND", Lean::Right), ("TOTAL", Lean::Right)];
const COUNTER_WIDTHS: [u16; 3] = [16, 10, 9];
const COUNTER_RANKS: [usize; 3] = [0, 1, 2];
/// The same of the list of paths.
const PATH_WIDTHS: [u16; 9] = [6, 6, 8, 9, 9, 11, 10, 7, 7];
const PATH_RANKS: [usize; 9] = [0, 3, 4, 6, 7, 1, 2, 5, 8];
/// From this width on counters and histograms have room side by side.
const SIDE_BY_SIDE: u16 = 124;

/// The columns that there is room for: half a number is worse than none.
struct Shown {
    columns: Vec<(usize, &'static str, Lean, u16)>,
}

impl Shown {
    fn of(columns: &[(&'static str, Lean)], widths: &[u16], ranks: &[usize], area: Rect) -> Self {
        let mut room = area.width.saturating_sub(2);
        let mut kept: Vec<usize> = Vec::new();
        for at in ranks {
            let wanted = widths.get(*at).map_or(0, |width| width.saturating_add(1));
            match room.checked_sub(wanted) {
                Some(rest) => (room, kept) = (rest, [kept, vec![*at]].concat()),
                None if kept.is_empty() => kept.push(*at),
                None => break,
            }
        }
        kept.sort_unstable();
        let column = |at: usize| {
            let (title, lean) = columns.get(at)?;
            Some((at, *title, *lean, *widths.get(at)?))
        };
        Self { columns: kept.into_iter().filter_map(column).collect() }
    }

    /// Those of `cells` that are shown.
    fn row(&self, cells: &[String]) -> Row<'static> {
        let cell = |at: usize, lean| {
            let line = Line::from(cells.get(at).cloned().unwrap_or_default());
            Cell::from(match lean {
                Lean::Left => line.left_aligned(),
                Lean::Right => line.right_aligned(),
            })
        };
        Row::new(self.columns.iter().map(|(at, _, lean, _)| cell(*at, *lean)))
    }

    fn table(&self, rows: Vec<Row<'static>>) -> Table<'static> {
        let titles = self.columns.iter().map(|(_, title, lean, _)| match lean {
            Lean::Left => Cell::from(Line::from(*title).left_aligned()),
            Lean::Right => Cell::from(Line::from(*title).right_aligned()),
        });
        let heading = Row::new(titles).style(Style::new().fg(Color::Cyan));
        // Words get what is left over.
        let widths = self.columns.iter().map(|(_, _, lean, width)| match lean {
            Lean::Left => Constraint::Min(*width),
            Lean::Right => Constraint::Length(*width),
        });
        Table::new(rows, widths).header(heading)
    }
}

/// Room for counters and for histograms: side by side, or histograms first.
fn split(area: Rect, rates: &Rates) -> [Rect; 2] {
    if area.width >= SIDE_BY_SIDE {
        return Layout::horizontal([Constraint::Percentage(36), Constraint::Fill(1)]).areas(area);
    }
    let rows = u16::try_from(rates.histograms.len()).unwrap_or(8).saturating_add(3);
    let [histograms, counters] =
        Layout::vertical([Constraint::Length(rows), Constraint::Fill(1)]).areas(area);
    [counters, histograms]
}

fn draw_counters(frame: &mut Frame<'_>, area: Rect, rates: &Rates) {
    let shown = Shown::of(&COUNTER_COLUMNS, &COUNTER_WIDTHS, &COUNTER_RANKS, area);
    let cells = rates
        .counters
        .iter()
        .map(|count| [count.name.to_owned(), thousands(count.per_s), thousands(count.total)]);
    let table = shown.table(cells.map(|cells| shown.row(&cells)).collect());
    let title = format!(" {}: counters ", plain(&rates.row.name));
    frame.render_widget(table.block(Block::bordered().title(title)), area);
}

fn draw_histograms(frame: &mut Frame<'_>, area: Rect, rates: &Rates) {
    let shown = Shown::of(&SPREAD_COLUMNS, &SPREAD_WIDTHS, &SPREAD_RANKS, area);
    let rows = rates.histograms.iter().map(|spread| shown.row(&spread_cells(spread)));
    let title = format!(" {}: histograms ", plain(&rates.row.name));
    let table = shown.table(rows.collect()).block(Block::bordered().title(title));
    frame.render_widget(table, area);
}

fn draw_paths(frame: &mut Frame<'_>, area: Rect, rates: &Rates) {
    if area.height == 0 {
        return;
    }
    let shown = Shown::of(&PATH_COLUMNS, &PATH_WIDTHS, &PATH_RANKS, area);
    let rows = rates.paths.iter().map(|path| shown.row(&path_cells(path)));
    let title = format!(" {}: paths of virtual queue pairs ", plain(&rates.row.name));
    let table = shown.table(rows.collect()).block(Block::bordered().title(title));
    frame.render_widget(table, area);
}

fn wish(event: &Event) -> Option<Wish> {
    let Event::Key(key) = event else { return None };
    if key.kind == KeyEventKind::Release {
        return None;
    }
    #[expect(clippy::wildcard_enum_match_arm, reason = "all other keys mean nothing")]
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Wish::Quit),
        KeyCode::Char('q') | KeyCode::Esc => Some(Wish::Quit),
        KeyCode::Up | KeyCode::Char('k') => Some(Wish::Up),
        KeyCode::Down | KeyCode::Char('j') => Some(Wish::Down),
        KeyCode::Char('+') => Some(Wish::Faster),
        KeyCode::Char('-') => Some(Wish::Slower),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use ratatui::crossterm::event::KeyEvent;

    use super::*;

    fn key(code: KeyCode, modifiers: KeyModifiers) -> Option<Wish> {
        wish(&Event::Key(KeyEvent::new(code, modifiers)))
    }

    fn empty() -> Screen {
        Screen {
            names: Vec::new(),
            interval: Duration::from_millis(15),
            before: Looks::default(),
            planes: Vec::new(),
            chosen: TableState::default().with_selected(0),
        }
    }

    #[test]
    fn keys() {
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Wish::Quit));
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::NONE), None);
        assert_eq!(key(KeyCode::Char('q'), KeyModifiers::NONE), Some(Wish::Quit));
        assert_eq!(key(KeyCode::Down, KeyModifiers::NONE), Some(Wish::Down));
    }

    #[test]
    fn the_interval_and_the_choice_stay_in_their_bounds() {
        let mut screen = empty();
        screen.heed(Wish::Faster);
        assert_eq!(screen.interval, Duration::from_millis(10));
        for _ in 0..64 {
            screen.heed(Wish::Slower);
        }
        assert_eq!(screen.interval, Duration::from_millis(INTERVAL_MS.1));
        screen.heed(Wish::Down);
        assert_eq!(screen.chosen.selected(), Some(0));
    }

    #[test]
    fn columns_without_room_are_left_out_whole() {
        let titles = |width| {
            let area = Rect::new(0, 0, width, 5);
            let shown = Shown::of(&SPREAD_COLUMNS, &SPREAD_WIDTHS, &SPREAD_RANKS, area);
            shown.columns.iter().map(|(_, title, ..)| *title).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(titles(0), "HISTOGRAM");
        assert_eq!(titles(40), "HISTOGRAM P50 P99");
        assert_eq!(titles(100), "HISTOGRAM VALUES P50 P90 P99 P99.9 MAX");
    }

    #[test]
    fn it_draws_on_any_size() {
        for (width, height) in [(0, 0), (1, 1), (20, 5), (80, 24), (300, 100)] {
            let backend = ratatui::backend::TestBackend::new(width, height);
            let mut terminal = ratatui::Terminal::new(backend).unwrap();
            let mut screen = empty();
            terminal.draw(|frame| screen.draw(frame)).unwrap();
        }
    }
}
