//! How long calls of one kind took.

use std::time::Duration;

use serde_json::{Value, json};

/// The durations of one kind of call.
pub(super) struct Measurement {
    pub(super) name: &'static str,
    pub(super) taken: Vec<Duration>,
}

impl Measurement {
    fn at(&self, percent: usize) -> Duration {
        let mut sorted = self.taken.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        sorted
            .get((last * percent + 50) / 100)
            .copied()
            .unwrap_or_default()
    }

    pub(super) fn json(&self) -> Value {
        let micros = |percent| self.at(percent).as_secs_f64() * 1e6;
        json!({
            "name": self.name,
            "samples": self.taken.len(),
            "p10_us": micros(10),
            "median_us": micros(50),
            "p90_us": micros(90),
            "max_us": micros(100),
        })
    }

    pub(super) fn text(&self) -> String {
        let [early, median, late, last] = [10, 50, 90, 100].map(|percent| self.at(percent));
        format!(
            "{:<24} {:>10} {:>10} {:>10} {:>10} {:>8}",
            self.name,
            shown(median),
            shown(early),
            shown(late),
            shown(last),
            self.taken.len()
        )
    }
}

/// Three figures and a unit.
fn shown(time: Duration) -> String {
    let micros = time.as_secs_f64() * 1e6;
    let (value, unit) = match micros {
        m if m < 1e3 => (m, "us"),
        m if m < 1e6 => (m / 1e3, "ms"),
        m => (m / 1e6, "s"),
    };
    let digits = match value {
        v if v < 10.0 => 2,
        v if v < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_figures() {
        for (micros, text) in [(3, "3.00 us"), (56_700, "56.7 ms"), (1_234_000, "1.23 s")] {
            assert_eq!(shown(Duration::from_micros(micros)), text);
        }
    }
}
