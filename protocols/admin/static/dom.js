// The few things done to the document: elements made, text changed where it differs, lists kept in order by key.
// Whatever text comes in is shown as text; there is no way to pass markup.

import { clean } from "./text.js";

/** An element with properties and children; strings become text. */
export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && name !== "list") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** Set the text unless it is there already: unchanged figures cost no layout. */
export function put(node, text) {
  if (node.shown !== text) {
    node.shown = text;
    node.textContent = text;
  }
}

/** Untrusted text, cut to `limit`, with all of it to be had by pointing at it. */
export function say(node, value, limit = 80) {
  if (node.said === value) return;
  node.said = value;
  const shown = clean(value, limit);
  node.textContent = shown;
  node.title = shown.endsWith("…") ? clean(value, 1000) : "";
}

/** Untrusted text as an element of its own, so that its direction changes nothing around it. */
export function name(value, limit = 80, tag = "bdi") {
  const made = el(tag);
  say(made, value, limit);
  return made;
}

export function attribute(node, key, value) {
  const text = String(value);
  if (node.getAttribute(key) !== text) node.setAttribute(key, text);
}

export function hide(node, hidden) {
  if (node.hidden !== hidden) node.hidden = hidden;
}

/** How long a bar is, 0 to 1, without layout. */
export function fill(node, share) {
  const scale = Math.round(Math.min(1, Math.max(0, share)) * 1000) / 1000;
  if (node.scale !== scale) {
    node.scale = scale;
    node.style.transform = `scaleX(${scale})`;
  }
}

/** Children of one parent, each made once by its key and moved only where the order changed. */
export class Keyed {
  constructor(parent, make) {
    this.parent = parent;
    this.make = make;
    this.items = new Map();
  }

  /** `items`: [key, value] in order. Each item's `update` gets its value. */
  show(items) {
    const gone = new Set(this.items.keys());
    let place = this.parent.firstElementChild;
    for (const [key, value] of items) {
      gone.delete(key);
      let item = this.items.get(key);
      if (item === undefined) this.items.set(key, (item = this.make(value)));
      item.update(value);
      if (item.element === place) place = place.nextElementSibling;
      else this.parent.insertBefore(item.element, place);
    }
    for (const key of gone) {
      this.items.get(key).element.remove();
      this.items.delete(key);
    }
  }
}
