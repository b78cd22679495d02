//! The Date field (RFC 9110, section 5.6.7).

/// The days of the week, from that of the epoch's first day on.
const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [(&str, u64); 12] = [
    ("Jan", 31),
    ("Feb", 28),
    ("Mar", 31),
    ("Apr", 30),
    ("May", 31),
    ("Jun", 30),
    ("Jul", 31),
    ("Aug", 31),
    ("Sep", 30),
    ("Oct", 31),
    ("Nov", 30),
    ("Dec", 31),
];
const DAYS_IN_400_YEARS: u64 = 146_097; // after these the calendar repeats
/// The last second of the year 9999. The format has no room for a fifth digit.
const LAST_SECOND: u64 = 253_402_300_799;

/// Returns `seconds` since the epoch as `Sun, 06 Nov 1994 08:49:37 GMT`.
#[must_use]
pub fn imf_fixdate(seconds: u64) -> String {
    let seconds = seconds.min(LAST_SECOND);
    let day = seconds / 86400;
    let weekday = DAYS.iter().cycle().nth((day % 7) as usize);
    let (year, month, day) = calendar(day);
    format!(
        "{}, {day:02} {month} {year:04} {:02}:{:02}:{:02} GMT",
        weekday.unwrap_or(&""),
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
    )
}

/// Returns year, month and day of the month of the day that is `days` after the epoch.
#[expect(
    clippy::arithmetic_side_effects,
    reason = "no day is later than in the year 9999"
)]
fn calendar(days: u64) -> (u64, &'static str, u64) {
    let mut year = 1970 + 400 * (days / DAYS_IN_400_YEARS);
    let mut days = days % DAYS_IN_400_YEARS;
    loop {
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        for (month, length) in MONTHS {
            let length = length + u64::from(leap && month == "Feb");
            if days < length {
                return (year, month, days + 1);
            }
            days -= length;
        }
        year += 1;
    }
}

/// The line of the field Date. It is formatted once a second, however often it is sent.
#[derive(Clone, Debug)]
pub struct DateLine {
    second: u64,
    line: String,
}

impl Default for DateLine {
    fn default() -> Self {
        Self {
            second: 0,
            line: date_line(0),
        }
    }
}

impl DateLine {
    /// Returns the line with its CRLF for a time in seconds since the epoch.
    pub fn at(&mut self, second: u64) -> &str {
        if second != self.second {
            self.line = date_line(second);
            self.second = second;
        }
        &self.line
    }
}

fn date_line(second: u64) -> String {
    format!("Date: {}\r\n", imf_fixdate(second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc9110_5_6_7_the_date_of_the_example() {
        assert_eq!(imf_fixdate(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
    }

    #[test]
    fn leap_days_and_ends_of_years() {
        assert_eq!(imf_fixdate(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(imf_fixdate(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(imf_fixdate(4_107_542_399), "Sun, 28 Feb 2100 23:59:59 GMT");
        assert_eq!(imf_fixdate(4_107_542_400), "Mon, 01 Mar 2100 00:00:00 GMT");
        assert_eq!(imf_fixdate(u64::MAX), "Fri, 31 Dec 9999 23:59:59 GMT");
    }

    #[test]
    fn the_line_follows_the_clock_backwards_too() {
        let mut line = DateLine::default();
        assert_eq!(line.at(0), "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n");
        assert_eq!(line.at(1), "Date: Thu, 01 Jan 1970 00:00:01 GMT\r\n");
        assert_eq!(line.at(0), "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n");
    }
}
