// Times, states and lengths as people read them.

const STATES = {
  queued: "Waiting to go out",
  sending: "Being sent",
  unknown: "Outcome unknown",
  sent: "Sent",
  delivered: "Delivered",
  read: "Read",
  unconfirmed: "On voicemail",
  undelivered: "Came back",
  parked: "Parked",
  failed: "Failed",
  cancelled: "Taken back",
  expired: "Expired",
  needs_human: "Needs you",
};
const BAD = new Set(["undelivered", "failed", "expired", "needs_human"]);
const UNSURE = new Set(["unknown", "parked", "unconfirmed"]);

export const CHANNELS = { email: "Email", chat: "Chat", sms: "SMS", phone: "Phone" };
export const STATUSES = { up: "Up", suspect: "Suspect", down: "Down", recovering: "Recovering", unknown: "Unknown" };
export const LEG_REASONS = {
  opened: "where it began",
  wrote_here: "the customer wrote here",
  failover: "moved: the other endpoint went down",
  forced: "moved by a forced failover",
  failback: "back home",
  unreachable: "moved: nobody was there",
  rejected: "moved: it was refused elsewhere",
  undelivered: "moved: it did not arrive elsewhere",
  no_consent: "moved: they want no messages elsewhere",
  inbound_down: "moved: answers did not reach us elsewhere",
  misconfigured: "moved: our settings for the other endpoint are wrong",
  paced: "moved when there was room",
  no_route: "there was no way for a while",
  moved_lately: "moved again after a pause",
  routed: "where the route led",
};

export const stateWords = (state) => STATES[state] || state;
export const stateTone = (state) => (BAD.has(state) ? "bad" : UNSURE.has(state) ? "unsure" : "fine");
export const plain = (word) => (word ? word.replaceAll("_", " ") : "");
export const channelOf = (endpoint) => CHANNELS[endpoint.split("/")[0]] || "Nowhere";

export function span(from, to) {
  const seconds = Math.max(0, Math.round((to - new Date(from).getTime()) / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d`;
}

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const DAY = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
const FULL = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

export function clock(at) {
  const moment = new Date(at);
  return (Date.now() - moment.getTime() < 20 * 3600 * 1000 ? CLOCK : DAY).format(moment);
}
export const full = (at) => FULL.format(new Date(at));

const CLOCK_S = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAY_MS = 24 * 3600 * 1000;
const AHEAD_MS = 60 * 1000;

// The router's sentences name times of the last day in UTC; everything else on the screen is in the reader's own.
export function inLocalTime(text) {
  return text.replace(/\b([01]\d|2[0-3]):([0-5]\d):([0-5]\d) UTC\b/g, (_, hours, minutes, seconds) => {
    const at = new Date();
    at.setUTCHours(Number(hours), Number(minutes), Number(seconds), 0);
    return CLOCK_S.format(at.getTime() > Date.now() + AHEAD_MS ? at.getTime() - DAY_MS : at);
  });
}

export function bytes(size) {
  if (size < 1000) return `${size} bytes`;
  if (size < 1000000) return `${(size / 1000).toFixed(size < 10000 ? 1 : 0)} kB`;
  return `${(size / 1000000).toFixed(1)} MB`;
}

// GSM 03.38: the default alphabet takes 7 bits a character, its extension table two of them; anything else makes the
// whole message UCS-2 (3GPP TS 23.038, section 6.2.1).
const GSM = new Set(
  "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà",
);
const GSM_TWICE = new Set("^{}\\[~]|€\f");

export function segments(text) {
  let units = 0;
  let gsm = true;
  for (const letter of text) {
    if (GSM.has(letter)) units += 1;
    else if (GSM_TWICE.has(letter)) units += 2;
    else gsm = false;
  }
  if (!gsm) units = text.length;
  const [one, each] = gsm ? [160, 153] : [70, 67];
  return { count: units <= one ? (units ? 1 : 0) : Math.ceil(units / each), gsm };
}
