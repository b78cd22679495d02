//! The limits of one request. `scan.rs` holds a head to them, and `body.rs` a body.

/// The most bytes of a method; 501 above (RFC 9110, section 9.1). The longest registered one
/// has 17.
pub const MAX_METHOD: usize = 32;

/// The limits of one request. A line that passes one is refused before the line has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the request line without its CRLF; 414 above. RFC 9112, section 3, asks for at
    /// least 8000.
    pub request_line: usize,
    /// Field lines of a head, and of a trailer section; 431 above. Browsers send 10 to 30.
    pub fields: usize,
    /// Bytes of one field line without its CRLF; 431 above. Two cookies of full size fit.
    pub field_size: usize,
    /// Bytes of a whole head with its last CRLF; 431 above. This bounds a connection's memory.
    pub head: usize,
    /// Bytes of all chunk extensions of one body, and also of its trailer section; 400 above.
    ///
    /// Both are hardly ever used: the limit only stops a client that sends them without end.
    pub chunk_overhead: usize,
    /// Bytes of a chunked body's framing (size lines and the CRLF behind each chunk) that need no
    /// content, and...
    pub chunk_framing: u64,
    /// ... how many bytes of framing each byte of content allows beyond them; 400 above.
    ///
    /// A chunk of one byte has five bytes of framing and costs as much as one of a kilobyte.
    pub chunk_framing_ratio: u64,
    /// Bytes of a body's content, however it is framed; 413 above. A large upload fits.
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
            chunk_framing: 16 * 1024,
            chunk_framing_ratio: 4,
            body: 1 << 30,
        }
    }
}
