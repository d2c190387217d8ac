// The feed-forward explorer: neurons by positions, one neuron on the SiLU curve and along the text,
// its favourite tokens, the strongest neurons of a token, and how many neurons are near zero.

import { Surface } from "./page/canvas.js";
import { Chart, Panel } from "./page/chart.js";
import { ColourBar } from "./page/colours.js";
import { button, field, menu, numberInput, numberOf, pills, slider } from "./page/controls.js";
import { element, renew, say } from "./page/elements.js";
import { Explorer, explorer } from "./page/explorer.js";
import { clamp, fixed, grouped, plural, threeDigits } from "./page/numbers.js";
import { Picking, arrow } from "./page/picking.js";
import { TokenText, tokenParts, tokenText } from "./page/tokens.js";

const NAMES = {
  gate: "gate",
  silu: "SiLU(gate)",
  up: "up",
  product: "SiLU(gate) × up",
};
const ORDERS = [
  ["size", "largest anywhere"],
  ["mean", "largest on average"],
  ["position", "largest at the picked token"],
  ["number", "number"],
];
const COUNT = 8; // favourites, and strongest neurons
const CONTEXT = 3; // tokens around a favourite
const LAYERS_KEPT = 6;
const ROW_HEIGHT = 11;
const MAP_HEIGHT = 352;
const LABEL_WIDTH = 48;
const TICK_HEIGHT = 18;
const COLOURED = 0.99; // of the numbers in view; the few beyond are drawn as the ends
const SAMPLES = 20000;
const CURVE_HEIGHT = 340;
const LINE_CHART_HEIGHT = 150;
const SHARE_HEIGHT = 130;

const siluOf = (x) => x / (1 + Math.exp(-x));

/** What there is of one layer: each quantity as float32, position by position. */
class LayerOfNeurons {
  constructor(neurons, arrays) {
    this.neurons = neurons; // their numbers, in the order of the columns
    this.column = new Map(Array.from(neurons, (neuron, column) => [neuron, column]));
    this.width = neurons.length;
    this.values = {};
    for (const [name, array] of Object.entries(arrays)) this.values[name] = array.values;
    this.orders = new Map();
    this.limits = new Map();
  }

  /** The values of a quantity, all positions, `width` neurons each. */
  of(quantity) {
    const { values } = this;
    if (quantity === "silu") values.silu ??= values.gate.map(siluOf);
    if (quantity === "product") {
      values.product ??= values.gate.map((gate, index) => siluOf(gate) * values.up[index]);
    }
    return values[quantity];
  }

  at(quantity, position, column) {
    return this.of(quantity)?.[position * this.width + column];
  }

  /** A quantity of one neuron along the text. */
  along(quantity, column) {
    const values = this.of(quantity);
    return Float32Array.from({ length: values.length / this.width }, (_, position) =>
      values[position * this.width + column],
    );
  }

  /** Columns in an order: by size anywhere, by mean size, by size at a position, by number. */
  ordered(quantity, order, position) {
    const key = `${quantity} ${order} ${order === "position" ? position : ""}`;
    if (!this.orders.has(key)) {
      if (this.orders.size > 30) this.orders.clear();
      this.orders.set(key, this.sorted(quantity, order, position));
    }
    return this.orders.get(key);
  }

  sorted(quantity, order, position) {
    const { width } = this;
    const values = this.of(quantity);
    const columns = Array.from({ length: width }, (_, column) => column);
    if (order === "number") return columns;
    const size = new Float64Array(width);
    const [start, end] = order === "position" ? [position, position + 1] : [0, values.length / width];
    for (let row = start; row < end; row++) {
      for (let column = 0; column < width; column++) {
        const own = Math.abs(values[row * width + column]) || 0; // what is missing counts as 0
        if (order === "mean") size[column] += own;
        else if (own > size[column]) size[column] = own;
      }
    }
    return columns.sort((a, b) => size[b] - size[a] || a - b);
  }

  /** The size that the colours reach: that of nearly all numbers of these columns. */
  limit(quantity, columns) {
    const key = `${quantity} ${columns[0]} ${columns.at(-1)} ${columns.length}`;
    if (!this.limits.has(key)) {
      if (this.limits.size > 30) this.limits.clear();
      const values = this.of(quantity);
      const n = (values.length / this.width) * columns.length;
      const step = Math.max(1, Math.floor(n / SAMPLES));
      const sizes = new Float32Array(Math.ceil(n / step));
      for (let index = 0, at = 0; index < n; index += step, at++) {
        const row = Math.floor(index / columns.length);
        sizes[at] = Math.abs(values[row * this.width + columns[index % columns.length]]) || 0;
      }
      sizes.sort();
      this.limits.set(key, sizes[Math.floor(COLOURED * (sizes.length - 1))] || 1);
    }
    return this.limits.get(key);
  }
}

class FeedForwardView extends Explorer {
  constructor(model, connection, root) {
    super(model, connection, root, "Feed-forward explorer");
    this.picking = new Picking(() => this.draw());
  }

  build(root, { header, arrays }) {
    this.header = header;
    this.arrays = arrays;
    this.kept = new Map();
    this.asked = new Set();
    this.favourites = new Map();
    this.nPositions = header.tokens.length;
    root.append(
      this.buildControls(),
      element("p", { class: "lv-missing lv-status" }, header.missing),
      this.buildText(),
      element(
        "div",
        { class: "lv-panels" },
        this.buildMap(),
        this.buildCurve(),
        this.buildAlong(),
        this.buildFavourites(),
        this.buildStrongest(),
        this.buildNearZero(),
      ),
      this.table.button,
      this.table.region,
    );
  }

  buildControls() {
    const { header } = this;
    this.layerMenu = pills(
      "Layer",
      header.layers.map((layer) => [layer, String(layer), `layer ${layer}`]),
      (layer) => this.pick({ layer }),
      { class: "lv-pills lv-layers" },
    );
    this.quantity = pills(
      "Shown",
      header.quantities.map((name) => [name, NAMES[name]]),
      (quantity) => this.pick({ quantity }),
      { class: "lv-pills lv-quantities" },
    );
    this.order = menu("Neurons in the order of", ORDERS, (order) => this.pick({ order, first: 0 }), {
      class: "lv-order",
    });
    const rows = [
      [32, "32 at once"],
      [128, "128 at once"],
      ["all", `all ${grouped(header.n_held)}`],
    ];
    this.rows = menu("Rows", rows, (count) => this.pick({ rows: count, first: 0 }), {
      class: "lv-rows",
    });
    this.first = slider(
      "From rank",
      { min: 0, max: Math.max(header.n_held - 1, 0), class: "lv-first" },
      (first) => this.pick({ first }),
    );
    this.number = numberInput("lv-neuron", {
      min: 0,
      max: header.n_neurons - 1,
      onchange: () => this.pickNumber(numberOf(this.number)),
    });
    return element(
      "div",
      {},
      element("div", { class: "lv-bar-of-controls" }, this.layerMenu.element),
      element(
        "div",
        { class: "lv-bar-of-controls" },
        this.quantity.element,
        this.order.element,
        this.rows.element,
        this.first.element,
        field("Neuron", this.number),
      ),
    );
  }

  buildText() {
    this.text = new TokenText({
      label: "The text, shaded by the neuron",
      onpoint: (position) => this.picking.point(position === null ? null : { position }),
      onpick: (position) => this.pick({ position }),
    });
    this.text.fill(this.header.tokens);
    this.textLegend = element("p", { class: "lv-caption lv-text-legend" });
    return element("div", {}, this.text.element, this.textLegend);
  }

  buildMap() {
    this.map = new Panel("neurons", "Neurons by positions", "a row for each neuron");
    this.surface = new Surface({
      tabindex: "0",
      role: "application",
      "aria-roledescription": "map",
      onpointermove: (event) => this.picking.point(this.placeOf(event)),
      onpointerleave: () => this.picking.point(null),
      onclick: (event) => this.pickPlace(this.placeOf(event)),
      onkeydown: (event) => this.moveOnMap(event),
    });
    this.bar = new ColourBar();
    this.readout = element("p", { class: "lv-readout" });
    this.map.body.append(this.surface.canvas);
    this.map.body.after(this.bar.element, this.readout);
    return this.map.element;
  }

  buildCurve() {
    this.curve = new Panel("curve", "On the SiLU curve", "a dot for each position");
    this.curveChart = new Chart({ onclick: (event) => this.pickDot(event) });
    this.curve.body.append(this.curveChart.svg);
    return this.curve.element;
  }

  buildAlong() {
    this.along = new Panel("along", "Opening and closing along the text", "the neuron in view");
    this.alongChart = new Chart({ class: "lv-chart lv-clicked", onclick: (event) => this.pickAlong(event, this.alongFrame) });
    this.along.body.append(this.alongChart.svg);
    return this.along.element;
  }

  buildFavourites() {
    this.favouritePanel = new Panel("favourites", "Favourite tokens of the neuron", "largest first");
    this.favouriteList = element("ol", { class: "lv-places" });
    this.favouritePanel.body.append(this.favouriteList);
    return this.favouritePanel.element;
  }

  buildStrongest() {
    this.strongest = new Panel("strongest", "Strongest neurons of the token", "largest first");
    this.strongestList = element("ol", { class: "lv-places" });
    this.strongest.body.append(this.strongestList);
    return this.strongest.element;
  }

  buildNearZero() {
    this.nearZero = new Panel("near-zero", "How many neurons are near zero", "|SiLU(gate) × up|");
    const { thresholds } = this.header;
    this.threshold = slider(
      "near zero means below",
      { min: 0, max: thresholds.length - 1, class: "lv-threshold",
        write: (index) => String(thresholds[index]) },
      (index) => this.pick({ threshold: thresholds[index] }),
    );
    const clicked = (onclick) => new Chart({ class: "lv-chart lv-clicked", onclick });
    this.byLayer = clicked((event) => {
      const { layers } = this.header;
      const row = placeAlong(event, this.shareFrame, layers.length);
      if (row !== null) this.pick({ layer: layers[row] });
    });
    this.byPosition = clicked((event) => this.pickAlong(event, this.shareFrame));
    this.nearZero.body.append(
      this.threshold.element,
      element("div", { class: "lv-two" }, this.byLayer.svg, this.byPosition.svg),
    );
    return this.nearZero.element;
  }

  measure() {
    for (const panel of [this.map, this.curve, this.along, this.nearZero]) panel.measure();
  }

  // ---------------------------------------------------------------- data

  /** The layer that is picked, null until the kernel has sent it. */
  get layer() {
    const { layer } = this.state;
    if (this.kept.has(layer)) return this.kept.get(layer);
    const numbers = this.arrays[`neurons ${layer}`];
    if (numbers) {
      const arrays = {};
      for (const name of ["gate", "up", "product"]) {
        const array = this.arrays[`${name} ${layer}`];
        if (array) arrays[name] = array;
      }
      return this.keep(layer, new LayerOfNeurons(numbers.values, arrays));
    }
    this.read(layer);
    return null;
  }

  keep(layer, found) {
    if (this.kept.size >= LAYERS_KEPT) this.kept.delete(this.kept.keys().next().value);
    this.kept.set(layer, found);
    return found;
  }

  /** Ask for a layer; a large one is not remembered by the connection, but here, with few others. */
  async read(layer) {
    if (this.asked.has(layer)) return;
    this.asked.add(layer);
    say(this.status, `Reading layer ${layer} …`);
    try {
      const { arrays } = await this.connection.ask("layer", { layer });
      const numbers = Int32Array.from({ length: this.header.n_neurons }, (_, neuron) => neuron);
      this.keep(layer, new LayerOfNeurons(numbers, arrays));
      say(this.alert, "");
    } catch (error) {
      this.complain(error);
    } finally {
      this.asked.delete(layer);
      if (!this.asked.size) say(this.status, "");
    }
    if (this.kept.has(layer)) this.draw();
  }

  /** The column of the neuron in view: the one that is picked, else the strongest one. */
  columnInView(layer) {
    return layer.column.get(this.state.neuron) ?? layer.ordered("product", "mean", 0)[0];
  }

  /** Columns in view of the map, in their order. */
  columnsInView(layer) {
    const { quantity, order, rows, first, position } = this.state;
    const ordered = layer.ordered(quantity, order, position);
    if (rows === "all") return ordered;
    const start = clamp(first, 0, Math.max(ordered.length - rows, 0));
    return ordered.slice(start, start + rows);
  }

  token(position) {
    return tokenText(this.header.tokens[position]);
  }

  // ---------------------------------------------------------------- picking

  pickNumber(neuron) {
    const isThere = Number.isInteger(neuron) && neuron >= 0 && neuron < this.header.n_neurons;
    if (!isThere) {
      this.complain(new Error(`Neurons have numbers from 0 to ${this.header.n_neurons - 1}.`));
      return;
    }
    say(this.alert, "");
    this.pick({ neuron });
  }

  /** Position and neuron under the pointer, null outside of the cells. */
  placeOf(event) {
    const { cells } = this;
    if (!cells) return null;
    const [x, y] = this.surface.place(event);
    const [right, down] = [(x - cells.x) / cells.width, (y - cells.y) / cells.height];
    if (right < 0 || right >= 1 || down < 0 || down >= 1) return null;
    return {
      position: Math.floor(right * this.nPositions),
      neuron: cells.layer.neurons[cells.columns[Math.floor(down * cells.columns.length)]],
    };
  }

  pickPlace(place) {
    if (place) this.pick(place);
  }

  moveOnMap(event) {
    const step = arrow(event);
    if (!step || !this.cells) return;
    event.preventDefault();
    const { layer, columns } = this.cells;
    const [down, right] = step;
    const row = columns.indexOf(this.columnInView(layer));
    const next = columns[clamp(row + down, 0, columns.length - 1)];
    this.pick({
      position: clamp(this.state.position + right, 0, this.nPositions - 1),
      neuron: layer.neurons[next],
    });
  }

  pickDot(event) {
    const position = event.target.closest("[data-position]")?.dataset.position;
    if (position !== undefined) this.pick({ position: Number(position) });
  }

  /** The position under a click on a chart whose positions stand side by side in a frame. */
  pickAlong(event, frame) {
    const position = placeAlong(event, frame, this.nPositions);
    if (position !== null) this.pick({ position });
  }

  escape() {
    if (this.state.neuron === null) return false;
    this.pick({ neuron: null });
    return true;
  }

  // ---------------------------------------------------------------- drawing

  show() {
    const { state, header, layer } = this;
    this.layerMenu.set(state.layer);
    this.quantity.set(state.quantity);
    this.order.set(state.order);
    this.rows.set(state.rows);
    this.threshold.set(header.thresholds.indexOf(state.threshold));
    this.showNearZero();
    if (!layer) return;
    const columns = this.columnsInView(layer);
    const most = state.rows === "all" ? 0 : Math.max(layer.width - state.rows, 0);
    this.first.input.max = most;
    this.first.input.disabled = most === 0;
    this.first.set(Math.min(state.first, most));
    const column = this.columnInView(layer);
    const neuron = layer.neurons[column];
    if (this.number !== document.activeElement) this.number.value = neuron;
    this.view = { layer, column, neuron };
    this.showText(layer, column, neuron);
    this.showMap(layer, columns, column);
    this.showCurve(layer, column, neuron);
    this.showAlong(layer, column, neuron);
    this.showFavourites(layer, column, neuron);
    this.showStrongest(layer);
    this.announce(
      `layer ${state.layer}, neuron ${neuron}, position ${state.position} ${this.token(state.position)}: ` +
        `${NAMES[state.quantity]} ${threeDigits(layer.at(state.quantity, state.position, column))}`,
    );
  }

  showText(layer, column, neuron) {
    const { quantity, position } = this.state;
    const values = layer.along(quantity, column);
    const largest = values.reduce((most, value) => Math.max(most, Math.abs(value) || 0), 0) || 1;
    this.text.shade(values.map((value) => (Math.abs(value) || 0) / largest));
    this.text.mark("lv-negative", indices(values, (value) => value < 0));
    this.text.mark("lv-looked-at", [position]);
    this.text.choose(position);
    this.text.reveal(position);
    say(
      this.textLegend,
      `The text shaded by neuron ${neuron} of layer ${this.state.layer}: ${NAMES[quantity]}, ` +
        `blue above zero, orange below, the darkest ${threeDigits(largest)} in size.`,
    );
  }

  showMap(layer, columns, column) {
    const { quantity, position } = this.state;
    const { surface, nPositions, colours } = this;
    const { width } = this.map;
    const isSparse = columns.length * ROW_HEIGHT <= MAP_HEIGHT + ROW_HEIGHT;
    const height = isSparse ? columns.length * ROW_HEIGHT : MAP_HEIGHT;
    surface.resize(width, height + TICK_HEIGHT);
    const context = surface.clear();
    const box = { x: LABEL_WIDTH, y: 0, width: width - LABEL_WIDTH, height };
    this.cells = { ...box, layer, columns };
    const limit = layer.limit(quantity, columns);
    const nRows = Math.min(columns.length, Math.floor(height));
    const nColumns = Math.min(nPositions, Math.floor(box.width));
    surface.cells(this.pixelsOf(layer, columns, nRows, nColumns, limit), nRows, nColumns, box.x, box.y, box.width, box.height);
    const rowHeight = height / columns.length;
    const positionWidth = box.width / nPositions;
    context.font = "10.5px system-ui, sans-serif";
    context.fillStyle = colours.quiet;
    context.textAlign = "right";
    const every = Math.ceil(11 / rowHeight);
    columns.forEach((own, row) => {
      if (row % every) return;
      context.fillText(String(layer.neurons[own]), LABEL_WIDTH - 5, Math.max((row + 0.5) * rowHeight + 3.5, 9));
    });
    context.textAlign = "center";
    const everyPosition = Math.max(1, niceStep(34 / positionWidth));
    for (let at = 0; at < nPositions; at += everyPosition) {
      context.fillText(String(at), box.x + (at + 0.5) * positionWidth, height + 13);
    }
    const outline = (colour, row, at) => {
      context.strokeStyle = colour;
      context.lineWidth = 1.5;
      if (row >= 0) context.strokeRect(box.x, row * rowHeight, box.width, rowHeight);
      context.strokeRect(box.x + at * positionWidth, 0, positionWidth, height);
    };
    outline(colours.green, columns.indexOf(column), position);
    const pointed = this.picking.current;
    if (pointed?.neuron !== undefined) {
      outline(colours.vermilion, columns.indexOf(layer.column.get(pointed.neuron)), pointed.position);
    }
    surface.canvas.setAttribute(
      "aria-label",
      `${NAMES[quantity]}: ${columns.length} neurons by ${nPositions} positions; arrow keys pick`,
    );
    this.bar.show({
      kind: "diverging",
      low: threeDigits(-limit),
      high: threeDigits(limit),
      meaning: NAMES[quantity],
    });
    say(this.readout, this.readingOf(layer, column));
    const left = this.header.n_neurons - layer.width;
    this.map.say(
      `${grouped(columns.length)} of ${grouped(this.header.n_neurons)} neurons of layer ` +
        `${this.state.layer}, ${this.orderWords}. The colours reach 99% of the numbers in view.` +
        (left ? ` This file holds the ${grouped(layer.width)} largest; ${grouped(left)} were left out.` : ""),
    );
  }

  /** The cells of the map; made anew only where another map, size or theme is in view. */
  pixelsOf(layer, columns, nRows, nColumns, limit) {
    const { quantity } = this.state;
    const wanted = [layer, columns.join(), quantity, nRows, nColumns, this.colours];
    if (!this.drawnMap || wanted.some((one, index) => one !== this.drawnMap.wanted[index])) {
      const strongest = pooled(layer, quantity, columns, this.nPositions, nRows, nColumns);
      const { diverging, masked } = this.colours;
      const pixels = new Uint32Array(strongest.length);
      for (let cell = 0; cell < pixels.length; cell++) {
        const value = strongest[cell];
        const place = Math.round(clamp(value / limit, -1, 1) * 127.5 + 127.5);
        pixels[cell] = value === value ? diverging[place] : masked;
      }
      this.drawnMap = { wanted, pixels };
    }
    return this.drawnMap.pixels;
  }

  get orderWords() {
    return {
      size: "the largest anywhere on top",
      mean: "the largest on average on top",
      position: `the largest at position ${this.state.position} on top`,
      number: "by number",
    }[this.state.order];
  }

  /** All quantities of what is pointed at, else of what is picked. */
  readingOf(layer, column) {
    const pointed = this.picking.current;
    const position = pointed?.position ?? this.state.position;
    const at = layer.column.get(pointed?.neuron) ?? column;
    const numbers = this.header.quantities.map(
      (name) => `${NAMES[name]} ${threeDigits(layer.at(name, position, at))}`,
    );
    return `neuron ${layer.neurons[at]} at position ${position} ${this.token(position)}: ${numbers.join(", ")}`;
  }

  showCurve(layer, column, neuron) {
    const { curveChart: chart } = this;
    const hasGate = this.header.quantities.includes("gate");
    chart.svg.style.display = hasGate ? "" : "none";
    if (!hasGate) {
      this.curve.say("The gate was not recorded, so nothing can stand on its curve.");
      return;
    }
    chart.resize(this.curve.width, CURVE_HEIGHT);
    const gates = layer.along("gate", column);
    const ups = this.header.quantities.includes("up") ? layer.along("up", column) : null;
    const [least, most] = extremes(gates);
    const [low, high] = [Math.min(least, -4) - 0.3, Math.max(most, 2) + 0.3];
    const frame = { left: 34, right: chart.width - 8, top: 8, bottom: CURVE_HEIGHT - 28 };
    const x = (value) => frame.left + ((value - low) / (high - low)) * (frame.right - frame.left);
    const [bottom, top] = [-0.45, Math.max(siluOf(high), 1)];
    const y = (value) => frame.bottom - ((value - bottom) / (top - bottom)) * (frame.bottom - frame.top);
    axis(chart, frame, low, high, x, "gate");
    upright(chart, frame, bottom, top, y);
    const curve = Array.from({ length: 121 }, (_, index) => low + ((high - low) * index) / 120);
    chart.path(curve.map((value) => [x(value), y(siluOf(value))]), "lv-silu");
    const largest = ups ? ups.reduce((size, up) => Math.max(size, Math.abs(up) || 0), 0) || 1 : 1;
    const { position } = this.state;
    const order = Array.from(gates.keys()).sort((a, b) => (a === position) - (b === position));
    for (const at of order) {
      if (!Number.isFinite(gates[at])) continue;
      const up = ups ? ups[at] : 1;
      const names = ["lv-dot", up < 0 ? "lv-below" : "lv-above", at === position ? "lv-chosen" : ""];
      chart.add("circle", {
        cx: fixed(x(gates[at]), 1),
        cy: fixed(y(siluOf(gates[at])), 1),
        r: fixed(2 + 5 * Math.sqrt(Math.abs(up) / largest), 1),
        class: names.join(" ").trim(),
        "data-position": at,
      });
    }
    const nOpen = gates.filter((gate) => gate > 0).length;
    this.curve.say(
      `Neuron ${neuron}: its gate is above zero at ${nOpen} of ${plural(gates.length, "position")}.` +
        (ups ? " Blue: up above zero, orange: below; the size of a dot is |up|." : ""),
    );
    chart.show(`Gate of neuron ${neuron} at each position on the SiLU curve`);
  }

  showAlong(layer, column, neuron) {
    const { alongChart: chart, nPositions } = this;
    chart.resize(this.along.width, LINE_CHART_HEIGHT);
    const product = layer.along("product", column);
    const hasGate = this.header.quantities.includes("gate");
    const silu = hasGate ? layer.along("silu", column) : null;
    const frame = { left: 40, right: chart.width - 8, top: 8, bottom: LINE_CHART_HEIGHT - 22 };
    const [a, b] = extremes(product);
    const [c, d] = silu ? extremes(silu) : [0, 0];
    const [low, high] = padded(Math.min(a, c, 0), Math.max(b, d, 0));
    const y = (value) => frame.bottom - ((value - low) / (high - low)) * (frame.bottom - frame.top);
    const wide = (frame.right - frame.left) / nPositions;
    const x = (position) => frame.left + (position + 0.5) * wide;
    upright(chart, frame, low, high, y);
    for (let position = 0; position < nPositions; position += Math.max(1, niceStep(34 / wide))) {
      chart.text(x(position), frame.bottom + 15, String(position), "lv-tick", "middle");
    }
    chart.box(x(this.state.position) - wide / 2, frame.top, wide, frame.bottom - frame.top, "lv-cursor");
    const points = (values) => {
      const found = [];
      values.forEach((value, position) => {
        if (Number.isFinite(value)) found.push([x(position), y(value)]);
      });
      return found;
    };
    if (silu) chart.path(points(silu), "lv-open-gate");
    chart.path(points(product), "lv-now");
    this.alongFrame = frame;
    this.along.say(
      `${silu ? "Green, dashed: how far the gate is open, SiLU(gate). " : ""}Blue: ${NAMES.product} of neuron ` +
        `${neuron}, what it gives to down.`,
    );
    chart.show(`${NAMES.product} of neuron ${neuron} along ${plural(nPositions, "position")}`);
  }

  /** The positions where the neuron is largest: of this text, or of all texts, which takes a kernel. */
  showFavourites(layer, column, neuron) {
    const { n_others: nOthers } = this.header;
    const wide = nOthers > 0 && this.isLive;
    const found = wide ? this.favouritesOfAll(neuron) : this.favouritesHere(layer, column);
    renew(this.favouriteList, JSON.stringify(found), () =>
      (found ?? []).map((one) => this.favourite(one)),
    );
    const here = `Where |${NAMES.product}| of neuron ${neuron} is largest`;
    if (wide) {
      this.favouritePanel.say(
        found ? `${here} in this text and ${plural(nOthers, "other")}.` : "Looking through all texts …",
      );
    } else {
      this.favouritePanel.say(
        `${here} in this text.` +
          (nOthers ? ` Looking through the ${plural(nOthers, "other text")} needs a kernel.` : ""),
      );
    }
  }

  favouritesHere(layer, column) {
    const values = layer.along("product", column);
    return Array.from(values.keys())
      .filter((position) => Number.isFinite(values[position]))
      .sort((a, b) => Math.abs(values[b]) - Math.abs(values[a]) || a - b)
      .slice(0, COUNT)
      .map((position) => {
        const start = Math.max(position - CONTEXT, 0);
        const tokens = this.header.tokens.slice(start, position + CONTEXT + 1);
        return { trace: 0, position, value: values[position], tokens, at: position - start };
      });
  }

  favouritesOfAll(neuron) {
    const { layer } = this.state;
    const key = `${layer} ${neuron}`;
    if (!this.favourites.has(key)) {
      this.favourites.set(key, null);
      this.more("favourites", { layer, neuron }).then((answer) => {
        if (!answer) return;
        this.favourites.set(key, answer.header.favourites);
        this.draw();
      });
    }
    return this.favourites.get(key);
  }

  favourite({ trace, position, value, tokens, at }) {
    const text = tokens.map((token, index) =>
      element("span", { class: index === at ? "lv-this" : "" }, ...tokenParts(token)),
    );
    const number = element("span", { class: "lv-value" }, threeDigits(value));
    if (trace > 0) {
      return element(
        "li",
        { class: "lv-elsewhere" },
        number,
        element("span", { class: "lv-context" }, ...text),
        element("small", {}, `text ${trace}, position ${position}`),
      );
    }
    const here = button("", () => this.pick({ position }), {
      class: "lv-button lv-place",
      "aria-label": `position ${position}, ${tokenText(tokens[at])}, ${threeDigits(value)}`,
    });
    here.append(
      number,
      element("span", { class: "lv-context" }, ...text),
      element("small", {}, `position ${position}`),
    );
    return element("li", {}, here);
  }

  showStrongest(layer) {
    const { position } = this.state;
    const found = layer.ordered("product", "position", position).slice(0, COUNT);
    const largest = Math.abs(layer.at("product", position, found[0])) || 1;
    renew(this.strongestList, `${this.state.layer} ${position}`, () =>
      found.map((column) => {
        const neuron = layer.neurons[column];
        const value = layer.at("product", position, column);
        const parts = ["silu", "up"]
          .filter((name) => this.header.quantities.includes(name))
          .map((name) => threeDigits(layer.at(name, position, column)));
        const bar = element("span", { class: `lv-size${value < 0 ? " lv-below" : ""}` });
        bar.style.setProperty("--share", String(Math.abs(value) / largest || 0));
        const one = button("", () => this.pick({ neuron }), {
          class: "lv-button lv-place",
          "aria-label": `neuron ${neuron}, ${threeDigits(value)}`,
        });
        one.append(
          element("span", { class: "lv-value" }, threeDigits(value)),
          element("span", { class: "lv-context" }, `neuron ${neuron}`, bar),
          element("small", {}, parts.length === 2 ? parts.join(" × ") : ""),
        );
        return element("li", {}, one);
      }),
    );
    const { written } = this.arrays;
    const row = this.header.layers.indexOf(this.state.layer);
    const size = written ? threeDigits(written.values[row * this.nPositions + position]) : null;
    this.strongest.say(
      `Position ${position} ${this.token(position)}: the neurons with the largest |${NAMES.product}|.` +
        (size === null
          ? ""
          : ` All of them together write a vector of root mean square ${size} (feed_forward_output).`),
    );
  }

  /** Counts were made in the kernel, of all neurons; here they become shares. */
  showNearZero() {
    const { header, state, nPositions } = this;
    const counts = this.arrays.near_zero.values;
    const nThresholds = header.thresholds.length;
    const place = header.thresholds.indexOf(state.threshold);
    const share = (row, position) =>
      counts[(row * nPositions + position) * nThresholds + place] / header.n_neurons;
    const mean = (row) => {
      let sum = 0;
      for (let position = 0; position < nPositions; position++) sum += share(row, position);
      return sum / nPositions;
    };
    const rows = header.layers.map((_, row) => row);
    const row = header.layers.indexOf(state.layer);
    const half = this.nearZero.width > 640 ? (this.nearZero.width - 20) / 2 : this.nearZero.width;
    this.shares = { byLayer: rows.map(mean), here: rows.map((one) => share(one, state.position)) };
    const ofAll = "by layer: mean of all positions";
    this.drawShares(this.byLayer, half, ofAll, this.shares.byLayer, row, header.layers);
    const along = Array.from({ length: nPositions }, (_, position) => share(row, position));
    const inLayer = `by position, in layer ${state.layer}`;
    this.drawShares(this.byPosition, half, inLayer, along, state.position, [...along.keys()]);
    say(
      this.nearZero.caption,
      `Below ${state.threshold} in size: ${percent(this.shares.byLayer[row])} of the ${grouped(header.n_neurons)} ` +
        `neurons of layer ${state.layer} over all positions, ${percent(this.shares.here[row])} at position ` +
        `${state.position} ${this.token(state.position)}. SiLU turns none off altogether, as ReLU would: how near is near is a choice.`,
    );
  }

  /** Shares as steps side by side, one of them picked; names are written below. */
  drawShares(chart, width, title, shares, chosen, names) {
    chart.resize(width, SHARE_HEIGHT);
    const frame = { left: 38, right: width - 4, top: 20, bottom: SHARE_HEIGHT - 20 };
    this.shareFrame = frame;
    const y = (value) => frame.bottom - value * (frame.bottom - frame.top);
    for (const mark of [0, 0.5, 1]) {
      chart.line(frame.left, y(mark), frame.right, y(mark), mark ? "lv-grid" : "lv-axis");
      chart.text(frame.left - 5, y(mark) + 3.5, percent(mark), "lv-tick", "end");
    }
    chart.text(frame.left, 11, title, "lv-tick");
    const wide = (frame.right - frame.left) / shares.length;
    const x = (index) => frame.left + index * wide;
    const gap = wide > 4 ? 1 : 0;
    const steps = shares.flatMap((value, index) => [
      [x(index), frame.bottom],
      [x(index), y(value)],
      [x(index + 1) - gap, y(value)],
      [x(index + 1) - gap, frame.bottom],
    ]);
    chart.path(steps, "lv-share");
    const high = frame.bottom - y(shares[chosen]);
    chart.box(x(chosen), y(shares[chosen]), Math.max(wide - gap, 2), high, "lv-share-chosen");
    const every = Math.max(1, niceStep(30 / wide));
    for (let index = 0; index < shares.length; index += every) {
      chart.text(x(index + 0.5), frame.bottom + 14, String(names[index]), "lv-tick", "middle");
    }
    chart.show(`Share of neurons near zero, ${title}`);
  }

  numbers() {
    const { view, state } = this;
    if (!view) return { caption: "Nothing is in view yet.", header: [], rows: [] };
    const { layer, column, neuron } = view;
    const quantities = this.header.quantities;
    const rows = this.header.tokens.map((token, position) => [
      position,
      tokenText(token),
      ...quantities.map((name) => threeDigits(layer.at(name, position, column))),
    ]);
    const row = this.header.layers.indexOf(state.layer);
    return {
      caption:
        `Neuron ${neuron} of layer ${state.layer} at each position. Near zero (below ${state.threshold}): ` +
        `${percent(this.shares.byLayer[row])} of the neurons of this layer.`,
      header: ["position", "token", ...quantities.map((name) => NAMES[name])],
      rows,
    };
  }
}

/** A number a cell; where cells are smaller than pixels, the one of the largest size. */
function pooled(layer, quantity, columns, nPositions, nRows, nColumns) {
  const values = layer.of(quantity);
  const { width } = layer;
  const strongest = new Float32Array(nRows * nColumns).fill(NaN);
  const startOfRow = Int32Array.from(
    columns,
    (_, row) => Math.floor((row * nRows) / columns.length) * nColumns,
  );
  for (let position = 0; position < nPositions; position++) {
    const x = Math.floor((position * nColumns) / nPositions);
    const from = position * width;
    for (let row = 0; row < columns.length; row++) {
      const value = values[from + columns[row]];
      const cell = startOfRow[row] + x;
      // Written so that the first number takes the place of NaN, and a missing one takes none.
      if (value === value && !(Math.abs(value) <= Math.abs(strongest[cell]))) strongest[cell] = value;
    }
  }
  return strongest;
}

/** Which of `count` places that stand side by side in a frame is under a click; null outside. */
function placeAlong(event, frame, count) {
  const bounds = event.currentTarget.getBoundingClientRect();
  const share = (event.clientX - bounds.left - frame.left) / (frame.right - frame.left);
  return share >= 0 && share < 1 ? Math.floor(share * count) : null;
}

/** Lines and numbers of a vertical axis that passes through zero. */
function upright(chart, frame, low, high, y) {
  const step = niceStep((high - low) / 4);
  for (let index = Math.ceil(low / step); index * step <= high; index++) {
    const value = index * step;
    chart.line(frame.left, y(value), frame.right, y(value), index ? "lv-grid" : "lv-axis");
    chart.text(frame.left - 5, y(value) + 3.5, threeDigits(value).replace(/\.0+$/, ""), "lv-tick", "end");
  }
}

/** Numbers of a level axis, and what it is. */
function axis(chart, frame, low, high, x, words) {
  const step = niceStep((high - low) / 6);
  for (let index = Math.ceil(low / step); index * step <= high; index++) {
    const value = index * step;
    chart.line(x(value), frame.top, x(value), frame.bottom, index ? "lv-grid" : "lv-axis");
    chart.text(x(value), frame.bottom + 13, threeDigits(value).replace(/\.0+$/, ""), "lv-tick", "middle");
  }
  chart.text(frame.right, frame.bottom + 25, words, "lv-tick", "end");
}

/** 1, 2 or 5 times a power of ten, at least as large. */
function niceStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough || 1));
  return [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough - 1e-12);
}

function extremes(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (!Number.isFinite(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low <= high ? [low, high] : [0, 0];
}

function padded(low, high) {
  const room = (high - low || 1) * 0.06;
  return [low - room, high + room];
}

function indices(values, holds) {
  const found = [];
  values.forEach((value, index) => holds(value) && found.push(index));
  return found;
}

const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)}%`;

export default explorer(FeedForwardView);
