//! What a request may cost before it is refused.

/// The bounds of one request. Every one of them holds before the line that breaks it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the request line without its CRLF; 414 above. RFC 9112, section 3, wants 8000.
    pub request_line: usize,
    /// Field lines of a head, and of a trailer section; 431 above. Browsers send 10 to 30.
    pub fields: usize,
    /// Bytes of one field line without its CRLF; 431 above. Holds two cookies of full size.
    pub field_size: usize,
    /// Bytes of a whole head with its last CRLF; 431 above. Bounds a connection's memory.
    pub head: usize,
    /// Bytes of all chunk extensions of one body, and again of its trailer section; 400 above.
    pub chunk_overhead: usize,
    /// Bytes of a body's content, whichever way it is framed; 413 above. A big upload fits.
    pub body: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_line: 8190,
            fields: 100,
            field_size: 8190,
            head: 65536,
            chunk_overhead: 4096,
            body: 1 << 30,
        }
    }
}
