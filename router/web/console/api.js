// Ask /v1; every error is a Problem with words for people.

export class Problem extends Error {
  constructor(status, reason, words, faults = []) {
    super(words);
    this.status = status;
    this.reason = reason;
    this.faults = faults;
  }
}

const STALE = "What stands here may be old; it is asked for again by itself.";

let csrf = "";
let whenLoggedOut = () => {};

export function onLoggedOut(call) {
  whenLoggedOut = call;
}

export async function ask(method, path, { body, key } = {}) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (key) headers["Idempotency-Key"] = key;
  if (method !== "GET" && csrf) headers["X-CSRF-Token"] = csrf;
  let response;
  try {
    response = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    const so = method === "GET" ? STALE : "Nothing is known to have been done; try again.";
    throw new Problem(0, "offline", `The router does not answer. ${so}`);
  }
  if (response.ok) return response.status === 204 ? null : response.json();
  const problem = await readProblem(response);
  // The router's own words are about what was to be done; who only looks wants to know what to think of the screen.
  if (method === "GET" && problem.reason === "store_unavailable") {
    problem.message = `The router cannot look anything up now. ${STALE} What you write is kept.`;
  }
  if (response.status === 401) whenLoggedOut();
  throw problem;
}

async function readProblem(response) {
  try {
    const body = await response.json();
    const faults = (body.errors || []).map((fault) => `${fault.field}: ${fault.detail}`);
    return new Problem(response.status, body.reason, body.detail, faults);
  } catch {
    return new Problem(response.status, "unreadable", `The router answered ${response.status}.`);
  }
}

export async function logIn(key) {
  const session = await ask("POST", "/console/session", { body: { key } });
  csrf = session.csrf;
  return session;
}

export async function readSession() {
  const session = await ask("GET", "/console/session");
  csrf = session.csrf;
  return session;
}

export async function logOut() {
  await ask("DELETE", "/console/session");
  csrf = "";
}

// One key a thing to say: asked again after a lost answer, it is still said once.
export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
