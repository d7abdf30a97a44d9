//! The charts, as SVG: one row each, p1 to p99 as a line, p10 to p90 as a box, the median as a bar.

use std::fmt::Write as _;

use crate::figures::{Figures, Series, shown};

/// A chart of the report.
pub(crate) struct Chart<'a> {
    /// The file's name, without its end.
    pub(crate) name: &'static str,
    /// Also for those who cannot see it.
    pub(crate) title: &'static str,
    colours: &'static str,
    rows: Vec<Row<'a>>,
}

struct Row<'a> {
    label: String,
    colour: &'static str,
    series: &'a Series,
}

const OURS: &str = "#1f6fb2";
const PEER: &str = "#d67e1c";
const FLOOR: &str = "#787878";

/// From the end of a leader's process to the next leader, per store.
pub(crate) fn failover(figures: &Figures) -> Chart<'_> {
    let mut rows = Vec::new();
    for store in figures.names("stores", "failover") {
        for (end, colour) in [("killed", OURS), ("frozen", PEER)] {
            let table = format!("failover, leader {end}");
            if let Some(series) = figures.row("stores", &table, store) {
                let label = format!("{store} · {end}");
                rows.push(Row {
                    label,
                    colour,
                    series,
                });
            }
        }
    }
    Chart {
        name: "failover",
        title: "Failover: time from the end of the leader's process to the next leader, per store",
        colours: "blue: process killed, orange: process frozen",
        rows,
    }
}

/// From the end of one holder to the next, beside the bare operation and beside peers.
pub(crate) fn hand_over(figures: &Figures) -> Chart<'_> {
    let mut rows = Vec::new();
    for bench in figures.beside() {
        for table in figures.tables(bench) {
            if !table.starts_with("From ") {
                continue;
            }
            for series in figures.rows(bench, table) {
                let colour = match (series.is_ours(), series.ahead()) {
                    (true, _) => OURS,
                    (false, Some(_)) => PEER,
                    (false, None) => FLOOR,
                };
                let label = format!("{bench} · {}", series.name);
                rows.push(Row {
                    label,
                    colour,
                    series,
                });
            }
        }
    }
    Chart {
        name: "hand-over",
        title: "Hand-over: tenure beside the bare operation and beside peers, per store",
        colours: "blue: tenure, grey: bare operation, orange: peer",
        rows,
    }
}

const WIDTH: f64 = 1000.0;
const TOP: f64 = 44.0;
const ROW: f64 = 24.0;
/// Where the axis begins and ends.
const LEFT: f64 = 430.0;
const RIGHT: f64 = 930.0;

impl Chart<'_> {
    /// Nothing when nothing was measured.
    pub(crate) fn svg(&self) -> Option<String> {
        let all = || {
            self.rows
                .iter()
                .flat_map(|row| [1, 99].map(|at| row.series.at(at)))
        };
        let low = all().fold(f64::INFINITY, f64::min).max(1.0).log10().floor();
        let high = all().fold(f64::NAN, f64::max).log10().ceil().max(low + 1.0);
        if self.rows.is_empty() {
            return None;
        }
        let x = |nanos: f64| LEFT + (nanos.max(1.0).log10() - low) / (high - low) * (RIGHT - LEFT);
        let rows = f64::from(u32::try_from(self.rows.len()).unwrap_or(u32::MAX));
        let bottom = TOP + ROW * rows;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{}\" \
             font-family=\"sans-serif\" font-size=\"13\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
            bottom + 62.0
        );
        text(&mut svg, WIDTH / 2.0, 24.0, "middle", self.title);
        let mut decade = low;
        while decade <= high {
            let (nanos, at) = (10_f64.powf(decade), x(10_f64.powf(decade)));
            line(&mut svg, (at, TOP), (at, bottom), "#dedede", 2);
            text(&mut svg, at, bottom + 18.0, "middle", &shown(nanos));
            decade += 1.0;
        }
        let scale = format!(
            "log scale · whisker p1 to p99, box p10 to p90, bar median · {}",
            self.colours
        );
        text(&mut svg, WIDTH / 2.0, bottom + 44.0, "middle", &scale);
        let mut y = TOP + ROW / 2.0;
        for Row {
            label,
            colour,
            series,
        } in &self.rows
        {
            let [first, early, median, late, last] = [1, 10, 50, 90, 99].map(|at| x(series.at(at)));
            text(&mut svg, LEFT - 10.0, y + 4.0, "end", label);
            line(&mut svg, (first, y), (last, y), colour, 2);
            push(
                &mut svg,
                &format!(
                    "<rect x=\"{early:.0}\" y=\"{:.0}\" width=\"{:.0}\" height=\"14\" \
                     fill=\"{colour}\" fill-opacity=\"0.45\"/>\n",
                    y - 7.0,
                    (late - early).max(2.0)
                ),
            );
            line(&mut svg, (median, y - 9.0), (median, y + 9.0), colour, 3);
            text(
                &mut svg,
                last + 6.0,
                y + 4.0,
                "start",
                &shown(series.median()),
            );
            y += ROW;
        }
        push(&mut svg, "</svg>\n");
        Some(svg)
    }
}

fn push(svg: &mut String, text: &str) {
    // Text takes all.
    let _written = svg.write_str(text);
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    push(
        svg,
        &format!("<text x=\"{x:.0}\" y=\"{y:.0}\" text-anchor=\"{anchor}\">{text}</text>\n"),
    );
}

fn line(svg: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64), colour: &str, width: u32) {
    push(
        svg,
        &format!(
            "<line x1=\"{x1:.0}\" y1=\"{y1:.0}\" x2=\"{x2:.0}\" y2=\"{y2:.0}\" \
             stroke=\"{colour}\" stroke-width=\"{width}\"/>\n"
        ),
    );
}
