// The page: what the feed says goes to each part of it, at most once a frame, in the order they stand on the page.

import { Charts } from "./charts.js";
import { Configuration, problems, reloadProblems } from "./config.js";
import { Decisions } from "./decisions.js";
import { Details } from "./details.js";
import { Keyed, attribute, el, hide, put } from "./dom.js";
import { Feed } from "./feed.js";
import { Fleet } from "./fleet.js";
import { Flows, Routes } from "./shares.js";
import { amount, clean, clock, count, list, number, percent, rate, record, seconds, whole } from "./text.js";
import { judge } from "./verdict.js";

const at = id => document.getElementById(id);
const PROBLEMS = 6;
const VERDICTS = { ok: "✓", warn: "!", bad: "×", idle: "·" };
const TINTS = { ok: "#1a7f45", warn: "#b26a00", bad: "#cc2936", idle: "#6b7480" };

class Page {
  constructor() {
    this.state = null;
    this.fair = null;
    this.paused = false;
    this.charts = new Charts(at("charts"), at("cursor-at"));
    this.decisions = new Decisions();
    this.details = new Details(this.decisions);
    this.fleet = new Fleet(endpoint => this.details.open(endpoint));
    this.flows = new Flows();
    this.routes = new Routes();
    this.config = new Configuration(config => {
      const fairness = record(record(config.settings).fairness);
      this.fair = typeof fairness.enabled === "boolean" ? fairness.enabled : null;
      if (this.state) this.flows.update(this.state, this.fair);
    });
    this.facts = new Facts();
    this.troubles = new Keyed(at("problems"), problem => this.trouble(problem));
    at("pause").addEventListener("click", () => this.pause());
    at("as-table").addEventListener("click", () => this.table());
    this.feed = new Feed(this);
  }

  hello(hello) {
    this.version = clean(hello.version, 32);
    this.started = number(hello.started);
    this.config.value = null;
    this.charts.begin(list(hello.history));
    this.live();
    if (record(hello.state) === hello.state) this.take(hello.state);
  }

  tick(state) {
    this.live();
    this.take(state);
  }

  take(state) {
    this.pending = state;
    const totals = record(state.totals);
    this.charts.keep([state.at, totals.rps, totals.errors, totals.tokens_in, totals.tokens_out, totals.ttft_p50, totals.ttft_p99, totals.inflight, totals.queued]);
    this.details.keep(state);
    if (!this.paused) this.due ??= requestAnimationFrame(() => this.show());
  }

  show() {
    this.due = null;
    const state = (this.state = this.pending);
    this.charts.draw();
    this.judge(state);
    this.facts.update(state);
    this.fleet.update(state);
    this.decisions.update(state);
    this.flows.update(state, this.fair);
    this.routes.update(state);
    this.details.update(state);
    this.config.update(number(state.generation));
    problems(at("config-problems"), reloadProblems(state));
    if (!at("table").hidden) at("table").replaceChildren(this.charts.table());
    const up = number(state.uptime);
    put(at("about"), `infer-gateway ${this.version ?? ""}${up === null ? "" : ` · up ${seconds(Math.floor(up))}`}`);
  }

  judge(state) {
    const { level, sentence, problems: found } = judge(state);
    put(at("verdict-text"), sentence);
    attribute(at("verdict"), "data-level", level);
    put(at("verdict").firstElementChild, VERDICTS[level]);
    // the first is the sentence itself
    const shown = found.slice(level === "idle" ? 0 : 1, PROBLEMS);
    hide(at("problems"), !shown.length);
    const rest = Math.max(0, found.length - PROBLEMS);
    const last = shown.length && rest ? [["rest", { level: "idle", text: `and ${rest} more` }]] : [];
    this.troubles.show([...shown.map((problem, index) => [index, problem]), ...last]);
    const title = `${VERDICTS[level]} ${sentence} · infer-gateway`;
    if (document.title !== title) document.title = title;
    if (this.level !== level) this.tint((this.level = level));
    // Whoever listens to the page is told when something changes, not every second
    const changed = found.map(problem => problem.text).join("; ").replace(/\d+/g, "");
    if (this.changed !== changed) put(at("told"), sentence);
    this.changed = changed;
  }

  /** A line of the list of what is wrong; where it is about one endpoint or the configuration, it leads there. */
  trouble() {
    const text = el("button", { type: "button", className: "link" });
    const element = el("li", {}, text);
    let now;
    text.addEventListener("click", () => {
      if (now.endpoint) this.fleet.show(now.endpoint);
      else at(now.config ? "config" : "fleet").scrollIntoView();
    });
    const update = problem => {
      now = problem;
      put(text, problem.text);
      attribute(element, "data-level", problem.level);
    };
    return { element, update };
  }

  /** The browser's tab shows how the fleet is, too. */
  tint(level) {
    const icon = document.querySelector("link[rel=icon]");
    const dot = level === "ok" ? "" : `<circle cx="24" cy="24" r="8" fill="${TINTS[level]}" stroke="#fff" stroke-width="2"/>`;
    const image = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="7" fill="#1f5fd6"/><path d="M6 16h6l8-7h5M12 16h13M12 16l8 7h5" fill="none" stroke="#fff" stroke-width="2.6"/>${dot}</svg>`;
    icon.href = `data:image/svg+xml,${encodeURIComponent(image)}`;
  }

  live() {
    document.documentElement.classList.remove("lost");
    attribute(at("live"), "data-state", this.paused ? "paused" : "live");
    put(at("live-text"), this.paused ? "paused" : "live");
    at("live").title = "Figures come once a second";
  }

  lost(since, why) {
    document.documentElement.classList.add("lost");
    attribute(at("live"), "data-state", "lost");
    put(at("live-text"), `disconnected since ${clock(since)}`);
    at("live").title = why ? clean(why, 200) : "The last figures are shown in grey. Trying again.";
    if (why) put(at("verdict-text"), clean(why, 200));
    if (!this.state) put(at("verdict-text"), why ? clean(why, 200) : "The gateway cannot be reached");
  }

  pause() {
    this.paused = !this.paused;
    attribute(at("pause"), "aria-pressed", this.paused);
    put(at("pause"), this.paused ? "Go on" : "Pause");
    if (this.feed.source !== null) this.live();
    if (!this.paused && this.pending) this.show();
  }

  table() {
    const show = at("table").hidden;
    hide(at("table"), !show);
    attribute(at("as-table"), "aria-expanded", show);
    put(at("as-table"), show ? "Hide the table" : "Show as a table");
    at("table").replaceChildren(...(show ? [this.charts.table()] : []));
  }
}

/** Figures that need no chart. */
class Facts {
  constructor() {
    const values = Array.from(FACTS, () => el("dd", {}, "–"));
    at("facts").append(...FACTS.map(([label, , title], index) => el("div", { title }, el("dt", {}, label), values[index])));
    this.values = values;
  }

  update(state) {
    FACTS.forEach(([, of], index) => put(this.values[index], of(record(state.totals), state)));
  }
}

const FACTS = [
  ["Prefix hits", totals => percent(totals.hit_ratio), "Share of prompt tokens that engines held already"],
  ["First token, p90", totals => seconds(totals.ttft_p90), "Nine of ten requests had their first token by then"],
  ["Per token, p50", totals => seconds(totals.tpot_p50), "Time from token to token"],
  ["Refused", totals => rate(totals.refused), "By limits, by admission, for want of credentials"],
  ["Streams", totals => whole(totals.streams), "Answers that are being streamed"],
  ["Connections", totals => connections(totals.connections), "By listener"],
  ["Uptime", (_, state) => (number(state.uptime) === null ? "–" : seconds(Math.floor(state.uptime))), "Since the gateway was started"],
];

function connections(by) {
  const parts = Object.entries(record(by)).slice(0, 6).map(([listener, n]) => `${clean(listener, 16)} ${amount(count(n))}`);
  return parts.join(" · ") || "–";
}

const THEMES = ["system", "light", "dark"];

/** The theme goes round: as the system, light, dark. */
function themes() {
  const button = at("theme");
  const now = () => document.documentElement.dataset.theme ?? "system";
  const told = () => {
    put(button, `Theme: ${now()}`);
    button.ariaLabel = `Theme: ${now() === "system" ? "as the system" : now()}`;
  };
  button.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(now()) + 1) % THEMES.length];
    if (next === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    try {
      localStorage.setItem("theme", next);
    } catch {
      // it holds until the page is left
    }
    told();
    page.charts.draw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => page.charts.draw());
  told();
}

/** Where a token is demanded there is a way out again. The session itself is nothing that a page can see. */
async function leaving() {
  const button = at("logout");
  button.addEventListener("click", async () => {
    await fetch("/logout", { method: "POST" });
    location.replace("/login");
  });
  try {
    const answer = await fetch("/login", { redirect: "manual", cache: "no-store" });
    hide(button, answer.type === "opaqueredirect" || !answer.ok);
  } catch {
    // not reachable, which is being shown
  }
}

const page = new Page();
themes();
leaving();
