// The list, who waits longest first, beside the conversation that is open.

import { html } from "./vendor.js";
import { Channel, Empty, Since } from "./parts.js";
import {
  agentNames, conversations, conversationsMore, endpointsById, loadConversations, me, openOnly, route, session,
} from "./state.js";
import { WaitingForProof } from "./held.js";
import { Conversation } from "./conversation.js";
import { channelOf } from "./words.js";

const isAway = (endpoint) => endpointsById.value.get(endpoint)?.status_out === "down";

function Row({ one }) {
  const here = route.value.id === one.id;
  const mine = me.value && one.assignee && one.assignee === me.value.agent_id;
  const title = one.customer_name || `Customer of ${one.reference}`;
  const endpoint = one.customer_side.endpoint;
  return html`<li>
    <a href=${`#/conversations/${one.id}`} class=${`row ${here ? "here" : ""}`} aria-current=${here ? "true" : undefined}>
      <span class="row-top">
        <strong>${title}</strong>
        ${one.waiting_since
          ? html`<span class="waits">waits <${Since} at=${one.waiting_since} /></span>`
          : html`<span class="answered">${one.open ? "answered" : "closed"}</span>`}
      </span>
      <span class="row-text">${one.last_text || one.subject || (session.value.role === "ops" ? "" : "No words yet")}</span>
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
      <${WaitingForProof} />
      ${items === null
        ? html`<p class="hint pad" role="status">Loading…</p>`
        : items.length
          ? html`<ul class="rows">${items.map((one) => html`<${Row} key=${one.id} one=${one} />`)}</ul>`
          : html`<${Empty} title="Nobody waits">Conversations show up here as soon as somebody writes.<//>`}
      ${conversationsMore.value ? html`<p class="hint pad">These are the first ${items.length}; the rest waits less long.</p>` : null}
    </section>
    <section class="one" aria-label="Conversation">
      ${id
        ? html`<${Conversation} key=${id} id=${id} />`
        : html`<${Empty} title="Choose a conversation">The one who waits longest is on top.<//>`}
    </section>
  </div>`;
}
