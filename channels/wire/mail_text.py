"""The words of a mail: HTML to text, text to HTML, quoted text away."""

import re
from html import escape, unescape
from html.parser import HTMLParser

import nh3
from mailparser_reply.parser import EmailMessage as QuotedMail

SCAN_MAX = 20_000
"""Characters searched for the beginning of quoted text; bounded because the search is not linear."""
HTML_MAX = 300_000
"""Characters of HTML looked at."""
DEPTH_MAX = 300
"""Elements within elements: with 50,000 of them the cleaner takes 10 s."""
_LANGUAGES = ("en", "de", "fr", "es", "it", "nl", "pl")
_SPANISH_HEADER = re.compile(r"^El [^\n]{5,200} escribió:$", re.MULTILINE)

_BLOCKS = frozenset(
    {"address", "article", "aside", "blockquote", "dd", "div", "dl", "dt", "fieldset", "figure", "footer", "form"}
    | {"h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "p", "pre", "section", "table"}
    | {"tr", "ul"}
)
_SILENT = frozenset({"script", "style", "title", "template", "noscript", "svg", "math", "textarea", "select"})
_TAGS = frozenset(
    {"a", "abbr", "b", "blockquote", "br", "caption", "code", "dd", "del", "div", "dl", "dt", "em", "h1", "h2", "h3"}
    | {"h4", "h5", "h6", "hr", "i", "ins", "li", "ol", "p", "pre", "q", "s", "small", "span", "strong", "sub", "sup"}
    | {"table", "tbody", "td", "tfoot", "th", "thead", "tr", "u", "ul"}
)

_NEVER_DEEP = frozenset(
    {"area", "base", "br", "col", "dd", "dt", "embed", "hr", "img", "input", "li", "link", "meta", "option", "p"}
    | {"source", "tbody", "td", "tfoot", "th", "thead", "tr", "wbr"}
)
"""Elements without an end, or whose end may be left out."""
_LONE_AMPERSAND = re.compile(r"&(?!#?[A-Za-z0-9]{1,32};)")
_TAG = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9]{0,15})")


class _TextOf(HTMLParser):
    """Collects the text of a page, block by block; what is quoted is marked with `> `."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.lines: list[str] = [""]
        self._quoted = 0
        self._preformatted = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "br":
            self._new_line()
        elif tag in _BLOCKS:
            self._new_block()
            self._quoted = min(self._quoted + (tag == "blockquote"), 20)
            self._preformatted += tag == "pre"
            if tag == "li":
                self._write("- ")
        elif tag in {"td", "th"} and self.lines[-1] and not self.lines[-1].endswith(" "):
            self._write(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag in _BLOCKS:
            self._new_block()
            self._quoted = max(self._quoted - (tag == "blockquote"), 0)
            self._preformatted = max(self._preformatted - (tag == "pre"), 0)

    def handle_data(self, data: str) -> None:
        if self._preformatted:
            first, *more = data.split("\n")
            self._write(first)
            for line in more:
                self._new_line()
                self._write(line)
            return
        words = re.sub(r"[ \t\r\n\f]+", " ", data)
        if not self.lines[-1] or self.lines[-1].endswith(" "):
            words = words.removeprefix(" ")
        self._write(words)

    def _write(self, text: str) -> None:
        if text:
            if not self.lines[-1]:
                self.lines[-1] = "> " * self._quoted
            self.lines[-1] += text

    def _new_line(self) -> None:
        self.lines.append("")

    def _new_block(self) -> None:
        if self.lines[-1]:
            self.lines.append("")


def text_of_html(html: str) -> str:
    """Return the readable text of an HTML body: blocks as lines, lists with dashes, quotes with `> `."""
    if _is_too_deep(html):
        return re.sub(r"\s+", " ", unescape(re.sub(r"<[^<>]*>", " ", html[:HTML_MAX]))).strip()
    parser = _TextOf()
    # Cleaned first: on unbalanced markup (`<!--` again and again) the standard parser is not linear.
    clean = nh3.clean(
        _escape_lone_ampersands(html), tags=set(_TAGS | _BLOCKS), attributes={}, clean_content_tags=set(_SILENT)
    )
    parser.feed(clean[:HTML_MAX])
    parser.close()
    text = "\n".join(line.rstrip() for line in parser.lines).replace("\u00a0", " ")
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def clean_html(html: str) -> str:
    """Return HTML safe to show: known tags, web, mail and phone links, no images, styles, scripts or forms.

    Of what is nested absurdly deep, the text.
    """
    if _is_too_deep(html):
        return html_of_text(text_of_html(html))
    return nh3.clean(
        _escape_lone_ampersands(html),
        tags=set(_TAGS),
        clean_content_tags=set(_SILENT),
        attributes={"a": {"href", "title"}, "td": {"colspan", "rowspan"}, "th": {"colspan", "rowspan"}},
        url_schemes={"https", "http", "mailto", "tel"},
        link_rel="noopener noreferrer",
        strip_comments=True,
    )


def _escape_lone_ampersands(html: str) -> str:
    # The cleaner is not linear in those: 300,000 take it 2.5 s.
    return _LONE_AMPERSAND.sub("&amp;", html[:HTML_MAX])[:HTML_MAX]


def _is_too_deep(html: str) -> bool:
    depth = 0
    for found in _TAG.finditer(html, 0, HTML_MAX):
        if found.group(2).lower() not in _NEVER_DEEP:
            depth = max(depth - 1, 0) if found.group(1) else depth + 1
        if depth > DEPTH_MAX:
            return True
    return False


def html_of_text(text: str) -> str:
    """Return the text as escaped paragraphs."""
    paragraphs = re.split(r"\n{2,}", text.strip())
    return "\n".join(f"<p>{escape(part).replace(chr(10), '<br>' + chr(10))}</p>" for part in paragraphs)


def normalise_text(text: str) -> str:
    """Return the text with `\\n` line ends only, and without the control characters that mean nothing in a body."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", "", text)


def strip_quoted(text: str) -> str:
    """Return what the sender wrote above the mail they answer; the whole text when nothing would be left.

    Answers written between quoted lines stay, with what they answer. Signatures stay too: what looks like one may
    be a list of what is wrong.
    """
    lines = _collapse_blank_lines(normalise_text(text).split("\n"))
    kept = lines[: _count_own_lines(lines)]
    while kept and (kept[-1].lstrip().startswith(">") or not kept[-1].strip(" \t_-")):
        kept.pop()  # quoted lines at the end, blank ones, and the rule Outlook draws above them
    return "\n".join(kept).strip() or "\n".join(lines).strip()


def _collapse_blank_lines(lines: list[str]) -> list[str]:
    # At most two in a row: on 20,000 of them the library below takes 35 s.
    kept: list[str] = []
    for line in lines:
        if line.strip() or any(before.strip() for before in kept[-2:]):
            kept.append(line.rstrip())
    return kept


def _count_own_lines(lines: list[str]) -> int:
    """How many of the first lines stand above the quoted mail; all of them when nothing is quoted."""
    clipped = [line.strip()[:500] for line in lines]
    head = "\n".join(clipped)[:SCAN_MAX]
    replies = QuotedMail(text=head, languages=list(_LANGUAGES), keep_hyphen_lists=True).read().replies
    own = replies[0].content if replies else head
    if len(replies) < 2 and (spanish := _SPANISH_HEADER.search(head)):
        own = head[: spanish.start()].strip()
    elif len(replies) < 2:
        return len(lines)
    blank_first = next((number for number, line in enumerate(clipped) if line), 0)
    return blank_first + own.count("\n") + 1 if own else 0
