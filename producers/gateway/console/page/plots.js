// Three small plots of up to five minutes: lines over time, a readout of the latest or the pointed-at value.

import { $, el, say, svg } from "./dom.js";
import { rate, span } from "./format.js";

const MOST_MS = 5 * 60 * 1000;
const LEAST_MS = 60 * 1000;
const HEIGHT = 132;
const LEFT = 54;
const TOP = 8;
const BOTTOM = 20;

class Plot {
  constructor(id, title, series, format, tick = format) {
    this.tick = tick;
    this.section = $(`#${id}`);
    this.series = series;
    this.format = format;
    this.points = [];
    this.at = null;
    this.readout = el("p", { class: "readout" });
    this.chart = svg("svg", { class: "plot", height: HEIGHT, role: "img", "aria-label": title });
    this.section.append(
      el("div", { class: "line" }, el("h2", { id: `h-${id}` }, title), this.readout), this.chart);
    this.chart.addEventListener("pointermove", (event) => this.point(event.offsetX));
    this.chart.addEventListener("pointerleave", () => this.point(null));
    new ResizeObserver(() => this.draw()).observe(this.chart);
  }

  show(points) {
    this.points = points;
    this.draw();
  }

  point(x) {
    this.at = x;
    this.draw();
  }

  draw() {
    const width = this.chart.clientWidth;
    if (width === 0) return;
    const end = this.points.at(-1)?.at ?? 0;
    const most = nice(Math.max(0, ...this.points.flatMap((point) => this.series.map(({ key }) => point[key] ?? 0))));
    const shown = Math.min(MOST_MS, Math.max(LEAST_MS, end - (this.points[0]?.at ?? end)));
    const x = (at) => LEFT + (width - LEFT - 4) * (1 - (end - at) / shown);
    const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / most);
    const parts = [0, 0.5, 1].flatMap((share) => [
      svg("line", {
        class: share ? "rule" : "axis", x1: LEFT, x2: width - 4, y1: y(share * most), y2: y(share * most),
      }),
      svg("text", { class: "tick", x: LEFT - 8, y: y(share * most) + 4, "text-anchor": "end" },
        share ? this.tick(share * most) : "0")]);
    for (const { key, name, area } of this.series) {
      const drawn = path(this.points, key, x, y);
      if (area && drawn) parts.push(svg("path", { class: `area ${name}`, d: filled(this.points, key, x, y) }));
      parts.push(svg("path", { class: `series ${name}`, d: drawn }));
    }
    parts.push(svg("text", { class: "tick", x: LEFT, y: HEIGHT - 4 }, `${span(shown / 1000)} ago`),
      svg("text", { class: "tick", x: width - 4, y: HEIGHT - 4, "text-anchor": "end" }, "now"));
    const chosen = this.at === null ? this.points.at(-1) : nearest(this.points, this.at, x);
    if (this.at !== null && chosen) {
      parts.push(svg("line", { class: "cross", x1: x(chosen.at), x2: x(chosen.at), y1: TOP, y2: HEIGHT - BOTTOM }));
    }
    this.chart.replaceChildren(...parts);
    this.read(chosen);
  }

  read(point) {
    const texts = this.series.map(({ key, label }) => `${label}${this.format(point?.[key])}`);
    if (this.readout.childElementCount !== texts.length) {
      this.readout.replaceChildren(...this.series.map(({ name }) => el("span", { class: name })));
    }
    texts.forEach((text, at) => say(this.readout.children[at], text));
    this.chart.setAttribute("aria-label", `${$("h2", this.section).textContent}: ${texts.join(", ")}`);
  }
}

/** A round number above a value, so that the axis rarely moves. */
function nice(value) {
  if (!(value > 0)) return 1;
  const unit = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 6, 8, 10].map((step) => step * unit).find((step) => step >= value);
}

const runs = (points, key) => {
  const found = [[]];
  for (const point of points) {
    if (point[key] == null) found.push([]);
    else found.at(-1).push(point);
  }
  return found.filter((run) => run.length > 0);
};

const line = (run, key, x, y) => run.map((p) => `${x(p.at).toFixed(1)} ${y(p[key]).toFixed(1)}`).join("L");

const path = (points, key, x, y) =>
  runs(points, key).map((run) => `M${line(run, key, x, y)}${run.length === 1 ? "h1" : ""}`).join("");

const filled = (points, key, x, y) =>
  runs(points, key).map((run) => {
    const [from, to] = [x(run[0].at), x(run.at(-1).at)].map((edge) => edge.toFixed(1));
    return `M${from} ${y(0)}L${line(run, key, x, y)}L${to} ${y(0)}Z`;
  }).join("");

const nearest = (points, px, x) =>
  points.reduce((best, point) => (best && Math.abs(x(best.at) - px) < Math.abs(x(point.at) - px) ? best : point), null);

const halves = (key) => [
  { key: `${key}_p50`, name: "p50", label: "median " }, { key: `${key}_p95`, name: "p95", label: "p95 " }];

const all = [
  new Plot("rate", "Throughput", [{ key: "tokens_s", name: "p50", label: "", area: true }],
    (value) => (value == null ? "–" : `${rate(value)} tokens/s`), rate),
  new Plot("ttft", "Time to first token", halves("ttft"), span),
  new Plot("itl", "Time between tokens", halves("itl"), span),
];

let points = [];

export const plots = {
  history(list) {
    points = list;
    for (const plot of all) plot.show(points);
  },

  now(point) {
    if (points.at(-1)?.at >= point.at) return;
    points = [...points.filter(({ at }) => at > point.at - MOST_MS), point];
    for (const plot of all) plot.show(points);
  },
};
