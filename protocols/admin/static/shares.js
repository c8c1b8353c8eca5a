// Who is served, and how routes split: what each has against what it should have.

import { Keyed, attribute, el, fill, hide, name, put } from "./dom.js";
import { amount, clean, count, list, number, part, percent, rate, record, seconds, some, whole } from "./text.js";

/** A bar for what is, with a mark where it should be. */
class Share {
  constructor(what) {
    this.what = what;
    this.bar = el("i");
    this.mark = el("u");
    this.element = el("span", { className: "share", role: "img" }, this.bar, this.mark);
  }

  update(actual, wanted, most = 1) {
    hide(this.bar, actual === null);
    hide(this.mark, wanted === null);
    fill(this.bar, (actual ?? 0) / most);
    const left = `${Math.round(Math.min(1, (wanted ?? 0) / most) * 1000) / 10}%`;
    if (this.mark.style.left !== left) this.mark.style.left = left;
    attribute(this.element, "aria-label", `${this.what}: ${percent(actual)}, should be ${percent(wanted)}`);
  }
}

export class Flows {
  constructor() {
    this.note = document.getElementById("flows-note");
    const parent = document.getElementById("flow-list");
    this.off = el("div", { className: "empty", hidden: true }, el("h3", {}, "Nobody waits for anybody"), el("p", {}, "Fairness is off: requests go to engines as they come. To share full engines fairly between callers:"), el("pre", {}, el("code", {}, "fairness: {enabled: true}")));
    this.quiet = el("p", { className: "empty", hidden: true }, "Nobody has asked for anything lately.");
    this.key = el("p", { className: "key", hidden: true }, el("span", { className: "share sample" }, el("i"), el("u")), "served, and the mark of a fair share");
    const rows = el("ul", { className: "flows" });
    this.rest = el("p", { className: "note", hidden: true });
    parent.append(this.off, this.quiet, this.key, rows, this.rest);
    this.rows = new Keyed(rows, () => new Flow());
  }

  /** `fair`: whether fairness is configured, null if that is not known. */
  update(state, fair) {
    const pools = [...new Set(list(state.flows).map(flow => clean(record(flow).pool)))];
    const several = pools.length > 1;
    const place = flow => pools.indexOf(clean(flow.pool));
    // shares are of what a pool served, so its callers stand together
    const flows = list(state.flows).map(record).sort((a, b) => place(a) - place(b));
    const most = Math.max(0.01, ...flows.map(flow => Math.max(count(flow.share), count(flow.fair)))) * 1.04;
    const keys = new Set();
    const items = [];
    for (const flow of flows) {
      const key = [flow.pool, flow.tenant, flow.caller, flow.tier].map(part => clean(part, 300)).join("\n");
      if (!keys.has(key)) items.push([key, { flow, most, several }]);
      keys.add(key);
    }
    this.rows.show(items);
    hide(this.off, flows.length > 0 || fair !== false);
    hide(this.quiet, flows.length > 0 || fair === false);
    hide(this.key, !flows.length);
    const waiting = flows.reduce((sum, flow) => sum + count(flow.queued), 0);
    put(this.note, flows.length ? (waiting ? `${whole(waiting)} waiting` : "nobody waits") : "");
    const left = count(state.flows_left_out);
    hide(this.rest, !left);
    put(this.rest, `and ${some(left, "caller")} more, who had less`);
  }
}

class Flow {
  constructor() {
    this.who = el("b");
    this.of = el("span", { className: "of" });
    this.share = new Share("Share of what is served");
    this.told = el("span", { className: "told" });
    this.waits = el("span", { className: "waits" });
    this.element = el("li", {}, el("span", { className: "line" }, this.who, this.of), this.share.element, el("span", { className: "line" }, this.told, this.waits));
  }

  update({ flow, most, several }) {
    if (!this.who.firstChild) this.who.append(name(flow.caller || "anonymous", 40));
    const of = [flow.tenant !== flow.caller && flow.tenant, flow.tier, several && flow.pool].filter(part => typeof part === "string" && part).map(part => clean(part, 32));
    if (this.ofShown !== of.join("\n")) {
      this.ofShown = of.join("\n");
      this.of.replaceChildren(...of.map(part => el("bdi", { className: "tag" }, part)));
    }
    const [share, fair] = [part(flow.share), part(flow.fair)];
    this.share.update(share, fair, most);
    put(this.told, `${percent(share)} of ${percent(fair)} fair · ${amount(count(flow.served))} tokens · ${whole(count(flow.inflight))} in flight`);
    const queued = count(flow.queued);
    put(this.waits, queued ? `${whole(queued)} waiting${number(flow.wait) === null ? "" : `, up to ${seconds(Math.round(flow.wait * 10) / 10)}`}` : "");
  }
}

export class Routes {
  constructor() {
    this.note = document.getElementById("routes-note");
    const parent = document.getElementById("route-list");
    this.empty = el("div", { className: "empty", hidden: true }, el("h3", {}, "No routes yet"), el("p", {}, "A route says which pool answers for which model. Models of engines named by --backend get theirs by themselves; others are told by a ModelRoute:"), el("pre", {}, el("code", {}, "kind: ModelRoute\nmetadata: {name: chat}\nspec:\n  modelName: chat\n  rules:\n  - targetModels:\n    - modelServerName: my-pool")));
    this.key = el("p", { className: "key", hidden: true }, el("span", { className: "share sample" }, el("i"), el("u")), "of the last minutes, and the mark of the configured weight");
    const rows = el("ul", { className: "routes" });
    this.rest = el("p", { className: "note", hidden: true });
    parent.append(this.empty, this.key, rows, this.rest);
    this.rows = new Keyed(rows, () => new Route());
  }

  update(state) {
    const routes = list(state.routes).map(record);
    const keys = new Set();
    const items = [];
    for (const route of routes) {
      const key = `${clean(route.name, 300)}\n${clean(route.match, 300)}`;
      if (!keys.has(key)) items.push([key, route]);
      keys.add(key);
    }
    this.rows.show(items);
    hide(this.empty, routes.length > 0);
    const split = routes.filter(route => list(route.targets).length > 1).length;
    hide(this.key, !split);
    put(this.note, routes.length ? `${some(routes.length, "route")}${split ? `, ${whole(split)} split` : ""}` : "");
    const left = count(state.routes_left_out);
    hide(this.rest, !left);
    put(this.rest, `and ${some(left, "route")} more`);
  }
}

class Route {
  constructor() {
    this.name = name("", 60, "b");
    this.match = name("", 120);
    this.match.className = "match";
    this.targets = el("ul");
    this.element = el("li", {}, el("span", { className: "line" }, this.name, this.match), this.targets);
    this.rows = new Keyed(this.targets, () => new Target());
  }

  update(route) {
    put(this.name, clean(route.name, 60));
    put(this.match, clean(route.match, 120));
    const targets = list(route.targets).map(record);
    this.rows.show(targets.map((target, at) => [at, { target, alone: targets.length === 1 }]));
  }
}

class Target {
  constructor() {
    this.to = el("span", { className: "to" });
    this.share = new Share("Share of the route's requests");
    this.told = el("span", { className: "told" });
    this.errors = el("span", { className: "errors" });
    this.element = el("li", {}, el("span", { className: "line" }, this.to, el("span", { className: "fares" }, this.told, this.errors)), this.share.element);
  }

  update({ target, alone }) {
    const model = typeof target.model === "string" && target.model ? ` as ${clean(target.model, 48)}` : "";
    put(this.to, `→ ${clean(target.pool, 48)}${model}`);
    hide(this.share.element, alone);
    const [weight, share] = [part(target.weight), part(target.share)];
    if (!alone) this.share.update(share, weight);
    const rps = number(target.rps) === null ? "" : target.rps > 0 ? rate(target.rps) : "quiet";
    const split = `${share === null ? "none yet" : percent(share)} of ${percent(weight)}`;
    put(this.told, alone ? rps : rps ? `${split} · ${rps}` : split);
    put(this.errors, count(target.errors) ? `${rate(target.errors)} fail` : "");
  }
}
