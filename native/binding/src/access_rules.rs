//! Which responses get a line of the access log.
//!
//! `penstock.telemetry.access_log_rules` is the reference, and says why. What is hidden is decided
//! there alone: here is only found out whether a request has anything that may be hidden.

use crate::ffi::latin1_bytes;
use crate::head_parts::{field, split_target};
use crate::record::Record;
use penstock_protocol::HeadCopy;
use penstock_reactor::log_queue::Ended;
use pyo3::prelude::*;

/// A `penstock.telemetry.access_log_rules.Skip`.
#[derive(FromPyObject)]
struct Skip(Vec<u8>, bool, u16, u16);

/// A `penstock.telemetry.access_log_format.NativeRules`.
pub struct Rules {
    skip: Vec<Skip>,
    /// From this status on a request has failed.
    first_failure: u16,
    /// Seconds; 0 where time does not count.
    slow: f64,
    /// 0 where nothing is sampled, and otherwise at most 2 to the 32nd.
    threshold: u64,
    /// What the checksum of a request's id is multiplied by.
    mixer: u32,
    weight: String,
    hides_query: bool,
    hidden_fields: Vec<Vec<u8>>,
    url_fields: Vec<Vec<u8>>,
}

impl Rules {
    pub fn new(rules: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(Rules {
            skip: rules.getattr("skip")?.extract()?,
            first_failure: rules.getattr("first_failure")?.extract()?,
            slow: rules.getattr("slow")?.extract()?,
            threshold: rules.getattr("threshold")?.extract()?,
            mixer: rules.getattr("mixer")?.extract()?,
            weight: rules.getattr("weight")?.extract()?,
            hides_query: rules.getattr("hides_query")?.extract()?,
            hidden_fields: rules.getattr("hidden_fields")?.extract()?,
            url_fields: rules.getattr("url_fields")?.extract()?,
        })
    }

    /// How many requests the line of this one stands for; None where it has no line.
    pub fn weight_of(
        &self,
        py: Python<'_>,
        record: &Record,
        request: &HeadCopy,
        code: u16,
    ) -> PyResult<Option<&str>> {
        if !self.skip.is_empty() {
            let (path, _) = split_target(request.head.target.of(&request.bytes));
            if self.skip.iter().any(|rule| rule.matches(path, code)) {
                return Ok(None);
            }
        }
        let failed = code >= self.first_failure || record.ended == Ended::Aborted;
        if failed || (self.slow > 0.0 && record.seconds() >= self.slow) {
            return Ok(Some("1"));
        }
        if self.threshold > 0 {
            let id = latin1_bytes(record.request_id.bind(py))?;
            let chosen = u64::from(crc32(id).wrapping_mul(self.mixer)) < self.threshold;
            return Ok(chosen.then_some(self.weight.as_str()));
        }
        Ok((self.slow <= 0.0).then_some("1"))
    }

    /// Whether the line of a request may have to hide something.
    pub fn may_hide(&self, request: &HeadCopy) -> bool {
        let target = request.head.target.of(&request.bytes);
        (self.hides_query && has_query(target))
            || self
                .hidden_fields
                .iter()
                .any(|name| !field(request, name).is_empty())
            || self
                .url_fields
                .iter()
                .any(|name| has_query(&field(request, name)))
    }
}

impl Skip {
    fn matches(&self, path: &[u8], code: u16) -> bool {
        let Skip(wanted, is_prefix, first, last) = self;
        (*first..=*last).contains(&code)
            && match is_prefix {
                true => path.starts_with(wanted),
                false => path == wanted.as_slice(),
            }
    }
}

fn has_query(text: &[u8]) -> bool {
    memchr::memchr2(b'?', b'#', text).is_some()
}

/// The checksum of `binascii.crc32`, of the polynomial of IEEE 802.3.
fn crc32(bytes: &[u8]) -> u32 {
    let mut rest = !0u32;
    for byte in bytes {
        rest ^= u32::from(*byte);
        for _ in 0..8 {
            rest = (rest >> 1) ^ (0xEDB8_8320 & (rest & 1).wrapping_neg());
        }
    }
    !rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_its_standard() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(crc32(b""), 0);
    }
}
