//! Wall-clock time as Kubernetes writes it. It is written for other programs and for people:
//! nothing here is ever judged by it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: i64 = 24 * 60 * 60;

/// How far ahead of our clock a time may be for the next one to be counted on from it.
const MOST_AHEAD: i64 = 60 * 60;

/// A time of the wall clock, in microseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WallTime(i64);

impl WallTime {
    /// The time now.
    pub fn now() -> Self {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        Self(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    /// A time of a renewal that follows `earlier`: now, or one second after it if that is later.
    ///
    /// client-go tells renewals apart by whole seconds: two in one second would be one to it, and
    /// its count of the lease would begin at the first.
    #[must_use]
    pub fn after(self, earlier: Option<&str>) -> Self {
        let Some(earlier) = earlier.and_then(Self::parse) else {
            return self;
        };
        let next = (earlier.seconds() + 1) * 1_000_000;
        let ahead = next / 1_000_000 - self.seconds();
        if ahead > MOST_AHEAD {
            // Some other clock was far ahead. Ours differs from it in any case.
            return self;
        }
        Self(self.0.max(next))
    }

    fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// `2006-01-02T15:04:05.000000Z`, always with six digits: the API server takes no others.
    pub fn to_micro_time(self) -> String {
        format!("{}.{:06}Z", self.date_time(), self.0.rem_euclid(1_000_000))
    }

    /// `2006-01-02T15:04:05Z`.
    pub fn to_time(self) -> String {
        format!("{}Z", self.date_time())
    }

    fn date_time(self) -> String {
        let (days, second) = (
            self.seconds().div_euclid(DAY),
            self.seconds().rem_euclid(DAY),
        );
        let (year, month, day) = date_of(days);
        format!(
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}",
            second / 3600,
            second / 60 % 60,
            second % 60
        )
    }

    /// Reads either form, to the second; `None` for anything else.
    fn parse(text: &str) -> Option<Self> {
        let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
        if !text.ends_with('Z') || text.get(10..11)? != "T" {
            return None;
        }
        let days = days_of(number(0, 4)?, number(5, 7)?, number(8, 10)?);
        let second = number(11, 13)? * 3600 + number(14, 16)? * 60 + number(17, 19)?;
        Some(Self((days * DAY + second) * 1_000_000))
    }
}

/// The date so many days after 1970-01-01, counted in years that begin in March, so that the leap
/// day is a year's last.
fn date_of(days: i64) -> (i64, i64, i64) {
    const FOUR_CENTURIES: i64 = 146_097;
    let from_march_0 = days + 719_468;
    let (era, day) = (
        from_march_0.div_euclid(FOUR_CENTURIES),
        from_march_0.rem_euclid(FOUR_CENTURIES),
    );
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month + 2) / 5 + 1;
    let calendar_month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + i64::from(calendar_month <= 2);
    (year, calendar_month, day_of_month)
}

/// The inverse of [`date_of`].
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let from_march = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * from_march + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_go_writes_them() {
        for (micros, micro_time) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400_000_001, "2000-02-29T00:00:00.000001Z"),
            (1_638_891_512_120_000, "2021-12-07T15:38:32.120000Z"),
            (1_735_689_599_999_999, "2024-12-31T23:59:59.999999Z"),
            (4_107_542_400_000_000, "2100-03-01T00:00:00.000000Z"),
        ] {
            let time = WallTime(micros);
            assert_eq!(time.to_micro_time(), micro_time);
            assert_eq!(time.to_time(), format!("{}Z", &micro_time[..19]));
            let parsed = WallTime::parse(micro_time).unwrap();
            assert_eq!(parsed.seconds(), time.seconds());
        }
    }

    #[test]
    fn dates_are_read_as_they_are_written() {
        for days in -800_000..800_000 {
            let (year, month, day) = date_of(days);
            assert_eq!(days_of(year, month, day), days);
        }
    }

    #[test]
    fn two_renewals_in_one_second_are_a_second_apart() {
        let now = WallTime(1_638_891_512_120_000);
        let next = now.after(Some("2021-12-07T15:38:32.000000Z"));
        assert_eq!(next.to_micro_time(), "2021-12-07T15:38:33.000000Z");
        assert_eq!(now.after(Some("2021-12-07T15:38:31.999999Z")), now);
        assert_eq!(now.after(None), now);
        assert_eq!(now.after(Some("nonsense")), now);
        assert_eq!(now.after(Some("2031-12-07T15:38:31Z")), now);
    }
}
