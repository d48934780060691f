// One conversation: who, where, what was said, and the box to answer in.

import { html, useEffect, useRef, useState } from "./vendor.js";
import { ask } from "./api.js";
import { Fault, Since, useFocusInside } from "./parts.js";
import { Places } from "./places.js";
import { Reply } from "./reply.js";
import { Transcript } from "./transcript.js";
import { AGAIN_MS, agents, listen, loadConversations, mayTalk, me, ways } from "./state.js";

const PAGE = 200;
const PAGES_MAX = 25;
const AGAIN = 40; // messages whose state may still change are asked for again
const WAIT_MS = 150;

// The transcript's end is asked for, and from then on what is new, with the last that was known.
async function readOn(path, known) {
  if (!known.length) return (await ask("GET", `${path}/messages?before=0&limit=${PAGE}`)).items;
  const items = [];
  let after = known[Math.max(0, known.length - AGAIN)].sequence - 1;
  for (let page = 0; page < PAGES_MAX; page += 1) {
    const found = (await ask("GET", `${path}/messages?after=${after}&limit=${PAGE}`)).items;
    items.push(...found);
    if (found.length < PAGE) break;
    after = found[found.length - 1].sequence;
  }
  return items;
}

// Both come while the other is asked for: what is new takes the place of what was known of it.
function join(known, items) {
  if (!items.length) return known;
  const [first, last] = [items[0].sequence, items[items.length - 1].sequence];
  return [...known.filter((one) => one.sequence < first), ...items, ...known.filter((one) => one.sequence > last)];
}

function useConversation(id) {
  const [view, setView] = useState(null);
  const [said, setSaid] = useState(null);
  const [problem, setProblem] = useState(null);
  const known = useRef([]);
  const path = `/v1/conversations/${encodeURIComponent(id)}`;
  const asking = useRef({ busy: false, again: false });
  const identity = useRef(id); // the address may name it by its reference
  const later = useRef(0);

  async function refresh() {
    if (asking.current.busy) {
      asking.current.again = true;
      return;
    }
    asking.current.busy = true;
    clearTimeout(later.current);
    try {
      const found = await ask("GET", path);
      identity.current = found.id;
      if (mayTalk.value) {
        known.current = join(known.current, await readOn(path, known.current));
        setSaid(known.current);
      }
      setView(found);
      setProblem(null);
    } catch (fault) {
      setProblem(fault);
      if (fault.status === 0 || fault.status === 503) later.current = setTimeout(refresh, AGAIN_MS);
    }
    asking.current.busy = false;
    if (asking.current.again) {
      asking.current.again = false;
      refresh();
    }
  }
  async function earlier() {
    try {
      const found = await ask("GET", `${path}/messages?before=${known.current[0].sequence}&limit=${PAGE}`);
      known.current = join(known.current, found.items);
      setSaid(known.current);
      setProblem(null);
    } catch (fault) {
      setProblem(fault);
    }
  }
  useEffect(() => {
    let timer = 0;
    refresh();
    const stop = listen((entry) => {
      const ours = entry.kind === "stream.opened" || entry.conversation_id === identity.current;
      if (!ours || timer) return;
      timer = setTimeout(() => {
        timer = 0;
        refresh();
      }, WAIT_MS);
    });
    return () => {
      clearTimeout(timer);
      clearTimeout(later.current);
      stop();
    };
  }, [id]);
  const knownWays = useRef(ways.value);
  useEffect(() => {
    // Where the next message goes depends on every endpoint.
    if (knownWays.current !== ways.value) refresh();
    knownWays.current = ways.value;
  }, [ways.value]);
  return { view, setView, said, problem, setProblem, path, refresh, earlier };
}

function Assign({ view, change }) {
  const mine = me.value?.agent_id;
  const known = agents.value.some((one) => one.id === view.assignee);
  return html`<label class="assign">
    <span>Assigned to</span>
    <select value=${view.assignee} onChange=${(event) => change({ assignee: event.currentTarget.value })}>
      <option value="">nobody</option>
      ${view.assignee && !known ? html`<option value=${view.assignee}>${view.assignee}</option>` : null}
      ${agents.value.map((one) => html`<option value=${one.id}>${one.name}${one.id === mine ? " (you)" : ""}</option>`)}
    </select>
  </label>`;
}

function Head({ view, change, close }) {
  const [sure, setSure] = useState(false);
  const [button, inside] = useFocusInside(sure);
  const title = useRef(null);
  useEffect(() => title.current.focus({ preventScroll: true }), []);
  return html`<header class="one-head">
    <a class="back" href="#/conversations" aria-label="Back to the list">‹</a>
    <div class="one-title">
      <h2 tabindex="-1" dir="auto" ref=${title}>${view.customer_name || "Customer"}</h2>
      <p>
        <span class="reference">${view.reference}</span>
        ${view.fields.continues
          ? html`<a href=${`#/conversations/${view.fields.continues}`}>goes on with ${view.fields.continues}</a>`
          : null}
        ${view.subject ? html`<span class="about" dir="auto" title=${view.subject}>${view.subject}</span>` : null}
        ${view.open
          ? view.waiting_since
            ? html`<span class="waits">waits <${Since} at=${view.waiting_since} /></span>`
            : null
          : html`<span class="tag">${view.archived ? "archived" : "closed"}</span>`}
      </p>
    </div>
    ${mayTalk.value && view.open
      ? html`<div class="one-tools">
          <${Assign} view=${view} change=${change} />
          ${sure
            ? html`<span class="sure" role="group" aria-label="Close this conversation?">
                <button type="button" class="primary" ref=${inside} onClick=${close}>Close it</button>
                <button type="button" class="quiet" onClick=${() => setSure(false)}>Keep open</button>
              </span>`
            : html`<button type="button" ref=${button} onClick=${() => setSure(true)}>Close…</button>`}
        </div>`
      : null}
  </header>`;
}

export function Conversation({ id }) {
  const { view, setView, said, problem, setProblem, path, refresh, earlier } = useConversation(id);
  async function act(call) {
    try {
      setView(await call());
      setProblem(null);
      loadConversations();
    } catch (fault) {
      setProblem(fault);
    }
  }
  if (!view) return problem ? html`<div class="pad"><${Fault} problem=${problem} /></div>` : html`<p class="hint pad" role="status">Loading…</p>`;
  return html`<${Head} view=${view} change=${(body) => act(() => ask("PATCH", path, { body }))}
      close=${() => act(() => ask("POST", `${path}/close`))} />
    <${Places} view=${view} path=${path} moved=${(found) => setView(found)} />
    <${Fault} problem=${problem} />
    ${mayTalk.value
      ? html`<${Transcript} said=${said || []} view=${view} changed=${refresh} earlier=${earlier} />`
      : html`<p class="hint pad">Your role sees where a conversation is, not what is said in it.</p>`}
    ${mayTalk.value && view.next ? html`<${Reply} view=${view} path=${path} said=${said || []} sent=${refresh} />` : null}
    ${view.open ? null : html`<p class="closed-note" role="status">${view.archived
      ? "This conversation is archived: it can only be read. If the customer answers it, a new one begins that names it."
      : "This conversation is closed. The customer can reopen it by writing."}</p>`}`;
}
