"""What we say ourselves, in the person's language: notices, prompts, confirmations, from checked templates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from jinja2 import StrictUndefined, Template, TemplateError, meta
from jinja2.sandbox import SandboxedEnvironment

from channels.contract import Capabilities
from channels.messages import Channel, Content, Matter
from channels.text import clean_text, sms_segments
from router.domain.catalogues import WordingError
from router.domain.fitting import PLAIN, Manner, fold_to_gsm, render_for

FALLBACK = "en"
SEGMENTS_MAX = 2
"""What one of our own texts may cost as SMS."""
VALUE_MAX = 200
"""Characters of one value put into a template."""
NAMED_MAX = 20
"""References in one text."""
TEMPLATE_MAX = 2000
ORGANISATION_MAX = 40
EXAMPLE_REFERENCE = "7ZX3K"
"""What a prompt shows a reference to look like; nobody's."""

Value = str | int | Sequence[str]


@dataclass(frozen=True, slots=True)
class _Key:
    """What a text may use, shown with samples as long as they get, and how long it may become."""

    samples: Mapping[str, Value]
    characters_max: int
    as_sms: bool = False
    """It may go out as SMS: at most 2 segments."""


_MOVED: Mapping[str, Value] = {"broken": "", "here": "", "reference": "W4F2K"}
_NONE: Mapping[str, Value] = {}
_FILES: Mapping[str, Value] = {"count": 12, "names": "Kostenvoranschlag-0815.pdf, Wohnungsgrundriss-EG.pdf (+10)"}
KEYS: Mapping[str, _Key] = MappingProxyType(
    {
        **{f"channel.{channel}": _Key(_NONE, 20) for channel in Channel},
        "notice.moved": _Key(_MOVED, 320, as_sms=True),
        "notice.moved_inbound_only": _Key(_MOVED, 320, as_sms=True),
        "notice.continued": _Key(_MOVED, 320, as_sms=True),
        "notice.combined": _Key({**_MOVED, "references": ("W4F2K", "9QX7M", "00ZZ1", "K3K3K")}, 320, as_sms=True),
        "notice.agent_moved": _Key(_MOVED, 320, as_sms=True),
        "matter.what_happened": _Key(_MOVED, 200),
        "matter.continued": _Key(_MOVED, 200),
        "prompt.reference": _Key({"example": "W4F2K"}, 320, as_sms=True),
        "prompt.code": _Key(_NONE, 320, as_sms=True),
        "prompt.wrong_code": _Key(_NONE, 320, as_sms=True),
        "code.message": _Key({"code": "999999", "reference": "W4F2K"}, 320, as_sms=True),
        "confirm.stop": _Key(_NONE, 160, as_sms=True),
        "confirm.start": _Key(_NONE, 160, as_sms=True),
        "chat.banner_trouble": _Key({"reference": "W4F2K"}, 300),
        "chat.banner_moved": _Key({"here": "", "reference": "W4F2K"}, 300),
        "mail.subject": _Key({"reference": "W4F2K"}, 200),
        "sms.prefix": _Key({"reference": "W4F2K"}, 20),
        "sms.signature": _Key({"name": "Maximiliane"}, 40),
        "files.kept": _Key(_FILES, 240),
        "files.too_large": _Key(_FILES, 240),
        "mark.repeated": _Key(_NONE, 40),
        "mark.late": _Key(_NONE, 40),
        "phone.link": _Key(_NONE, 80),
    }
)
"""Every text there is, with the values it may use; `organisation` may stand in each."""


class Wording:
    """The texts of all languages, ready to be filled in. `check` before first use, at start."""

    def __init__(self, catalogues: Mapping[str, Mapping[str, str]], organisation: str) -> None:
        self.organisation = organisation
        self._named = _safe(organisation)
        self._catalogues = {_tag(locale): dict(texts) for locale, texts in catalogues.items()}
        self._environment = SandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
        self._templates: dict[tuple[str, str], Template] = {}

    @property
    def locales(self) -> tuple[str, ...]:
        """The languages that have texts."""
        return tuple(sorted(self._catalogues))

    def check(self) -> None:
        """Fill in every text of every language with samples.

        Raises:
            WordingError: a text is missing, unknown, broken, uses an unknown value, or is too long.
        """
        if not self.organisation.strip() or len(self.organisation) > ORGANISATION_MAX:
            wrong = f"the organisation's name has {len(self.organisation)} characters"
            raise WordingError("throughline.toml", "organisation", wrong, f"Give it 1 to {ORGANISATION_MAX}.")
        if FALLBACK not in self._catalogues:
            raise WordingError(f"{FALLBACK}.toml", "", "is missing", "Every other language falls back to it.")
        for locale, texts in self._catalogues.items():
            file = f"{locale}.toml"
            for key in texts.keys() - KEYS.keys():
                raise WordingError(file, key, "is no text of ours", "Correct its name or remove it.")
            for key in KEYS:
                self._check_present(file, locale, key)
            for key in texts:
                self._check_text(file, locale, key)

    def locale_for(self, wanted: str) -> str:
        """The language with texts that is nearest to `wanted`: `de_AT` gives `de-AT`, else `de`, else `en`."""
        tag = _tag(wanted)
        while tag and tag not in self._catalogues:
            tag = tag.rpartition("-")[0]
        return tag or FALLBACK

    def say(self, text_key: str, locale: str, **values: Value) -> str:
        """The text, filled in, without control characters. Values are put on one line and shortened to 200 characters.

        Raises:
            WordingError: the text, or a value that it uses, is missing; never after `check` with all values given.
        """
        found = self._find(self.locale_for(locale), text_key)
        if found is None:
            raise WordingError(f"{FALLBACK}.toml", text_key, "is missing", "Put it in.")
        return self._fill(found, text_key, values)

    def channel(self, channel: Channel, locale: str) -> str:
        """The channel's name in that language."""
        return self.say(f"channel.{channel}", locale)

    def notice(
        self,
        locale: str,
        *,
        here: Channel,
        broken: Channel | None,
        references: Sequence[str],
        inbound_only: bool = False,
        to_agent: bool = False,
    ) -> str:
        """What a person is told when a conversation moved: who we are, what happened, the reference, reply here.

        `broken` None, or the channel it is told on: nothing they could notice broke. Several references make one
        combined notice.
        """
        if to_agent:
            key = "notice.agent_moved"
        elif len(references) > 1:
            key = "notice.combined"
        elif broken is None or broken is here:
            key = "notice.continued"
        else:
            key = "notice.moved_inbound_only" if inbound_only else "notice.moved"
        values = self._moved(locale, here, broken, references[0])
        return self.say(key, locale, **values, references=tuple(references))

    def what_happened(self, locale: str, *, here: Channel, broken: Channel | None) -> str:
        """The one sentence that a `Matter` carries when the conversation moved."""
        key = "matter.continued" if broken is None or broken is here else "matter.what_happened"
        return self.say(key, locale, **self._moved(locale, here, broken, ""))

    def prompt(self, prompt_key: str, locale: str) -> str:
        """What a `Held` asks the sender: no name, no content, no reference that exists."""
        return self.say(prompt_key, locale, example=EXAMPLE_REFERENCE)

    def render_for(
        self, capabilities: Capabilities, content: Content, matter: Matter, manner: Manner = PLAIN
    ) -> Content:
        """The content as that medium carries it, in the matter's language; see `fitting.render_for`."""
        return render_for(self, capabilities, content, matter, manner)

    def _moved(self, locale: str, here: Channel, broken: Channel | None, reference: str) -> dict[str, str]:
        return {
            "here": self.channel(here, locale),
            "broken": self.channel(broken or here, locale),
            "reference": reference,
        }

    def _find(self, locale: str, key: str) -> str | None:
        """The nearest language that has the key."""
        tag = locale
        while tag:
            if key in self._catalogues.get(tag, {}):
                return tag
            tag = tag.rpartition("-")[0]
        return FALLBACK if key in self._catalogues.get(FALLBACK, {}) else None

    def _template(self, locale: str, key: str) -> Template:
        template = self._templates.get((locale, key))
        if template is None:
            template = self._environment.from_string(self._catalogues[locale][key])
            self._templates[locale, key] = template
        return template

    def _fill(self, locale: str, key: str, values: Mapping[str, Value]) -> str:
        safe = {name: _safe(value) for name, value in values.items()}
        safe["organisation"] = self._named
        try:
            template = self._template(locale, key)
            # As `render` does, but for a copy of the environment's globals: no text may use one, and it costs the most.
            return clean_text("".join(template.root_render_func(template.new_context(safe, shared=True))))
        except Exception as error:  # a template is somebody's code: whatever it raises is a fault of the text
            wrong = f"cannot be filled in ({error})"
            raise WordingError(f"{locale}.toml", key, wrong, "Compare it with the packaged text.") from error

    def _check_present(self, file: str, locale: str, key: str) -> None:
        """A regional variant may lean on its language; a language must be whole, or people read two at once."""
        tag = locale
        while tag:
            if key in self._catalogues.get(tag, {}):
                return
            tag = tag.rpartition("-")[0]
        raise WordingError(file, key, "is missing", "Put it in; the packaged English text says what is meant.")

    def _check_text(self, file: str, locale: str, key: str) -> None:
        text = self._catalogues[locale][key]
        if len(text) > TEMPLATE_MAX:
            raise WordingError(file, key, f"has more than {TEMPLATE_MAX} characters", "Shorten it.")
        try:
            used = meta.find_undeclared_variables(self._environment.parse(text))
        except TemplateError as error:
            raise WordingError(file, key, f"is no template: {error}", "Mind the braces: {{ name }}.") from error
        allowed = {*KEYS[key].samples, "organisation"}
        if unknown := sorted(used - allowed):
            remedy = f"It may use {', '.join(sorted(allowed))}."
            raise WordingError(file, key, f"uses the unknown value {unknown[0]!r}", remedy)
        self._check_length(file, locale, key)

    def _check_length(self, file: str, locale: str, key: str) -> None:
        spec = KEYS[key]
        values = dict(spec.samples)
        if "here" in values:
            longest = max(Channel, key=lambda channel: len(self.channel(channel, locale)))
            values["here"] = self.channel(longest, locale)
        if "broken" in values:
            values["broken"] = values["here"]
        said = self._fill(locale, key, values)
        if not said.strip():
            raise WordingError(file, key, "says nothing", "Write a text.")
        if len(said) > spec.characters_max:
            wrong = f"becomes {len(said)} characters long"
            raise WordingError(file, key, wrong, f"Shorten it to {spec.characters_max}.")
        if spec.as_sms and (count := sms_segments(fold_to_gsm(said)).count) > SEGMENTS_MAX:
            raise WordingError(file, key, f"takes {count} SMS segments", f"Shorten it to {SEGMENTS_MAX}.")


def _tag(locale: str) -> str:
    """`de_at.UTF-8` as `de-AT`."""
    language, *regions = locale.partition(".")[0].replace("_", "-").split("-")[:3]
    return "-".join([language.lower(), *(part.upper() if len(part) == 2 else part.title() for part in regions)])


def _safe(value: Value) -> Value:
    """One line, bounded: a name must not be able to write a second paragraph in our name."""
    if isinstance(value, int):
        return value
    if isinstance(value, str):
        return " ".join(clean_text(value).split())[:VALUE_MAX]
    return [" ".join(clean_text(one).split())[:VALUE_MAX] for one in value[:NAMED_MAX]]
