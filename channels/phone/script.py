"""What a call says next: from the step it is in and the matter it is about to TwiML. Pure."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from channels.messages import Kind, Matter, OutboundMessage
from channels.phone.phrases import Phrases, phrases_for, spelled
from channels.wire.twiml import Dial, Gather, Hangup, Pause, Say, Verb, render

KEY_WAIT_S = 10
WORDS_WAIT_S = 10
SPOKEN_MAX = 3500
"""Characters of one text that are read out; the rest stays in the conversation."""
CONNECT_RING_S = 20
CONNECTED_S = 3600


class Step(StrEnum):
    """Where a call stands."""

    CALL = "call"  # we called, a person or nobody knows who answered
    VOICEMAIL = "voicemail"  # we called, a machine answered
    INBOUND = "inbound"  # they called
    MATTER = "matter"  # a key was pressed
    THANKS = "thanks"  # an answer was filed
    CONNECT = "connect"  # they asked for a person
    NOBODY_FREE = "nobody_free"  # and none picked up
    WITHHELD = "withheld"  # they called and do not show their number
    GOODBYE = "goodbye"
    STATUS = "status"  # the call is over, nobody listens


@dataclass(frozen=True, slots=True)
class Saying:
    """What one attempt is to say: by the time a key is pressed the conversation may have gone on."""

    reference: str
    locale: str
    what_happened: str
    text: str

    @classmethod
    def of(cls, message: OutboundMessage) -> "Saying":
        """The words of a message; a notice is itself what happened, and the last message follows it."""
        matter, text = message.matter, message.content.text
        if message.kind is Kind.NOTICE:
            return cls(matter.reference, matter.locale, text, matter.last_reply)
        return cls(matter.reference, matter.locale, matter.what_happened, text)

    def encoded(self) -> str:
        """As kept between the steps of a call."""
        return json.dumps([self.reference, self.locale, self.what_happened, self.text], ensure_ascii=False)

    @classmethod
    def decoded(cls, value: str) -> "Saying":
        """What `encoded` made."""
        reference, locale, what_happened, text = json.loads(value)
        return cls(reference, locale, what_happened, text)

    def laid_over(self, matter: Matter | None, organisation: str) -> Matter:
        """The matter as this attempt may speak of it."""
        known = matter or Matter(organisation=organisation, reference="", locale="")
        return replace(
            known,
            reference=self.reference,
            locale=self.locale,
            what_happened=self.what_happened,
            last_reply=self.text,
        )


@dataclass(frozen=True, slots=True)
class CallScript:
    """The script of one endpoint."""

    organisation: str
    locale: str
    from_number: str
    callback_number: str
    connect_allowed: frozenset[str]
    hook_url: Callable[[str, Mapping[str, str]], str]

    def next_document(self, fields: Mapping[str, str], matter: Matter | None) -> bytes:
        """The TwiML for `fields` (`step`, `token`, `reply_token`, `n`, `saying`), as `receive` left them."""
        if fields.get("saying"):
            matter = Saying.decoded(fields["saying"]).laid_over(matter, self.organisation)
        phrases = phrases_for(matter.locale, self.locale) if matter else phrases_for(self.locale)
        turn = _Turn(self, fields, matter, phrases)
        verbs: tuple[Verb, ...]
        match Step(fields["step"]):
            case Step.CALL:
                verbs = turn.greeting()
            case Step.VOICEMAIL:
                verbs = turn.voicemail()
            case Step.INBOUND:
                verbs = turn.welcome()
            case Step.MATTER:
                verbs = turn.matter_read()
            case Step.THANKS:
                verbs = (turn.ask(phrases.thanks, turn.number() + 1), *turn.farewell())
            case Step.CONNECT:
                verbs = turn.connection()
            case Step.NOBODY_FREE:
                verbs = (turn.ask(phrases.nobody_free, turn.number()), *turn.farewell())
            case Step.WITHHELD:
                verbs = turn.no_number()
            case Step.GOODBYE:
                verbs = turn.farewell()
            case Step.STATUS:
                verbs = ()
        return render(*verbs)


@dataclass(frozen=True, slots=True)
class _Turn:
    """One step of one call."""

    script: CallScript
    fields: Mapping[str, str]
    matter: Matter | None
    phrases: Phrases

    def greeting(self) -> tuple[Verb, ...]:
        """Who calls and the reference, twice; nothing else before a key is pressed."""
        matter = self.matter
        first = self.phrases.greeting if matter and matter.reference else self.phrases.greeting_plain
        prompt = (self._say(first), self._say(self.phrases.press_key))
        return (self._key(prompt), self._key(prompt), *self.farewell())

    def voicemail(self) -> tuple[Verb, ...]:
        """Who called, the reference, a number to call: a machine may be heard by anyone."""
        matter = self.matter
        words = self.phrases.voicemail if matter and matter.reference else self.phrases.voicemail_plain
        return (Pause(1), self._say(words), Hangup())

    def welcome(self) -> tuple[Verb, ...]:
        """A caller: after a key their open matter, else they leave words."""
        welcome = self._say(self.phrases.welcome)
        words = self._words((self._say(self.phrases.leave_words),), number=1)
        if self.matter is None:
            return (welcome, words, *self.farewell())
        key = self._key((welcome, self._say(self.phrases.welcome_matter)))
        return (key, words, *self.farewell())

    def matter_read(self) -> tuple[Verb, ...]:
        """What happened and our last message; then it is their turn."""
        said: list[Verb] = []
        matter = self.matter
        if matter is not None:
            if matter.what_happened:
                said.append(Say(matter.what_happened[:SPOKEN_MAX], self.phrases.language))
            if matter.last_reply:
                said.append(self._say(self.phrases.last_message, matter.last_reply))
        if not said:
            said.append(self._say(self.phrases.nothing_new))
        prompt = [self._say(self.phrases.ask)]
        if self._agent_number():
            prompt.append(self._say(self.phrases.offer_agent))
        return (*said, self._words(tuple(prompt), number=1), *self.farewell())

    def number(self) -> int:
        """Which answer of this call we are at, from 1."""
        value = self.fields.get("n", "")
        return int(value) if value.isascii() and value.isdigit() and len(value) <= 4 else 1

    def ask(self, words: str, number: int) -> Gather:
        """Room for the answer with this number."""
        return self._words((self._say(words),), number)

    def connection(self) -> tuple[Verb, ...]:
        """The agent, if one is free and may be called; else words."""
        number = self._agent_number()
        if not number:
            return (self.ask(self.phrases.nobody_free, self.number()), *self.farewell())
        action = self._url("connected", {"n": self.fields.get("n", "")})
        dial = Dial(number, action, self.script.from_number, CONNECT_RING_S, CONNECTED_S)
        return (self._say(self.phrases.connecting), dial)

    def no_number(self) -> tuple[Verb, ...]:
        """Words from nowhere could be answered to nobody: say so before any are spoken."""
        return (self._say(self.phrases.welcome), self._say(self.phrases.no_number), Hangup())

    def farewell(self) -> tuple[Verb, ...]:
        """The end."""
        return (self._say(self.phrases.goodbye), Hangup())

    def _agent_number(self) -> str:
        number = self.matter.connect_to if self.matter else ""
        return number if number in self.script.connect_allowed else ""

    def _key(self, prompt: tuple[Say | Pause, ...]) -> Gather:
        # Every key counts, the hash key too: hence no finishing key.
        return Gather(
            self._url("matter", {}),
            prompt,
            num_digits=1,
            timeout_s=KEY_WAIT_S,
            finish_on_key="",
            language=self.phrases.language,
        )

    def _words(self, prompt: tuple[Say | Pause, ...], number: int) -> Gather:
        offered = "1" if self._agent_number() else ""
        return Gather(
            self._url("answer", {"n": str(number), "c": offered}),
            prompt,
            input="speech dtmf",
            timeout_s=WORDS_WAIT_S,
            finish_on_key="#",
            language=self.phrases.language,
            speech_timeout="auto",
        )

    def _url(self, step: str, query: Mapping[str, str]) -> str:
        carried = {"t": self.fields.get("token", ""), "r": self.fields.get("reply_token", "")}
        return self.script.hook_url(step, {**carried, **query})

    def _say(self, words: str, text: str = "") -> Say:
        """One of our sentences, its places filled."""
        matter = self.matter
        callback = (matter.callback_number if matter else "") or self.script.callback_number
        said = words.format(
            organisation=matter.organisation if matter else self.script.organisation,
            reference=spelled(matter.reference) if matter else "",
            number=spelled(callback),
            text=text[:SPOKEN_MAX],
        )
        return Say(said[: SPOKEN_MAX + 200], self.phrases.language)
