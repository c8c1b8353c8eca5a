// Is the fleet well? One sentence, and what is wrong, the worst first, as the gateway says. (P)

import { amount, clean, count, list, record, some } from "./text.js";

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

const PROBLEMS = 50;

/** {level, sentence, problems: [{level, text, endpoint?, config?}]} of a state. */
export function judge(state) {
  const endpoints = list(state.endpoints).map(record);
  const problems = list(state.verdict).slice(0, PROBLEMS).map(found => problem(record(found), endpoints));
  if (!problems.length) return endpoints.length ? { level: "ok", sentence: well(state, endpoints), problems } : { level: "idle", sentence: "No endpoint yet", problems };
  const others = problems.length - 1;
  const sentence = problems[0].text + (others ? ` · and ${some(others, "more thing")} to look at` : "");
  return { level: problems.some(each => each.level === "bad") ? "bad" : "warn", sentence, problems };
}

function problem(found, endpoints) {
  const level = found.level === "bad" ? "bad" : "warn";
  const endpoint = found.endpoint ? endpoints.find(each => each.id === found.endpoint && each.pool === found.pool) : undefined;
  return { level, text: clean(found.text, 600), endpoint, config: found.about === "configuration" };
}

function well(state, endpoints) {
  const serving = endpoints.filter(endpoint => stateOf(endpoint).serves).length;
  const all = serving === endpoints.length;
  const who = all ? (serving === 1 ? "The one endpoint serves" : `All ${serving} endpoints serve`) : `${serving} of ${endpoints.length} endpoints serve`;
  const rps = count(record(state.totals).rps);
  return `${who} · ${rps ? `${amount(rps)} ${rps === 1 ? "request" : "requests"} a second` : "no requests right now"}`;
}
