// One endpoint, looked at closely: its figures, its models, the decisions that chose it, and a way to drain it.

import { Charts } from "./charts.js";
import { el, name, put } from "./dom.js";
import { chosen, item } from "./decisions.js";
import { get, words } from "./feed.js";
import { keyOf, badge } from "./fleet.js";
import { amount, clean, count, list, number, part, percent, rate, record, seconds, whole } from "./text.js";
import { reason, stateName, stateOf } from "./verdict.js";

const SHOWN = 8;
const KEPT_S = 300;
const CHARTS = [
  {
    title: "Requests there",
    format: amount,
    least: 4,
    whole: true,
    series: [{ column: 1, label: "in flight", tone: "a", area: true }, { column: 2, label: "waiting", tone: "b" }],
  },
  { title: "KV cache", format: percent, least: 1, steps: 0.5, series: [{ column: 3, label: "in use", tone: "a", area: true }] },
];

const FIGURES = [
  ["Pool", endpoint => clean(endpoint.pool, 60)],
  ["Engine", endpoint => clean(endpoint.engine, 40) || "–"],
  ["In flight", endpoint => whole(count(endpoint.inflight))],
  ["Running", endpoint => whole(endpoint.running)],
  ["Waiting there", endpoint => whole(endpoint.waiting)],
  ["KV cache in use", endpoint => percent(part(endpoint.kv))],
  ["Prefix hits", endpoint => percent(part(endpoint.hit))],
  ["Requests", endpoint => rate(endpoint.rps)],
  ["Tokens out", endpoint => rate(endpoint.tokens_out)],
  ["Figures are from", endpoint => (number(endpoint.age) === null ? "–" : `${seconds(Math.round(endpoint.age * 10) / 10)} ago`)],
];

export class Details {
  constructor(decisions) {
    this.decisions = decisions;
    this.dialog = document.getElementById("details");
    this.title = el("h2", { id: "details-title" });
    this.state = el("p", { className: "state" });
    this.values = FIGURES.map(() => el("dd"));
    this.models = el("ul", { className: "models" });
    this.chose = el("div");
    this.past = new Map();
    const charts = el("div", { className: "charts" });
    this.when = el("p", { className: "note" });
    this.charts = new Charts(charts, this.when, CHARTS);
    this.drained = el("div", { className: "drain" });
    const close = el("button", { type: "button", className: "button quiet", ariaLabel: "Close" }, "Close");
    close.addEventListener("click", () => this.close());
    this.dialog.append(
      el("header", {}, this.title, close),
      this.state,
      el("dl", { className: "facts" }, ...FIGURES.map(([label], at) => el("div", {}, el("dt", {}, label), this.values[at]))),
      charts,
      this.when,
      el("h3", {}, "Models"),
      this.models,
      el("h3", {}, "Recent decisions for it"),
      this.chose,
      this.drained,
    );
    this.dialog.addEventListener("keydown", event => event.key === "Escape" && this.close());
    this.dialog.addEventListener("close", () => (this.key = null));
  }

  async open(endpoint) {
    this.from = document.activeElement;
    this.key = keyOf(endpoint);
    this.older = [];
    this.asked = null;
    this.shown = null;
    this.chose.replaceChildren();
    this.drained.replaceChildren();
    this.charts.begin(this.past.get(this.key) ?? []);
    this.fill(endpoint);
    if (!this.dialog.open) this.dialog.show();
    this.dialog.querySelector("button").focus();
    const key = this.key;
    try {
      const older = list(await get("/api/decisions?limit=256")).map(record);
      if (key !== this.key) return;
      this.older = older.filter(decision => chosen(decision) === endpoint.id);
      this.fill(this.endpoint);
    } catch {
      // those seen by this page are shown all the same
    }
  }

  close() {
    this.dialog.close();
    this.from?.focus();
  }

  /** What charts of an endpoint show is what this page has seen of it. */
  keep(state) {
    const at = number(state.at);
    if (at === null) return;
    const past = new Map();
    for (const endpoint of list(state.endpoints)) {
      if (record(endpoint) !== endpoint) continue;
      const key = keyOf(endpoint);
      const points = this.past.get(key) ?? [];
      points.push([at, count(endpoint.inflight), endpoint.waiting, part(endpoint.kv)]);
      if (points.length > KEPT_S) points.shift();
      past.set(key, points);
    }
    this.past = past;
  }

  update(state) {
    if (!this.key) return;
    this.charts.add(this.past.get(this.key)?.at(-1));
    const endpoint = list(state.endpoints).find(each => record(each) === each && keyOf(each) === this.key);
    if (endpoint) this.fill(endpoint);
    else put(this.state, "It does not belong to the fleet any more.");
  }

  fill(endpoint) {
    this.endpoint = endpoint;
    put(this.title, clean(endpoint.id, 80));
    const why = reason(endpoint);
    const key = `${stateName(endpoint)} ${why}`;
    if (this.state.key !== key) {
      this.state.key = key;
      this.state.shown = undefined;
      this.state.replaceChildren(badge(stateName(endpoint)), el("b", {}, stateOf(endpoint).words), why ? el("span", {}, why) : "");
    }
    FIGURES.forEach(([, of], at) => put(this.values[at], of(endpoint)));
    const models = list(endpoint.models).filter(model => typeof model === "string");
    if (this.models.key !== models.join("\n")) {
      this.models.key = models.join("\n");
      this.models.replaceChildren(...(models.length ? models.map(model => el("li", {}, name(model, 80, "code"))) : [el("li", { className: "note" }, "It has not said what it serves.")]));
    }
    this.choices(endpoint);
    this.action(endpoint);
  }

  choices(endpoint) {
    if (this.chose.querySelector("details[open]") || this.chose.matches(":hover, :focus-within")) return;
    const seen = this.decisions.for(endpoint.id);
    const ids = new Set(seen.map(decision => decision.id));
    const all = [...seen, ...this.older.filter(decision => !ids.has(decision.id))].slice(0, SHOWN);
    const key = all.map(decision => `${decision.id} ${decision.ttftSeconds}`).join("\n");
    if (this.shown === key) return;
    this.shown = key;
    this.chose.replaceChildren(...(all.length ? all.map(decision => item(decision)) : [el("p", { className: "note" }, "None of the decisions that are kept chose it.")]));
  }

  /** The button, then the question, then what came of it. Drawn again only when that changes. */
  action(endpoint) {
    const step = endpoint.state === "draining" ? "draining" : (this.asked ?? "offer");
    if (this.drained.firstChild && this.drained.step === step) return;
    this.drained.step = step;
    if (step === "draining") {
      const back = this.button("Use it again", "button", () => this.drain(endpoint, false));
      this.drained.replaceChildren(el("p", { className: "note" }, "It is being drained: nothing new is placed on it, what runs there finishes."), back);
    } else if (step === "offer") this.drained.replaceChildren(this.button("Drain this endpoint…", "button", () => this.ask("ask")));
    else if (step === "ask") {
      const yes = this.button("Drain it", "button danger", () => this.drain(endpoint));
      const no = this.button("Keep it", "button", () => this.ask(null));
      const inflight = count(endpoint.inflight);
      const finish = inflight ? ` ${amount(inflight)} in flight finish.` : "";
      this.drained.replaceChildren(el("p", {}, "No new request will be placed on it, in any pool, until it is to be used again or the gateway is started anew.", finish), el("p", { className: "answers" }, yes, no));
      no.focus();
    } else this.drained.replaceChildren(el("p", { className: "said", role: "alert" }, clean(step, 300)), this.button("Try again", "button", () => this.ask("ask")));
  }

  button(text, className, onclick) {
    return el("button", { type: "button", className, onclick }, text);
  }

  ask(step) {
    this.asked = step;
    this.action(this.endpoint);
    if (step === null) this.drained.querySelector("button")?.focus();
  }

  async drain(endpoint, draining = true) {
    const key = this.key;
    let said = null;
    try {
      const answer = await fetch(`/api/endpoints/${encodeURIComponent(endpoint.id)}/drain`, { method: draining ? "POST" : "DELETE" });
      if (answer.status === 401) return void location.replace("/login");
      if (!answer.ok) said = `Nothing was changed: ${await words(answer)}`;
    } catch {
      said = "Nothing was changed: the gateway cannot be reached.";
    }
    if (key !== this.key) return;
    if (said === null) {
      this.asked = null;
      this.drained.step = "said";
      this.drained.replaceChildren(el("p", { className: "note", role: "status" }, draining ? "It is being drained." : "It gets requests again."));
    } else this.ask(said);
  }
}
