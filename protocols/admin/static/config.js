// The configuration in force as a tree that opens where it is looked at, and can be searched and copied.

import { el, hide, name, put } from "./dom.js";
import { get } from "./feed.js";
import { clean, list, record, some, whole } from "./text.js";

const MOST_FOUND = 100;
const MOST_LOOKED_AT = 200000;
const PAGE = 100;

const isBranch = value => value !== null && typeof value === "object" && Object.keys(value).length > 0;

function leaf(value) {
  if (value === null) return el("i", { className: "null" }, "none");
  if (typeof value === "string") return value === "" ? el("i", { className: "null" }, "empty") : name(value, 200, "span");
  if (typeof value === "object") return el("i", { className: "null" }, Array.isArray(value) ? "[]" : "{}");
  return el("span", { className: "value" }, clean(value, 40));
}

function size(value) {
  return Array.isArray(value) ? some(value.length, "entry", "entries") : "";
}

/** What an entry of a list is about. */
function title(key, value) {
  const label = record(value).name ?? record(value).url ?? record(value).pool;
  return typeof label === "string" ? `${key}: ${label}` : key;
}

function branch(key, value, open = false) {
  const element = el("details", {}, el("summary", {}, name(key, 120, "b"), " ", el("span", { className: "note" }, size(value))));
  element.addEventListener("toggle", () => {
    if (element.open && element.children.length === 1) element.append(entries(value));
  });
  element.open = open;
  return element;
}

function entries(value) {
  const all = Object.entries(value);
  const rows = el("ul");
  const show = from => {
    rows.append(...all.slice(from, from + PAGE).map(([key, inner]) => {
      if (isBranch(inner)) return el("li", {}, branch(Array.isArray(value) ? title(key, inner) : key, inner));
      return el("li", {}, Array.isArray(value) ? "" : name(key, 120, "b"), Array.isArray(value) ? "" : " ", leaf(inner));
    }));
    if (all.length <= from + PAGE) return;
    const more = el("button", { type: "button", className: "button quiet" }, `${whole(all.length - from - PAGE)} more`);
    const last = el("li", {}, more);
    more.addEventListener("click", () => {
      last.remove();
      show(from + PAGE);
    });
    rows.append(last);
  };
  show(0);
  return rows;
}

/** [path, value] of what has the text in its name or value, at most MOST_FOUND. */
function search(root, text) {
  const found = [];
  const left = [["", root]];
  for (let looked = 0; left.length && found.length < MOST_FOUND && looked < MOST_LOOKED_AT; looked += 1) {
    const [path, value] = left.pop();
    const inner = isBranch(value) ? Object.entries(value) : [];
    for (const [key, each] of inner.toReversed()) left.push([path ? `${path}.${key}` : key, each]);
    if (!inner.length && `${path}: ${value}`.toLowerCase().includes(text)) found.push([path, value]);
  }
  return found;
}

export class Configuration {
  /** `told(config)` is called with every configuration that was fetched. */
  constructor(told) {
    this.told = told;
    this.value = null;
    this.note = document.getElementById("config-note");
    this.tree = document.getElementById("config-tree");
    this.copied = document.getElementById("config-copy");
    this.field = document.getElementById("config-search");
    this.field.addEventListener("input", () => this.show());
    this.copied.addEventListener("click", () => this.copy());
  }

  /** Fetched when the generation changes, not by the second. */
  update(generation) {
    if (this.value !== null && this.generation === generation) return;
    this.generation = generation;
    this.load(generation);
  }

  async load(generation) {
    try {
      this.value = record(await get("/api/config"));
      put(this.note, Number.isFinite(generation) ? `generation ${whole(generation)}` : "");
      this.told(this.value);
      this.show();
    } catch (error) {
      put(this.note, clean(error.message, 200));
    }
  }

  show() {
    if (this.value === null) return;
    const text = this.field.value.trim().toLowerCase();
    if (!text) {
      const first = this.tree.childElementCount === 0;
      const open = first ? ["settings"] : [...this.tree.querySelectorAll(":scope > ul > li > details[open] > summary > b")].map(each => each.textContent);
      const rows = entries(this.value);
      this.tree.replaceChildren(rows);
      for (const each of rows.querySelectorAll(":scope > li > details")) if (open.includes(each.querySelector("b").textContent)) each.open = true;
      return;
    }
    const found = search(this.value, text);
    const rows = found.map(([path, value]) => el("li", {}, name(path, 160, "b"), " ", leaf(value)));
    this.tree.replaceChildren(found.length ? el("ul", { className: "hits" }, ...rows) : el("p", { className: "empty" }, "Nothing in the configuration is like that."));
    if (found.length === MOST_FOUND) this.tree.append(el("p", { className: "note" }, `The first ${MOST_FOUND}.`));
  }

  async copy() {
    let said = "Copied";
    try {
      await navigator.clipboard.writeText(JSON.stringify(this.value, null, 2));
    } catch {
      said = "Copying is not allowed here";
    }
    put(this.copied, said);
    setTimeout(() => put(this.copied, "Copy as JSON"), 1500);
  }
}

/** Problems as a list, each one line, hidden while there are none. */
export function problems(parent, texts) {
  hide(parent, !texts.length);
  const key = texts.join("\n");
  if (parent.key === key) return;
  parent.key = key;
  parent.replaceChildren(...texts.slice(0, 20).map(text => el("li", {}, name(text, 300))));
}

export const reloadProblems = state => list(state.problems).filter(text => typeof text === "string");
