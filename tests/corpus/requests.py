"""Requests by RFC section, good and bad, each with what an origin server does with it."""

from __future__ import annotations

from corpus.case import Case, chunked, coding, get, head, post, refused

_EXTENSION_OF_4097 = b";a=" + b"x" * 4094


def _host(value: bytes) -> bytes:
    return head(b"GET / HTTP/1.1", b"Host: " + value)


def _line(line: bytes) -> bytes:
    return head(line, b"Host: a")


HOST = [
    *refused(
        "RFC 9112 3.2",
        400,
        no_host_in_1_1=head(b"GET / HTTP/1.1"),
        no_host_in_1_2=head(b"GET / HTTP/1.2"),
        two_hosts=get(b"Host: b"),
        two_equal_hosts=get(b"Host: a"),
        two_hosts_in_1_0=get(b"Host: a", version=b"HTTP/1.0"),
        empty_host=_host(b""),
        blank_host=_host(b" \t "),
        host_with_blank=_host(b"a b"),
        host_with_path=_host(b"a/b"),
        host_with_query=_host(b"a?b"),
        host_with_fragment=_host(b"a#b"),
        host_with_userinfo=_host(b"u@a"),
        host_with_backslash=_host(b"a\\b"),
        host_with_two_ports=_host(b"a:1:2"),
        host_with_word_for_a_port=_host(b"a:http"),
        host_with_port_alone=_host(b":80"),
        host_with_open_bracket=_host(b"[::1"),
        host_with_text_after_bracket=_host(b"[::1]x"),
        host_with_wrong_literal=_host(b"[::g]"),
        host_with_zone=_host(b"[fe80::1%25eth0]"),
        host_with_broken_escape=_host(b"a%4"),
        host_with_obs_text=_host(b"caf\xe9"),
        host_with_angle_brackets=_host(b"<a>"),
        host_with_colons_alone=_host(b"[:::::::::]"),
        host_with_two_gaps=_host(b"[1::2::3]"),
        host_with_nine_groups=_host(b"[1:2:3:4:5:6:7:8:9]"),
        host_with_gap_for_nothing=_host(b"[1:2:3:4::5:6:7:8]"),
        host_with_seven_groups=_host(b"[1:2:3:4:5:6:7]"),
        host_with_group_of_five_digits=_host(b"[::12345]"),
        host_with_IPv4_in_brackets=_host(b"[127.0.0.1]"),
        host_with_octet_above_255=_host(b"[::ffff:127.0.0.256]"),
        host_with_octet_that_begins_with_0=_host(b"[::ffff:127.0.0.01]"),
        host_with_IPvFuture=_host(b"[v7.a]"),
        host_with_port_above_65535=_host(b"x:65536"),
        host_with_port_99999=_host(b"x:99999"),
        host_with_port_of_six_digits=_host(b"x:000080"),
        literal_with_port_above_65535=_host(b"[::1]:65536"),
        no_host_in_absolute_form=head(b"GET http://a/ HTTP/1.1"),
        bad_host_in_absolute_form=head(b"GET http://a/ HTTP/1.1", b"Host: a/b"),
    ),
    Case("no host in 1.0", "RFC 9112 3.2", head(b"GET / HTTP/1.0"), version="HTTP/1.0",
         keep_alive=False),
    Case("empty host in 1.0", "RFC 9112 3.2", head(b"GET / HTTP/1.0", b"Host:"),
         version="HTTP/1.0", keep_alive=False, fields={"host": ""}),
    *(
        Case(f"host {value.decode()}", "RFC 9112 3.2", _host(value),
             fields={"host": value.decode()})
        for value in (
            b"a.example", b"a.example:8000", b"a:", b"127.0.0.1:80", b"[::1]", b"[::1]:8000",
            b"[::]", b"[1:2:3:4:5:6:7:8]:65535", b"[1:2:3:4:5:6:7::]", b"[::2:3:4:5:6:7:8]",
            b"x:0", b"x:00080", b"x:65535", b"999.999.999.999",
            b"[::ffff:127.0.0.1]", b"with_underscore", b"A.EXAMPLE", b"a%2Db", b"a!$&'()*+,;=~",
        )
    ),
]  # fmt: skip

TARGET = [
    Case("absolute-form replaces Host", "RFC 9112 3.2.2",
         head(b"GET http://b.example:81/p?q=1?2 HTTP/1.1", b"Host: a"),
         target="http://b.example:81/p?q=1?2", path="/p", query="q=1?2",
         fields={"host": "b.example:81"}),
    Case("absolute-form without a path", "RFC 9112 3.2.2",
         head(b"GET HTTP://b HTTP/1.1", b"Host: a"), target="HTTP://b", fields={"host": "b"}),
    Case("absolute-form with a query and no path", "RFC 9112 3.2.2",
         head(b"GET http://b?q HTTP/1.1", b"Host: a"), target="http://b?q", query="q",
         fields={"host": "b"}),
    Case("absolute-form in 1.0", "RFC 9112 3.2.2",
         head(b"GET http://[::1]:80/ HTTP/1.0"), target="http://[::1]:80/", version="HTTP/1.0",
         keep_alive=False, fields={"host": "[::1]:80"}),
    *refused(
        "RFC 9112 3.2.2",
        400,
        unknown_scheme=get(target=b"ftp://a/"),
        file_scheme=get(target=b"file:///etc/passwd"),
        no_authority=get(target=b"http:///p"),
        one_slash=get(target=b"http:/p"),
        userinfo=get(target=b"http://u:p@a/"),
        user_alone=get(target=b"http://a@b/"),
        empty_userinfo=get(target=b"http://@a/"),
        websocket_scheme=get(target=b"ws://a/"),
        bad_authority=get(target=b"http://a:b:c/"),
        colons_alone_in_authority=get(target=b"http://[:::::::::]/"),
        port_above_65535_in_authority=get(target=b"http://x:99999/"),
    ),
    Case("origin-form", "RFC 9112 3.2.1", get(target=b"/a%2Fb;c//../d?x=%zz&y=?"),
         target="/a%2Fb;c//../d?x=%zz&y=?", path="/a%2Fb;c//../d", query="x=%zz&y=?"),
    Case("origin-form that looks like an authority", "RFC 9112 3.2.1",
         get(target=b"//evil.example/p"), target="//evil.example/p", path="//evil.example/p"),
    Case("origin-form with what browsers leave unescaped", "RFC 9112 3.2.1",
         get(target=b'/?a={"b":[1|2]}^`<>'), target='/?a={"b":[1|2]}^`<>',
         query='a={"b":[1|2]}^`<>'),
    Case("origin-form in UTF-8", "RFC 9112 3.2.1", get(target="/caf\u00e9?\u20ac".encode()),
         target="/caf\xc3\xa9?\xe2\x82\xac", path="/caf\xc3\xa9", query="\xe2\x82\xac"),
    Case("origin-form with bytes that are no text", "RFC 9112 3.2.1", get(target=b"/\xff\x80?\xfe"),
         target="/\xff\x80?\xfe", path="/\xff\x80", query="\xfe"),
    Case("OPTIONS in asterisk-form", "RFC 9112 3.2.4", _line(b"OPTIONS * HTTP/1.1"),
         method="OPTIONS", target="*", path="*"),
    *refused(
        "RFC 9112 3.2.4",
        400,
        asterisk_with_GET=get(target=b"*"),
        asterisk_with_more=_line(b"OPTIONS *x HTTP/1.1"),
        asterisk_with_unknown_method=_line(b"options * HTTP/1.1"),
    ),
    *refused(
        "RFC 9110 9.3.6",
        405,
        CONNECT=_line(b"CONNECT a:443 HTTP/1.1"),
        CONNECT_with_a_path=_line(b"CONNECT / HTTP/1.1"),
        CONNECT_in_1_0=_line(b"CONNECT a:443 HTTP/1.0"),
    ),
    *refused(
        "RFC 9112 3.2.3",
        400,
        authority_form_with_GET=get(target=b"a:80"),
        authority_form_with_userinfo=get(target=b"@evil"),
    ),
    *refused(
        "RFC 9112 3.2",
        400,
        relative_target=get(target=b"index.html"),
        relative_query=get(target=b"?q"),
        fragment=get(target=b"/#top"),
        fragment_in_absolute_form=get(target=b"http://a/#top"),
        backslash=get(target=b"/a\\b"),
        backslash_first=get(target=b"\\a"),
        NUL=get(target=b"/a\0b"),
        ESC=get(target=b"/a\x1bb"),
        DEL=get(target=b"/a\x7fb"),
        HTAB=get(target=b"/a\tb"),
        obs_text_in_authority=get(target=b"http://caf\xe9/"),
        relative_obs_text=get(target=b"caf\xe9"),
        blank=get(target=b"/a b"),
    ),
]  # fmt: skip

REQUEST_LINE = [
    *refused(
        "RFC 9112 3",
        400,
        two_blanks_first=_line(b"GET  / HTTP/1.1"),
        two_blanks_second=_line(b"GET /  HTTP/1.1"),
        trailing_blank=_line(b"GET / HTTP/1.1 "),
        leading_blank=_line(b" GET / HTTP/1.1"),
        HTABs=_line(b"GET\t/\tHTTP/1.1"),
        trailing_HTAB=_line(b"GET / HTTP/1.1\t"),
        no_target=_line(b"GET HTTP/1.1"),
        empty_target=_line(b"GET  HTTP/1.1"),
        one_word=_line(b"GET"),
        field_first=head(b"Host: a"),
        lower_case_version=_line(b"GET / http/1.1"),
        four_words=_line(b"GET / HTTP/1.1 x"),
        vertical_tab_for_blank=_line(b"GET\x0b/ HTTP/1.1"),
        form_feed_for_blank=_line(b"GET /\x0cHTTP/1.1"),
        no_break_space=_line(b"GET\xa0/ HTTP/1.1"),
        TLS_hello=b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        zeros=b"\0" * 64,
    ),
    *refused(
        "RFC 9112 3 (too long)",
        414,
        target_too_long=get(target=b"/" + b"a" * 8190),
        line_one_byte_too_long=get(target=b"/" + b"a" * (8190 - len("GET / HTTP/1.1") + 1)),
        target_of_100_KB=get(target=b"/" + b"a" * 100_000),
        line_that_never_ends=b"GET /" + b"a" * 8186,
        method_that_never_ends=b"G" * 8191,
    ),
    Case("target of 8000", "RFC 9112 3", get(target=b"/" + b"a" * 7999),
         target="/" + "a" * 7999, path="/" + "a" * 7999),
    Case("line of exactly the limit", "RFC 9112 3", get(target=b"/" + b"a" * (8190 - 14)),
         target="/" + "a" * 8176, path="/" + "a" * 8176),
    *refused(
        "RFC 9110 9.1",
        400,
        method_with_bracket=_line(b"G(T / HTTP/1.1"),
        method_with_colon=_line(b"GET: / HTTP/1.1"),
        method_with_slash=_line(b"G/T / HTTP/1.1"),
        quoted_method=_line(b'"GET" / HTTP/1.1'),
    ),
    *refused(
        "RFC 9110 9.1 (not implemented)",
        501,
        method_of_33=_line(b"M" * 33 + b" / HTTP/1.1"),
        method_of_4000=_line(b"M" * 4000 + b" / HTTP/1.1"),
        long_method_in_asterisk_form=_line(b"M" * 33 + b" * HTTP/1.1"),
    ),
    *(
        Case(f"method {method}", "RFC 9110 9.1", _line(method.encode() + b" / HTTP/1.1"),
             method=method)
        for method in ("HEAD", "get", "TRACE", "PROPFIND", "M-SEARCH", "!#$%&'*+-.^_`|~9",
                       "M" * 32, "PRI")
    ),
]  # fmt: skip

VERSION = [
    *refused(
        "RFC 9110 15.6.6",
        505,
        HTTP_2=get(version=b"HTTP/2.0"),
        HTTP_3=get(version=b"HTTP/3.1"),
        HTTP_0_9_spelled_out=get(version=b"HTTP/0.9"),
        h2_preface=b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ),
    *refused(
        "RFC 9112 2.3",
        400,
        HTTP_0_9=b"GET /\r\n",
        lower_case=get(version=b"http/1.1"),
        mixed_case=get(version=b"Http/1.1"),
        no_minor=get(version=b"HTTP/1"),
        no_minor_2=get(version=b"HTTP/2"),
        leading_zero=get(version=b"HTTP/01.1"),
        two_digits=get(version=b"HTTP/1.10"),
        sign=get(version=b"HTTP/+1.1"),
        comma=get(version=b"HTTP/1,1"),
        other_protocol=get(version=b"SIP/2.0"),
        superscript=get(version=b"HTTP/1.\xb9"),
    ),
    Case("HTTP/1.2 counts as 1.1", "RFC 9112 2.3", get(version=b"HTTP/1.2")),
    Case("HTTP/1.9 counts as 1.1", "RFC 9112 2.3", get(version=b"HTTP/1.9")),
]

LINE_BREAKS = [
    Case("one leading CRLF", "RFC 9112 2.2", b"\r\n" + get()),
    *refused(
        "RFC 9112 2.2",
        400,
        two_leading_CRLF=b"\r\n\r\n" + get(),
        leading_LF=b"\n" + get(),
        leading_CR=b"\r" + get(),
        bare_LF_after_request_line=b"GET / HTTP/1.1\nHost: a\r\n\r\n",
        bare_LF_after_field=b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
        bare_LF_at_the_end=b"GET / HTTP/1.1\r\nHost: a\r\n\n",
        bare_LFs_alone=b"GET / HTTP/1.1\nHost: a\n\n",
        bare_CR_in_target=get(target=b"/\r"),
        bare_CR_in_value=get(b"X: a\rb"),
        bare_CR_before_CRLF=get(b"X: a\r"),
        bare_CR_in_name=get(b"X\r: a"),
        CR_and_another_byte_at_the_end=b"GET / HTTP/1.1\r\nHost: a\r\n\rX",
        LF_CR=b"GET / HTTP/1.1\n\rHost: a\n\r\n\r",
        blank_before_first_field=head(b"GET / HTTP/1.1", b" Host: a"),
        blank_line_of_blanks_before_first_field=head(b"GET / HTTP/1.1", b"  ", b"Host: a"),
    ),
]

FIELDS = [
    *refused(
        "RFC 9112 5.1",
        400,
        blank_before_colon=get(b"X : a"),
        HTAB_before_colon=get(b"X\t: a"),
        blank_before_colon_of_Content_Length=post(b"Content-Length : 5", body=b"hello"),
        blank_before_colon_of_Transfer_Encoding=post(
            b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"
        ),
    ),
    *refused(
        "RFC 9112 5.2",
        400,
        obs_fold=get(b"X: a", b" b"),
        obs_fold_with_HTAB=get(b"X: a", b"\tb"),
        obs_fold_that_looks_like_a_field=get(b"X: a", b" Content-Length: 5"),
        obs_fold_of_blanks=get(b"X: a", b" "),
    ),
    *refused(
        "RFC 9110 5.1",
        400,
        name_with_blank=get(b"X Y: a"),
        name_with_bracket=get(b"X(Y): a"),
        name_with_quotes=get(b'"X": a'),
        name_with_obs_text=get(b"caf\xe9: a"),
        name_with_slash=get(b"X/Y: a"),
        empty_name=get(b": a"),
        no_colon=get(b"X"),
        no_colon_after_a_colon=get(b"X: a", b"Y"),
    ),
    *refused(
        "RFC 9110 5.5",
        400,
        **{f"byte_{byte:02x}_in_value": get(b"X: a%cb" % byte)
           for byte in (0x00, 0x01, 0x08, 0x0B, 0x0C, 0x1B, 0x1F, 0x7F)},
        NUL_ends_value=get(b"X: a\0"),
        NUL_in_name=get(b"X\0: a"),
    ),
    *refused(
        "RFC 9110 5.3",
        400,
        two_Content_Types=post(b"Content-Type: a/b", b"content-type: a/b"),
    ),
    Case("obs-text in a value", "RFC 9110 5.5", get(b"X: caf\xe9 \x80\xff"),
         fields={"x": "caf\xe9 \x80\xff"}),
    Case("empty value", "RFC 9110 5.5", get(b"X:"), fields={"x": ""}),
    Case("value with colons and HTAB", "RFC 9110 5.5", get(b"X:a:b\tc: d"),
         fields={"x": "a:b\tc: d"}),
    Case("OWS is blank and HTAB alone", "RFC 9110 5.6.3", get(b"X: \t \x85\xa0a\xa0\x85 \t"),
         fields={"x": "\x85\xa0a\xa0\x85"}),
    Case("repeated fields", "RFC 9110 5.3", get(b"X: a", b"Y: b", b"x:c", b"X:"),
         fields={"x": "a,c,", "y": "b"}),
    Case("repeated Cookie", "RFC 9113 8.2.3", get(b"Cookie: a=1", b"cookie: b=2, 3"),
         fields={"cookie": "a=1; b=2, 3"}),
    Case("every character of a token", "RFC 9110 5.6.2", get(b"!#$%&'*+-.^_`|~9aZ: v"),
         fields={"!#$%&'*+-.^_`|~9az": "v"}),
    Case("name with underscore", "RFC 9110 5.6.2", get(b"X_Y: v", b"X-Y: w"),
         fields={"x_y": "v", "x-y": "w"}),
    Case("names of any case", "RFC 9110 5.1", head(b"GET / HTTP/1.1", b"hOsT: a"),
         fields={"host": "a"}),
    Case("Upgrade is ignored", "RFC 9110 7.8",
         post(b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: 5", body=b"hello"),
         method="POST", body=b"hello", fields={"upgrade": "h2c"}),
]  # fmt: skip

FIELD_LIMITS = [
    *refused(
        "RFC 6585 5",
        431,
        fields_101=get(*[b"X: a"] * 100),
        fields_10000=get(*[b"X: a"] * 10_000),
        field_one_byte_too_long=get(b"X: " + b"a" * 8188),
        field_of_1_MB=get(b"X: " + b"a" * 1_000_000),
        field_that_never_ends=b"GET / HTTP/1.1\r\nX: " + b"a" * 8188,
        name_that_never_ends=b"GET / HTTP/1.1\r\n" + b"a" * 8191,
        head_too_large=get(*[b"X: " + b"a" * 8000] * 9),
        head_that_never_ends=b"GET / HTTP/1.1\r\n" + (b"X: " + b"a" * 8000 + b"\r\n") * 9,
    ),
    Case("100 fields", "RFC 6585 5", get(*[b"X: a"] * 99), fields={"x": ",".join("a" * 99)}),
    Case("field of exactly the limit", "RFC 6585 5", get(b"X: " + b"a" * 8187),
         fields={"x": "a" * 8187}),
]  # fmt: skip

CONTENT_LENGTH = [
    *refused(
        "RFC 9112 6.3 (5)",
        400,
        **{
            f"Content_Length_{value.decode('latin-1') or 'empty'}": post(
                b"Content-Length: " + value, body=b"hello"
            )
            for value in (b"+5", b"-0", b"-5", b"0x5", b"5_0", b"5 5", b"", b"5.0", b"5e0", b"five",
                          b"5;", b"\xb2", b'"5"', b"5, 5", b"5,5", b"5,", b",5", b"5, 6", b"5\xa0")
        },
        two_Content_Lengths=post(b"Content-Length: 5", b"Content-Length: 6", body=b"hello"),
        two_equal_Content_Lengths=post(b"Content-Length: 5", b"content-length: 5", body=b"hello"),
        Content_Length_and_control=post(b"Content-Length: 5\x0b", body=b"hello"),
    ),
    *refused(
        "RFC 9110 15.5.14",
        413,
        Content_Length_1e12=post(b"Content-Length: 1000000000000"),
        Content_Length_1e30=post(b"Content-Length: 1" + b"0" * 30),
        Content_Length_of_8000_digits=post(b"Content-Length: " + b"9" * 8000),
        Content_Length_one_too_large=post(b"Content-Length: 1073741825"),
        chunk_of_16_digits=chunked(b"ffffffffffffffff\r\n"),
        chunk_one_too_large=chunked(b"40000001\r\n"),
    ),
    Case("body by length", "RFC 9112 6.3 (6)", post(b"Content-Length:5", body=b"hello"),
         method="POST", body=b"hello"),
    Case("leading zeros", "RFC 9110 8.6",
         post(b"Content-Length: 0000000000000000000000005", body=b"hello"),
         method="POST", body=b"hello"),
    Case("length zero", "RFC 9110 8.6", post(b"Content-Length: 0"), method="POST"),
    Case("GET with a body", "RFC 9110 9.3.1", get(b"Content-Length: 2") + b"\r\n", body=b"\r\n"),
    Case("POST without framing", "RFC 9112 6.3 (7)", post(), method="POST"),
    Case("body cut short", "RFC 9112 6.3 (6)", post(b"Content-Length: 10", body=b"hello"),
         status=400, ends_early=True),
    Case("head cut short", "RFC 9112 8", b"GET / HTTP/1.1\r\nHost: a\r\n", status=400,
         ends_early=True),
    Case("request line cut short", "RFC 9112 8", b"GET / HT", status=400, ends_early=True),
]  # fmt: skip


TRANSFER_ENCODING = [
    *refused(
        "RFC 9112 6.3 (3)",
        400,
        length_then_coding=post(b"Content-Length: 5", b"Transfer-Encoding: chunked",
                                body=b"0\r\n\r\n"),
        coding_then_length=post(b"Transfer-Encoding: chunked", b"Content-Length: 5",
                                body=b"0\r\n\r\n"),
        length_and_unknown_coding=post(b"Content-Length: 5", b"Transfer-Encoding: gzip, chunked"),
        length_and_empty_coding=post(b"Content-Length: 5", b"Transfer-Encoding:", body=b"hello"),
    ),
    *refused(
        "RFC 9112 6.3 (4)",
        400,
        empty=coding(b""),
        gzip_alone=coding(b"gzip"),
        identity=coding(b"identity"),
        not_final=coding(b"chunked, gzip"),
        twice=coding(b"chunked, chunked"),
        twice_in_two_fields=coding(b"chunked", b"chunked"),
        identity_in_a_second_field=coding(b"chunked", b"identity"),
        identity_in_a_first_field=coding(b"identity", b"chunked"),
        with_parameter=coding(b"chunked;q=1"),
        with_empty_parameter=coding(b"chunked;"),
        in_quotes=coding(b'"chunked"'),
        empty_element_before=coding(b",chunked"),
        empty_element_behind=coding(b"chunked,"),
        one_letter_more=coding(b"xchunked"),
        one_letter_less=coding(b"chunke"),
        no_token_before=coding(b"g(zip, chunked"),
        chunked_before_chunked=coding(b"chunked, gzip, chunked"),
        vertical_tab=coding(b"\x0bchunked"),
        no_break_space=coding(b"\xa0chunked"),
        next_line=coding(b"chunked\x85"),
    ),
    *refused(
        "RFC 9112 6.1 (HTTP/1.0)",
        400,
        chunked_in_1_0=head(b"POST / HTTP/1.0", b"Host: a", b"Transfer-Encoding: chunked")
        + b"0\r\n\r\n",
        gzip_in_1_0=head(b"POST / HTTP/1.0", b"Transfer-Encoding: gzip, chunked"),
    ),
    *refused(
        "RFC 9112 6.1",
        501,
        gzip_before_chunked=coding(b"gzip, chunked"),
        gzip_in_a_field_before=coding(b"gzip", b"chunked"),
        unknown_before_chunked=coding(b"x,chunked"),
        parameter_before_chunked=coding(b"x;a=b , chunked"),
    ),
    *(
        Case(f"coding {value.decode()!r}", "RFC 9112 6.1", coding(value), method="POST")
        for value in (b"chunked", b"Chunked", b"CHUNKED", b"\tchunked \t")
    ),
]  # fmt: skip


def _accepted_chunks(name: str, raw: bytes, body: bytes, source: str = "RFC 9112 7.1") -> Case:
    return Case(name, source, chunked(raw), method="POST", body=body)


CHUNKS = [
    _accepted_chunks("chunks", b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n", b"hello!"),
    _accepted_chunks("upper-case and lower-case size",
                     b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n",
                     b"01234567890123456789"),
    _accepted_chunks("size of 16 digits", b"0000000000000005\r\nhello\r\n000\r\n\r\n", b"hello"),
    _accepted_chunks("content of CRLFs", b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n"),
    _accepted_chunks("no chunk but the last", b"0\r\n\r\n", b""),
    *refused(
        "RFC 9112 7.1",
        400,
        **{
            f"chunk_size_{size.decode('latin-1') or 'empty'}": chunked(
                size + b"\r\nhello\r\n0\r\n\r\n"
            )
            for size in (b"g", b"+5", b"-5", b"0x5", b"5_0", b" 5", b"5 ", b"\t5", b"5\t", b"",
                         b"5 5", b"5.", b"5,", b"5h", b"\xb2", b"00000000000000005",
                         b"5\x0b", b"5\0", b"5 ;a", b";a")
        },
        chunk_of_one_byte_more=chunked(b"4\r\nhello\r\n0\r\n\r\n"),
        chunk_of_one_byte_less=chunked(b"6\r\nhello\r\n0\r\n\r\n"),
        content_end_XX=chunked(b"5\r\nhelloXX0\r\n\r\n"),
        content_end_LF=chunked(b"5\r\nhello\n0\r\n\r\n"),
        content_end_CR=chunked(b"5\r\nhello\r0\r\n\r\n"),
        content_end_CR_X=chunked(b"5\r\nhello\rX0\r\n\r\n"),
        content_end_missing=chunked(b"5\r\nhello0\r\n\r\n"),
        size_end_LF=chunked(b"5\nhello\r\n0\r\n\r\n"),
        size_end_CR=chunked(b"5\rhello\r\n0\r\n\r\n"),
        last_chunk_end_LF=chunked(b"0\n\r\n"),
        trailer_end_LF=chunked(b"0\r\n\n"),
        trailer_end_CR_X=chunked(b"0\r\n\rX"),
    ),
    Case("no last chunk", "RFC 9112 8", chunked(b"5\r\nhello\r\n"), status=400, ends_early=True),
    Case("no final CRLF", "RFC 9112 8", chunked(b"5\r\nhello\r\n0\r\n"), status=400,
         ends_early=True),
    Case("half a chunk", "RFC 9112 8", chunked(b"5\r\nhel"), status=400, ends_early=True),
]  # fmt: skip

EXTENSIONS = [
    *(
        _accepted_chunks(f"extension {extension.decode('latin-1')}",
                         b"5" + extension + b"\r\nhello\r\n0" + extension + b"\r\n\r\n",
                         b"hello", "RFC 9112 7.1.1")
        for extension in (b";a", b";a=b", b";a=b;c", b';a="b c"', b'; a = "b"\t; c', b'; a="\\"" ',
                          b'; a=";"', b'; a=""', b';a="\xe9"')
    ),
    _accepted_chunks("extensions of 4096 bytes", b"5;a=" + b"x" * 4093 + b"\r\nhello\r\n0\r\n\r\n",
                     b"hello", "RFC 9112 7.1.1"),
    *refused(
        "RFC 9112 7.1.1",
        400,
        no_name=chunked(b"5;\r\nhello\r\n0\r\n\r\n"),
        no_value=chunked(b"5;a=\r\nhello\r\n0\r\n\r\n"),
        name_no_token=chunked(b"5;a(b\r\nhello\r\n0\r\n\r\n"),
        open_quote=chunked(b'5;a="b\r\nhello\r\n0\r\n\r\n'),
        text_after_quote=chunked(b'5;a="b"c\r\nhello\r\n0\r\n\r\n'),
        CRLF_in_quotes=chunked(b'5;a="\r\n"\r\nhello\r\n0\r\n\r\n'),
        LF_in_quotes=chunked(b'5;a="\n"\r\nhello\r\n0\r\n\r\n'),
        CR_in_quotes=chunked(b'5;a="\r"\r\nhello\r\n0\r\n\r\n'),
        NUL_in_quotes=chunked(b'5;a="\0"\r\nhello\r\n0\r\n\r\n'),
        obs_text_in_name=chunked(b"5;\xe9\r\nhello\r\n0\r\n\r\n"),
        extension_of_4097=chunked(b"5" + _EXTENSION_OF_4097 + b"\r\nhello\r\n0\r\n\r\n"),
        extension_of_64_KB=chunked(b"5;a=" + b"x" * 65536 + b"\r\nhello\r\n0\r\n\r\n"),
        extension_that_never_ends=chunked(b"5;a=" + b"x" * 65536),
        extensions_of_4098_together=chunked(b"1;a\r\nx\r\n" * 2049 + b"0\r\n\r\n"),
    ),
]  # fmt: skip

TRAILERS = [
    _accepted_chunks("trailer field", b"0\r\nX: y\r\n\r\n", b"", "RFC 9112 7.1.2"),
    _accepted_chunks("trailer fields that say nothing here",
                     b"1\r\nx\r\n0\r\nAuthorization: x\r\nContent-Type: a/b\r\nX: y\r\n\r\n", b"x",
                     "RFC 9112 7.1.2"),
    *refused(
        "RFC 9110 6.5.1",
        400,
        **{
            f"{name}_in_trailer": chunked(
                b"0\r\n" + name.replace("_", "-").encode() + b": 0\r\n\r\n"
            )
            for name in ("Content_Length", "Transfer_Encoding", "Host", "connection", "TRAILER",
                         "Expect")
        },
    ),
    *refused(
        "RFC 9112 7.1.2",
        400,
        no_colon=chunked(b"0\r\nX\r\n\r\n"),
        blank_before_colon=chunked(b"0\r\nX : y\r\n\r\n"),
        obs_fold=chunked(b"0\r\nX: y\r\n z\r\n\r\n"),
        control=chunked(b"0\r\nX: \x01\r\n\r\n"),
        bare_LF=chunked(b"0\r\nX: y\nZ: z\r\n\r\n"),
        trailers_too_long=chunked(b"0\r\n" + (b"X: " + b"y" * 997 + b"\r\n") * 5 + b"\r\n"),
        trailer_that_never_ends=chunked(b"0\r\nX: " + b"y" * 4094),
    ),
    *refused(
        "RFC 6585 5 (trailers)", 431, trailers_101=chunked(b"0\r\n" + b"X: y\r\n" * 101 + b"\r\n")
    ),
]  # fmt: skip

EXPECT = [
    Case("100-continue", "RFC 9110 10.1.1",
         post(b"Expect: 100-continue", b"Content-Length: 5", body=b"hello"), method="POST",
         body=b"hello", expect_continue=True),
    Case("100-Continue before chunks", "RFC 9110 10.1.1",
         post(b"Expect: 100-Continue", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
         method="POST", expect_continue=True),
    Case("100-continue without a body", "RFC 9110 10.1.1",
         post(b"Expect: 100-continue", b"Content-Length: 0"), method="POST"),
    Case("100-continue in 1.0", "RFC 9110 10.1.1",
         head(b"POST / HTTP/1.0", b"Expect: 100-continue", b"Content-Length: 5") + b"hello",
         method="POST", body=b"hello", version="HTTP/1.0", keep_alive=False),
    Case("empty expectation", "RFC 9110 10.1.1", get(b"Expect:"), fields={"expect": ""}),
    *refused(
        "RFC 9110 10.1.1",
        417,
        other=get(b"Expect: something"),
        other_beside=get(b"Expect: 100-continue, something"),
        word_before=post(b"Expect: y 100-continue", b"Content-Length: 5", body=b"hello"),
        other_status=post(b"Expect: 200-ok", b"Content-Length: 5", body=b"hello"),
    ),
]  # fmt: skip


def _connection(version: bytes, *values: bytes) -> bytes:
    return get(*(b"Connection: " + value for value in values), version=version)


CONNECTION = [
    *(
        Case(f"{version.decode()} with {b' + '.join(values).decode() if values else 'no field'}",
             "RFC 9112 9.3", _connection(version, *values), version=version.decode(),
             keep_alive=keep_alive)
        for version, values, keep_alive in (
            (b"HTTP/1.1", (), True),
            (b"HTTP/1.1", (b"keep-alive",), True),
            (b"HTTP/1.1", (b"close",), False),
            (b"HTTP/1.1", (b"Close",), False),
            (b"HTTP/1.1", (b"x, CLOSE ,y",), False),
            (b"HTTP/1.1", (b"keep-alive", b"close"), False),
            (b"HTTP/1.1", (b"closed",), True),
            (b"HTTP/1.1", (b"",), True),
            (b"HTTP/1.0", (), False),
            (b"HTTP/1.0", (b"keep-alive",), True),
            (b"HTTP/1.0", (b"x,\tKeep-Alive",), True),
            (b"HTTP/1.0", (b"keep-alive, close",), False),
            (b"HTTP/1.0", (b"upgrade",), False),
        )
    )
]  # fmt: skip

CASES: list[Case] = [
    *HOST,
    *TARGET,
    *REQUEST_LINE,
    *VERSION,
    *LINE_BREAKS,
    *FIELDS,
    *FIELD_LIMITS,
    *CONTENT_LENGTH,
    *TRANSFER_ENCODING,
    *CHUNKS,
    *EXTENSIONS,
    *TRAILERS,
    *EXPECT,
    *CONNECTION,
]
"""Every case of this module."""
