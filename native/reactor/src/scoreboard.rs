//! The scoreboard: shared memory that all processes of a server read and write. The reference is
//! `penstock.telemetry.scoreboard`, and a test compares the layout.
//!
//! Each word is written in one store, by one side alone, so that no lock is needed.

use crate::sys::Nanos;
use std::any::Any;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// Declares the numbers of the layout, and a list of them for the test.
macro_rules! layout {
    ($($name:ident = $number:literal,)+) => {
        $(pub const $name: usize = $number;)+

        /// The numbers by their names in `penstock.telemetry.scoreboard`.
        pub const LAYOUT: &[(&str, usize)] = &[$((stringify!($name), $name),)+];
    };
}

layout! {
    WORD = 8,
    SLOT_WORDS = 192,
    SERIES = 120,
    SERIES_WORDS = 64,
    STATUSES = 512,
    RECORD_BYTES = 512,
    // of a slot
    STATE = 0,
    BEAT = 2,
    READY = 3,
    CONNECTIONS = 4,
    ACCEPTING = 5,
    POLLED = 6,
    STARTED = 7,
    WAITING = 8,
    ACCEPTED = 9,
    LIVE = 10,
    IN_USE = 11,
    SPOOLED = 12,
    IO_BOUND_CALLS = 13,
    HANDSHAKES_FAILED = 14,
    OUT_SPOOLED = 15,
    QUEUE_FULL = 16,
    QUEUE_TIMEOUT = 17,
    CLIENT_LEFT = 18,
    EVICTED_IDLE = 19,
    EVICTED_HEAD = 20,
    EVICTED_BODY = 21,
    DENIED = 22,
    CLIENT_CONNECTIONS = 23,
    CLIENT_RATE = 24,
    SPOOL_FULL = 25,
    SLOW_READER = 26,
    LOG_DROPPED = 27,
    IO_BOUND_REFUSED = 28,
    OUT_SPOOL_FULL = 29,
    OUT_SPOOL_FILES = 30,
    OUT_SPOOL_DISK = 31,
    WEBSOCKETS = 32,
    WEBSOCKETS_REFUSED = 33,
    QUEUE_FULL_SINCE = 34,
    QUEUED = 35,
    BYTES_RECEIVED = 36,
    BYTES_SENT = 37,
    HANDSHAKES = 38,
    RESUMPTIONS = 39,
    HANDSHAKING = 42,
    IDLE = 43,
    READING = 44,
    IN_APPLICATION = 45,
    SENDING = 46,
    CLOSING = 47,
    SERIES_USED = 48,
    TOP_CLIENT = 128,
    TOP_CLIENT_ADDRESS = 129,
    ADDRESS_WORDS = 6,
    // of a record
    NUMBER = 0,
    SINCE = 1,
    THREAD = 2,
    DEADLINE = 3,
    IO_BOUND = 4,
    LENGTHS = 5,
    PROGRESS = 6,
    AWAITING_CLIENT = 7,
    // what IO_BOUND is the sum of
    LEFT_COUNT = 1,
    WEBSOCKET = 2,
    // a value of STATE
    SERVING = 2,
}

/// Where the records begin in a slot, in bytes.
pub const RECORDS_AT: usize = (SLOT_WORDS + SERIES * SERIES_WORDS + STATUSES) * WORD;

/// Where method, client, id and target stand in a record, and how long they may be.
pub const TEXTS: [(usize, usize); 4] = [(64, 24), (88, 56), (144, 64), (208, 304)];

/// The value of POLLED while the leader waits for events.
const WAITS: u64 = 1;

/// Where the record of a thread begins, of the scoreboard that gave it out.
#[derive(Clone, Copy)]
pub struct Record {
    begin: usize,
}

/// Memory that other processes may share.
pub struct Memory {
    start: NonNull<u8>,
    bytes: usize,
    _owner: Box<dyn Any + Send + Sync>,
}

// SAFETY: whole words of it are read and written, in one step each, and any thread may do so.
unsafe impl Send for Memory {}
// SAFETY: likewise.
unsafe impl Sync for Memory {}

impl Memory {
    /// # Safety
    /// `bytes` bytes from `start` on stay where they are, and may be written to, as long as `owner`
    /// exists. No Rust reference points there, except to atomic words.
    pub unsafe fn new(start: NonNull<u8>, bytes: usize, owner: Box<dyn Any + Send + Sync>) -> Self {
        Memory {
            start,
            bytes,
            _owner: owner,
        }
    }
}

/// What a scoreboard consists of, and which slot is the own one.
pub struct Shape {
    pub slots: usize,
    pub slot_bytes: usize,
    pub index: usize,
    /// How many threads of each worker count.
    pub threads: usize,
    /// In each slot.
    pub records: usize,
}

/// A worker's slot, and those of its siblings.
pub struct Scoreboard {
    memory: Memory,
    slots: usize,
    slot_bytes: usize,
    index: usize,
    threads: usize,
    records: usize,
    words: usize,
}

impl Scoreboard {
    /// None where the memory does not have this shape.
    pub fn new(memory: Memory, shape: &Shape) -> Option<Self> {
        let this = Scoreboard {
            slots: shape.slots,
            slot_bytes: shape.slot_bytes,
            index: shape.index,
            threads: shape.threads,
            records: shape.records,
            words: memory.bytes / WORD,
            memory,
        };
        let least = this
            .records
            .checked_mul(RECORD_BYTES)
            .and_then(|bytes| bytes.checked_add(RECORDS_AT));
        let all = this.slots.checked_mul(this.slot_bytes);
        let sound = least.is_some_and(|least| least <= this.slot_bytes)
            && all.is_some_and(|all| all <= this.memory.bytes)
            && this.index < this.slots
            && this.slot_bytes % WORD == 0
            && this.memory.start.addr().get() % WORD == 0
            && this.words > 0;
        sound.then_some(this)
    }

    /// How many calls of the application each worker can make at a time, beside those that have
    /// left the count of threads.
    pub fn threads(&self) -> u64 {
        self.threads as u64
    }

    /// Whether there may be siblings.
    pub fn is_shared(&self) -> bool {
        self.slots > 1
    }

    /// The word with this index in the memory; the last one for any that is beyond it.
    fn at(&self, index: usize) -> &AtomicU64 {
        let index = index.min(self.words - 1);
        // SAFETY: the buffer stays where it is as long as `self` holds it; the place is within it
        // and aligned, and other users of the memory read and write whole words.
        unsafe { AtomicU64::from_ptr(self.memory.start.as_ptr().cast::<u64>().add(index)) }
    }

    fn word_of(&self, slot: usize, word: usize) -> &AtomicU64 {
        let slot = slot.min(self.slots - 1);
        self.at(slot * self.slot_bytes / WORD + word.min(SLOT_WORDS - 1))
    }

    /// A word of the own slot.
    pub fn word(&self, word: usize) -> &AtomicU64 {
        self.word_of(self.index, word)
    }

    /// A word of the series of the own slot: see `histograms`.
    pub fn series_word(&self, word: usize) -> &AtomicU64 {
        let word = word.min(SERIES * SERIES_WORDS - 1);
        self.at(self.index * self.slot_bytes / WORD + SLOT_WORDS + word)
    }

    /// How many requests had a status code, which counts from 100 here.
    pub fn status_word(&self, above_100: usize) -> &AtomicU64 {
        let word = SERIES * SERIES_WORDS + above_100.min(STATUSES - 1);
        self.at(self.index * self.slot_bytes / WORD + SLOT_WORDS + word)
    }

    pub fn get(&self, word: usize) -> u64 {
        self.word(word).load(Ordering::Relaxed)
    }

    pub fn set(&self, word: usize, value: u64) {
        self.word(word).store(value, Ordering::Relaxed);
    }

    /// Add one to a word of the own slot. Any thread may.
    pub fn count(&self, word: usize) {
        self.add(word, 1);
    }

    /// Count several at once.
    pub fn add(&self, word: usize, number: u64) {
        self.word(word).fetch_add(number, Ordering::Relaxed);
    }

    /// Say that the leader waits for events.
    pub fn note_wait(&self) {
        self.set(POLLED, WAITS);
    }

    /// The fewest connections that another worker has which would accept one now; None where no
    /// other would.
    pub fn fewest_of_others(&self, responsive: Nanos, now: Nanos) -> Option<u64> {
        self.of_others(CONNECTIONS, true, responsive, now).min()
    }

    /// How many connections the other workers have accepted that would accept one now; None where
    /// there is none.
    pub fn accepted_by_others(&self, responsive: Nanos, now: Nanos) -> Option<u64> {
        let accepted = self.of_others(ACCEPTED, true, responsive, now);
        accepted.reduce(u64::wrapping_add)
    }

    /// The fewest requests that wait in another busy worker; None where there is none.
    pub fn fewest_waiting(&self, responsive: Nanos, now: Nanos) -> Option<u64> {
        self.of_others(WAITING, false, responsive, now).min()
    }

    /// A word of the other workers that look at their sockets, and that would accept a connection
    /// now, or would not.
    fn of_others(
        &self,
        word: usize,
        accepting: bool,
        responsive: Nanos,
        now: Nanos,
    ) -> impl Iterator<Item = u64> + '_ {
        let in_use = self.word_of(0, IN_USE).load(Ordering::Relaxed);
        (0..self.slots.min(in_use as usize))
            .filter(|slot| *slot != self.index)
            .filter(move |slot| {
                let word = |word| self.word_of(*slot, word).load(Ordering::Relaxed);
                let polled = word(POLLED);
                let looks = polled == WAITS || polled.saturating_add(responsive) >= now;
                let accepts = word(ACCEPTING) == 1;
                word(STATE) == SERVING as u64 && accepts == accepting && looks
            })
            .map(move |slot| self.word_of(slot, word).load(Ordering::Relaxed))
    }

    /// Whether no other worker serves.
    pub fn is_alone(&self) -> bool {
        let in_use = self.word_of(0, IN_USE).load(Ordering::Relaxed);
        (0..self.slots.min(in_use as usize))
            .filter(|slot| *slot != self.index)
            .all(|slot| self.word_of(slot, STATE).load(Ordering::Relaxed) != SERVING as u64)
    }

    /// The bytes of requests and responses in the temporary files of all workers.
    pub fn spooled(&self) -> u64 {
        let in_use = self.word_of(0, IN_USE).load(Ordering::Relaxed);
        (0..self.slots.min(in_use as usize))
            .map(|slot| self.word_of(slot, SPOOLED).load(Ordering::Relaxed))
            .fold(0, u64::saturating_add)
    }

    /// Write which client has the most connections, and how many.
    pub fn set_top_client(&self, address: &str, connections: u64) {
        for (index, word) in (TOP_CLIENT_ADDRESS..).take(ADDRESS_WORDS).enumerate() {
            let mut bytes = [0; WORD];
            let part = address.as_bytes().chunks(WORD).nth(index);
            for (place, byte) in bytes.iter_mut().zip(part.unwrap_or_default()) {
                *place = *byte;
            }
            self.set(word, u64::from_ne_bytes(bytes));
        }
        self.set(TOP_CLIENT, connections);
    }

    // -- the record of a thread -----------------------------------------------------------------

    /// The record of the thread with this index; None where there are no more.
    pub fn record(&self, index: usize) -> Option<Record> {
        let begin = self.index * self.slot_bytes + RECORDS_AT + index * RECORD_BYTES;
        (index < self.records).then_some(Record { begin })
    }

    /// A word of a record.
    pub fn record_word(&self, record: &Record, word: usize) -> &AtomicU64 {
        self.at(record.begin / WORD + word.min(RECORD_BYTES / WORD - 1))
    }

    /// Write down a request: method, client, id and target. No process reads it before `begin`. A
    /// deadline of 0 is none.
    pub fn describe(&self, record: &Record, texts: [&[u8]; 4], since: Nanos, deadline: Nanos) {
        let set = |word, value| {
            self.record_word(record, word)
                .store(value, Ordering::Relaxed)
        };
        let [method, client, id, target] = texts;
        let [method_at, client_at, id_at, target_at] = TEXTS;
        let lengths = self.write_text(record, method_at, method)
            | self.write_text(record, client_at, client) << 16
            | self.write_text(record, id_at, id) << 32
            | self.write_text(record, target_at, target) << 48;
        set(LENGTHS, lengths);
        set(SINCE, since);
        set(DEADLINE, deadline);
        set(PROGRESS, 0);
        set(AWAITING_CLIENT, 0);
    }

    /// Write a text where it belongs, as far as it fits; return its length there.
    fn write_text(&self, record: &Record, (begin, most): (usize, usize), text: &[u8]) -> u64 {
        let size = text.len().min(most);
        let size = size.min(RECORD_BYTES.saturating_sub(begin));
        // SAFETY: the place is within the record, which is this thread's alone to write, and so
        // within the buffer, which nothing in this process refers to; others tell from NUMBER
        // whether what they have read was whole.
        unsafe {
            let place = self.memory.start.as_ptr();
            let place = place.add(record.begin + begin);
            std::ptr::copy_nonoverlapping(text.as_ptr(), place, size);
        }
        size as u64
    }

    /// Say that the request that was described is with the application.
    pub fn begin(&self, record: &Record, number: u64) {
        self.record_word(record, NUMBER)
            .store(number, Ordering::Release);
    }

    /// How many calls the application has, without those that have left the count of threads.
    pub fn calls_of_count(&self) -> u64 {
        let records = (0..self.records).filter_map(|index| self.record(index));
        let counts = records.filter(|record| {
            let word = |word| self.record_word(record, word).load(Ordering::Relaxed);
            word(NUMBER) != 0 && word(IO_BOUND) & LEFT_COUNT as u64 == 0
        });
        counts.count() as u64
    }

    /// Say that the thread has come back.
    pub fn end(&self, record: &Record) {
        self.record_word(record, NUMBER).store(0, Ordering::Release);
    }
}
