// The line to the server: what we say is kept until it is taken, what we hear is acknowledged until that is noted.
const TRY_AGAIN_MS = 500;
const TRY_AGAIN_MAX_MS = 15_000;
const ANSWER_WITHIN_MS = 8_000;
const PING_EVERY_MS = 10_000;
const SILENCE_MAX_MS = 25_000;
const OUTGOING_MAX = 50;

const randomId = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");

// Values that outlive the page; in memory where the browser forbids storage.
class Kept {
  constructor(prefix) {
    this.prefix = prefix;
    this.memory = new Map();
  }
  get(name, otherwise) {
    try {
      const text = localStorage.getItem(this.prefix + name);
      return text === null ? (this.memory.get(name) ?? otherwise) : JSON.parse(text);
    } catch {
      return this.memory.get(name) ?? otherwise;
    }
  }
  put(name, value) {
    this.memory.set(name, value);
    try {
      localStorage.setItem(this.prefix + name, JSON.stringify(value));
    } catch {
      // Storage is full or forbidden: the page still holds it.
    }
  }
}

// Emits: open, lost, and every frame of the server under its type.
export class Link extends EventTarget {
  constructor(url, name, locale) {
    super();
    this.url = url;
    this.locale = locale;
    this.kept = new Kept(`throughline:${name}:`);
    this.cursor = this.kept.get("cursor", 0);
    this.outgoing = this.kept.get("outgoing", []);
    this.unnoted = new Set();
    this.failures = 0;
    this.open = false;
    addEventListener("online", () => this.connect());
    setInterval(() => this.tend(), PING_EVERY_MS / 2);
  }

  connect() {
    if (this.socket && this.socket.readyState < WebSocket.CLOSING) return;
    clearTimeout(this.again);
    const socket = (this.socket = new WebSocket(this.url));
    this.heard = Date.now();
    socket.onopen = () => this.send({ type: "hello", token: this.kept.get("token", ""), cursor: this.cursor, locale: this.locale });
    socket.onmessage = (event) => this.hear(JSON.parse(event.data));
    socket.onclose = (event) => socket === this.socket && this.lose(event.reason);
  }

  lose(why) {
    const asked = this.waiting && this.outgoing[0];
    this.socket = null;
    this.open = this.waiting = false;
    // Said again and again it would keep everything behind it from ever being said.
    if (asked && why === "malformed frame") this.hear({ type: "refused", id: asked.id, reason: "unreadable" });
    this.emit("lost");
    // The tabs of one person would turn each other out for ever: this one waits until it is looked at.
    if (why === "too many tabs") return addEventListener("focus", () => this.connect(), { once: true });
    const most = Math.min(TRY_AGAIN_MAX_MS, TRY_AGAIN_MS * 2 ** this.failures++);
    this.again = setTimeout(() => this.connect(), most * (0.5 + Math.random() / 2));
  }

  // Pings; a socket that says nothing is as good as lost, whatever the browser thinks of it.
  tend() {
    if (!this.socket) return;
    const silent = Date.now() - this.heard;
    if (silent > SILENCE_MAX_MS) {
      const dead = this.socket;
      this.lose();
      dead.close();
    } else if (this.open) {
      if (silent > PING_EVERY_MS / 2) this.send({ type: "ping" });
      for (const number of this.unnoted) this.send({ type: "seen", number });
      if (this.waiting && Date.now() - this.asked > ANSWER_WITHIN_MS) this.waiting = false;
      this.pump();
    }
  }

  send(frame) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(frame));
  }

  emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  // False when too much waits already.
  say(text, name) {
    if (this.outgoing.length >= OUTGOING_MAX) return null;
    const line = { id: randomId(), text: text.toWellFormed?.() ?? text, name };
    this.outgoing.push(line);
    this.kept.put("outgoing", this.outgoing);
    this.pump();
    return line;
  }

  // One at a time: so the server has them in the order they were written.
  pump() {
    if (!this.open || this.waiting || !this.outgoing.length) return;
    this.waiting = true;
    this.asked = Date.now();
    this.send({ type: "say", ...this.outgoing[0] });
  }

  answered(id) {
    this.outgoing = this.outgoing.filter((line) => line.id !== id);
    this.kept.put("outgoing", this.outgoing);
    this.waiting = false;
  }

  noted(number) {
    this.unnoted.delete(number);
    // Only what is noted without a gap is behind us: the rest must be sent to us again after a reload.
    this.cursor = Math.max(this.cursor, this.unnoted.size ? Math.min(...this.unnoted) - 1 : number);
    this.kept.put("cursor", this.cursor);
  }

  hear(frame) {
    this.heard = Date.now();
    if (frame.type === "welcome") {
      this.open = true;
      this.failures = 0;
      this.kept.put("cursor", (this.cursor = frame.cursor));
      this.kept.put("token", frame.token);
      this.emit("open");
    } else if (frame.type === "message") {
      this.unnoted.add(frame.number);
      this.send({ type: "seen", number: frame.number });
    } else if (frame.type === "noted") this.noted(frame.number);
    else if (frame.type === "taken" || frame.type === "refused") this.answered(frame.id);
    else if (frame.type === "wait") {
      setTimeout(() => {
        this.waiting = false;
        this.pump();
      }, frame.after_s * 1000);
    }
    this.emit(frame.type, frame);
    this.pump();
  }
}
