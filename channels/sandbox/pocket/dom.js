// Small tools of the page: make nodes, keep lists in step, ask the API.
const clock = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });

export const time = (at) => clock.format(at * 1000);

export function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// Says what went wrong for some seconds.
let hush;
export function tell(words) {
  const toast = document.getElementById("toast");
  toast.textContent = words;
  toast.hidden = false;
  clearTimeout(hush);
  hush = setTimeout(() => (toast.hidden = true), 6_000);
}

// POST JSON; true if it was done, else the person has been told.
export async function post(path, body) {
  try {
    const answer = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
    if (answer.ok) return true;
    tell((await answer.json()).words);
  } catch {
    tell("The sandbox does not answer. Is it still running?");
  }
  return false;
}

// Asks the page to draw itself anew, after a click that nobody but one part knows of.
export const redraw = () => document.dispatchEvent(new Event("redraw"));

// Puts away what was being written as `from`, and takes out what was being written as `to`: nobody sends another's words.
export function swap(drafts, from, to, fields) {
  const texts = fields.map((field) => field.value);
  if (texts.some(Boolean)) drafts.set(from, texts);
  else drafts.delete(from);
  const kept = drafts.get(to) ?? [];
  fields.forEach((field, at) => (field.value = kept[at] ?? ""));
}

// Shows `nodes` in `list`, and its end if its end was seen before.
export function fill(list, nodes) {
  const low = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
  list.replaceChildren(...nodes);
  if (low) list.scrollTop = list.scrollHeight;
}
