//! The grammar of a request. Each rule names its section of the standard.

use std::borrow::Cow;
use std::net::Ipv6Addr;

const TOKEN: u8 = 1;
const TARGET: u8 = 2;
const NAME_OF_HOST: u8 = 4;
const HEX: u8 = 8;
const QUOTED: u8 = 16;

static CLASSES: [u8; 256] = classes();

#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "evaluated by the compiler, and bounded by the loop"
)]
const fn classes() -> [u8; 256] {
    let mut classes = [0; 256];
    let mut index = 0;
    while index < 256 {
        let byte = index as u8;
        let alphanumeric = byte.is_ascii_alphanumeric();
        let mut class = 0;
        if alphanumeric
            || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.')
            || matches!(byte, b'^'..=b'`' | b'|' | b'~')
        {
            class |= TOKEN;
        }
        if (byte.is_ascii_graphic() && byte != b'#' && byte != b'\\') || !byte.is_ascii() {
            class |= TARGET;
        }
        if alphanumeric
            || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'!' | b'$')
            || matches!(byte, b'&'..=b',' | b';' | b'=')
        {
            class |= NAME_OF_HOST;
        }
        if byte.is_ascii_hexdigit() {
            class |= HEX;
        }
        if !is_control(byte) && byte != b'"' && byte != b'\\' {
            class |= QUOTED;
        }
        classes[index] = class;
        index += 1;
    }
    classes
}

#[expect(
    clippy::indexing_slicing,
    reason = "a byte is below the table's length"
)]
#[inline]
fn is(byte: u8, class: u8) -> bool {
    CLASSES[byte as usize] & class != 0
}

/// RFC 9110, section 5.6.2: methods and field names.
#[inline]
pub fn is_token_byte(byte: u8) -> bool {
    is(byte, TOKEN)
}

/// RFC 9110, section 5.6.2.
pub fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&byte| is_token_byte(byte))
}

/// RFC 9112, section 3.2: visible ASCII except `#` and `\`, and all bytes above ASCII.
///
/// Wider than RFC 3986, because clients send `{`, `|`, `"` and the bytes of UTF-8 without encoding
/// them, and all parsers read those alike. They do not read a fragment or a backslash alike.
#[inline]
pub fn is_target_byte(byte: u8) -> bool {
    is(byte, TARGET)
}

/// Returns true for `uri-host [ ":" port ]` (RFC 9112, section 3.2) that is not empty.
///
/// It refuses more than the grammar does: an IP-literal that is not an address, and a port above
/// 65535. The libraries with which applications parse their own URL raise for those. IPvFuture
/// (RFC 3986, section 3.2.2) is refused because no version except 6 was ever defined.
pub fn is_host(text: &[u8]) -> bool {
    let rest = match text {
        [b'[', literal @ ..] => after_ip_literal(literal),
        _ => after_reg_name(text),
    };
    match rest {
        Some([]) => true,
        Some([b':', port @ ..]) => is_port(port),
        _ => false,
    }
}

/// Returns true for a number up to 65535 in at most five digits, and for no digits at all.
fn is_port(text: &[u8]) -> bool {
    let number = text.iter().try_fold(0_u16, |number, digit| {
        let digit = digit.is_ascii_digit().then_some(digit & 0x0f)?;
        number.checked_mul(10)?.checked_add(digit.into())
    });
    text.len() <= 5 && number.is_some()
}

/// Returns what follows an IPv6 address and its `]`. A zone is refused: it has no meaning on
/// another machine.
fn after_ip_literal(text: &[u8]) -> Option<&[u8]> {
    let end = text.iter().position(|&byte| byte == b']')?;
    let (literal, rest) = text.split_at_checked(end)?;
    std::str::from_utf8(literal)
        .ok()?
        .parse::<Ipv6Addr>()
        .ok()?;
    rest.get(1..)
}

fn after_reg_name(text: &[u8]) -> Option<&[u8]> {
    let mut rest = text;
    loop {
        rest = match rest {
            [b'%', high, low, rest @ ..] if is(*high, HEX) && is(*low, HEX) => rest,
            [byte, rest @ ..] if is(*byte, NAME_OF_HOST) => rest,
            _ => break,
        };
    }
    (rest.len() < text.len()).then_some(rest)
}

/// RFC 9112, section 7: a coding and its parameters.
///
/// Parameters with quoted values are refused. The only difference is that the client gets a 400
/// instead of a 501.
pub fn is_transfer_coding(text: &[u8]) -> bool {
    let mut parts = text.split(|&byte| byte == b';');
    let name = parts.next().unwrap_or_default();
    let has_parameters = name.len() < text.len();
    let name = if has_parameters { trim_end(name) } else { name };
    is_token(name)
        && parts.all(|parameter| {
            let mut sides = parameter.splitn(2, |&byte| byte == b'=');
            let (name, value) = (sides.next(), sides.next());
            name.is_some_and(|name| is_token(trim(name)))
                && value.is_some_and(|value| is_token(trim(value)))
        })
}

/// RFC 9112, section 7.1.1: `*( ";" name [ "=" value ] )`, with blanks around each part but not
/// before the first `;`.
pub fn is_chunk_extensions(text: &[u8]) -> bool {
    let mut rest = text;
    while let [b';', after @ ..] = rest {
        let Some(after_name) = after_token(trim_start(after)) else {
            return false;
        };
        rest = trim_start(after_name);
        if let [b'=', value @ ..] = rest {
            let value = trim_start(value);
            let after_value = match value {
                [b'"', quoted @ ..] => after_quoted(quoted),
                _ => after_token(value),
            };
            let Some(after_value) = after_value else {
                return false;
            };
            rest = trim_start(after_value);
        }
    }
    rest.is_empty()
}

fn after_token(text: &[u8]) -> Option<&[u8]> {
    let end = text
        .iter()
        .position(|&byte| !is_token_byte(byte))
        .unwrap_or(text.len());
    if end == 0 { None } else { text.get(end..) }
}

/// RFC 9110, section 5.6.4: what follows a quoted-string; `text` begins after its opening quote.
fn after_quoted(text: &[u8]) -> Option<&[u8]> {
    let mut rest = text;
    loop {
        rest = match rest {
            [b'"', rest @ ..] => return Some(rest),
            [b'\\', escaped, rest @ ..] if !is_control(*escaped) => rest,
            [byte, rest @ ..] if is(*byte, QUOTED) => rest,
            _ => return None,
        };
    }
}

/// Percent-decoding, as urllib.parse.unquote_to_bytes does it: what is no escape stays.
#[inline(always)]
#[must_use]
pub fn unquote(text: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b'%', text).is_none() {
        return Cow::Borrowed(text);
    }
    let digit = |byte: Option<&u8>| byte.and_then(|byte| (*byte as char).to_digit(16));
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        match (byte, digit(tail.first()), digit(tail.get(1))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(high.wrapping_mul(16).wrapping_add(low) as u8);
                rest = tail.get(2..).unwrap_or(&[]);
            }
            _ => {
                decoded.push(byte);
                rest = tail;
            }
        }
    }
    Cow::Owned(decoded)
}

/// RFC 9110, section 5.5: a byte that neither a field value nor any other part of a head may hold.
pub const fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}

const fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// Removes blanks at the start: only SP and HTAB (RFC 9110, section 5.6.3).
#[inline]
pub fn trim_start(mut text: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = text {
        if !is_blank(*first) {
            break;
        }
        text = rest;
    }
    text
}

/// Removes blanks at the end.
#[inline]
pub fn trim_end(mut text: &[u8]) -> &[u8] {
    while let [rest @ .., last] = text {
        if !is_blank(*last) {
            break;
        }
        text = rest;
    }
    text
}

/// Removes blanks at both ends.
pub fn trim(text: &[u8]) -> &[u8] {
    trim_start(trim_end(text))
}

/// Returns the trimmed members of a comma-separated list, empty ones included.
pub fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(accepts: impl Fn(&[u8]) -> bool, texts: &[&str]) {
        for text in texts {
            assert!(accepts(text.as_bytes()), "{text:?}");
        }
    }

    #[test]
    fn rfc9110_5_6_2_token() {
        let bytes: Vec<u8> = (0..=255).filter(|&byte| is_token_byte(byte)).collect();
        let expected =
            "!#$%&'*+-.0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ^_`abcdefghijklmnopqrstuvwxyz|~";
        assert_eq!(bytes, expected.as_bytes());
        assert!(!is_token(b""));
    }

    #[test]
    fn rfc9112_3_2_target() {
        let refused: Vec<u8> = (0..=255).filter(|&byte| !is_target_byte(byte)).collect();
        let mut expected: Vec<u8> = (0..=b' ').collect();
        expected.extend(b"#\\");
        expected.push(0x7f);
        assert_eq!(refused, expected);
    }

    #[test]
    fn rfc9112_3_2_host() {
        all(
            is_host,
            &[
                "a",
                "a.example:8000",
                "a:",
                "127.0.0.1:80",
                "999.999.999.999",
            ],
        );
        all(is_host, &["a%2Db", "A_b~", "a!$&'()*+,;=", "%41:1"]);
        all(
            |text| !is_host(text),
            &["", ":80", "a:b", "a:1:2", "a:+1", "]"],
        );
        all(
            |text| !is_host(text),
            &["a%4", "a%", "a%g0", "u@a", "a/b", "a b", "caf\u{e9}"],
        );
    }

    #[test]
    fn rfc3986_3_2_2_ip_literals_are_addresses() {
        all(
            is_host,
            &[
                "[::1]",
                "[::]",
                "[1:2:3:4:5:6:7:8]",
                "[1:2:3:4:5:6:7::]",
                "[::1.2.3.4]",
            ],
        );
        all(
            is_host,
            &[
                "[::2:3:4:5:6:7:8]",
                "[1:2:3:4:5:6:1.2.3.4]",
                "[0001:ABCD::abcd]:1",
            ],
        );
        all(
            |text| !is_host(text),
            &["[::1", "[::1]x", "[:]", "[]", "[g::]", "[:::]", "[1::2::3]"],
        );
        all(
            |text| !is_host(text),
            &["[1:2:3:4::5:6:7:8]", "[1:2:3:4:5:6:7]", "[::12345]"],
        );
        all(
            |text| !is_host(text),
            &["[127.0.0.1]", "[::1.2.3.256]", "[::1.2.3.04]", "[v7.a]"],
        );
        all(
            |text| !is_host(text),
            &["[::1%25eth0]", "[::1%1]", "[1.2.3.4::]", "[ ::1]", "[::+1]"],
        );
    }

    #[test]
    fn ports_are_those_of_tcp() {
        all(is_host, &["a:0", "a:00080", "a:65535", "[::1]:65535"]);
        all(
            |text| !is_host(text),
            &["a:65536", "a:99999", "a:000080", "[::1]:65536"],
        );
    }

    #[test]
    fn rfc9112_7_transfer_coding() {
        all(is_transfer_coding, &["gzip", "x;a=b", "x ; a\t=\tb;c=d"]);
        let refused = [
            "",
            ";a=b",
            "x;",
            "x;a",
            "x;=b",
            "x;a=",
            "x;a=\"b\"",
            "g zip",
            "x;a=b=c",
        ];
        all(|text| !is_transfer_coding(text), &refused);
    }

    #[test]
    fn rfc9112_7_1_1_chunk_extensions() {
        all(
            is_chunk_extensions,
            &["", ";a", ";a=b", ";a;b=c", "; a\t= b ;c ", ";a=\"\""],
        );
        all(
            is_chunk_extensions,
            &[";a=\"b;c=d \\\" \\\\\"", ";a=\"caf\u{e9}\""],
        );
        let refused = [
            " ;a",
            "a",
            ";",
            ";=b",
            ";a=",
            ";a b",
            ";a=b c",
            ";a=\"b",
            ";a=\"b\\\"",
            ";a;;b",
        ];
        all(|text| !is_chunk_extensions(text), &refused);
        all(
            |text| !is_chunk_extensions(text),
            &[";a=\"b\"c", ";a=\"\n\"", ";a=\"\\\r\"", ";a=\"\\"],
        );
    }

    #[test]
    fn rfc9110_5_6_3_only_sp_and_htab_are_blanks() {
        assert_eq!(trim(b" \t a b\t "), b"a b");
        assert_eq!(trim(b" \t "), b"");
        assert_eq!(trim(b"\x0b\x0c\xa0"), b"\x0b\x0c\xa0");
        let list: Vec<&[u8]> = members(b"a ,, b").collect();
        assert_eq!(list, [&b"a"[..], b"", b"b"]);
    }
}
