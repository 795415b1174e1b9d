// <run-charts>: small multiples of a run's curves, or of several runs, with uPlot.
//
// data-layout and data-sources name the json_script elements with the charts
// ([{title, unit, smooth, series: [{name, label}]}]) and the runs ([{label, url}]).
// data-follows names the polled element whose data-version says whether there is more to
// fetch; only what is new is fetched.

import { fill, gettext } from "./words.js";

const TONES = ["--accent", "--act", "--good", "--bad", "--obs", "--ink-3"];
// With more lines than colours, the next six are dashed, and so on.
const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3]];
const HEIGHT = 132;
const dark = matchMedia("(prefers-color-scheme: dark)");

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** `value` in about four characters, for an axis or a caption. */
export function short(value) {
  if (value == null) return "–";
  const size = Math.abs(value);
  if (size >= 1e6) return `${(value / 1e6).toPrecision(3)} M`;
  if (size >= 1e4) return `${(value / 1e3).toPrecision(3)} k`;
  if (size >= 100 || Number.isInteger(value)) return String(Math.round(value));
  if (size >= 1e-4) return String(Number(value.toPrecision(3)));
  return value.toExponential(1).replace("e-", "e−");
}

/** Exponential running mean, corrected for the bias of its start. */
function smoothed(values) {
  const keep = 0.9;
  let mean = 0;
  let weight = 0;
  return values.map((value) => {
    if (value == null) return null;
    mean = keep * mean + (1 - keep) * value;
    weight = keep * weight + (1 - keep);
    return mean / weight;
  });
}

/** Merge two [steps, values] into one with ascending steps; the later added wins. */
function merged(known, added) {
  if (!known) return added;
  const [steps, values] = added;
  if (steps[0] > known[0][known[0].length - 1]) {
    known[0].push(...steps);
    known[1].push(...values);
    return known;
  }
  const all = new Map([known, added].flatMap(([s, v]) => s.map((step, i) => [step, v[i]])));
  const sorted = [...all].sort(([a], [b]) => a - b);
  return [sorted.map(([step]) => step), sorted.map(([, value]) => value)];
}

/** Colour and dashes of the n-th line. */
function look(number) {
  return {
    tone: TONES[number % TONES.length],
    dash: DASHES[Math.floor(number / TONES.length) % DASHES.length],
  };
}

/** A short piece of a line, for the legend. */
function mark(line) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 20 8");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", `mark-line tone-${TONES.indexOf(line.tone)}`);
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", "M0 4H20");
  path.setAttribute("stroke", "currentColor");
  path.setAttribute("stroke-width", "3");
  path.setAttribute("stroke-dasharray", line.dash.join(" "));
  svg.append(path);
  return svg;
}

class Chart {
  constructor(spec, sources, sync) {
    this.spec = spec;
    this.lines = sources.flatMap((source, place) =>
      spec.series.map((series, index) => ({
        source: place,
        name: series.name,
        label: sources.length > 1 ? source.label : series.label,
        ...look(sources.length > 1 ? place : index),
      })),
    );
    this.sync = sync;
    this.figure = document.createElement("figure");
    this.figure.className = "chart";
    const caption = document.createElement("figcaption");
    const title = document.createElement("span");
    title.className = "title";
    title.append(spec.title);
    const unit = document.createElement("em");
    unit.textContent = spec.unit;
    title.append(unit);
    this.single = this.lines.length === 1;
    this.now = document.createElement("span");
    this.now.className = this.single ? "values single" : "values";
    caption.append(title, this.now);
    this.legend = document.createElement("ul");
    this.legend.className = "legend";
    this.legend.hidden = this.single;
    this.plot = document.createElement("div");
    this.plot.className = "plot";
    this.figure.append(caption, this.legend, this.plot);
  }

  /** Draw the given data: per source a map from metric to [steps, values]. */
  draw(data) {
    const tables = this.lines.map(({ source, name }) => data[source].get(name) ?? [[], []]);
    this.figure.hidden = tables.every(([steps]) => steps.length === 0);
    if (this.figure.hidden) return;
    const edges = this.lines.map(({ source, name }) => ["high", "low"].map((edge) => data[source].get(`${name}/${edge}`)));
    this.banded = edges.some(([high]) => high);
    const none = [[], []];
    const all = uPlot.join([...tables, ...(this.banded ? edges.flat().map((edge) => edge ?? none) : [])]);
    this.table = all.slice(0, 1 + tables.length);
    const table = this.spec.smooth && !this.banded
      ? [this.table[0], ...this.table.slice(1).flatMap((v) => [v, smoothed(v)])]
      : all;
    this.say(null);
    if (this.u) {
      this.u.setData(table);
      return;
    }
    this.u = new uPlot(this.options(), table, this.plot);
    this.observer ??= new ResizeObserver(() => this.resize());
    this.observer.observe(this.plot);
  }

  options() {
    const axis = {
      stroke: colour("--ink-3"),
      font: "11px system-ui, sans-serif",
      ticks: { show: false },
      grid: { stroke: colour("--line-2"), width: 1 },
    };
    const smooth = this.spec.smooth && !this.banded;
    const series = this.lines.flatMap((line) => {
      const stroke = colour(line.tone);
      const points = { show: (u, i) => (this.table[i] ?? []).filter((v) => v != null).length < 12, size: 5, fill: stroke };
      const bold = { stroke, dash: line.dash, width: 2, spanGaps: true, points };
      if (!smooth) return [bold];
      return [{ stroke: `${stroke}55`, width: 1, spanGaps: true, points: { show: false } }, { ...bold, points: { show: false } }];
    });
    const bands = [];
    if (this.banded) {
      for (const line of this.lines) {
        const at = 1 + series.length;
        const edge = { stroke: "transparent", width: 0, spanGaps: true, points: { show: false } };
        series.push(edge, edge);
        bands.push({ series: [at, at + 1], fill: `${colour(line.tone)}22` });
      }
    }
    return {
      bands,
      width: this.plot.clientWidth || 300,
      height: HEIGHT,
      padding: [6, 12, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, sync: { key: this.sync }, points: { size: 6 } },
      scales: { x: { time: false }, y: { range: (u, low, high) => this.range(low, high) } },
      axes: [
        { ...axis, size: 22, gap: 2, space: 60, grid: { show: false }, values: (u, at) => at.map((v) => (Number.isInteger(v) ? short(v) : "")) },
        { ...axis, size: 48, gap: 4, space: 34, values: (u, at) => at.map(short) },
      ],
      series: [{}, ...series],
      hooks: { setCursor: [(u) => this.say(u.cursor.idx)] },
    };
  }

  range(low, high) {
    if (low == null) return [0, 1];
    if (low === 0 && high === 0) return [0, 0.1];
    if (low === high) return [low - Math.abs(low || 1) * 0.1, high + Math.abs(high || 1) * 0.1];
    const room = (high - low) * 0.06;
    // The axis of a curve without negative values does not go below zero.
    return [low >= 0 ? Math.max(0, low - room) : low - room, high + room];
  }

  /** Show the values at the cursor, or the newest ones. */
  say(index) {
    const [steps, ...columns] = this.table;
    const at = index == null ? steps.length - 1 : index;
    const values = columns.map((column) => {
      let i = at;
      while (i > 0 && column[i] == null) i -= 1;
      return column[i];
    });
    if (this.single) {
      const when = document.createElement("span");
      when.className = "at";
      when.textContent = index == null ? "" : this.place(steps[at]);
      this.now.replaceChildren(short(values[0]), when);
      return;
    }
    const when = document.createElement("span");
    when.className = "at";
    when.textContent = index == null ? "" : this.place(steps[at]);
    this.now.replaceChildren(when);
    this.legend.replaceChildren(
      ...this.lines.flatMap((line, i) => {
        // Leave out runs that never measured this: they only take up space.
        if (this.lines.length > 1 && columns[i].every((value) => value == null)) return [];
        const item = document.createElement("li");
        const dot = mark(line);
        const value = document.createElement("b");
        value.textContent = short(values[i]);
        item.append(dot, line.label, value);
        return item;
      }),
    );
  }

  /** The position on the x axis: a step of a run, or the chart's own count. */
  place(at) {
    return this.spec.x ? `${this.spec.x} ${at}` : fill(gettext("step %(step)s"), { step: at });
  }

  resize() {
    const width = this.plot.clientWidth;
    if (this.u && width && width !== this.u.width) this.u.setSize({ width, height: HEIGHT });
  }

  /** Draw again, for another colour scheme. */
  redraw(data) {
    this.u?.destroy();
    this.u = null;
    this.draw(data);
  }

  remove() {
    this.observer?.disconnect();
    this.u?.destroy();
    this.figure.remove();
  }
}

class RunCharts extends HTMLElement {
  connectedCallback() {
    this.layout = JSON.parse(document.getElementById(this.dataset.layout).textContent);
    this.sources = JSON.parse(document.getElementById(this.dataset.sources).textContent);
    this.data = this.sources.map(() => new Map());
    this.positions = this.sources.map(() => ({ newest: 0, token: null }));
    this.charts = [];
    this.controller = new AbortController();
    const { signal } = this.controller;
    dark.addEventListener("change", () => this.charts.forEach((c) => c.redraw(this.data)), { signal });
    document.addEventListener("htmx:afterSettle", () => this.follow(), { signal });
    this.build();
    this.fetchAll();
  }

  disconnectedCallback() {
    this.controller.abort();
    this.charts.forEach((chart) => chart.remove());
  }

  build() {
    this.charts.forEach((chart) => chart.remove());
    const sync = `charts-${Math.random()}`;
    this.charts = this.layout.map((spec) => new Chart(spec, this.sources, sync));
    this.replaceChildren(...this.charts.map((chart) => chart.figure));
  }

  /** Fetch when the polled part of the page reports new data. */
  follow() {
    const dataset = document.getElementById(this.dataset.follows ?? "")?.dataset;
    if (!dataset) return;
    if (dataset.version === this.version) return;
    this.version = dataset.version;
    this.fetchAll();
  }

  async fetchAll() {
    if (this.busy) {
      this.again = true;
      return;
    }
    this.busy = true;
    try {
      await Promise.all(this.sources.map((source, place) => this.fetchOne(source, place)));
      this.charts.forEach((chart) => chart.draw(this.data));
    } catch {
      // The next step asks again; frame.js reports a lost connection.
    } finally {
      this.busy = false;
    }
    if (this.again) {
      this.again = false;
      this.fetchAll();
    }
  }

  async fetchOne(source, place) {
    const position = this.positions[place];
    const query = new URLSearchParams();
    if (position.token != null) {
      query.set("after", position.newest);
      query.set("token", position.token);
    }
    const answer = await fetch(`${source.url}?${query}`, { signal: this.controller.signal });
    if (!answer.ok) throw new Error(String(answer.status));
    const { token, after, newest, series } = await answer.json();
    const data = this.data[place];
    if (after === 0) data.clear();
    for (const [name, added] of Object.entries(series)) {
      data.set(name, merged(data.get(name), added));
    }
    position.newest = newest;
    position.token = token;
    this.meet(Object.keys(series));
  }

  /** Ask the server for a new layout when a metric is not in the page's layout. */
  async meet(names) {
    const known = new Set(this.layout.flatMap((spec) => spec.series.map((s) => s.name)));
    const strange = names.filter((name) => !known.has(name) && !this.ignored?.has(name));
    if (!strange.length) return;
    this.ignored = new Set([...(this.ignored ?? []), ...strange]);
    const answer = await fetch(location.href, { signal: this.controller.signal });
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const layout = page.getElementById(this.dataset.layout);
    if (!layout) return;
    this.layout = JSON.parse(layout.textContent);
    this.build();
    this.charts.forEach((chart) => chart.draw(this.data));
  }
}

customElements.define("run-charts", RunCharts);

// The table of compared runs marks each with its line.
for (const place of document.querySelectorAll(".mark-of")) {
  place.replaceWith(mark(look(Number(place.dataset.line))));
}
