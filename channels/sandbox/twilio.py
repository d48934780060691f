"""Stand-in Twilio: an SMS account and a voice account, each with a port and a switch of its own."""

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable, Mapping

from aiohttp import web

from channels.sandbox.twilio_call import Auto, Call, NoSuchCall, Pressed, Spoken, Walk
from channels.sandbox.twilio_server import API, LOST, PATIENCE_S, Refused, TwilioServer, new_sid, query_value
from channels.sandbox.vendor import Entry, Journal

__all__ = ["Call", "NoSuchCall", "TwilioSmsVendor", "TwilioVoiceVendor"]

TEXT_MAX = 1600
WORDS_MAX = 4000
MESSAGES_MAX = 10_000
RECEIPT_S = 0.02
"""Between taking a message and each of its receipts."""
RING_S = 20.0
CALL_S = 14_400.0
CALLS_MAX = 1_000
AUTO_ANSWER_S = 0.1
REDIAL_S = 2.0
HISTORY_MAX = 200

_E164 = re.compile(r"\+[1-9][0-9]{6,14}")


class TwilioSmsVendor(TwilioServer):
    """Takes messages over REST, reports them sent and delivered, brings what customers write."""

    def __init__(
        self,
        endpoint: str,
        journal: Journal,
        public_url: str,
        *,
        number: str = "+15550100001",
        port: int = 0,
        auth_token: str = "",
        clock: Callable[[], float] = time.time,
        canary: str = "",
    ) -> None:
        super().__init__(endpoint, journal, public_url, number=number, port=port, auth_token=auth_token, clock=clock)
        self.canary = canary
        self.opted_out: set[str] = set()
        """Numbers Twilio itself will not write to (error 21610)."""
        self._statuses: dict[str, str] = {}
        self._last: dict[str, asyncio.Task[None]] = {}

    def endpoint_table(self) -> dict[str, object]:
        """The `[[endpoints]]` table under which the router reaches this vendor; call it after `start`."""
        return {"provider": "twilio-sms", **self.credentials()}

    async def write(self, customer: str, text: str, *, subject: str = "", in_reply_to: Entry | None = None) -> str:
        """The customer sends an SMS; its MessageSid. One customer's messages come in the order written.

        Raises ValueError for more than a telephone can send.
        """
        if len(text) > TEXT_MAX:
            raise ValueError(f"an SMS has at most {TEXT_MAX} characters")
        sid = new_sid("SM")
        self.journal.add(
            at=self._clock(), endpoint=self.endpoint, to_customer=False, customer=customer, text=text, vendor_id=sid
        )
        self._post_inbound(sid, customer, text)
        return sid

    def _post_inbound(self, sid: str, customer: str, text: str) -> None:
        form = {
            "MessageSid": sid,
            "SmsMessageSid": sid,
            "SmsSid": sid,
            "SmsStatus": "received",
            "AccountSid": self.account_sid,
            "From": customer,
            "To": self.number,
            "Body": text,
            "NumMedia": "0",
            "NumSegments": "1",
            "ApiVersion": "2010-04-01",
        }
        task = self.begin(self._bring(form, self._last.get(customer)))
        self._last[customer] = task
        task.add_done_callback(lambda done: self._forget(customer, done))

    async def _bring(self, form: Mapping[str, str], earlier: asyncio.Task[None] | None) -> None:
        if earlier is not None:
            await asyncio.wait({earlier})
        await self.post(self.hook(), form, patience_s=PATIENCE_S)

    def _forget(self, customer: str, done: asyncio.Task[None]) -> None:
        if self._last.get(customer) is done:
            del self._last[customer]

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Messages: create, and ask for one."""
        router.add_post(f"{API}/{self.account_sid}/Messages.json", self._take)
        router.add_get(f"{API}/{self.account_sid}/Messages/{{sid}}.json", self._show)

    async def _show(self, request: web.Request) -> web.Response:
        sid = request.match_info["sid"]
        if sid not in self._statuses:
            raise Refused(404, 20404, "The requested resource was not found")
        return web.json_response({"sid": sid, "status": self._statuses[sid]})

    async def _take(self, request: web.Request) -> web.Response:
        form = await self.form_of(request)
        to, body, callback = form.get("To", ""), form.get("Body", ""), form.get("StatusCallback", "")
        if not _E164.fullmatch(to):
            raise Refused(400, 21211, f"The 'To' number {to} is not a valid phone number.")
        if form.get("From") != self.number and not form.get("MessagingServiceSid"):
            raise Refused(400, 21606, "The 'From' phone number is not a valid, message-capable Twilio number.")
        if not body:
            raise Refused(400, 21602, "Message body is required.")
        if len(body) > TEXT_MAX:
            raise Refused(400, 21617, "The concatenated message body exceeds the 1600 character limit.")
        if to in self.opted_out:
            raise Refused(400, 21610, "Attempt to send to unsubscribed recipient")
        sid, lost = new_sid("SM"), request[LOST]
        if to != self.canary:
            self.journal.add(
                at=self._clock(),
                endpoint=self.endpoint,
                to_customer=True,
                customer=to,
                text=body,
                vendor_id=sid,
                delivered=not lost,
                details={"token": query_value(callback, "t")},
            )
        elif not lost:
            self._post_inbound(new_sid("SM"), to, body)
        self._statuses[sid] = "queued"
        while len(self._statuses) > MESSAGES_MAX:
            self._statuses.pop(next(iter(self._statuses)))
        if not lost and callback:
            self.begin(self._report(sid, to, callback))
        return web.json_response({"sid": sid, "status": "queued", "to": to, "error_code": None}, status=201)

    async def _report(self, sid: str, to: str, callback: str) -> None:
        for status in ("sent", "delivered"):
            await asyncio.sleep(RECEIPT_S)
            self._statuses[sid] = status
            form = {
                "MessageSid": sid,
                "MessageStatus": status,
                "SmsSid": sid,
                "SmsStatus": status,
                "AccountSid": self.account_sid,
                "From": self.number,
                "To": to,
                "ApiVersion": "2010-04-01",
            }
            await self.post(callback, form)


class TwilioVoiceVendor(TwilioServer):
    """Places calls over REST and leads them as Twilio does; the customer's phone is `calls` and what acts on them."""

    def __init__(
        self,
        endpoint: str,
        journal: Journal,
        public_url: str,
        *,
        number: str = "+15550100002",
        port: int = 0,
        auth_token: str = "",
        clock: Callable[[], float] = time.time,
        auto: Auto = "manual",
    ) -> None:
        super().__init__(endpoint, journal, public_url, number=number, port=port, auth_token=auth_token, clock=clock)
        self.auto: Auto = auto
        """`answer`: somebody picks up and presses a key; `voicemail`: a machine does; `manual`: the pocket decides."""
        self.dial_status = "completed"
        """How the leg to a dialled agent ends."""
        self.history: deque[Call] = deque(maxlen=HISTORY_MAX)
        """Calls that are over, latest last."""
        self._live: dict[str, Call] = {}

    def endpoint_table(self) -> dict[str, object]:
        """The `[[endpoints]]` table under which the router reaches this vendor; call it after `start`."""
        return {"provider": "twilio-voice", **self.credentials()}

    # The customer's phone

    @property
    def calls(self) -> list[Call]:
        """The live calls, oldest first, each with what was said so far."""
        return list(self._live.values())

    async def answer(self, call_sid: str) -> None:
        """Pick up. Raises NoSuchCall, as all of these do."""
        self._call(call_sid).pick_up("human")

    async def decline(self, call_sid: str) -> None:
        """Press the red button while it rings."""
        self._call(call_sid).pick_up("busy")

    async def to_voicemail(self, call_sid: str) -> None:
        """Let the answering machine take it."""
        self._call(call_sid).pick_up("machine")

    async def press(self, call_sid: str, digits: str) -> None:
        """Press keys: 0-9, * and #."""
        if not digits or not set(digits) <= set("0123456789*#"):
            raise ValueError("a telephone has the keys 0-9, * and #")
        self._call(call_sid).put(Pressed(digits))

    async def say(self, call_sid: str, text: str) -> None:
        """Speak; what is said while only keys are listened to is lost, as on a real call."""
        if len(text) > WORDS_MAX:
            raise ValueError(f"at most {WORDS_MAX} characters are said at once")
        self._call(call_sid).put(Spoken(text))

    async def hang_up(self, call_sid: str) -> None:
        """End the call; while it rings, decline it."""
        call = self._call(call_sid)
        call.pick_up("busy")
        call.hung_up.set()

    async def call_in(self, customer: str) -> str:
        """The customer calls us; the CallSid. Drive it with the methods above."""
        call = Call(new_sid("CA"), customer, self.hook("inbound"), self._clock(), inbound=True)
        self._begin(call)
        return call.sid

    async def write(self, customer: str, text: str, *, subject: str = "", in_reply_to: Entry | None = None) -> str:
        """The customer calls, presses a key, says this and hangs up; the message's id.

        Redialled under the same CallSid until we took it, at most 10 minutes: so it stays one message. Raises
        ValueError for more than anybody says at once.
        """
        if len(text) > WORDS_MAX:
            raise ValueError(f"at most {WORDS_MAX} characters are said at once")
        sid = new_sid("CA")
        self.journal.add(
            at=self._clock(),
            endpoint=self.endpoint,
            to_customer=False,
            customer=customer,
            text=text,
            vendor_id=f"{sid}:1",
        )
        self.begin(self._call_until_filed(sid, customer, text))
        return f"{sid}:1"

    async def _call_until_filed(self, sid: str, customer: str, text: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            call = Call(sid, customer, self.hook("inbound"), self._clock(), inbound=True, words=text)
            self._begin(call)
            await call.ended.wait()
            if call.filed:
                return
            await asyncio.sleep(REDIAL_S)

    def _call(self, call_sid: str) -> Call:
        try:
            return self._live[call_sid]
        except KeyError as error:
            raise NoSuchCall("this call is over") from error

    # The account

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Calls: create, and ask for one."""
        router.add_post(f"{API}/{self.account_sid}/Calls.json", self._take)
        router.add_get(f"{API}/{self.account_sid}/Calls/{{sid}}.json", self._show)

    async def _show(self, request: web.Request) -> web.Response:
        sid = request.match_info["sid"]
        for call in (*self.calls, *self.history):
            if call.sid == sid:
                return web.json_response({"sid": sid, "status": call.status, "answered_by": call.answered_by or None})
        raise Refused(404, 20404, "The requested resource was not found")

    async def _take(self, request: web.Request) -> web.Response:
        form = await self.form_of(request)
        to, url = form.get("To", ""), form.get("Url", "")
        if not _E164.fullmatch(to):
            raise Refused(400, 21211, f"The 'To' number {to} is not a valid phone number.")
        if form.get("From") != self.number:
            raise Refused(400, 21210, "The source phone number provided is not yet verified for your account.")
        if not url.startswith(("http://", "https://")):
            raise Refused(400, 21205, "Url is not a valid URL")
        if len(self._live) >= CALLS_MAX:
            raise Refused(429, 10004, "Call concurrency limit exceeded")
        sid, token, lost = new_sid("CA"), query_value(url, "t"), request[LOST]
        self.journal.add(
            at=self._clock(),
            endpoint=self.endpoint,
            to_customer=True,
            customer=to,
            text="",
            vendor_id=sid,
            delivered=not lost,
            details={"event": "call", "token": token},
        )
        if not lost:
            limits = float(form.get("Timeout", RING_S)), float(form.get("TimeLimit", CALL_S))
            self._begin(Call(sid, to, url, self._clock(), False, token, form.get("StatusCallback", ""), *limits))
        return web.json_response({"sid": sid, "status": "queued", "to": to, "from": self.number}, status=201)

    def _begin(self, call: Call) -> None:
        self._live[call.sid] = call
        self.begin(self._lead(call))

    async def _lead(self, call: Call) -> None:
        """One call from the first ring to its final status."""
        try:
            await self._ring(call)
            if call.pickup in ("human", "machine"):
                call.status = "in-progress"
                await self._talk(call)
                call.status = "completed"
            else:
                call.status = call.pickup
        finally:
            del self._live[call.sid]
            self.history.append(call)
            call.ended.set()
        if call.status_callback:
            await self.post(call.status_callback, self._parameters(call))

    async def _ring(self, call: Call) -> None:
        if call.inbound:
            call.pick_up("human")
            return
        if self.auto != "manual":
            await asyncio.sleep(AUTO_ANSWER_S)
            call.pick_up("human" if self.auto == "answer" else "machine")
        try:
            await asyncio.wait_for(call.picked.wait(), min(call.ring_s, RING_S))
        except TimeoutError:
            call.pick_up("no-answer")
        if call.pickup in ("human", "machine"):
            call.answered_by = "human" if call.pickup == "human" else "machine_end_beep"

    async def _talk(self, call: Call) -> None:
        walk = Walk(call, self.auto, self._fetch, self._heard, self._answered, self.dial_status)
        walking = asyncio.create_task(walk.run())
        gone = asyncio.create_task(call.hung_up.wait())
        try:
            await asyncio.wait({walking, gone}, timeout=call.limit_s, return_when=asyncio.FIRST_COMPLETED)
            if walking.done():
                walking.result()
        finally:
            for task in (walking, gone):
                task.cancel()
            await asyncio.gather(walking, gone, return_exceptions=True)

    async def _fetch(self, call: Call, url: str, parameters: Mapping[str, str]) -> bytes | None:
        return await self.post(url, {**self._parameters(call), **parameters})

    def _heard(self, call: Call, text: str) -> None:
        details = {"event": "say", "token": call.token, "answered_by": call.answered_by}
        self.journal.add(
            at=self._clock(),
            endpoint=self.endpoint,
            to_customer=True,
            customer=call.customer,
            text=text,
            vendor_id=call.sid,
            details=details,
        )

    def _answered(self, call: Call, text: str) -> None:
        if call.words:
            return  # written down when the caller resolved to say it
        self.journal.add(
            at=self._clock(),
            endpoint=self.endpoint,
            to_customer=False,
            customer=call.customer,
            text=text,
            vendor_id=f"{call.sid}:{call.filed}",
            details={"token": call.token},
        )

    def _parameters(self, call: Call) -> dict[str, str]:
        ours, theirs = self.number, call.customer
        fields = {
            "CallSid": call.sid,
            "AccountSid": self.account_sid,
            "ApiVersion": "2010-04-01",
            "CallStatus": call.status,
            "Direction": "inbound" if call.inbound else "outbound-api",
            "From": theirs if call.inbound else ours,
            "To": ours if call.inbound else theirs,
        }
        if call.answered_by:
            fields["AnsweredBy"] = call.answered_by
        if call.status == "completed":
            fields["CallDuration"] = str(max(1, round(self._clock() - call.started_at)))
        return fields
