// The pocket: whose it is, what came, and how it is told to the phone, the mailbox and the vendors' switches.
import { make } from "./dom.js";
import { Mailbox } from "./mailbox.js";
import { People } from "./people.js";
import { Phone } from "./phone.js";
import { Vendors } from "./vendors.js";

const ENTRIES_MAX = 20_000;
const LOOK_BACK = 1_000;

const world = { state: null, entries: [], customer: null };
const people = new People(document.getElementById("whose"), (person) => {
  world.customer = person;
  draw();
});
const parts = [
  people,
  new Phone(document.getElementById("phone")),
  new Mailbox(document.getElementById("mailbox")),
  new Vendors(document.getElementById("vendors")),
];
const stream = document.getElementById("stream");
let due = false;

// Many entries at once make one drawing.
function draw() {
  if (due || !world.state) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    for (const part of parts) part.show(world);
  });
}

function drawLinks() {
  const { chat, console: desk } = world.state.links;
  document.getElementById("links").replaceChildren(
    make("a", { href: chat, target: "_blank", rel: "noopener" }, "Web chat"),
    make("a", { href: desk, target: "_blank", rel: "noopener" }, "Agents' console"),
  );
}

function listen() {
  const events = new EventSource(`/api/live?after=-${LOOK_BACK}`);
  events.addEventListener("state", ({ data }) => {
    const first = !world.state;
    world.state = JSON.parse(data);
    if (first) drawLinks();
    people.meet(world.state);
    draw();
  });
  events.addEventListener("entries", ({ data }) => {
    const last = world.entries.at(-1)?.number ?? 0;
    const fresh = JSON.parse(data);
    // A sandbox that was started anew counts from 1 again.
    if (fresh[0].number < last) world.entries = [];
    world.entries.push(...fresh);
    if (world.entries.length > ENTRIES_MAX) world.entries.splice(0, world.entries.length - ENTRIES_MAX);
    draw();
  });
  const say = (words, live) => {
    stream.textContent = words;
    stream.className = live ? "live" : "";
  };
  events.onopen = () => say("Live", true);
  events.onerror = () => {
    say("Connection lost; trying again…", false);
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, 2_000);
  };
}

document.addEventListener("redraw", draw);
listen();
