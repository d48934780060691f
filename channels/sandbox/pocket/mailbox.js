// The mailbox: mails by thread, an answer in the thread, a new mail.
import { fill, make, post, time } from "./dom.js";

const plain = (subject) => subject.replace(/^((re|aw|sv|tr|fwd?)\s*:\s*)+/i, "").trim() || "(no subject)";

export class Mailbox {
  constructor(root) {
    this.open = null;
    this.read = new Map();
    this.address = make("span", { className: "hint" });
    const fresh = make("button", { type: "button", className: "main" }, "New mail");
    this.threads = make("ul", { className: "threads" });
    this.subject = make("h3");
    this.mails = make("div", { className: "mails", role: "log", tabIndex: 0, ariaLabel: "Mails" });
    this.newSubject = make("input", { placeholder: "Subject", ariaLabel: "Subject", maxLength: 200 });
    this.text = make("textarea", { rows: 4, placeholder: "Write an answer", ariaLabel: "Mail text", maxLength: 50_000 });
    this.form = make("form", { className: "answer" }, this.newSubject, this.text, make("div", { className: "row" }, make("button", { className: "main" }, "Send mail")));
    this.reading = make("div", { className: "reading" }, this.subject, this.mails, this.form);
    this.nothing = make("p", { className: "nothing" }, "This customer has no mailbox.");
    this.panes = make("div", { className: "panes" }, this.threads, this.reading);
    root.append(make("div", { className: "title" }, make("h2", {}, "Mailbox"), this.address, fresh), this.nothing, this.panes);
    fresh.onclick = () => {
      this.open = "";
      this.again();
      this.newSubject.focus();
    };
    this.form.onsubmit = (event) => (event.preventDefault(), this.send());
  }

  again() {
    document.getElementById("customer").dispatchEvent(new Event("change"));
  }

  async send() {
    const text = this.text.value.trim();
    if (!text) return;
    const thread = this.byName.get(this.open);
    const last = thread?.findLast((entry) => entry.to_customer && entry.delivered);
    const subject = thread ? `Re: ${this.open}` : this.newSubject.value.trim() || "(no subject)";
    const body = { endpoint: this.endpoint, customer: this.mailbox, text, subject, ...(last ? { in_reply_to: last.number } : {}) };
    if (await post("/api/write", body)) {
      this.text.value = this.newSubject.value = "";
      this.open = plain(subject);
      this.again();
    }
  }

  show({ state, entries, customer }) {
    if (this.mailbox !== customer.email) {
      this.read.clear();
      this.open = null;
    }
    this.mailbox = customer.email;
    this.endpoint = state.vendors.find((vendor) => vendor.endpoint.startsWith("email/"))?.endpoint ?? "";
    this.address.textContent = customer.email;
    this.nothing.hidden = Boolean(this.mailbox && this.endpoint);
    this.panes.hidden = !this.nothing.hidden;
    this.byName = new Map();
    for (const entry of entries) {
      if (entry.customer !== this.mailbox || !entry.endpoint.startsWith("email/")) continue;
      const name = plain(entry.subject);
      if (!this.byName.has(name)) this.byName.set(name, []);
      this.byName.get(name).push(entry);
    }
    const latest = [...this.byName].sort((a, b) => b[1].at(-1).number - a[1].at(-1).number);
    if (this.open === null || (this.open && !this.byName.has(this.open))) this.open = latest[0]?.[0] ?? "";
    this.drawThreads(latest);
    this.drawThread(this.byName.get(this.open));
  }

  drawThreads(latest) {
    fill(this.threads, latest.map(([name, mails]) => {
      const last = mails.at(-1);
      const isNew = name !== this.open && last.to_customer && last.delivered && last.number > (this.read.get(name) ?? 0);
      const button = make("button", { type: "button", className: isNew ? "new" : "" },
        make("b", {}, name), make("small", {}, `${mails.length} · ${time(last.at)}`), make("span", {}, last.to_customer && !last.delivered ? "(not delivered)" : last.text.slice(0, 80)));
      button.ariaCurrent = String(name === this.open);
      button.onclick = () => {
        this.open = name;
        this.again();
        this.mails.scrollTop = this.mails.scrollHeight;
      };
      return make("li", {}, button);
    }));
    if (!latest.length) this.threads.append(make("li", { className: "nothing" }, "No mail yet."));
  }

  drawThread(mails) {
    this.subject.textContent = mails ? this.open : "New mail to support";
    this.newSubject.hidden = Boolean(mails);
    this.text.placeholder = mails ? "Write an answer" : "Write to support";
    if (mails) this.read.set(this.open, mails.at(-1).number);
    fill(this.mails, (mails ?? []).map((entry) => {
      const lost = entry.to_customer && !entry.delivered;
      const from = entry.to_customer ? entry.details.from || "support" : this.mailbox;
      return make("article", { className: `mail ${entry.to_customer ? "" : "mine"} ${lost ? "lost" : ""}` },
        make("div", { className: "from" }, make("b", {}, from), make("time", {}, time(entry.at))),
        make("p", {}, lost ? "The vendor took a mail and did not deliver it." : entry.text));
    }));
  }
}
