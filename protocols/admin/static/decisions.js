// Recent decisions of the scheduler in words, each with the table that it was made from; one can be found by its id.

import { el, hide, name, put } from "./dom.js";
import { get } from "./feed.js";
import { clean, count, list, number, percent, record, seconds, several, some, whole } from "./text.js";

const SHOWN = 8;
const KEPT = 256;

/** Where the request went last; "" if nowhere. */
export function chosen(decision) {
  const tried = list(decision.tried);
  return typeof tried.at(-1) === "string" ? tried.at(-1) : "";
}

const candidatesOf = decision => list(decision.candidates).map(record);
const better = (a, b) => count(b.score) - count(a.score);

/** When the first token was expected there: the wait, and what of the prompt is not held at the speed it computes. */
function expected(decision, candidate) {
  const speed = number(candidate.promptTokensPerSecond);
  const wait = number(candidate.waitSeconds);
  if (speed === null || wait === null || speed <= 0) return null;
  return wait + Math.max(0, count(decision.promptTokens) - count(candidate.hitTokens)) / speed;
}

function holds(decision, candidate) {
  const prompt = count(decision.promptTokens);
  if (!prompt) return null;
  const hit = Math.min(prompt, count(candidate.hitTokens));
  return `holds ${hit ? whole(hit) : "none"} of ${whole(prompt)} prompt tokens`;
}

function scored(candidate) {
  const parts = Object.entries(record(candidate.scores)).filter(([part]) => part !== "cost").slice(0, 3);
  if (!parts.length) return null;
  return `score ${short(candidate.score)} (${parts.map(([part, value]) => `${clean(part, 24)} ${short(value)}`).join(", ")})`;
}

const short = value => (number(value) === null ? "–" : String(Math.round(value * 1000) / 1000));

/** Clauses that say how a candidate looked. */
function looked(decision, candidate) {
  const first = expected(decision, candidate);
  const cost = "cost" in record(candidate.scores) ? number(candidate.costSeconds) : null;
  const parts = [
    cost === null ? null : `costs everybody ${seconds(cost)}`,
    first === null ? null : first < 0.0005 ? "first token expected at once" : `first token expected after ${seconds(first)}`,
    holds(decision, candidate),
    `${whole(count(candidate.inFlight))} in flight`,
    scored(candidate),
  ];
  return parts.filter(part => part !== null).join("; ");
}

/** [why it went there, what would have been next]: sentences. */
export function explain(decision) {
  const winner = chosen(decision);
  const candidates = candidatesOf(decision);
  const taken = candidates.find(candidate => candidate.endpoint === winner);
  const others = candidates.filter(candidate => candidate !== taken).sort(better);
  const without = Object.keys(record(decision.leftOut)).length;
  const aside = without ? `${some(without, "endpoint")} left out beforehand. ` : "";
  if (!winner) return [candidates.length ? "Endpoints were weighed, and none has got it yet." : "Nothing was weighed yet: it waits its turn, or no endpoint can take it.", aside];
  const before = list(decision.tried).slice(0, -1).filter(endpoint => endpoint !== winner);
  const failed = before.length ? `${several(before)} failed first. ` : "";
  if (!taken) return [`${failed}There was nothing to weigh.`, aside];
  if (!others.length) return [`${failed}The only one to choose from; ${looked(decision, taken)}.`, aside];
  const next = others[0];
  const tie = count(next.score) === count(taken.score);
  const because = tie ? "Chosen among equals" : better(taken, next) < 0 ? "Chosen as the best" : "Chosen though another looked better";
  const other = tie ? "As good" : better(taken, next) < 0 ? "Next best" : "Better";
  return [`${failed}${because}: ${looked(decision, taken)}.`, `${aside}${other}: ${clean(next.endpoint, 60)} (${looked(decision, next)}).`];
}

/** The whole of it as a table, the best first. */
function table(decision) {
  const winner = chosen(decision);
  const candidates = candidatesOf(decision).sort(better);
  const parts = [...new Set(candidates.flatMap(candidate => Object.keys(record(candidate.scores))))].slice(0, 8);
  const columns = [
    ["Score", candidate => short(candidate.score)],
    ...(parts.length > 1 || (parts.length === 1 && parts[0] !== "cost") ? parts.map(part => [clean(part, 24), candidate => short(record(candidate.scores)[part])]) : []),
    ["Cost", candidate => seconds(candidate.costSeconds)],
    ["Wait", candidate => seconds(candidate.waitSeconds)],
    ["First token", candidate => seconds(expected(decision, candidate))],
    ["Held", candidate => whole(candidate.hitTokens)],
    ["In flight", candidate => whole(candidate.inFlight)],
    ["Running", candidate => whole(record(candidate.load).running)],
    ["Waiting", candidate => whole(record(candidate.load).waiting)],
    ["KV", candidate => percent(record(candidate.load).kvUsage)],
    ["Figures’ age", candidate => seconds(record(candidate.load).ageSeconds)],
  ].filter(([, of]) => candidates.some(candidate => of(candidate) !== "–"));
  const head = el("tr", {}, el("th", { scope: "col" }, "Endpoint"), ...columns.map(([title]) => el("th", { scope: "col", className: "right" }, title)));
  const row = candidate =>
    el("tr", { className: candidate.endpoint === winner ? "winner" : "" }, el("th", { scope: "row" }, name(candidate.endpoint, 60), candidate.endpoint === winner ? " ← chosen" : ""), ...columns.map(([, of]) => el("td", { className: "right" }, of(candidate))));
  return el("div", { className: "scroll" }, el("table", {}, el("thead", {}, head), el("tbody", {}, ...candidates.map(row))));
}

function leftOut(decision) {
  const out = Object.entries(record(decision.leftOut)).slice(0, 32);
  if (!out.length) return [];
  const one = ([endpoint, filter]) => el("li", {}, name(endpoint, 60), " by ", name(filter, 40, "code"));
  return [el("h4", {}, "Left out beforehand"), el("ul", { className: "plain" }, ...out.map(one))];
}

/** One decision, closed until asked. `told(open)` is called when it is opened or closed. */
export function item(decision, told = () => undefined) {
  decision = record(decision);
  const [why, next] = explain(decision);
  const came = number(decision.ttftSeconds);
  const summary = el(
    "summary",
    {},
    el("span", { className: "line" }, el("code", {}, name(decision.id || "no id", 40)), el("bdi", { className: "tag" }, clean(decision.model, 40)), el("b", {}, "→ ", name(chosen(decision) || "not placed yet", 60)), el("span", { className: "came" }, came === null ? "" : `first token came after ${seconds(came)}`)),
    el("span", { className: "why" }, why),
    el("span", { className: "next" }, next),
  );
  const element = el("details", { className: "decision" }, summary);
  element.addEventListener("toggle", () => {
    if (element.open && element.children.length === 1) element.append(body(decision));
    told(element.open);
  });
  return element;
}

function body(decision) {
  const facts = [`pool ${clean(decision.pool, 60)}`, `profile ${clean(decision.profile, 60)}`, `${whole(count(decision.promptTokens))} prompt tokens`];
  return el("div", { className: "body" }, el("p", { className: "note" }, facts.join(" · ")), table(decision), ...leftOut(decision));
}

export class Decisions {
  constructor() {
    this.seen = [];
    this.note = document.getElementById("decisions-note");
    this.recent = document.getElementById("recent");
    this.found = document.getElementById("found");
    this.empty = el("p", { className: "empty", hidden: true }, "No request was placed yet. Send one to the HTTP listener; ten decisions a second are kept, and every one that was asked for with ", el("code", {}, "x-debug-schedule: 1"), ".");
    this.recent.before(this.empty);
    document.getElementById("find").addEventListener("submit", event => {
      event.preventDefault();
      this.find(document.getElementById("find-id").value.trim());
    });
  }

  /** While somebody reads (points at the list, is in it with the keyboard, has opened one) it stays as it is. */
  reading() {
    return this.recent.matches(":hover, :focus-within") || this.recent.querySelector("details[open]") !== null;
  }

  update(state) {
    const newest = list(state.decisions).map(record);
    const ids = new Set(newest.map(decision => decision.id));
    this.seen = [...newest, ...this.seen.filter(decision => !ids.has(decision.id))].slice(0, KEPT);
    hide(this.empty, this.seen.length > 0);
    const still = this.recent.childElementCount > 0 && this.reading();
    put(this.note, still ? "kept still while you read" : "");
    const shown = newest.slice(0, SHOWN).map(sign).join("\n");
    if (still || shown === this.shown) return;
    this.shown = shown;
    this.recent.replaceChildren(...newest.slice(0, SHOWN).map(decision => el("li", {}, item(decision))));
  }

  /** Of the decisions seen by this page, those that chose the endpoint, the newest first. */
  for(endpoint) {
    return this.seen.filter(decision => chosen(decision) === endpoint);
  }

  async find(id) {
    hide(this.found, !id);
    if (!id) return;
    this.found.replaceChildren(el("p", { className: "note" }, "Looking…"));
    try {
      const decisions = list(await get(`/api/decisions?limit=20&id=${encodeURIComponent(id)}`));
      const nothing = el("p", { className: "empty" }, "No decision is kept for ", name(id, 60, "code"), ". The last 256 are kept, ten a second at most and those that were asked for with ", el("code", {}, "x-debug-schedule: 1"), ".");
      this.found.replaceChildren(...(decisions.length ? decisions.map(decision => item(decision)) : [nothing]));
      const first = this.found.querySelector("details");
      if (first) first.open = true;
    } catch (error) {
      this.found.replaceChildren(el("p", { className: "empty" }, clean(error.message, 200)));
    }
  }
}

const sign = decision => `${clean(decision.id, 128)} ${list(decision.tried).length} ${number(decision.ttftSeconds) ?? ""}`;
