"""Mail from strangers: read or refused, never run, never two mails out of one, never a header more than we wrote."""

import asyncio
import email.policy
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from html.parser import HTMLParser

import aiohttp
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from channels.email.lmtp import LmtpListener, LmtpSettings
from channels.email.smtp import SmtpAdapter, SmtpSettings
from channels.errors import MessageRejected
from channels.messages import (
    Accepted,
    Address,
    Channel,
    Content,
    Event,
    File,
    InboundMessage,
    Kind,
    Line,
    Matter,
    OutboundMessage,
)
from channels.tools import Tools
from channels.wire.mail import POLICY, Letterhead, build_mail
from channels.wire.mail_address import normalise_mailbox
from channels.wire.mail_parse import Envelope, Reading, UnreadableMail, parse_mail
from channels.wire.mail_text import clean_html, html_of_text, text_of_html
from health.report import EndpointId
from tests.clocks import WallClock
from tests.hostile.mutation import cases

NOW = 1_800_000_000.0
READING = Reading(EndpointId("email/acme"), "support@example.org", "mx.example.org", text_max=20_000)
LETTERHEAD = Letterhead("support@example.org", "Acmé Support", "example.org", "Acme")
PLAIN = (
    b"From: Bob <bob@example.net>\r\nTo: support+To.ken@example.org\r\nMessage-ID: <1@example.net>\r\n"
    b"Subject: =?utf-8?q?caf=C3=A9?=\r\nAuthentication-Results: mx.example.org; dmarc=pass\r\n"
    b"In-Reply-To: <0@example.org>\r\nDate: Sat, 21 Nov 2026 10:00:00 +0000\r\n\r\n"
    b"Help\r\n\r\nOn x, y wrote:\r\n> a\r\n"
)
MULTIPART = (
    b"From: =?utf-8?b?QsO2Yg==?= <bob@example.net>\r\nSubject: x\r\nMIME-Version: 1.0\r\n"
    b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n--b\r\nContent-Type: multipart/alternative; boundary=c\r\n\r\n'
    b"--c\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
    b"caf=C3=A9=\r\n\r\n--c\r\nContent-Type: text/html; charset=latin-1\r\n\r\n"
    b"<p onclick=x>Hi<script>x</script><a href=x>y</a>\r\n"
    b"--c--\r\n--b\r\nContent-Type: image/png\r\nContent-Disposition: attachment; filename*=utf-8''..%2F..%2Fx.png\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\niVBORw0KGgo=\r\n--b\r\nContent-Type: message/rfc822\r\n\r\n"
    b"From: x\r\n\r\ny\r\n--b--\r\n"
)
BOUNCE = (
    b"From: <>\r\nFrom: MAILER-DAEMON@example.net\r\nContent-Type: multipart/report; report-type=delivery-status;"
    b" boundary=r\r\n\r\n--r\r\n\r\nfailed\r\n--r\r\nContent-Type: message/delivery-status\r\n\r\n"
    b"Original-Envelope-Id: s0.t1+2B\r\n\r\nFinal-Recipient: rfc822; a@b\r\nAction: failed\r\nStatus: 5.1.1\r\n\r\n"
    b"--r\r\nContent-Type: text/rfc822-headers\r\n\r\nMessage-ID: <m1@example.org>\r\nX-Throughline-Attempt: s0.t1\r\n"
    b"\r\n--r--\r\n"
)
SAMPLES = [PLAIN, MULTIPART, BOUNCE]
TOKENS = [
    b"boundary=b",
    b"--b",
    b"--b--",
    b"=?utf-8?q?",
    b"?=",
    b"charset=",
    b"filename*0*=",
    b"\r\n\r\n",
    b"(",
    b"From: ",
]
TOKENS += [
    b"Content-Transfer-Encoding: uuencode\r\n",
    b"charset=unknown-8bit",
    b"charset=idna",
    b"charset=zlib",
    b"=00",
]
MARKUP = [
    b"<p>Hi <b>there</b></p>",
    b'<a href="https://example.net/?a=1&b=2" title="x">link</a><img src=x onerror=alert(1)>',
    b"<svg><style><img src=x onerror=alert(1)></style></svg><math><mtext></mtext></math>",
    b'<a href="jav&#x09;ascript:alert(1)">x</a><a href=" javascript:x">y</a><a href="data:text/html,x">z</a>',
    b"<table><tr><td colspan=2>x</td></tr></table><blockquote><pre>y\r\nz</pre></blockquote><!-- c -->",
    b"<form action=x><input><button formaction=javascript:x></form><base href=//evil><meta http-equiv=refresh>",
    b"<noscript><p title='</noscript><img src=x onerror=alert(1)>'></noscript><iframe srcdoc='<script>x</script>'>",
]
MARKUP_TOKENS = [
    b"<script>",
    b"</style>",
    b"<!--",
    b"-->",
    b"<![CDATA[",
    b"onload=",
    b"href=javascript:",
    b"&#0;",
    b"</",
]
TAGS = frozenset(
    {"a", "abbr", "b", "blockquote", "br", "caption", "code", "dd", "del", "div", "dl", "dt", "em", "h1", "h2", "h3"}
    | {"h4", "h5", "h6", "hr", "i", "ins", "li", "ol", "p", "pre", "q", "s", "small", "span", "strong", "sub", "sup"}
    | {"table", "tbody", "td", "tfoot", "th", "thead", "tr", "u", "ul"}
)
ATTRIBUTES = frozenset({"href", "title", "rel", "colspan", "rowspan"})
BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")


class _Reader(HTMLParser):
    """The standard library's view of what we would show."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS, tag
        for name, value in attrs:
            assert name in ATTRIBUTES, name
            if name == "href":
                # As browsers find it: leading and inner controls go first (the URL standard, section 4.4).
                scheme = re.match(r"([a-z][a-z0-9+.-]*):", re.sub(r"^[\x00-\x20]+|[\t\r\n]", "", value or ""), re.I)
                assert scheme is None or scheme[1].lower() in {"https", "http", "mailto", "tel"}, value

    def handle_decl(self, decl: str) -> None:
        raise AssertionError(decl)

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(data)

    def handle_pi(self, data: str) -> None:
        raise AssertionError(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)


def _check_markup(html: str) -> None:
    reader = _Reader(convert_charrefs=True)
    reader.feed(html)
    reader.close()


def test_no_mail_makes_the_reader_fall_over() -> None:
    """Read within the limits, fit to be stored and shown, or refused for want of a sender."""
    read = 0
    for case in cases("mail", SAMPLES, TOKENS):
        try:
            event = parse_mail(case.octets, Envelope(NOW), READING)
        except UnreadableMail:
            continue
        if not isinstance(event, InboundMessage):
            continue
        read += 1
        assert len(event.text) <= READING.text_max + 2_000, case.name
        assert len(event.files) <= READING.files_max, case.name
        for line in (event.subject or "", event.sender_name, event.vendor_id, event.sender.value, event.recipient):
            assert not re.search(r"[\r\n\x00\x85\u2028\u2029]", line), case.name
        for file in event.files:
            assert not re.search(r"[/\\\x00-\x1f\x7f]", file.name), case.name
            assert file.name not in {"", ".", ".."}, case.name
        "".join([event.text, event.subject or "", event.sender_name, event.html or "", event.references_text]).encode()
        if event.html:
            _check_markup(event.html)
    assert read > 50, "the mutants are too wild: nothing of them is read"


def test_no_markup_gets_through() -> None:
    """What we would show holds known elements, known attributes and harmless links only, and cleaning is stable."""
    for case in cases("markup", MARKUP, MARKUP_TOKENS, size_max=20_000):
        html = case.octets.decode("utf-8", "replace")
        cleaned = clean_html(html)
        try:
            _check_markup(cleaned)
        except AssertionError as wrong:
            raise AssertionError(f"{case.name}: {wrong}") from wrong
        again = clean_html(cleaned)
        _check_markup(again)
        assert clean_html(again) == again, case.name
        text = text_of_html(html)
        _check_markup(html_of_text(text))
        # A quote mark a line and depth; a lone ampersand in raw text shows as five characters.
        assert len(text) <= 5 * len(html) + 60 * html.count("<") + 100, case.name


line_ends = st.sampled_from(
    ["\r\n", "\n", "\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\r\n ", "\r\n\t", "\x00", ""]
)
injections = st.sampled_from(
    ["Bcc: a@evil.example", ".\r\nMAIL FROM:<a@evil.example>", "=?utf-8?q?=0D=0ABcc:_a@evil.example?=", "\r\n<script>"]
)
hostile = st.builds("{}{}{}".format, st.text(max_size=10), line_ends, st.one_of(injections, st.text(max_size=20)))


_WORD = "=?utf-8?q?=0D=0ABcc:_a@evil.example?="
"""An encoded word that the library would decode, line break and all."""


def _outbound(text: str, **changes: str) -> OutboundMessage:
    given_ = {
        name: changes.get(name, "") for name in ("subject", "file", "media_type", "author", "own_subject", "token")
    }
    history = (Line(given_["author"], text, NOW, from_customer=True),)
    matter = Matter("Acme", "4F2K9", "en", given_["subject"], "Chat is down.", history=history, mail_thread=("<a@b>",))
    file = File("f" * 64, given_["file"] or "x.txt", given_["media_type"] or "text/plain", 1)
    return OutboundMessage(
        message_id="01HZX",
        conversation_id="c",
        token=given_["token"] or "s0.t1",
        kind=Kind.MESSAGE,
        to=Address(Channel.EMAIL, "bob@example.net"),
        content=Content(text, subject=given_["own_subject"] or None, files=(file,)),
        matter=matter,
        reply_token=given_["token"] or "seal",
        created_at=NOW,
    )


@given(hostile, hostile, hostile, hostile, hostile, hostile, hostile)
@example("x", "a\r\nBcc: x@evil.example", "x", "x/y", "x", "x", "t")
@example("x", _WORD, "x", "x/y", "x", "x", "t")
@example("x", f"x {_WORD} y", "x", "x/y", "x", "x", "t")
@example("x", "x", _WORD, "x/y", "x", "x", "t")
@example("x", "x", f"x {_WORD}.txt", "x/y", "x", "x", "t")
@example("x", "", "x", "x/y", "x", _WORD, "t")
@example("x", "x", "x", "x/y", "x", "x", _WORD)
@settings(max_examples=150, deadline=None)
def test_nothing_anybody_wrote_adds_a_header_or_an_address(
    text: str, subject: str, file: str, media_type: str, author: str, own_subject: str, token: str
) -> None:
    """Refused, or one mail to one mailbox, each header once, as the standard library reads it."""
    message = _outbound(
        text, subject=subject, file=file, media_type=media_type, author=author, own_subject=own_subject, token=token
    )
    try:
        mail = build_mail(message, LETTERHEAD, {"f" * 64: b"x"})
    except ValueError:
        return
    assert not BARE.search(mail.content)
    mail.content.decode("ascii")
    parsed = message_from_bytes(mail.content, _class=EmailMessage, policy=email.policy.default)
    names = [name.lower() for name in parsed.keys()]  # noqa: SIM118 a mail's keys may repeat
    assert len(names) == len(set(names))
    assert not {"bcc", "cc", "sender", "resent-to"} & set(names)
    for name, expected in (("to", ["bob@example.net"]), ("from", ["support@example.org"])):
        assert [one.addr_spec for one in parsed[name].addresses] == expected
    (reply_to,) = parsed["reply-to"].addresses
    assert reply_to.domain == "example.org"
    for part in parsed.walk():
        assert not part.defects, part.defects
    if part_ := parsed.get_body(("html",)):
        inner = part_.get_content().partition("<body>")[2].partition("</body>")[0]
        _check_markup(inner)


@given(st.text(st.characters(min_codepoint=0x7F), min_size=1, max_size=5))
@example("\u2028")
@example("\u202e")
@example("\ud800")
@example("\x85")
def test_an_address_is_what_it_looks_like(inner: str) -> None:
    """No line ends, no invisible or reversing signs beyond ASCII: refused, or one printable line."""
    try:
        mailbox = normalise_mailbox(f"a{inner}b@example.org")
    except ValueError:
        return
    assert mailbox.isprintable()
    assert len(mailbox.splitlines()) == 1


@dataclass
class Wire:
    """A submission server that keeps every octet, and the adapter that speaks to it."""

    adapter: SmtpAdapter
    heard: list[bytes] = field(default_factory=list)


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    """It answers like a server that ends a mail at the first thing it could take for a final dot."""
    heard: list[bytes] = []
    # A size that looks like digits and is no number must not stop a mail.
    greeting = "250-x\r\n250-SIZE \u00b2\r\n250 DSN\r\n".encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 x\r\n")
        while line := await reader.readline():
            word = line[:4].upper()
            if word == b"DATA":
                writer.write(b"354 go\r\n")
                mail = bytearray()
                while not mail.endswith(b"\r\n.\r\n"):
                    mail += await reader.read(1)
                heard.append(bytes(mail))
                writer.write(b"250 ok\r\n")
            elif word == b"QUIT":
                break
            else:
                if word == b"EHLO":
                    writer.write(greeting)
                    continue
                heard.extend([] if word in {b"EHLO", b"MAIL", b"RCPT", b"RSET"} else [b"COMMAND " + line])
                writer.write(b"250 ok\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    table = {"id": "email/acme", "provider": "smtp", "host": "127.0.0.1", "tls": "none"}
    table |= {"port": server.sockets[0].getsockname()[1], "from_address": "support@example.org"}

    class Files:
        async def read(self, sha256: str) -> bytes:
            return b"a\n.\nb\r.\r\r\n.\r\nMAIL FROM:<x@evil.example>\r\n"

    async with aiohttp.ClientSession() as http:
        tools = Tools(EndpointId("email/acme"), http, WallClock(), None, Files(), print, "Acme", "https://x")
        adapter = SmtpAdapter(SmtpSettings.model_validate(table), tools)
        yield Wire(adapter, heard)
        await adapter.close()
    server.close()


@pytest.mark.parametrize(
    "dot", ["\n.\n", "\r.\r", "\n.\r\n", "\r\n.\n", "\r\n.\r\n", ".\r\n", "\r\n..\r\n", "\x00\r\n.\r\n"]
)
async def test_what_we_submit_ends_once(wire: Wire, dot: str) -> None:
    """No bare CR or LF, no dot alone on a line, no command out of a body, subject, author or file: one mail, whole."""
    smuggled = f"Hello{dot}MAIL FROM:<x@evil.example>\r\nRCPT TO:<y@victim.example>\r\nDATA\r\nevil{dot}"
    await wire.adapter.send(_outbound(smuggled, author=smuggled))
    (mail,) = wire.heard
    assert not BARE.search(mail)
    assert mail.count(b"\r\n.\r\n") == 1
    for line in mail[:-5].split(b"\r\n"):
        assert not line.startswith(b".") or line.startswith(b"..")
    parsed = message_from_bytes(mail.replace(b"\r\n..", b"\r\n."), _class=EmailMessage, policy=email.policy.default)
    said = parsed.get_body(("plain",)).get_content()
    assert said.count("MAIL FROM:<x@evil.example>") == 3, "said, quoted from the history, and its author's name"
    with pytest.raises(MessageRejected):
        await wire.adapter.send(_outbound("x", file=f"a{dot}b"))


@dataclass
class Post:
    """Our listener, and what it took."""

    port: int
    taken: list[Event]


@pytest.fixture(params=["lmtp", "smtp"])
async def post(request: pytest.FixtureRequest) -> AsyncIterator[Post]:
    taken: list[Event] = []

    async def accept(event: Event) -> Accepted:
        taken.append(event)
        return Accepted("c", "m")

    settings_ = LmtpSettings(port=0, protocol=request.param, message_max_bytes=100_000)
    async with aiohttp.ClientSession() as http:
        tools = Tools(EndpointId("email/acme"), http, WallClock(), None, None, lambda _: None, "Acme", "https://x")
        listener = LmtpListener(settings_, READING, frozenset({"example.org"}), tools)
        task = asyncio.create_task(listener.listen(accept))
        async with asyncio.timeout(5):
            await listener.bound.wait()
        yield Post(listener.port, taken)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _tell(port: int, octets: bytes) -> bytes:
    """Everything at once, as smugglers and pipelining clients do, then the end; what was answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = bytearray()
    try:
        writer.write(octets)
        writer.write_eof()
        async with asyncio.timeout(10):
            while chunk := await reader.read(65_536):
                answer += chunk
    except ConnectionError:
        pass  # cut off in the middle of an answer: it may, it said too much
    finally:
        writer.close()
    return bytes(answer)


def _session(mail: bytes, hello: bytes = b"LHLO") -> bytes:
    return (
        hello
        + b" mx\r\nMAIL FROM:<bob@example.net>\r\nRCPT TO:<support@example.org>\r\nDATA\r\n"
        + mail
        + b".\r\nQUIT\r\n"
    )


Until = Callable[[Callable[[], object]], Awaitable[None]]


async def test_no_client_makes_the_listener_fall_over(post: Post, caplog: pytest.LogCaptureFixture) -> None:
    """Each answer begins with a code, none tells of a fault of ours, no line is logged; an honest mail is taken."""
    loop = asyncio.get_running_loop()
    faults: list[dict[str, object]] = []
    loop.set_exception_handler(lambda _, context: faults.append(context))
    samples = [_session(PLAIN, hello) for hello in (b"LHLO", b"EHLO")]
    tokens = [
        b"RSET\r\n",
        b"NOOP\r\n",
        b"DATA\r\n",
        b"RCPT TO:<",
        b">\r\n",
        b" SIZE=",
        b"AUTH PLAIN x\r\n",
        b"VRFY x\r\n",
    ]
    tokens += [
        b"BODY=8BITMIME",
        b"SMTPUTF8",
        b"\xc3\xa9",
        b"STARTTLS\r\n",
        b"MAIL FROM:<>\r\n",
        b"HELP\r\n",
        b"EXPN a\r\n",
    ]
    for case in cases("listener", samples, tokens, size_max=20_000):
        before = len(post.taken)
        answer = await _tell(post.port, case.octets)
        for line in answer.split(b"\r\n")[:-1]:
            assert re.match(rb"[2345]\d\d[ -]", line), (case.name, line)
            assert not line.startswith(b"500 Error: ("), (case.name, line)
        if len(post.taken) > before:
            assert b"250 2.0.0 stored" in answer or not answer.endswith(b"\r\n"), case.name
        del post.taken[:]
    for hello in (b"LHLO", b"EHLO"):
        await _tell(post.port, _session(PLAIN, hello))
    (event,) = post.taken
    assert isinstance(event, InboundMessage)
    assert event.text == "Help"
    assert not faults, faults[0]
    assert not [record.getMessage() for record in caplog.records if record.name.startswith("mail")]


@pytest.mark.parametrize(
    "end", [b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\r", b"\r.\r\n", b"\r\n.\n", b"\r\n\x00.\r\n", b"\n\n.\r\n"]
)
@pytest.mark.parametrize("post", ["smtp"], indirect=True)
async def test_nobody_smuggles_a_second_mail_past_us(post: Post, end: bytes) -> None:
    """What another server may take for the end of a mail is none: one mail is refused, or read as one."""
    inner = (
        b"MAIL FROM:<ceo@example.org>\r\nRCPT TO:<support@example.org>\r\nDATA\r\nFrom: ceo@example.org\r\n\r\nPay.\r\n"
    )
    answer = await _tell(post.port, _session(PLAIN + b"x" + end + inner, b"EHLO"))
    assert len(post.taken) <= 1
    assert all(isinstance(event, InboundMessage) and event.sender.value == "bob@example.net" for event in post.taken)
    assert answer.count(b"354 ") == 1
    assert (b"554 5.6.0" in answer) == (not post.taken)


@pytest.mark.parametrize("name", ["Subject", "From", "To", "X-Any", "Content-Disposition"])
def test_a_header_is_one_header_whatever_python_makes_of_it(name: str) -> None:
    """Behind our own care: what the library decoded into a line break is refused when it is written (CVE-2024-6923)."""
    mail = EmailMessage(policy=POLICY)
    value = f'attachment; filename="{_WORD}"' if name == "Content-Disposition" else f"x {_WORD}"
    try:
        mail[name] = f"{_WORD} <a@example.net>" if name in {"From", "To"} else value
        written = mail.as_bytes()
    except ValueError:
        return
    assert list(message_from_bytes(written).keys()) == [name]
