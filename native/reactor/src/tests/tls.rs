//! TLS without sockets: rustls on both ends of a pair of buffers.

use super::bench::{Bench, Client, options};
use crate::log_queue::Entry;
use crate::options::Options;
use crate::scoreboard::{EVICTED_IDLE, HANDSHAKES_FAILED};
use crate::states::{Fate, Phase};
use crate::stream::{Secure, Session};
use crate::sys::SECOND;
use crate::tls::{ClientCertificates, Material, Pair, TlsServer};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, ClientConnection, Resumption};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{
    DigitallySignedStruct, Error, HandshakeKind, NamedGroup, SignatureScheme, SupportedCipherSuite,
    SupportedProtocolVersion,
};
use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;

/// Versions that a client speaks.
type Versions = &'static [&'static SupportedProtocolVersion];

const BOTH_VERSIONS: Versions = &[&TLS13, &TLS12];
const ONLY_TLS13: Versions = &[&TLS13];
const ONLY_TLS12: Versions = &[&TLS12];

const GET: &[u8] = b"GET /get HTTP/1.1\r\nHost: a\r\n\r\n";
const LAST: &[u8] = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

// -- the client's end -----------------------------------------------------------------------------

/// The client's end of a session.
pub struct TlsEnd {
    tls: RefCell<ClientConnection>,
    decrypted: RefCell<Vec<u8>>,
    ended: Cell<bool>,
}

impl TlsEnd {
    fn new(config: &Arc<ClientConfig>, name: &'static str) -> Self {
        let name = ServerName::try_from(name).unwrap();
        TlsEnd {
            tls: RefCell::new(ClientConnection::new(Arc::clone(config), name).unwrap()),
            decrypted: RefCell::default(),
            ended: Cell::new(false),
        }
    }

    /// What the client has to send.
    fn outgoing(&self) -> Vec<u8> {
        let mut tls = self.tls.borrow_mut();
        let mut out = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut out).unwrap();
        }
        out
    }

    pub fn encrypt(&self, data: &[u8]) -> Vec<u8> {
        let mut rest = data;
        let mut out = Vec::new();
        while !rest.is_empty() {
            let written = self.tls.borrow_mut().writer().write(rest).unwrap();
            rest = &rest[written..];
            out.extend(self.outgoing());
        }
        out
    }

    /// Decrypt and keep what has come; an error is the alert of the server, or of the client.
    fn take_in(&self, mut raw: &[u8]) -> Result<(), Error> {
        let mut tls = self.tls.borrow_mut();
        while !raw.is_empty() {
            if tls.read_tls(&mut raw).unwrap() == 0 {
                break; // what comes behind close_notify is ignored
            }
            tls.process_new_packets()?;
            let mut block = [0; 16384];
            loop {
                match tls.reader().read(&mut block) {
                    Ok(0) => {
                        self.ended.set(true);
                        break;
                    }
                    Ok(size) => self.decrypted.borrow_mut().extend(&block[..size]),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::WouldBlock);
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    pub fn keep(&self, raw: &[u8]) {
        self.take_in(raw).unwrap();
    }

    pub fn decrypt(&self, raw: &[u8]) -> Vec<u8> {
        self.keep(raw);
        self.decrypted.take()
    }

    /// Whether close_notify has come.
    pub fn has_ended(&self) -> bool {
        self.ended.get()
    }

    fn close_notify(&self) -> Vec<u8> {
        self.tls.borrow_mut().send_close_notify();
        self.outgoing()
    }

    fn kind(&self) -> HandshakeKind {
        self.tls.borrow().handshake_kind().unwrap()
    }
}

fn end_of(client: &Client) -> &TlsEnd {
    client.tls.as_ref().unwrap()
}

/// Have a client end its session, and not its connection.
pub fn end(bench: &mut Bench, client: &Client) {
    let ending = end_of(client).close_notify();
    bench.send_raw(client, &ending);
}

/// Have a client end both.
pub fn end_both(bench: &mut Bench, client: &Client) {
    client.put_raw(&end_of(client).close_notify());
    bench.end(client);
}

/// A client that accepts each certificate: which one it gets is what tests look at.
#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let provider = aws_lc_rs::default_provider();
        provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// A client that only takes RSA.
#[derive(Debug)]
struct OnlyRsa;

impl ServerCertVerifier for OnlyRsa {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Trusting.verify_server_cert(leaf, chain, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Trusting.verify_tls12_signature(message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Trusting.verify_tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::RSA_PSS_SHA256]
    }
}

/// What a client of a test has that others have not.
struct Told {
    versions: Versions,
    verifier: Arc<dyn ServerCertVerifier>,
    certificate: bool,
    alpn: Vec<Vec<u8>>,
    suites: Vec<SupportedCipherSuite>,
}

impl Default for Told {
    fn default() -> Self {
        Told {
            versions: BOTH_VERSIONS,
            verifier: Arc::new(Trusting),
            certificate: false,
            alpn: Vec::new(),
            suites: aws_lc_rs::default_provider().cipher_suites,
        }
    }
}

fn client_config(told: Told) -> Arc<ClientConfig> {
    let provider = rustls::crypto::CryptoProvider {
        cipher_suites: told.suites,
        ..aws_lc_rs::default_provider()
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(told.versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(told.verifier);
    let mut config = if told.certificate {
        let pem = include_bytes!("certificates/client.pem");
        let key = include_bytes!("certificates/client.key");
        let chain = vec![CertificateDer::from_pem_slice(pem).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key).unwrap();
        builder.with_client_auth_cert(chain, key).unwrap()
    } else {
        builder.with_no_client_auth()
    };
    config.alpn_protocols = told.alpn;
    config.resumption = Resumption::in_memory_sessions(8);
    Arc::new(config)
}

// -- the server's end -----------------------------------------------------------------------------

fn pair(certificate: &[u8], key: &[u8], name: &str) -> Pair {
    Pair {
        certificate: certificate.to_vec(),
        key: key.to_vec(),
        names: vec![name.to_owned()],
    }
}

macro_rules! pair_of {
    ($file:literal, $name:literal) => {
        pair(
            include_bytes!(concat!("certificates/", $file, ".pem")),
            include_bytes!(concat!("certificates/", $file, ".key")),
            $name,
        )
    };
}

fn material() -> Material {
    Material {
        pairs: vec![
            pair_of!("ecdsa", "localhost"),
            pair_of!("rsa", "localhost"),
            pair_of!("wildcard", "*.example.org"),
        ],
        client_ca: None,
        client_certificates: ClientCertificates::None,
        only_tls13: false,
        ciphers: None,
        alpn: vec![b"http/1.1".to_vec()],
        ticket_keys: vec![vec![1; 32]],
        key_log: None,
        alpn_challenges: Vec::new(),
    }
}

fn asking(how: ClientCertificates) -> Material {
    Material {
        client_ca: Some(include_bytes!("certificates/ca.pem").to_vec()),
        client_certificates: how,
        ..material()
    }
}

fn server(material: &Material) -> TlsServer {
    TlsServer::new(material).unwrap()
}

/// Connect a client that has sent nothing yet.
fn begin(
    bench: &mut Bench,
    server: &TlsServer,
    config: &Arc<ClientConfig>,
    name: &'static str,
) -> Client {
    let mut client = bench.connect_by(|stream| server.secure(stream));
    client.tls = Some(TlsEnd::new(config, name));
    client
}

/// Go on until neither side has more to say.
fn shake_hands(bench: &mut Bench, client: &Client) -> Result<(), Error> {
    loop {
        let outgoing = end_of(client).outgoing();
        if outgoing.is_empty() {
            return Ok(());
        }
        bench.send_raw(client, &outgoing);
        end_of(client).take_in(&client.take_raw())?;
    }
}

/// Connect a client, and complete the handshake.
pub fn connect(bench: &mut Bench) -> Client {
    connect_to(bench, &server(&material()), Told::default())
}

fn connect_to(bench: &mut Bench, server: &TlsServer, told: Told) -> Client {
    let client = begin(bench, server, &client_config(told), "localhost");
    shake_hands(bench, &client).unwrap();
    assert_eq!(client.phase(), Phase::Reading);
    client
}

fn serve(bench: &mut Bench, client: &Client, request: &[u8]) {
    bench.send(client, request);
    let waiting = bench.take();
    bench.answer(&waiting, OK);
    assert_eq!(client.statuses(), [200]);
}

fn session(client: &Client) -> Session {
    client.connection.stream.session().unwrap()
}

fn failures(bench: &Bench) -> Vec<String> {
    let failed = bench.logged.iter().filter_map(|entry| match entry {
        Entry::HandshakeFailed(note) => Some(note.reason.clone()),
        _ => None,
    });
    failed.collect()
}

fn lost(bench: &Bench) -> Vec<u16> {
    let refused = bench.logged.iter().filter_map(|entry| match entry {
        Entry::Refused(note) => Some(note.refusal.status),
        _ => None,
    });
    refused.collect()
}

// -- the handshake --------------------------------------------------------------------------------

#[test]
fn both_versions_are_served_and_the_environ_has_the_names_of_openssl() {
    for (versions, protocol, cipher) in [
        (ONLY_TLS13, "TLSv1.3", "TLS_AES_256_GCM_SHA384"),
        (ONLY_TLS12, "TLSv1.2", "ECDHE-ECDSA-AES256-GCM-SHA384"),
    ] {
        let mut bench = Bench::new(options());
        let told = Told {
            versions,
            ..Told::default()
        };
        let client = connect_to(&mut bench, &server(&material()), told);
        serve(&mut bench, &client, GET);
        serve(&mut bench, &client, GET);
        let found = session(&client);
        assert_eq!((found.protocol, found.cipher), (protocol, cipher));
        assert_eq!(found.server_name.as_deref(), Some("localhost"));
        assert!(client.connection.stream.is_secure());
    }
}

#[test]
fn a_post_quantum_key_exchange_is_preferred() {
    let mut bench = Bench::new(options());
    let client = connect(&mut bench);
    let tls = end_of(&client).tls.borrow();
    let group = tls.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, NamedGroup::X25519MLKEM768);
}

#[test]
fn the_handshake_goes_on_with_each_byte_and_the_request_may_come_behind_it() {
    let mut bench = Bench::new(options());
    let config = client_config(Told::default());
    let client = begin(&mut bench, &server(&material()), &config, "localhost");
    while end_of(&client).tls.borrow().is_handshaking() {
        for byte in end_of(&client).outgoing() {
            bench.send_raw(&client, &[byte]);
        }
        end_of(&client).keep(&client.take_raw());
    }
    let mut last = end_of(&client).outgoing(); // Finished
    last.extend(end_of(&client).encrypt(GET));
    bench.send_raw(&client, &last);
    let waiting = bench.take();
    bench.answer(&waiting, OK);
    assert_eq!(client.statuses(), [200]);
}

#[test]
fn tickets_leave_with_the_first_response_and_at_once_where_no_request_has_come() {
    for asks in [true, false] {
        let mut bench = Bench::new(options());
        let config = client_config(Told::default());
        let client = begin(&mut bench, &server(&material()), &config, "localhost");
        while end_of(&client).tls.borrow().is_handshaking() {
            let outgoing = end_of(&client).outgoing();
            bench.send_raw(&client, &outgoing);
            end_of(&client).keep(&client.take_raw());
        }
        let mut last = end_of(&client).outgoing(); // Finished
        if asks {
            last.extend(end_of(&client).encrypt(GET));
        }
        bench.send_raw(&client, &last);
        let mut received = client.take_raw();
        assert_eq!(received.is_empty(), asks);
        if asks {
            let waiting = bench.take();
            bench.answer(&waiting, OK);
            received = client.take_raw();
        }
        end_of(&client).keep(&received);
        let tls = end_of(&client).tls.borrow();
        assert_eq!(tls.tls13_tickets_received(), 2);
    }
}

#[test]
fn a_client_that_takes_its_handshake_in_small_parts_gets_all_of_it() {
    let mut bench = Bench::new(options());
    let config = client_config(Told::default());
    let client = begin(&mut bench, &server(&material()), &config, "localhost");
    client.set_room(7);
    let outgoing = end_of(&client).outgoing();
    bench.send_raw(&client, &outgoing);
    while end_of(&client).tls.borrow().is_handshaking() {
        end_of(&client).keep(&client.take_raw());
        bench.make_room(&client, 7);
    }
    bench.make_room(&client, usize::MAX);
    shake_hands(&mut bench, &client).unwrap();
    serve(&mut bench, &client, GET);
}

#[test]
fn a_handshake_that_is_not_complete_in_time_ends_its_connection() {
    let mut bench = Bench::new(options());
    let config = client_config(Told::default());
    let server = server(&material());
    let silent = begin(&mut bench, &server, &config, "localhost");
    let slow = begin(&mut bench, &server, &config, "localhost");
    let outgoing = end_of(&slow).outgoing();
    bench.send_raw(&slow, &outgoing[..9]);
    assert_eq!(bench.shared.head_count(), 1);
    bench.pass(options().tls_handshake_timeout - SECOND);
    bench.send_raw(&slow, &outgoing[9..19]); // which puts nothing off
    assert!(!slow.is_closed() && !silent.is_closed());
    bench.pass(2 * SECOND);
    assert!(slow.is_closed() && silent.is_closed());
    bench.turn();
    assert_eq!(
        failures(&bench),
        ["it took too long (setting: tls_handshake_timeout)"]
    );
    assert_eq!(bench.shared.scoreboard.get(HANDSHAKES_FAILED), 1);
    assert_eq!(bench.shared.head_count(), 0);
}

#[test]
fn a_client_without_a_word_makes_room_first_and_leaves_without_a_line_in_the_log() {
    let mut bench = Bench::new(options());
    let config = client_config(Told::default());
    let server = server(&material());
    let silent = begin(&mut bench, &server, &config, "localhost");
    let left = begin(&mut bench, &server, &config, "localhost");
    bench.end(&left);
    bench.pass(options().evict_idle * 2);
    assert!(bench.evict());
    assert!(silent.is_closed() && left.is_closed());
    assert_eq!(bench.shared.scoreboard.get(EVICTED_IDLE), 1);
    assert!(failures(&bench).is_empty());
}

#[test]
fn what_is_no_tls_gets_an_alert_and_a_request_in_plain_http_an_answer() {
    let mut bench = Bench::new(options());
    let server = server(&material());
    let config = client_config(Told::default());
    let noise = begin(&mut bench, &server, &config, "localhost");
    bench.send_raw(&noise, b"\x01\x02\x03\x04\x05\x06\x07");
    assert_eq!(noise.take_raw()[..3], [21, 3, 3]);
    assert!(noise.is_shut()); // and not closed: a reset would take the alert from the client
    assert_eq!(failures(&bench).len(), 1);
    let plain = begin(&mut bench, &server, &config, "localhost");
    bench.send_raw(&plain, GET);
    let answer = String::from_utf8(plain.take_raw()).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400 Bad Request\r\n"),
        "{answer}"
    );
    assert!(
        answer.ends_with("\r\n\r\nThis port speaks TLS.\n"),
        "{answer}"
    );
    assert!(plain.is_shut());
    assert_eq!(lost(&bench), [400]);
    assert_eq!(failures(&bench).len(), 1);
}

#[test]
fn a_client_without_a_version_or_a_cipher_in_common_is_refused() {
    let only13 = Material {
        only_tls13: true,
        ..material()
    };
    let one_cipher = Material {
        ciphers: Some("ECDHE-RSA-CHACHA20-POLY1305".to_owned()),
        ..material()
    };
    for material in [only13, one_cipher] {
        let mut bench = Bench::new(options());
        let told = Told {
            versions: ONLY_TLS12,
            suites: aws_lc_rs::default_provider()
                .cipher_suites
                .into_iter()
                .filter(|suite| !format!("{suite:?}").contains("CHACHA20"))
                .collect(),
            ..Told::default()
        };
        let config = client_config(told);
        let client = begin(&mut bench, &server(&material), &config, "localhost");
        let refused = shake_hands(&mut bench, &client);
        assert!(
            matches!(refused, Err(Error::AlertReceived(_))),
            "{refused:?}"
        );
        assert!(client.is_shut());
        assert_eq!(failures(&bench).len(), 1);
    }
}

#[test]
fn a_protocol_is_agreed_on_where_the_client_asks_for_one() {
    let mut bench = Bench::new(options());
    let told = Told {
        alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        ..Told::default()
    };
    let client = connect_to(&mut bench, &server(&material()), told);
    let tls = end_of(&client).tls.borrow();
    assert_eq!(tls.alpn_protocol(), Some(&b"http/1.1"[..]));
}

#[test]
fn rfc8737_an_authority_gets_the_challenge_of_the_name_and_others_the_usual_certificate() {
    let material = Material {
        alpn_challenges: vec![pair_of!("wildcard", "localhost")],
        ..asking(ClientCertificates::Required)
    };
    let acme = b"acme-tls/1".to_vec();
    let http = b"http/1.1".to_vec();
    let mut bench = Bench::new(options());
    let server = server(&material);
    let mut shake = |alpn: Vec<Vec<u8>>, name: &'static str| {
        let told = Told {
            alpn,
            ..Told::default()
        };
        let client = begin(&mut bench, &server, &client_config(told), name);
        let shaken = shake_hands(&mut bench, &client);
        (client, shaken)
    };
    let (client, shaken) = shake(vec![acme.clone()], "localhost");
    assert!(shaken.is_ok());
    let tls = end_of(&client).tls.borrow();
    let expected = CertificateDer::from_pem_slice(&material.alpn_challenges[0].certificate);
    assert_eq!(tls.peer_certificates().unwrap()[0], expected.unwrap());
    assert_eq!(tls.alpn_protocol(), Some(&acme[..]));
    assert!(client.is_closed() && end_of(&client).has_ended());
    for (alpn, name) in [
        (vec![acme.clone()], "elsewhere.test"), // no protocol in common
        (vec![acme, http], "localhost"),        // needs a certificate as every client does
    ] {
        let (_, shaken) = shake(alpn, name);
        assert!(matches!(shaken, Err(Error::AlertReceived(_))), "{shaken:?}");
    }
}

// -- certificates ---------------------------------------------------------------------------------

fn certificate_for(name: &'static str, told: Told) -> Vec<u8> {
    let mut bench = Bench::new(options());
    let config = client_config(told);
    let client = begin(&mut bench, &server(&material()), &config, name);
    shake_hands(&mut bench, &client).unwrap();
    let tls = end_of(&client).tls.borrow();
    tls.peer_certificates().unwrap()[0].as_ref().to_vec()
}

#[test]
fn the_certificate_is_the_one_of_the_name_and_of_a_kind_that_the_client_knows() {
    let der = |pair: &Pair| CertificateDer::from_pem_slice(&pair.certificate).unwrap();
    let material = material();
    let [ecdsa, rsa, wildcard] = &material.pairs[..] else {
        panic!("three pairs");
    };
    let only_rsa = || Told {
        verifier: Arc::new(OnlyRsa),
        ..Told::default()
    };
    let cases = [
        ("localhost", Told::default(), ecdsa),
        ("localhost", only_rsa(), rsa),
        ("elsewhere.test", Told::default(), ecdsa),
        ("elsewhere.test", only_rsa(), rsa),
        ("127.0.0.1", Told::default(), ecdsa), // an address is no name that is sent
        ("a.example.org", Told::default(), wildcard),
        ("A.EXAMPLE.org", Told::default(), wildcard),
        ("a.b.example.org", Told::default(), ecdsa), // one label
        ("example.org", Told::default(), ecdsa),
    ];
    for (name, told, pair) in cases {
        assert_eq!(certificate_for(name, told), der(pair).as_ref(), "{name}");
    }
}

#[test]
fn pairs_that_cannot_be_used_are_named() {
    let mut mixed = material();
    mixed.pairs[2].key = pair_of!("ecdsa", "").key;
    let mut empty = material();
    empty.pairs[0].certificate.clear();
    let mut no_key = material();
    no_key.pairs[1].key = b"nothing".to_vec();
    let short = Material {
        ticket_keys: vec![vec![1; 31]],
        ..material()
    };
    for (material, expected) in [
        (mixed, "for *.example.org: its key belongs to another"),
        (empty, "for localhost: it has no certificate in PEM"),
        (no_key, "for localhost: its key is no PEM"),
        (short, "a ticket key has a wrong length"),
    ] {
        let error = TlsServer::new(&material).err().unwrap();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_client_certificate_is_asked_for_checked_and_known_to_the_session() {
    use ClientCertificates::{None as No, Optional, Required};
    for (how, given, certificate) in [
        (No, true, false),
        (Optional, false, false),
        (Optional, true, true),
        (Required, true, true),
    ] {
        for versions in [ONLY_TLS13, ONLY_TLS12] {
            let mut bench = Bench::new(options());
            let told = Told {
                certificate: given,
                versions,
                ..Told::default()
            };
            let client = connect_to(&mut bench, &server(&asking(how)), told);
            serve(&mut bench, &client, GET);
            let found = session(&client);
            assert_eq!(found.certificate.is_some(), certificate, "{how:?} {given}");
            assert_eq!(found.asks, how != No);
        }
    }
    let mut bench = Bench::new(options());
    let config = client_config(Told::default());
    let client = begin(&mut bench, &server(&asking(Required)), &config, "localhost");
    let refused = shake_hands(&mut bench, &client);
    assert!(
        matches!(refused, Err(Error::AlertReceived(_))),
        "{refused:?}"
    );
    assert_eq!(failures(&bench).len(), 1);
}

// -- resumption -----------------------------------------------------------------------------------

/// How a client connects to a second server after it has been at a first.
fn second_handshake(first: &Material, second: &Material, versions: Versions) -> HandshakeKind {
    let told = Told {
        versions,
        certificate: true,
        ..Told::default()
    };
    let config = client_config(told);
    let mut kind = HandshakeKind::Full;
    for material in [first, second] {
        let mut bench = Bench::new(options());
        let client = begin(&mut bench, &server(material), &config, "localhost");
        shake_hands(&mut bench, &client).unwrap();
        serve(&mut bench, &client, GET);
        kind = end_of(&client).kind();
    }
    kind
}

#[test]
fn a_session_is_resumed_by_another_worker_and_under_keys_that_were_rotated() {
    let rotated = |keys: &[u8]| Material {
        ticket_keys: keys.iter().map(|byte| vec![*byte; 32]).collect(),
        ..material()
    };
    let none = rotated(&[]);
    for versions in [ONLY_TLS13, ONLY_TLS12] {
        for (first, second, kind) in [
            (material(), material(), HandshakeKind::Resumed),
            (material(), rotated(&[2, 1]), HandshakeKind::Resumed),
            (material(), rotated(&[3, 2]), HandshakeKind::Full),
        ] {
            assert_eq!(second_handshake(&first, &second, versions), kind);
        }
        assert_eq!(
            second_handshake(&none, &none, versions),
            HandshakeKind::Full
        );
    }
}

#[test]
fn a_session_from_before_a_change_of_what_clients_need_is_not_resumed() {
    use ClientCertificates::{Optional, Required};
    for versions in [ONLY_TLS13, ONLY_TLS12] {
        let kind = second_handshake(&material(), &asking(Required), versions);
        assert_eq!(kind, HandshakeKind::Full);
        let kind = second_handshake(&asking(Optional), &asking(Required), versions);
        assert_eq!(kind, HandshakeKind::Full);
        let kind = second_handshake(&asking(Required), &asking(Required), versions);
        assert_eq!(kind, HandshakeKind::Resumed);
    }
}

// -- bytes on their way ---------------------------------------------------------------------------

#[test]
fn a_response_is_sent_once_however_little_the_client_takes_at_a_time() {
    let body: Vec<u8> = (0..200_000_u32).flat_map(u32::to_be_bytes).collect();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let response = [head.as_bytes(), &body].concat();
    for room in [1000, 65_536, 70_000] {
        let mut bench = Bench::new(options());
        let client = connect(&mut bench);
        bench.send(&client, GET);
        client.set_room(room);
        let waiting = bench.take();
        bench.answer(&waiting, &response);
        let mut received = Vec::new();
        while received.len() < response.len() {
            received.extend(end_of(&client).decrypt(&client.take_raw()));
            bench.make_room(&client, room);
        }
        assert!(received == response);
        assert_eq!(client.phase(), Phase::Reading);
        bench.make_room(&client, usize::MAX);
        serve(&mut bench, &client, GET);
    }
}

#[test]
fn what_was_received_and_not_looked_at_yet_needs_no_event() {
    let mut bench = Bench::new(Options {
        receive_bytes: 50,
        ..options()
    });
    let client = connect(&mut bench);
    client.put(&GET.repeat(20));
    bench.tell_of_input(&client);
    bench.turn();
    for _ in 0..20 {
        let waiting = bench.take();
        bench.answer(&waiting, OK);
    }
    assert_eq!(client.statuses(), [200; 20]);
}

#[test]
fn a_client_that_ends_its_side_gets_the_response_and_then_the_end() {
    for whole in [true, false] {
        let mut bench = Bench::new(options());
        let client = connect(&mut bench);
        let mut sent = end_of(&client).encrypt(GET);
        sent.extend(end_of(&client).close_notify());
        bench.send_raw(&client, &sent);
        if whole {
            bench.end(&client); // the connection as well
        }
        let waiting = bench.take();
        bench.answer(&waiting, OK);
        assert_eq!(client.statuses(), [200]);
        assert!(client.is_closed() && !client.is_reset());
        assert!(end_of(&client).has_ended());
    }
}

#[test]
fn a_request_that_is_cut_off_without_close_notify_is_refused_as_without_tls() {
    let mut bench = Bench::new(options());
    let client = connect(&mut bench);
    let post = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab";
    bench.send(&client, post);
    bench.end(&client);
    assert_eq!(client.statuses(), [400]);
    assert_eq!(lost(&bench), [400]);
}

#[test]
fn an_idle_client_that_leaves_without_close_notify_is_nothing_to_log() {
    let mut bench = Bench::new(options());
    let client = connect(&mut bench);
    serve(&mut bench, &client, GET);
    bench.end(&client);
    assert!(client.is_closed());
    assert!(lost(&bench).is_empty() && failures(&bench).is_empty());
}

#[test]
fn bytes_that_were_changed_on_their_way_end_the_connection() {
    let mut bench = Bench::new(options());
    let client = connect(&mut bench);
    let mut sent = end_of(&client).encrypt(GET);
    *sent.last_mut().unwrap() ^= 1;
    bench.send_raw(&client, &sent);
    assert!(bench.ready.is_empty());
    assert!(client.is_closed());
    assert!(end_of(&client).take_in(&client.take_raw()).is_err()); // the alert
}

// -- the end --------------------------------------------------------------------------------------

#[test]
fn a_connection_in_good_order_ends_with_close_notify_before_the_end_of_the_connection() {
    let mut bench = Bench::new(options());
    let client = connect(&mut bench);
    serve(&mut bench, &client, LAST);
    assert!(client.is_shut() && end_of(&client).has_ended());
    let idle = connect(&mut bench);
    serve(&mut bench, &idle, GET);
    bench.pass(options().keep_alive + 2 * SECOND);
    end_of(&idle).keep(&idle.take_raw());
    assert!(idle.is_shut() && end_of(&idle).has_ended());
    bench.pass(options().linger_idle + 2 * SECOND); // for a request that is on its way
    assert!(idle.is_closed());
}

#[test]
fn close_notify_for_which_there_is_no_room_is_sent_when_there_is() {
    let mut bench = Bench::new(options());
    let client = connect(&mut bench);
    bench.send(&client, LAST);
    client.set_room(OK.len() + 22); // a record, and nothing more
    let waiting = bench.take();
    bench.answer(&waiting, OK);
    assert_eq!(client.statuses(), [200]);
    assert!(!client.is_shut() && !end_of(&client).has_ended());
    bench.make_room(&client, usize::MAX);
    end_of(&client).keep(&client.take_raw());
    assert!(client.is_shut() && end_of(&client).has_ended());
}

#[test]
fn a_response_that_is_cut_short_ends_without_close_notify() {
    let part = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort";
    for fate in [Fate::Close, Fate::Reset] {
        let mut bench = Bench::new(options());
        let client = connect(&mut bench);
        bench.send(&client, GET);
        let waiting = bench.take();
        if fate == Fate::Close {
            client.connection.stream.cut_short(); // as an exchange does that is given up
        }
        waiting.connection.lock().exchange.fate = fate;
        bench.answer(&waiting, part);
        end_of(&client).keep(&client.take_raw());
        assert!(!end_of(&client).has_ended());
        assert_eq!(client.is_reset(), fate == Fate::Reset);
        assert!(client.is_reset() || client.is_shut());
        bench.end(&client);
        end_of(&client).keep(&client.take_raw());
        assert!(client.is_closed() && !end_of(&client).has_ended());
    }
}
