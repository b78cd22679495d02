//! A cache of the field sections that clients send.
//!
//! A client sends most of its field lines again with each request. A line that is equal, byte for
//! byte, to the one at the same place of a section in the cache means the same, and is not parsed
//! again. So of a head whose Cookie is new, only Cookie is parsed.

use crate::fields::{may_differ, parse_content_length, read_value};
use crate::head::{Field, Head, Span, Version};

/// Sections in the cache. Clients choose them, and each takes 6 KiB at most, its fields included.
const SECTIONS: usize = 64;

/// Hashes of the names of sections that were received once. Only where the same names come a second
/// time is a section copied into the cache.
const SEEN_HASHES: usize = 512;

/// The longest section that is cached, in bytes.
const MAX_BYTES: usize = 4096;

/// The most fields of a section that is cached: one for each bit of [`Head::same`].
const MAX_FIELDS: usize = u64::BITS as usize;

/// How many heads that differ from a section it is compared with. The last of them replaces it: what
/// most clients send now is more likely in that one.
const MAX_DIFFERING: u32 = 256;

const CRLF: &[u8] = b"\r\n";

/// A field section of an HTTP/1.1 request whose body, if there is one, has a length that is known.
/// What it means does not depend on the length.
#[derive(Debug)]
struct Section {
    id: u64,
    bytes: Box<[u8]>,     // with the empty line at its end
    fields: Box<[Field]>, // spans count from the start of the section
    keep_alive: bool,
    forwarding: bool,
    upgrade: bool,
    content_length: Option<usize>, // index of the field
    differing: u32,                // heads with other values that were compared with this section
}

/// Field sections with different names, or with the same ones in another order. Its size is bounded,
/// whatever clients send.
#[derive(Debug, Default)]
pub struct FieldCache {
    sections: Vec<Option<Section>>, // empty until the first section is seen
    seen_hashes: Vec<u32>,
    latest: u8,  // where the section is that the last head was compared with
    stored: u64, // how many sections were cached so far
}

impl FieldCache {
    /// Returns true if no section is cached.
    pub(crate) const fn is_empty(&self) -> bool {
        self.stored == 0
    }

    /// Where the section is that the last head was compared with.
    pub(crate) const fn latest(&self) -> u8 {
        self.latest
    }

    /// Reads the fields in `bytes` from the offset `at` on, if they have the names of the section at
    /// `place`. Writes what they say into `head`, and returns the size of the head.
    ///
    /// The parts of `head` that the request line sets have to be set already. Only for a request
    /// line that does not change what the fields mean: one of HTTP/1.1 whose target has no
    /// authority. A body may have `most` bytes. None leaves the fields to the functions that parse
    /// all of them.
    pub(crate) fn read(
        &mut self,
        place: u8,
        bytes: &[u8],
        at: usize,
        most: u64,
        head: &mut Head,
    ) -> Option<usize> {
        let section = self.sections.get_mut(usize::from(place))?.as_mut()?;
        let rest = bytes.get(at..)?;
        let equal = rest.starts_with(&section.bytes);
        let size = if equal {
            section.repeat_fields(at, head);
            at.checked_add(section.bytes.len())?
        } else {
            section.read_fields(bytes, at, head)?
        };
        head.content_length = match section.content_length {
            Some(index) => {
                let value = head.fields.get(index)?.value.of(bytes);
                Some(parse_content_length(value, most).ok()?)
            }
            None => None,
        };
        head.body_expected = head.content_length.is_some_and(|length| length > 0);
        head.chunked = false;
        head.keep_alive = section.keep_alive;
        head.forwarding = section.forwarding;
        head.upgrade = section.upgrade;
        head.expect_continue = false;
        head.section_id = section.id;
        self.latest = place;
        if !equal {
            self.count_differing(place, bytes.get(..size)?, head);
        }
        Some(size)
    }

    /// Looks a head up whose fields were all parsed and are valid. If a section has the same names,
    /// writes which of its values are the same into `head`. Otherwise caches its fields, if their
    /// names have been seen before. `bytes` are those of the whole head.
    pub(crate) fn add(&mut self, bytes: &[u8], head: &mut Head) {
        let cacheable = head.version == Version::Http11
            && head.authority.is_none()
            && !head.chunked
            && !head.fields.is_empty()
            && head.fields.len() <= MAX_FIELDS;
        if !cacheable {
            return;
        }
        if self.seen_hashes.is_empty() {
            self.seen_hashes.resize(SEEN_HASHES, 0);
            self.sections.resize_with(SECTIONS, || None);
        }
        let hash = hash_of_names(bytes, &head.fields);
        let place = (hash as usize % SECTIONS) as u8;
        let section = self
            .sections
            .get(usize::from(place))
            .and_then(Option::as_ref);
        if let Some(section) = section.filter(|section| section.has_names(bytes, &head.fields)) {
            head.same = section.same_values(bytes, &head.fields);
            head.section_id = section.id;
            let equal = head.same == head.every_field();
            self.latest = place;
            if !equal {
                self.count_differing(place, bytes, head);
            }
            return;
        }
        let tag = (hash >> 32) as u32 | 1; // 0 stands for none
        match self.seen_hashes.get_mut((hash >> 8) as usize % SEEN_HASHES) {
            Some(seen) if *seen == tag => self.store(place, bytes, head),
            Some(seen) => *seen = tag,
            None => {}
        }
    }

    fn count_differing(&mut self, place: u8, bytes: &[u8], head: &mut Head) {
        let section = self.sections.get_mut(usize::from(place));
        let section = section.and_then(Option::as_mut);
        if let Some(section) = section {
            section.differing = section.differing.saturating_add(1);
            if section.differing >= MAX_DIFFERING {
                section.differing = 0;
                self.store(place, bytes, head);
            }
        }
    }

    /// Copies the fields of a head into the cache, in the place of others.
    fn store(&mut self, place: u8, bytes: &[u8], head: &mut Head) {
        let at = head.fields.first().map_or(0, |field| field.name.start);
        let section = bytes.get(at..).unwrap_or_default();
        let Some(stored) = self.sections.get_mut(usize::from(place)) else {
            return;
        };
        let mut names = head.fields.iter().map(|field| field.name.of(bytes));
        if section.len() > MAX_BYTES || names.any(|name| name.eq_ignore_ascii_case(b"expect")) {
            return;
        }
        let mut names = head.fields.iter().map(|field| field.name.of(bytes));
        let content_length = names.position(|name| name.eq_ignore_ascii_case(b"content-length"));
        // A place keeps its number in all ids: who keeps something for a section can use it, too.
        self.stored = self.stored.wrapping_add(1);
        let first = self.stored.wrapping_mul(SECTIONS as u64);
        let id = first.wrapping_add(u64::from(place));
        self.latest = place;
        head.section_id = id;
        head.same = head.every_field();
        head.section_at = at;
        *stored = Some(Section {
            id,
            bytes: section.into(),
            fields: head
                .fields
                .iter()
                .map(|field| field.shifted_back(at))
                .collect(),
            keep_alive: head.keep_alive,
            forwarding: head.forwarding,
            upgrade: head.upgrade,
            content_length,
            differing: 0,
        });
    }
}

impl Section {
    /// Writes these fields into a head in which they begin at the offset `at`.
    fn repeat_fields(&self, at: usize, head: &mut Head) {
        if head.section_id == self.id && head.section_at == at {
            return; // the last head had them at the same offset
        }
        head.start_fields();
        head.fields
            .extend(self.fields.iter().map(|field| field.shifted(at)));
        head.same = head.every_field();
        head.section_at = at;
    }

    /// Reads fields of the same names, some of which have other values; returns where they end.
    fn read_fields(&self, bytes: &[u8], at: usize, head: &mut Head) -> Option<usize> {
        head.start_fields();
        let mut at = at;
        let mut lines = &*self.bytes;
        let mut start = 0; // of the line in the section
        let mut bit = 1_u64;
        let mut same = 0_u64;
        let ends = self.fields.iter().skip(1).map(|field| field.name.start);
        let last = self.bytes.len().checked_sub(CRLF.len())?;
        for (field, end) in self.fields.iter().zip(ends.chain([last])) {
            let (line, after) = lines.split_at_checked(end.checked_sub(start)?)?;
            let rest = bytes.get(at..)?;
            if rest.starts_with(line) {
                let ahead = at.checked_sub(start)?;
                head.fields.push(field.shifted(ahead));
                same |= bit;
                at = at.checked_add(line.len())?;
            } else {
                let size = field.name.end.checked_sub(start)?;
                let (name, _) = line.split_at_checked(size)?;
                let [b':', ..] = rest.strip_prefix(name)? else {
                    return None;
                };
                let colon = at.checked_add(size)?;
                let (value, next) = read_value(bytes, colon.checked_add(1)?)?;
                if !may_differ(name, value.of(bytes)) {
                    return None;
                }
                head.fields.push(Field {
                    name: Span::new(at, colon),
                    value,
                });
                at = next;
            }
            (lines, start) = (after, end);
            bit = bit.wrapping_shl(1);
        }
        head.same = same;
        let (end, _) = bytes.get(at..)?.split_first_chunk::<2>()?;
        (end == CRLF).then_some(at.checked_add(CRLF.len())?)
    }

    fn has_names(&self, bytes: &[u8], fields: &[Field]) -> bool {
        let mut pairs = self.fields.iter().zip(fields);
        self.fields.len() == fields.len()
            && pairs.all(|(field, other)| field.name.of(&self.bytes) == other.name.of(bytes))
    }

    /// Returns a bit for each of `fields` that has the value of the same field of this section.
    fn same_values(&self, bytes: &[u8], fields: &[Field]) -> u64 {
        let pairs = self.fields.iter().zip(fields).rev();
        pairs.fold(0, |same, (field, other)| {
            let equal = field.value.of(&self.bytes) == other.value.of(bytes);
            (same << 1) | u64::from(equal)
        })
    }
}

/// Returns a hash that an attacker can make collide: a collision costs only that the fields are
/// parsed again.
fn hash_of_names(bytes: &[u8], fields: &[Field]) -> u64 {
    const FACTOR: u64 = 0x517c_c1b7_2722_0a95;
    let mut state = fields.len() as u64;
    for field in fields {
        let name = field.name.of(bytes);
        let word = match (name.first_chunk::<8>(), name.last_chunk::<8>()) {
            (Some(first), Some(last)) => {
                u64::from_le_bytes(*first) ^ u64::from_le_bytes(*last).rotate_left(32)
            }
            _ => name
                .iter()
                .fold(0, |word, &byte| (word << 8) | u64::from(byte)),
        };
        let word = word ^ name.len() as u64;
        state = (state.rotate_left(5) ^ word).wrapping_mul(FACTOR);
    }
    state ^ (state >> 29)
}
