//! The bytes that a parser looks at, and those that it leaves unconsumed until more arrive.

/// A block of received bytes, and how much of it has been consumed.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// An input of which nothing has been consumed.
    #[must_use]
    pub const fn new(block: &'a [u8]) -> Self {
        Self { rest: block }
    }

    /// The bytes not consumed yet: more of this message, or of later ones.
    #[must_use]
    pub const fn remaining(&self) -> &'a [u8] {
        self.rest
    }

    /// Consumes and returns at most `size` bytes.
    pub fn take(&mut self, size: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at_checked(size).unwrap_or((self.rest, &[]));
        self.rest = rest;
        taken
    }
}

/// What a connection has received and not consumed. An empty one holds no heap memory.
///
/// The event loop reads into its own buffer, and copies here only what the parser did not consume:
///
/// ```
/// # use penstock_protocol::{Carry, Input};
/// # let (mut carry, received) = (Carry::default(), &b"GET /"[..]);
/// let block = carry.join(received); // `received` itself, if nothing was left before
/// let mut input = Input::new(block);
/// // ... take events from a parser ...
/// let left = input.remaining().len();
/// carry.keep(received, left);
/// ```
///
/// Copying is linear in the number of received bytes, however they are split into packets.
#[derive(Debug, Default)]
pub struct Carry {
    bytes: Vec<u8>,
    start: usize, // the bytes before this index have been consumed
}

impl Carry {
    /// The bytes that have not been consumed.
    #[must_use]
    pub fn remaining(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    /// The unconsumed bytes followed by `received`: the next block to parse.
    ///
    /// The caller calls [`Carry::keep`] before the next `join`.
    pub fn join<'a>(&'a mut self, received: &'a [u8]) -> &'a [u8] {
        if self.bytes.is_empty() {
            return received;
        }
        if self.start > 0 && !received.is_empty() {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(received);
        self.remaining()
    }

    /// Keeps the last `left` bytes of the block that `join` returned for the same `received`.
    pub fn keep(&mut self, received: &[u8], left: usize) {
        if left == 0 {
            *self = Self::default(); // an idle connection must not hold memory
        } else if self.bytes.is_empty() {
            let from = received.len().saturating_sub(left);
            self.bytes
                .extend_from_slice(received.get(from..).unwrap_or_default());
        } else {
            self.start = self.bytes.len().saturating_sub(left);
        }
    }
}
