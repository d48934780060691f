// Each endpoint with its status and why; incidents with their story.

import { html, useState } from "./vendor.js";
import { ask } from "./api.js";
import { ChannelIcon, Empty, Fault, Since, Status, When } from "./parts.js";
import { endpoints, incidents, loadIncidents, mayForce, openIncidents } from "./state.js";
import { CHANNELS, inLocalTime, plain } from "./words.js";

const WORST = { down: 0, suspect: 1, recovering: 2, unknown: 3, up: 4 };
const rank = (one) => Math.min(WORST[one.status_out], WORST[one.status_in]);

function Card({ one }) {
  const incident = openIncidents.value.find((found) => found.affected.some((part) => part.endpoint === one.id));
  const well = one.status_out === "up" && one.status_in === "up";
  const why = inLocalTime(one.words) || plain(one.reason);
  return html`<li class=${`card ${one.status_out}`}>
    <div class="card-head">
      <${ChannelIcon} channel=${one.channel} />
      <h3>${one.id}</h3>
      <span class="hint">${one.provider}</span>
    </div>
    <p class="card-status">
      <${Status} status=${one.status_out} way="Out:" />
      <${Status} status=${one.status_in} way="In:" />
    </p>
    ${why && !(well && !one.words) ? html`<p class="why">${why}</p>` : null}
    <dl>
      <div><dt>Since</dt><dd>${one.since ? html`<${Since} at=${one.since} />` : "the start"}</dd></div>
      <div><dt>Due</dt><dd>${one.due} ${one.due === 1 ? "side" : "sides"}</dd></div>
      ${one.share < 1
        ? html`<div><dt>Share of new</dt><dd><meter min="0" max="1" value=${one.share}>${Math.round(one.share * 100)} %</meter> ${Math.round(one.share * 100)} %</dd></div>`
        : null}
    </dl>
    <p class="card-tags">
      ${one.gate_open ? null : html`<span class="tag bad">gate closed: nothing begins here</span>`}
      ${one.forced ? html`<span class="tag unsure">forced ${one.forced}</span>` : null}
      ${one.capabilities.replyable ? null : html`<span class="tag">one way</span>`}
      ${incident ? html`<a class="tag bad" href="#/endpoints" onClick=${(event) => jump(event, incident.id)}>incident</a>` : null}
    </p>
  </li>`;
}

function jump(event, id) {
  event.preventDefault();
  const found = document.getElementById(`incident-${id}`);
  if (!found) return;
  found.open = true;
  found.scrollIntoView({ block: "center" });
  found.querySelector("summary").focus();
}

function Incident({ one }) {
  const [problem, setProblem] = useState(null);
  async function take() {
    try {
      await ask("POST", `/v1/incidents/${encodeURIComponent(one.id)}/acknowledge`);
      loadIncidents();
    } catch (fault) {
      setProblem(fault);
    }
  }
  const state = { open: "bad", acknowledged: "unsure", resolved: "fine" }[one.state];
  return html`<li>
    <details id=${`incident-${one.id}`} open=${one.state !== "resolved"}>
      <summary><span>${inLocalTime(one.title)}</span> <span class=${`tag ${state}`}>${one.state}</span></summary>
      <div class="incident">
        ${one.acknowledged_by ? html`<p class="hint">Looked after by ${one.acknowledged_by}.</p>` : null}
        <ol class="timeline">
          ${one.timeline.map((event) => html`<li><${When} at=${event.at} /> <span>${inLocalTime(event.words) || plain(event.kind)}</span></li>`)}
        </ol>
        ${one.dropped ? html`<p class="hint">${one.dropped} events in the middle are left out.</p>` : null}
        <${Fault} problem=${problem} />
        ${mayForce.value && one.state === "open" ? html`<button type="button" onClick=${take}>I look after it</button>` : null}
      </div>
    </details>
  </li>`;
}

export function Endpoints() {
  const channels = Object.keys(CHANNELS).filter((channel) => endpoints.value.some((one) => one.channel === channel));
  return html`<div class="page">
    <h1>Endpoints</h1>
    ${channels.map(
      (channel) => html`<section aria-label=${CHANNELS[channel]}>
        <h2>${CHANNELS[channel]}</h2>
        <ul class="cards">
          ${endpoints.value
            .filter((one) => one.channel === channel)
            .sort((a, b) => rank(a) - rank(b) || a.id.localeCompare(b.id))
            .map((one) => html`<${Card} key=${one.id} one=${one} />`)}
        </ul>
      </section>`,
    )}
    <section aria-label="Incidents">
      <h2>Incidents</h2>
      ${incidents.value.length
        ? html`<ul class="incidents">${incidents.value.map((one) => html`<${Incident} key=${one.id} one=${one} />`)}</ul>`
        : html`<${Empty} title="No incidents">Outages open one by themselves and gather their story here.<//>`}
    </section>
  </div>`;
}
