// Small pieces that every screen uses.

import { html, useEffect, useRef } from "./vendor.js";
import { now } from "./state.js";
import { CHANNELS, STATUSES, clock, full, span } from "./words.js";

const SHAPES = {
  email: "M3 6.5h18v11H3z M3.5 7l8.5 6.5L20.5 7",
  chat: "M4 5h16v11H11l-4.5 3.5V16H4z",
  sms: "M7.5 3h9v18h-9z M10.5 18h3",
  phone: "M6 4l3.5-.5 1.5 4-2 1.5c1 2.5 2.5 4 5 5l1.5-2 4 1.5-.5 3.5c-7 1.5-14.5-6-13-13z",
};

export function ChannelIcon({ channel }) {
  return html`<svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">
    <path d=${SHAPES[channel] || SHAPES.chat} />
  </svg>`;
}

export function Channel({ endpoint }) {
  const channel = endpoint ? endpoint.split("/")[0] : "";
  if (!channel) return html`<span class="channel nowhere">nowhere yet</span>`;
  return html`<span class="channel" title=${endpoint}><${ChannelIcon} channel=${channel} />${CHANNELS[channel]}</span>`;
}

export function Status({ status, way }) {
  return html`<span class=${`status ${status}`}
    ><span class="dot" aria-hidden="true"></span>${way ? `${way} ` : ""}${STATUSES[status] || status}</span
  >`;
}

export function When({ at }) {
  if (!at) return null;
  return html`<time dateTime=${at} title=${full(at)}>${clock(at)}</time>`;
}

export function Since({ at }) {
  if (!at) return null;
  return html`<time dateTime=${at} title=${full(at)}>${span(at, now.value)}</time>`;
}

// A button that opens something goes away with it: the focus goes in, and comes back to the button.
export function useFocusInside(open) {
  const button = useRef(null);
  const inside = useRef(null);
  const was = useRef(open);
  useEffect(() => {
    if (open !== was.current) (open ? inside : button).current?.focus();
    was.current = open;
  }, [open]);
  return [button, inside];
}

export function Fault({ problem }) {
  if (!problem) return null;
  return html`<div class="fault" role="alert">
    <p>${problem.message}</p>
    ${problem.faults?.length ? html`<ul>${problem.faults.map((fault) => html`<li>${fault}</li>`)}</ul>` : null}
  </div>`;
}

export function Empty({ title, children }) {
  return html`<div class="empty"><p class="empty-title">${title}</p><p>${children}</p></div>`;
}
