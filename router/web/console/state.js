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
export const held = signal([]); // what matches no conversation, who waits longest first
export const heldTotal = signal(0);
export const openOnly = signal(true);
export const agents = signal([]);
export const incidents = signal([]);
export const failovers = signal([]);
export const live = signal("connecting"); // "live", "connecting"
export const now = signal(Date.now());
export const route = signal(readRoute());
export const trouble = signal("");

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

const PAGE = 100;
const HELD_PAGE = 20;
const listeners = new Set(); // screens that want each journal entry
let stream = null;
const pending = new Map();

export function readRoute() {
  const [, screen = "", id = ""] = location.hash.split("/");
  return { screen: screen || "conversations", id: decodeURIComponent(id) };
}

export function go(path) {
  location.hash = `#/${path}`;
}

addEventListener("hashchange", () => (route.value = readRoute()));
setInterval(() => (now.value = Date.now()), 5000);

async function load(call) {
  try {
    await call();
    trouble.value = "";
  } catch (problem) {
    if (problem.status !== 401) trouble.value = problem.message;
  }
}

export const loadConversations = () =>
  load(async () => {
    const page = await ask("GET", `/v1/conversations?limit=${PAGE}&open_only=${openOnly.value}`);
    conversations.value = page.items;
    conversationsMore.value = Boolean(page.next_cursor);
  });
export const loadHeld = () =>
  load(async () => {
    const page = await ask("GET", `/v1/held?limit=${HELD_PAGE}`);
    held.value = page.items;
    heldTotal.value = page.total;
  });
export const loadEndpoints = () =>
  load(async () => {
    const found = await ask("GET", "/v1/endpoints");
    endpoints.value = found.items;
    movesFrozen.value = found.moves_frozen;
  });
export const loadIncidents = () =>
  load(async () => (incidents.value = (await ask("GET", "/v1/incidents?limit=50")).items));
export const loadFailovers = () =>
  load(async () => {
    if (mayForce.value) failovers.value = (await ask("GET", "/v1/failovers?active_only=false")).items;
  });

export async function loadAll() {
  await load(async () => {
    me.value = await ask("GET", "/v1/me");
    organisation.value = me.value.organisation;
    agents.value = (await ask("GET", "/v1/agents")).items;
  });
  await Promise.all([loadConversations(), loadHeld(), loadEndpoints(), loadIncidents(), loadFailovers()]);
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
  };
  stream.onmessage = (event) => take(JSON.parse(event.data));
  stream.onerror = () => {
    live.value = "connecting";
    if (stream && stream.readyState === EventSource.CLOSED) {
      disconnect();
      setTimeout(() => session.value && (connect(), loadAll()), 3000);
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
