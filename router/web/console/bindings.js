// The customer's addresses: which of them may be written to, and what of that an agent may change.

import { html, useEffect, useRef, useState } from "./vendor.js";
import { ask } from "./api.js";
import { ChannelIcon, Fault, useFocusInside } from "./parts.js";
import { listen, now } from "./state.js";
import { CHANNELS, clock, full } from "./words.js";

const isSame = (one, other) =>
  one.address.channel === other.address.channel && one.address.value === other.address.value && one.endpoint === other.endpoint;
const isGone = (binding) => Boolean(binding.unreachable_until) && new Date(binding.unreachable_until).getTime() > now.value;

function Marks({ binding, here }) {
  return html`
    ${here ? html`<span class="tag fine">in use</span>` : null}
    ${binding.verified
      ? html`<span class="tag fine">verified</span>`
      : html`<span class="tag unsure" title="Nothing has proven yet that it is this customer's.">not verified</span>`}
    ${binding.consent ? null : html`<span class="tag bad" title="Nothing is sent there.">no consent</span>`}
    ${isGone(binding)
      ? html`<span class="tag unsure" title=${`The provider said that nobody is there: not tried before ${full(binding.unreachable_until)}.`}
          >nobody there, until ${clock(binding.unreachable_until)}</span>`
      : null}
  `;
}

function Binding({ binding, here, change }) {
  const [asking, setAsking] = useState(false);
  const [button, inside] = useFocusInside(asking);
  const words = binding.consent
    ? { opens: "Stop writing here…", question: "Did the customer say so?", sure: "Yes, stop" }
    : { opens: "Write here again…", question: "Did the customer agree?", sure: "Yes, they agreed" };
  async function answer() {
    await change(binding, { consent: !binding.consent });
    setAsking(false);
  }
  return html`<li class="binding">
    <span class="channel"><${ChannelIcon} channel=${binding.address.channel} />${CHANNELS[binding.address.channel]}</span>
    <span class="address">${binding.address.value}</span>
    ${binding.endpoint ? html`<code>${binding.endpoint}</code>` : null}
    <${Marks} binding=${binding} here=${here} />
    ${asking
      ? html`<span class="sure" role="group" aria-label=${words.question}>
          <span>${words.question}</span>
          <button type="button" class="small" ref=${inside} onClick=${answer}>${words.sure}</button>
          <button type="button" class="quiet small" onClick=${() => setAsking(false)}>No</button>
        </span>`
      : html`<button type="button" class="quiet small" ref=${button} onClick=${() => setAsking(true)}>${words.opens}</button>`}
    ${isGone(binding)
      ? html`<button type="button" class="quiet small" onClick=${() => change(binding, {})}>Try again now</button>`
      : null}
  </li>`;
}

export function Bindings({ view, path, moved }) {
  const [open, setOpen] = useState(false);
  const [customer, setCustomer] = useState(null);
  const [problem, setProblem] = useState(null);
  const asked = useRef(0);
  const whose = `/v1/customers/${encodeURIComponent(view.customer_id)}`;

  async function attempt(call) {
    asked.current += 1;
    const mine = asked.current;
    try {
      const found = await call();
      if (mine !== asked.current) return; // an older answer must not replace a newer one
      setCustomer(found);
      setProblem(null);
    } catch (fault) {
      if (mine === asked.current) setProblem(fault);
    }
  }
  useEffect(() => {
    // Whatever happens in the conversation may have changed them: a STOP, a bounce, a new address.
    if (open) attempt(() => ask("GET", whose));
  }, [open, view]);
  useEffect(() => {
    if (!open) return undefined;
    return listen((entry) => entry.kind === "customer.changed" && attempt(() => ask("GET", whose)));
  }, [open]);

  function change(binding, changes) {
    return attempt(async () => {
      // All but what is changed stays as it stands by now; replaced, an address is tried again.
      const found = await ask("GET", whose);
      const stands = found.bindings.find((one) => isSame(one, binding));
      if (!stands) return found;
      const { unreachable_until: _, ...kept } = stands;
      const changed = await ask("PUT", `${whose}/bindings`, { body: { ...kept, ...changes } });
      ask("GET", path).then(moved, () => {}); // where the next message goes; the screen asks again by itself
      return changed;
    });
  }

  const side = view.customer_side;
  const isHere = (one) =>
    one.address.channel === side.address?.channel && one.address.value === side.address?.value &&
    (!one.endpoint || one.endpoint === side.endpoint);
  const shown = customer ? [...customer.bindings].sort((one, other) => one.order - other.order) : [];
  return html`<details class="bindings" onToggle=${(event) => setOpen(event.currentTarget.open)}>
    <summary>Customer's addresses</summary>
    ${customer && !shown.length ? html`<p class="hint">None is known.</p>` : null}
    ${shown.length > 1 ? html`<p class="hint">The one they prefer stands first.</p>` : null}
    <ol>${shown.map((one) => html`<${Binding} key=${`${one.endpoint}|${one.address.channel}|${one.address.value}`}
      binding=${one} here=${isHere(one)} change=${change} />`)}</ol>
    <${Fault} problem=${problem} />
  </details>`;
}
