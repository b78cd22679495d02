//! Finding the end of a line. Nothing else in this crate searches for one byte by byte.

use crate::error::{self, ProtocolError};
use crate::grammar::is_control;

/// The bytes that end a line or are not allowed in it.
#[derive(Clone, Copy)]
pub enum Forbidden {
    /// In any line: control characters except HTAB (RFC 9110, section 5.5).
    Controls,
    /// In a request line: all control characters (RFC 9112, section 3).
    ControlsAndTabs,
}

impl Forbidden {
    fn find(self, bytes: &[u8]) -> Option<usize> {
        match self {
            Self::Controls => find_control(bytes),
            Self::ControlsAndTabs => bytes.iter().position(u8::is_ascii_control),
        }
    }
}

/// Returns the index in `bytes` at which the line that begins at `start` ends; None while the line
/// is incomplete.
///
/// `scanned` is the index before which no line ends: no byte is looked at twice.
///
/// # Errors
/// `too_long` for a line of more than `limit` bytes, and an error for a byte that is `forbidden`:
/// the one that comes first in the line, as soon as its byte has been received.
pub fn end_of_line(
    bytes: &[u8],
    start: usize,
    scanned: &mut usize,
    limit: usize,
    too_long: ProtocolError,
    forbidden: Forbidden,
) -> Result<Option<usize>, ProtocolError> {
    let from = (*scanned).max(start);
    let found = forbidden.find(bytes.get(from..).unwrap_or_default());
    let end = found.map_or(bytes.len(), |offset| from.saturating_add(offset));
    if end.saturating_sub(start) > limit {
        return Err(too_long);
    }
    *scanned = end;
    match bytes.get(end..).unwrap_or_default() {
        [] | [b'\r'] => Ok(None),
        [b'\r', b'\n', ..] => Ok(Some(end)),
        [b'\r' | b'\n', ..] => Err(error::NO_CRLF),
        _ => Err(error::CONTROL_CHARACTER),
    }
}

/// Returns the index of the first control character that is not HTAB.
///
/// It looks at eight bytes at a time, because parsing a head spends most of its time here.
#[inline]
pub fn find_control(bytes: &[u8]) -> Option<usize> {
    let mut base: usize = 0;
    let mut rest = bytes;
    while let Some((word, after)) = rest.split_first_chunk::<8>() {
        let suspects = suspects(u64::from_le_bytes(*word));
        if suspects != 0 {
            let first = (suspects.trailing_zeros() / 8) as usize;
            let is_tab = word.get(first) == Some(&b'\t');
            let offset = if is_tab {
                word.iter().position(|&byte| is_control(byte))
            } else {
                Some(first)
            };
            if let Some(offset) = offset {
                return Some(base.saturating_add(offset));
            }
        }
        base = base.saturating_add(8);
        rest = after;
    }
    let offset = rest.iter().position(|&byte| is_control(byte))?;
    Some(base.saturating_add(offset))
}

/// Sets the high bit of each of the eight bytes that is below 0x20 or is 0x7f.
///
/// Only the lowest bit that is set is reliable: the subtraction may borrow from the bytes above.
#[inline]
const fn suspects(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = ONES << 7;
    const SPACES: u64 = ONES << 5;
    const DELETES: u64 = ONES * 0x7f;
    let below_space = word.wrapping_sub(SPACES) & !word;
    let delete = word ^ DELETES;
    let is_delete = delete.wrapping_sub(ONES) & !delete;
    (below_space | is_delete) & HIGHS
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn naive(bytes: &[u8]) -> Option<usize> {
        bytes.iter().position(|&byte| is_control(byte))
    }

    #[test]
    fn each_byte_is_judged_in_each_place_of_a_word() {
        for byte in 0..=255 {
            for place in 0..20 {
                for filler in [b' ', b'~', b'\t', 0x80, 0xff] {
                    let mut bytes = [filler; 20];
                    bytes[place] = byte;
                    assert_eq!(find_control(&bytes), naive(&bytes), "{byte} at {place}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn words_find_what_bytes_find(
            bytes in vec(prop_oneof![8 => 0x20..=255_u8, 1 => any::<u8>(), 1 => Just(b'\t')], 0..64),
        ) {
            prop_assert_eq!(find_control(&bytes), naive(&bytes));
        }
    }
}
