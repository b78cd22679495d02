//! The names of requests.

/// What names a request in the logs: the prefix, and the number in hexadecimal.
pub struct RequestId {
    text: [u8; 64],
    start: usize,
    /// For a prefix that is longer than a worker's.
    long: Vec<u8>,
}

impl RequestId {
    #[inline(always)]
    pub fn new(prefix: &str, number: u64) -> Self {
        let mut text = [0_u8; 64];
        let mut rest = number;
        let mut start = text.len();
        for (index, place) in text.iter_mut().enumerate().rev() {
            *place = match (rest & 0xf) as u8 {
                digit @ 0..=9 => b'0' + digit,
                digit => b'a' + digit - 10,
            };
            rest >>= 4;
            start = index;
            if rest == 0 {
                break;
            }
        }
        let mut long = Vec::new();
        let before = start.saturating_sub(prefix.len());
        match text.get_mut(before..start) {
            Some(place) if place.len() == prefix.len() => {
                place.copy_from_slice(prefix.as_bytes());
            }
            _ => long = format!("{prefix}{number:x}").into_bytes(),
        }
        RequestId {
            text,
            start: before,
            long,
        }
    }

    pub fn bytes(&self) -> &[u8] {
        if self.long.is_empty() {
            self.text.get(self.start..).unwrap_or(&[])
        } else {
            &self.long
        }
    }
}
