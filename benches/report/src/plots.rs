//! The plots, as SVG: drawn in pixels, so that nothing overlaps by a library's guess.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::figures::{Figures, Role, STORES, Series};

/// A picture of the report.
pub(crate) struct Plot {
    /// The file's name, without its end.
    pub(crate) name: &'static str,
    /// Also for those who cannot see it.
    pub(crate) title: &'static str,
    /// Where in the page it stands.
    pub(crate) section: &'static str,
    content: fn(&Figures) -> Option<Content>,
}

pub(crate) const PLOTS: &[Plot] = &[
    Plot {
        name: "candidates",
        title: "Hand-over as candidates grow: time from resign() to the next leader, per store",
        section: "stores",
        content: candidates,
    },
    Plot {
        name: "failover",
        title: "Failover: time from the end of the leader's process to the next leader, per store",
        section: "stores",
        content: failovers,
    },
    Plot {
        name: "hand-over",
        title: "Hand-over: tenure beside the bare operation and beside peers, per store",
        section: "beside",
        content: hand_overs,
    },
    Plot {
        name: "requests",
        title: "Store requests per hour and candidate, counted at the store",
        section: "requests",
        content: requests,
    },
    Plot {
        name: "elections",
        title: "Cost of a heartbeat as elections in one process grow from 1 to 10,000",
        section: "engine",
        content: elections,
    },
];

/// The plot as text; `None` when nothing was measured for it.
pub(crate) fn draw(plot: &Plot, figures: &Figures) -> Result<Option<String>> {
    let Some(content) = (plot.content)(figures) else {
        return Ok(None);
    };
    let mut text = String::new();
    let height = content.height();
    {
        let root = SVGBackend::with_string(&mut text, (WIDTH, height)).into_drawing_area();
        let canvas = Canvas { root };
        canvas.background()?;
        canvas.text(
            plot.title,
            (WIDTH.cast_signed() / 2, 22),
            TITLE,
            HPos::Center,
            BLACK,
        )?;
        match &content {
            Content::Distributions { rows, unit } => canvas.distributions(rows, unit, height)?,
            Content::Bars { rows, unit } => canvas.bars(rows, unit, height)?,
            Content::Lines { lines, x, y } => canvas.lines(lines, x, y, height)?,
        }
        canvas.root.present().map_err(|error| anyhow!("{error}"))?;
    }
    Ok(Some(text))
}

// ---- what is drawn ---------------------------------------------------------------------------

enum Content {
    /// One row each: p1 to p99 as a line, p10 to p90 as a box, the median as a bar; log axis.
    Distributions {
        rows: Vec<Distribution>,
        unit: &'static str,
    },
    Bars {
        rows: Vec<Bar>,
        unit: &'static str,
    },
    /// Points joined by lines; both axes are logarithmic.
    Lines {
        lines: Vec<Curve>,
        x: &'static str,
        y: &'static str,
    },
}

struct Distribution {
    label: String,
    /// The first of a group has a line above it.
    begins_group: bool,
    colour: RGBColor,
    /// p1, p10, median, p90, p99 in milliseconds.
    at: [f64; 5],
}

struct Bar {
    label: String,
    begins_group: bool,
    colour: RGBColor,
    value: f64,
}

struct Curve {
    label: String,
    colour: RGBColor,
    points: Vec<(f64, f64)>,
}

impl Content {
    fn height(&self) -> u32 {
        let rows = match self {
            Self::Distributions { rows, .. } => rows.len(),
            Self::Bars { rows, .. } => rows.len(),
            Self::Lines { .. } => return 520,
        };
        TOP.unsigned_abs()
            + BOTTOM.unsigned_abs()
            + ROW.unsigned_abs() * u32::try_from(rows).unwrap_or(1)
    }
}

fn distribution(
    label: String,
    colour: RGBColor,
    begins_group: bool,
    series: &Series,
) -> Distribution {
    Distribution {
        label,
        begins_group,
        colour,
        at: [1, 10, 50, 90, 99].map(|percent| series.at(percent) / 1e6),
    }
}

fn hand_overs(figures: &Figures) -> Option<Content> {
    let mut rows = Vec::new();
    for bench in figures.stores_beside_peers() {
        let mut tables = figures.tables(bench);
        tables.retain(|table| {
            let series = figures.lines(bench, table);
            series.iter().any(|series| series.is_hand_over())
        });
        for table in &tables {
            let series = figures.distinct(bench, table);
            // Where there are two, the end of the title says what differs.
            let which = match table.rsplit_once(' ') {
                Some((_, end)) if tables.len() > 1 => format!(" ({end})"),
                _ => String::new(),
            };
            let mut begins_group = true;
            for series in series {
                let colour = match series.role() {
                    Role::Tenure => OURS,
                    Role::Floor => FLOOR,
                    Role::Peer => PEER,
                };
                let label = format!("{bench}{which} · {}", series.name);
                rows.push(distribution(label, colour, begins_group, series));
                begins_group = false;
            }
        }
    }
    (!rows.is_empty()).then_some(Content::Distributions {
        rows,
        unit: "milliseconds, log scale · whisker p1 to p99, box p10 to p90, bar median · blue: \
               tenure, grey: bare operation, orange: peer",
    })
}

fn failovers(figures: &Figures) -> Option<Content> {
    let mut rows = Vec::new();
    for store in STORES {
        let mut begins_group = true;
        for (end, colour) in [("killed", OURS), ("frozen", PEER)] {
            let table = format!("failover, leader {end}");
            if let Some(series) = figures.of_stores(&table, store) {
                let label = format!("{store} · {end}");
                rows.push(distribution(label, colour, begins_group, series));
                begins_group = false;
            }
        }
    }
    (!rows.is_empty()).then_some(Content::Distributions {
        rows,
        unit: "milliseconds, log scale, lease 3 s · whisker p1 to p99, box p10 to p90, bar median \
               · blue: process killed, orange: process frozen",
    })
}

fn requests(figures: &Figures) -> Option<Content> {
    let mut rows = Vec::new();
    for store in STORES {
        let mut begins_group = true;
        for (who, colour) in [("leader", OURS), ("waiting", PEER)] {
            let found = figures.figure("requests per hour", &format!("{store}, {who}"));
            if let Some(figure) = found {
                rows.push(Bar {
                    label: format!("{store} · {who}"),
                    begins_group,
                    colour,
                    value: figure.value,
                });
                begins_group = false;
            }
        }
    }
    (!rows.is_empty()).then_some(Content::Bars {
        rows,
        unit: "requests per hour and candidate, default policy (360 heartbeats an hour) · blue: \
               leader, orange: waiting candidate",
    })
}

fn candidates(figures: &Figures) -> Option<Content> {
    let mut lines = Vec::new();
    for (store, colour) in STORES.iter().zip(COLOURS) {
        let points: Vec<(f64, f64)> = [2, 10, 100]
            .into_iter()
            .filter_map(|candidates| {
                let table = format!("hand-over, {candidates} candidates");
                let series = figures.of_stores(&table, store)?;
                Some((f64::from(candidates), series.median() / 1e6))
            })
            .collect();
        if !points.is_empty() {
            lines.push(Curve {
                label: (*store).to_owned(),
                colour,
                points,
            });
        }
    }
    (!lines.is_empty()).then_some(Content::Lines {
        lines,
        x: "candidates of one lock, log scale",
        y: "median time to the next leader in milliseconds, log scale",
    })
}

fn elections(figures: &Figures) -> Option<Content> {
    let all = figures.numbers.iter();
    let points: Vec<(f64, f64)> = all
        .filter(|figure| figure.table == "cpu for a heartbeat")
        .filter_map(|figure| Some((figure.name.parse().ok()?, figure.value)))
        .collect();
    if points.is_empty() {
        return None;
    }
    // A heartbeat every 10 s; microseconds of a second are a ten-thousandth of a percent.
    let share = |(elections, micros): &(f64, f64)| (*elections, elections * micros / 10.0 / 1e4);
    let shares = points.iter().map(share).collect();
    let line = |label: &str, colour, points| Curve {
        label: label.to_owned(),
        colour,
        points,
    };
    Some(Content::Lines {
        lines: vec![
            line("µs of CPU for one heartbeat", OURS, points),
            line("% of a core for all, default policy", PEER, shares),
        ],
        x: "elections in one process, log scale",
        y: "µs of CPU, or % of a core; log scale",
    })
}

// ---- how it is drawn -------------------------------------------------------------------------

const WIDTH: u32 = 1000;
const TOP: i32 = 44;
const BOTTOM: i32 = 62;
const ROW: i32 = 24;
const RIGHT: i32 = 60;

const TITLE: i32 = 17;
const TEXT: i32 = 13;
/// On the average, as wide as one character of the text is.
const CHARACTER: f64 = 6.6;

const OURS: RGBColor = RGBColor(31, 111, 178);
const PEER: RGBColor = RGBColor(214, 126, 28);
const FLOOR: RGBColor = RGBColor(120, 120, 120);
const GRID: RGBColor = RGBColor(222, 222, 222);

/// Apart from each other also for the colour-blind, one for each store.
const COLOURS: [RGBColor; 7] = [
    RGBColor(120, 120, 120),
    RGBColor(0, 0, 0),
    RGBColor(213, 94, 0),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(200, 160, 0),
];

type Point = (i32, i32);

struct Canvas<'a> {
    root: DrawingArea<SVGBackend<'a>, Shift>,
}

/// A range of values on a range of pixels.
struct Axis {
    low: f64,
    high: f64,
    is_log: bool,
    from: i32,
    to: i32,
}

impl Axis {
    /// Whole decades around these values.
    fn log(values: impl Iterator<Item = f64> + Clone, from: i32, to: i32) -> Self {
        let positive = values.filter(|value| *value > 0.0);
        let low = positive.clone().fold(f64::INFINITY, f64::min);
        let high = positive.fold(f64::MIN_POSITIVE, f64::max);
        let low = 10f64.powf(low.min(high).log10().floor());
        let mut high = 10f64.powf(high.log10().ceil());
        if high <= low {
            high = low * 10.0;
        }
        Self {
            low,
            high,
            is_log: true,
            from,
            to,
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "a pixel of a small picture"
    )]
    fn pixel(&self, value: f64) -> i32 {
        let part = if self.is_log {
            let value = value.max(self.low);
            (value / self.low).log10() / (self.high / self.low).log10()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + (part * f64::from(self.to - self.from)).round() as i32
    }

    /// Where it has lines, and what stands there; nothing at the lines in between.
    fn ticks(&self) -> Vec<(f64, Option<String>)> {
        if !self.is_log {
            let step = 10f64.powf((self.high / 4.0).log10().floor());
            let step = [1.0, 2.0, 5.0, 10.0]
                .into_iter()
                .map(|times| times * step)
                .find(|step| self.high / step <= 6.0)
                .unwrap_or(self.high);
            let mut ticks = Vec::new();
            let mut value = 0.0;
            while value <= self.high {
                ticks.push((value, Some(plain(value))));
                value += step;
            }
            return ticks;
        }
        let mut ticks = Vec::new();
        let mut decade = self.low;
        while decade < self.high * 0.999 {
            for times in 1..10 {
                let label = (times == 1).then(|| plain(decade));
                ticks.push((decade * f64::from(times), label));
            }
            decade *= 10.0;
        }
        ticks.push((self.high, Some(plain(self.high))));
        ticks
    }
}

/// As few digits as it takes; thousands apart.
fn plain(value: f64) -> String {
    let text = if value >= 99.5 {
        format!("{value:.0}")
    } else {
        let text = format!("{value:.6}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    let (whole, rest) = match text.split_once('.') {
        Some((whole, rest)) => (whole, format!(".{rest}")),
        None => (text.as_str(), String::new()),
    };
    let mut apart = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            apart.push(',');
        }
        apart.push(digit);
    }
    apart + &rest
}

/// Three figures.
fn short(value: f64) -> String {
    match value {
        v if v >= 99.5 => plain(v.round()),
        v if v >= 9.95 => plain((v * 10.0).round() / 10.0),
        v => plain((v * 100.0).round() / 100.0),
    }
}

/// Room for the labels at the left.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a pixel of a small picture"
)]
fn left<'a>(labels: impl Iterator<Item = &'a str>) -> i32 {
    let longest = labels.map(|label| label.chars().count()).max();
    let longest = u32::try_from(longest.unwrap_or_default()).unwrap_or_default();
    (f64::from(longest) * CHARACTER) as i32 + 24
}

impl Canvas<'_> {
    fn background(&self) -> Result<()> {
        self.root.fill(&WHITE).map_err(|error| anyhow!("{error}"))
    }

    fn line(&self, from: Point, to: Point, colour: RGBColor, width: u32) -> Result<()> {
        let style = colour.stroke_width(width);
        let path = PathElement::new(vec![from, to], style);
        self.root.draw(&path).map_err(|error| anyhow!("{error}"))
    }

    fn rectangle(&self, one: Point, other: Point, style: ShapeStyle) -> Result<()> {
        let shape = Rectangle::new([one, other], style);
        self.root.draw(&shape).map_err(|error| anyhow!("{error}"))
    }

    fn text(&self, text: &str, at: Point, size: i32, anchor: HPos, colour: RGBColor) -> Result<()> {
        let style = ("sans-serif", size).into_font().color(&colour);
        let style = style.pos(Pos::new(anchor, VPos::Center));
        let shape = Text::new(text.to_owned(), at, style);
        self.root.draw(&shape).map_err(|error| anyhow!("{error}"))
    }

    /// Upright lines with what stands below them, and the axis' name.
    fn below(&self, axis: &Axis, unit: &str, top: i32, bottom: i32) -> Result<()> {
        for (value, label) in axis.ticks() {
            let x = axis.pixel(value);
            let width = if label.is_some() { 2 } else { 1 };
            self.line((x, top), (x, bottom), GRID, width)?;
            if let Some(label) = label {
                self.text(&label, (x, bottom + 14), TEXT, HPos::Center, BLACK)?;
            }
        }
        self.line((axis.from, bottom), (axis.to, bottom), BLACK, 1)?;
        let middle = WIDTH.cast_signed() / 2;
        self.text(unit, (middle, bottom + 38), TEXT, HPos::Center, BLACK)
    }

    fn distributions(&self, rows: &[Distribution], unit: &str, height: u32) -> Result<()> {
        let left = left(rows.iter().map(|row| row.label.as_str()));
        let bottom = height.cast_signed() - BOTTOM;
        let values = rows.iter().flat_map(|row| row.at);
        let axis = Axis::log(values, left, WIDTH.cast_signed() - RIGHT);
        self.below(&axis, unit, TOP, bottom)?;
        let mut y = TOP + ROW / 2;
        for row in rows {
            let [lowest, early, median, late, highest] = row.at.map(|value| axis.pixel(value));
            if row.begins_group && y > TOP + ROW {
                self.line((8, y - ROW / 2), (axis.to, y - ROW / 2), GRID, 2)?;
            }
            self.text(&row.label, (left - 10, y), TEXT, HPos::Right, BLACK)?;
            self.line((lowest, y), (highest, y), row.colour, 2)?;
            let filled = row.colour.mix(0.45).filled();
            self.rectangle((early, y - 7), (late.max(early + 2), y + 7), filled)?;
            self.line((median, y - 9), (median, y + 9), row.colour, 3)?;
            let text = short(row.at[2]);
            self.text(
                &text,
                (highest.max(median) + 6, y),
                TEXT,
                HPos::Left,
                row.colour,
            )?;
            y += ROW;
        }
        Ok(())
    }

    fn bars(&self, rows: &[Bar], unit: &str, height: u32) -> Result<()> {
        let left = left(rows.iter().map(|row| row.label.as_str()));
        let bottom = height.cast_signed() - BOTTOM;
        let highest = rows.iter().map(|row| row.value).fold(1.0, f64::max);
        let axis = Axis {
            low: 0.0,
            high: highest * 1.05,
            is_log: false,
            from: left,
            to: WIDTH.cast_signed() - RIGHT,
        };
        self.below(&axis, unit, TOP, bottom)?;
        let mut y = TOP + ROW / 2;
        for row in rows {
            if row.begins_group && y > TOP + ROW {
                self.line((8, y - ROW / 2), (axis.to, y - ROW / 2), GRID, 2)?;
            }
            self.text(&row.label, (left - 10, y), TEXT, HPos::Right, BLACK)?;
            let end = axis.pixel(row.value).max(left + 1);
            self.rectangle((left, y - 7), (end, y + 7), row.colour.mix(0.75).filled())?;
            let text = plain(row.value.round());
            self.text(&text, (end + 6, y), TEXT, HPos::Left, BLACK)?;
            y += ROW;
        }
        Ok(())
    }

    fn lines(&self, lines: &[Curve], x: &str, y: &str, height: u32) -> Result<()> {
        let bottom = height.cast_signed() - BOTTOM;
        let left = 90;
        // Names stand at the ends of the lines.
        let longest = lines.iter().map(|line| line.label.chars().count()).max();
        let longest = i32::try_from(longest.unwrap_or_default()).unwrap_or_default();
        let right = WIDTH.cast_signed() - 30 - longest * 7;
        let all = lines.iter().flat_map(|line| line.points.iter().copied());
        let across = Axis::log(all.clone().map(|(x, _)| x), left, right);
        let top = TOP + 26;
        let up = Axis::log(all.map(|(_, y)| y), bottom, top);
        self.below(&across, x, top, bottom)?;
        for (value, label) in up.ticks() {
            let at = up.pixel(value);
            let width = if label.is_some() { 2 } else { 1 };
            self.line((left, at), (right, at), GRID, width)?;
            if let Some(label) = label {
                self.text(&label, (left - 10, at), TEXT, HPos::Right, BLACK)?;
            }
        }
        self.line((left, top), (left, bottom), BLACK, 1)?;
        self.text(y, (left - 60, TOP + 4), TEXT, HPos::Left, BLACK)?;
        let mut ends = Vec::new();
        for line in lines {
            let points: Vec<Point> = line
                .points
                .iter()
                .map(|(x, y)| (across.pixel(*x), up.pixel(*y)))
                .collect();
            for pair in points.windows(2) {
                self.line(pair[0], pair[1], line.colour, 2)?;
            }
            for at in &points {
                let dot = Circle::new(*at, 4, line.colour.filled());
                self.root.draw(&dot).map_err(|error| anyhow!("{error}"))?;
            }
            if let Some((x, y)) = points.last() {
                ends.push((*y, *x, line));
            }
        }
        // From the top down, each name below the one before.
        ends.sort_by_key(|(y, _, _)| *y);
        let mut free = TOP;
        for (y, x, line) in ends {
            let at = y.max(free);
            if at != y {
                self.line((x + 6, y), (x + 12, at), line.colour, 1)?;
            }
            self.text(&line.label, (x + 14, at), TEXT, HPos::Left, line.colour)?;
            free = at + 17;
        }
        Ok(())
    }
}
