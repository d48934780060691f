// The vendors' switches: what each one is told to do wrong, right now.
import { make, post } from "./dom.js";

const faults = {
  none: ["Works", "Takes and delivers everything."],
  refuse: ["Refuse", "Nobody listens: connections are refused."],
  hang: ["Hang", "Takes the connection and the request, never answers."],
  error: ["5xx", "Answers with the protocol's own server fault."],
  drop_after_accept: ["Drop after accept", "Takes the message, then breaks off before it answers."],
  slow: ["Slow", "Answers after 2.5 seconds."],
  throttle: ["Throttle", "Asks us to wait."],
  lose_silently: ["Lose silently", "Says it took it, delivers nothing, reports nothing."],
  flap: ["Flap", "Refuses and works by turns, 3 seconds each."],
};
// Short ones together: the nine fit in two lines.
const order = ["none", "refuse", "hang", "error", "slow", "flap", "throttle", "lose_silently", "drop_after_accept"];
const names = { email: "Mail", sms: "Text messages", phone: "Calls" };

export class Vendors {
  constructor(root) {
    this.cards = new Map();
    this.list = make("div", { className: "cards" });
    const heal = make("button", { type: "button", className: "quiet" }, "All work again");
    heal.onclick = () => [...this.cards.keys()].forEach((endpoint) => this.set(endpoint, "none"));
    root.append(
      make("div", { className: "title" }, make("h2", {}, "Vendors"), heal),
      make("p", { className: "hint" }, "Break one and watch where the conversation goes."),
      this.list,
    );
  }

  set(endpoint, fault) {
    const share = Number(this.cards.get(endpoint).share.value);
    return post(`/api/vendors/${endpoint}/fault`, { fault, share });
  }

  show({ state, entries }) {
    const counts = new Map();
    for (const entry of entries) {
      const count = counts.get(entry.endpoint) ?? { out: 0, in: 0, lost: 0 };
      count[entry.to_customer ? (entry.delivered ? "out" : "lost") : "in"] += 1;
      counts.set(entry.endpoint, count);
    }
    for (const vendor of state.vendors) {
      if (!this.cards.has(vendor.endpoint)) this.add(vendor, state.faults);
      this.update(vendor, counts.get(vendor.endpoint) ?? { out: 0, in: 0, lost: 0 });
    }
  }

  add(vendor, known) {
    const choices = [...known].sort((a, b) => order.indexOf(a) - order.indexOf(b)).map((fault) => {
      const button = make("button", { type: "button", title: faults[fault]?.[1] ?? fault }, faults[fault]?.[0] ?? fault);
      button.onclick = () => this.set(vendor.endpoint, fault);
      return [fault, button];
    });
    const share = make("select", { ariaLabel: `Share of ${vendor.endpoint} that is hit` },
      ...[[1, "all of it"], [0.5, "half of it"], [0.2, "a fifth of it"]].map(([value, label]) => make("option", { value }, label)));
    const card = {
      fault: vendor.fault, share,
      choices: new Map(choices),
      state: make("strong", { className: "pill" }),
      words: make("p", { className: "hint" }),
      count: make("span", { className: "count" }),
    };
    share.onchange = () => card.fault !== "none" && this.set(vendor.endpoint, card.fault);
    card.node = make("article", { className: "card" },
      make("div", { className: "title" },
        make("h3", {}, names[vendor.endpoint.split("/")[0]] ?? "", make("code", {}, vendor.endpoint)), card.state),
      make("div", { className: "faults", role: "group", ariaLabel: `Fault of ${vendor.endpoint}` }, ...card.choices.values()),
      card.words,
      make("div", { className: "row" }, make("label", {}, "Hits ", share), card.count),
    );
    this.cards.set(vendor.endpoint, card);
    this.list.append(card.node);
  }

  update(vendor, count) {
    const card = this.cards.get(vendor.endpoint);
    card.fault = vendor.fault;
    const bad = vendor.fault !== "none";
    card.node.classList.toggle("bad", bad);
    card.state.textContent = faults[vendor.fault]?.[0] ?? vendor.fault;
    card.words.textContent = bad ? (faults[vendor.fault]?.[1] ?? "") : "";
    card.words.hidden = !bad;
    if (document.activeElement !== card.share && bad) card.share.value = String(vendor.share);
    card.count.textContent = `${count.out} out · ${count.in} in${count.lost ? ` · ${count.lost} lost` : ""}`;
    for (const [fault, button] of card.choices) button.ariaPressed = String(fault === vendor.fault);
  }
}
