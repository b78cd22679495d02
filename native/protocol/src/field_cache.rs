//! A cache of what field sections mean.
//!
//! A browser sends the same fields with most of its requests. If the fields of a head are equal to
//! those of an earlier one, byte for byte, their meaning is known, and they are not parsed again.

use crate::head::{Field, Head, Version};

/// Field sections in the cache. Clients choose them, and each takes some hundred bytes.
const SECTIONS: usize = 64;

/// Hashes of field sections that were received once. Only a section that comes a second time is
/// copied into the cache.
const SEEN_HASHES: usize = 512;

/// The longest section that is cached, in bytes.
const MAX_BYTES: usize = 4096;

/// A field section of an HTTP/1.1 request without a body, and what it means.
#[derive(Debug)]
struct Section {
    id: u64,
    bytes: Box<[u8]>,     // with the empty line at its end
    fields: Box<[Field]>, // spans count from the start of the section
    keep_alive: bool,
    forwarding: bool,
    upgrade: bool,
}

/// The field sections of recent requests. Its size is bounded, whatever clients send.
#[derive(Debug, Default)]
pub struct FieldCache {
    sections: Vec<Option<Section>>, // empty until the first section is seen
    seen_hashes: Vec<u32>,
    latest: usize, // the index of the last section that was looked up: the likeliest next one
    last_id: u64,
}

impl FieldCache {
    /// Returns true if no section is cached.
    pub(crate) const fn is_empty(&self) -> bool {
        self.last_id == 0
    }

    /// If `bytes` begin with a section in the cache, writes what it says into `head` and returns its
    /// size.
    ///
    /// `bytes` begin after the request line, at the offset `at` in the head. The parts of `head` that
    /// the request line sets have to be set already. Only for a request line that does not change
    /// what the fields mean: one of HTTP/1.1 whose target has no authority.
    pub(crate) fn look_up(&mut self, bytes: &[u8], at: usize, head: &mut Head) -> Option<usize> {
        if !self.begins_with_section(bytes, self.latest) {
            let section = bytes.get(..size_of_section(bytes)?)?;
            self.latest = index(hash(section));
            if !self.begins_with_section(bytes, self.latest) {
                return None;
            }
        }
        let section = self.sections.get(self.latest)?.as_ref()?;
        head.fields.clear();
        head.fields
            .extend(section.fields.iter().map(|field| field.shifted(at)));
        head.content_length = None;
        head.chunked = false;
        head.keep_alive = section.keep_alive;
        head.forwarding = section.forwarding;
        head.upgrade = section.upgrade;
        head.expect_continue = false;
        head.body_expected = false;
        head.section_id = section.id;
        Some(section.bytes.len())
    }

    /// Returns true if `bytes` begin with the section at an index. It ends at its first empty line,
    /// as the fields in `bytes` then do.
    fn begins_with_section(&self, bytes: &[u8], index: usize) -> bool {
        let section = self.sections.get(index).and_then(Option::as_ref);
        section.is_some_and(|section| bytes.starts_with(&section.bytes))
    }

    /// Caches the fields of a head that was parsed and is valid, if they have been seen before.
    /// `bytes` are those of the whole head.
    pub(crate) fn add(&mut self, bytes: &[u8], head: &mut Head) {
        let cacheable = head.version == Version::Http11
            && head.authority.is_none()
            && head.content_length.is_none()
            && !head.chunked
            && !head.expect_continue;
        let Some(at) = head.fields.first().map(|field| field.name.start) else {
            return;
        };
        let section = bytes.get(at..).unwrap_or_default();
        let whole = size_of_section(section) == Some(section.len());
        if !cacheable || section.len() > MAX_BYTES || !whole {
            return;
        }
        let hash = hash(section);
        if self.seen_hashes.is_empty() {
            self.seen_hashes.resize(SEEN_HASHES, 0);
            self.sections.resize_with(SECTIONS, || None);
        }
        let tag = (hash >> 32) as u32 | 1; // 0 stands for none
        match self.seen_hashes.get_mut(hash as usize % SEEN_HASHES) {
            Some(seen) if *seen == tag => {}
            Some(seen) => {
                *seen = tag;
                return;
            }
            None => return,
        }
        self.last_id = self.last_id.wrapping_add(1).max(1);
        head.section_id = self.last_id;
        if let Some(place) = self.sections.get_mut(index(hash)) {
            *place = Some(Section {
                id: self.last_id,
                bytes: section.into(),
                fields: head
                    .fields
                    .iter()
                    .map(|field| field.shifted_back(at))
                    .collect(),
                keep_alive: head.keep_alive,
                forwarding: head.forwarding,
                upgrade: head.upgrade,
            });
        }
    }
}

/// Returns the size of the section at the start of `bytes`, with its empty line.
fn size_of_section(bytes: &[u8]) -> Option<usize> {
    let end = memchr::memmem::find(bytes, b"\r\n\r\n")?;
    end.checked_add(4)
}

const fn index(hash: u64) -> usize {
    hash as usize % SECTIONS
}

/// Returns a hash that an attacker can make collide: a collision costs only that the fields are
/// parsed again.
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
