// Force a failover: choose, see what it would do, say why, start; stop what runs.

import { html, useState } from "./vendor.js";
import { ask } from "./api.js";
import { Empty, Fault, Since, Status, When, useFocusInside } from "./parts.js";
import { endpoints, failovers, loadEndpoints, loadFailovers, mayForce, now } from "./state.js";
import { clock, plain } from "./words.js";

const EXPIRIES = [[900, "15 minutes"], [3600, "1 hour"], [14400, "4 hours"], [86400, "1 day"], [604800, "7 days"]];

function Counts({ counts, none }) {
  const rows = Object.entries(counts);
  if (!rows.length) return html`<p class="hint">${none}</p>`;
  return html`<ul>${rows.map(([name, count]) => html`<li><strong>${count}</strong> ${plain(name)}</li>`)}</ul>`;
}

function Preview({ preview }) {
  return html`<div class="preview" role="status">
    <h3>What it would do now</h3>
    <div class="preview-parts">
      <div><h4>Move to</h4><${Counts} counts=${preview.moved} none="Nobody would move." /></div>
      <div><h4>Wait</h4><${Counts} counts=${preview.parked} none="Nobody would wait." />
        ${preview.parked_until ? html`<p class="hint">the last until ${clock(preview.parked_until)}</p>` : null}</div>
      <div><h4>Stay</h4><${Counts} counts=${preview.stayed} none="Nobody would stay." /></div>
      <div><h4>At once</h4><p><strong>${preview.messages}</strong> ${preview.messages === 1 ? "message or notice" : "messages and notices"}</p><p>cost <strong>${Number(preview.cost).toFixed(2)}</strong></p></div>
    </div>
  </div>`;
}

function Start() {
  const [scope, setScope] = useState([]);
  const [target, setTarget] = useState("");
  const [expiry, setExpiry] = useState(3600);
  const [why, setWhy] = useState("");
  const [preview, setPreview] = useState(null);
  const [problem, setProblem] = useState(null);
  const [busy, setBusy] = useState(false);
  const choices = endpoints.value.filter((one) => one.provider !== "console");

  // A preview holds only for what it was made of.
  function choose(call) {
    setPreview(null);
    call();
  }
  function tick(id, checked) {
    choose(() => {
      setScope(checked ? [...scope, id] : scope.filter((one) => one !== id));
      if (checked && target === id) setTarget("");
    });
  }
  async function post(dry_run) {
    setBusy(true);
    setProblem(null);
    const body = { scope, target: target || null, expires_in_s: expiry, why: why.trim(), dry_run };
    try {
      const answer = await ask("POST", "/v1/failovers", { body });
      setPreview(dry_run ? answer.preview : null);
      if (!dry_run) {
        setScope([]);
        setTarget("");
        setWhy("");
        await Promise.all([loadFailovers(), loadEndpoints()]);
      }
    } catch (fault) {
      setProblem(fault);
    }
    setBusy(false);
  }
  return html`<form class="panel force" onSubmit=${(event) => (event.preventDefault(), scope.length && !busy && post(true))}>
    <h2>Force a failover</h2>
    <p class="hint">It overrides health both ways and ends by itself. Even then nobody goes back to an endpoint before it has worked for a while without a fault.</p>
    <fieldset>
      <legend>Away from</legend>
      <div class="ticks">
        ${choices.map(
          (one) => html`<label class="check"><input type="checkbox" checked=${scope.includes(one.id)}
              onChange=${(event) => tick(one.id, event.currentTarget.checked)} /> <code>${one.id}</code> <${Status} status=${one.status_out} /></label>`,
        )}
      </div>
    </fieldset>
    <div class="fields">
      <label>To
        <select value=${target} onChange=${(event) => choose(() => setTarget(event.currentTarget.value))}>
          <option value="">wherever each route leads</option>
          ${choices.filter((one) => !scope.includes(one.id)).map((one) => html`<option value=${one.id}>${one.id}</option>`)}
        </select>
      </label>
      <label>For
        <select value=${expiry} onChange=${(event) => setExpiry(Number(event.currentTarget.value))}>
          ${EXPIRIES.map(([seconds, words]) => html`<option value=${seconds}>${words}</option>`)}
        </select>
      </label>
      <label class="grow">Because
        <input maxlength="200" value=${why} placeholder="the vendor announced work" onInput=${(event) => setWhy(event.currentTarget.value)} />
      </label>
    </div>
    ${preview ? html`<${Preview} preview=${preview} />` : null}
    <${Fault} problem=${problem} />
    <p class="actions">
      ${preview
        ? html`<button key="back" type="button" onClick=${() => setPreview(null)}>Back</button>
            <button key="start" type="button" class="danger" disabled=${busy || !why.trim()} onClick=${() => post(false)}>Start failover</button>
            ${why.trim() ? null : html`<span class="hint">Say why first: whoever reads the journal will want to know.</span>`}`
        : html`<button key="preview" type="submit" class="primary" disabled=${busy || !scope.length}>Preview</button>
            ${scope.length ? null : html`<span class="hint">Choose what to lead away from.</span>`}`}
    </p>
  </form>`;
}

function Running({ one }) {
  const [sure, setSure] = useState(false);
  const [button, inside] = useFocusInside(sure);
  const [problem, setProblem] = useState(null);
  const active = !one.ended_at && new Date(one.expires_at) > now.value;
  async function stop() {
    try {
      await ask("DELETE", `/v1/failovers/${encodeURIComponent(one.id)}`);
      await Promise.all([loadFailovers(), loadEndpoints()]);
    } catch (fault) {
      setProblem(fault);
    }
  }
  return html`<li class=${`panel ${active ? "" : "over"}`}>
    <div class="failover-head">
      <h3>${one.scope.join(", ")} <span aria-label="to">→</span> ${one.target || "wherever each route leads"}</h3>
      <span class=${`tag ${active ? "unsure" : ""}`}>${active ? "active" : one.ended_at ? "stopped" : "expired"}</span>
    </div>
    <p>${one.why}</p>
    <p class="hint">
      ${one.who}, <${When} at=${one.started_at} /> – ${active ? html`ends by itself <${When} at=${one.expires_at} />` : html`<${When} at=${one.ended_at || one.expires_at} />`}
      ${active ? html`, runs for <${Since} at=${one.started_at} />` : null}
    </p>
    <${Fault} problem=${problem} />
    ${active
      ? sure
        ? html`<p class="sure"><button type="button" class="danger" ref=${inside} onClick=${stop}>Stop it now</button>
            <button type="button" class="quiet" onClick=${() => setSure(false)}>Let it run</button></p>`
        : html`<p><button type="button" ref=${button} onClick=${() => setSure(true)}>Stop…</button></p>`
      : null}
  </li>`;
}

export function Failovers() {
  if (!mayForce.value) {
    return html`<div class="page">
      <h1>Failovers</h1>
      <${Empty} title="Not with your role">Ops staff force a failover. You can move a single conversation: open it, and choose <em>Move…</em>.<//>
    </div>`;
  }
  const active = (one) => !one.ended_at && new Date(one.expires_at) > now.value;
  const sorted = [...failovers.value].sort((a, b) => active(b) - active(a) || new Date(b.started_at) - new Date(a.started_at));
  return html`<div class="page">
    <h1>Failovers</h1>
    <${Start} />
    <section aria-label="Forced failovers">
      <h2>Forced failovers</h2>
      ${sorted.length
        ? html`<ul class="failovers">${sorted.map((one) => html`<${Running} key=${one.id} one=${one} />`)}</ul>`
        : html`<${Empty} title="None">Health decides alone now.<//>`}
    </section>
  </div>`;
}
