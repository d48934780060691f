// The console's frame: login or the screens.

import { effect, html, render, signal, useEffect, useRef, useState } from "./vendor.js";
import { logOut, onLoggedOut, readSession } from "./api.js";
import { Conversations } from "./conversations.js";
import { Endpoints } from "./endpoints.js";
import { Failovers } from "./failovers.js";
import { dropAllDrafts } from "./drafts.js";
import { Login, keyFromAddress } from "./login.js";
import {
  AGAIN_MS, connect, conversations, conversationsMore, disconnect, endpoints, failovers, forget, live, loadAll, mayForce,
  movesFrozen, openIncidents, organisation, route, session, trouble,
} from "./state.js";
import { inLocalTime } from "./words.js";

const unreached = signal(false); // it is not known yet who is logged in
const TITLES = { conversations: "Conversations", endpoints: "Endpoints", failovers: "Failovers" };

function NavItem({ screen, count, tone, children }) {
  const here = route.value.screen === screen;
  return html`<li>
    <a href=${`#/${screen}`} aria-current=${here ? "page" : undefined}>
      <span>${children}</span>
      ${count ? html`<span class=${`count ${tone || ""}`}>${count}</span>` : null}
    </a>
  </li>`;
}

function Header() {
  const [problem, setProblem] = useState(null);
  const known = conversations.value || [];
  const waiting = known.filter((one) => one.open && one.waiting_since).length;
  const beyond = conversationsMore.value && waiting === known.length ? "+" : "";
  const ill = endpoints.value.filter((one) => one.status_out === "down" || one.status_in === "down").length;
  const forced = failovers.value.filter((one) => !one.ended_at && new Date(one.expires_at) > Date.now()).length;
  async function leave() {
    try {
      await logOut();
    } catch (fault) {
      if (fault.status !== 401) return setProblem(fault);
    }
    dropAllDrafts();
    session.value = null;
  }
  return html`<header class="top">
    <a class="brand" href="#/conversations"><img src="/console/icon.svg" alt="" width="26" height="26" />
      <span>Throughline<small>${organisation}</small></span></a>
    <nav aria-label="Screens">
      <ul>
        <${NavItem} screen="conversations" count=${waiting ? `${waiting}${beyond}` : 0}>Conversations<//>
        <${NavItem} screen="endpoints" count=${ill} tone="bad">Endpoints<//>
        ${mayForce.value ? html`<${NavItem} screen="failovers" count=${forced} tone="unsure">Failovers<//>` : null}
      </ul>
    </nav>
    <div class="who">
      ${problem ? html`<span class="bad-text" role="alert">You are still logged in: ${problem.message}</span>` : null}
      <span class=${`stream ${live.value}`} role="status">${live.value === "live" ? "Live" : "Connecting…"}</span>
      <span class="name">${session.value.name} <small>${session.value.role}</small></span>
      <button type="button" class="quiet" onClick=${leave}>Log out</button>
    </div>
  </header>`;
}

function Banner() {
  if (trouble.value) return html`<p class="banner bad" role="alert">${trouble}</p>`;
  if (movesFrozen.value) {
    return html`<p class="banner bad" role="alert">
      <strong>Moves are frozen.</strong> It seems to be us: ${inLocalTime(movesFrozen.value.words)}. What you write is kept.
    </p>`;
  }
  if (!openIncidents.value.length || route.value.screen === "endpoints") return null;
  const [first, ...others] = openIncidents.value;
  const more = others.length ? ` and ${others.length} more` : "";
  return html`<p class="banner unsure" role="status">
    <strong>Outage.</strong> ${inLocalTime(first.title)}${more}. Conversations move by themselves. <a href="#/endpoints">See why</a>
  </p>`;
}

function Screens() {
  const main = useRef(null);
  const screen = route.value.screen;
  useEffect(() => {
    document.title = `${TITLES[screen] || "Console"} · Throughline`;
    main.current?.focus({ preventScroll: true });
  }, [screen]);
  const shown = { conversations: Conversations, endpoints: Endpoints, failovers: Failovers }[screen] || Conversations;
  return html`<a class="skip" href="#main" onClick=${(event) => (event.preventDefault(), main.current.focus())}
      >Skip to the content</a
    >
    <${Header} />
    <${Banner} />
    <main id="main" class=${`screen-${screen}`} tabindex="-1" ref=${main}><${shown} /></main>`;
}

function Console() {
  if (session.value === undefined) {
    return html`<p class="boot" role="status">${unreached.value
      ? "The router cannot say now who is logged in. It is asked again by itself; what you had typed is kept."
      : "Loading the console…"}</p>`;
  }
  return session.value ? html`<${Screens} />` : html`<${Login} />`;
}

onLoggedOut(() => (session.value = null));
effect(() => {
  if (session.value) {
    connect();
    queueMicrotask(loadAll); // out of here, so that what it reads does not call it again
  } else {
    disconnect();
    forget();
  }
});

// Only the router can say that nobody is logged in; while it says nothing, it is asked again.
async function resume() {
  try {
    session.value = await readSession();
  } catch (problem) {
    if (problem.status === 401) {
      session.value = null;
      return;
    }
    unreached.value = true;
    setTimeout(resume, AGAIN_MS);
  }
}

const given = keyFromAddress();
if (given) {
  session.value = null;
} else {
  resume();
}
const app = document.getElementById("app");
app.replaceChildren();
render(html`<${Console} />`, app);
