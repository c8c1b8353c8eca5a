// What the feed says, as something to be shown: untrusted text made harmless, numbers in words. (P)
// Nothing here touches the document. Text is shown by textContent alone, and `clean` beforehand.

const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb]|[\u{e0000}-\u{e0fff}]/gu;
const LONE = /\p{Surrogate}/gu;
const STACKED = /(\p{M}{3})\p{M}+/gu;

const named = found => `⟨${found.codePointAt(0).toString(16).toUpperCase().padStart(2, "0")}⟩`;

/** One line of at most `limit` characters in which everything can be seen: controls and changes of direction by name. */
export function clean(value, limit = 80) {
  const text = typeof value === "string" ? value : value === null || value === undefined ? "" : String(value);
  const cut = text.length > 4 * limit ? text.slice(0, 4 * limit) : text;
  const seen = cut.replace(LONE, "\ufffd").replace(HIDDEN, named).replace(STACKED, "$1");
  const letters = Array.from(seen);
  return letters.length > limit || cut.length < text.length ? letters.slice(0, limit - 1).join("") + "…" : seen;
}

export const number = value => (typeof value === "number" && Number.isFinite(value) ? value : null);
export const count = value => Math.max(0, number(value) ?? 0);
/** 0 to 1, or null where it is no share. */
export const part = value => (number(value) !== null && value >= 0 && value <= 1 ? value : null);
export const list = value => (Array.isArray(value) ? value : []);
export const record = value => (value !== null && typeof value === "object" && !Array.isArray(value) ? value : {});

const NONE = "–";
const digits = new Map();
const fixed = (value, places) => {
  if (!digits.has(places)) digits.set(places, new Intl.NumberFormat("en", { maximumFractionDigits: places }));
  return digits.get(places).format(value);
};

/** 0.42, 4.2, 342, 12.3 k, 4.56 M */
export function amount(value) {
  value = number(value);
  if (value === null) return NONE;
  const size = Math.abs(value);
  if (size >= 1e15) return value.toExponential(0);
  if (size >= 1e9) return `${fixed(value / 1e9, 1)} G`;
  if (size >= 1e6) return `${fixed(value / 1e6, size < 1e7 ? 2 : 1)} M`;
  if (size >= 1e4) return `${fixed(value / 1e3, size < 1e5 ? 1 : 0)} k`;
  return fixed(value, size < 1 ? 2 : size < 10 ? 1 : 0);
}

export const whole = value => (number(value) === null ? NONE : Math.abs(value) < 1e9 ? fixed(Math.round(value), 0) : amount(value));
export const rate = value => (number(value) === null ? NONE : `${amount(value)}/s`);

export function percent(value) {
  value = number(value);
  if (value === null) return NONE;
  const share = value * 100;
  return `${fixed(share, share > 0 && share < 1 ? 1 : 0)} %`;
}

/** 0.4 ms, 123 ms, 1.23 s, 12.3 s, 3 min 20 s, 2 h 5 min, 3 d 4 h */
export function seconds(value) {
  value = number(value);
  if (value === null) return NONE;
  const size = Math.abs(value);
  if (size === 0) return "0 s";
  if (size < 0.001) return `${fixed(value * 1000, 2)} ms`;
  if (size < 0.9995) return `${fixed(value * 1000, size < 0.01 ? 1 : 0)} ms`;
  if (size < 60) return `${fixed(value, size < 10 ? 2 : 1)} s`;
  if (size < 3600) return two(value, 60, "min", 1, "s");
  if (size < 86400) return two(value, 3600, "h", 60, "min");
  return two(value, 86400, "d", 3600, "h");
}

function two(value, unit, name, part, partName) {
  const parts = Math.floor(value / part);
  const each = unit / part;
  const rest = parts % each;
  return `${fixed(Math.floor(parts / each), 0)} ${name}` + (rest ? ` ${rest} ${partName}` : "");
}

export const clock = at => new Date(at * 1000).toLocaleTimeString("en-GB");
export const some = (n, one, many = `${one}s`) => `${whole(n)} ${n === 1 ? one : many}`;

/** "a, b and 3 more" */
export function several(names, most = 3) {
  const shown = names.slice(0, most).map(name => clean(name, 48));
  const left = names.length - shown.length;
  if (left) return `${shown.join(", ")} and ${left} more`;
  return shown.length > 1 ? `${shown.slice(0, -1).join(", ")} and ${shown.at(-1)}` : shown.join("");
}
