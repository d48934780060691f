// What was said, in order: where each message went, how far it got, and its attempts when asked for.

import { html, useEffect, useRef, useState } from "./vendor.js";
import { ask } from "./api.js";
import { Channel, Fault, When } from "./parts.js";
import { bytes, clock, plain, stateTone, stateWords } from "./words.js";

const TAKEN_BACK = new Set(["queued", "parked", "needs_human"]);
const NEAR_END_PX = 120;

function Marks({ message }) {
  const marks = [];
  if (message.possible_duplicate) marks.push(["unsure", "possible duplicate", "It may have arrived twice: an earlier attempt's outcome was unknown."]);
  if (message.late) marks.push(["unsure", "late", "It was said well before it could be passed on."]);
  if (message.unverified) marks.push(["bad", "sender unverified", "Nothing proves that it came from this address."]);
  return marks.map(([tone, words, why]) => html`<span class=${`tag ${tone}`} title=${why}>${words}</span>`);
}

function Attempts({ attempts }) {
  return html`<details class="attempts">
    <summary>${attempts.length === 1 ? "1 attempt" : `${attempts.length} attempts`}</summary>
    <ol>
      ${attempts.map(
        (one) => html`<li>
          <code>${one.endpoint}</code> ${one.address.value}
          <span class=${`outcome ${one.outcome || "open"}`}>${plain(one.outcome) || "under way"}</span>
          ${one.reason ? html`<span class="hint">${plain(one.reason)}</span>` : null}
          <span class="hint"><${When} at=${one.begun_at} />${one.ended_at ? html` – <${When} at=${one.ended_at} />` : null}</span>
        </li>`,
      )}
    </ol>
  </details>`;
}

function Files({ files }) {
  return html`<ul class="files">
    ${files.map(
      (file) => html`<li>
        <a href=${`/v1/files/${file.sha256}?name=${encodeURIComponent(file.name)}`} download=${file.name}>${file.name}</a>
        <span class="hint">${bytes(file.size)}</span>
      </li>`,
    )}
  </ul>`;
}

function Message({ message, changed }) {
  const [problem, setProblem] = useState(null);
  const ours = message.to === "customer";
  const system = message.kind !== "message";
  async function takeBack() {
    try {
      await ask("DELETE", `/v1/messages/${message.id}`);
      changed();
    } catch (fault) {
      setProblem(fault);
    }
  }
  const parked = message.state === "parked" && message.parked_until ? ` until ${clock(message.parked_until)}` : "";
  return html`<li class=${`message ${system ? "system" : ours ? "ours" : "theirs"}`}>
    <div class="bubble">
      ${message.subject ? html`<p class="subject" dir="auto">${message.subject}</p>` : null}
      <p class="text" dir="auto">${message.text}</p>
      ${message.files.length ? html`<${Files} files=${message.files} />` : null}
    </div>
    <p class="meta">
      <span>${system ? plain(message.kind) : message.author_name || (ours ? "We" : "Customer")}</span>
      <${Channel} endpoint=${message.endpoint} />
      <${When} at=${message.created_at} />
      ${ours ? html`<span class=${`state ${stateTone(message.state)}`}>${stateWords(message.state)}${parked}</span>` : null}
      ${ours && message.reason ? html`<span class="hint">${plain(message.reason)}</span>` : null}
      <${Marks} message=${message} />
      ${ours && TAKEN_BACK.has(message.state) ? html`<button type="button" class="quiet small" onClick=${takeBack}>Take back</button>` : null}
    </p>
    ${ours && message.attempts.length ? html`<${Attempts} attempts=${message.attempts} />` : null}
    <${Fault} problem=${problem} />
  </li>`;
}

// On a phone the whole conversation is scrolled, head and reply box along with it.
const scroller = (box) => (getComputedStyle(box).overflowY === "visible" ? box.closest(".one") : box);

function showEnd(box) {
  const scrolled = scroller(box);
  scrolled.scrollTop = scrolled.scrollHeight;
}

export function Transcript({ said, view, changed, earlier }) {
  const [asking, setAsking] = useState(false);
  const box = useRef(null);
  const atEnd = useRef(true);
  const first = said.length ? said[0].sequence : 0;
  const before = useRef({ first, fromEnd: 0 });
  if (box.current && first !== before.current.first) {
    const { scrollHeight, scrollTop } = scroller(box.current);
    before.current = { first, fromEnd: scrollHeight - scrollTop };
  }
  useEffect(() => {
    // What is put above does not move what somebody reads.
    const scrolled = scroller(box.current);
    if (!atEnd.current) scrolled.scrollTop = scrolled.scrollHeight - before.current.fromEnd;
  }, [first]);
  const last = said.length ? said[said.length - 1].id : "";
  useEffect(() => {
    if (box.current && atEnd.current) showEnd(box.current);
  }, [last, said.length]);
  useEffect(() => {
    // What stands below grows, and states and attempts are told later: whoever read the end goes on seeing it.
    const watch = new ResizeObserver(() => {
      if (atEnd.current && box.current) showEnd(box.current);
    });
    const one = box.current.closest(".one");
    one.addEventListener("scroll", remember);
    watch.observe(box.current);
    watch.observe(box.current.querySelector("ol"));
    return () => {
      watch.disconnect();
      one.removeEventListener("scroll", remember);
    };
  }, []);
  async function askEarlier() {
    setAsking(true);
    await earlier();
    setAsking(false);
    box.current?.focus({ preventScroll: true }); // the button may be gone, or far above
  }
  function remember() {
    if (!box.current) return;
    const { scrollTop, clientHeight, scrollHeight } = scroller(box.current);
    atEnd.current = scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
  }
  return html`<div class="transcript" ref=${box} onScroll=${remember} tabindex="0" role="log"
    aria-label=${`Transcript with ${view.customer_name || "the customer"}`}>
    ${first > 1
      ? html`<p class="earlier"><button type="button" disabled=${asking} onClick=${askEarlier}>Show earlier messages</button></p>`
      : null}
    <ol>${said.map((message) => html`<${Message} key=${message.id} message=${message} changed=${changed} />`)}</ol>
  </div>`;
}
