//! Cipher suites by OpenSSL's names.

use rustls::SupportedCipherSuite;
use rustls::crypto::aws_lc_rs::cipher_suite;

/// Each suite that there is, in the order of preference, with OpenSSL's name for it.
const SUITES: [(&str, &SupportedCipherSuite); 9] = [
    (
        "TLS_AES_256_GCM_SHA384",
        &cipher_suite::TLS13_AES_256_GCM_SHA384,
    ),
    (
        "TLS_AES_128_GCM_SHA256",
        &cipher_suite::TLS13_AES_128_GCM_SHA256,
    ),
    (
        "TLS_CHACHA20_POLY1305_SHA256",
        &cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ),
    (
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        &cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        &cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        &cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "ECDHE-RSA-AES256-GCM-SHA384",
        &cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-RSA-AES128-GCM-SHA256",
        &cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-RSA-CHACHA20-POLY1305",
        &cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
];

/// OpenSSL's name of a suite; empty for one that is none of ours.
pub fn name_of(suite: SupportedCipherSuite) -> &'static str {
    let found = SUITES
        .iter()
        .find(|(_, known)| known.suite() == suite.suite());
    found.map_or("", |(name, _)| *name)
}

fn is_tls13(suite: &SupportedCipherSuite) -> bool {
    matches!(suite, SupportedCipherSuite::Tls13(_))
}

/// The suites that are offered.
pub struct Suites {
    pub all: Vec<SupportedCipherSuite>,
}

impl Default for Suites {
    fn default() -> Self {
        let all = SUITES.iter().map(|(_, suite)| **suite).collect();
        Suites { all }
    }
}

fn split(names: &str) -> impl Iterator<Item = &str> {
    names.split(':').map(str::trim).filter(|it| !it.is_empty())
}

fn find(name: &str) -> Option<SupportedCipherSuite> {
    let found = SUITES.iter().find(|(known, _)| *known == name);
    found.map(|(_, suite)| **suite)
}

/// The names of a list that are not known, separated by commas.
pub fn unknown(names: &str) -> String {
    let unknown: Vec<&str> = split(names).filter(|it| find(it).is_none()).collect();
    unknown.join(", ")
}

impl Suites {
    /// Those with these names, separated by colons, and all of TLS 1.3: as with OpenSSL, a list of
    /// ciphers does not concern these. The error names those that are not known.
    pub fn named(names: &str) -> Result<Self, String> {
        let unknown = unknown(names);
        if !unknown.is_empty() {
            let known: Vec<&str> = SUITES.iter().map(|(name, _)| *name).collect();
            return Err(format!(
                "ciphers: the native transport has no {unknown}: leave them out, or set transport to \
                 python, which has those of OpenSSL; it has {}",
                known.join(", ")
            ));
        }
        let mut all: Vec<_> = split(names).filter_map(find).collect();
        all.retain(|suite| !is_tls13(suite));
        if all.is_empty() {
            return Err(
                "ciphers: no cipher of TLS 1.2 is named (to refuse TLS 1.2, set \
                        tls_min_version = 1.3)"
                    .to_owned(),
            );
        }
        let tls13 = SUITES.iter().map(|(_, suite)| **suite).filter(is_tls13);
        all.splice(0..0, tls13);
        Ok(Suites { all })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(suites: &Suites) -> Vec<&'static str> {
        suites.all.iter().map(|suite| name_of(*suite)).collect()
    }

    #[test]
    fn all_suites_of_the_provider_have_their_name() {
        let all = rustls::crypto::aws_lc_rs::DEFAULT_CIPHER_SUITES;
        assert_eq!(all.len(), SUITES.len());
        assert!(all.iter().all(|suite| !name_of(*suite).is_empty()));
    }

    #[test]
    fn a_list_concerns_tls_1_2_alone() {
        let suites = Suites::named("TLS_AES_128_GCM_SHA256:ECDHE-RSA-AES128-GCM-SHA256").unwrap();
        assert_eq!(names(&suites).last(), Some(&"ECDHE-RSA-AES128-GCM-SHA256"));
        assert_eq!(suites.all.len(), 4);
        assert!(Suites::named("TLS_AES_128_GCM_SHA256").is_err());
    }

    #[test]
    fn a_suite_that_there_is_not_is_named_in_the_error() {
        let error = Suites::named("ECDHE-RSA-AES128-GCM-SHA256:AES128-SHA:HIGH").err();
        assert!(
            error
                .unwrap()
                .contains("no AES128-SHA, HIGH: leave them out")
        );
        assert!(Suites::named(" : ").is_err());
    }
}
