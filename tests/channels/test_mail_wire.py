"""Mail as bytes: built, read, told apart."""

import re
import time
from dataclasses import replace
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channels.messages import (
    Address,
    Channel,
    Content,
    File,
    InboundMessage,
    Kind,
    Line,
    Matter,
    OutboundMessage,
    ReceiptEvent,
    ReceiptState,
)
from channels.sandbox.mail_delivery import write_bounce
from channels.wire.mail import Letterhead, build_mail, envelope_id, message_id_of, subject_of
from channels.wire.mail_address import find_mailboxes, find_reply_token, normalise_mailbox, reply_address
from channels.wire.mail_parse import Envelope, Reading, UnreadableMail, parse_mail
from channels.wire.mail_status import decode_xtext
from channels.wire.mail_text import clean_html, html_of_text, strip_quoted, text_of_html
from health.report import EndpointId

LETTERHEAD = Letterhead("support@example.org", "Acmé Support", "example.org", "Acme")
READING = Reading(EndpointId("email/acme"), "support@example.org", "mx.example.org")
HEADERS = {"From", "To", "Reply-To", "Subject", "Date", "Message-ID", "X-Throughline-Attempt"} | {
    "X-Auto-Response-Suppress",
    "MIME-Version",
    "Content-Type",
}
NESTED = b"Content-Type: multipart/mixed; boundary=%d\r\n\r\n--%d\r\n"
NOW = 1_800_000_000.0


def outbound(**changes: object) -> OutboundMessage:
    base = OutboundMessage(
        message_id="01HZX",
        conversation_id="c",
        token="s0.t1",
        kind=Kind.MESSAGE,
        to=Address(Channel.EMAIL, "bob@example.net"),
        content=Content("Hello"),
        matter=Matter("Acme", "4F2K9", "en"),
        reply_token="seal",
        created_at=NOW,
    )
    return replace(base, **changes)


def build(message: OutboundMessage, files: dict[str, bytes] | None = None) -> EmailMessage:
    return message_from_bytes(build_mail(message, LETTERHEAD, files or {}).content, _class=EmailMessage, policy=default)


def part(mail: EmailMessage, kind: str) -> str:
    body = mail.get_body(preferencelist=(kind,))
    assert body is not None
    return str(body.get_content()).replace("\r\n", "\n")


def read(raw: bytes, **changes: object) -> InboundMessage:
    event = parse_mail(raw, Envelope(NOW), replace(READING, **changes))
    assert isinstance(event, InboundMessage)
    return event


def mail(*headers: str, body: str = "Help") -> bytes:
    return "\r\n".join(["From: Bob <bob@example.net>", *headers, "", body, ""]).encode()


def test_the_thread_is_carried_whole() -> None:
    """In-Reply-To names the last mail, References all of them, long ids unencoded, our own id left out."""
    long_id = f"<{'x' * 120}@outlook.example.com>"
    thread = ("<a@x>", long_id, "<01HZX@example.org>")
    built = build_mail(outbound(matter=Matter("Acme", "4F2K9", "en", mail_thread=thread)), LETTERHEAD, {})
    assert f"In-Reply-To: {long_id}\r\n".encode() in built.content
    assert f"References: <a@x>\r\n {long_id}\r\n".encode() in built.content
    assert b"Message-ID: <01HZX@example.org>\r\n" in built.content


def test_a_moved_conversation_brings_its_history() -> None:
    """The last lines stand below the words, newest first, quoted; a mail program's and our own reader hide them."""
    history = (
        Line("Bob", "My parcel\nis broken", 1_700_000_000.0, True),
        Line("Ana <x>", "Sorry!", 1_700_000_060.0, False),
    )
    matter = Matter("Acme", "4F2K9", "en", what_happened="Chat is down.", history=history)
    built = build(outbound(matter=matter))
    text = part(built, "plain")
    assert text.index("Ana <x> wrote:\n> Sorry!") < text.index("Bob wrote:\n> My parcel\n> is broken")
    assert "On 2023-11-14 22:13 UTC, Bob wrote:" in text
    assert strip_quoted(text) == "Hello"
    html = part(built, "html")
    assert "Ana &lt;x&gt;" in html
    assert "<blockquote>" in html
    stayed = build(outbound(matter=replace(matter, what_happened="")))
    assert "wrote:" not in part(stayed, "plain")


@pytest.mark.parametrize("locale", ["de", "es-MX", "fr"])
def test_history_is_introduced_in_the_customers_language(locale: str) -> None:
    """And a reader strips it there too."""
    matter = Matter("Acme", "4F2K9", locale, what_happened="x", history=(Line("Bob", "Hallo", 0.0, True),))
    text = part(build(outbound(matter=matter)), "plain")
    assert "wrote:" not in text
    assert strip_quoted(text) == "Hello"


@pytest.mark.parametrize(
    ("subject", "thread", "expected"),
    [
        ("Broken", (), "Broken [4F2K9]"),
        ("Re: AW: Re[2]: Broken", ("<a@x>",), "Re: Broken [4F2K9]"),
        ("Fwd: Broken [4F2K9]", ("<a@x>",), "Re: Broken [4F2K9]"),
        ("", (), "Acme [4F2K9]"),
        ("Regarding: this", (), "Regarding: this [4F2K9]"),
        ("x" * 500, (), "x" * 192 + " [4F2K9]"),
    ],
)
def test_the_subject_answers_once(subject: str, thread: tuple[str, ...], expected: str) -> None:
    """One `Re:`, one reference, a bounded length."""
    matter = Matter("Acme", "4F2K9", "en", subject=subject, mail_thread=thread)
    assert subject_of(matter, "", "Acme") == expected


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Kind.MESSAGE, None),
        (Kind.NOTICE, "auto-generated"),
        (Kind.PROMPT, "auto-generated"),
        (Kind.CONFIRMATION, "auto-replied"),
    ],
)
def test_what_we_send_by_ourselves_says_so(kind: Kind, expected: str | None) -> None:
    """Notices are marked (RFC 3834), and no mail of ours asks for an answer from a machine but a bounce."""
    built = build(outbound(kind=kind))
    assert built["Auto-Submitted"] == expected
    assert "OOF" in built["X-Auto-Response-Suppress"]
    assert "NDR" not in built["X-Auto-Response-Suppress"]


def test_html_is_escaped_or_cleaned() -> None:
    """Text becomes escaped HTML; an agent's HTML loses scripts, handlers and remote images."""
    assert "&lt;script&gt;" in part(build(outbound(content=Content("<script>alert(1)</script>"))), "html")
    html = '<p onclick="x()">Hi<script>alert(1)</script><img src="https://x/y.gif"><a href="javascript:x()">a</a></p>'
    cleaned = part(build(outbound(content=Content("Hi", html=html))), "html")
    for bad in ("script", "onclick", "img", "javascript"):
        assert bad not in cleaned


@given(
    text=st.text(max_size=400),
    name=st.text(max_size=60),
    subject=st.text(max_size=120),
)
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read(text: str, name: str, subject: str) -> None:
    """Any text survives the way out and in; any header either goes out as it is or is refused, and adds no header."""
    message = outbound(
        content=Content(text, files=(File("f", name, "text/plain", 1),)),
        matter=Matter("Acme", "4F2K9", "en", subject=subject),
    )
    try:
        raw = build_mail(message, LETTERHEAD, {"f": b"\xff"}).content
    except ValueError:
        assert re.search(r"[\r\n\x00\x0b\x0c\x1c-\x1e\x85\u2028\u2029]", name + subject)
        return
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", raw)
    raw.decode("ascii")
    parsed = message_from_bytes(raw, _class=EmailMessage, policy=default)
    assert set(parsed.keys()) - {"Content-Transfer-Encoding"} == HEADERS
    wanted = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", "", text.replace("\r\n", "\n").replace("\r", "\n"))
    assert part(parsed, "plain").rstrip("\n") == wanted.rstrip("\n")


def test_every_attempt_has_the_same_message_id() -> None:
    """It depends on the message alone, and on nothing that could break out of the header."""
    assert message_id_of("01HZX", "example.org") == "<01HZX@example.org>"
    assert message_id_of("a>b\r\n c@d", "example.org") == "<a-b---c-d@example.org>"


def test_an_envelope_id_survives_xtext() -> None:
    """`+`, `=` and what is not printable are encoded; what does not fit 100 octets is left out."""
    assert envelope_id("s0.a+b=c d") == "s0.a+2Bb+3Dc+20d"
    assert decode_xtext(envelope_id("s0.a+b=c d")) == "s0.a+b=c d"
    assert envelope_id("x" * 101) == ""


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("Bob@EXAMPLE.org", "bob@example.org"),
        (" bob@bücher.example ", "bob@xn--bcher-kva.example"),
        ("jörg@example.org", "jörg@example.org"),
        ("a+b_c'd@example.org.", "a+b_c'd@example.org"),
    ],
)
def test_addresses_are_normalised(written: str, normal: str) -> None:
    """Lower case, an ASCII domain."""
    assert normalise_mailbox(written) == normal


@pytest.mark.parametrize(
    "bad",
    [
        *("", "@", "a@", "@b.c", "a b@c.d", "a@b@c.d", "a..b@c.d", ".a@c.d", "a@c..d", "a@-c.d", '"a"@c.d', "a@[::1]"),
        *("a@c.d\r\nX: y", "a\x00@c.d", "x" * 65 + "@c.d", "a@" + "c" * 64 + ".d", "<a@c.d>"),
        "a@c.d>\r\nRCPT TO:<e@f.g",
    ],
)
def test_what_is_no_address_is_refused(bad: str) -> None:
    """Nothing is repaired."""
    with pytest.raises(ValueError, match=r"address|domain|octets"):
        normalise_mailbox(bad)


def test_a_reply_token_comes_back_as_it_was() -> None:
    """Its case counts; a token too long for an address is left to the Message-IDs."""
    address = reply_address("support@example.org", "reply.example.org", "Seal.ed-Token_1")
    assert address == "support+Seal.ed-Token_1@reply.example.org"
    assert (
        find_reply_token(["x@y.z", address.replace("support", "SUPPORT")], "support@example.org") == "Seal.ed-Token_1"
    )
    assert reply_address("support@example.org", "example.org", "t" * 60) == "support@example.org"


@pytest.mark.parametrize(
    ("header", "automatic"),
    [
        ("Auto-Submitted: auto-replied", True),
        ("Auto-Submitted: auto-generated; x=y", True),
        ("Auto-Submitted: no", False),
        ("Precedence: bulk", True),
        ("Precedence: first-class", False),
        ("List-Id: <news.example.com>", True),
        ("X-Auto-Response-Suppress: All", True),
        ("X-Auto-Response-Suppress: DR, OOF", True),
        ("X-Auto-Response-Suppress: DR", False),
        ("Return-Path: <>", True),
        ("Return-Path: <bob@example.net>", False),
        ("X-Throughline-Attempt: s0.a", True),
        ("Subject: hello", False),
    ],
)
def test_machines_are_told_from_people(header: str, automatic: bool) -> None:
    """RFC 3834, RFC 2919, Exchange's header, the null sender, and our own mail coming back."""
    assert read(mail(header)).automatic is automatic


@pytest.mark.parametrize(
    ("headers", "unverified"),
    [
        (["Authentication-Results: mx.example.org; dkim=pass; dmarc=fail (p=reject) header.from=x"], True),
        (["Authentication-Results: mx.example.org 1; dmarc=pass"], False),
        (["Authentication-Results: MX.example.org; dmarc=FAIL"], True),
        (["Authentication-Results: evil.example; dmarc=fail"], False),
        (
            [
                "Authentication-Results: mx.example.org; dmarc=pass",
                "Authentication-Results: mx.example.org; dmarc=fail",
            ],
            False,
        ),
        (
            [
                "Authentication-Results: mx.example.org; dmarc=fail",
                "Authentication-Results: mx.example.org; dmarc=pass",
            ],
            True,
        ),
        (["Authentication-Results: mx.example.org; spf=pass smtp.mailfrom=dmarc=fail"], False),
        ([], False),
    ],
)
def test_dmarc_is_believed_from_our_own_server(headers: list[str], unverified: bool) -> None:
    """The topmost result of the configured server decides, what others wrote does not."""
    assert read(mail(*headers)).unverified is unverified
    assert read(mail(*headers), authserv_id="").unverified is False


def test_two_authors_prove_nothing() -> None:
    """A From with two mailboxes is marked: DMARC does not say which of them it means."""
    assert read(b"From: a@example.net, b@example.net\r\n\r\nx\r\n").unverified


@pytest.mark.parametrize(
    ("action", "status", "state", "permanent"),
    [
        ("failed", "5.1.1", ReceiptState.UNDELIVERED, True),
        ("failed", "4.4.7", ReceiptState.UNDELIVERED, False),
        ("failed", "5.2.2", ReceiptState.UNDELIVERED, False),
        ("failed", "5.7.1", ReceiptState.UNDELIVERED, False),
        ("delivered", "2.0.0", ReceiptState.DELIVERED, False),
    ],
)
@pytest.mark.parametrize(("envid", "token"), [("s0.a", "s0.a"), ("", "s0.h"), ("s0.a+2Bb", "s0.a+b")])
def test_a_bounce_names_its_attempt(
    action: str, status: str, state: ReceiptState, permanent: bool, envid: str, token: str
) -> None:
    """By the envelope id, or by our header among the returned ones; 5.x of the address is permanent."""
    returned = b"Message-ID: <m1@example.org>\r\nX-Throughline-Attempt: s0.h\r\n\r\nbody"
    raw = write_bounce(returned, "x@example.net", envid, action=action, status=status, to="support@example.org")
    event = parse_mail(raw, Envelope(NOW, null_sender=True), READING)
    assert isinstance(event, ReceiptEvent)
    assert (event.state, event.token, event.reason, event.at) == (state, token, f"dsn_{status}", NOW)
    assert state is not ReceiptState.UNDELIVERED or event.permanent is permanent


def test_a_bounce_without_token_names_its_mail() -> None:
    """Exchange returns the Message-ID and little else: enough to find the message."""
    raw = write_bounce(
        b"Message-ID: <m1@example.org>\r\n\r\n", "x@y.net", "", action="failed", status="5.1.1", to="s@e.org"
    )
    event = parse_mail(raw, Envelope(NOW), READING)
    assert isinstance(event, ReceiptEvent)
    assert (event.token, event.vendor_id) == ("", "<m1@example.org>")


def test_a_delay_is_no_event() -> None:
    """`delayed` decides nothing; a bounce of somebody else's mail is filed as what it is, automatic."""
    raw = write_bounce(b"Message-ID: <m@e>\r\n\r\n", "x@y.net", "s0.a", action="delayed", status="4.4.1", to="s@e.org")
    assert parse_mail(raw, Envelope(NOW), READING) is None
    foreign = write_bounce(b"Subject: x\r\n\r\n", "x@y.net", "", action="failed", status="5.1.1", to="s@e.org")
    assert read(foreign).automatic


def test_files_come_along_bounded() -> None:
    """Names lose their folders; what is over the limit is named in the text and left out."""
    source = EmailMessage()
    source["From"] = "bob@example.net"
    source.set_content("see files")
    for name, size in (("../../etc/passwd", 10), ("b.bin", 200), ("c.bin", 10)):
        source.add_attachment(b"x" * size, maintype="application", subtype="octet-stream", filename=name)
    source.add_attachment(message_from_bytes(mail("Subject: inner"), _class=EmailMessage, policy=default))
    event = read(source.as_bytes(), files_max_bytes=150)
    assert [file.name for file in event.files] == ["_.._etc_passwd", "c.bin", "mail.eml"]
    assert event.text == "see files\n[not kept: b.bin, 200 bytes]"


def test_html_only_mail_is_read() -> None:
    """Text is taken from the HTML, the quoted part cut, the HTML cleaned and the original kept."""
    html = "<p>Hello <b>there</b></p><script>x</script><div>On 1 Jan 2026, Ana wrote:</div><blockquote>old</blockquote>"
    raw = mail("MIME-Version: 1.0", "Content-Type: text/html; charset=utf-8", body=html)
    event = read(raw)
    assert event.text == "Hello there"
    assert event.html is not None
    assert "script" not in event.html
    assert event.original == raw


def test_senders_clocks_are_not_trusted() -> None:
    """A Date in the future becomes the time of receipt, one in the past stays, none is the time of receipt."""
    assert read(mail("Date: Fri, 01 Jan 2100 00:00:00 +0000")).sent_at == NOW
    assert read(mail("Date: Tue, 14 Nov 2023 22:13:20 +0000")).sent_at == 1_700_000_000.0
    assert read(mail("Date: yesterday")).sent_at == NOW


def test_the_natural_key() -> None:
    """The Message-ID; without one, or with an endless one, a hash that is the same for the same mail."""
    assert read(mail("Message-ID: <1@x>")).vendor_id == "<1@x>"
    for headers in ([], [f"Message-ID: <{'x' * 500}@y>"]):
        first, second = read(mail(*headers)), read(mail(*headers))
        assert first.vendor_id == second.vendor_id
        assert first.vendor_id.startswith("sha256:")
        assert len(first.vendor_id) <= 200
    assert read(mail(body="one")).vendor_id != read(mail(body="two")).vendor_id


def test_references_come_nearest_first() -> None:
    """In-Reply-To, then References from the end, each once."""
    event = read(mail("In-Reply-To: <c@x>", "References: <a@x>\r\n <b@x> <c@x>"))
    assert event.in_reply_to == ("<c@x>", "<b@x>", "<a@x>")


def test_names_and_subjects_lose_their_control_characters() -> None:
    """What a sender hides in an encoded word cannot break out of a header later."""
    event = read(b"From: =?utf-8?q?B=0D=0Ab?= <bob@example.net>\r\nSubject: =?utf-8?b?YQpCY2M6IHg=?=\r\n\r\nx\r\n")
    assert (event.sender_name, event.subject) == ("B b", "a Bcc: x")
    assert find_mailboxes(["=?utf-8?q?victim=40example=2Eorg?= <bob@example.net>"])[0][1] == "bob@example.net"


def test_raw_utf8_headers_are_read() -> None:
    """Octets beyond ASCII that nobody encoded are taken for UTF-8, and never end up as lone surrogates."""
    event = read("From: Jörg <jörg@example.net>\r\nSubject: Grüße\r\n\r\nx".encode() + b"\xff")
    assert (event.sender_name, event.sender.value, event.subject) == ("Jörg", "jörg@example.net", "Grüße")
    read(b"From: J\xff <a@example.net>\r\nSubject: \xff\r\n\r\nx").sender_name.encode()


@pytest.mark.parametrize(
    ("charset", "body"),
    [("utf-7", b"Hello +2AA- there"), ("unicode_escape", b"Hello \\ud800 there"), ("raw_unicode_escape", b"\\udfff")],
)
def test_no_charset_brings_half_a_surrogate_pair(charset: str, body: bytes) -> None:
    """What cannot be written as UTF-8 cannot be stored, and whoever reads the mailbox would never get past it."""
    head = f"From: bob@example.net\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset={charset}\r\n\r\n"
    event = read(head.encode() + body)
    assert event.text.encode() and event.references_text.encode()


@pytest.mark.parametrize("start", [b"", b"\xff"])
def test_no_charset_takes_hours(start: bytes) -> None:
    """Punycode, which Python takes for a charset, needs four seconds for a hundred kilobytes, sixteen for two."""
    head = b"From: bob@example.net\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=punycode\r\n\r\n"
    event = read(head + start + b"a-" + b"z9" * 1_000_000)
    assert "a-z9z9" in event.text


def test_no_sender_is_refused() -> None:
    """There is nobody to answer."""
    for raw in (b"", b"\r\n\r\n", b"Subject: x\r\n\r\nx", b"From: undisclosed-recipients:;\r\n\r\nx"):
        with pytest.raises(UnreadableMail):
            parse_mail(raw, Envelope(NOW), READING)


@given(st.binary(max_size=300), st.integers(0, 400))
@settings(max_examples=150, deadline=None)
def test_whatever_comes_is_read(noise: bytes, at: int) -> None:
    """However a mail is damaged, it is read or it names no sender: nothing else is raised."""
    whole = mail(
        "Subject: =?utf-8?q?caf=C3=A9?=",
        "MIME-Version: 1.0",
        'Content-Type: multipart/mixed; boundary="b"',
        body="--b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nhello\r\n"
        "--b\r\nContent-Type: image/png; name=x\r\n\r\ny\r\n--b--",
    )
    try:
        event = parse_mail(whole[:at] + noise + whole[at:], Envelope(NOW), READING)
    except UnreadableMail:
        return
    if isinstance(event, InboundMessage):
        words = (event.text, event.subject, event.sender.value, event.sender_name, event.vendor_id, event.html)
        "".join([*map(str, words), *(file.name + file.media_type for file in event.files)]).encode()


@pytest.mark.parametrize(
    "raw",
    [
        mail("To: " + "(" * 100_000),
        mail("Content-Type: text/plain; " + 'a="' * 20_000),
        mail(body="\r\n" * 200_000),
        mail(body="On " + "x y " * 5_000),
        mail(body=("On " + "x y " * 100 + "\r\n") * 60),
        mail(body=("> " * 500 + "\r\n") * 40),
        mail("Content-Type: text/html", body="<div>" * 50_000),
        mail("Content-Type: text/html", body="<!--" * 50_000),
        mail("Content-Type: text/html", body="<![CDATA[" * 30_000),
        mail("Content-Type: text/html", body="<a " * 90_000),
        mail("Content-Type: text/html", body="</" * 100_000),
        mail("Content-Type: text/html", body="<b x=1>" * 250 + "<p>x" * 60_000),
        mail("Content-Type: text/html", body="<table><td>" * 290 + "<p>x" * 60_000),
        mail("Content-Type: text/html", body="&" * 290_000),
        b"From: a@example.net\r\n" + b"".join(NESTED % (n, n) for n in range(600)),
    ],
)
def test_hostile_mail_costs_little(raw: bytes) -> None:
    """None of the known ways to make a mail parser slow takes the reader long."""
    began = time.process_time()
    assert parse_mail(raw, Envelope(NOW), READING) is not None
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    "header",
    [
        "On Mon, 1 Jan 2026 at 10:00, Support\n<support@example.org> wrote:",
        "Am 1. Jan. 2026 um 10:00 schrieb Support <s@e.org>:",
        "El lun, 1 ene 2026 a las 10:00, Support (<s@e.org>) escribió:",
        "Le lun. 1 janv. 2026 à 10:00, Support <s@e.org> a écrit :",
        "-----Original Message-----\nFrom: Support <s@e.org>\nSent: Monday\nTo: Bob\nSubject: hi",
        "________________________________\nFrom: Support <s@e.org>\nSent: Monday\nTo: Bob\nSubject: hi",
        "Von: Support <s@e.org>\nGesendet: Montag\nAn: Bob\nBetreff: hi",
    ],
)
def test_quoted_mail_is_stripped(header: str) -> None:
    """In the ways common mail programs quote; lists, indents and a name at the end stay."""
    own = "Hello,\n\n- one\n    two\n\nBest\nBob"
    assert strip_quoted(f"{own}\n\n{header}\n\n> old\n> older\n") == own


def test_nothing_of_the_senders_is_lost_by_stripping() -> None:
    """Answers between the quotes stay; a mail of quotes only stays whole."""
    inline = "> where?\nhere\n> when?\nnow"
    assert strip_quoted(inline) == inline
    assert strip_quoted("> only this") == "> only this"
    assert strip_quoted("  just text  ") == "just text"


def test_html_becomes_readable_text_and_back() -> None:
    """Blocks, lists, quotes and line breaks are kept as text; text is escaped as HTML."""
    lists = "<ul><li>1<li>2</ul><blockquote>q</blockquote><pre>x\n  y</pre>"
    html = f"<head><title>t</title></head><p>a&nbsp;&amp; b<br>c</p>{lists}"
    assert text_of_html(html) == "a & b\nc\n- 1\n- 2\n> q\nx\n  y"
    assert text_of_html("<p>a</p> \n <p> b <b>c </b> d</p>") == "a\nb c d"
    assert html_of_text("a <b>\nc\n\nd") == "<p>a &lt;b&gt;<br>\nc</p>\n<p>d</p>"
    assert clean_html("<style>x</style><form><input></form>ok") == "ok"
