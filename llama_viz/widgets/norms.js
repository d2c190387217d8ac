// The page of the norms explorer: RMS over depth and positions, one vector through its norm, and
// RMSNorm beside LayerNorm when something is added to the vector, or it is scaled.

import { logarithmicAxis } from "./page/axes.js";
import { Surface } from "./page/canvas.js";
import { CHART_HEIGHT, Chart, Panel } from "./page/chart.js";
import { ColourBar } from "./page/colours.js";
import { button, pills, slider } from "./page/controls.js";
import { element } from "./page/elements.js";
import { Explorer, explorer } from "./page/explorer.js";
import { brief, clamp, fixed, median, plural, signed, total, withSign } from "./page/numbers.js";
import { arrow } from "./page/picking.js";
import { shorten, TokenText, tokenText } from "./page/tokens.js";

const RESIDUALS = ["residual_in", "residual_middle", "residual_out"];
const PLACES = [
  ["residual_in", "into the block", "residual_in, what the attention norm reads"],
  ["residual_middle", "after attention", "residual_middle, what the feed-forward norm reads"],
  ["residual_out", "out of the block", "residual_out, what the next norm reads"],
];
const ORDERS = [
  ["feature", "feature"],
  ["size", "size", "size, largest first"],
  ["gain", "gain", "gain, largest first"],
];
const LANE_HEIGHT = 74;
const N_LISTED = 6;
const MOST_FOLLOWED = 100;
const LEAST_SIZE = 0.1; // of the median: what is smaller has one colour
const LEFT = 52;

const numberOfNorm = (layer, residual) => 2 * layer + RESIDUALS.indexOf(residual);
const percent = (share) => (share ? `${fixed(100 * share, share < 0.0995 ? 2 : 1)} %` : "0 %");
const capital = (words) => words[0].toUpperCase() + words.slice(1);
const largestOf = (values) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
const smallestOf = (values) => values.reduce((least, value) => Math.min(least, value), Infinity);
const highestOf = (values) => values.reduce((most, value) => Math.max(most, value), -Infinity);
const meanOf = (values) => total(values) / values.length;
const sumOfSquares = (values) => values.reduce((sum, value) => sum + value * value, 0);
const meanSquare = (values) => sumOfSquares(values) / values.length;

/** x over its root mean square, epsilon included. */
function rmsNorm(values, eps) {
  const rms = Math.sqrt(meanSquare(values) + eps);
  return { result: values.map((value) => value / rms), rms };
}

/** LayerNorm without learned parameters: x less its mean, over its deviation. */
function layerNorm(values, eps) {
  const mean = meanOf(values);
  const { result, rms } = rmsNorm(values.map((value) => value - mean), eps);
  return { result, mean, deviation: rms };
}

const largestDifference = (one, other) =>
  one.reduce((most, value, i) => Math.max(most, Math.abs(value - other[i])), 0);

// ---------------------------------------------------------------- panels

/** Rows and columns of positive numbers as colours; the first row stands at the bottom. */
class HeatPanel extends Panel {
  /** pointed(row, column) follows the pointer (null: nowhere), picked(row, column) a click. */
  constructor(name, title, unit, { colours, pointed, picked }) {
    super(`norms-${name}`, title, unit);
    Object.assign(this, { colours, pointed, picked });
    this.surface = new Surface({
      tabindex: "0",
      role: "application",
      "aria-label": `${title}; arrow keys move`,
      onmousemove: (event) => this.point(event),
      onmouseleave: () => pointed(null),
      onclick: (event) => this.pick(event),
      onkeydown: (event) => this.move(event),
    });
    this.bar = new ColourBar();
    this.body.append(this.surface.canvas, this.bar.element);
  }

  cellAt(event) {
    if (!this.frame) return null;
    const { left, top, width, height } = this.frame;
    const [x, y] = this.surface.place(event);
    if (x < left || x >= left + width || y < top || y >= top + height) return null;
    const column = Math.floor(((x - left) / width) * this.nColumns);
    return [this.nRows - 1 - Math.floor(((y - top) / height) * this.nRows), column];
  }

  point(event) {
    this.pointed(this.cellAt(event));
  }

  pick(event) {
    const cell = this.cellAt(event);
    if (cell) this.picked(...cell);
  }

  move(event) {
    const step = arrow(event);
    if (!step || !this.chosen) return;
    event.preventDefault();
    const [row, column] = this.chosen;
    // Kept at once: the next key may come before the next frame.
    this.chosen = [
      clamp(row - step[0], 0, this.nRows - 1),
      clamp(column + step[1], 0, this.nColumns - 1),
    ];
    this.picked(...this.chosen);
  }

  /** values: row by row; names of the rows; chosen is [row, column] or null; least: see below. */
  drawMap({ values, names, columns, chosen, isLogarithmic, meaning, least = 0 }) {
    const { surface, width } = this;
    const [nRows, nColumns] = [names.length, columns.length];
    const rowHeight = clamp(Math.floor(280 / nRows), 4, 22);
    const frame = { left: 118, top: 2, width: width - 122, height: rowHeight * nRows };
    Object.assign(this, { frame, nRows, nColumns, chosen });
    surface.resize(width, frame.height + 22);
    const context = surface.clear();
    const scale = colourScale(values, isLogarithmic, least);
    const { sequential } = this.colours();
    const pixels = Uint32Array.from({ length: nRows * nColumns }, (_, index) => {
      const row = nRows - 1 - Math.floor(index / nColumns);
      return sequential[scale.at(values[row * nColumns + (index % nColumns)])];
    });
    surface.cells(pixels, nRows, nColumns, frame.left, frame.top, frame.width, frame.height);
    this.label(context, names, columns, rowHeight);
    if (chosen) this.mark(context, chosen, rowHeight);
    this.bar.show({ kind: "sequential", low: brief(scale.low), high: brief(scale.high), meaning });
  }

  label(context, names, columns, rowHeight) {
    const { frame, nRows } = this;
    const { quiet } = this.colours();
    context.font = "10.5px system-ui, sans-serif";
    context.fillStyle = quiet;
    context.textAlign = "right";
    const every = [1, 2, 4, 8, 16, 32].find((step) => step * rowHeight >= 12) ?? 64;
    names.forEach((name, row) => {
      if (row % every && row !== nRows - 1) return;
      if (row === nRows - 1 && row % every && (row % every) * rowHeight < 12) return;
      context.fillText(name, frame.left - 6, frame.top + (nRows - row - 0.5) * rowHeight + 3.5);
    });
    context.textAlign = "center";
    const slot = frame.width / columns.length;
    const apart = [1, 2, 5, 10, 20, 50, 100, 200, 500].find((step) => step * slot >= 30) ?? 1000;
    columns.forEach((position, column) => {
      if (column % apart) return;
      const x = frame.left + (column + 0.5) * slot;
      context.fillText(String(position), x, frame.top + frame.height + 14);
    });
    context.textAlign = "right";
    context.fillText("position", frame.left - 6, frame.top + frame.height + 14);
  }

  mark(context, [row, column], rowHeight) {
    const { frame, nRows, nColumns } = this;
    const slot = frame.width / nColumns;
    context.strokeStyle = this.colours().vermilion;
    context.lineWidth = 2;
    const [width, height] = [Math.max(slot, 4), Math.max(rowHeight, 4)];
    const x = frame.left + (column + 0.5) * slot - width / 2;
    const y = frame.top + (nRows - row - 0.5) * rowHeight - height / 2;
    context.strokeRect(x, y, width, height);
  }
}

/** From values to the 256 colours, evenly, or by powers of ten from `least` on at the lowest. */
function colourScale(values, isLogarithmic, least) {
  const shown = values.filter((value) => Number.isFinite(value) && (!isLogarithmic || value > 0));
  if (!shown.length) return { low: 0, high: 0, at: () => 0 };
  const high = largestOf(shown);
  const low = isLogarithmic ? Math.min(Math.max(smallestOf(shown), least), high) : 0;
  const write = isLogarithmic ? Math.log : Number;
  const span = write(high) - write(low) || 1;
  const at = (value) =>
    value > low ? clamp(Math.round((255 * (write(value) - write(low))) / span), 0, 255) : 0;
  return { low, high, at };
}

/** RMS over depth: the chosen position, the first one, and what the others do. */
class DepthPanel extends Panel {
  constructor() {
    super("norms-depth", "RMS over depth", "root mean square");
    this.chart = new Chart();
    this.body.append(this.chart.svg);
  }

  draw({ header, rms, nPositions, index, norm, isLogarithmic, nameOfNorm }) {
    const { chart } = this;
    const { norms, positions } = header;
    chart.resize(this.width, CHART_HEIGHT + 30);
    const frame = { left: LEFT, right: chart.width - 10, top: 10, bottom: chart.height - 22 };
    const all = rms.filter(Number.isFinite);
    const y = isLogarithmic
      ? logarithmicAxis(chart, frame, smallestOf(all), largestOf(all))
      : chart.scale(frame, largestOf(all));
    const slot = (frame.right - frame.left) / norms.length;
    const x = (row) => frame.left + (row + 0.5) * slot;
    const column = (at) => norms.map((_, row) => rms[row * nPositions + at]);
    const curve = (values) => values.map((value, row) => [x(row), y(value)]);
    const others = norms.map((_, row) => rms.slice(row * nPositions + 1, (row + 1) * nPositions));
    if (nPositions > 1) {
      const low = others.map(smallestOf);
      const high = others.map(largestOf);
      chart.path([...curve(low), ...curve(high).reverse()], "lv-norms-range");
      chart.path(curve(others.map((values) => median(values))), "lv-norms-median");
    }
    chart.path(curve(column(0)), "lv-norms-first");
    chart.path(curve(column(index)), "lv-now");
    const row = norms.indexOf(norm);
    if (row >= 0) {
      const cy = y(rms[row * nPositions + index]);
      chart.add("circle", { cx: x(row), cy, r: 4, class: "lv-point" });
    }
    const every = Math.ceil(46 / (2 * slot));
    norms.forEach((number, at) => {
      if (number % 2 || (number / 2) % every || number === 2 * header.n_layers) return;
      const words = number === 0 ? "layer 0" : String(number / 2);
      chart.text(x(at), chart.height - 6, words, "lv-tick", "middle");
    });
    chart.show(`RMS at ${norms.length} norms`);
    const first = column(0);
    const last = norms.length - 1;
    const growth = nPositions > 1 ? others.map((values) => median(values)) : first;
    const here = column(index);
    this.say(
      `Blue: position ${positions[index]}, ${brief(here[0])} at ${nameOfNorm(norms[0])}, ` +
        `${brief(here[last])} at ${nameOfNorm(norms[last])}. Orange, dashed: position ` +
        `${positions[0]}. Grey: median and range of the others; the median grows ` +
        `${brief(growth[last] / growth[0])} times with depth.`,
    );
  }
}

/** Lanes below each other that share their features across. */
class LanesPanel extends Panel {
  constructor(view, name, title, unit) {
    super(`norms-${name}`, title, unit);
    this.view = view;
    this.chart = new Chart({
      onmousemove: (event) => view.point("feature", this.featureAt(event)),
      onmouseleave: () => view.point("feature", null),
      onclick: (event) => {
        const feature = this.featureAt(event);
        if (feature !== null) view.choose({ feature });
      },
    });
    this.chart.svg.classList.add("lv-norms-features");
    this.body.append(this.chart.svg);
  }

  featureAt(event) {
    if (!this.frame) return null;
    const { left, right } = this.frame;
    const across = event.clientX - this.chart.svg.getBoundingClientRect().left;
    if (across < left || across > right) return null;
    const place = Math.floor(((across - left) / (right - left)) * this.order.length);
    return this.order[clamp(place, 0, this.order.length - 1)];
  }

  /** lanes: {name, values, ghost, look, marked}; order: the features from left to right. */
  drawLanes(lanes, order, feature) {
    const { chart } = this;
    chart.resize(this.width, lanes.length * (LANE_HEIGHT + 18) + 4);
    const frame = { left: LEFT, right: chart.width - 8 };
    Object.assign(this, { frame, order });
    const slot = (frame.right - frame.left) / order.length;
    const chosen = frame.left + (order.indexOf(feature) + 0.5) * slot;
    lanes.forEach((lane, index) => {
      const top = index * (LANE_HEIGHT + 18) + 16;
      const lines = { ...frame, top, bottom: top + LANE_HEIGHT };
      chart.text(frame.left, top - 5, lane.name, "lv-tick lv-group");
      chart.text(frame.right, top - 5, lane.detail ?? "", "lv-tick", "end");
      const both = lane.ghost ? [lane.values, lane.ghost] : [lane.values];
      const low = Math.min(0, ...both.map(smallestOf));
      const high = Math.max(0, ...both.map((values) => highestOf(values)));
      const y = laneScale(chart, lines, low, high);
      chart.line(chosen, top, chosen, lines.bottom, "lv-norms-chosen");
      const draw = (values, look) =>
        chart.add("path", { d: strokes(values, order, frame, y), class: look });
      if (lane.ghost) draw(lane.ghost, "lv-norms-ghost");
      draw(lane.values, lane.look);
      if (lane.marked?.length) {
        const inOrder = new Map(lane.marked.map((one) => [one, order.indexOf(one)]));
        const d = [...inOrder].map(([one, place]) => {
          const x = fixed(frame.left + (place + 0.5) * slot, 1);
          return `M${x} ${fixed(y(0), 1)}V${fixed(y(lane.values[one]), 1)}`;
        });
        chart.add("path", { d: d.join(""), class: "lv-norms-outlier" });
      }
    });
    chart.show(lanes.map((lane) => lane.name).join(", "));
  }
}

/** The lines of a lane: 0, and the values at its ends. */
function laneScale(chart, frame, low, high) {
  const span = high - low || 1;
  const y = (value) => frame.bottom - ((value - low) / span) * (frame.bottom - frame.top);
  for (const value of new Set([low, 0, high])) {
    if (value && Math.abs(y(value) - y(0)) < 11) continue;
    chart.line(frame.left, y(value), frame.right, y(value), value ? "lv-grid" : "lv-axis");
    chart.text(frame.left - 5, y(value) + 3.5, signed(value), "lv-tick", "end");
  }
  return y;
}

/** A stroke from 0 for each feature; where features are many, one for each pixel across. */
function strokes(values, order, frame, y) {
  const width = frame.right - frame.left;
  const nStrokes = Math.min(order.length, Math.floor(width));
  const parts = [];
  for (let stroke = 0; stroke < nStrokes; stroke++) {
    const from = Math.floor((stroke * order.length) / nStrokes);
    const to = Math.floor(((stroke + 1) * order.length) / nStrokes);
    let [low, high] = [0, 0];
    for (let place = from; place < to; place++) {
      low = Math.min(low, values[order[place]]);
      high = Math.max(high, values[order[place]]);
    }
    const x = fixed(frame.left + ((stroke + 0.5) * width) / nStrokes, 1);
    parts.push(`M${x} ${fixed(y(low), 1)}V${fixed(y(high), 1)}`);
  }
  return parts.join("");
}

/** One vector through its norm: scale and gain apart. */
class VectorPanel extends LanesPanel {
  constructor(view) {
    super(view, "vector", "One vector through its norm", "each stroke a feature");
    this.orders = pills("Order", ORDERS, (order) => view.choose({ order }));
    this.tools.append(this.orders.element);
  }

  draw(moment) {
    const { vector, gain, share, scaled, output, feature, listed, order, state } = moment;
    this.orders.set(state.order);
    const lanes = [];
    const rms = vector && `RMS ${brief(moment.computedRms)}`;
    if (vector) {
      lanes.push(
        { name: "x, the residual stream", values: vector, look: "lv-norms-x", marked: listed },
        { name: "share of the mean square, x² / Σx²", values: share, look: "lv-norms-x" },
        { name: "scaled: x / RMS", values: scaled, look: "lv-norms-x", detail: rms },
      );
    }
    if (gain) lanes.push({ name: "gain", values: gain, look: "lv-norms-gain" });
    if (output) lanes.push({ name: "x / RMS × gain", values: output, look: "lv-norms-out" });
    if (!lanes.length) {
      this.chart.resize(this.width, 10);
      this.chart.show("Nothing recorded here");
      return this.say(moment.missing);
    }
    this.drawLanes(lanes, order, feature);
    this.say(vectorInWords(moment));
  }
}

function vectorInWords({ vector, share, gain, output, feature, listed, missing, rmsInWords }) {
  const parts = [];
  if (!vector) parts.push(missing);
  if (vector) {
    const sum = total(listed.map((one) => share[one]));
    parts.push(
      `${rmsInWords} The ${plural(listed.length, "feature")} in orange make ` +
        `${percent(sum)} of the mean square.`,
    );
  }
  if (gain) {
    const most = gain.indexOf(highestOf(gain));
    parts.push(
      `Gain: ${brief(smallestOf(gain))} to ${brief(gain[most])} (feature ${most}), ` +
        `median ${brief(median(gain))}.`,
    );
  } else parts.push("The gain of this norm was not recorded.");
  if (output) {
    const out = `${signed(vector[feature])} goes in, ${signed(output[feature])} comes out`;
    parts.push(`Feature ${feature}: ${out}.`);
  }
  return parts.join(" ");
}

/** The largest features of the vector, to be picked. */
class OutliersPanel extends Panel {
  constructor(view) {
    super("norms-outliers", "Largest features", "beside the median size");
    this.view = view;
    this.rows = Array.from({ length: N_LISTED }, (_, place) => this.row(place));
    const head = ["feature", "x", "× median", "share", "gain", "out"];
    this.table = element(
      "table",
      { class: "lv-norms-list" },
      element("thead", {}, element("tr", {}, ...head.map((words) => element("th", {}, words)))),
      element("tbody", {}, ...this.rows.map(({ line }) => line)),
    );
    this.largest = button("Follow the largest", () => view.choose({ feature: null }));
    this.tools.append(this.largest);
    this.body.append(this.table);
  }

  row(place) {
    const pick = button("", () => this.view.choose({ feature: this.listed[place] }));
    const cells = Array.from({ length: 5 }, () => element("td", {}));
    return { pick, cells, line: element("tr", {}, element("td", {}, pick), ...cells) };
  }

  draw({ vector, share, gain, output, listed, feature, medianSize, missing, state }) {
    this.table.hidden = !vector;
    this.largest.disabled = state.feature === null;
    if (!vector) return this.say(missing);
    this.listed = listed;
    this.rows.forEach(({ pick, cells, line }, place) => {
      const one = listed[place];
      line.hidden = one === undefined;
      if (line.hidden) return;
      pick.textContent = String(one);
      pick.setAttribute("aria-label", `feature ${one}`);
      pick.setAttribute("aria-pressed", String(one === feature));
      const numbers = [
        signed(vector[one]),
        brief(Math.abs(vector[one]) / medianSize),
        percent(share[one]),
        gain ? signed(gain[one]) : "—",
        output ? signed(output[one]) : "—",
      ];
      cells.forEach((cell, index) => (cell.textContent = numbers[index]));
    });
    this.say(`The median size of a feature here is ${brief(medianSize)}.`);
  }
}

/** RMSNorm and LayerNorm of the same vector, when it is changed. */
class ComparePanel extends LanesPanel {
  constructor(view) {
    super(view, "compare", "RMSNorm beside LayerNorm", "without gain; grey: as recorded");
    const { farthest } = view.header;
    const range = { min: -farthest, max: farthest, step: 0.05 };
    this.constant = slider(
      "Add a constant to every feature",
      { ...range, write: (value) => (value ? `${withSign(value)} × RMS` : "nothing") },
      (constant) => view.choose({ constant }),
    );
    this.power = slider(
      "Scale the vector",
      { ...range, write: (value) => `× ${brief(10 ** value)}` },
      (power) => view.choose({ power }),
    );
    this.back = button("As recorded", () => view.choose({ constant: 0, power: 0 }));
    const parts = [this.constant.element, this.power.element, this.back];
    this.controls = element("div", { class: "lv-bar-of-controls" }, ...parts);
    this.readout = element("p", { class: "lv-readout lv-norms-readout" });
    this.body.prepend(this.controls);
    this.body.append(this.readout);
  }

  draw({ vector, compared, order, feature, missing, state }) {
    this.constant.set(state.constant);
    this.power.set(state.power);
    this.back.disabled = !(state.constant || state.power);
    this.controls.hidden = this.readout.hidden = !vector;
    if (!vector) {
      this.chart.resize(this.width, 10);
      this.chart.show("Nothing recorded here");
      return this.say(missing);
    }
    const { rms, layer, rmsBefore, layerBefore, moved, apart } = compared;
    const isChanged = state.constant !== 0 || state.power !== 0;
    const lanes = [
      {
        name: "RMSNorm: x / RMS",
        values: rms.result,
        ghost: isChanged && rmsBefore.result,
        look: "lv-norms-x",
        detail: `moved by up to ${brief(moved.rms)}`,
      },
      {
        name: "LayerNorm: (x − mean) / deviation",
        values: layer.result,
        ghost: isChanged && layerBefore.result,
        look: "lv-norms-layer-norm",
        detail: `moved by up to ${brief(moved.layer)}`,
      },
    ];
    this.drawLanes(lanes, order, feature);
    this.readout.textContent =
      `Mean ${signed(layer.mean)}, deviation ${brief(layer.deviation)}, RMS ${brief(rms.rms)}. ` +
      `Largest difference between the two results: ${brief(apart)}.`;
    this.say(compareInWords(compared, state));
  }
}

function compareInWords({ moved, eps, rms }, { constant, power }) {
  if (!constant && !power) {
    return "As recorded. Add a constant: which of the two moves? Scale the vector: which one now?";
  }
  const what = [
    constant ? `${withSign(constant)} × RMS added` : null,
    power ? `scaled by ${brief(10 ** power)}` : null,
  ];
  const verdict = (name, by) =>
    by < 1e-6 ? `${name} stays` : `${name} moves by up to ${brief(by)}`;
  const isSmall = rms.rms ** 2 < 100 * eps;
  const epsilon = isSmall ? ` Epsilon, ${brief(eps)}, is not small beside this mean square.` : "";
  const changes = what.filter(Boolean).join(", ");
  const [ofRms, ofLayer] = [verdict("RMSNorm", moved.rms), verdict("LayerNorm", moved.layer)];
  return `${changes}: ${ofRms}, ${ofLayer}.${epsilon}`;
}

// ---------------------------------------------------------------- the view

class NormsView extends Explorer {
  constructor(model, connection, root) {
    super(model, connection, root, "Norms explorer");
  }

  build(root, { header, arrays }) {
    this.header = header;
    this.arrays = arrays;
    this.pointed = { layer: null, residual: null, position: null, feature: null };
    this.indexOf = new Map(header.positions.map((position, index) => [position, index]));
    this.rms = arrays.rms.numbers();
    this.medians = arrays.median.numbers();
    this.everywhere = new Map(); // what was followed lately, by feature
    const colours = () => this.colours;
    this.map = new HeatPanel("map", "RMS at every norm", "root mean square", {
      colours,
      pointed: (cell) => this.pointAt(cell && this.placeOfNorm(...cell)),
      picked: (row, column) => this.pickPlace(this.placeOfNorm(row, column)),
    });
    this.follow = new HeatPanel("follow", "One feature everywhere", "size, × median", {
      colours,
      pointed: (cell) => this.pointAt(cell && this.placeOfStage(...cell)),
      picked: (row, column) => this.pickPlace(this.placeOfStage(row, column)),
    });
    this.depth = new DepthPanel();
    this.vector = new VectorPanel(this);
    this.outliers = new OutliersPanel(this);
    this.compare = new ComparePanel(this);
    const { map, depth, vector, outliers, follow, compare } = this;
    this.panels = [map, depth, vector, outliers, follow, compare];
    const scales = [
      ["logarithmic", "powers of ten"],
      ["linear", "even"],
    ];
    this.scale = pills("Scale", scales, (scale) => this.choose({ scale }));
    this.map.tools.append(this.scale.element);
    root.append(
      element("h3", {}, "Normalization: the residual stream, and what a norm makes of it"),
      ...header.notes.map((note) => element("p", { class: "lv-status lv-notice" }, note)),
      this.buildPlace(),
      element("div", { class: "lv-panels" }, ...this.panels.map((panel) => panel.element)),
      this.table.button,
      this.table.region,
    );
  }

  buildPlace() {
    const { header } = this;
    const { layers, positions, tokens, dim } = header;
    const layer = slider(
      "Layer",
      { min: 0, max: layers.length - 1, write: (index) => String(layers[index]) },
      (index) => this.choose({ layer: layers[index] }),
    );
    layer.element.hidden = layers.length < 2;
    const position = slider(
      "Position",
      {
        min: 0,
        max: positions.length - 1,
        write: (index) => `${positions[index]}, ${shorten(tokenText(tokens[index]), 10)}`,
      },
      (index) => this.choose({ position: positions[index] }),
    );
    const feature = slider("Feature", { min: 0, max: dim - 1 }, (value) =>
      this.choose({ feature: value }),
    );
    this.sliders = { layer, position, feature };
    this.place = pills("Residual stream", PLACES, (residual) => this.choose({ residual }));
    this.text = new TokenText({
      label: "Token of the vector",
      onpoint: (index) => this.point("position", positions[index] ?? null),
      onpick: (index) => this.choose({ position: positions[index] }),
    });
    this.text.fill(tokens);
    this.text.element.addEventListener("focusout", () => this.point("position", null));
    const parts = [layer.element, this.place.element, position.element, feature.element];
    return element(
      "div",
      { class: "lv-norms-place" },
      element("div", { class: "lv-bar-of-controls" }, ...parts),
      this.text.element,
    );
  }

  measure() {
    for (const panel of this.panels) panel.measure();
  }

  // What is picked, and what is pointed at

  at(name) {
    return this.pointed[name] ?? this.state[name];
  }

  point(name, value) {
    if (this.pointed[name] === value) return;
    this.pointed[name] = value;
    this.draw();
  }

  pointAt(place) {
    Object.assign(this.pointed, place ?? { layer: null, residual: null, position: null });
    this.draw();
  }

  choose(changes) {
    for (const name of Object.keys(changes)) if (name in this.pointed) this.pointed[name] = null;
    this.pick(changes);
    this.draw();
  }

  pickPlace(place) {
    if (!place) return;
    this.choose(place);
  }

  escape() {
    const { constant, power, feature } = this.state;
    const isPointed = Object.values(this.pointed).some((value) => value !== null);
    for (const name of Object.keys(this.pointed)) this.pointed[name] = null;
    if (constant || power || feature !== null) {
      this.choose({ constant: 0, power: 0, feature: null });
    } else if (!isPointed) return false;
    this.draw();
    return true;
  }

  /** Layer, residual and position of a cell of the RMS map; null where the layer was not kept. */
  placeOfNorm(row, column) {
    const norm = this.header.norms[row];
    const position = this.header.positions[column];
    const layer = Math.floor(norm / 2);
    if (this.header.layers.includes(layer)) {
      return { layer, residual: RESIDUALS[norm % 2], position };
    }
    const isOut = norm % 2 === 0 && this.header.layers.includes(layer - 1);
    return isOut ? { layer: layer - 1, residual: "residual_out", position } : null;
  }

  placeOfStage(row, column) {
    const [layer, residual] = this.header.stages[row];
    return { layer, residual, position: this.header.positions[column] };
  }

  nameOfNorm(norm) {
    if (norm === 2 * this.header.n_layers) return "the final norm";
    return `layer ${Math.floor(norm / 2)} ${norm % 2 ? "feed-forward" : "attention"}`;
  }

  // What is shown

  /** The residual stream at one place: {values, isWaiting}. */
  vectorsAt(layer, residual) {
    const { header, arrays } = this;
    if (!header.residuals.includes(residual)) return { values: null, isWaiting: false };
    const here =
      arrays[`${residual} ${layer}`] ??
      // Out of a block is into the next one, and sent once.
      (residual === "residual_out" && arrays[`residual_in ${layer + 1}`]);
    const values =
      here || this.arrived("vectors", { layer, residual })?.arrays[`${residual} ${layer}`];
    return { values, isWaiting: !values };
  }

  moment() {
    const { header, state } = this;
    const picked = ["layer", "residual", "position"].map((name) => this.at(name));
    const [layer, residual, position] = picked;
    const index = this.indexOf.get(position);
    const { values, isWaiting } = this.vectorsAt(layer, residual);
    const { dim, eps, norms } = header;
    const norm = numberOfNorm(layer, residual);
    const vector = values ? Array.from(values.numbers(index * dim, (index + 1) * dim)) : null;
    const moment = {
      header,
      state,
      layer,
      residual,
      position,
      index,
      norm,
      rms: this.rms,
      nPositions: header.positions.length,
      isLogarithmic: state.scale === "logarithmic",
      nameOfNorm: (number) => this.nameOfNorm(number),
      vector,
      gain: this.gain(norm),
      missing: isWaiting
        ? "The residual stream is on its way …"
        : `${residual} was not recorded: add it to taps.`,
    };
    if (vector) {
      const recorded = this.rms[norms.indexOf(norm) * moment.nPositions + index];
      Object.assign(moment, ofVector(vector, moment.gain, eps, state));
      moment.rmsInWords = rmsInWords(moment.computedRms, header.rms_is_recorded ? recorded : null);
    }
    moment.feature = this.at("feature") ?? moment.listed?.[0] ?? 0;
    moment.order = orderOf(state.order, moment, dim);
    return moment;
  }

  gain(norm) {
    const row = this.header.gain_norms.indexOf(norm);
    const { dim } = this.header;
    if (row < 0) return null;
    return Array.from(this.arrays.norm_gain.numbers(row * dim, (row + 1) * dim));
  }

  /** One feature at every stage and position beside the median; null while it is on its way. */
  featureEverywhere(feature) {
    const { header, arrays } = this;
    const { stages, dim } = header;
    if (this.everywhere.has(feature)) return this.everywhere.get(feature);
    const nPositions = header.positions.length;
    const here = stages.map(([layer, residual]) => arrays[`${residual} ${layer}`]);
    const sent = here.every(Boolean) ? null : this.arrived("feature", { feature });
    if (!here.every(Boolean) && !sent) return null;
    const values = sent
      ? sent.arrays.feature.numbers()
      : here.flatMap((array) =>
          Array.from({ length: nPositions }, (_, index) => {
            const at = index * dim + feature;
            return array.unit || array.scale ? array.numbers(at, at + 1)[0] : array.values[at];
          }),
        );
    const sizes = Array.from(values, (value, index) => Math.abs(value) / this.medians[index]);
    if (this.everywhere.size > MOST_FOLLOWED) this.everywhere.clear();
    this.everywhere.set(feature, sizes);
    return sizes;
  }

  show() {
    const moment = this.moment();
    if (!this.map.width) this.measure();
    this.drawControls(moment);
    this.drawPanels(moment);
    const token = tokenText(this.header.tokens[moment.index]);
    this.announce(
      `${moment.residual} of layer ${moment.layer}, position ${moment.position} ${token}, ` +
        `feature ${moment.feature}`,
    );
  }

  /** Each panel with what it shows: drawn anew where that, its width or the theme has changed. */
  drawPanels(moment) {
    const { norm, index, feature, layer, residual, state, vector } = moment;
    const place = [layer, residual, index, vector !== null];
    const followed = this.header.stages.length ? this.featureEverywhere(feature) : null;
    const { scale, order, constant, power } = state;
    for (const [panel, shown, draw] of [
      [this.map, [norm, index, scale], () => this.drawMap(moment)],
      [this.depth, [norm, index, scale], () => this.depth.draw(moment)],
      [this.vector, [place, feature, order], () => this.vector.draw(moment)],
      [this.outliers, [place, feature, state.feature], () => this.outliers.draw(moment)],
      [this.follow, [place, feature, scale, !followed], () => this.drawFollow(moment, followed)],
      [this.compare, [place, feature, order, constant, power], () => this.compare.draw(moment)],
    ]) {
      const key = JSON.stringify([panel.width, shown]);
      if (panel.drawnKey === key && panel.drawnColours === this.colours) continue;
      Object.assign(panel, { drawnKey: key, drawnColours: this.colours });
      draw();
    }
  }

  drawControls({ layer, residual, index, feature, state }) {
    this.sliders.layer.set(this.header.layers.indexOf(layer));
    this.sliders.position.set(index);
    this.sliders.feature.set(feature);
    this.place.set(residual);
    this.scale.set(state.scale);
    this.text.mark("lv-looked-at", [index]);
    if (this.pointed.position !== null) return;
    this.text.choose(index);
    this.text.reveal(index);
  }

  drawMap({ norm, index, isLogarithmic, nPositions }) {
    const { norms, positions } = this.header;
    const row = norms.indexOf(norm);
    this.map.drawMap({
      values: this.rms,
      names: norms.map((number) => this.nameOfNorm(number)),
      columns: positions,
      chosen: row < 0 ? null : [row, index],
      isLogarithmic,
      meaning: "RMS",
    });
    if (row < 0) return this.map.say(`The RMS of ${this.nameOfNorm(norm)} was not recorded.`);
    const here = this.rms[row * nPositions + index];
    const middle = median(this.rms.slice(row * nPositions, (row + 1) * nPositions));
    const far = this.farthest(nPositions);
    this.map.say(
      `${capital(this.nameOfNorm(norm))}, position ${positions[index]}: RMS ${brief(here)}, ` +
        `${brief(here / middle)} times the median of this norm. ${far}`,
    );
  }

  /** The position that stands out most, with the norm where it does. */
  farthest(nPositions) {
    const { norms, positions } = this.header;
    const best = { ratio: 1 };
    norms.forEach((number, row) => {
      const values = this.rms.slice(row * nPositions, (row + 1) * nPositions);
      const middle = median(values);
      values.forEach((value, index) => {
        const ratio = value / middle;
        if (Math.abs(Math.log(ratio)) > Math.abs(Math.log(best.ratio))) {
          Object.assign(best, { ratio, number, index });
        }
      });
    });
    if (best.index === undefined) return "";
    const token = shorten(tokenText(this.header.tokens[best.index]), 14);
    const where = `position ${positions[best.index]}, ${token}`;
    return `Farthest: ${where}, ${brief(best.ratio)} times at ${this.nameOfNorm(best.number)}.`;
  }

  drawFollow({ feature, layer, residual, index, isLogarithmic }, values) {
    const { stages, positions } = this.header;
    this.follow.surface.canvas.hidden = this.follow.bar.element.hidden = !values;
    if (!values) {
      return this.follow.say(
        stages.length ? "This feature is on its way …" : "The residual stream was not recorded.",
      );
    }
    const rowOf = (one, other) => stages.findIndex(([own, name]) => own === one && name === other);
    // Out of a block is into the next one.
    const own = rowOf(layer, residual);
    const row = own < 0 ? rowOf(layer + 1, "residual_in") : own;
    const words = Object.fromEntries(PLACES.map(([name, short]) => [name, short]));
    this.follow.drawMap({
      values,
      names: stages.map(([number, name]) => `${number} ${words[name]}`),
      columns: positions,
      chosen: row < 0 ? null : [row, index],
      isLogarithmic,
      meaning: `size of feature ${feature}, × median`,
      least: LEAST_SIZE,
    });
    const most = values.indexOf(largestOf(values));
    const [ofLayer, name] = stages[Math.floor(most / positions.length)];
    const place = positions[most % positions.length];
    const where = `${words[name]} of layer ${ofLayer}, position ${place}`;
    const many = values.filter((value) => value >= 10).length / values.length;
    this.follow.say(
      `Feature ${feature}: at most ${brief(values[most])} times the median (${where}); ` +
        `at least 10 times in ${percent(many)} of all places.`,
    );
  }

  numbers() {
    const moment = this.moment();
    const { vector, gain, share, scaled, output, order, medianSize, compared } = moment;
    const write = (values, feature) => (values ? signed(values[feature]) : "—");
    const rows = order.map((feature) => [
      feature,
      write(vector, feature),
      vector ? brief(Math.abs(vector[feature]) / medianSize) : "—",
      share ? percent(share[feature]) : "—",
      write(scaled, feature),
      write(gain, feature),
      write(output, feature),
      write(compared?.rms.result, feature),
      write(compared?.layer.result, feature),
    ]);
    const caption =
      `${moment.residual} of layer ${moment.layer} at position ${moment.position}, read by ` +
      `${this.nameOfNorm(moment.norm)}. The last two columns: of the changed vector.`;
    const header = [
      "feature", "x", "× median", "share", "x / RMS", "gain", "out", "RMSNorm", "LayerNorm",
    ];
    return { caption, header, rows };
  }
}

/** Everything that follows from one vector and its gain. */
function ofVector(vector, gain, eps, { constant, power }) {
  const square = sumOfSquares(vector) || 1;
  const rmsBefore = rmsNorm(vector, eps);
  const layerBefore = layerNorm(vector, eps);
  const changed = vector.map((value) => 10 ** power * (value + constant * rmsBefore.rms));
  const [rms, layer] = [rmsNorm(changed, eps), layerNorm(changed, eps)];
  const bySize = vector.map((_, i) => i).sort((a, b) => Math.abs(vector[b]) - Math.abs(vector[a]));
  return {
    computedRms: rmsBefore.rms,
    scaled: rmsBefore.result,
    share: vector.map((value) => (value * value) / square),
    output: gain && rmsBefore.result.map((value, i) => value * gain[i]),
    medianSize: median(vector.map(Math.abs)),
    bySize,
    listed: bySize.slice(0, N_LISTED),
    compared: {
      eps,
      rms,
      layer,
      rmsBefore,
      layerBefore,
      moved: {
        rms: largestDifference(rms.result, rmsBefore.result),
        layer: largestDifference(layer.result, layerBefore.result),
      },
      apart: largestDifference(rms.result, layer.result),
    },
  };
}

function rmsInWords(computed, recorded) {
  const here = computed.toPrecision(6);
  if (recorded == null || !Number.isFinite(recorded)) return `RMS of x: ${here}.`;
  return `RMS: recorded ${recorded.toPrecision(6)}, computed here ${here}.`;
}

/** The features from left to right. */
function orderOf(order, { bySize, gain }, dim) {
  const inOrder = Array.from({ length: dim }, (_, feature) => feature);
  if (order === "size" && bySize) return bySize;
  if (order === "gain" && gain) return inOrder.sort((a, b) => gain[b] - gain[a]);
  return inOrder;
}

export default explorer(NormsView);
