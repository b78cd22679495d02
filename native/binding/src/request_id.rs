//! The names of requests.

const ID_DIGITS: usize = 16;

/// What names a request in the logs: the prefix, and 64 bits in hexadecimal.
pub struct RequestId {
    text: [u8; 64],
    size: usize,
    /// For a prefix that is longer than a worker's.
    long: Vec<u8>,
}

impl RequestId {
    #[inline(always)]
    pub fn new(prefix: &str, bits: u64) -> Self {
        let mut text = [0_u8; 64];
        let mut long = Vec::new();
        let digits = hexadecimal(bits);
        let size = prefix.len() + ID_DIGITS;
        match text
            .get_mut(..size)
            .and_then(|it| it.split_at_mut_checked(prefix.len()))
        {
            Some((before, behind)) if behind.len() == ID_DIGITS => {
                before.copy_from_slice(prefix.as_bytes());
                behind.copy_from_slice(&digits);
            }
            _ => long = [prefix.as_bytes(), &digits].concat(),
        }
        RequestId { text, size, long }
    }

    pub fn bytes(&self) -> &[u8] {
        if self.long.is_empty() {
            self.text.get(..self.size).unwrap_or(&[])
        } else {
            &self.long
        }
    }
}

/// The digits of a number, all of a half at once.
#[inline(always)]
fn hexadecimal(bits: u64) -> [u8; ID_DIGITS] {
    let mut digits = [0; ID_DIGITS];
    let (high, low) = digits.split_at_mut(ID_DIGITS / 2);
    high.copy_from_slice(&half(bits >> 32).to_be_bytes());
    low.copy_from_slice(&half(bits & 0xffff_ffff).to_be_bytes());
    digits
}

/// The eight digits of 32 bits, one in each byte.
#[inline(always)]
fn half(bits: u64) -> u64 {
    let mut nibbles = (bits | bits << 16) & 0x0000_ffff_0000_ffff;
    nibbles = (nibbles | nibbles << 8) & 0x00ff_00ff_00ff_00ff;
    nibbles = (nibbles | nibbles << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    // 1 in each byte whose digit is a letter.
    let letters = (nibbles + 0x0606_0606_0606_0606) >> 4 & 0x0101_0101_0101_0101;
    nibbles + 0x3030_3030_3030_3030 + letters * u64::from(b'a' - b'9' - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_prefix_and_sixteen_digits() {
        for bits in [0, 1, 0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210, u64::MAX] {
            for prefix in ["", "1a2b-c3d4e5-", &"x".repeat(48), &"x".repeat(49)] {
                let id = RequestId::new(prefix, bits);
                let wanted = format!("{prefix}{bits:016x}");
                assert_eq!(id.bytes(), wanted.as_bytes());
            }
        }
    }
}
