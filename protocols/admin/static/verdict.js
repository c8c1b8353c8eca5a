// Is the fleet well? One sentence, and what is wrong, the worst first. (P)

import { clean, count, list, number, percent, record, several, some, amount } from "./text.js";

/** By state: its letter, its words, whether it gets requests, and how bad it is. */
export const STATES = {
  ready: { letter: "", words: "ready", serves: true, level: "ok" },
  "slow-start": { letter: "S", words: "easing in", serves: true, level: "ok" },
  unknown: { letter: "?", words: "not heard of yet", serves: true, level: "idle" },
  draining: { letter: "D", words: "draining", serves: false, level: "idle" },
  "half-open": { letter: "½", words: "on trial", serves: true, level: "warn" },
  open: { letter: "!", words: "set aside", serves: false, level: "warn" },
  hung: { letter: "H", words: "hung", serves: false, level: "bad" },
  down: { letter: "×", words: "down", serves: false, level: "bad" },
};
const OTHER = { letter: "?", words: "in an unknown state", serves: false, level: "idle" };
export const stateOf = endpoint => (Object.hasOwn(STATES, endpoint.state) ? STATES[endpoint.state] : OTHER);
export const stateName = endpoint => (Object.hasOwn(STATES, endpoint.state) ? endpoint.state : "unknown");

const REASONS = {
  failing: "several failures in a row",
  erring: "far more failures than the others have",
  slow: "far slower than the others",
  stuck: "no first token, and nothing there moves",
  hung: "no answer to anything",
};

/** Why an endpoint is as it is, in words that fit one and many. */
export function reason(endpoint) {
  const why = endpoint.why;
  if (typeof why === "string" && why) return Object.hasOwn(REASONS, why) ? REASONS[why] : clean(why, 100);
  if (endpoint.state === "down") return "no answer";
  if (endpoint.state === "hung") return REASONS.hung;
  if (endpoint.state === "draining") return "no new requests";
  if (endpoint.state === "slow-start") return "just came up";
  return "";
}

const GRAVITY = { bad: 0, warn: 1, ok: 2, idle: 2 };

/** {level, sentence, problems: [{level, text, endpoint?, pool?}]} of a state; `before`: the queue half a minute ago. */
export function judge(state, before = null) {
  const endpoints = list(state.endpoints).map(record);
  const problems = [
    ...poolProblems(list(state.pools).map(record)),
    ...endpointProblems(endpoints),
    ...gatewayProblems(state, before),
  ].sort((a, b) => GRAVITY[a.level] - GRAVITY[b.level]);
  if (!endpoints.length) return { level: "idle", sentence: "No endpoint yet", problems };
  if (!problems.length) return { level: "ok", sentence: well(state, endpoints), problems };
  const others = problems.length - 1;
  const sentence = problems[0].text + (others ? ` · and ${some(others, "more thing")} to look at` : "");
  return { level: problems[0].level, sentence, problems };
}

function well(state, endpoints) {
  const serving = endpoints.filter(endpoint => stateOf(endpoint).serves).length;
  const all = serving === endpoints.length;
  const who = all ? (serving === 1 ? "The one endpoint serves" : `All ${serving} endpoints serve`) : `${serving} of ${endpoints.length} endpoints serve`;
  const rps = count(record(state.totals).rps);
  return `${who} · ${rps ? `${amount(rps)} ${rps === 1 ? "request" : "requests"} a second` : "no requests right now"}`;
}

function poolProblems(pools) {
  const found = [];
  for (const pool of pools) {
    const label = clean(pool.name, 60);
    if (count(pool.ready) > 0) {
      if (count(pool.saturation) >= 1) found.push({ level: "warn", pool: pool.name, text: `Pool ${label} is saturated` });
    } else if (count(pool.members) > 0)
      found.push({ level: "bad", pool: pool.name, text: `Pool ${label} has no endpoint that serves` });
    else found.push({ level: "warn", pool: pool.name, text: `Pool ${label} has no endpoints` });
  }
  return found;
}

function endpointProblems(endpoints) {
  const groups = new Map();
  for (const endpoint of endpoints) {
    const { level } = stateOf(endpoint);
    if (level !== "warn" && level !== "bad") continue;
    const key = `${stateName(endpoint)} ${reason(endpoint)}`;
    groups.has(key) ? groups.get(key).push(endpoint) : groups.set(key, [endpoint]);
  }
  return [...groups.values()].map(group => {
    const { words, level } = stateOf(group[0]);
    const why = reason(group[0]);
    const text = `${several(group.map(endpoint => endpoint.id))} ${group.length > 1 ? "are" : "is"} ${words}`;
    return { level, endpoint: group[0], text: why ? `${text}: ${why}` : text };
  });
}

function gatewayProblems(state, before) {
  const found = [];
  const totals = record(state.totals);
  if (state.draining === true) found.push({ level: "warn", text: "The gateway is stopping: it finishes what it has and takes nothing new" });
  const refused = list(state.problems);
  if (refused.length) {
    const first = clean(refused[0], 200);
    const rest = refused.length > 1 ? ` (and ${refused.length - 1} more)` : "";
    found.push({ level: "warn", config: true, text: `The last change of the configuration was refused: ${first}${rest}` });
  }
  const errors = count(totals.errors);
  const rps = count(totals.rps);
  if (errors > 0 && rps > 0 && errors / rps >= 0.02)
    found.push({ level: errors / rps >= 0.2 ? "bad" : "warn", text: `${percent(errors / rps)} of requests fail` });
  const queued = count(totals.queued);
  const then = number(before);
  if (then !== null && queued >= 10 && queued > then * 1.3 + 5)
    found.push({ level: "warn", text: `The queue grows: ${amount(queued)} wait, ${amount(then)} half a minute ago` });
  return found;
}
