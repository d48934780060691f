// Whose pocket it is: a button for everybody known by name, a list of who else was seen on the wire.
import { make } from "./dom.js";

const UNREAD_MAX = 99;
const isTheirs = (entry, person) => entry.customer === person.email || entry.customer === person.phone;

function whoElse(state) {
  const known = new Set(state.people.flatMap((person) => [person.email, person.phone]));
  return state.seen
    .filter((address) => !known.has(address))
    .map((address) => ({ key: address, name: address, email: address.includes("@") ? address : "", phone: address.includes("@") ? "" : address }));
}

export class People {
  constructor(root, picked) {
    this.picked = picked;
    this.named = [];
    this.others = [];
    this.read = new Map();
    this.last = 0;
    this.buttons = make("div", { className: "people", role: "group", ariaLabel: "Customer" });
    this.select = make("select", { id: "customer" });
    this.label = make("label", { hidden: true }, "Seen on the wire ", this.select);
    root.append(this.buttons, this.label);
    root.onsubmit = (event) => event.preventDefault();
    this.select.onchange = () => this.pick(this.select.value);
  }

  // An unknown key leaves it with whom it is, or gives it to the first.
  pick(key) {
    const all = [...this.named, ...this.others];
    this.current = all.find((person) => person.key === key) ?? this.current ?? all[0];
    sessionStorage.setItem("customer", this.current.key);
    this.select.value = this.others.includes(this.current) ? this.current.key : "";
    this.picked(this.current);
  }

  // Everybody there is now; whoever it was stays chosen.
  meet(state) {
    const [named, others] = [state.people.map((person) => ({ ...person, key: person.name })), whoElse(state)];
    if (JSON.stringify([named, others]) === JSON.stringify([this.named, this.others])) return;
    [this.named, this.others] = [named, others];
    this.label.hidden = !others.length;
    const option = (person) => make("option", { value: person.key }, person.name);
    this.buttons.replaceChildren(...named.map((person) => this.button(person)));
    this.select.replaceChildren(make("option", { value: "" }, "Nobody else"), ...others.map(option));
    this.pick(this.current?.key ?? sessionStorage.getItem("customer"));
  }

  show({ entries, customer }) {
    const last = entries.at(-1)?.number ?? 0;
    // A sandbox that was started anew counts from 1 again.
    if (last < this.last) this.read.clear();
    this.last = last;
    this.read.set(customer.key, last);
    this.named.forEach((person, at) => {
      const [button, badge] = [this.buttons.children[at], this.buttons.children[at].lastChild];
      const read = this.read.get(person.key) ?? 0;
      const unread = entries.filter((entry) => entry.number > read && entry.to_customer && entry.delivered && isTheirs(entry, person)).length;
      button.ariaPressed = String(person.key === customer.key);
      badge.textContent = unread > UNREAD_MAX ? `${UNREAD_MAX}+` : String(unread);
      badge.title = `${unread} new`;
      badge.hidden = !unread;
    });
  }

  // Made once and then only written on: a button that is made anew while somebody presses it is not pressed.
  button(person) {
    const words = [make("b", {}, person.name), make("small", {}, `${person.email} ${person.phone}`.trim())];
    const button = make("button", { type: "button" }, ...words, make("i", { hidden: true }));
    button.onclick = () => this.pick(person.key);
    return button;
  }
}
