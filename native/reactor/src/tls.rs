//! TLS by rustls: how it is set up, and the streams that speak it.
//!
//! The rest of the crate knows a [`Stream`] whose handshake comes first, and no more. Without the
//! feature `tls` none of this is there.

mod ciphers;
mod key_log;
mod resolver;
mod stream;
mod tickets;

use crate::stream::{Secure, Stream};
use ciphers::Suites;
pub use ciphers::unknown as unknown_ciphers;
use key_log::AppendingKeyLog;
use resolver::ByName;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, InconsistentKeys, RootCertStore, version};
use std::path::PathBuf;
use std::sync::Arc;
use stream::TlsStream;
use tickets::Tickets;

/// Whether clients are asked for a certificate, and whether they must have one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientCertificates {
    None,
    Optional,
    Required,
}

/// A certificate with its private key.
pub struct Pair {
    /// PEM: the leaf first, then its chain.
    pub certificate: Vec<u8>,
    /// PEM, not encrypted.
    pub key: Vec<u8>,
    /// DNS names of the leaf, also `*.example.org`, and IP addresses.
    pub names: Vec<String>,
}

/// What `penstock.edge.tls.TlsMaterial` is.
pub struct Material {
    pub pairs: Vec<Pair>,
    /// PEM.
    pub client_ca: Option<Vec<u8>>,
    pub client_certificates: ClientCertificates,
    /// TLS 1.2 is refused.
    pub only_tls13: bool,
    /// OpenSSL's names, separated by colons.
    pub ciphers: Option<String>,
    pub alpn: Vec<Vec<u8>>,
    /// The first encrypts, all decrypt.
    pub ticket_keys: Vec<Vec<u8>>,
    pub key_log: Option<PathBuf>,
    /// What an authority looks at before it issues a certificate (RFC 8737).
    pub alpn_challenges: Vec<Pair>,
}

/// The protocol by which it asks for that.
const ACME_PROTOCOL: &[u8] = b"acme-tls/1";

/// What each new TLS connection begins with.
pub struct TlsServer(Arc<Configs>);

/// How sessions are served.
struct Configs {
    http: Arc<ServerConfig>,
    /// Clients are asked for a certificate.
    asks: bool,
    challenges: Option<Challenges>,
}

/// Certificates for `ACME_PROTOCOL`, and how they are served.
struct Challenges {
    certificates: Arc<ByName>,
    config: Arc<ServerConfig>,
}

impl Configs {
    /// What a client is served with: only an authority asks for this one protocol (RFC 8737,
    /// section 3), and for a name of which there is a challenge.
    fn for_client(&self, hello: &ClientHello<'_>) -> &Arc<ServerConfig> {
        if let Some(challenges) = &self.challenges {
            let protocols = hello.alpn().map(|all| all.collect::<Vec<_>>());
            let name = hello.server_name();
            if protocols.as_deref() == Some(&[ACME_PROTOCOL])
                && name.is_some_and(|name| challenges.certificates.has(name))
            {
                return &challenges.config;
            }
        }
        &self.http
    }
}

impl TlsServer {
    /// The error names the pair, or the setting, and why it cannot be used.
    pub fn new(material: &Material) -> Result<Self, String> {
        let suites = match &material.ciphers {
            Some(names) => Suites::named(names)?,
            None => Suites::default(),
        };
        let mut versions = vec![&version::TLS13];
        if !material.only_tls13 {
            versions.push(&version::TLS12);
        }
        let provider = Arc::new(CryptoProvider {
            cipher_suites: suites.all,
            ..aws_lc_rs::default_provider()
        });
        let by_name = certificates(&material.pairs, &provider)?;
        let challenge_provider = Arc::clone(&provider);
        let asks = material.client_certificates != ClientCertificates::None;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions)
            .map_err(|error| format!("the ciphers cannot be used: {error}"))?;
        let builder = if asks {
            let roots = client_roots(material.client_ca.as_deref().unwrap_or(&[]))?;
            let mut verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            if material.client_certificates == ClientCertificates::Optional {
                verifier = verifier.allow_unauthenticated();
            }
            let built = verifier.build();
            builder.with_client_cert_verifier(
                built.map_err(|error| format!("ca_certs cannot be used: {error}"))?,
            )
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_cert_resolver(Arc::new(by_name));
        config.alpn_protocols.clone_from(&material.alpn);
        // All workers resume a session by its ticket, one alone could by its memory.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        match Tickets::new(material)? {
            Some(tickets) => config.ticketer = Arc::new(tickets),
            None => config.send_tls13_tickets = 0,
        }
        // A request in early data may be replayed.
        config.max_early_data_size = 0;
        // The suites in the order of `ciphers`, as OpenSSL's servers choose them.
        config.ignore_client_order = true;
        if let Some(path) = &material.key_log {
            let log = AppendingKeyLog::open(path)
                .map_err(|error| format!("SSLKEYLOGFILE {}: {error}", path.display()))?;
            config.key_log = Arc::new(log);
        }
        Ok(TlsServer(Arc::new(Configs {
            http: Arc::new(config),
            asks,
            challenges: challenges(&material.alpn_challenges, &challenge_provider)?,
        })))
    }
}

impl Secure for TlsServer {
    fn secure(&self, inner: Box<dyn Stream>) -> Box<dyn Stream> {
        Box::new(TlsStream::new(inner, Arc::clone(&self.0)))
    }
}

fn certificates(pairs: &[Pair], provider: &CryptoProvider) -> Result<ByName, String> {
    let mut by_name = ByName::default();
    for pair in pairs {
        let key = certified_key(pair, provider)
            .map_err(|why| format!("the certificate {}: {why}", described(pair)))?;
        by_name.add(Arc::new(key), &pair.names);
    }
    Ok(by_name)
}

/// What an authority is served with: without a certificate of its own, and without a ticket.
fn challenges(
    pairs: &[Pair],
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Challenges>, String> {
    if pairs.is_empty() {
        return Ok(None);
    }
    let certificates = Arc::new(certificates(pairs, provider)?);
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_cert_resolver(Arc::<ByName>::clone(&certificates));
    config.alpn_protocols = vec![ACME_PROTOCOL.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Some(Challenges {
        certificates,
        config: Arc::new(config),
    }))
}

/// How a message calls a pair.
fn described(pair: &Pair) -> String {
    match pair.names.as_slice() {
        [] => "without a name".to_owned(),
        names => format!("for {}", names.join(", ")),
    }
}

fn certified_key(pair: &Pair, provider: &CryptoProvider) -> Result<CertifiedKey, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pair.certificate).collect();
    let chain = chain.map_err(|error| format!("it is no PEM: {error}"))?;
    if chain.is_empty() {
        return Err("it has no certificate in PEM".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(&pair.key)
        .map_err(|error| format!("its key is no PEM of a private key: {error}"))?;
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|error| error.to_string())?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        // webpki does not know every critical extension, such as that of a challenge (RFC 8737,
        // section 3). It is for the client to know them; that the key fits was checked before.
        Ok(()) | Err(rustls::Error::InvalidCertificate(CertificateError::Other(_))) => {
            Ok(certified)
        }
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Err("its key belongs to another certificate".to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}

fn client_roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let added = certificate
            .map_err(|error| error.to_string())
            .and_then(|certificate| roots.add(certificate).map_err(|error| error.to_string()));
        added.map_err(|why| format!("ca_certs has a certificate that cannot be used: {why}"))?;
    }
    Ok(roots)
}
