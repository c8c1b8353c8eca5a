// The fleet map: pools as groups, endpoints as tiles that are made once and changed in place.

import { Keyed, attribute, el, fill, hide, name, put } from "./dom.js";
import { amount, clean, count, list, number, part, percent, record, seconds, some, whole } from "./text.js";
import { STATES, reason, stateName, stateOf } from "./verdict.js";

const MANY = 40;
const MANY_ON_A_PHONE = 8;
const narrow = matchMedia("(max-width: 720px)");
const STALE_S = 5;
const { compare } = new Intl.Collator("en", { numeric: true });

export const keyOf = endpoint => `${clean(endpoint.pool, 300)}\n${clean(endpoint.id, 300)}`;

export class Fleet {
  /** `chosen(endpoint)` is called when a tile is clicked. */
  constructor(chosen) {
    this.chosen = chosen;
    this.text = "";
    this.only = null;
    this.small = null;
    this.tiles = new Map();
    this.note = document.getElementById("fleet-note");
    this.density = document.getElementById("density");
    this.empty = el("div", { className: "empty", hidden: true }, ...noEndpoints());
    this.nothing = el("p", { className: "empty", hidden: true }, "No endpoint is like that.");
    const pools = document.getElementById("pools");
    const groups = el("div", { className: "pools" });
    this.rest = el("p", { className: "note", hidden: true });
    pools.append(this.empty, this.nothing, groups, this.rest);
    this.groups = new Keyed(groups, pool => new Pool(this, pool));
    this.chips = new Keyed(document.getElementById("states"), state => this.chip(state));
    document.getElementById("filter").addEventListener("input", event => {
      this.text = event.target.value.trim().toLowerCase();
      this.sift();
    });
    this.density.addEventListener("click", () => {
      this.small = !this.isSmall();
      this.dense();
      this.arrange();
    });
  }

  update(state) {
    const endpoints = list(state.endpoints).filter(each => record(each) === each);
    this.all = endpoints;
    const byPool = new Map(list(state.pools).map(record).map(pool => [clean(pool.name, 300), { pool, endpoints: [] }]));
    for (const endpoint of endpoints) {
      const pool = clean(endpoint.pool, 300);
      if (!byPool.has(pool)) byPool.set(pool, { pool: { name: endpoint.pool }, endpoints: [] });
      byPool.get(pool).endpoints.push(endpoint);
    }
    const names = [...byPool.keys()].sort(compare);
    this.groups.show(names.map(key => [key, byPool.get(key)]));
    for (const [key, tile] of this.tiles) if (!tile.element.isConnected) this.tiles.delete(key);
    this.arrange();
    const left = count(state.endpoints_left_out);
    hide(this.rest, !left);
    put(this.rest, `and ${some(left, "endpoint")} more: /api/endpoints has all of them`);
    this.states(endpoints);
    hide(this.empty, endpoints.length > 0 || byPool.size > 0);
    this.dense();
    this.sift();
  }

  states(endpoints) {
    const counts = new Map();
    for (const endpoint of endpoints) counts.set(stateName(endpoint), (counts.get(stateName(endpoint)) ?? 0) + 1);
    if (this.only !== null && !counts.has(this.only)) this.only = null;
    const shown = Object.keys(STATES).filter(state => counts.has(state));
    this.chips.show(shown.map(state => [state, { state, count: counts.get(state) }]));
    const serving = endpoints.filter(endpoint => stateOf(endpoint).serves).length;
    const of = serving === endpoints.length ? some(serving, "endpoint") : `${whole(serving)} of ${some(endpoints.length, "endpoint")} serve,`;
    put(this.note, endpoints.length ? `${of} in ${some(this.groups.items.size, "pool")}` : "");
  }

  chip({ state }) {
    const text = el("span");
    const element = el("button", { type: "button", className: "chip", ariaPressed: "false" }, badge(state), text);
    element.addEventListener("click", () => {
      this.only = this.only === state ? null : state;
      this.sift();
    });
    const update = ({ count: n }) => put(text, `${n} ${STATES[state].words}`);
    return { element, update, state };
  }

  /** Small pools share a row; one that is left over has its own. */
  arrange() {
    const groups = [...this.groups.items.values()];
    const shares = this.isSmall() ? ["small", "middle"] : ["small"];
    const halves = groups.filter(group => shares.includes(group.size));
    const alone = halves.length % 2 ? halves.at(-1) : null;
    for (const group of groups) attribute(group.element, "data-half", halves.includes(group) && group !== alone);
  }

  isSmall() {
    return this.small ?? (this.all ?? []).length > (narrow.matches ? MANY_ON_A_PHONE : MANY);
  }

  dense() {
    const small = this.isSmall();
    put(this.density, small ? "Large tiles" : "Small tiles");
    this.groups.parent.classList.toggle("small", small);
  }

  /** Hide what the filters leave out. */
  sift() {
    let left = 0;
    for (const group of this.groups.items.values()) left += group.sift(this.text, this.only);
    for (const chip of this.chips.items.values()) attribute(chip.element, "aria-pressed", chip.state === this.only);
    hide(this.nothing, left > 0 || this.groups.items.size === 0 || (!this.text && this.only === null));
  }

  /** Bring the tile into view, and the keyboard to it. */
  show(endpoint) {
    this.tiles.get(keyOf(endpoint))?.element.scrollIntoView({ block: "center" });
    this.tiles.get(keyOf(endpoint))?.element.focus();
  }
}

function noEndpoints() {
  const command = text => el("pre", {}, el("code", {}, text));
  return [
    el("h3", {}, "No endpoints yet"),
    el("p", {}, "The gateway runs and knows no engine. Name one when it is started:"),
    command("infer-gateway serve --backend vllm=http://127.0.0.1:8000"),
    el("p", {}, "or in a configuration file (-c), as a ModelServer with endpoints and a ModelRoute to it. With --kubernetes engines are found by their labels. To see everything at work first:"),
    command("infer-gateway demo"),
  ];
}

/** The sign of a state: a shape and a letter, so that nobody needs the colour. */
export function badge(state) {
  const kind = Object.hasOwn(STATES, state) ? state : "unknown";
  return el("i", { className: `badge ${kind}`, ariaHidden: "true" }, STATES[kind].letter);
}

class Pool {
  constructor(fleet, { pool }) {
    this.fleet = fleet;
    this.title = el("h3", {}, name(pool.name || "without a name", 60));
    this.serving = el("span", { className: "serving" });
    this.meter = el("i");
    this.saturation = el("span");
    this.full = el("span", { className: "meter", title: "How full the pool is: at 100 % it is saturated" }, el("b", { ariaHidden: "true" }, this.meter), this.saturation);
    this.figures = el("span", { className: "figures" });
    this.tiles = el("div", { className: "tiles" });
    this.none = el("p", { className: "none", hidden: true }, "No endpoints: none is configured, or none was found.");
    this.element = el("article", { className: "pool" }, el("header", {}, this.title, this.serving, this.full, this.figures), this.none, this.tiles);
    this.keyed = new Keyed(this.tiles, endpoint => new Tile(this.fleet, endpoint));
    this.name = clean(pool.name, 300).toLowerCase();
  }

  update({ pool, endpoints }) {
    const ordered = endpoints.toSorted((a, b) => compare(String(a.id), String(b.id)));
    this.keyed.show(ordered.map(endpoint => [keyOf(endpoint), endpoint]));
    hide(this.none, endpoints.length > 0);
    this.size = endpoints.length > 8 ? "large" : endpoints.length > 2 ? "middle" : "small";
    const ready = number(pool.ready) ?? endpoints.filter(endpoint => stateOf(endpoint).serves).length;
    const members = number(pool.members) ?? endpoints.length;
    put(this.serving, ready === members ? some(ready, "serves", "serve") : `${whole(ready)} of ${whole(members)} serve`);
    attribute(this.element, "data-level", members && !ready ? "bad" : ready < members || !members ? "warn" : "ok");
    const saturation = number(pool.saturation);
    hide(this.full, saturation === null);
    put(this.saturation, `${percent(saturation)} full`);
    fill(this.meter, saturation ?? 0);
    attribute(this.full, "data-full", saturation !== null && saturation >= 1);
    put(this.figures, figures(pool));
  }

  sift(text, only) {
    const whole = text !== "" && this.name.includes(text);
    let left = 0;
    for (const tile of this.keyed.items.values()) {
      const shown = (only === null || tile.state === only) && (whole || text === "" || tile.matches(text));
      hide(tile.element, !shown);
      left += shown ? 1 : 0;
    }
    hide(this.element, left === 0 && (text !== "" || only !== null) && !(whole && only === null));
    return left;
  }
}

function figures(pool) {
  const parts = [];
  if (count(pool.queued)) parts.push(`${whole(pool.queued)} waiting`);
  if (number(pool.inflight) !== null) parts.push(`${whole(pool.inflight)} in flight`);
  if (count(pool.rps)) parts.push(`${amount(pool.rps)} requests/s`);
  if (count(pool.tokens_out)) parts.push(`${amount(pool.tokens_out)} tokens/s`);
  if (number(pool.ttft_p50) !== null) parts.push(`first token ${seconds(pool.ttft_p50)}`);
  if (part(pool.hit_ratio) !== null) parts.push(`${percent(pool.hit_ratio)} prefix hits`);
  return parts.join(" · ");
}

class Tile {
  constructor(fleet, endpoint) {
    this.badge = badge(stateName(endpoint));
    this.label = name(endpoint.id, 64, "b");
    this.age = el("em");
    this.kv = el("i");
    this.usage = el("span");
    this.values = LOADS.map(() => el("b"));
    const loads = LOADS.map(([label], at) => el("span", {}, this.values[at], label));
    this.more = el("span", { className: "more" });
    this.inflight = el("span", { className: "inflight", ariaHidden: "true" });
    this.element = el(
      "button",
      { type: "button", className: "tile" },
      el("span", { className: "who" }, this.badge, this.label, this.age, this.inflight),
      el("span", { className: "kv" }, el("b", { ariaHidden: "true" }, this.kv), this.usage),
      el("span", { className: "load" }, ...loads),
      this.more,
    );
    this.element.addEventListener("click", () => fleet.chosen(this.endpoint));
    this.key = keyOf(endpoint);
    this.fleet = fleet;
    fleet.tiles.set(this.key, this);
  }

  update(endpoint) {
    this.endpoint = endpoint;
    this.fleet.tiles.set(this.key, this);
    const state = stateName(endpoint);
    const { letter, words } = stateOf(endpoint);
    if (this.state !== state) {
      this.state = state;
      this.badge.className = `badge ${state}`;
      put(this.badge, letter);
      attribute(this.element, "data-state", state);
    }
    const kv = part(endpoint.kv);
    fill(this.kv, kv ?? 0);
    attribute(this.element, "data-kv", kv === null ? "none" : kv >= 0.9 ? "full" : "some");
    put(this.usage, kv === null ? "KV unknown" : `KV ${percent(kv)}`);
    LOADS.forEach(([, of], at) => put(this.values[at], of(endpoint)));
    const why = more(endpoint, state);
    put(this.more, why);
    hide(this.more, !why);
    const age = number(endpoint.age);
    put(this.age, age === null ? "" : age > STALE_S ? `${seconds(Math.round(age))} ago` : tenths(age));
    attribute(this.age, "data-stale", age !== null && age > STALE_S);
    put(this.inflight, amount(count(endpoint.inflight)));
    const said = `${clean(endpoint.id, 80)}: ${why || words}; ${this.usage.shown}; ${LOADS.map(([label], at) => `${this.values[at].shown} ${label}`).join(", ")}${age === null ? "" : `; figures of ${this.age.shown}`}`;
    attribute(this.element, "aria-label", said);
    if (this.element.title !== said) this.element.title = said;
  }

  matches(text) {
    const { id, pool, engine, models } = this.endpoint;
    const all = [id, pool, engine, ...list(models), stateOf(this.endpoint).words, this.state, reason(this.endpoint)];
    return all.some(part => typeof part === "string" && part.slice(0, 400).toLowerCase().includes(text));
  }
}

const LOADS = [
  ["in flight", endpoint => amount(count(endpoint.inflight))],
  ["running", endpoint => amount(endpoint.running)],
  ["waiting", endpoint => amount(endpoint.waiting)],
  ["hits", endpoint => percent(part(endpoint.hit))],
];
const tenths = age => `${Math.max(0, age).toFixed(1)} s ago`;

/** What is to be said of an endpoint besides its figures; "" if nothing. */
function more(endpoint, state) {
  const why = reason(endpoint);
  if (state !== "ready") return why ? `${stateOf(endpoint).words}: ${why}` : stateOf(endpoint).words;
  return number(endpoint.running) === null && number(endpoint.kv) === null ? "says nothing of its load" : why;
}
