// What matches no conversation and waits for a sender's proof: its last words, and the way to say where it belongs.

import { html, useState } from "./vendor.js";
import { ask } from "./api.js";
import { Channel, Fault, Since, useFocusInside } from "./parts.js";
import { conversations, go, held, heldTotal, loadHeld, mayTalk } from "./state.js";

const WHYS = {
  ambiguous: "several conversations could be meant",
  claim: "names a reference of somebody not known there",
  nothing_open: "one of us wrote, with nothing open to answer",
  queue_full: "its conversation is full: answer some of what waits there, then file this",
};

// A conversation's screen follows the journal by its id, which the list knows.
const idOf = (reference) => (conversations.value || []).find((one) => one.reference === reference)?.id || reference;

function File({ one, done, first }) {
  const [reference, setReference] = useState("");
  const [problem, setProblem] = useState(null);
  const [busy, setBusy] = useState(false);
  const list = `candidates-${one.id}`;
  async function file(event) {
    event.preventDefault();
    setBusy(true);
    try {
      const filed = await ask("POST", `/v1/held/${one.id}/file`, { body: { conversation_id: reference.trim() } });
      loadHeld();
      go(`conversations/${filed.conversation_id}`);
    } catch (fault) {
      setProblem(fault);
      setBusy(false);
      if (fault.reason === "already_filed") loadHeld();
    }
  }
  return html`<form class="move" onSubmit=${file}>
    <label>Reference
      <input required ref=${first} maxlength="60" size="8" autocomplete="off" list=${list} value=${reference}
        onInput=${(event) => setReference(event.currentTarget.value)} />
    </label>
    <datalist id=${list}>${one.candidates.map((candidate) => html`<option value=${candidate}></option>`)}</datalist>
    <button type="submit" class="primary" disabled=${busy || !reference.trim()}>File</button>
    <button type="button" class="quiet" onClick=${done}>Leave it</button>
    <${Fault} problem=${problem} />
  </form>`;
}

function Held({ one }) {
  const [filing, setFiling] = useState(false);
  const [button, first] = useFocusInside(filing);
  const [problem, setProblem] = useState(null);
  async function dismiss() {
    try {
      await ask("DELETE", `/v1/held/${one.id}`);
    } catch (fault) {
      if (fault.reason !== "already_filed") return setProblem(fault);
    }
    loadHeld();
  }
  return html`<li class="held-one">
    <p class="row-top">
      <strong class="address">${one.address ? one.address.value : one.endpoint}</strong>
      <span class="waits">waits <${Since} at=${one.since} /></span>
    </p>
    ${one.last_text ? html`<p class="held-text" dir="auto">${one.last_text}</p>` : null}
    <p class="row-foot">
      <${Channel} endpoint=${one.endpoint} />
      ${one.messages > 1 ? html`<span class="tag">${one.messages} messages</span>` : null}
      <span>${WHYS[one.why] || one.why}${one.candidates.length ? ": " : ""}</span>
      ${one.candidates.map((candidate) => html`<a class="reference" href=${`#/conversations/${idOf(candidate)}`}>${candidate}</a>`)}
    </p>
    ${mayTalk.value && !filing
      ? html`<p class="actions">
          <button type="button" class="small" ref=${button} onClick=${() => setFiling(true)}>File in…</button>
          <button type="button" class="quiet small" onClick=${dismiss}>Dismiss</button>
        </p>`
      : null}
    ${filing ? html`<${File} one=${one} first=${first} done=${() => setFiling(false)} />` : null}
    <${Fault} problem=${problem} />
  </li>`;
}

export function WaitingForProof() {
  if (!held.value.length) return null;
  const rest = heldTotal.value - held.value.length;
  return html`<details class="held">
    <summary>Waiting for proof <span class="count unsure">${heldTotal}</span></summary>
    <p class="hint">It matches no conversation. Its sender was asked for a reference; you may file it where it belongs.</p>
    <ul>${held.value.map((one) => html`<${Held} key=${one.id} one=${one} />`)}</ul>
    ${rest > 0 ? html`<p class="hint">${rest} more wait less long.</p>` : null}
  </details>`;
}
