//! Wall-clock time as Kubernetes writes it. It is written for other programs and for people:
//! nothing here is ever judged by it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: i64 = 24 * 60 * 60;

/// Go's zero time, the first of January of the year 1.
const ZERO: WallTime = WallTime(-62_135_596_800 * 1_000_000);

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

    /// So much later.
    pub(crate) fn plus(self, by: Duration) -> Self {
        let micros = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(micros))
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
        let sign = if year < 0 { "-" } else { "" };
        let year = year.abs();
        format!(
            "{sign}{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}",
            second / 3600,
            second / 60 % 60,
            second % 60
        )
    }

    /// How long it is until the time in `text`; nothing when it is over, `None` if it cannot be read.
    pub(crate) fn from_now(text: &str) -> Option<Duration> {
        let left = Self::parse(text)?.0.saturating_sub(Self::now().0);
        Some(Duration::from_micros(u64::try_from(left).unwrap_or(0)))
    }

    /// Reads RFC 3339 as Go does, which client-go and the API server use: the hour may have one
    /// digit, and any number of decimals may follow a point or a comma. `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut rest = Rest(text.as_bytes());
        let year = rest.number(4)?;
        let month = rest.after(b'-')?.number(2)?;
        let day = rest.after(b'-')?.number(2)?;
        let hour_digits = if rest.after(b'T')?.has_digit(1) { 2 } else { 1 };
        let hour = rest.number(hour_digits)?;
        let minute = rest.after(b':')?.number(2)?;
        let second = rest.after(b':')?.number(2)?;
        let micros = rest.fraction();
        let east = rest.zone()?;
        if !(1..=12).contains(&month) || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let first = days_of(year, month, 1);
        let next = if month < 12 {
            days_of(year, month + 1, 1)
        } else {
            days_of(year + 1, 1, 1)
        };
        if !(1..=next - first).contains(&day) || !rest.0.is_empty() {
            return None;
        }
        let seconds = (first + day - 1) * DAY + hour * 3600 + minute * 60 + second - east;
        Some(Self(seconds * 1_000_000 + micros))
    }

    /// Whether it is Go's zero time, which client-go writes as `null`.
    pub fn is_zero(self) -> bool {
        self == ZERO
    }
}

/// What is left to read of a time.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn has_digit(&self, at: usize) -> bool {
        self.0.get(at).is_some_and(u8::is_ascii_digit)
    }

    /// A number of exactly so many digits.
    fn number(&mut self, digits: usize) -> Option<i64> {
        let (number, rest) = self.0.split_at_checked(digits)?;
        self.0 = rest;
        number.iter().try_fold(0, |number, digit| {
            let value = i64::from(*digit) - i64::from(b'0');
            digit.is_ascii_digit().then_some(number * 10 + value)
        })
    }

    fn after(&mut self, literal: u8) -> Option<&mut Self> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        (*first == literal).then_some(self)
    }

    /// The microseconds of the decimals, if there are any.
    fn fraction(&mut self) -> i64 {
        if !matches!(self.0.first(), Some(b'.' | b',')) || !self.has_digit(1) {
            return 0;
        }
        self.0 = &self.0[1..];
        let (mut micros, mut unit) = (0, 100_000);
        while self.has_digit(0) {
            micros += i64::from(self.0[0] - b'0') * unit;
            unit /= 10;
            self.0 = &self.0[1..];
        }
        micros
    }

    /// The seconds by which its zone is ahead of UTC.
    fn zone(&mut self) -> Option<i64> {
        let (sign, rest) = self.0.split_first()?;
        self.0 = rest;
        let sign = match sign {
            b'Z' => return Some(0),
            b'+' => 1,
            b'-' => -1,
            _ => return None,
        };
        let hours = self.number(2)?;
        let minutes = self.after(b':')?.number(2)?;
        // Go's own limits.
        (hours <= 24 && minutes <= 60).then_some(sign * (hours * 3600 + minutes * 60))
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
