//! Session tickets under keys that come from the supervisor, so that each worker resumes the
//! sessions of all.

use super::{ClientCertificates, Material};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest::{self, SHA256};
use aws_lc_rs::rand;
use rustls::server::ProducesTickets;
use std::fmt::{self, Debug, Formatter};

/// How long a client is told to keep a ticket, in seconds. That a ticket ends is the work of the
/// supervisor, which rotates the keys.
const LIFETIME: u32 = 12 * 60 * 60;

/// How many bytes of a ticket name its key.
const NAME_BYTES: usize = 16;

struct TicketKey {
    /// A digest of the key: it tells nothing of it, and is the same in all workers.
    name: [u8; NAME_BYTES],
    key: LessSafeKey,
}

/// A ticket is the name of its key, a nonce, and the session, encrypted by AES-256-GCM.
///
/// The nonces are random. A key encrypts tickets until the next rotation: after 2^32 of them the
/// chance that a nonce came twice would be 2^-33.
pub struct Tickets {
    keys: Vec<TicketKey>,
    /// What the session depends on: no ticket from before a change of it is accepted. Otherwise a
    /// session that began when clients needed no certificate would go on without one.
    bound_to: Vec<u8>,
}

impl Tickets {
    /// None where there are no keys.
    pub fn new(material: &Material) -> Result<Option<Self>, String> {
        let mut keys = Vec::new();
        for bytes in &material.ticket_keys {
            let unbound = UnboundKey::new(&AES_256_GCM, bytes)
                .map_err(|_| "a ticket key has a wrong length".to_owned())?;
            let digest = digest::digest(&SHA256, bytes);
            let mut name = [0; NAME_BYTES];
            for (to, from) in name.iter_mut().zip(digest.as_ref()) {
                *to = *from;
            }
            keys.push(TicketKey {
                name,
                key: LessSafeKey::new(unbound),
            });
        }
        let mut policy = digest::Context::new(&SHA256);
        policy.update(&[
            match material.client_certificates {
                ClientCertificates::None => 0,
                ClientCertificates::Optional => 1,
                ClientCertificates::Required => 2,
            },
            u8::from(material.only_tls13),
        ]);
        policy.update(material.client_ca.as_deref().unwrap_or(&[]));
        let bound_to = policy.finish().as_ref().to_vec();
        Ok((!keys.is_empty()).then_some(Tickets { keys, bound_to }))
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let TicketKey { name, key } = self.keys.first()?;
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut sealed = plain.to_vec();
        let aad = Aad::from(&self.bound_to);
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed)
            .ok()?;
        Some([&name[..], &nonce, &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(NAME_BYTES)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        let TicketKey { key, .. } = self.keys.iter().find(|key| key.name == name)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut opened = sealed.to_vec();
        let aad = Aad::from(&self.bound_to);
        let size = key.open_in_place(nonce, aad, &mut opened).ok()?.len();
        opened.truncate(size);
        Some(opened)
    }
}

impl Debug for Tickets {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write!(formatter, "Tickets under {} keys", self.keys.len())
    }
}
