// What was typed and not sent, by conversation, with the key it will be sent under: kept in this tab over a reload.

import { newKey } from "./api.js";
import { session } from "./state.js";

const PREFIX = "throughline:draft:";
const drafts = new Map();

const placeOf = (id) => `${PREFIX}${session.value.key_id}:${id}`;

export function draftOf(id) {
  const place = placeOf(id);
  if (!drafts.has(place)) drafts.set(place, read(place) || { text: "", files: [], key: newKey(), since: 0 });
  return drafts.get(place);
}

// Files cannot be kept over a reload: without them it is another message, and needs another key.
function read(place) {
  try {
    const kept = JSON.parse(sessionStorage.getItem(place));
    return kept && { ...kept, files: [], lost: kept.files, key: kept.files.length ? newKey() : kept.key };
  } catch {
    return null; // the browser keeps nothing for us
  }
}

export function keepDraft(id, change) {
  const place = placeOf(id);
  const draft = { ...draftOf(id), ...change };
  drafts.set(place, draft);
  try {
    if (!draft.text && !draft.files.length) sessionStorage.removeItem(place);
    else sessionStorage.setItem(place, JSON.stringify({ ...draft, files: draft.files.map((file) => file.name) }));
  } catch {
    // Full or forbidden: it stands in the box until the page is left.
  }
}

export function dropDraft(id) {
  const place = placeOf(id);
  drafts.delete(place);
  remove(place);
}

// Whoever logs out leaves nothing behind for the next one at this desk.
export function dropAllDrafts() {
  drafts.clear();
  try {
    for (const place of Object.keys(sessionStorage)) if (place.startsWith(PREFIX)) remove(place);
  } catch {
    // There is nothing to remove.
  }
}

function remove(place) {
  try {
    sessionStorage.removeItem(place);
  } catch {
    // It was never kept.
  }
}
