// Where both sides of a conversation are, why, and the way to move the customer's by hand.

import { html, useState } from "./vendor.js";
import { ask } from "./api.js";
import { Bindings } from "./bindings.js";
import { Channel, Fault, Since, Status, useFocusInside } from "./parts.js";
import { endpoints, endpointsById, mayTalk } from "./state.js";
import { LEG_REASONS, plain } from "./words.js";

function Move({ view, path, moved, done, first }) {
  const [endpoint, setEndpoint] = useState("");
  const [why, setWhy] = useState("");
  const [problem, setProblem] = useState(null);
  const choices = endpoints.value.filter(
    (one) => one.id !== view.customer_side.endpoint && one.provider !== "console" && one.capabilities.replyable,
  );
  async function move(event) {
    event.preventDefault();
    try {
      moved(await ask("PUT", `${path}/customer-side`, { body: { endpoint, why } }));
      done();
    } catch (fault) {
      setProblem(fault);
    }
  }
  return html`<form class="move" onSubmit=${move}>
    <label>Go on at
      <select required ref=${first} value=${endpoint} onChange=${(event) => setEndpoint(event.currentTarget.value)}>
        <option value="">choose…</option>
        ${choices.map((one) => html`<option value=${one.id}>${one.id}${one.gate_open ? "" : " (down)"}</option>`)}
      </select>
    </label>
    <label>because
      <input required maxlength="200" value=${why} onInput=${(event) => setWhy(event.currentTarget.value)}
        placeholder="the customer asked for it" />
    </label>
    <button type="submit" class="primary" disabled=${!endpoint || !why.trim()}>Move</button>
    <button type="button" class="quiet" onClick=${done}>Leave it</button>
    <${Fault} problem=${problem} />
  </form>`;
}

export function Places({ view, path, moved }) {
  const [moving, setMoving] = useState(false);
  const [button, first] = useFocusInside(moving);
  const side = view.customer_side;
  const endpoint = endpointsById.value.get(side.endpoint);
  return html`<div class="places">
    <p>
      <span class="label">Customer</span> <${Channel} endpoint=${side.endpoint} />
      ${side.endpoint ? html`<code>${side.endpoint}</code>` : null}
      ${side.address ? html`<span class="address">${side.address.value}</span>` : null}
      ${endpoint && endpoint.status_out !== "up" ? html`<${Status} status=${endpoint.status_out} />` : null}
      <span class="hint">${LEG_REASONS[side.reason] || plain(side.reason)}${side.since ? html`, <${Since} at=${side.since} />` : null}</span>
      ${side.queued ? html`<span class="tag unsure">${side.queued} waiting to go out</span>` : null}
      ${mayTalk.value && view.open && !moving
        ? html`<button type="button" class="quiet small" ref=${button} onClick=${() => setMoving(true)}>Move…</button>`
        : null}
    </p>
    <p><span class="label">Agent</span> <${Channel} endpoint=${view.agent_side.endpoint} /> <code>${view.agent_side.endpoint}</code></p>
    ${moving ? html`<${Move} view=${view} path=${path} moved=${moved} first=${first} done=${() => setMoving(false)} />` : null}
    ${mayTalk.value ? html`<${Bindings} key=${view.customer_id} view=${view} path=${path} moved=${moved} />` : null}
  </div>`;
}
