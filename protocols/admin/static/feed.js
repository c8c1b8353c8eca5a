// The live feed: server-sent events, asked for again with growing pauses when they stop.

const FIRST_MS = 500;
const LONGEST_MS = 10000;
const SILENT_MS = 8000;
const PROBE = "/api/decisions?limit=0";

export class Feed {
  /** `told` has hello(value), tick(state) and lost(since, why), which is called again when more is known of it. */
  constructor(told) {
    this.told = told;
    this.wait = FIRST_MS;
    this.lostAt = null;
    this.source = null;
    setInterval(() => this.listen(), 2000);
    addEventListener("online", () => this.again(0));
    this.open();
  }

  open() {
    const source = new EventSource("/api/live");
    this.source = source;
    this.heard = performance.now();
    source.addEventListener("hello", event => this.take(source, event, value => this.told.hello(value)));
    source.addEventListener("state", event => this.take(source, event, value => this.told.tick(value)));
    source.addEventListener("error", () => this.fail(source));
  }

  take(source, event, tell) {
    if (source !== this.source) return;
    let value;
    try {
      value = JSON.parse(event.data);
    } catch {
      return;
    }
    if (value === null || typeof value !== "object") return;
    this.heard = performance.now();
    this.wait = FIRST_MS;
    this.lostAt = null;
    tell(value);
  }

  /** A connection that says nothing at all is as good as lost. Hidden pages are throttled, and see by then. */
  listen() {
    if (this.source !== null && performance.now() - this.heard > SILENT_MS) this.fail(this.source);
  }

  fail(source) {
    if (source !== this.source) return;
    source.close();
    this.source = null;
    this.lostAt ??= Date.now() / 1000;
    this.told.lost(this.lostAt, "");
    this.ask();
    this.again(this.wait * (0.8 + 0.4 * Math.random()));
    this.wait = Math.min(LONGEST_MS, this.wait * 1.7);
  }

  again(after) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.source === null && this.open(), after);
  }

  /** An EventSource does not say why it failed: whoever has to log in is sent there. */
  async ask() {
    try {
      const answer = await fetch(PROBE, { cache: "no-store" });
      if (answer.status === 401) location.replace("/login");
      else if (!answer.ok) this.told.lost(this.lostAt ?? Date.now() / 1000, await words(answer));
    } catch {
      // not reachable at all, which is being shown
    }
  }
}

/** What an answer that is not 2xx says of itself. */
export async function words(answer) {
  try {
    return String((await answer.json()).error.message);
  } catch {
    return `the gateway answered ${answer.status}`;
  }
}

/** GET as JSON. Throws an Error in words. */
export async function get(path) {
  const answer = await fetch(path, { cache: "no-store" });
  if (answer.status === 401) location.replace("/login");
  if (!answer.ok) throw new Error(await words(answer));
  return answer.json();
}
