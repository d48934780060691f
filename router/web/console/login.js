// Log in with an API key. The key goes to the router once and is kept nowhere in the browser.

import { html, useEffect, useRef, useState } from "./vendor.js";
import { logIn } from "./api.js";
import { Fault } from "./parts.js";
import { session } from "./state.js";

let given = "";

// `throughline up` prints an address that carries the key behind `#`, which browsers never send anywhere.
export function keyFromAddress() {
  const found = location.hash.match(/^#(tl_[0-9a-f]{10}_[A-Za-z0-9_-]{43})$/);
  if (!found) return "";
  given = found[1];
  history.replaceState(null, "", "/console/");
  return given;
}

export function Login() {
  const [key, setKey] = useState("");
  const [problem, setProblem] = useState(null);
  const [busy, setBusy] = useState(false);
  const field = useRef(null);

  async function enter(value) {
    setBusy(true);
    setProblem(null);
    try {
      session.value = await logIn(value);
    } catch (fault) {
      setProblem(fault);
      setBusy(false);
      field.current?.focus();
    }
  }
  useEffect(() => {
    document.title = "Log in · Throughline";
    field.current?.focus();
    if (given) {
      enter(given);
      given = "";
    }
  }, []);

  return html`<main class="login">
    <form
      onSubmit=${(event) => {
        event.preventDefault();
        enter(key.trim());
      }}
    >
      <img src="/console/icon.svg" alt="" width="48" height="48" />
      <h1>Throughline</h1>
      <p>Conversations that outlive their channel.</p>
      <label for="key">API key</label>
      <input id="key" ref=${field} type="password" autocomplete="current-password" spellcheck=${false} required
        placeholder="tl_…" value=${key} aria-invalid=${problem ? "true" : undefined}
        onInput=${(event) => setKey(event.currentTarget.value)} />
      <${Fault} problem=${problem} />
      <button type="submit" class="primary" disabled=${busy || !key.trim()}>${busy ? "Logging in…" : "Log in"}</button>
      <p class="hint">No key yet? <code>throughline key create --role agent --name you</code></p>
    </form>
  </main>`;
}
