// The mailbox: mails by thread, an answer in the thread, a new mail.
import { fill, make, post, redraw, swap, time } from "./dom.js";

const plain = (subject) => subject.replace(/^((re|aw|sv|tr|fwd?)\s*:\s*)+/i, "").trim() || "(no subject)";
const idOf = (entry) => entry.details.message_id || entry.vendor_id;
const idsIn = (entry) => `${entry.details.in_reply_to ?? ""} ${entry.details.references ?? ""}`.split(/\s+/).filter(Boolean);

// Mails by thread, as a mail program sorts them: by what they refer to, whatever their subject says. A thread's key is
// the number of its first mail.
function sort(mails) {
  const threads = new Map();
  const known = new Map();
  for (const mail of mails) {
    const ids = [idOf(mail), ...idsIn(mail)];
    const key = ids.map((id) => known.get(id)).find(Boolean) ?? mail.number;
    if (!threads.has(key)) threads.set(key, []);
    threads.get(key).push(mail);
    for (const id of ids) if (id && !known.has(id)) known.set(id, key);
  }
  return threads;
}

export class Mailbox {
  constructor(root) {
    this.open = null;
    this.sentAfter = Infinity;
    this.read = new Map();
    this.drafts = new Map();
    this.opened = new Map();
    this.mailbox = "";
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
      this.open = 0;
      redraw();
      this.newSubject.focus();
    };
    this.form.onsubmit = (event) => (event.preventDefault(), this.send());
  }

  async send() {
    const text = this.text.value.trim();
    if (!text) return;
    const thread = this.sorted.get(this.open);
    const last = thread?.findLast((entry) => entry.to_customer && entry.delivered);
    const subject = thread ? `Re: ${plain(thread.at(-1).subject)}` : this.newSubject.value.trim() || "(no subject)";
    const body = { endpoint: this.endpoint, customer: this.mailbox, text, subject, ...(last ? { in_reply_to: last.number } : {}) };
    if (!(await post("/api/write", body))) return;
    if (this.mailbox !== body.customer) return this.drafts.delete(body.customer);
    this.text.value = this.newSubject.value = "";
    // A new thread is opened as soon as its mail is on the wire, which the stream tells.
    if (!thread) this.sentAfter = this.last;
    redraw();
  }

  turnTo(mailbox) {
    swap(this.drafts, this.mailbox, mailbox, [this.newSubject, this.text]);
    this.opened.set(this.mailbox, this.open);
    this.open = this.opened.get(mailbox) ?? null;
    this.sentAfter = Infinity;
    this.mailbox = mailbox;
  }

  show({ state, entries, customer }) {
    if (this.mailbox !== customer.email) this.turnTo(customer.email);
    this.endpoint = state.vendors.find((vendor) => vendor.endpoint.startsWith("email/"))?.endpoint ?? "";
    this.address.textContent = customer.email;
    this.nothing.hidden = Boolean(this.mailbox && this.endpoint);
    this.panes.hidden = !this.nothing.hidden;
    this.sorted = sort(entries.filter((entry) => entry.customer === this.mailbox && entry.endpoint.startsWith("email/")));
    const latest = [...this.sorted].sort((a, b) => b[1].at(-1).number - a[1].at(-1).number);
    const sent = latest.find(([key, mails]) => key > this.sentAfter && !mails[0].to_customer);
    if (sent) [this.open, this.sentAfter] = [sent[0], Infinity];
    this.last = entries.at(-1)?.number ?? 0;
    if (this.open === null || (this.open && !this.sorted.has(this.open))) this.open = latest[0]?.[0] ?? 0;
    this.drawThreads(latest);
    this.drawThread(this.sorted.get(this.open));
  }

  drawThreads(latest) {
    fill(this.threads, latest.map(([key, mails]) => {
      const last = mails.at(-1);
      const isNew = key !== this.open && last.to_customer && last.delivered && last.number > (this.read.get(key) ?? 0);
      const button = make("button", { type: "button", className: isNew ? "new" : "" },
        make("b", {}, plain(mails[0].subject)), make("small", {}, `${mails.length} · ${time(last.at)}`), make("span", {}, last.to_customer && !last.delivered ? "(not delivered)" : last.text.slice(0, 80)));
      button.ariaCurrent = String(key === this.open);
      button.onclick = () => {
        this.open = key;
        redraw();
        this.mails.scrollTop = this.mails.scrollHeight;
      };
      return make("li", {}, button);
    }));
    if (!latest.length) this.threads.append(make("li", { className: "nothing" }, "No mail yet."));
  }

  drawThread(mails) {
    this.subject.textContent = mails ? plain(mails.at(-1).subject) : "New mail to support";
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
