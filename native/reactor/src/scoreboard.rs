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
    SERIES_WORDS = 80,
    STATUSES = 512,
    RECORD_BYTES = 64,
    ENTRY_BYTES = 512,
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
    OUT_SPOOL_LIMIT = 54,
    REFUSED = 80,
    TOP_CLIENT = 128,
    TOP_CLIENT_ADDRESS = 129,
    ADDRESS_WORDS = 6,
    FORWARDING_PEER = 135,
    // of a record
    THREAD = 0,
    IO_BOUND = 1,
    SINCE = 2,
    DEADLINE = 3,
    ENTRY = 4,
    PROGRESS = 5,
    AWAITING_CLIENT = 6,
    NUMBER = 7,
    // of an entry
    BEGUN = 0,
    TOOK = 1,
    STATUS = 2,
    LENGTHS = 3,
    // a value of STATUS
    NO_RESPONSE = 1,
    // what IO_BOUND is the sum of
    LEFT_COUNT = 1,
    WEBSOCKET = 2,
    // a value of STATE
    SERVING = 2,
}

/// Where the records begin in a slot, in bytes.
pub const RECORDS_AT: usize = (SLOT_WORDS + SERIES * SERIES_WORDS + STATUSES) * WORD;

/// Where method, client, id and target stand in an entry, and how long they may be.
pub const TEXTS: [(usize, usize); 4] = [(64, 24), (88, 56), (144, 64), (208, 304)];

/// The value of POLLED while the leader waits for events.
const WAITS: u64 = 1;

/// Where the record of a thread begins, and its entries, of the scoreboard that gave it out.
#[derive(Clone, Copy)]
pub struct Record {
    /// Which record of the slot it is, from 0.
    pub index: usize,
    begin: usize,
    entries: usize,
    count: usize,
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
    /// How many of them have a ring of entries; the others have one.
    pub rings: usize,
    /// How many entries a ring has.
    pub entries: usize,
}

impl Shape {
    /// Where the entries of a record begin in a slot; of the one behind the last, where they end.
    fn entries_of(&self, record: usize) -> Option<usize> {
        let more = self.entries.checked_sub(1)?;
        let before = record.min(self.rings).checked_mul(more)?;
        let entries = before.checked_add(record)?.checked_mul(ENTRY_BYTES)?;
        let records = self.records.checked_mul(RECORD_BYTES)?;
        entries.checked_add(records)?.checked_add(RECORDS_AT)
    }
}

/// A worker's slot, and those of its siblings.
pub struct Scoreboard {
    memory: Memory,
    slots: usize,
    slot_bytes: usize,
    index: usize,
    threads: usize,
    records: usize,
    shape: Shape,
    words: usize,
}

impl Scoreboard {
    /// None where the memory does not have this shape.
    pub fn new(memory: Memory, shape: Shape) -> Option<Self> {
        let this = Scoreboard {
            slots: shape.slots,
            slot_bytes: shape.slot_bytes,
            index: shape.index,
            threads: shape.threads,
            records: shape.records,
            words: memory.bytes / WORD,
            memory,
            shape,
        };
        let least = this.shape.entries_of(this.records);
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
        self.set_address(TOP_CLIENT_ADDRESS, address);
        self.set(TOP_CLIENT, connections);
    }

    /// Write which peer sends fields of a proxy and is not trusted.
    pub fn set_forwarding_peer(&self, address: &str) {
        self.set_address(FORWARDING_PEER, address);
    }

    fn set_address(&self, begin: usize, address: &str) {
        for (index, word) in (begin..).take(ADDRESS_WORDS).enumerate() {
            let mut bytes = [0; WORD];
            let part = address.as_bytes().chunks(WORD).nth(index);
            for (place, byte) in bytes.iter_mut().zip(part.unwrap_or_default()) {
                *place = *byte;
            }
            self.set(word, u64::from_ne_bytes(bytes));
        }
    }

    // -- the record of a thread -----------------------------------------------------------------

    /// The record of the thread with this index; None where there are no more.
    pub fn record(&self, index: usize) -> Option<Record> {
        if index >= self.records {
            return None;
        }
        let slot = self.index * self.slot_bytes;
        Some(Record {
            index,
            begin: slot + RECORDS_AT + index * RECORD_BYTES,
            entries: slot + self.shape.entries_of(index)?,
            count: match index < self.shape.rings {
                true => self.shape.entries,
                false => 1,
            },
        })
    }

    /// A word of a record.
    pub fn record_word(&self, record: &Record, word: usize) -> &AtomicU64 {
        self.at(record.begin / WORD + word.min(RECORD_BYTES / WORD - 1))
    }

    /// Where the thread's entry begins that has its request, or had its last one.
    fn entry(&self, record: &Record) -> usize {
        // Another process may have written anything there.
        let index = self.record_word(record, ENTRY).load(Ordering::Relaxed) as usize;
        record.entries + index.min(record.count - 1) * ENTRY_BYTES
    }

    fn entry_word(&self, entry: usize, word: usize) -> &AtomicU64 {
        self.at(entry / WORD + word.min(ENTRY_BYTES / WORD - 1))
    }

    /// Write down a request in the next entry: method, client, id and target. No process takes it
    /// for the one in progress before `begin`. A deadline of 0 is none.
    pub fn describe(&self, record: &Record, texts: [&[u8]; 4], since: Nanos, deadline: Nanos) {
        let set = |word, value| {
            self.record_word(record, word)
                .store(value, Ordering::Relaxed)
        };
        let last = self.record_word(record, ENTRY).load(Ordering::Relaxed) as usize;
        let next = if last + 1 < record.count { last + 1 } else { 0 };
        set(ENTRY, next as u64);
        let entry = record.entries + next * ENTRY_BYTES;
        let note = |word, value| self.entry_word(entry, word).store(value, Ordering::Relaxed);
        note(BEGUN, 0); // others tell from it whether what they have read was whole
        std::sync::atomic::fence(Ordering::Release);
        let [method, client, id, target] = texts;
        let [method_at, client_at, id_at, target_at] = TEXTS;
        let lengths = self.write_text(entry, method_at, method)
            | self.write_text(entry, client_at, client) << 16
            | self.write_text(entry, id_at, id) << 32
            | self.write_text(entry, target_at, target) << 48;
        note(TOOK, 0);
        note(STATUS, 0);
        note(LENGTHS, lengths);
        self.entry_word(entry, BEGUN)
            .store(since, Ordering::Release);
        set(SINCE, since);
        set(DEADLINE, deadline);
        set(PROGRESS, 0);
        set(AWAITING_CLIENT, 0);
    }

    /// Forget the request that was described last: the server has answered it itself.
    #[cold]
    pub fn forget(&self, record: &Record) {
        self.entry_word(self.entry(record), BEGUN)
            .store(0, Ordering::Release);
    }

    /// Note that the response of the thread's call is over.
    pub fn note_end(&self, record: &Record, took: Nanos, status: u16) {
        let entry = self.entry(record);
        let note = |word, value| self.entry_word(entry, word).store(value, Ordering::Relaxed);
        note(TOOK, took);
        note(
            STATUS,
            if status == 0 {
                NO_RESPONSE as u64
            } else {
                status.into()
            },
        );
    }

    /// Write a text where it belongs, as far as it fits; return its length there.
    fn write_text(&self, entry: usize, (begin, most): (usize, usize), text: &[u8]) -> u64 {
        let size = text.len().min(most);
        let size = size.min(ENTRY_BYTES.saturating_sub(begin));
        // SAFETY: the place is within the entry, which is this thread's alone to write, and so
        // within the buffer, which nothing in this process refers to; others tell from NUMBER and
        // BEGUN whether what they have read was whole.
        unsafe {
            let place = self.memory.start.as_ptr();
            let place = place.add(entry + begin);
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
