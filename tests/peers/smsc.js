// A message centre made of the npm package `smpp`: prints what it takes as JSON lines, does what stdin says.
//   {"status": 88}                      answer submit_sm with this status from now on (0: take them)
//   {"deliver": {...}, "text": "hi"}    send a deliver_sm; hex in "body" is sent as it is
//   {"unbind": true} {"kill": true}     part politely; break every connection
"use strict";
const smpp = require("smpp");
const readline = require("readline");

const sessions = new Set();
let status = 0;
let taken = 0;
const say = (event) => process.stdout.write(JSON.stringify(event) + "\n");

const server = smpp.createServer((session) => {
  sessions.add(session);
  session.on("close", () => sessions.delete(session));
  session.on("error", () => sessions.delete(session));
  session.on("bind_transceiver", (pdu) => {
    const good = pdu.system_id === "peer" && pdu.password === "secret";
    session.send(pdu.response({ command_status: good ? 0 : smpp.ESME_RINVPASWD, system_id: "npm" }));
    say({ bound: good });
  });
  session.on("enquire_link", (pdu) => session.send(pdu.response()));
  session.on("unbind", (pdu) => session.send(pdu.response()));
  session.on("submit_sm", (pdu) => {
    const id = "npm-" + ++taken;
    const { message, udh } = pdu.short_message;
    session.send(pdu.response({ command_status: status, message_id: status ? "" : id }));
    say({ submit: id, status, to: pdu.destination_addr, message, coding: pdu.data_coding,
          udh: (udh || []).map((element) => element.toString("hex")), reference: pdu.user_message_reference });
    if (status || !pdu.registered_delivery) return;
    session.deliver_sm({
      source_addr: pdu.destination_addr, destination_addr: pdu.source_addr, esm_class: 4, data_coding: 0,
      short_message: Buffer.from(`id:${id} sub:001 dlvrd:001 submit date:2611211200 done date:2611211200 ` +
        "stat:DELIVRD err:000 text:"),
    });
  });
});

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const order = JSON.parse(line);
  if ("status" in order) status = order.status;
  for (const session of sessions) {
    if (order.deliver) {
      const body = "body" in order ? Buffer.from(order.body, "hex") : order.text;
      session.deliver_sm({ ...order.deliver, short_message: body }, (pdu) => say({ answered: pdu.command_status }));
    }
    if (order.unbind) session.unbind();
    if (order.kill) session.destroy();
  }
}).on("close", () => process.exit(0));

server.listen(0, "127.0.0.1", () => say({ port: server.address().port }));
