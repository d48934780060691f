// What the console knows, and how it learns more: lists from /v1, and the event stream that says when to ask again.

import { computed, signal } from "./vendor.js";
import { ask } from "./api.js";

export const session = signal(undefined); // undefined: not asked yet; null: nobody is logged in
export const organisation = signal("");
export const me = signal(null);
export const endpoints = signal([]);
export const movesFrozen = signal(null); // since when and why nothing is moved, as it seems to be us
export const conversations = signal(null);
export const conversationsMore = signal(false);
export const conversationsWanted = signal(100); // how many of them; whoever needs more asks for more
export const held = signal([]); // what matches no conversation, who waits longest first
export const heldTotal = signal(0);
export const openOnly = signal(true);
export const agents = signal([]);
export const incidents = signal([]);
export const failovers = signal([]);
export const live = signal("connecting"); // "live", "connecting"
export const now = signal(Date.now());
export const route = signal(readRoute());
const troubles = signal({}); // by what was asked for
export const trouble = computed(() => Object.values(troubles.value)[0] || "");

export const endpointsById = computed(() => new Map(endpoints.value.map((one) => [one.id, one])));
export const ways = computed(() =>
  JSON.stringify([
    movesFrozen.value?.since,
    endpoints.value.map((one) => [one.id, one.status_out, one.status_in, one.gate_open, one.forced]),
  ]),
);
export const openIncidents = computed(() => incidents.value.filter((one) => one.state !== "resolved"));
export const agentNames = computed(() => new Map(agents.value.map((one) => [one.id, one.name])));
export const mayForce = computed(() => ["ops", "admin"].includes(session.value?.role));
export const mayTalk = computed(() => ["agent", "admin"].includes(session.value?.role));

const PAGE_MAX = 200;
export const CONVERSATIONS_MAX = 1000;
const HELD_PAGE = 20;
export const AGAIN_MS = 3000; // until what failed is asked for again
const listeners = new Set(); // screens that want each journal entry
let stream = null;
const pending = new Map();
const asked = new Map();

export function readRoute() {
  const [, screen = "", id = ""] = location.hash.split("/");
  try {
    return { screen: screen || "conversations", id: decodeURIComponent(id) };
  } catch {
    return { screen: "conversations", id: "" }; // an address that was cut off
  }
}

export function go(path) {
  location.hash = `#/${path}`;
}

addEventListener("hashchange", () => (route.value = readRoute()));
setInterval(() => (now.value = Date.now()), 5000);

// One question of a kind at a time: on a slow line they must not pile up, nor an older answer replace a newer one.
function load(name, call) {
  const busy = asked.get(name);
  if (busy) {
    busy.again = true;
    return busy.done;
  }
  const one = { again: true };
  asked.set(name, one);
  one.done = askUntilNew(name, one, call);
  return one.done;
}

async function askUntilNew(name, one, call) {
  while (one.again) {
    one.again = false;
    try {
      await call();
      say(name, "");
    } catch (problem) {
      if (problem.status !== 401) say(name, problem.message);
    }
  }
  asked.delete(name);
}

function say(name, words) {
  if ((troubles.value[name] || "") !== words) troubles.value = { ...troubles.value, [name]: words };
}

async function readConversations() {
  const found = new Map(); // the list moves while it is read in parts
  let cursor = "";
  do {
    const limit = Math.min(PAGE_MAX, conversationsWanted.value - found.size);
    const from = cursor ? `&cursor=${encodeURIComponent(cursor)}` : "";
    const page = await ask("GET", `/v1/conversations?limit=${limit}&open_only=${openOnly.value}${from}`);
    for (const one of page.items) found.set(one.id, one);
    cursor = page.next_cursor;
  } while (cursor && found.size < conversationsWanted.value);
  conversations.value = [...found.values()];
  conversationsMore.value = Boolean(cursor);
}

export const loadConversations = () => load("conversations", readConversations);
export const loadHeld = () =>
  load("held", async () => {
    const page = await ask("GET", `/v1/held?limit=${HELD_PAGE}`);
    held.value = page.items;
    heldTotal.value = page.total;
  });
export const loadEndpoints = () =>
  load("endpoints", async () => {
    const found = await ask("GET", "/v1/endpoints");
    endpoints.value = found.items;
    movesFrozen.value = found.moves_frozen;
  });
export const loadIncidents = () =>
  load("incidents", async () => (incidents.value = (await ask("GET", "/v1/incidents?limit=50")).items));
export const loadFailovers = () =>
  load("failovers", async () => {
    if (mayForce.value) failovers.value = (await ask("GET", "/v1/failovers?active_only=false")).items;
  });
const loadPeople = () =>
  load("people", async () => {
    me.value = await ask("GET", "/v1/me");
    organisation.value = me.value.organisation;
    agents.value = (await ask("GET", "/v1/agents")).items;
  });

export const loadAll = () =>
  Promise.all([loadPeople(), loadConversations(), loadHeld(), loadEndpoints(), loadIncidents(), loadFailovers()]);

// Whoever logs in next at this desk may see less.
export function forget() {
  me.value = null;
  conversations.value = null;
  conversationsWanted.value = 100;
  for (const list of [held, endpoints, agents, incidents, failovers]) list.value = [];
  movesFrozen.value = null;
  troubles.value = {};
}

// Many events at once make one question: the first asks soon, the rest are answered by it.
function soon(name, call, wait_ms) {
  if (pending.has(name)) return;
  pending.set(
    name,
    setTimeout(() => {
      pending.delete(name);
      call();
    }, wait_ms),
  );
}

export function listen(call) {
  listeners.add(call);
  return () => listeners.delete(call);
}

function take(entry) {
  if (/^(conversation|message|side|attempt)\./.test(entry.kind)) soon("conversations", loadConversations, 300);
  if (/^(conversation|message)\./.test(entry.kind)) soon("held", loadHeld, 300);
  if (/^(endpoint|attempt|side|moves)\./.test(entry.kind)) soon("endpoints", loadEndpoints, 500);
  if (/^(incident|endpoint)\./.test(entry.kind)) soon("incidents", loadIncidents, 500);
  if (/^failover\./.test(entry.kind)) {
    soon("failovers", loadFailovers, 300);
    soon("endpoints", loadEndpoints, 500);
  }
  for (const call of listeners) call(entry);
}

export function connect() {
  if (stream) return;
  stream = new EventSource("/v1/events");
  stream.onopen = () => {
    live.value = "live";
    // What happened while nobody listened is asked for: a stream that told nothing yet resumes nowhere.
    loadAll();
    for (const call of listeners) call({ kind: "stream.opened" });
  };
  stream.onmessage = (event) => take(JSON.parse(event.data));
  stream.onerror = () => {
    live.value = "connecting";
    if (stream && stream.readyState === EventSource.CLOSED) {
      disconnect();
      setTimeout(() => session.value && (connect(), loadAll()), AGAIN_MS);
    }
  };
}

export function disconnect() {
  if (stream) stream.close();
  stream = null;
  live.value = "connecting";
}

// What no event tells, such as a share that rises, is asked for now and then.
setInterval(() => {
  if (session.value && document.visibilityState === "visible") {
    loadEndpoints();
    if (live.value !== "live") {
      loadConversations();
      loadHeld();
    }
  }
}, 15000);
