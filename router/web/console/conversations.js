// The list, who waits longest first, beside the conversation that is open.

import { html, useState } from "./vendor.js";
import { ask } from "./api.js";
import { Channel, Empty, Fault, Since } from "./parts.js";
import {
  CONVERSATIONS_MAX, agentNames, conversations, conversationsMore, conversationsWanted, endpointsById, go,
  loadConversations, me, openOnly, route, session,
} from "./state.js";
import { WaitingForProof } from "./held.js";
import { Conversation } from "./conversation.js";
import { channelOf } from "./words.js";

const isAway = (endpoint) => endpointsById.value.get(endpoint)?.status_out === "down";

function Row({ one }) {
  const here = route.value.id === one.id || route.value.id === one.reference;
  const mine = me.value && one.assignee && one.assignee === me.value.agent_id;
  const title = one.customer_name || `Customer of ${one.reference}`;
  const endpoint = one.customer_side.endpoint;
  return html`<li>
    <a href=${`#/conversations/${one.id}`} class=${`row ${here ? "here" : ""}`} aria-current=${here ? "true" : undefined}>
      <span class="row-top">
        <strong dir="auto">${title}</strong>
        ${one.waiting_since
          ? html`<span class="waits">waits <${Since} at=${one.waiting_since} /></span>`
          : html`<span class="answered">${one.open ? "answered" : "closed"}</span>`}
      </span>
      <span class="row-text" dir="auto">${one.last_text || one.subject || (session.value.role === "ops" ? "" : "No words yet")}</span>
      <span class="row-foot">
        <${Channel} endpoint=${endpoint} />
        ${one.home && endpoint && one.home !== endpoint ? html`<span class="tag moved">moved from ${channelOf(one.home)}</span>` : null}
        ${isAway(endpoint) ? html`<span class="tag bad">${endpoint} is down</span>` : null}
        ${one.message_class === "urgent" ? html`<span class="tag bad">urgent</span>` : null}
        ${one.assignee ? html`<span class="tag">${mine ? "yours" : agentNames.value.get(one.assignee) || "assigned"}</span>` : null}
        <span class="reference">${one.reference}</span>
      </span>
    </a>
  </li>`;
}

// Customers name their reference; whoever names one may wait beyond what the list shows, or be closed or archived.
function Find() {
  const [reference, setReference] = useState("");
  const [problem, setProblem] = useState(null);
  async function find(event) {
    event.preventDefault();
    setProblem(null);
    try {
      const found = await ask("GET", `/v1/conversations/${encodeURIComponent(reference.trim())}`);
      setReference("");
      go(`conversations/${found.id}`);
    } catch (fault) {
      setProblem(fault);
    }
  }
  return html`<form class="find" role="search" onSubmit=${find}>
    <input type="search" required maxlength="60" autocomplete="off" spellcheck=${false} aria-label="Find by reference" placeholder="Reference, like 4F2K9"
      value=${reference} onInput=${(event) => setReference(event.currentTarget.value)} />
    <button type="submit" disabled=${!reference.trim()}>Find</button>
    <${Fault} problem=${problem} />
  </form>`;
}

function More({ shown }) {
  if (!conversationsMore.value) return null;
  if (shown >= CONVERSATIONS_MAX) return html`<p class="hint pad">These are the first ${shown}; find others by their reference.</p>`;
  function more() {
    conversationsWanted.value = Math.min(CONVERSATIONS_MAX, conversationsWanted.value + 100);
    loadConversations();
  }
  return html`<p class="pad more"><span class="hint">These are the first ${shown}.</span> <button type="button" onClick=${more}>Show more</button></p>`;
}

export function Conversations() {
  const items = conversations.value;
  const id = route.value.id;
  function choose(event) {
    openOnly.value = !event.currentTarget.checked;
    loadConversations();
  }
  return html`<div class=${`panes ${id ? "has-one" : ""}`}>
    <section class="list" aria-label="Conversations">
      <div class="list-head">
        <h1>Conversations</h1>
        <label class="check"><input type="checkbox" checked=${!openOnly.value} onChange=${choose} /> closed too</label>
      </div>
      <${Find} />
      <${WaitingForProof} />
      ${items === null
        ? html`<p class="hint pad" role="status">Loading…</p>`
        : items.length
          ? html`<ul class="rows">${items.map((one) => html`<${Row} key=${one.id} one=${one} />`)}</ul>`
          : html`<${Empty} title="Nobody waits">Conversations show up here as soon as somebody writes.<//>`}
      <${More} shown=${items?.length || 0} />
    </section>
    <section class="one" aria-label="Conversation">
      ${id
        ? html`<${Conversation} key=${id} id=${id} />`
        : html`<${Empty} title="Choose a conversation">The one who waits longest is on top.<//>`}
    </section>
  </div>`;
}
