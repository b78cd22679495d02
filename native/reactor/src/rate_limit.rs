//! How many requests each client may send, counted by all workers in shared memory.
//!
//! `penstock.edge.rate_limit` is the reference, and says why; a test runs the same requests on
//! both. Each entry is one word, which is read and written in one step. There is no allocation.

use crate::sys::Nanos;
use std::any::Any;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

const WORD: usize = 8;
/// Entries that one client may be in.
pub const ROW_WORDS: usize = 8;
/// A tick is 4,096 ns.
const TICK_BITS: u32 = 12;
/// Ticks are counted modulo this power of two; above them is the client's tag.
const TIME_BITS: u32 = 40;
const TIME: u64 = (1 << TIME_BITS) - 1;

/// A rate, in ticks of the table.
#[derive(Clone, Copy, Debug)]
pub struct RateLimit {
    /// How many ticks a request takes.
    pub interval: u64,
    /// How far ahead a client's time may be.
    pub horizon: u64,
}

/// The times of clients, in memory that workers share.
pub struct RateTable {
    words: NonNull<AtomicU64>,
    rows: usize,
    seed: (u64, u64),
    _owner: Box<dyn Any + Send + Sync>,
}

// SAFETY: whole words of it are read and written, in one step each, and any thread may do so.
unsafe impl Send for RateTable {}
// SAFETY: likewise.
unsafe impl Sync for RateTable {}

impl RateTable {
    /// None where the memory is not aligned, or no power of two of rows.
    ///
    /// # Safety
    /// `bytes` bytes from `start` on stay where they are, and may be written to, as long as `owner`
    /// exists. No Rust reference points there, except to atomic words.
    pub unsafe fn new(
        start: NonNull<u8>,
        bytes: usize,
        seed: (u64, u64),
        owner: Box<dyn Any + Send + Sync>,
    ) -> Option<Self> {
        let rows = bytes / (WORD * ROW_WORDS);
        let aligned = start.addr().get() % WORD == 0;
        (aligned && rows.is_power_of_two()).then_some(RateTable {
            words: start.cast(),
            rows,
            seed,
            _owner: owner,
        })
    }

    /// Count a request of a client; return 0, or after how long it would be admitted. One that is
    /// refused does not count. `key` is `client::key_of`.
    pub fn take(&self, limit: &RateLimit, key: u64, now: Nanos) -> Nanos {
        let hashed = siphash(self.seed, key);
        let begin = (hashed as usize & (self.rows - 1)) * ROW_WORDS;
        let tag = hashed >> TIME_BITS;
        let ticks = (now >> TICK_BITS) & TIME;
        let (mut place, mut ahead, mut soonest) = (begin, 0, TIME);
        for index in begin..begin + ROW_WORDS {
            let word = self.word(index).load(Ordering::Relaxed);
            let left = word.wrapping_sub(ticks) & TIME;
            // What is further ahead than possible has passed, or is of another limit.
            let left = if left <= limit.horizon { left } else { 0 };
            if word >> TIME_BITS == tag {
                (place, ahead) = (index, left);
                break;
            }
            if left < soonest {
                (place, soonest) = (index, left);
            }
        }
        let after = ahead + limit.interval;
        if after > limit.horizon {
            return (after - limit.horizon) << TICK_BITS;
        }
        let word = tag << TIME_BITS | (ticks + after) & TIME;
        self.word(place).store(word, Ordering::Relaxed);
        0
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        let index = index & (self.rows * ROW_WORDS - 1);
        // SAFETY: the index is within the memory, which stays where it is as long as `self` holds
        // its owner; it is aligned, and all that use it read and write whole words.
        unsafe { self.words.add(index).as_ref() }
    }
}

/// SipHash-1-3 of one word.
pub fn siphash((k0, k1): (u64, u64), word: u64) -> u64 {
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    // The word, and the length above no further bytes.
    for block in [word, 8 << 56] {
        v[3] ^= block;
        round(&mut v);
        v[0] ^= block;
    }
    v[2] ^= 0xff;
    for _ in 0..3 {
        round(&mut v);
    }
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::siphash;
    use std::hash::{DefaultHasher, Hasher};

    #[test]
    fn the_hash_is_that_of_the_standard_library() {
        for word in [0, 1, 0x0123_4567_89ab_cdef, u64::MAX] {
            let mut hasher = DefaultHasher::new();
            hasher.write(&word.to_le_bytes());
            assert_eq!(siphash((0, 0), word), hasher.finish());
        }
    }
}
