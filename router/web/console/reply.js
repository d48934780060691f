// The box to answer in: which way the answer will take, and what that way allows.

import { html, useEffect, useRef, useState } from "./vendor.js";
import { ask, newKey } from "./api.js";
import { draftOf, dropDraft, keepDraft } from "./drafts.js";
import { Channel, Fault, When } from "./parts.js";
import { endpointsById } from "./state.js";
import { bytes, channelOf, segments } from "./words.js";

const FILES_MAX = 10;
const TEXT_MAX = 100000; // of the API, whatever the endpoint would carry
const FILES_BYTES_MAX = 10000000;
const NOWHERE = "nowhere";
const ON_DISK = "on disk";
const ANSWER_SHOWN = 200; // characters of what somebody else answered meanwhile

async function encode(file) {
  const url = await new Promise((done, fail) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => fail(new Error(`${file.name} cannot be read.`));
    reader.readAsDataURL(file);
  });
  const type = /^[a-z0-9.+-]+\/[A-Za-z0-9.+-]+$/.test(file.type) ? file.type : "application/octet-stream";
  return { name: file.name, media_type: type, content: url.slice(url.indexOf(",") + 1) };
}

function isElsewhere(side, next) {
  return next.endpoint !== side.endpoint || (next.address && side.address && next.address.value !== side.address.value);
}

function Way({ side, next }) {
  if (!next.endpoint) {
    const why = next.reason === "no_route" ? "There is no way to the customer now." : next.words;
    return html`<span><strong class="bad-text">${why}</strong> What you write waits, and goes out when there is a way.</span>`;
  }
  const to = next.address ? ` to ${next.address.value}` : "";
  const way = html`<${Channel} endpoint=${next.endpoint} /> <code>${next.endpoint}</code>${to}`;
  if (next.waits_until) {
    return html`<span>Goes out by ${way}, from <${When} at=${next.waits_until} /> on. <span class="hint">${next.words}</span></span>`;
  }
  if (!isElsewhere(side, next)) return html`<span>Goes out by ${way}.</span>`;
  const here = side.endpoint && next.route.find((one) => one.endpoint === side.endpoint && !one.taken);
  const not = here ? html`<strong class="bad-text">Not by <code>${side.endpoint}</code>: ${here.words}</strong> ` : null;
  return html`<span>${not}Goes out by ${way} instead. <span class="hint">${next.words}</span></span>`;
}

function Why({ next }) {
  const known = next.route.filter((one) => one.reason !== "no_binding");
  return html`<details class="ways"><summary>Why?</summary>
    <ul>${known.map(
      (one) => html`<li class=${one.taken ? "" : "hint"}><code>${one.endpoint}</code> ${one.taken ? "can take it" : "cannot"}: ${one.words}</li>`,
    )}</ul></details>`;
}

function limitsOf(endpoint) {
  const { text_max: max = TEXT_MAX, files_max_bytes: filesMax = 0 } = endpoint?.capabilities || {};
  return [Math.min(max, TEXT_MAX), Math.min(filesMax, FILES_BYTES_MAX)];
}

function Limits({ text, files, endpoint }) {
  if (!endpoint) return null;
  const [max, filesMax] = limitsOf(endpoint);
  const parts = [];
  const used = Array.from(text).length;
  parts.push(html`<span class=${used > max ? "bad-text" : ""}>${used} of ${max.toLocaleString()} characters</span>`);
  if (endpoint.channel === "sms") {
    const { count, gsm } = segments(text);
    const words = count === 1 ? "1 SMS" : `${count} SMS`;
    parts.push(html`<span>${words}${text && !gsm ? ", because of letters outside the SMS alphabet" : ""}</span>`);
  }
  parts.push(html`<span>${filesMax ? `files up to ${bytes(filesMax)}` : `no files over ${channelOf(endpoint.id)}`}</span>`);
  const total = files.reduce((sum, file) => sum + file.size, 0);
  if (total > filesMax) parts.push(html`<span class="bad-text">these files have ${bytes(total)}</span>`);
  return html`<p class="limits" id="limits">${parts}</p>`;
}

function fits(text, files, endpoint) {
  if (!text.trim() && !files.length) return false;
  const [max, filesMax] = limitsOf(endpoint);
  return Array.from(text).length <= max && files.reduce((sum, file) => sum + file.size, 0) <= filesMax && files.length <= FILES_MAX;
}

function takenWords(goes) {
  if (goes === ON_DISK) return "Taken, and kept on disk: the router cannot look anything up now. It stands here, and goes out, once it can.";
  return goes === NOWHERE ? "Taken. It goes out as soon as there is a way." : `Taken. It goes out over ${goes}.`;
}

// Two agents in one conversation do not see each other type.
function Meanwhile({ said, since }) {
  const found = since ? said.findLast((one) => one.sequence > since && one.to === "customer" && one.kind === "message") : null;
  if (!found) return null;
  const words = found.text.length > ANSWER_SHOWN ? `${found.text.slice(0, ANSWER_SHOWN)}…` : found.text;
  return html`<p class="meanwhile" role="status"><strong>${found.author_name || "Somebody"} answered while you wrote:</strong> <span dir="auto">${words}</span></p>`;
}

export function Reply({ view, path, said, sent }) {
  const draft = draftOf(view.id);
  const [text, setText] = useState(draft.text);
  const [files, setFiles] = useState(draft.files);
  const [problem, setProblem] = useState(null);
  const [busy, setBusy] = useState(false);
  const [taken, setTaken] = useState(null); // where the last message went out, as far as one could know
  const field = useRef(null);
  const picker = useRef(null);
  const { customer_side: side, next } = view;
  const endpoint = endpointsById.value.get(next.endpoint || side.endpoint);
  const last = said.length ? said[said.length - 1] : null;
  // After a move it would contradict what stands above the box: what still waits has moved along.
  const shown = taken === ON_DISK || taken === (next.endpoint || NOWHERE) ? takenWords(taken) : "";
  const ready = !busy && fits(text, files, endpoint);

  // Another text is another message: it gets a key of its own. The same text keeps its key over retries.
  function keep(change) {
    const { text: before, files: attached, since } = draftOf(view.id);
    const begins = !before && !attached.length;
    keepDraft(view.id, { ...change, key: newKey(), lost: [], since: begins ? last?.sequence || 0 : since });
    setTaken(null);
  }
  useEffect(() => {
    if (taken === ON_DISK) setTaken(null); // it stands in the transcript now
  }, [last?.id]);
  useEffect(() => {
    const box = field.current;
    box.rows = Math.min(10, Math.max(3, text.split("\n").length));
  }, [text]);

  // An answer may be long in coming: what was written on meanwhile is the next message.
  function leaveWhatCameSince() {
    const now = draftOf(view.id);
    const rest = now.text.startsWith(text) ? now.text.slice(text.length).trimStart() : now.text;
    const more = now.files.filter((file) => !files.includes(file));
    setText(rest);
    setFiles(more);
    keep({ text: rest, files: more });
  }
  async function send(event) {
    event?.preventDefault();
    if (!ready) return;
    const { key } = draftOf(view.id);
    setBusy(true);
    setProblem(null);
    try {
      const body = { text, files: await Promise.all(files.map(encode)) };
      const answer = await ask("POST", `${path}/messages`, { body, key });
      if (draftOf(view.id).key === key) {
        dropDraft(view.id);
        setText("");
        setFiles([]);
      } else leaveWhatCameSince();
      const goes = (answer.endpoint === side.endpoint ? next.endpoint : answer.endpoint) || NOWHERE;
      setTaken(answer.durable === "spool" ? ON_DISK : goes);
      sent();
    } catch (fault) {
      setProblem(fault);
    }
    setBusy(false);
    field.current?.focus();
  }
  function pick(event) {
    const chosen = [...files, ...event.currentTarget.files].slice(0, FILES_MAX);
    setFiles(chosen);
    keep({ files: chosen });
    event.currentTarget.value = "";
  }
  function drop(at) {
    const left = files.filter((_, index) => index !== at);
    setFiles(left);
    keep({ files: left });
  }
  const mayFiles = Boolean(limitsOf(endpoint)[1]);
  return html`<form class="reply" onSubmit=${send}>
    <div class="way"><label for="reply-text"><${Way} side=${side} next=${next} /></label> <${Why} next=${next} /></div>
    <textarea id="reply-text" ref=${field} rows="3" value=${text} aria-describedby="limits" dir="auto"
      placeholder=${`Answer ${view.customer_name || "the customer"}…`}
      onInput=${(event) => (setText(event.currentTarget.value), keep({ text: event.currentTarget.value }))}
      onKeyDown=${(event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && send(event)}></textarea>
    ${files.length
      ? html`<ul class="files">${files.map((file, at) => html`<li>${file.name} <span class="hint">${bytes(file.size)}</span>
          <button type="button" class="quiet small" aria-label=${`Leave out ${file.name}`} onClick=${() => drop(at)}>leave out</button></li>`)}</ul>`
      : null}
    ${draft.lost?.length ? html`<p class="hint" role="status">Attach again, for files are not kept over a reload: ${draft.lost.join(", ")}</p>` : null}
    <${Meanwhile} said=${said} since=${text || files.length ? draft.since : 0} />
    <${Fault} problem=${problem} />
    <div class="reply-foot">
      <${Limits} text=${text} files=${files} endpoint=${endpoint} />
      <span class="said" role="status">${shown}</span>
      ${mayFiles
        ? html`<input type="file" multiple hidden ref=${picker} onChange=${pick} aria-label="Files to attach" />
            <button type="button" onClick=${() => picker.current.click()}>Attach…</button>`
        : null}
      <button type="submit" class="primary" disabled=${!ready} title="Ctrl+Enter">${busy ? "Sending…" : "Send"}</button>
    </div>
  </form>`;
}
