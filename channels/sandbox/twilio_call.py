"""A call on the stand-in voice account: a phone that rings, and a walk through TwiML as Twilio takes it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, assert_never

from channels.wire import twiml

DOCUMENTS_MAX = 200
"""Documents one call may fetch."""
INPUTS_MAX = 20
SILENCE_S = 0.5
"""How long nobody says anything in automatic mode before the call goes on."""
SORRY = "We are sorry, an application error has occurred. Goodbye."

Pickup = Literal["human", "machine", "busy", "no-answer"]
Auto = Literal["manual", "answer", "voicemail"]
Fetch = Callable[["Call", str, Mapping[str, str]], Awaitable[bytes | None]]


class NoSuchCall(LookupError):
    """No live call has this id."""


@dataclass(frozen=True, slots=True)
class Pressed:
    """Keys of the telephone."""

    digits: str


@dataclass(frozen=True, slots=True)
class Spoken:
    """Words, as text in lieu of sound."""

    text: str


Said = Pressed | Spoken


@dataclass(slots=True, eq=False)
class Call:
    """One call as the person at the other end lives it."""

    sid: str
    customer: str
    url: str
    """Where its first document is."""
    started_at: float
    inbound: bool = False
    """They called us."""
    token: str = ""
    status_callback: str = ""
    ring_s: float = 20.0
    limit_s: float = 14_400.0
    status: str = "ringing"
    answered_by: str = ""
    said: list[str] = field(default_factory=list)
    """Every sentence they heard."""
    waiting_for: Literal["", "keys", "words"] = ""
    dialled: str = ""
    """The number the call was connected to."""
    words: str = ""
    """What a scripted caller has come to say: they press a key, say it, and hang up."""
    filed: int = 0
    """Answers of theirs that were taken."""
    picked: asyncio.Event = field(default_factory=asyncio.Event)
    pickup: Pickup = "no-answer"
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    inputs: asyncio.Queue[Said] = field(default_factory=lambda: asyncio.Queue(INPUTS_MAX))

    def pick_up(self, how: Pickup) -> None:
        """Answer, decline or let a machine take it; the first one counts."""
        if not self.picked.is_set():
            self.pickup = how
            self.picked.set()

    def put(self, said: Said) -> None:
        """Press keys or speak. Raises OverflowError when twenty inputs wait already."""
        try:
            self.inputs.put_nowait(said)
        except asyncio.QueueFull as error:
            raise OverflowError(f"{INPUTS_MAX} inputs wait already") from error


@dataclass(slots=True)
class Walk:
    """Takes one call through its documents."""

    call: Call
    auto: Auto
    fetch: Fetch
    heard: Callable[[Call, str], None]
    """Told of every sentence."""
    answered: Callable[[Call, str], None]
    """Told of every answer the router took."""
    dial_status: str = "completed"
    """How a dialled agent's leg ends."""

    async def run(self) -> None:
        """From the first document to the last; what cannot be fetched or read ends it with Twilio's apology."""
        document = await self.fetch(self.call, self.call.url, {})
        for _ in range(DOCUMENTS_MAX):
            if document is None:
                return self._speak(SORRY)
            try:
                verbs = twiml.parse(document)
            except twiml.TwimlError:
                return self._speak(SORRY)
            action, parameters, words = await self._perform(verbs)
            if not action:
                return None
            document = await self.fetch(self.call, action, parameters)
            if document is not None and words:
                self.call.filed += 1
                self.answered(self.call, words)
        return self._speak(SORRY)

    async def _perform(self, verbs: tuple[twiml.Verb, ...]) -> tuple[str, dict[str, str], str]:
        """Run one document; what to fetch next, with what, and their answer in it. No address: the call ends."""
        for verb in verbs:
            match verb:
                case twiml.Say():
                    self._speak(verb.text)
                case twiml.Pause():
                    if self.auto == "manual" and not self.call.words:
                        await asyncio.sleep(verb.length_s)
                case twiml.Gather():
                    said = await self._gather(verb)
                    if said is not None:
                        words = said.get("SpeechResult") or said["Digits"]
                        return verb.action, said, words if "speech" in verb.input else ""
                case twiml.Dial():
                    self.call.dialled = verb.number
                    return verb.action, {"DialCallStatus": self.dial_status}, ""
                case twiml.Redirect():
                    return verb.url, {}, ""
                case twiml.Record():
                    self._speak(SORRY)  # nothing of ours records; a stand-in that pretended would hide it
                    return "", {}, ""
                case twiml.Hangup():
                    return "", {}, ""
                case _:
                    assert_never(verb)
        return "", {}, ""

    def _speak(self, text: str) -> None:
        self.call.said.append(text)
        self.heard(self.call, text)

    async def _gather(self, gather: twiml.Gather) -> dict[str, str] | None:
        """What they press or say, as Twilio reports it; None if nothing."""
        for verb in gather.prompt:
            if isinstance(verb, twiml.Say):
                self._speak(verb.text)
        if self.call.answered_by.startswith("machine"):
            return None
        takes_words = "speech" in gather.input
        scripted = self._scripted(takes_words)
        if scripted is not None:
            return _parameters(scripted, gather)
        self.call.waiting_for = "words" if takes_words else "keys"
        try:
            seconds = SILENCE_S if self._is_automatic() else float(gather.timeout_s)
            async with asyncio.timeout(seconds):
                while True:
                    parameters = _parameters(await self.call.inputs.get(), gather)
                    if parameters is not None:
                        return parameters
        except TimeoutError:
            return None
        finally:
            self.call.waiting_for = ""

    def _is_automatic(self) -> bool:
        return bool(self.call.words) or (self.auto != "manual" and not self.call.inbound)

    def _scripted(self, takes_words: bool) -> Said | None:
        """What the automatic person does here."""
        if self.call.words:
            if not takes_words:
                return Pressed("1")
            return Spoken(self.call.words) if self.call.filed == 0 else None
        if self.auto == "answer" and not self.call.inbound and not takes_words:
            return Pressed("1")
        return None


def _parameters(said: Said, gather: twiml.Gather) -> dict[str, str] | None:
    """The webhook's parameters for an input; None if this `Gather` does not listen to it."""
    if isinstance(said, Spoken):
        text = said.text.strip()
        return {"SpeechResult": text, "Confidence": "0.95"} if text and "speech" in gather.input else None
    finish = "#" if gather.finish_on_key is None else gather.finish_on_key
    digits = said.digits.split(finish)[0] if finish else said.digits
    digits = digits[: gather.num_digits]
    return {"Digits": digits} if digits and "dtmf" in gather.input else None
