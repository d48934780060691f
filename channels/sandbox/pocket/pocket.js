// The pocket: whose it is, what came, and how it is told to the phone, the mailbox and the vendors' switches.
import { make } from "./dom.js";
import { Mailbox } from "./mailbox.js";
import { Phone } from "./phone.js";
import { Vendors } from "./vendors.js";

const ENTRIES_MAX = 20_000;
const LOOK_BACK = 1_000;

const world = { state: null, entries: [], customer: null };
const parts = [
  new Phone(document.getElementById("phone")),
  new Mailbox(document.getElementById("mailbox")),
  new Vendors(document.getElementById("vendors")),
];
const picker = document.getElementById("customer");
const stream = document.getElementById("stream");
let people = [];
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

function pick(key) {
  world.customer = people.find((person) => person.key === key) ?? people[0];
  sessionStorage.setItem("customer", world.customer.key);
  draw();
}

function drawPicker() {
  const named = world.state.people.map((person) => ({ ...person, key: person.name, label: `${person.name} (${person.email}, ${person.phone})` }));
  const known = new Set(named.flatMap((person) => [person.email, person.phone]));
  const seen = world.state.seen
    .filter((address) => !known.has(address))
    .map((address) => ({ key: address, label: address, name: address, email: address.includes("@") ? address : "", phone: address.includes("@") ? "" : address }));
  const fresh = [...named, ...seen];
  if (JSON.stringify(fresh) === JSON.stringify(people)) return;
  people = fresh;
  const option = (person) => make("option", { value: person.key }, person.label);
  picker.replaceChildren(...named.map(option), ...(seen.length ? [make("optgroup", { label: "Seen on the wire" }, ...seen.map(option))] : []));
  const key = world.customer?.key ?? sessionStorage.getItem("customer") ?? people[0].key;
  pick(people.some((person) => person.key === key) ? key : people[0].key);
  picker.value = world.customer.key;
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
    drawPicker();
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

picker.onchange = () => pick(picker.value);
document.getElementById("whose").onsubmit = (event) => event.preventDefault();
listen();
