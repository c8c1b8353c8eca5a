// Four charts of the last five minutes on one time axis, drawn on canvas; one cursor runs through all of them.

import { el, put } from "./dom.js";
import { amount, clock, number, rate, seconds, whole } from "./text.js";

const SPAN_S = 300;
const GAP_S = 4;
const LEFT = 52;
const BOTTOM = 20;
const TOP = 8;
const RIGHT = 8;
const EASE_MS = 240;
const still = matchMedia("(prefers-reduced-motion: reduce)");

/** Columns of a history point. */
export const POINT = { at: 0, rps: 1, errors: 2, tokensIn: 3, tokensOut: 4, p50: 5, p99: 6, inflight: 7, queued: 8 };

const CHARTS = [
  {
    title: "Time to first token",
    format: seconds,
    least: 0.1,
    series: [{ column: POINT.p50, label: "p50", tone: "a", area: true }, { column: POINT.p99, label: "p99", tone: "b" }],
  },
  {
    title: "Requests",
    format: rate,
    least: 1,
    series: [{ column: POINT.rps, label: "all", tone: "a", area: true }, { column: POINT.errors, label: "failed", tone: "c", area: true }],
  },
  {
    title: "Tokens",
    format: rate,
    least: 10,
    series: [{ column: POINT.tokensOut, label: "out", tone: "a", area: true }, { column: POINT.tokensIn, label: "in", tone: "b" }],
  },
  {
    title: "Under way",
    format: amount,
    least: 4,
    whole: true,
    series: [{ column: POINT.inflight, label: "in flight", tone: "a", area: true }, { column: POINT.queued, label: "waiting", tone: "b", area: true }],
  },
];

/** The least round number of {1, 2, 2.5, 5}·10ⁿ that is not below `value`. */
function round(value, steps = [1, 2, 2.5, 5, 10]) {
  const unit = 10 ** Math.floor(Math.log10(value));
  return unit * (steps.find(step => step * unit >= value * 0.9999) ?? 10);
}

/** [top, step] of an axis that shows `most`. */
function scale(most, least, integral) {
  let step = round(Math.max(most, least) / 3);
  if (integral) step = Math.max(1, Math.ceil(step));
  return [step * Math.max(2, Math.ceil((Math.max(most, least) / step) * 0.9999)), step];
}

export class Charts {
  /** `note`: where the time under the cursor is said; `kinds`: what is drawn. */
  constructor(parent, note, kinds = CHARTS) {
    this.points = [];
    this.cursor = null;
    this.note = note;
    this.kinds = kinds;
    this.charts = kinds.map(kind => new Chart(kind, this));
    parent.append(...this.charts.map(chart => chart.element));
    const seen = new ResizeObserver(() => this.draw());
    for (const chart of this.charts) seen.observe(chart.plot);
  }

  /** All there is, oldest first, instead of what there was. */
  begin(points) {
    this.points = [];
    for (const point of points) this.keep(point);
    this.draw();
  }

  keep(point) {
    if (!Array.isArray(point)) return;
    const values = Array.from({ length: 9 }, (_, at) => number(point[at]));
    const last = this.points.at(-1);
    if (values[0] === null || (last && values[0] <= last[0])) return;
    this.points.push(values);
    while (this.points.length && this.points[0][0] < values[0] - SPAN_S - 2) this.points.shift();
  }

  add(point) {
    this.keep(point);
    this.draw();
  }

  draw() {
    this.due ??= requestAnimationFrame(() => {
      this.due = null;
      this.paint();
    });
  }

  paint() {
    const now = this.points.at(-1)?.[0] ?? null;
    const chosen = this.cursor === null || now === null ? null : this.nearest(now - this.cursor);
    for (const chart of this.charts) chart.measure();
    for (const chart of this.charts) chart.paint(now, chosen);
    put(this.note, chosen ? `${seconds(Math.round(now - chosen[0]))} ago, at ${clock(chosen[0])}` : "");
  }

  nearest(at) {
    let best = null;
    for (const point of this.points) if (best === null || Math.abs(point[0] - at) < Math.abs(best[0] - at)) best = point;
    return best;
  }

  /** `ago`: seconds before the newest point, or null. */
  point(ago) {
    this.cursor = ago === null ? null : Math.min(SPAN_S, Math.max(0, ago));
    this.draw();
  }

  /** The same figures as a table: every 15 seconds, the newest first. */
  table() {
    const columns = this.kinds.flatMap(chart => chart.series.map(series => ({ chart, series })));
    const head = el("tr", {}, el("th", { scope: "col" }, "Time"), ...columns.map(({ chart, series }) => el("th", { scope: "col", className: "right" }, `${chart.title}, ${series.label}`)));
    const rows = [];
    let before = Infinity;
    for (const point of this.points.toReversed()) {
      if (before - point[0] < 14.5) continue;
      before = point[0];
      rows.push(el("tr", {}, el("th", { scope: "row" }, clock(point[0])), ...columns.map(({ chart, series }) => el("td", { className: "right" }, chart.format(point[series.column])))));
    }
    return el("table", {}, el("caption", {}, "Figures of ten seconds each, every fifteen seconds"), el("thead", {}, head), el("tbody", {}, ...rows));
  }
}

class Chart {
  constructor(kind, all) {
    this.kind = kind;
    this.all = all;
    this.top = null;
    this.canvas = el("canvas", { ariaHidden: "true" });
    this.plot = el("div", { className: "plot", tabIndex: 0, role: "img" }, this.canvas);
    this.values = kind.series.map(series => el("dd", {}, "–"));
    this.swatches = kind.series.map(series => el("i", { className: `swatch tone-${series.tone}`, ariaHidden: "true" }));
    const legend = el("dl", { className: "legend" }, ...kind.series.map((series, at) => el("div", {}, el("dt", {}, this.swatches[at], series.label), this.values[at])));
    this.element = el("figure", { className: "chart" }, el("figcaption", {}, el("h3", {}, kind.title), legend), this.plot);
    this.plot.addEventListener("pointermove", event => this.move(event));
    this.plot.addEventListener("pointerleave", () => this.all.point(null));
    this.plot.addEventListener("blur", () => this.all.point(null));
    this.plot.addEventListener("keydown", event => this.key(event));
  }

  move(event) {
    const width = this.width - LEFT - RIGHT;
    this.all.point(SPAN_S * (1 - (event.offsetX - LEFT) / width));
  }

  key(event) {
    const step = { ArrowLeft: 5, ArrowRight: -5, PageUp: 60, PageDown: -60 }[event.key];
    if (step !== undefined) this.all.point((this.all.cursor ?? 0) + step);
    else if (event.key === "Home") this.all.point(SPAN_S);
    else if (event.key === "End") this.all.point(0);
    else if (event.key === "Escape") this.all.point(null);
    else return;
    event.preventDefault();
  }

  /** All that asks the browser for layout, done for every chart before any is painted. */
  measure() {
    this.width = this.plot.clientWidth;
    this.height = this.plot.clientHeight;
    const style = getComputedStyle(this.plot);
    this.ink = style.color;
    this.lines = style.borderTopColor;
    this.font = `11px ${style.fontFamily}`;
    this.colors = this.swatches.map(swatch => getComputedStyle(swatch).backgroundColor);
  }

  paint(now, chosen) {
    this.label(now, chosen);
    const density = devicePixelRatio || 1;
    const [width, height] = [Math.round(this.width * density), Math.round(this.height * density)];
    if (!width || !height) return;
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    const pen = this.canvas.getContext("2d");
    pen.setTransform(density, 0, 0, density, 0, 0);
    pen.clearRect(0, 0, this.width, this.height);
    const top = this.axis(pen);
    const x = at => LEFT + (this.width - LEFT - RIGHT) * (1 - (now - at) / SPAN_S);
    const y = value => TOP + (this.height - TOP - BOTTOM) * (1 - value / top);
    pen.save();
    pen.beginPath();
    pen.rect(LEFT, 0, this.width - LEFT - RIGHT + 1, this.height - BOTTOM + 1);
    pen.clip();
    this.kind.series.forEach((series, at) => this.curve(pen, series, this.colors[at], x, y));
    if (chosen) this.cross(pen, chosen, x, y);
    pen.restore();
  }

  label(now, chosen) {
    const point = chosen ?? this.all.points.at(-1);
    const said = this.kind.series.map((series, at) => {
      const text = point ? this.kind.format(point[series.column]) : "–";
      put(this.values[at], text);
      return `${series.label} ${text}`;
    });
    const label = `${this.kind.title}, last five minutes, ${chosen ? `at ${clock(chosen[0])}` : "now"}: ${said.join(", ")}`;
    if (this.plot.ariaLabel !== label) this.plot.ariaLabel = label;
  }

  /** The grid and its labels; the height of the axis glides to where it has to be. */
  axis(pen) {
    let most = 0;
    for (const point of this.all.points) for (const series of this.kind.series) most = Math.max(most, point[series.column] ?? 0);
    const [wanted, step] = this.kind.steps ? [Math.max(1, most), this.kind.steps] : scale(most, this.kind.least, this.kind.whole);
    const top = this.glide(wanted);
    const [high, wide] = [this.height - TOP - BOTTOM, this.width - LEFT - RIGHT];
    pen.font = this.font;
    pen.fillStyle = this.ink;
    pen.strokeStyle = this.lines;
    pen.lineWidth = 1;
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    for (let value = 0; value <= wanted * 1.0001; value += step) {
      const at = Math.round(TOP + high * (1 - value / top)) + 0.5;
      if (at < 0) continue;
      stroke(pen, [[LEFT, at], [LEFT + wide, at]]);
      pen.fillText(value ? this.kind.format(value) : "0", LEFT - 6, at);
    }
    pen.textBaseline = "alphabetic";
    for (let minute = 0; minute <= 5; minute += 1) {
      if (wide < 190 && (minute === 1 || minute === 4)) continue; // they would run into the words at the ends
      pen.textAlign = minute === 0 ? "right" : "center";
      const text = minute === 0 ? "now" : minute === 5 ? "−5 min" : `−${minute}`;
      const at = LEFT + wide * (1 - minute / 5);
      pen.fillText(text, minute === 5 ? at + 6 : at, this.height - 4);
    }
    return top;
  }

  glide(wanted) {
    const now = performance.now();
    if (this.top === null || still.matches) this.top = this.goal = wanted;
    if (this.goal !== wanted) Object.assign(this, { goal: wanted, from: this.top, since: now });
    if (this.top !== this.goal) {
      const part = Math.min(1, (now - this.since) / EASE_MS);
      this.top = part === 1 ? this.goal : this.from + (this.goal - this.from) * (1 - (1 - part) ** 3);
      if (part < 1) queueMicrotask(() => this.all.draw());
    }
    return this.top;
  }

  curve(pen, series, color, x, y) {
    pen.strokeStyle = pen.fillStyle = color;
    pen.lineWidth = 1.75;
    pen.lineJoin = "round";
    for (const run of runs(this.all.points, series.column)) {
      const path = run.map(([at, value]) => [x(at), y(value)]);
      if (path.length === 1) path.push([path[0][0] + 1, path[0][1]]);
      if (series.area) {
        pen.globalAlpha = 0.14;
        pen.beginPath();
        pen.moveTo(path[0][0], y(0));
        for (const [left, top] of path) pen.lineTo(left, top);
        pen.lineTo(path.at(-1)[0], y(0));
        pen.fill();
        pen.globalAlpha = 1;
      }
      stroke(pen, path);
    }
  }

  cross(pen, chosen, x, y) {
    const at = Math.round(x(chosen[0])) + 0.5;
    pen.strokeStyle = this.ink;
    pen.lineWidth = 1;
    stroke(pen, [[at, TOP], [at, this.height - BOTTOM]]);
    this.kind.series.forEach((series, index) => {
      const value = chosen[series.column];
      if (value === null) return;
      pen.fillStyle = this.colors[index];
      pen.beginPath();
      pen.arc(at, y(value), 3.5, 0, 2 * Math.PI);
      pen.fill();
    });
  }
}

function stroke(pen, path) {
  pen.beginPath();
  path.forEach(([left, top], at) => (at ? pen.lineTo(left, top) : pen.moveTo(left, top)));
  pen.stroke();
}

/** Points that belong together: no line is drawn over seconds that nobody saw. */
function* runs(points, column) {
  let run = [];
  for (const point of points) {
    const value = point[column];
    if (run.length && (value === null || point[0] - run.at(-1)[0] > GAP_S)) {
      yield run;
      run = [];
    }
    if (value !== null) run.push([point[0], value]);
  }
  if (run.length) yield run;
}
