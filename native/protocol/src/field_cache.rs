//! Remembering what fields mean that clients send again and again.
//!
//! A browser sends the same fields with most of its requests. Where a head ends in fields that
//! came before, to the letter, what they mean is known: they are not read again.

use crate::head::{Field, Head, Version};

/// Field sections kept: each is some hundred bytes, and clients choose them.
const SLOTS: usize = 64;

/// Sections that were seen, by their hash alone: one that comes but once is not worth a copy.
const SIGHTINGS: usize = 512;

/// The longest section that is kept.
const MAX_BYTES: usize = 4096;

/// A field section of an HTTP/1.1 request without a body, and what it means.
#[derive(Debug)]
struct Section {
    id: u64,
    bytes: Box<[u8]>,     // up to and with the empty line
    fields: Box<[Field]>, // their spans count from the start of the section
    keep_alive: bool,
}

/// The field sections of late. Bounded, whatever clients send.
#[derive(Debug, Default)]
pub struct Memory {
    slots: Vec<Option<Section>>, // empty before the first section is kept
    sightings: Vec<u32>,
    recent: usize, // the slot of the section that came last, which comes most often again
    last_id: u64,
}

impl Memory {
    /// Whether nothing is known yet.
    pub(crate) const fn is_empty(&self) -> bool {
        self.last_id == 0
    }

    /// Writes into `head` what `section`, the bytes from behind the request line on, begins with
    /// if that came before; returns its size. The rest of `head` has to be written already.
    ///
    /// Only where the request line tells nothing that changes what the fields mean: HTTP/1.1,
    /// and a target without an authority. `at` is where the section begins in the head.
    pub(crate) fn recall(&mut self, section: &[u8], at: usize, head: &mut Head) -> Option<usize> {
        if !self.begins_with(section, self.recent) {
            let bytes = section.get(..end_of(section)?)?;
            self.recent = slot(hash(bytes));
            if !self.begins_with(section, self.recent) {
                return None;
            }
        }
        let known = self.slots.get(self.recent)?.as_ref()?;
        head.fields.clear();
        head.fields
            .extend(known.fields.iter().map(|field| field.shifted(at)));
        head.content_length = None;
        head.chunked = false;
        head.keep_alive = known.keep_alive;
        head.expect_continue = false;
        head.body_expected = false;
        head.recalled = known.id;
        Some(known.bytes.len())
    }

    /// Whether `section` is the one in a slot, which ends where its first empty line is.
    fn begins_with(&self, section: &[u8], slot: usize) -> bool {
        let known = self.slots.get(slot).and_then(Option::as_ref);
        known.is_some_and(|known| section.starts_with(&known.bytes))
    }

    /// Keeps what the fields of a head mean that was read and found valid, if they come again.
    pub(crate) fn note(&mut self, bytes: &[u8], head: &mut Head) {
        let plain = head.version == Version::Http11
            && head.authority.is_none()
            && head.content_length.is_none()
            && !head.chunked
            && !head.expect_continue;
        let Some(at) = head.fields.first().map(|field| field.name.start) else {
            return;
        };
        let section = bytes.get(at..).unwrap_or_default();
        if !plain || section.len() > MAX_BYTES || end_of(section) != Some(section.len()) {
            return;
        }
        let hash = hash(section);
        if self.sightings.is_empty() {
            self.sightings.resize(SIGHTINGS, 0);
            self.slots.resize_with(SLOTS, || None);
        }
        let tag = (hash >> 32) as u32 | 1; // 0 is none
        match self.sightings.get_mut(hash as usize % SIGHTINGS) {
            Some(seen) if *seen == tag => {}
            Some(seen) => {
                *seen = tag;
                return;
            }
            None => return,
        }
        self.last_id = self.last_id.wrapping_add(1).max(1);
        head.recalled = self.last_id;
        if let Some(place) = self.slots.get_mut(slot(hash)) {
            *place = Some(Section {
                id: self.last_id,
                bytes: section.into(),
                fields: head
                    .fields
                    .iter()
                    .map(|field| field.shifted_back(at))
                    .collect(),
                keep_alive: head.keep_alive,
            });
        }
    }
}

/// The size of a section: up to and with the empty line.
fn end_of(section: &[u8]) -> Option<usize> {
    let end = memchr::memmem::find(section, b"\r\n\r\n")?;
    end.checked_add(4)
}

const fn slot(hash: u64) -> usize {
    hash as usize % SLOTS
}

/// Not one that withstands an attacker: all that a collision costs is another reading.
fn hash(bytes: &[u8]) -> u64 {
    const FACTOR: u64 = 0x517c_c1b7_2722_0a95;
    let mut state = bytes.len() as u64;
    let mut rest = bytes;
    while let Some((word, after)) = rest.split_first_chunk::<8>() {
        state = (state.rotate_left(5) ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR);
        rest = after;
    }
    for &byte in rest {
        state = (state.rotate_left(5) ^ u64::from(byte)).wrapping_mul(FACTOR);
    }
    state ^ (state >> 29)
}
