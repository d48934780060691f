// The chat, as the element <throughline-chat>: full page with the attribute `page`, else a button that opens a panel.
import { Link } from "./link.js";
import { sheet } from "./style.js";
import { chooseWords } from "./words.js";

const LINES_MAX = 500;
const TEXT_MAX = 4_000;
const { language, word } = chooseWords(navigator.languages ?? [navigator.language]);
const clock = new Intl.DateTimeFormat(language, { hour: "2-digit", minute: "2-digit" });
const daily = new Intl.DateTimeFormat(language, { weekday: "long", day: "numeric", month: "long" });

const icons = {
  chat: "M4 5h16v11H9l-5 4z",
  close: "M6 6l12 12M18 6L6 18",
  send: "M4 12h15M13 6l6 6-6 6",
  reach: "M3 5h18v14H3zM9 12.5a2 2 0 100-4 2 2 0 000 4zM5.8 16c1.2-2 5.2-2 6.4 0M15.5 10h2.5M15.5 14h2.5",
};

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in node && name !== "list") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS(svg.namespaceURI, "path");
  path.setAttribute("d", icons[name]);
  for (const [key, value] of Object.entries({ viewBox: "0 0 24 24", fill: "none", stroke: "currentColor", "stroke-width": 2, "aria-hidden": true }))
    svg.setAttribute(key, value);
  path.setAttribute("stroke-linecap", "round");
  path.setAttribute("stroke-linejoin", "round");
  svg.append(path);
  return svg;
}

class Chat extends HTMLElement {
  connectedCallback() {
    if (this.shadowRoot) return;
    this.lines = new Map();
    this.marks = new Map();
    this.low = true;
    this.state = { open: false, trouble: false, place: null, unread: 0, connectedOnce: false };
    const base = new URL(this.getAttribute("src") ?? import.meta.url);
    const door = this.getAttribute("endpoint") ?? "";
    const url = new URL(`/chat/ws?endpoint=${encodeURIComponent(door)}`, base);
    url.protocol = url.protocol.replace("http", "ws");
    this.link = new Link(url.href, `${base.host}/${door}`, language);
    this.full = this.hasAttribute("page");
    this.draw();
    this.listen();
    for (const line of this.link.outgoing) this.show(this.mine(line));
    this.grow();
    // A panel nobody opened costs no connection, unless a talk is on already.
    if (this.full || this.link.kept.get("token", "")) this.link.connect();
  }

  draw() {
    const root = this.attachShadow({ mode: "open" });
    root.adoptedStyleSheets = [sheet];
    this.lang = language;
    this.heading = make("h2", {}, word("title"));
    this.status = make("div", { className: "state", role: "status" }, word("connecting"));
    this.reference = make("div", { className: "reference", hidden: true });
    this.reach = make("button", { className: "icon", type: "button", title: word("details"), ariaLabel: word("details"), hidden: true }, icon("reach"));
    this.shut = make("button", { className: "icon", type: "button", title: word("close"), ariaLabel: word("close"), hidden: this.full }, icon("close"));
    this.banner = make("div", { className: "banner", role: "alert", hidden: true });
    this.offer = make("button", { className: "quiet", type: "button", hidden: true }, word("details"));
    this.hello = make("div", { className: "hello" }, make("p", {}, word("hello")), this.offer);
    this.log = make("div", { className: "log", role: "log", ariaLabel: word("log"), tabIndex: 0 }, this.hello);
    this.log.setAttribute("aria-live", "polite");
    this.text = make("textarea", { rows: 1, maxLength: TEXT_MAX, dir: "auto", value: this.link.kept.get("draft", ""), placeholder: word("write"), ariaLabel: word("write") });
    this.button = make("button", { type: "submit", title: word("send"), ariaLabel: word("send"), disabled: true }, icon("send"));
    this.form = make("form", { className: "say" }, this.text, this.button);
    this.panel = make(
      this.full ? "main" : "section",
      { className: this.full ? "panel page" : "panel float", ariaLabel: word("title"), hidden: !this.full },
      make("header", {}, make("div", { className: "who" }, this.heading, this.status), this.reference, this.reach, this.shut),
      this.banner, this.log, this.drawDetails(), this.form,
    );
    this.badge = make("span", { className: "badge", hidden: true });
    this.launch = make("button", { className: "launch", type: "button", ariaLabel: word("open"), hidden: this.full }, icon("chat"), this.badge);
    root.append(this.panel, this.launch);
  }

  drawDetails() {
    const field = (name, label, type, autocomplete) => {
      this[name] = make("input", { type, autocomplete, maxLength: 254, name });
      return make("label", {}, label, this[name]);
    };
    this.consent = make("input", { type: "checkbox", name: "consent" });
    this.problem = make("p", { className: "problem", role: "alert", hidden: true });
    this.later = make("button", { type: "button", className: "quiet" }, word("later"));
    this.details = make(
      "form", { className: "details", noValidate: true, hidden: true },
      make("h3", {}, word("details"), make("small", {}, word("detailsHint"))),
      make(
        "div", { className: "fields" },
        field("fullName", word("name"), "text", "name"),
        field("mailbox", word("mailbox"), "email", "email"),
        field("mobile", word("mobile"), "tel", "tel"),
      ),
      make("label", { className: "consent" }, this.consent, make("span", {}, word("consent"))),
      this.problem,
      make("div", { className: "row" }, make("button", { className: "main" }, word("save")), this.later),
    );
    return this.details;
  }

  listen() {
    const on = (type, does) => this.link.addEventListener(type, ({ detail }) => (does(detail), this.refresh()));
    on("open", () => this.toldDetails());
    on("lost", () => {});
    on("welcome", (frame) => this.greet(frame));
    on("history", ({ lines }) => lines.forEach((line) => this.show(line)));
    on("message", (line) => this.hear(line));
    on("taken", (frame) => this.take(frame));
    on("refused", ({ id, reason, words }) => this.fail(id, words ?? word(reason)));
    on("place", (place) => (this.state.place = place));
    on("trouble", ({ on: bad }) => (this.state.trouble = bad));
    on("details_taken", () => this.endDetails());
    on("details_refused", ({ reason }) => this.problemIs(reason));
    this.launch.onclick = () => this.toggle(this.panel.hidden);
    this.shut.onclick = () => this.toggle(false);
    this.panel.onkeydown = (event) => event.key === "Escape" && !this.full && this.toggle(false);
    this.reach.onclick = () => this.openDetails(this.details.hidden);
    this.offer.onclick = () => this.openDetails(true);
    this.later.onclick = () => this.openDetails(false);
    this.details.onsubmit = (event) => (event.preventDefault(), this.leaveDetails());
    // Whoever reads the end goes on reading the end, whatever grows or shrinks.
    this.log.onscroll = () => (this.low = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 60);
    new ResizeObserver(() => this.low && this.toEnd()).observe(this.log);
    this.form.onsubmit = (event) => (event.preventDefault(), this.say());
    this.text.oninput = () => (this.link.kept.put("draft", this.text.value), this.grow());
    this.text.onkeydown = (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) (event.preventDefault(), this.say());
    };
  }

  toggle(open) {
    this.panel.hidden = !open;
    this.launch.ariaLabel = word(open ? "close" : "open");
    if (open) {
      this.state.unread = 0;
      this.link.connect();
      this.text.focus();
      this.toEnd();
    } else this.launch.focus();
    this.refresh();
  }

  toEnd() {
    this.log.scrollTop = this.log.scrollHeight;
    this.low = true;
  }

  greet(frame) {
    this.state.connectedOnce = true;
    if (frame.title) this.heading.textContent = frame.title;
    if (this.full) Object.assign(document, { title: this.heading.textContent }).documentElement.lang = language;
    this.organisation = frame.organisation;
    this.reach.hidden = this.offer.hidden = !frame.ask_details;
    if (!frame.resumed) this.state.place = null;
  }

  // What one says: shown at once, taken later.
  say() {
    const text = this.text.value.trim();
    if (!text) return;
    const line = this.link.say(text, this.link.kept.get("details", {}).name ?? "");
    if (!line) return this.problemIs("too_many");
    this.link.connect();
    this.show(this.mine(line));
    this.text.value = "";
    this.link.kept.put("draft", "");
    this.grow();
    this.refresh();
  }

  mine(line) {
    return { id: line.id, from: "customer", text: line.text, at: Date.now() / 1000, pending: true };
  }

  take({ id, message, at }) {
    const line = this.lines.get(id);
    this.lines.delete(id);
    if (this.lines.has(message)) line?.node.remove();
    else if (line) {
      Object.assign(line, { id: message, pending: false, at });
      this.lines.set(message, line);
      this.paint(line);
    }
    this.tellDetails();
    this.arrange();
  }

  fail(id, why) {
    const line = this.lines.get(id);
    if (!line) return;
    Object.assign(line, { pending: false, failed: why });
    this.paint(line);
  }

  hear(line) {
    if (!this.lines.has(line.id) && this.panel.hidden) this.state.unread += 1;
    this.show({ ...line, from: line.kind === "message" ? "us" : "notice" });
  }

  show(line) {
    if (this.lines.has(line.id)) return;
    const text = make("div", { className: "text", dir: "auto" }, line.text);
    line.node = make("div", {}, text, make("div", { className: "meta" }));
    this.lines.set(line.id, line);
    this.paint(line);
    this.arrange();
  }

  paint(line) {
    const kind = { customer: "mine", us: "", notice: "notice" }[line.from];
    line.node.className = `line ${kind}${line.pending ? " pending" : ""}${line.failed ? " failed" : ""}`;
    const state = line.failed ? word("failed", { why: line.failed }) : line.pending ? word(this.link.open ? "sending" : "waiting") : "";
    const author = line.from === "us" ? line.author || this.organisation || word("us") : "";
    line.node.lastChild.textContent = [author, state || clock.format(line.at * 1000)].filter(Boolean).join(" · ");
  }

  // Puts the lines in order, with a mark wherever the day or the channel changes; touches only nodes out of place.
  arrange() {
    const lines = [...this.lines.values()].sort((a, b) => (a.pending ? 1 : 0) - (b.pending ? 1 : 0) || a.at - b.at).slice(-LINES_MAX);
    const nodes = [];
    let via = "chat";
    let day = daily.format(Date.now());
    for (const line of lines) {
      const today = daily.format(line.at * 1000);
      if (today !== day) nodes.push(this.mark(`day:${line.id}`, (day = today)));
      const here = line.pending || line.via === null ? via : line.via || "chat";
      if (here !== via) nodes.push(this.mark(`via:${line.id}`, here === "chat" ? word("back") : word("via", { channel: word(here) })));
      via = here;
      nodes.push(line.node);
    }
    if (!nodes.length) nodes.push(this.hello);
    const keep = new Set(nodes);
    for (const node of [...this.log.children]) if (!keep.has(node)) node.remove();
    nodes.forEach((node, place) => this.log.children[place] !== node && this.log.insertBefore(node, this.log.children[place] ?? null));
    if (this.low || lines.at(-1)?.pending) this.toEnd();
  }

  mark(key, text) {
    if (!this.marks.has(key)) this.marks.set(key, make("div", { className: "mark" }, text));
    return this.marks.get(key);
  }

  refresh() {
    const { place, trouble, connectedOnce } = this.state;
    const open = this.link.open;
    const lost = !open && (connectedOnce || this.link.failures > 1);
    this.status.textContent = word(open ? "online" : "connecting");
    this.status.className = `state ${open ? (trouble ? "" : "on") : lost ? "off" : ""}`;
    this.reference.hidden = !place?.reference;
    this.reference.replaceChildren(word("reference"), make("b", {}, place?.reference ?? ""));
    const told = [];
    const name = (where) => ({ channel: word(where.channel), address: where.address });
    if (place && !place.here && place.channel) told.push(word("moved", name(place)), word("movedHint"));
    if (lost || trouble) {
      told.unshift(word(lost ? "lost" : "trouble"));
      if (place?.here && place.next?.length) told.push(word("next", name(place.next[0])));
    }
    const key = told.join();
    if (key !== this.told) {
      this.told = key;
      this.banner.replaceChildren(...told.map((text) => make("p", {}, text)));
      this.banner.hidden = !told.length;
      this.banner.className = `banner ${lost || trouble ? "" : "moved"}`;
    }
    this.badge.textContent = this.state.unread;
    this.badge.hidden = !this.state.unread;
    for (const line of this.lines.values()) if (line.pending) this.paint(line);
  }

  grow() {
    this.button.disabled = !this.text.value.trim();
    this.text.style.height = "auto";
    this.text.style.height = `${Math.min(140, this.text.scrollHeight + 2)}px`;
  }

  // Where else we may reach the customer: kept here until the server has it.
  openDetails(open) {
    this.details.hidden = !open;
    (open ? this.fullName : this.text).focus();
  }

  problemIs(reason) {
    // Nobody to be reached yet: they go again with the first word.
    if (reason === "say_first") return;
    this.problem.textContent = word(reason);
    this.problem.hidden = false;
    this.details.hidden = false;
  }

  leaveDetails() {
    this.problem.hidden = true;
    const [name, email, phone] = [this.fullName, this.mailbox, this.mobile].map((input) => input.value.trim());
    if ((email || phone) && !this.consent.checked) return this.problemIs("no_consent");
    this.link.kept.put("details", { name, email, phone, consent: this.consent.checked, due: Boolean(email || phone) });
    this.tellDetails();
    // Without a word said nobody is there yet to be reached: they go with the first one.
    if (!this.lines.size || !(email || phone)) this.openDetails(false);
  }

  toldDetails() {
    if (this.lines.size) this.tellDetails();
  }

  tellDetails() {
    const { due, ...details } = this.link.kept.get("details", {});
    if (due) this.link.send({ type: "details", ...details });
  }

  endDetails() {
    this.link.kept.put("details", { ...this.link.kept.get("details", {}), due: false });
    this.openDetails(false);
    const saved = make("p", { className: "hush", role: "status" }, word("saved"));
    this.panel.append(saved);
    setTimeout(() => saved.remove(), 8_000);
  }
}

customElements.define("throughline-chat", Chat);

// One script tag is enough to embed it: <script type="module" src="https://…/chat/widget.js"></script>
if (!document.querySelector("throughline-chat")) {
  const script = [...document.scripts].find((one) => one.src === import.meta.url);
  const chat = make("throughline-chat");
  if (script?.dataset.endpoint) chat.setAttribute("endpoint", script.dataset.endpoint);
  document.body.append(chat);
}
