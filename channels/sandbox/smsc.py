"""A stand-in message centre: SMPP 3.4 on a real port, with faults to switch on and customers who write."""

import asyncio
import random
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count

from channels.sandbox.vendor import FLAP_PERIOD_S, SLOW_S, Entry, Fault, Journal, Switch
from channels.wire.gsm0338 import Concatenation, UdhError, join_bodies, segment_text, split_header
from channels.wire.smpp import (
    RECEIPT,
    UDHI,
    Bind,
    BindResponse,
    Body,
    MessageResponse,
    Pdu,
    ShortMessage,
    SmppDecodeError,
    decode_pdu,
    encode_pdu,
    take_pdu,
)
from channels.wire.smpp_numbers import Command, CommandStatus, MessageState, Tag
from channels.wire.smpp_receipt import DeliveryReceipt, write_receipt

RECEIPT_AFTER_S = 0.2
RETRY_FOR_S = 600.0
RETRY_S, RETRY_MAX_S = 0.3, 5.0
ANSWER_S = 10.0
PARTS_MAX = 1_000
OUTBOX_MAX = 50_000
_BINDS = (Command.BIND_TRANSCEIVER, Command.BIND_RECEIVER, Command.BIND_TRANSMITTER)


@dataclass(eq=False, slots=True)
class _Client:
    """One connection to us."""

    writer: asyncio.StreamWriter
    bound: Command | None = None
    pending: dict[int, asyncio.Future[Pdu]] = field(default_factory=dict)

    def write(self, command: Command, sequence: int, status: int = 0, body: Body | None = None) -> None:
        if not self.writer.is_closing():
            self.writer.write(encode_pdu(Pdu(command, sequence, status, body)))


@dataclass(slots=True)
class _Collection:
    """The parts of one text, until all are here."""

    parts: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    vendor_ids: dict[int, str] = field(default_factory=dict)
    reference: str = ""


class SmscVendor:
    """The message centre behind one endpoint. Restarts on the same port; loses nothing it acknowledged."""

    def __init__(
        self,
        journal: Journal,
        *,
        endpoint: str = "sms/sandbox",
        host: str = "127.0.0.1",
        port: int = 0,
        system_id: str = "throughline",
        password: str = "sandbox",  # noqa: S107 it opens a stand-in on the loopback interface, nothing else
        number: str = "+15550199",
        receipt_after_s: float = RECEIPT_AFTER_S,
        canary: str = "",
    ) -> None:
        self.endpoint = endpoint
        self.canary = canary
        self.switch = Switch()
        self.host = host
        self.port = port
        """0 until started, unless given."""
        self.number = number
        """The organisation's own number, which customers write to."""
        self._journal = journal
        self._system_id = system_id
        self._password = password
        self._receipt_after_s = receipt_after_s
        self._server: asyncio.Server | None = None
        self._clients: set[_Client] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flapping: asyncio.Task[None] | None = None
        self._collections: OrderedDict[tuple[str, str, int, int], _Collection] = OrderedDict()
        self._outboxes: dict[str, deque[list[ShortMessage]]] = {}
        # Never the same twice, also not after a restart: receipts are matched by them for days.
        self._ids = count(int(time.time() * 1000))
        self._sequences = count(1)
        self._references = count(random.randrange(256))

    async def start(self) -> None:
        """Listen; the port chosen the first time is kept."""
        await self._open()

    async def stop(self) -> None:
        """Stop listening, drop connections, forget what was not delivered."""
        await self._stop_flapping()
        await self._shut()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._outboxes.clear()

    async def set_fault(self, fault: Fault, share: float = 1.0) -> None:
        """Switch a fault; REFUSE, and FLAP by turns, close the port and drop every connection."""
        await self._stop_flapping()
        self.switch = Switch(fault, share, time.time())
        if fault is Fault.FLAP:
            self._flapping = asyncio.create_task(self._flap())
        await self._follow_switch()

    async def write(self, customer: str, text: str, *, subject: str = "", in_reply_to: Entry | None = None) -> str:
        """The customer sends an SMS to our number; a long one travels in segments."""
        vendor_id = f"mo-{next(self._ids)}"
        messages, data_coding = self._inbound(customer, text)
        self._journal.add(
            at=time.time(),
            endpoint=self.endpoint,
            to_customer=False,
            customer=customer,
            text=text,
            vendor_id=vendor_id,
            subject=subject,
            details={"segments": str(len(messages)), "data_coding": str(data_coding)},
        )
        self._post(customer, messages)
        return vendor_id

    def _inbound(self, customer: str, text: str) -> tuple[list[ShortMessage], int]:
        """The segments in which a text comes to us, and their coding."""
        plan = segment_text(text, next(self._references) & 0xFF)
        messages = [
            ShortMessage(
                source_addr=customer.removeprefix("+"),
                source_addr_ton=1,
                source_addr_npi=1,
                destination_addr=self.number.removeprefix("+"),
                dest_addr_ton=1,
                dest_addr_npi=1,
                short_message=part,
                esm_class=UDHI if plan.has_header else 0,
                data_coding=plan.data_coding,
            )
            for part in plan.parts
        ]
        return messages, plan.data_coding

    def endpoint_table(self) -> dict[str, object]:
        """The `[[endpoints]]` table under which the router reaches this message centre."""
        return {
            "id": self.endpoint,
            "provider": "smpp",
            "host": self.host,
            "port": self.port,
            "system_id": self._system_id,
            "password": self._password,
            "sender": self.number,
        }

    async def _open(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, self.host, self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _shut(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
            await server.wait_closed()
        for client in tuple(self._clients):
            client.writer.transport.abort()

    async def _follow_switch(self) -> None:
        if self.switch.now_is(time.time()) is Fault.REFUSE:
            await self._shut()
        else:
            await self._open()

    async def _flap(self) -> None:
        half = FLAP_PERIOD_S / 2
        while True:
            # Just past the next turn, counted from the switch: no drift, and never a moment too early.
            await asyncio.sleep(half - (time.time() - self.switch.since) % half + 0.01)
            await self._follow_switch()

    async def _stop_flapping(self) -> None:
        task, self._flapping = self._flapping, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _begin(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = _Client(writer)
        self._clients.add(client)
        buffer = bytearray()
        try:
            while chunk := await reader.read(65_536):
                buffer += chunk
                while (raw := take_pdu(buffer)) is not None:
                    self._take_raw(client, raw)
        except SmppDecodeError as wrong:
            client.write(Command.GENERIC_NACK, wrong.sequence, wrong.status)
        except OSError:
            pass  # the client is gone; that is all there is to know
        finally:
            self._clients.discard(client)
            for answer in client.pending.values():
                answer.cancel()
            writer.close()

    def _take_raw(self, client: _Client, raw: bytes) -> None:
        try:
            pdu = decode_pdu(raw)
        except SmppDecodeError as wrong:
            client.write(Command.GENERIC_NACK, wrong.sequence, wrong.status)
            return
        if pdu.command.is_response:
            answer = client.pending.pop(pdu.sequence, None)
            if answer is not None and not answer.done():
                answer.set_result(pdu)
            return
        # A share below one hits messages only: the connection itself stays well.
        if self.switch.fault is Fault.HANG and self.switch.share >= 1:
            return
        self._take_request(client, pdu)

    def _take_request(self, client: _Client, pdu: Pdu) -> None:
        match pdu.body:
            case Bind() as bind if pdu.command in _BINDS:
                self._take_bind(client, pdu, bind)
            case ShortMessage() as message if pdu.command is Command.SUBMIT_SM:
                self._take_submit(client, pdu.sequence, message)
            case _ if pdu.command is Command.ENQUIRE_LINK:
                client.write(Command.ENQUIRE_LINK_RESP, pdu.sequence)
            case _ if pdu.command is Command.UNBIND:
                client.bound = None
                client.write(Command.UNBIND_RESP, pdu.sequence)
            case _:
                client.write(Command.GENERIC_NACK, pdu.sequence, CommandStatus.ESME_RINVCMDID)

    def _take_bind(self, client: _Client, pdu: Pdu, bind: Bind) -> None:
        status = CommandStatus.ESME_ROK
        if bind.system_id != self._system_id:
            status = CommandStatus.ESME_RINVSYSID
        elif bind.password != self._password:
            status = CommandStatus.ESME_RINVPASWD
        elif client.bound is not None:
            status = CommandStatus.ESME_RALYBND
        else:
            client.bound = pdu.command
        body = BindResponse("sandbox") if status == CommandStatus.ESME_ROK else None
        client.write(pdu.command.response, pdu.sequence, status, body)

    def _take_submit(self, client: _Client, sequence: int, message: ShortMessage) -> None:
        if client.bound not in (Command.BIND_TRANSCEIVER, Command.BIND_TRANSMITTER):
            client.write(Command.SUBMIT_SM_RESP, sequence, CommandStatus.ESME_RINVBNDSTS)
            return
        fault = self.switch.now_is(time.time())
        if fault is not Fault.NONE and random.random() >= self.switch.share:
            fault = Fault.NONE
        refusals = {Fault.ERROR: CommandStatus.ESME_RSYSERR, Fault.THROTTLE: CommandStatus.ESME_RTHROTTLED}
        if fault is Fault.HANG:
            return
        if fault in refusals:
            client.write(Command.SUBMIT_SM_RESP, sequence, refusals[fault])
            return
        if not message.destination_addr.isdigit():
            client.write(Command.SUBMIT_SM_RESP, sequence, CommandStatus.ESME_RINVDSTADR)
            return
        vendor_id = f"{next(self._ids):08x}"
        lost = fault is Fault.LOSE_SILENTLY
        self._write_down(message, vendor_id, lost=lost)
        if not lost and message.registered_delivery & 1:
            self._begin(asyncio.create_task(self._send_receipt(message, vendor_id)))
        if fault is Fault.DROP_AFTER_ACCEPT:
            client.writer.transport.abort()
            return
        self._begin(
            asyncio.create_task(self._answer(client, sequence, vendor_id, SLOW_S if fault is Fault.SLOW else 0.0))
        )

    async def _answer(self, client: _Client, sequence: int, vendor_id: str, after_s: float) -> None:
        if after_s:
            await asyncio.sleep(after_s)
        client.write(Command.SUBMIT_SM_RESP, sequence, body=MessageResponse(vendor_id))

    def _write_down(self, message: ShortMessage, vendor_id: str, *, lost: bool) -> None:
        """One journal entry a text, when its last segment is here."""
        concatenation, body = _split(message)
        concatenation = concatenation or Concatenation(0, 1, 1)
        key = (message.source_addr, message.destination_addr, concatenation.reference, concatenation.total)
        collection = self._collections.pop(key, None) or _Collection()
        collection.parts[concatenation.part] = (message.data_coding, body)
        collection.vendor_ids[concatenation.part] = vendor_id
        reference = message.user_message_reference
        collection.reference = collection.reference or ("" if reference is None else str(reference))
        if len(collection.parts) < concatenation.total:
            self._collections[key] = collection
            if len(self._collections) > PARTS_MAX:
                self._collections.popitem(last=False)
            return
        numbers = sorted(collection.parts)
        if self.canary and "+" + message.destination_addr == self.canary:
            if not lost:
                text = join_bodies([collection.parts[number] for number in numbers])
                self._post(self.canary, self._inbound(self.canary, text)[0])
            return
        self._journal.add(
            at=time.time(),
            endpoint=self.endpoint,
            to_customer=True,
            customer="+" + message.destination_addr,
            text=join_bodies([collection.parts[number] for number in numbers]),
            vendor_id=collection.vendor_ids[numbers[0]],
            delivered=not lost,
            details={
                "segments": str(len(numbers)),
                "data_coding": str(message.data_coding),
                "user_message_reference": collection.reference,
                "vendor_ids": " ".join(collection.vendor_ids[number] for number in numbers),
                "validity_period": message.validity_period,
                "sender": message.source_addr,
            },
        )

    async def _send_receipt(self, message: ShortMessage, vendor_id: str) -> None:
        submitted = datetime.now(UTC).strftime("%y%m%d%H%M")
        await asyncio.sleep(self._receipt_after_s)
        receipt = DeliveryReceipt(vendor_id, MessageState.DELIVERED, "000")
        done = datetime.now(UTC).strftime("%y%m%d%H%M")
        tlvs = [(int(Tag.RECEIPTED_MESSAGE_ID), vendor_id.encode() + b"\0"), (int(Tag.MESSAGE_STATE), b"\x02")]
        reference = message.user_message_reference
        if reference is not None:
            tlvs.append((int(Tag.USER_MESSAGE_REFERENCE), reference.to_bytes(2, "big")))
        receipt_message = ShortMessage(
            source_addr=message.destination_addr,
            source_addr_ton=message.dest_addr_ton,
            source_addr_npi=message.dest_addr_npi,
            destination_addr=message.source_addr,
            dest_addr_ton=message.source_addr_ton,
            dest_addr_npi=message.source_addr_npi,
            esm_class=RECEIPT,
            short_message=write_receipt(receipt, submitted=submitted, done=done),
            tlvs=tuple(tlvs),
        )
        self._post(f"receipt {vendor_id}", [receipt_message])

    def _post(self, whose: str, messages: list[ShortMessage]) -> None:
        """Deliver in the background: one customer's texts in order, other customers beside them."""
        outbox = self._outboxes.get(whose)
        if outbox is not None:
            outbox.append(messages)
        elif len(self._outboxes) < OUTBOX_MAX:
            self._outboxes[whose] = deque([messages])
            self._begin(asyncio.create_task(self._empty_outbox(whose)))

    async def _empty_outbox(self, whose: str) -> None:
        outbox = self._outboxes[whose]
        try:
            while outbox:
                messages = outbox.popleft()
                until = time.monotonic() + RETRY_FOR_S
                for message in messages:
                    await self._deliver(message, until)
        finally:
            self._outboxes.pop(whose, None)

    async def _deliver(self, message: ShortMessage, until: float) -> None:
        """Try until it is acknowledged with ESME_ROK, or refused for good, or the time is up."""
        pause = RETRY_S
        while time.monotonic() < until:
            status = await self._try_deliver(message)
            if status in (CommandStatus.ESME_ROK, CommandStatus.ESME_RX_P_APPN):
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, RETRY_MAX_S) if status is not None else RETRY_S

    async def _try_deliver(self, message: ShortMessage) -> int | None:
        """The peer's answer; None if nobody is bound, or nobody answered."""
        receivers = [
            client
            for client in self._clients
            if client.bound in (Command.BIND_TRANSCEIVER, Command.BIND_RECEIVER) and not client.writer.is_closing()
        ]
        if not receivers or self.switch.now_is(time.time()) in (Fault.HANG, Fault.REFUSE):
            return None
        client = random.choice(receivers)
        sequence = next(self._sequences)
        answer: asyncio.Future[Pdu] = asyncio.get_running_loop().create_future()
        client.pending[sequence] = answer
        client.write(Command.DELIVER_SM, sequence, body=message)
        done, _ = await asyncio.wait([answer], timeout=ANSWER_S)
        client.pending.pop(sequence, None)
        return answer.result().status if done and not answer.cancelled() else None


def _split(message: ShortMessage) -> tuple[Concatenation | None, bytes]:
    if not message.has_header:
        return None, message.user_data
    try:
        return split_header(message.user_data)
    except UdhError:
        return None, message.user_data
