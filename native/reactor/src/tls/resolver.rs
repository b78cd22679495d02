//! Which certificate a client gets.

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::sync::Arc;

/// Certificates by the name that the client asks for. A name may have several, with keys of
/// different kinds; the first whose signatures the client understands is taken.
#[derive(Debug, Default)]
pub struct ByName {
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// By what follows `*.`: a wildcard stands for one label (RFC 9525, section 6.3).
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// For clients that ask for no name, or for one that no certificate has: the first one, and
    /// others that have its names, too.
    default: Vec<Arc<CertifiedKey>>,
    default_names: Vec<String>,
}

impl ByName {
    /// Whether there is a certificate for a name, other than the default.
    pub fn has(&self, name: &str) -> bool {
        self.exact.contains_key(&name.to_ascii_lowercase())
    }

    pub fn add(&mut self, key: Arc<CertifiedKey>, names: &[String]) {
        let mut sorted: Vec<String> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
        sorted.sort();
        for name in &sorted {
            let (map, name) = match name.strip_prefix("*.") {
                Some(rest) => (&mut self.wildcard, rest),
                None => (&mut self.exact, name.as_str()),
            };
            let found = map.entry(name.to_owned()).or_default();
            found.push(Arc::clone(&key));
        }
        if self.default.is_empty() {
            self.default_names = sorted;
            self.default.push(key);
        } else if self.default_names.iter().all(|name| sorted.contains(name)) {
            self.default.push(key);
        }
    }

    /// The certificates for a name, in lower case.
    fn find(&self, name: &str) -> &[Arc<CertifiedKey>] {
        if let Some(found) = self.exact.get(name) {
            return found;
        }
        let suffix = name.split_once('.').map(|(_, rest)| rest);
        let found = suffix.and_then(|suffix| self.wildcard.get(suffix));
        found.unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let candidates = match hello.server_name() {
            Some(name) => self.find(&name.to_ascii_lowercase()),
            None => &self.default,
        };
        let offered = hello.signature_schemes();
        let signs = |it: &&Arc<CertifiedKey>| it.key.choose_scheme(offered).is_some();
        // Without a common kind of key the handshake fails with the alert that says so, where no
        // certificate at all would say that access is denied.
        let found = candidates.iter().find(signs);
        found.or(candidates.first()).cloned()
    }
}
