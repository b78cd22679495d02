//! The limits of a case that is written in JSON. In a file of its own, because the fuzz targets use the
//! rest of this folder without a JSON library.

use penstock_protocol::Limits;

/// The limits, as they are written in JSON.
#[derive(serde::Deserialize)]
pub struct Bounds {
    request_line: usize,
    fields: usize,
    field_size: usize,
    head: usize,
    chunk_overhead: usize,
    chunk_framing: u64,
    chunk_framing_ratio: u64,
    body: u64,
}

impl Bounds {
    pub const fn limits(&self) -> Limits {
        Limits {
            request_line: self.request_line,
            fields: self.fields,
            field_size: self.field_size,
            head: self.head,
            chunk_overhead: self.chunk_overhead,
            chunk_framing: self.chunk_framing,
            chunk_framing_ratio: self.chunk_framing_ratio,
            body: self.body,
        }
    }
}
