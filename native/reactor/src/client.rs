//! Who a client is, as a key for what is counted for each client, and which networks may connect.
//!
//! `penstock.edge.client` is the reference, and says why; a test runs one table on both.

use crate::sys::Peer;
use std::net::IpAddr;

/// The bit above an IPv4 address.
const IPV4: u64 = 1 << 32;

/// Return the 64 bits under which the client of a connection is counted, by the peer's address: its
/// IPv4 address, or its /64 network.
pub fn key_of(peer: IpAddr) -> u64 {
    match peer.to_canonical() {
        IpAddr::V4(address) => IPV4 | u64::from(address.to_bits()),
        IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
    }
}

/// The client of all that have no address: those of unix sockets, and those a proxy does not name.
const NO_ADDRESS: u64 = 0;

/// Return the client by which what the server can do is shared.
pub fn share_key(peer: Peer) -> u64 {
    peer.map_or(NO_ADDRESS, |(address, _)| key_of(address))
}

/// The addresses of a family as ranges: each begins at a start, and ends before the next.
#[derive(Clone, Debug, Default)]
pub struct Ranges<T> {
    /// In ascending order, each with whether its clients may connect.
    ranges: Box<[(T, bool)]>,
}

impl<T: Ord + Copy> Ranges<T> {
    pub fn new(starts: &[T], admitted: &[bool]) -> Self {
        let pairs = starts.iter().copied().zip(admitted.iter().copied());
        Ranges {
            ranges: pairs.collect(),
        }
    }

    fn admits(&self, address: T) -> bool {
        let beyond = self.ranges.partition_point(|(start, _)| *start <= address);
        let found = beyond
            .checked_sub(1)
            .and_then(|index| self.ranges.get(index));
        found.is_none_or(|(_, admitted)| *admitted)
    }
}

/// Which clients may connect, as Python has compiled it.
#[derive(Clone, Debug, Default)]
pub struct Networks {
    pub ipv4: Ranges<u32>,
    pub ipv6: Ranges<u128>,
}

impl Networks {
    /// Return true if a client of this address may connect.
    pub fn admits(&self, peer: IpAddr) -> bool {
        match peer.to_canonical() {
            IpAddr::V4(address) => self.ipv4.admits(address.to_bits()),
            IpAddr::V6(address) => self.ipv6.admits(address.to_bits()),
        }
    }
}
