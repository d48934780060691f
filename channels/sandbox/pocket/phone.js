// The phone: text messages by the number they came from, and calls.
import { fill, make, post, redraw, swap, time } from "./dom.js";

export class Phone {
  constructor(root) {
    this.tab = "";
    this.read = new Map();
    this.drafts = new Map();
    this.number = "";
    this.bar = make("div", { className: "bar" });
    this.tabs = make("div", { className: "tabs", role: "tablist" });
    this.list = make("div", { className: "bubbles", role: "log", tabIndex: 0, ariaLabel: "Text messages" });
    this.text = make("textarea", { rows: 1, placeholder: "Text message", ariaLabel: "Text message", maxLength: 2_000 });
    this.form = make("form", { className: "say" }, this.text, make("button", { className: "main" }, "Send"));
    this.call = make("div", { className: "call", hidden: true });
    this.empty = make("p", { className: "nothing" }, "This customer has no phone.");
    this.body = make("div", { className: "screen" }, this.bar, this.tabs, this.list, this.form, this.call);
    root.append(make("div", { className: "device" }, this.body));
    this.form.onsubmit = (event) => (event.preventDefault(), this.send());
    this.text.onkeydown = (event) => event.key === "Enter" && !event.shiftKey && (event.preventDefault(), this.send());
    this.drawn = "";
  }

  async send() {
    const [text, number] = [this.text.value.trim(), this.number];
    if (!text || !(await post("/api/write", { endpoint: this.tab, customer: number, text }))) return;
    if (this.number === number) this.text.value = "";
    else this.drafts.delete(number);
  }

  show({ state, entries, customer }) {
    if (this.number !== customer.phone) {
      swap(this.drafts, this.number, customer.phone, [this.text]);
      this.number = customer.phone;
    }
    this.bar.replaceChildren(make("b", {}, customer.phone || "no number"), make("span", {}, customer.name === customer.phone ? "" : customer.name));
    const mine = entries.filter((entry) => entry.customer === this.number && this.number);
    const texts = state.vendors.filter((vendor) => vendor.endpoint.startsWith("sms/"));
    const phones = state.vendors.filter((vendor) => vendor.calls);
    const all = [...texts, ...phones];
    if (!all.some((vendor) => vendor.endpoint === this.tab)) this.tab = all[0]?.endpoint ?? "";
    this.drawTabs(all, mine);
    const here = mine.filter((entry) => entry.endpoint === this.tab);
    this.read.set(this.place(this.tab), here.at(-1)?.number ?? 0);
    const isCalls = phones.some((vendor) => vendor.endpoint === this.tab);
    fill(this.list, this.number ? here.map((entry) => (isCalls ? this.callLine(entry) : this.bubble(entry))) : [this.empty]);
    if (this.number && isCalls) this.list.append(this.dial());
    if (this.number && !isCalls && !here.length) this.list.append(make("p", { className: "nothing" }, "No messages yet."));
    this.form.hidden = isCalls || !this.number;
    this.showCall(state.calls.filter((call) => call.customer === this.number).at(-1));
  }

  drawTabs(vendors, mine) {
    this.tabs.replaceChildren(
      ...vendors.map((vendor) => {
        const unread = mine.filter((entry) => entry.endpoint === vendor.endpoint && entry.to_customer && entry.delivered && entry.number > (this.read.get(this.place(vendor.endpoint)) ?? 0)).length;
        const tab = make("button", { type: "button", role: "tab" },
          make("span", {}, vendor.calls ? "Calls" : `Texts ${vendor.number.replace(/.*(?=.{4})/, "…")}`), make("small", {}, vendor.endpoint));
        if (unread && vendor.endpoint !== this.tab) tab.append(make("i", { title: `${unread} new` }, String(unread)));
        tab.ariaSelected = String(vendor.endpoint === this.tab);
        tab.onclick = () => {
          this.tab = vendor.endpoint;
          this.again();
        };
        return tab;
      }),
    );
  }

  // What was read is kept for each of them.
  place(endpoint) {
    return `${this.number} ${endpoint}`;
  }

  again() {
    redraw();
    this.list.scrollTop = this.list.scrollHeight;
  }

  bubble(entry) {
    const lost = entry.to_customer && !entry.delivered;
    const text = lost ? "The vendor took a message and lost it." : entry.text;
    return make("div", { className: `bubble ${entry.to_customer ? "theirs" : "mine"} ${lost ? "lost" : ""}` },
      make("p", {}, text), make("time", {}, time(entry.at)));
  }

  callLine(entry) {
    const words = entry.details.event === "call" ? (entry.delivered ? "They called" : "A call was lost") : entry.text;
    return make("div", { className: `bubble ${entry.to_customer ? "theirs" : "mine"} ${entry.details.event === "call" ? "event" : ""}` },
      make("p", {}, words), make("time", {}, time(entry.at)));
  }

  dial() {
    const button = make("button", { type: "button", className: "main" }, "Call them");
    button.onclick = () => post("/api/calls", { endpoint: this.tab, customer: this.number });
    return make("div", { className: "dial" }, button);
  }

  // A call in progress covers the screen. It is drawn anew only when it changed: somebody may be typing.
  showCall(call) {
    const drawn = JSON.stringify(call ?? null);
    if (drawn === this.drawn) return;
    const typing = this.call.querySelector("input");
    const [typed, focused] = [typing?.value ?? "", document.activeElement === typing && typing !== null];
    this.drawn = drawn;
    this.call.hidden = !call;
    if (!call) return this.call.replaceChildren();
    const act = (does, more = {}) => post(`/api/calls/${call.sid}`, { does, ...more });
    const button = (label, className, does) => {
      const node = make("button", { type: "button", className }, label);
      node.onclick = does;
      return node;
    };
    const heard = make("div", { className: "heard", role: "log" }, ...call.said.map((text) => make("p", {}, text)));
    if (call.status === "ringing") {
      this.call.replaceChildren(
        make("h3", {}, call.inbound ? "Calling…" : "Incoming call"), make("p", {}, call.endpoint), heard,
        make("div", { className: "row" }, button("Answer", "good", () => act("answer")), button("Voicemail", "quiet", () => act("voicemail")), button("Decline", "danger", () => act("decline"))),
      );
      return;
    }
    const words = make("input", { placeholder: "Say something", ariaLabel: "Say something", value: typed, maxLength: 500 });
    const speak = make("form", { className: "row" }, words, make("button", { className: "main" }, "Say"));
    speak.onsubmit = async (event) => {
      event.preventDefault();
      const text = words.value.trim();
      if (text && (await act("say", { text }))) words.value = "";
    };
    const keys = [..."123456789*0#"].map((digits) => button(digits, "key", () => act("press", { digits })));
    const waits = { keys: "They wait for a key.", words: "They listen to you." }[call.waiting_for] ?? "";
    this.call.replaceChildren(
      make("h3", {}, "On the phone"), heard, make("p", { className: "waits", role: "status" }, waits),
      make("div", { className: "keys" }, ...keys), speak,
      make("div", { className: "row" }, button("Hang up", "danger", () => act("hang_up"))),
    );
    heard.scrollTop = heard.scrollHeight;
    if (focused) words.focus();
  }
}
