// The page of the cache explorer: one recorded step without a KV cache and with one, side by side;
// the work and the bytes of all steps; and surgery, which runs the model.

import { Surface } from "./page/canvas.js";
import { CHART_HEIGHT, Chart, Panel } from "./page/chart.js";
import { ColourBar } from "./page/colours.js";
import { button, field, menu, numberInput, numberOf, tickBox } from "./page/controls.js";
import { element, say } from "./page/elements.js";
import { Explorer, explorer } from "./page/explorer.js";
import { brief, bytes, chance, clamp, fixed, grouped, plural, total } from "./page/numbers.js";
import { Picking } from "./page/picking.js";
import { Player } from "./page/player.js";
import { TokenText, shorten, tokenParts, tokenText, withBreaks } from "./page/tokens.js";

const MATRICES = ["query", "key", "value", "weights", "output"];
const TITLES = {
  query: "queries",
  key: "keys",
  value: "values",
  weights: "weights",
  output: "output",
};
const GAP = 12;
const TITLE = 16; // room above the matrices
const VEIL = 0.6; // of grey over what was known already

const OPERATIONS = [
  ["drop", "drop rows: attention no longer sees them"],
  ["blank", "blank rows: keys and values become 0"],
  ["rounded", "round rows to few bits"],
  ["window", "keep a window: the last positions"],
  ["first_and_window", "keep the first positions and a window"],
];
const USES = { rounded: ["bits"], window: ["size"], first_and_window: ["first", "size"] };

/** "12.3 M": how many multiply-adds. */
function operations(count) {
  const units = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
  const found = units.find(([size]) => count >= size);
  return found ? `${Number((count / found[0]).toPrecision(3))} ${found[1]}` : String(count);
}

/** Rows of numbers reduced to so many rows and columns: of each block the largest in size. */
function reduced(values, nRows, nColumns, rows, columns) {
  if (rows >= nRows && columns >= nColumns) return { values, rows: nRows, columns: nColumns };
  const [r, c] = [Math.min(rows, nRows), Math.min(columns, nColumns)];
  const small = new Float32Array(r * c);
  for (let row = 0; row < nRows; row++) {
    const to = Math.floor((row * r) / nRows) * c;
    for (let column = 0; column < nColumns; column++) {
      const at = to + Math.floor((column * c) / nColumns);
      const value = values[row * nColumns + column];
      if (Math.abs(value) > Math.abs(small[at])) small[at] = value;
    }
  }
  return { values: small, rows: r, columns: c };
}

/** Queries, keys, values, weights and output of one head at one step, one way. */
class Way extends Panel {
  constructor(view, name, title, unit) {
    super(`cache-${name}`, title, unit);
    this.view = view;
    this.isCached = name === "with";
    this.surface = new Surface({
      tabindex: "0",
      role: "application",
      onmousemove: (event) => view.picking.point(this.positionAt(event)),
      onmouseleave: () => view.picking.point(null),
      onclick: (event) => view.picking.lock(this.positionAt(event)),
      onkeydown: (event) => this.move(event),
    });
    this.chart = new Chart({ class: "lv-chart lv-over", "aria-hidden": "true" });
    this.body.append(this.surface.canvas, this.chart.svg);
  }

  /** Where each matrix lies; all have one row for each position of the whole run. */
  arrange() {
    const width = this.width;
    const output = clamp(Math.round(width * 0.06), 16, 34);
    const room = width - output - 4 * GAP - 4;
    const side = Math.min(Math.round(room * 0.42), 230);
    const each = Math.floor((room - side) / 3);
    this.side = side;
    const widths = { query: each, key: each, value: each, weights: side, output };
    this.left = {};
    this.across = widths;
    let x = 2;
    for (const name of MATRICES) {
      this.left[name] = x;
      x += widths[name] + GAP;
    }
    this.surface.resize(width, TITLE + side + 4);
    this.chart.resize(width, TITLE + side + 4);
  }

  y(position) {
    return TITLE + (position / this.view.nPositions) * this.side;
  }

  draw(moment) {
    this.arrange();
    const context = this.surface.clear();
    const { tensors, start, end } = moment;
    for (const name of MATRICES) this.drawMatrix(context, name, tensors?.[name], moment);
    const words = this.isCached
      ? `${plural(end - start, "query row")}, ${plural(end - start, "key")} and ` +
        `${end - start === 1 ? "value" : "values"} computed and appended; ` +
        `${plural(start, "key")} and ${start === 1 ? "value" : "values"} read from the cache. ` +
        `The scores are ${end - start} × ${end}.`
      : `${plural(end, "query row")}, ${plural(end, "key")} and ` +
        `${end === 1 ? "value" : "values"} computed, ${start} of them again. ` +
        `The scores are ${end} × ${end}. ${moment.lastRow}`;
    this.say(words);
    this.surface.canvas.setAttribute(
      "aria-label",
      `${this.isCached ? "With" : "Without"} cache. ${words} Up and down point at a position, ` +
        "Enter locks it, Escape unlocks.",
    );
  }

  drawMatrix(context, name, matrix, moment) {
    const { start, end, colours } = moment;
    const [x, width, { chart }] = [this.left[name], this.across[name], this];
    const isMap = name === "weights";
    const reads = this.isCached && (name === "key" || name === "value");
    const first = this.isCached && !reads ? start : 0;
    const [top, bottom] = [this.y(first), this.y(end)];
    context.fillStyle = colours.unseen;
    if (isMap) context.fillRect(x, TITLE, this.side, this.side);
    const reach = isMap ? (end / this.view.nPositions) * this.side : width;
    if (matrix) {
      this.cells(context, matrix, first, end, x, top, reach, bottom - top, isMap, colours);
    } else {
      context.fillRect(x, top, reach, bottom - top);
    }
    if (!this.isCached && start) {
      context.globalAlpha = VEIL;
      context.fillStyle = colours.line;
      context.fillRect(x, TITLE, reach, this.y(start) - TITLE);
      context.globalAlpha = 1;
    }
    chart.text(x, TITLE - 5, this.title(name, width), "lv-tick");
    chart.box(x - 0.5, TITLE - 0.5, (isMap ? this.side : width) + 1, this.side + 1, "lv-cache-room");
    if (reads && start) {
      chart.box(x - 1, TITLE - 1, reach + 2, this.y(start) - TITLE + 1, "lv-cache-read");
    }
    const newTop = Math.min(this.y(start), bottom - 3);
    chart.box(x - 1, newTop - 1, reach + 2, bottom - newTop + 2, "lv-cache-new");
    if (name === "output" && moment.isLastLayer) {
      const used = Math.min(this.y(end - 1), bottom - 3);
      chart.box(x - 3, used - 3, reach + 6, bottom - used + 6, "lv-cache-used");
    }
    const looked = this.view.picking.current;
    if (looked !== null && looked < end) {
      const [y, height] = [this.y(looked), Math.max(this.y(looked + 1) - this.y(looked), 3)];
      if (looked >= first) chart.box(x - 1, y - 1, reach + 2, height + 2, "lv-cursor");
      if (isMap) {
        const column = x + (looked / this.view.nPositions) * this.side;
        chart.box(column - 1, top - 1, height + 2, bottom - top + 2, "lv-cursor");
      }
    }
  }

  title(name, width) {
    return width < 40 ? TITLES[name].slice(0, 3) : TITLES[name];
  }

  /** Rows of the page (each a position, or a block of them) from first to end, as colours. */
  cells(context, matrix, first, end, x, y, width, height, isMap, colours) {
    const { block } = this.view;
    const [from, to] = [Math.floor(first / block), Math.ceil(end / block)];
    const nColumns = isMap ? to : matrix.nColumns;
    const part = new Float32Array((to - from) * nColumns);
    for (let row = from; row < to; row++) {
      const at = row * matrix.nColumns;
      part.set(matrix.values.subarray(at, at + nColumns), (row - from) * nColumns);
    }
    const { ratio } = this.surface;
    const pixels = (length) => Math.max(1, Math.floor(length * ratio));
    const small = reduced(part, to - from, nColumns, pixels(height), pixels(width));
    const { sequential, diverging, masked } = colours;
    const drawn = new Uint32Array(small.values.length);
    for (let index = 0; index < drawn.length; index++) {
      const value = small.values[index];
      drawn[index] = isMap
        ? sequential[Math.round(clamp(value, 0, 1) * 255)]
        : diverging[Math.round(clamp(value / matrix.most, -1, 1) * 127.5 + 127.5)];
    }
    if (isMap) hideAhead(drawn, small, (from / to) * small.columns, masked);
    this.surface.cells(drawn, small.rows, small.columns, x, y, width, height);
  }

  positionAt(event) {
    const [, y] = this.surface.place(event);
    const position = Math.floor(((y - TITLE) / this.side) * this.view.nPositions);
    return position >= 0 && position < this.view.moment.end ? position : null;
  }

  move(event) {
    const { picking, moment } = this.view;
    const step = { ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1 }[event.key];
    const at = picking.current;
    if (event.key === "Enter" || event.key === " ") picking.lock(at ?? moment.end - 1);
    else if (step) picking.move(clamp((at ?? moment.end) + step, 0, moment.end - 1));
    else return;
    event.preventDefault();
  }
}

/** What lies above the diagonal was never seen. */
function hideAhead(pixels, { rows, columns }, firstColumn, masked) {
  for (let row = 0; row < rows; row++) {
    const last = firstColumn + ((row + 1) * (columns - firstColumn)) / rows;
    for (let column = Math.ceil(last); column < columns; column++) {
      pixels[row * columns + column] = masked;
    }
  }
}

/** Multiply-adds so far, both ways. */
class WorkPanel extends Panel {
  constructor() {
    super("cache-work", "Multiply-adds so far", "all layers, by formula");
    this.chart = new Chart();
    this.body.append(this.chart.svg);
  }

  draw({ without, cached, workWithout, workWith, step }) {
    const { chart } = this;
    chart.resize(this.width, CHART_HEIGHT);
    const frame = { left: 52, right: chart.width - 14, top: 12, bottom: CHART_HEIGHT - 20 };
    const last = without.length - 1;
    const y = chart.scale(frame, without[last], operations);
    const x = (index) => frame.left + (last ? index / last : 0.5) * (frame.right - frame.left);
    for (const [values, name] of [[without, "lv-cache-without"], [cached, "lv-now"]]) {
      chart.path(values.map((value, index) => [x(index), y(value)]), name);
      const mark = { cx: x(step), cy: y(values[step]), r: 3.6 };
      chart.add("circle", { ...mark, class: name === "lv-now" ? "lv-point" : "lv-cache-point" });
    }
    chart.line(x(step), frame.top, x(step), frame.bottom, "lv-grid");
    chart.text(frame.left + 6, frame.top + 10, "without cache", "lv-cache-without-text");
    chart.text(frame.left + 6, frame.top + 24, "with cache", "lv-cache-with-text");
    chart.text(frame.left, CHART_HEIGHT - 5, "step 0", "lv-tick");
    if (last) chart.text(frame.right, CHART_HEIGHT - 5, String(last), "lv-tick", "end");
    chart.show(`Multiply-adds up to step ${step}`);
    this.say(
      `Step ${step}: ${operations(workWithout[step])} without, ${operations(workWith[step])} ` +
        `with. So far ${operations(without[step])} against ${operations(cached[step])}: ` +
        `${brief(without[step] / cached[step])} times the work.`,
    );
  }
}

/** Bytes of the cache: each layer now, and all layers over the steps beside the formula. */
class BytesPanel extends Panel {
  constructor() {
    super("cache-bytes", "Bytes of the cache", "used and reserved");
    this.chart = new Chart();
    this.body.append(this.chart.svg);
  }

  draw({ header, step, end, layerIndex }) {
    const { used, reserved, formula, layers } = header;
    const { chart } = this;
    chart.resize(this.width, CHART_HEIGHT);
    const split = clamp(chart.width * 0.34, 90, 190);
    if (used) this.drawLayers(used[step], reserved[step], layers, layerIndex, split);
    const frame = { left: split + 58, right: chart.width - 14, top: 22, bottom: CHART_HEIGHT - 20 };
    const last = formula.length - 1;
    const high = Math.max(total(formula[last]), reserved ? total(reserved[last]) : 0);
    const y = chart.scale(frame, high, (value) => (value ? bytes(value) : "0"));
    const x = (index) => frame.left + (last ? index / last : 0.5) * (frame.right - frame.left);
    chart.text(frame.left, 10, "all layers, by step", "lv-tick lv-group");
    if (used) {
      const limit = y(total(reserved[step]));
      chart.line(frame.left, limit, frame.right, limit, "lv-cache-limit");
      chart.path(used.map((row, index) => [x(index), y(total(row))]), "lv-now");
    }
    const every = Math.max(1, Math.ceil((last + 1) / 24));
    formula.forEach((row, index) => {
      if (index % every && index !== last) return;
      const at = { cx: x(index), cy: y(total(row)), r: 3 };
      chart.add("circle", { ...at, class: "lv-cache-formula" });
    });
    chart.line(x(step), frame.top, x(step), frame.bottom, "lv-grid");
    chart.text(frame.left, CHART_HEIGHT - 5, "step 0", "lv-tick");
    if (last) chart.text(frame.right, CHART_HEIGHT - 5, String(last), "lv-tick", "end");
    chart.show(`Bytes of the cache up to step ${step}`);
    this.say(bytesInWords(header, step, end));
  }

  drawLayers(used, reserved, layers, chosen, split) {
    const { chart } = this;
    const left = 46;
    const rowHeight = Math.min((CHART_HEIGHT - 30) / used.length, 24);
    const most = Math.max(...reserved, 1);
    chart.text(0, 10, "each layer now", "lv-tick lv-group");
    used.forEach((value, index) => {
      const y = 18 + index * rowHeight;
      const height = Math.max(rowHeight * 0.62, 1);
      const width = (count) => (count / most) * (split - left);
      chart.box(left, y, width(reserved[index]), height, "lv-reserved");
      chart.box(left, y, width(value), height, "lv-used");
      if (rowHeight < 10 && index % 4) return;
      const name = index === chosen ? "lv-tick lv-strong" : "lv-tick";
      chart.text(left - 5, y + height / 2 + 3.5, `layer ${layers[index]}`, name, "end");
    });
  }
}

function bytesInWords(header, step, end) {
  const { formula, used, reserved } = header;
  const sum =
    `2 × ${plural(header.n_kv_heads, "kv head")} × ${header.head_dim} features × ` +
    `${plural(end, "position")} × ${header.item_bytes} bytes = ${grouped(formula[step][0])} ` +
    "bytes a layer (circles)";
  if (!used) return `${sum}. The bytes of the run were not recorded.`;
  const differing = used.filter((row, index) => row.some((own, at) => own !== formula[index][at]));
  const verdict = differing.length
    ? `the recording differs at ${plural(differing.length, "step")}`
    : "as recorded at every step";
  return `${sum}, ${verdict}; ${bytes(reserved[step][0])} a layer are reserved.`;
}

/** Rows of the cache changed in mid-run, and what the model then says. */
class SurgeryPanel extends Panel {
  constructor(view) {
    super("cache-surgery", "Surgery", "change what is remembered, then write on");
    this.view = view;
    const { header } = view;
    this.operation = menu("Operation", OPERATIONS, (value) => this.choose(value), {
      class: "lv-cache-operation",
    });
    this.layers = menu(
      "Layers",
      [["all", "all"], ["this", "the layer shown"]],
      (value) => (this.values.layers = value),
      { class: "lv-cache-layers" },
    );
    const heads = Array.from({ length: header.n_kv_heads }, (_, head) => [head, `only ${head}`]);
    this.kvHeads = menu(
      "Key/value heads",
      [[null, "all"], ...heads],
      (value) => (this.values.kvHead = value),
      { class: "lv-cache-kv-heads" },
    );
    this.inputs = {
      from: numberInput("lv-cache-from", { min: 0, step: 1 }),
      to: numberInput("lv-cache-to", { min: 0, step: 1 }),
      bits: numberInput("lv-cache-bits", { min: 1, max: 16, step: 1 }),
      first: numberInput("lv-cache-first", { min: 1, step: 1 }),
      size: numberInput("lv-cache-size", { min: 1, step: 1 }),
      more: numberInput("lv-cache-more", { min: 1, max: 64, step: 1 }),
    };
    const words = {
      from: "From position",
      to: "To position",
      bits: "Bits",
      first: "First positions",
      size: "Window",
      more: "Further tokens",
    };
    this.fields = Object.fromEntries(
      Object.entries(this.inputs).map(([name, input]) => [name, field(words[name], input)]),
    );
    this.repeat = tickBox("again at every further step (the window moves along)", (value) => {
      this.values.repeat = value;
    });
    const press = () => (this.stopper ? this.stop() : this.operate());
    this.button = button("Operate", press, { class: "lv-button lv-cache-operate" });
    this.busy = element("p", { class: "lv-cache-busy", role: "status" });
    this.values = { operation: "drop", layers: "all", kvHead: null, repeat: true };
    this.chart = new Chart();
    this.texts = element("div", { class: "lv-cache-texts" });
    this.result = element("div", { class: "lv-cache-result", hidden: true }, this.chart.svg, this.texts);
    const controls = [
      this.operation.element,
      ...["bits", "first", "size"].map((name) => this.fields[name]),
      this.layers.element,
      this.kvHeads.element,
      ...["from", "to", "more"].map((name) => this.fields[name]),
      this.repeat.element,
      this.button,
    ];
    if (view.isLive && header.has_model) {
      this.body.append(element("div", { class: "lv-bar-of-controls" }, ...controls), this.busy);
    }
    this.body.append(this.result);
    const start = { from: 0, bits: 3, first: 1, size: 8, more: 12 };
    for (const [name, value] of Object.entries(start)) this.inputs[name].value = value;
    this.operation.set("drop");
    this.layers.set("all");
    this.kvHeads.set(null);
    this.repeat.set(true);
    this.choose("drop");
  }

  choose(operation) {
    this.values.operation = operation;
    const uses = USES[operation] ?? [];
    for (const name of ["bits", "first", "size"]) this.fields[name].hidden = !uses.includes(name);
    this.repeat.element.hidden = !uses.includes("size");
    // A window is about all positions; from and to are for what is done to chosen ones.
    for (const name of ["from", "to"]) this.fields[name].hidden = uses.includes("size");
  }

  /** Rows that are held at this step; the middle ones are offered first. */
  draw(moment) {
    if (this.offered !== moment.step) {
      this.offered = moment.step;
      this.inputs.from.max = this.inputs.to.max = moment.end - 1;
      this.inputs.from.value = Math.min(1, moment.end - 1);
      this.inputs.to.value = Math.max(moment.end - 2, 0);
    }
    this.chart.resize(this.width, this.chart.height);
    const { view } = this;
    if (!view.isLive) {
      this.say("Surgery runs the model: open this explorer in a notebook.");
    } else if (!view.header.has_model) {
      this.say("Surgery runs the model: give it as well, CacheExplorer(trace, lm=lm).");
    } else if (!this.found || this.found.step !== moment.step) {
      this.result.hidden = true;
      this.say(
        `After step ${moment.step} the cache holds positions 0 to ${moment.end - 1}. Rows that are ` +
          "dropped keep their places: the other rows' angles stay as they are.",
      );
    } else {
      this.showResult(this.found);
    }
  }

  async operate() {
    const { values, inputs, view } = this;
    const isWindow = (USES[values.operation] ?? []).includes("size");
    const { step, end, layer } = view.moment;
    const parameters = {
      step,
      operation: values.operation,
      layers: values.layers === "all" ? null : [layer],
      kv_heads: values.kvHead === null ? null : [values.kvHead],
      first_position: isWindow ? 0 : numberOf(inputs.from),
      last_position: isWindow ? end - 1 : numberOf(inputs.to),
      bits: numberOf(inputs.bits),
      size: numberOf(inputs.size),
      first: numberOf(inputs.first),
      repeat: isWindow && values.repeat,
      max_new_tokens: numberOf(inputs.more),
    };
    view.complain({ message: "" });
    say(this.busy, "The model reads the text up to here …");
    say(this.button, "Stop");
    this.button.classList.add("lv-stop");
    const { signal } = (this.stopper = new AbortController());
    let words = "";
    try {
      const progress = (text) => signal.aborted || say(this.busy, text);
      const answer = await view.connection.ask("surgery", parameters, { progress, signal });
      this.found = answer.header;
      view.draw();
      view.announce(this.inWords(answer.header));
    } catch (error) {
      if (signal.aborted) words = "Stopped; nothing was compared.";
      else view.complain(error);
    }
    this.stopper = null;
    say(this.busy, words);
    say(this.button, "Operate");
    this.button.classList.remove("lv-stop");
  }

  /** Ask the model to write no further; it does after the token under way. */
  stop() {
    if (!this.stopper) return;
    say(this.busy, "Stopping …");
    this.stopper.abort();
  }

  showResult(found) {
    this.result.hidden = false;
    const { chart } = this;
    const rowHeight = 26;
    const width = this.result.clientWidth || this.width;
    const left = Math.min(110, width * 0.24);
    chart.resize(width, found.candidates.length * rowHeight + 22);
    const full = width - left - 52;
    chart.text(left, 11, "cache as it was", "lv-cache-with-text");
    chart.text(left + 100, 11, "operated on", "lv-cache-without-text");
    found.candidates.forEach((row, index) => {
      const y = 20 + index * rowHeight;
      chart.text(left - 6, y + 14, shorten(row.label, 14), "lv-label", "end");
      for (const [value, name, down] of [
        [row.before, "lv-used", 0],
        [row.after, "lv-cache-after", 10],
      ]) {
        chart.box(left, y + 1 + down, Math.max(value * full, 1), 9, name);
        chart.text(left + Math.max(value * full, 1) + 4, y + 9 + down, chance(value), "lv-tick");
      }
    });
    const pairs = found.candidates.map(
      ({ label, before, after }) => `${label} ${chance(before)}, then ${chance(after)}`,
    );
    chart.show(`Probability of the next token before and after: ${pairs.join("; ")}`);
    this.texts.replaceChildren(
      ...["before", "after"].map((name) => {
        const words = name === "before" ? "cache as it was" : "operated on";
        const tokens = found[name].flatMap((token, index) => {
          const differs = found.first_difference !== null && index >= found.first_difference;
          const mark = name === "after" && differs ? "lv-token lv-cache-differs" : "lv-token";
          return withBreaks(element("span", { class: mark }, ...tokenParts(token)), token);
        });
        return element(
          "p",
          { class: `lv-cache-text lv-cache-text-${name}` },
          element("small", {}, `${words}: `),
          ...tokens,
        );
      }),
    );
    this.say(this.inWords(found));
  }

  inWords(found) {
    const first = found.first_difference;
    const apart = first ? `after ${plural(first, "token")}` : "at once";
    const parts = first === null ? "The text stays the same" : `The texts part ${apart}`;
    return (
      `After ${tokenText(found.fed)} at position ${found.held} the next-token probabilities differ ` +
      `by a KL divergence of ${brief(found.kl_divergence)} nats. ${parts}.`
    );
  }
}

class CacheView extends Explorer {
  constructor(model, connection, root) {
    super(model, connection, root, "Cache explorer");
  }

  build(root, content) {
    this.content = content;
    const { header } = content;
    this.header = header;
    this.block = header.block;
    this.nPositions = header.steps.at(-1)?.end ?? 1;
    this.layers = new Map(); // decoded tensors of the layers that are here
    this.picking = new Picking(() => this.draw());
    const running = (values) => {
      let sum = 0;
      return values.map((value) => (sum += value));
    };
    this.without = running(header.work_without);
    this.cached = running(header.work_with);
    this.player?.pause();
    this.surgery?.stop();
    this.player = new Player({ label: "Step", onstep: (step) => this.pick({ step }) });
    this.text = new TokenText({
      label: "The text; a token shows the step in which it passed",
      onpoint: (position) => this.picking.point(this.known(position)),
      onpick: (position) => this.pick({ step: this.stepOf(position) }),
    });
    this.text.fill(header.tokens);
    this.broughtIntoView = null;
    this.layerMenu = menu(
      "Layer",
      header.layers.map((layer) => [layer, `layer ${layer}`]),
      (layer) => this.pick({ layer }),
      { class: "lv-cache-layer" },
    );
    this.headMenu = menu(
      "Query head",
      header.kv_head_of_head.map((kvHead, head) => [head, `head ${head}, reads kv head ${kvHead}`]),
      (head) => this.pick({ head }),
      { class: "lv-cache-head" },
    );
    this.flow = element("p", { class: "lv-cache-flow" });
    this.ways = [
      new Way(this, "without", "Without cache", "every step computes all positions"),
      new Way(this, "with", "With cache", "every step computes what is new"),
    ];
    this.work = new WorkPanel();
    this.bytes = new BytesPanel();
    this.surgery = new SurgeryPanel(this);
    this.panels = [...this.ways, this.work, this.bytes, this.surgery];
    this.bars = [new ColourBar(), new ColourBar()];
    this.readout = element("p", { class: "lv-readout" });
    this.missing = element("p", { class: "lv-cache-missing" }, header.missing);
    this.missing.hidden = !header.missing;
    root.append(
      this.text.element,
      this.player.element,
      this.flow,
      element(
        "div",
        { class: "lv-bar-of-controls" },
        this.layerMenu.element,
        this.headMenu.element,
        this.table.button,
      ),
      this.missing,
      element("div", { class: "lv-cache-ways" }, ...this.ways.map((way) => way.element)),
      this.readout,
      legend(),
      element("div", { class: "lv-cache-bars" }, ...this.bars.map((bar) => bar.element)),
      element("div", { class: "lv-cache-ways" }, this.work.element, this.bytes.element),
      this.surgery.element,
      this.table.region,
    );
  }

  measure() {
    for (const panel of this.panels) panel.measure();
  }

  remove() {
    this.player?.pause();
    this.surgery?.stop();
    super.remove();
  }

  escape() {
    return this.picking.unlock();
  }

  /** A position that has passed by this step; the token that is only written is none. */
  known(position) {
    return position !== null && position < this.moment.end ? position : null;
  }

  stepOf(position) {
    const { steps } = this.header;
    const found = steps.findIndex((step) => position < step.end);
    return found < 0 ? steps.length - 1 : found;
  }

  /** The tensors of a layer and head; null until they are here. */
  tensorsOf(layer, head) {
    const { header } = this;
    if (!this.layers.has(layer)) {
      const place = header.sent.indexOf(layer);
      if (place >= 0) this.layers.set(layer, { arrays: this.content.arrays, place });
      else {
        this.layers.set(layer, null);
        this.more("layer", { layer }).then((answer) => {
          if (answer) this.layers.set(layer, { arrays: answer.arrays, place: 0 });
          else this.layers.delete(layer);
          if (answer) this.draw();
        });
      }
    }
    const kept = this.layers.get(layer);
    if (!kept) return null;
    kept.heads ??= new Map();
    if (!kept.heads.has(head)) kept.heads.set(head, this.decoded(kept, head));
    return kept.heads.get(head);
  }

  decoded({ arrays, place }, head) {
    const kvHead = this.header.kv_head_of_head[head];
    const own = { query: head, key: kvHead, value: kvHead };
    const tensors = {};
    for (const [name, array] of Object.entries(arrays)) {
      const size = total(array.shape) && array.length / array.shape[0];
      if (name === "weights") {
        const nRows = array.shape[2];
        const from = place * size + head * nRows * nRows;
        tensors[name] = matrixOf(array.numbers(from, from + nRows * nRows), nRows);
        continue;
      }
      const values = array.numbers(place * size, (place + 1) * size);
      tensors[name] =
        name in own
          ? matrixOf(column(values, array.shape, own[name]), array.shape[3])
          : matrixOf(values, array.shape[2]);
    }
    return tensors;
  }

  /** What is drawn: a step, a layer, a head, and what follows from them. */
  get now() {
    const { header, state } = this;
    const { start, end, probability } = header.steps[state.step];
    const isLastLayer = state.layer === header.n_layers - 1;
    const others = "The lower layers need every row's output for the keys and values above.";
    return {
      header,
      step: state.step,
      layer: state.layer,
      layerIndex: header.layers.indexOf(state.layer),
      head: state.head,
      start,
      end,
      probability,
      isLastLayer,
      lastRow: isLastLayer
        ? "Of this last layer's output only the last row goes on to the next token."
        : others,
      tensors: this.tensorsOf(state.layer, state.head),
      colours: this.colours,
      without: this.without,
      cached: this.cached,
      workWithout: header.work_without,
      workWith: header.work_with,
    };
  }

  show() {
    const moment = (this.moment = this.now);
    const { header } = this;
    const { step, layer, head } = moment;
    this.player.show(step, header.steps.length - 1, this.inWords(moment));
    this.layerMenu.set(layer);
    this.headMenu.set(head);
    for (const panel of this.panels) panel.draw(moment);
    for (const way of this.ways) way.chart.show("");
    this.showText(moment);
    this.showFlow(moment);
    this.bars[0].show({
      kind: "diverging",
      low: "−",
      high: "+",
      meaning: "queries, keys, values, output: each by its own largest number",
    });
    this.bars[1].show({
      kind: "sequential",
      low: "0",
      high: "1",
      meaning: "attention weights",
      masked: true,
    });
    say(this.readout, this.readoutOf(moment));
    this.announce(this.inWords(moment));
  }

  showText({ start, end }) {
    const { tokens } = this.header;
    const places = (from, to) => Array.from({ length: Math.max(to - from, 0) }, (_, i) => from + i);
    this.text.mark("lv-cache-fed", places(start, end));
    this.text.mark("lv-cache-written", places(end, Math.min(end + 1, tokens.length)));
    this.text.mark("lv-cache-later", places(end + 1, tokens.length));
    const looked = this.picking.current;
    this.text.mark("lv-looked-at", looked === null ? [] : [looked]);
    if (this.broughtIntoView === end) return;
    this.broughtIntoView = end;
    // The box scrolls, and nothing around it.
    const box = this.text.element;
    box.scrollTop = this.text.spans[end - 1].offsetTop - box.clientHeight / 2;
  }

  /** What goes in, and what comes out: a token, fed back as such. */
  showFlow({ step, start, end, probability }) {
    const { tokens } = this.header;
    const chip = (position, mark) =>
      element("span", { class: `lv-token ${mark}` }, ...tokenParts(tokens[position]));
    const fed =
      end - start > 1
        ? [`the prompt, positions ${start} to ${end - 1}, goes in`]
        : [
            chip(start, "lv-cache-fed"),
            step ? ` goes in at position ${start}: the token that step ${step - 1} drew` : " goes in",
          ];
    const written = tokens[end];
    const out = written
      ? [
          " → a distribution over the vocabulary → drawn: ",
          chip(end, "lv-cache-written"),
          probability === null ? "" : ` (${chance(probability)})`,
          step < this.header.steps.length - 1
            ? ". This token is fed back, not an output of attention."
            : ". The run ends here; this token was not fed back.",
        ]
      : ["."];
    this.flow.replaceChildren(...fed, ...out);
  }

  inWords({ step, start, end }) {
    const last = this.header.steps.length - 1;
    if (end - start > 1) {
      const both = step ? "" : ", the same both ways";
      return `Step ${step} of ${last}, prefill: ${plural(end - start, "position")} at once${both}.`;
    }
    return `Step ${step} of ${last}, decode: position ${start}, ${end} in all.`;
  }

  readoutOf({ start, end, tensors, head }) {
    const position = this.picking.current;
    if (position === null || position >= end) {
      return "Point at a row: the same position is marked both ways.";
    }
    const token = `${tokenText(this.header.tokens[position])} at position ${position}`;
    const lock = this.picking.isLocked ? " — locked, Escape unlocks" : "";
    const known =
      position < start
        ? "computed again without a cache, read from the cache with one"
        : "new in this step, both ways";
    const weight =
      tensors?.weights && this.block === 1
        ? ` Head ${head} gives it ${fixed(
            tensors.weights.values[(end - 1) * tensors.weights.nColumns + position],
          )} of the newest position's attention.`
        : "";
    return `${token}: ${known}.${weight}${lock}`;
  }

  numbers() {
    const { header, without, cached } = this;
    const rows = header.steps.map(({ start, end }, step) => [
      step,
      end,
      `${end} × ${end}`,
      `${end - start} × ${end}`,
      grouped(header.work_without[step]),
      grouped(header.work_with[step]),
      brief(without[step] / cached[step]),
      grouped(total(header.formula[step])),
      header.used ? grouped(total(header.used[step])) : "not recorded",
      header.used ? grouped(total(header.reserved[step])) : "not recorded",
    ]);
    return {
      caption: "Every step, all recorded layers: scores, multiply-adds and bytes",
      header: [
        "step",
        "positions",
        "scores without",
        "scores with",
        "multiply-adds without",
        "with",
        "ratio so far",
        "bytes by formula",
        "bytes used",
        "bytes reserved",
      ],
      rows,
    };
  }
}

function matrixOf(values, nColumns) {
  let most = 0;
  for (const value of values) most = Math.max(most, Math.abs(value));
  return { values, nColumns, most: most || 1 };
}

/** One head of (layer, row, head, head_feature), the layer taken already: row by row. */
function column(values, [, nRows, nHeads, size], head) {
  const own = new Float32Array(nRows * size);
  for (let row = 0; row < nRows; row++) {
    const from = (row * nHeads + head) * size;
    own.set(values.subarray(from, from + size), row * size);
  }
  return own;
}

/** What frames and pale rows mean. */
function legend() {
  const sample = (name, words) =>
    element("span", {}, element("span", { class: `lv-cache-sample ${name}` }), ` ${words}`);
  return element(
    "p",
    { class: "lv-cache-legend" },
    sample("lv-cache-sample-new", "new in this step"),
    sample("lv-cache-sample-known", "computed again, as it was"),
    sample("lv-cache-sample-read", "read from the cache"),
    sample("lv-cache-sample-used", "the row that the next token is read from"),
  );
}

export default explorer(CacheView);
