// The page of the generation explorer: what the kernel sends is kept in a Recording, and each View
// draws one moment of it. Nothing is loaded from anywhere. Texts of tokens become text nodes only,
// never markup. Colours stand in page/explorer.css.

import { Surface } from "./page/canvas.js";
import { CHART_HEIGHT, Chart, Panel, pathThrough } from "./page/chart.js";
import { field, numberInput, numberOf } from "./page/controls.js";
import { element, keepKeys, newId, shape } from "./page/elements.js";
import { Display } from "./page/explorer.js";
import {
  brief,
  bytes,
  chance,
  clamp,
  duration,
  fixed,
  grouped,
  median,
  plural,
  total,
} from "./page/numbers.js";
import { Player } from "./page/player.js";
import { shorten, tokenParts, tokenText, withBreaks } from "./page/tokens.js";

const BUFFERS_PER_STEP = 3; // attention, RMS, angles
const PLAN_DELAY_MS = 250;
const ASK_AGAIN_MS = 2000;
const ASK_SHOWN_MS = 200;

const PACES = [
  ["", "full speed"],
  ["10", "10 tokens per second"],
  ["4", "4 tokens per second"],
  ["1", "1 token per second"],
];

const NORM_NAMES = { attention: "attention", feed_forward: "feed-forward", final: "final" };

// ---------------------------------------------------------------- what the kernel sent

/** All steps of one run or branch, as far as the kernel has sent them. */
class Recording {
  constructor(run, about) {
    this.run = run;
    this.about = about;
    this.steps = [];
    this.tokens = []; // by position
    this.stepOfToken = [];
    this.attention = []; // by position: weights of (layer, head, key) in steps of 1/255
    this.rms = []; // by position, one value for each norm
    this.angles = []; // by position, one value for each pair
    this.highestRms = 0;
    this.watchPace();
  }

  /** From now on, time is measured in which steps arrive one by one. */
  watchPace() {
    this.pace = { time: performance.now(), steps: this.steps.length };
  }

  /** Seconds that as many further steps will take; null where that cannot be told yet. */
  secondsFor(count) {
    const seen = this.steps.length - this.pace.steps;
    if (seen < 3) return null;
    return ((performance.now() - this.pace.time) / 1000 / seen) * count;
  }

  append(header, [attention, rms, angles]) {
    const step = this.steps.push(header) - 1;
    const { start, end } = header;
    header.tokens.forEach((token, index) => {
      this.tokens[start + index] = token;
      this.stepOfToken[start + index] ??= step;
    });
    if (header.written) {
      this.tokens[end] = header.written;
      this.stepOfToken[end] = step;
    }
    this.keepAttention(header, attention);
    this.keepRms(start, end, floats(rms));
    const angleValues = floats(angles);
    const nPairs = angleValues.length / (end - start);
    for (let position = start; nPairs && position < end; position++) {
      const from = (position - start) * nPairs;
      this.angles[position] = angleValues.subarray(from, from + nPairs);
    }
  }

  keepAttention(header, attention) {
    const cells = this.about.layers.length * this.about.n_heads;
    let from = 0;
    for (let position = header.first_row; position < header.end; position++) {
      const length = cells * (position + 1);
      // A copy, so that the rest of the message is not kept alive by it.
      this.attention[position] = new Uint8Array(
        attention.buffer.slice(attention.byteOffset + from, attention.byteOffset + from + length),
      );
      from += length;
    }
  }

  /** They come norm by norm; they are kept position by position. */
  keepRms(start, end, values) {
    const nNorms = values.length / (end - start);
    for (let position = start; nNorms && position < end; position++) {
      const own = Float32Array.from(
        { length: nNorms },
        (_, norm) => values[norm * (end - start) + position - start],
      );
      this.rms[position] = own;
      this.highestRms = Math.max(this.highestRms, ...own);
    }
  }

  weight(position, layer, head, key) {
    const row = this.attention[position];
    return row[(layer * this.about.n_heads + head) * (position + 1) + key] / 255;
  }
}

/** The run and its branches, each kept as far as it was sent; one of them is shown. */
class Recordings {
  constructor() {
    this.byRun = new Map();
    this.latest = new Recording(0, null);
    this.askedAt = -Infinity;
    this.listeners = new Set();
  }

  connect(model) {
    this.model = model;
    model.on("msg:custom", (message, buffers) => this.receive(message, buffers));
    model.on("change:shown", () => {
      this.tell();
      // Steps of a new run are on their way; those of an older branch must be asked for.
      setTimeout(() => this.byRun.has(model.get("shown")) || this.ask(), ASK_SHOWN_MS);
    });
    this.ask();
  }

  /** The branch that is shown; until its first steps are here, the one before. */
  get shown() {
    return (this.latest = this.byRun.get(this.model.get("shown")) ?? this.latest);
  }

  /** What was forked from what, as the kernel says it. */
  get branches() {
    return this.model.get("branches");
  }

  tell() {
    for (const listener of this.listeners) listener();
  }

  /** Ask for the steps that are missing; the kernel sends as many as make one message. */
  ask(run = this.model.get("shown")) {
    const now = performance.now();
    if (now - this.askedAt < ASK_AGAIN_MS) return;
    this.askedAt = now;
    const first = this.byRun.get(run)?.steps.length ?? 0;
    this.model.send({ type: "ask", run, first });
  }

  receive(message, buffers) {
    if (message.type !== "steps") return;
    const { run } = message;
    if (message.about && !this.byRun.has(run)) {
      const kept = new Set(this.branches.map((branch) => branch.run));
      for (const old of this.byRun.keys()) if (!kept.has(old)) this.byRun.delete(old);
      this.byRun.set(run, new Recording(run, message.about));
    }
    const recording = this.byRun.get(run);
    if (!recording || message.first > recording.steps.length) {
      this.ask(run);
      return;
    }
    message.steps.forEach((header, index) => {
      if (message.first + index !== recording.steps.length) return;
      const from = BUFFERS_PER_STEP * index;
      recording.append(header, buffers.slice(from, from + BUFFERS_PER_STEP));
    });
    this.askedAt = -Infinity;
    if (message.steps.length !== 1 || message.about) recording.watchPace();
    if (recording.steps.length < message.available) this.ask(run);
    this.tell();
  }
}

/** float32 values of a buffer, copied: a message's parts need not lie at multiples of four. */
function floats(view) {
  return new Float32Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
}

// ---------------------------------------------------------------- the six signals

/** Attention of the newest position: heads by keys, heads together that read one key/value head. */
class AttentionPanel extends Panel {
  static GUTTER = 122;
  static KEY_LABELS = 62;
  static GROUP_GAP = 7;

  constructor(view) {
    super("attention", "Attention of the newest position", "weight, 0 to 1");
    this.view = view;
    this.cursor = null; // {head, key}
    this.locked = false;
    this.surface = new Surface({
      tabindex: "0",
      role: "application",
      onmousemove: (event) => this.point(event),
      onmouseleave: () => this.leave(),
      onclick: (event) => this.lock(event),
      onkeydown: (event) => this.move(event),
    });
    this.canvas = this.surface.canvas;
    this.chart = new Chart({ class: "lv-chart lv-over", "aria-hidden": "true" });
    this.readout = element("p", { class: "lv-readout" });
    this.layers = element("fieldset", { class: "lv-pills" });
    this.tools.append(this.layers);
    this.body.append(this.canvas, this.chart.svg);
    this.element.insertBefore(this.readout, this.caption);
  }

  /** One button for each layer that was recorded. */
  offerLayers(layers, chosen) {
    const key = layers.join();
    if (key === this.offered) return;
    this.offered = key;
    const name = newId("layer");
    const pills = layers.map((layer, index) =>
      element(
        "label",
        {},
        element("input", {
          type: "radio",
          name,
          value: index,
          checked: index === chosen,
          "aria-label": `layer ${layer}`,
          onchange: () => this.view.chooseLayer(index),
        }),
        element("span", {}, String(layer)),
      ),
    );
    this.layers.replaceChildren(element("legend", {}, "layer"), ...pills);
  }

  draw(moment) {
    const { recording, position, layer } = moment;
    const { about } = recording;
    this.offerLayers(about.layers, layer);
    this.moment = moment;
    const row = recording.attention[position];
    this.arrange(about, moment.columns);
    if (row) this.paint(row, about, position, layer);
    else this.surface.clear();
    this.annotate(row, about, position);
    this.say(about.layers.length ? groupsInWords(about) : "Attention was not recorded.");
  }

  /** Where each head and each key lies. */
  arrange(about, columns) {
    const width = this.width;
    const rowHeight = clamp(Math.floor(220 / about.n_heads), 7, 19);
    const left = AttentionPanel.GUTTER;
    this.columns = Math.max(columns, 1);
    this.columnWidth = Math.min((width - left - 4) / this.columns, 34);
    this.rowHeight = rowHeight;
    this.top = about.kv_head_of_head.map(
      (group, head) => 4 + head * rowHeight + group * AttentionPanel.GROUP_GAP,
    );
    this.bottom = this.top.at(-1) + rowHeight;
    const height = this.bottom + AttentionPanel.KEY_LABELS;
    this.surface.resize(width, height);
    this.chart.resize(width, height);
  }

  paint(row, about, position, layer) {
    const { surface } = this;
    const { sequential, unseen } = this.view.colours;
    const nKeys = position + 1;
    // Where keys are narrower than a pixel, each pixel shows the largest weight of its keys.
    const nCells = Math.min(nKeys, Math.max(1, Math.floor(nKeys * this.columnWidth * surface.ratio)));
    const colours = new Uint32Array(nCells * about.n_heads);
    for (let head = 0; head < about.n_heads; head++) {
      const from = (layer * about.n_heads + head) * nKeys;
      for (let cell = 0; cell < nCells; cell++) {
        let weight = 0;
        const end = Math.floor(((cell + 1) * nKeys) / nCells);
        for (let key = Math.floor((cell * nKeys) / nCells); key < end; key++) {
          weight = Math.max(weight, row[from + key]);
        }
        colours[head * nCells + cell] = sequential[weight];
      }
    }
    const picture = surface.picture(colours, about.n_heads, nCells);
    const context = surface.clear();
    const left = AttentionPanel.GUTTER;
    const painted = nKeys * this.columnWidth;
    context.fillStyle = unseen;
    this.top.forEach((top, head) => {
      context.fillRect(left, top, this.columns * this.columnWidth, this.rowHeight - 1);
      context.drawImage(picture, 0, head, nCells, 1, left, top, painted, this.rowHeight - 1);
    });
    if (this.columnWidth >= 5) {
      for (let key = 1; key < this.columns; key++) {
        context.clearRect(left + key * this.columnWidth - 0.5, 0, 1, this.bottom + 1);
      }
    }
  }

  /** Names of heads, groups and keys, and the mark of the cell that is pointed at. */
  annotate(row, about, position) {
    const { chart } = this;
    const left = AttentionPanel.GUTTER;
    this.top.forEach((top, head) => {
      const name = head === this.cursor?.head ? "lv-tick lv-strong" : "lv-tick";
      const sparse = this.rowHeight >= 10 || head % 4 === 0;
      if (sparse) chart.text(left - 6, top + this.rowHeight / 2 + 3, `head ${head}`, name, "end");
    });
    for (let group = 0; group < about.n_kv_heads; group++) {
      const heads = headsOf(about, group);
      const [top, bottom] = [this.top[heads[0]], this.top[heads.at(-1)] + this.rowHeight - 1];
      const x = left - 48;
      const brace = [[x + 4, top + 1], [x, top + 1], [x, bottom - 1], [x + 4, bottom - 1]];
      chart.path(brace, "lv-brace");
      const middle = (top + bottom) / 2 + 3.5;
      chart.text(x - 5, middle, `kv head ${group}`, "lv-tick lv-group", "end");
    }
    if (row) this.nameKeys(row, about, position);
    if (this.cursor && this.cursor.key < this.columns && this.cursor.head < about.n_heads) {
      const x = left + this.cursor.key * this.columnWidth;
      const y = this.top[this.cursor.head];
      const name = this.locked ? "lv-cursor lv-locked" : "lv-cursor";
      const width = Math.max(this.columnWidth, 3);
      chart.box(x - 1, y - 1, width + 2, this.rowHeight + 1, name);
    }
    const words = this.inWords(about, position, row);
    this.readout.setAttribute("aria-live", this.cursor ? "polite" : "off");
    if (this.readout.textContent !== words) this.readout.textContent = words;
    chart.show("");
    this.canvas.setAttribute(
      "aria-label",
      `Attention weights, ${about.n_heads} heads by ${position + 1} keys. ` +
        "Arrow keys point at a cell, Enter locks it, Escape unlocks.",
    );
  }

  /** As many keys as fit get their token, those that are looked at most first. */
  nameKeys(row, about, position) {
    const nKeys = position + 1;
    const strongest = new Uint8Array(nKeys);
    for (let head = 0; head < about.n_heads; head++) {
      const from = (this.moment.layer * about.n_heads + head) * nKeys;
      for (let key = 0; key < nKeys; key++) {
        strongest[key] = Math.max(strongest[key], row[from + key]);
      }
    }
    const order = Array.from(strongest.keys()).sort((a, b) => strongest[b] - strongest[a]);
    if (this.cursor && this.cursor.key < nKeys) order.unshift(this.cursor.key);
    const apart = Math.ceil(12 / this.columnWidth);
    const taken = new Uint8Array(nKeys);
    for (const key of order) {
      const near = taken.subarray(Math.max(0, key - apart + 1), key + apart);
      if (near.some(Boolean)) continue;
      taken[key] = 1;
      const x = AttentionPanel.GUTTER + (key + 0.5) * this.columnWidth;
      const label = shorten(this.moment.recording.tokens[key].label, 8);
      const name = key === this.cursor?.key ? "lv-tick lv-key lv-strong" : "lv-tick lv-key";
      this.chart.text(x - 3.5, this.bottom + 5, label, name, "start", true);
    }
  }

  inWords(about, position, row) {
    const { recording, layer } = this.moment;
    if (!recording.attention.length) return "";
    if (!row) return "Of this long prompt only the later rows were sent.";
    const cell = this.cursor ?? this.strongestCell(row, about, position);
    if (cell.head >= about.n_heads) return "";
    const who =
      `head ${cell.head} of layer ${about.layers[layer]}` +
      ` (reads kv head ${about.kv_head_of_head[cell.head]})`;
    const lock = this.locked ? " — locked, Escape unlocks" : "";
    if (cell.key > position) return `${who}: position ${cell.key} is not yet in the cache${lock}`;
    const weight = recording.weight(position, layer, cell.head, cell.key);
    const key = `${tokenText(recording.tokens[cell.key])} at position ${cell.key}`;
    const start = this.cursor ? "" : "Strongest after position 0: ";
    return `${start}${who} → ${key}: weight ${fixed(weight)}${lock}`;
  }

  /** The first position often takes what a head has no use for, so it does not count here. */
  strongestCell(row, about, position) {
    const nKeys = position + 1;
    let best = { head: 0, key: Math.min(1, position), weight: -1 };
    for (let head = 0; head < about.n_heads; head++) {
      const from = (this.moment.layer * about.n_heads + head) * nKeys;
      for (let key = Math.min(1, position); key < nKeys; key++) {
        if (row[from + key] > best.weight) best = { head, key, weight: row[from + key] };
      }
    }
    return best;
  }

  cellAt(event) {
    const [x, y] = this.surface.place(event);
    const key = Math.floor((x - AttentionPanel.GUTTER) / this.columnWidth);
    const head = this.top?.findIndex((top) => y >= top && y < top + this.rowHeight) ?? -1;
    return key >= 0 && key < this.columns && head >= 0 ? { head, key } : null;
  }

  point(event) {
    if (this.locked || !this.moment) return;
    this.cursor = this.cellAt(event);
    this.view.draw();
  }

  leave() {
    if (this.locked) return;
    this.cursor = null;
    this.view.draw();
  }

  lock(event) {
    const cell = this.moment && this.cellAt(event);
    if (!cell) return;
    this.cursor = cell;
    this.locked = true;
    this.view.draw();
  }

  unlock() {
    this.locked = false;
    this.cursor = null;
    this.view.draw();
  }

  move(event) {
    if (!this.moment) return;
    const { about } = this.moment.recording;
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    if (event.key === "Enter" || event.key === " ") {
      this.cursor ??= { head: 0, key: this.moment.position };
      this.locked = true;
    } else if (event.key in steps) {
      const [down, right] = steps[event.key];
      const from = this.cursor ?? { head: 0, key: this.moment.position + 1 };
      this.cursor = {
        head: clamp(from.head + down, 0, about.n_heads - 1),
        key: clamp(from.key + right, 0, this.moment.position),
      };
    } else return;
    event.preventDefault();
    this.view.draw();
  }
}

const headsOf = (about, group) =>
  about.kv_head_of_head.flatMap((own, head) => (own === group ? [head] : []));

function groupsInWords(about) {
  const heads = plural(about.n_heads, "query head");
  if (about.n_kv_heads === about.n_heads) {
    return `${about.kind}: each of the ${heads} reads a key/value head of its own.`;
  }
  if (about.n_kv_heads === 1) return `${about.kind}: all ${heads} read the one key/value head.`;
  const groups = Array.from({ length: about.n_kv_heads }, (_, group) => headsOf(about, group));
  const words = groups.map((own, group) => `${own[0]} to ${own.at(-1)} read kv head ${group}`);
  const all = words.length <= 3 ? words.join(", ") : `${words[0]}, and so on`;
  return `${about.kind}: heads ${all}.`;
}

/** RMS at every norm, from the first to the last. */
class NormPanel extends Panel {
  constructor() {
    super("rms", "RMS at every norm", "root mean square");
    this.chart = new Chart();
    this.body.append(this.chart.svg);
  }

  draw({ recording, position }) {
    const values = recording.rms[position];
    if (!values) return this.say("RMS was not recorded.");
    const { chart } = this;
    const { norm_layer: layers, norm_kind: kinds } = recording.about;
    chart.resize(this.width, CHART_HEIGHT);
    const frame = { left: 38, right: chart.width - 8, top: 10, bottom: CHART_HEIGHT - 34 };
    const y = chart.scale(frame, recording.highestRms);
    const gap = (frame.right - frame.left) / values.length;
    const x = (norm) => frame.left + (norm + 0.5) * gap;
    const curve = (row) => pathThrough(Array.from(row, (value, norm) => [x(norm), y(value)]));
    const earlier = recording.rms.slice(0, position);
    chart.add("path", { d: earlier.map(curve).join(""), class: "lv-earlier" });
    chart.add("path", { d: curve(values), class: "lv-now" });
    this.size = clamp(gap * 0.35, 1.2, 3.4);
    values.forEach((value, norm) => this.mark(x(norm), y(value), kinds[norm], value, layers[norm]));
    this.nameLayers(frame, layers, kinds, x, gap);
    this.legend(frame);
    const last = values.length - 1;
    chart.show(`RMS of position ${position} at ${values.length} norms`);
    this.say(
      `Position ${position}: ${brief(values[0])} at the ${NORM_NAMES[kinds[0]]} norm of layer ` +
        `${layers[0]}, ${brief(values[last])} at the last norm. Grey: the positions before.`,
    );
  }

  mark(x, y, kind, value, layer) {
    const { size } = this;
    const title = shape("title", {}, `layer ${layer}, ${NORM_NAMES[kind]} norm: ${brief(value)}`);
    const square = { x: x - size, y: y - size, width: 2 * size, height: 2 * size };
    if (kind === "attention") {
      this.chart.add("circle", { cx: x, cy: y, r: size + 0.4, class: "lv-norm-attention" }, title);
    } else if (kind === "feed_forward") {
      this.chart.add("rect", { ...square, class: "lv-norm-feed-forward" }, title);
    } else {
      const transform = `rotate(45 ${x} ${y})`;
      this.chart.add("rect", { ...square, transform, class: "lv-norm-final" }, title);
    }
  }

  nameLayers(frame, layers, kinds, x, gap) {
    const y = frame.bottom + 13;
    const every = Math.ceil(38 / (2 * gap));
    kinds.forEach((kind, norm) => {
      if (kind === "final") this.chart.text(frame.right, y, "final", "lv-tick", "end");
      const fits = layers[norm] % every === 0 && x(norm) < frame.right - 44;
      if (kind === "attention" && fits) {
        const write = layers[norm] === 0 ? "layer 0" : String(layers[norm]);
        this.chart.text(x(norm) + gap / 2, y, write, "lv-tick", "middle");
      }
    });
  }

  legend(frame) {
    const y = CHART_HEIGHT - 7;
    let x = frame.left;
    this.size = 3.4;
    for (const kind of ["attention", "feed_forward", "final"]) {
      this.mark(x + 4, y - 3.5, kind, 0, 0);
      this.chart.text(x + 12, y, NORM_NAMES[kind], "lv-tick");
      x += 22 + 5.5 * NORM_NAMES[kind].length;
    }
  }
}

/** Rotation of the newest position: a clock for each pair of features. */
class RotationPanel extends Panel {
  constructor(view) {
    super("rotation", "Rotation angles", "newest position, radians");
    this.view = view;
    this.pair = 0;
    this.chart = new Chart({
      tabindex: "0",
      role: "application",
      onkeydown: (event) => this.choose(event),
      onmousemove: (event) => this.point(event),
    });
    this.chart.svg.classList.add("lv-clocks");
    this.body.append(this.chart.svg);
  }

  draw({ recording, position }) {
    const angles = recording.angles[position];
    if (!angles) return this.say("Rotation angles were not recorded.");
    const { chart } = this;
    this.nPairs = angles.length;
    this.pair = Math.min(this.pair, angles.length - 1);
    chart.resize(this.width, CHART_HEIGHT);
    const writes = angles.length <= 16;
    const square = Math.sqrt((angles.length * chart.width) / chart.height);
    const columns = writes ? Math.min(Math.ceil(angles.length / 2), 8) : Math.ceil(square);
    const rows = Math.ceil(angles.length / columns);
    const [cellWidth, cellHeight] = [chart.width / columns, chart.height / rows];
    const room = Math.min(cellWidth - 8, cellHeight - (writes ? 32 : 6));
    const radius = Math.min(room / 2, 34);
    this.cell = (x, y) => Math.floor(y / cellHeight) * columns + Math.floor(x / cellWidth);
    angles.forEach((angle, pair) => {
      const x = ((pair % columns) + 0.5) * cellWidth;
      const y = Math.floor(pair / columns) * cellHeight + radius + 3;
      const speed = frequency(angle, position);
      this.clock(x, y, radius, angle, speed, pair);
      if (!writes) return;
      chart.text(x, y + radius + 11, `pair ${pair}`, "lv-tick", "middle");
      if (position) {
        chart.text(x, y + radius + 21, `θ ${brief(speed)}`, "lv-tick lv-small", "middle");
      }
    });
    chart.show(`${angles.length} clocks; arrow keys choose a pair`);
    this.say(turnsInWords(position, this.pair, angles[this.pair]));
  }

  /** The hand stands at the angle; the wedge is what this one position has added. */
  clock(x, y, radius, angle, speed, pair) {
    const at = (turned, length = radius) => [
      x + length * Math.cos(turned),
      y - length * Math.sin(turned),
    ];
    const { chart } = this;
    const chosen = pair === this.pair ? "lv-dial lv-chosen" : "lv-dial";
    chart.add("circle", { cx: x, cy: y, r: radius, class: chosen, "data-pair": pair });
    const [startX, startY] = at(angle - speed, radius - 2);
    const [endX, endY] = at(angle, radius - 2);
    const large = speed > Math.PI ? 1 : 0;
    const arc = `A${radius - 2} ${radius - 2} 0 ${large} 0 ${endX} ${endY}`;
    chart.add("path", { d: `M${x} ${y}L${startX} ${startY}${arc}Z`, class: "lv-wedge" });
    const [zeroX, zeroY] = at(0, radius - 5);
    chart.line(zeroX, zeroY, x + radius, y, "lv-zero");
    chart.line(x, y, endX, endY, "lv-hand");
    chart.add("circle", { cx: x, cy: y, r: 1.8, class: "lv-pin" });
  }

  point(event) {
    if (!this.cell) return;
    const bounds = this.chart.svg.getBoundingClientRect();
    const pair = this.cell(event.clientX - bounds.left, event.clientY - bounds.top);
    if (pair < this.nPairs && pair !== this.pair) {
      this.pair = pair;
      this.view.draw();
    }
  }

  choose(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || !this.nPairs) return;
    event.preventDefault();
    this.pair = clamp(this.pair + step, 0, this.nPairs - 1);
    this.view.draw();
  }
}

/** How far a pair turns from one position to the next, in radians: however RoPE is scaled. */
const frequency = (angle, position) => (position ? angle / position : 0);

function turnsInWords(position, pair, angle) {
  if (!position) return `Pair ${pair}: at position 0 nothing is turned.`;
  const speed = frequency(angle, position);
  const turns = Math.floor(angle / (2 * Math.PI));
  const rest = angle - turns * 2 * Math.PI;
  const sum = `Pair ${pair}: position ${position} × θ ${brief(speed)} = ${brief(angle)} rad`;
  const whole = turns ? `, ${plural(turns, "turn")} and ${fixed(rest)} rad` : "";
  return `${sum}${whole}. The wedge is the turn from one position to the next.`;
}

/** Bytes of the KV cache: layer by layer now, and all layers over the steps. */
class CachePanel extends Panel {
  constructor(view) {
    super("cache", "KV cache", "bytes");
    this.view = view;
    this.chart = new Chart();
    this.body.append(this.chart.svg);
  }

  draw({ recording, step, nSteps }) {
    const { about, steps } = recording;
    if (!steps[step].cache_used) return this.say("The KV cache was not recorded.");
    this.chart.resize(this.width, CHART_HEIGHT);
    const split = clamp(this.chart.width * 0.36, 84, 180);
    this.drawLayers(about, steps[step], split);
    this.drawGrowth(about, steps, step, nSteps, split);
    const used = total(steps[step].cache_used);
    this.chart.show(`KV cache after step ${step}: ${grouped(used)} bytes used`);
    this.say(formulaInWords(about, steps[step], used));
  }

  drawLayers(about, { cache_used: used, cache_reserved: reserved }, split) {
    const { chart } = this;
    chart.text(0, 10, "each layer", "lv-tick lv-group");
    const left = 42;
    const rowHeight = Math.min((CHART_HEIGHT - 48) / used.length, 24);
    const most = Math.max(...reserved, 1);
    used.forEach((value, index) => {
      const y = 18 + index * rowHeight;
      const height = Math.max(rowHeight * 0.62, 1);
      const width = (count) => (count / most) * (split - left);
      chart.box(left, y, width(reserved[index]), height, "lv-reserved");
      chart.box(left, y, width(value), height, "lv-used");
      if (rowHeight >= 10 || index % 4 === 0) {
        const name = `layer ${about.layers[index]}`;
        chart.text(left - 5, y + height / 2 + 3.5, name, "lv-tick", "end");
      }
    });
    const y = 18 + used.length * rowHeight + 12;
    chart.text(left, y, bytes(used[0]), "lv-tick lv-strong");
    chart.text(left, y + 13, `of ${bytes(reserved[0])}`, "lv-tick");
  }

  drawGrowth(about, steps, step, nSteps, split) {
    const { chart } = this;
    const frame = { left: split + 58, right: chart.width - 30, top: 22, bottom: CHART_HEIGHT - 18 };
    const others = this.otherModels(about);
    const reserved = total(steps[step].cache_reserved);
    const atEnd = (model) => model.cache_bytes_per_position * (about.n_prompt + nSteps - 1);
    const high = Math.max(reserved, ...others.map(atEnd));
    const y = chart.scale(frame, high, (value) => (value ? bytes(value) : "0"));
    const x = (index) =>
      frame.left + (nSteps > 1 ? index / (nSteps - 1) : 0.5) * (frame.right - frame.left);
    chart.text(frame.left, 10, "all layers, by step", "lv-tick lv-group");
    for (const model of others) {
      const at = (index) => y(model.cache_bytes_per_position * (about.n_prompt + index));
      chart.path([[x(0), at(0)], [x(nSteps - 1), at(nSteps - 1)]], "lv-other");
      chart.text(frame.right + 4, at(nSteps - 1) + 3.5, model.kind, "lv-tick");
    }
    chart.line(frame.left, y(reserved), frame.right, y(reserved), "lv-limit");
    const used = steps.slice(0, step + 1).map((one, index) => [x(index), y(total(one.cache_used))]);
    const area = [[x(0), y(0)], ...used, [x(step), y(0)]];
    chart.path(area, "lv-area");
    chart.path(used, "lv-now");
    chart.add("circle", { cx: used[step][0], cy: used[step][1], r: 3.2, class: "lv-point" });
    chart.text(frame.left, CHART_HEIGHT - 5, "step 0", "lv-tick", "middle");
    chart.text(frame.right, CHART_HEIGHT - 5, String(nSteps - 1), "lv-tick", "middle");
  }

  /** Models of the switch that differ in their key/value heads only: their formula is a line. */
  otherModels(about) {
    const perHead = 2 * about.n_layers * about.head_dim * about.item_bytes;
    return this.view.choices.models.filter(
      (model) =>
        model.cache_bytes_per_position === perHead * model.n_kv_heads &&
        model.n_kv_heads !== about.n_kv_heads,
    );
  }
}

function formulaInWords(about, { cache_used, end }, used) {
  const nLayers = cache_used.length;
  const perPosition = 2 * nLayers * about.n_kv_heads * about.head_dim * about.item_bytes;
  const sum =
    `2 × ${plural(nLayers, "layer")} × ${plural(about.n_kv_heads, "kv head")} × ` +
    `${about.head_dim} × ${about.item_bytes} bytes × ${plural(end, "position")}`;
  const verdict = perPosition * end === used ? "as recorded" : `recorded: ${grouped(used)}`;
  return `${sum} = ${grouped(perPosition * end)} bytes, ${verdict}.`;
}

/** The likeliest next tokens, and which of them was written; a click on another writes that one. */
class CandidatePanel extends Panel {
  constructor(view) {
    super("candidates", "Next token", "probability");
    this.view = view;
    this.chart = new Chart();
    this.choices = element("div", { class: "lv-forks" });
    this.body.append(this.chart.svg, this.choices);
  }

  /** Over each row a button, in the order of the rows; the token that was written has none. */
  offer(recording, step, rows, rowHeight) {
    const { view } = this;
    const offered = view.canFork ? rows.filter((row) => !row.isWritten) : [];
    const key = JSON.stringify([recording.run, step, offered.map((row) => row.id)]);
    if (key === this.offered) return;
    this.offered = key;
    const written = rows.find((row) => row.isWritten);
    this.choices.replaceChildren(
      ...offered.map((row) => {
        const words =
          `continue with ${tokenText(row)}, ${chance(row.probability)}, ` +
          `instead of ${tokenText(written)}`;
        return element("button", {
          type: "button",
          class: "lv-fork",
          style: `top: ${rows.indexOf(row) * rowHeight}px; height: ${rowHeight}px`,
          "aria-label": words,
          title: words,
          onclick: () => view.fork(step, row.id),
        });
      }),
    );
  }

  draw({ recording, step, isLastOfStep }) {
    const { candidates, written, probability } = recording.steps[step];
    if (!candidates) {
      this.choices.replaceChildren();
      this.offered = null;
      return this.say("The candidates were not recorded.");
    }
    const rows = candidates.map((row) => ({ ...row, isWritten: row.id === written?.id }));
    const isFarther = written && !rows.some((row) => row.isWritten);
    if (isFarther) rows.push({ ...written, probability, isWritten: true });
    const { chart } = this;
    const rowHeight = 22;
    chart.resize(this.width, rowHeight * (candidates.length + 1) + 4);
    const left = Math.min(92, chart.width * 0.32);
    const full = chart.width - left - 46;
    rows.forEach((row, index) => {
      const y = index * rowHeight + 2;
      const bar = row.isWritten ? "lv-bar lv-written" : "lv-bar";
      const strong = row.isWritten ? "lv-strong" : "";
      chart.text(left - 6, y + 15, shorten(row.label, 12), `lv-label ${strong}`, "end");
      chart.box(left, y + 2, full, rowHeight - 6, "lv-track");
      chart.box(left, y + 2, Math.max(row.probability * full, 1), rowHeight - 6, bar);
      const value = `${chance(row.probability)}${row.isWritten ? " ◂" : ""}`;
      chart.text(left + full + 5, y + 15, value, `lv-tick ${strong}`);
    });
    this.offer(recording, step, written ? rows : [], rowHeight);
    chart.show(`The ${candidates.length} likeliest next tokens`);
    this.say(this.inWords(written, probability, isFarther, isLastOfStep));
  }

  inWords(written, probability, isFarther, isLastOfStep) {
    if (!written) return "The ten likeliest next tokens.";
    const when = isLastOfStep ? "" : "After the whole prompt: ";
    const rank = isFarther ? ", not among the likeliest" : "";
    const how = this.view.canFork ? " Click another to go on from there." : "";
    return `${when}${tokenText(written)} ◂ was written (${chance(probability)}${rank}).${how}`;
  }
}

/** Time of each step; the prefill, which passes the whole prompt, stands apart. */
class TimePanel extends Panel {
  constructor() {
    super("time", "Time per step", "milliseconds, recording included");
    this.chart = new Chart();
    this.body.append(this.chart.svg);
  }

  draw({ recording, step, nSteps }) {
    const { steps, about } = recording;
    if (steps[0].seconds == null) return this.say("Times were not recorded.");
    const { chart } = this;
    chart.resize(this.width, CHART_HEIGHT);
    const milliseconds = steps.map((one) => 1000 * one.seconds);
    const decode = milliseconds.slice(1);
    const typical = decode.length ? median(decode) : milliseconds[0];
    // A pause of the machine leaves the frame instead of squeezing every other step.
    const high = Math.min(Math.max(...milliseconds), 3 * typical);
    const frame = { left: 34, right: chart.width - 6, top: 14, bottom: CHART_HEIGHT - 18 };
    const y = chart.scale(frame, high);
    const first = frame.left + 36;
    const slot = (frame.right - first) / Math.max(nSteps - 1, 1);
    const bar = (value, index) => {
      const x = index ? first + (index - 1) * slot : frame.left + 5;
      const width = index ? Math.max(slot - (slot > 4 ? 1 : 0), 0.8) : 18;
      const top = fixed(Math.max(y(value), frame.top), 1);
      return `M${fixed(x)} ${frame.bottom}V${top}h${fixed(width)}V${frame.bottom}Z`;
    };
    const bars = milliseconds.map(bar);
    chart.add("path", { d: bars[0], class: "lv-time lv-prefill" });
    chart.add("path", { d: bars.slice(1).join(""), class: "lv-time" });
    chart.add("path", { d: bars[step], class: "lv-time lv-chosen" });
    if (y(milliseconds[0]) < frame.top) {
      const words = `↑ ${brief(milliseconds[0])}`;
      chart.text(frame.left + 14, frame.top - 1, words, "lv-tick", "middle");
    }
    chart.text(frame.left + 14, CHART_HEIGHT - 5, "prefill", "lv-tick", "middle");
    if (nSteps > 1) chart.text(first, CHART_HEIGHT - 5, "step 1", "lv-tick");
    if (nSteps > 2) chart.text(frame.right, CHART_HEIGHT - 5, String(nSteps - 1), "lv-tick", "end");
    if (decode.length) chart.line(first, y(typical), frame.right, y(typical), "lv-median");
    chart.show(`Time of ${plural(steps.length, "step")}`);
    this.say(this.inWords(milliseconds, typical, decode.length, step, about));
  }

  inWords(milliseconds, typical, nDecode, step, about) {
    const prefill = `prefill of ${plural(about.n_prompt, "token")} ${brief(milliseconds[0])} ms`;
    const now = step ? `step ${step} ${brief(milliseconds[step])} ms; ` : "";
    if (!nDecode) return `${prefill}.`;
    const speed = `median ${brief(typical)} ms = ${brief(1000 / typical)} tokens/s`;
    return `${now}${prefill}; ${speed}, recording included.`;
  }
}

// ---------------------------------------------------------------- controls

/** Everything that starts a run: prompt, model, numbers, the button, and what comes of it. */
class Controls {
  constructor(view) {
    this.view = view;
    this.model = view.model;
    this.buildInputs();
    this.buildRunBar();
    this.element = element(
      "div",
      { class: "lv-controls" },
      element(
        "label",
        { class: "lv-field lv-wide" },
        element("span", {}, "Prompt ", this.hint),
        this.prompt,
      ),
      this.models,
      element("div", { class: "lv-numbers" }, ...this.fields, this.button),
      this.runBar,
      this.status,
      this.alert,
    );
    this.element.addEventListener("input", () => this.planSoon());
  }

  buildInputs() {
    this.prompt = element("textarea", {
      class: "lv-prompt",
      rows: "2",
      dir: "auto",
      spellcheck: "false",
    });
    this.models = element("fieldset", { class: "lv-models" });
    this.device = element("select", { class: "lv-device" });
    this.nTokens = numberInput("lv-new-tokens", { min: 1, step: 1 });
    this.temperature = numberInput("lv-temperature", { min: 0, step: 0.1 });
    this.seed = numberInput("lv-seed", { step: 1 });
    this.pace = element(
      "select",
      { class: "lv-pace" },
      ...PACES.map(([value, words]) => element("option", { value }, words)),
    );
    this.deviceField = field("Device", this.device);
    this.fields = [
      field("New tokens, at most", this.nTokens),
      field("Temperature", this.temperature),
      field("Seed", this.seed),
      field("Pace", this.pace),
      this.deviceField,
    ];
  }

  buildRunBar() {
    const hint = newId("hint");
    this.hint = element("span", { class: "lv-hint", id: hint });
    this.button = element("button", {
      type: "button",
      class: "lv-run",
      "aria-describedby": hint,
      onclick: () => (this.model.get("running") ? this.stop() : this.run()),
    });
    this.bar = element("progress", { max: 1, value: 0, "aria-label": "Progress of the run" });
    this.done = element("span", { class: "lv-done" });
    this.plan = element("span", { class: "lv-plan" });
    const progress = element("div", { class: "lv-progress" }, this.bar, this.done);
    this.runBar = element("div", { class: "lv-run-bar" }, progress, this.plan);
    this.status = element("p", { class: "lv-status", role: "status" });
    this.alert = element("p", { class: "lv-alert", role: "alert" });
  }

  run() {
    if (this.model.get("running")) return;
    this.model.send({ type: "run", settings: this.read() });
  }

  stop() {
    this.model.send({ type: "stop" });
    this.button.textContent = "Stopping …";
  }

  read() {
    const chosen = this.models.querySelector("input:checked");
    return {
      model: chosen ? chosen.value : null,
      device: this.device.value,
      prompt: this.prompt.value,
      max_new_tokens: numberOf(this.nTokens),
      temperature: numberOf(this.temperature),
      seed: numberOf(this.seed),
      tokens_per_second: numberOf(this.pace),
    };
  }

  /** Put the settings of the kernel into the inputs. */
  write(settings) {
    this.prompt.value = settings.prompt;
    this.nTokens.value = settings.max_new_tokens;
    this.temperature.value = settings.temperature;
    this.seed.value = settings.seed;
    this.pace.value = settings.tokens_per_second ?? "";
    this.device.value = settings.device;
    for (const input of this.models.querySelectorAll("input")) {
      input.checked = input.value === settings.model;
    }
    this.planSoon();
  }

  offer({ models, devices }) {
    const chosen = this.models.querySelector("input:checked")?.value;
    const name = newId("model");
    const cards = models.map((model) => modelCard(model, name));
    this.models.replaceChildren(element("legend", {}, "Model"), ...cards);
    this.element.hidden = !models.length; // a recorded run alone has nothing to set
    this.device.replaceChildren(...devices.map((one) => element("option", { value: one }, one)));
    this.deviceField.hidden = devices.length < 2;
    this.write({ ...this.model.get("settings"), ...(chosen && { model: chosen }) });
  }

  /** Ask, a moment after the last change, what such a run would take. */
  planSoon() {
    clearTimeout(this.planning);
    this.planning = setTimeout(() => {
      if (this.model.get("running") || this.element.hidden) return;
      this.model.send({ type: "plan", settings: this.read(), view: this.view.id });
    }, PLAN_DELAY_MS);
  }

  showPlan({ text, problem }) {
    this.plan.textContent = text;
    this.plan.classList.toggle("lv-problem", problem);
  }

  showRunning(running) {
    this.button.textContent = running ? "Stop" : "Run";
    this.button.classList.toggle("lv-stop", running);
    this.hint.textContent = running
      ? "— stop the run to change it and the settings"
      : "— Ctrl+Enter runs it";
    this.prompt.readOnly = running;
    keepKeys(this.prompt, running);
    for (const input of this.element.querySelectorAll("input, select")) input.disabled = running;
    this.element.classList.toggle("lv-running", running);
  }

  showStatus({ level, text }) {
    this.status.textContent = level === "error" ? "" : text;
    this.status.classList.toggle("lv-notice", level === "notice");
    this.alert.textContent = level === "error" ? text : "";
  }

  /** The recording that is shown: how far it has come, and how long the rest may take. */
  showProgress(recording, running) {
    const { about, steps } = recording;
    if (!about) return;
    const nDone = steps.length;
    this.bar.max = about.n_steps;
    this.bar.value = running ? nDone : about.n_steps;
    const left = recording.secondsFor(about.n_steps - nDone);
    const rest = left === null ? "" : `, about ${duration(left)} left`;
    this.done.textContent = running
      ? `${nDone} of ${plural(about.n_steps, "token")}${rest}`
      : `${plural(nDone, "token")} written`;
  }
}

/** A choice of the model switch, with a small drawing of which head reads which. */
function modelCard(model, name) {
  const heads = model.kind
    ? `${plural(model.n_heads, "head")}, ${plural(model.n_kv_heads, "kv head")}`
    : (model.problem ?? "is read when it runs");
  return element(
    "label",
    { class: "lv-model", title: model.problem },
    element("input", { type: "radio", name, value: model.name }),
    element(
      "span",
      { class: "lv-model-words" },
      element("strong", {}, model.kind ?? model.name),
      element("small", {}, model.kind && !isKind(model) ? `${model.name}: ${heads}` : heads),
    ),
    ...(model.kind && model.n_heads <= 16 ? [wiring(model)] : []),
  );
}

const isKind = (model) => model.name.toLowerCase() === model.kind.toLowerCase();

function wiring({ n_heads: nHeads, n_kv_heads: nKvHeads }) {
  const [width, height] = [66, 24];
  const across = (index, count) => ((index + 0.5) * width) / count;
  const drawing = shape("svg", {
    class: "lv-wiring",
    viewBox: `0 0 ${width} ${height}`,
    "aria-hidden": "true",
  });
  for (let head = 0; head < nHeads; head++) {
    const group = Math.floor((head * nKvHeads) / nHeads);
    const [x1, x2] = [across(head, nHeads), across(group, nKvHeads)];
    drawing.append(
      shape("line", { x1, y1: 4, x2, y2: height - 4 }),
      shape("circle", { cx: x1, cy: 4, r: 2.3, class: "lv-query-head" }),
    );
  }
  for (let group = 0; group < nKvHeads; group++) {
    const side = 5.6;
    const [x, y] = [across(group, nKvHeads) - side / 2, height - 4 - side / 2];
    drawing.append(shape("rect", { x, y, width: side, height: side, class: "lv-kv-head" }));
  }
  return drawing;
}

// ---------------------------------------------------------------- text and scrubber

/** The prompt and what was written, token by token, each coloured by its probability. */
class Story {
  constructor(view) {
    this.view = view;
    this.spans = [];
    this.element = element("div", {
      class: "lv-story",
      role: "listbox",
      tabindex: "0",
      "aria-label": "Tokens; the arrow keys choose one",
      onclick: (event) => this.click(event),
      onkeydown: (event) => this.move(event),
    });
    this.box = element(
      "section",
      { class: "lv-text" },
      this.element,
      element(
        "p",
        { class: "lv-legend", "aria-hidden": "true" },
        sample("prompt", "lv-prompt-token"),
        sample("read", "lv-read"),
        sample("written", "lv-written-token"),
        sample("pointed at", "lv-looked-at"),
        sample("branches part", "lv-parted"),
        "probability of each written token: 0 ",
        element("span", { class: "lv-ramp" }),
        " 1",
      ),
    );
  }

  clear() {
    this.spans = [];
    this.element.replaceChildren();
  }

  /** Add the tokens that are new, and mark those of the moment. */
  draw({ recording, step, position }) {
    if (this.recordingRun !== recording.run) {
      this.recordingRun = recording.run;
      this.clear();
    }
    for (let place = this.spans.length; place < recording.tokens.length; place++) {
      this.append(recording, place);
    }
    const { about, steps } = recording;
    const isPromptToken = position < steps[step].end - 1;
    const written = isPromptToken ? -1 : steps[step].end;
    this.mark("lv-read", position, "readSpan");
    this.mark("lv-written-token", written, "writtenSpan");
    this.mark("lv-looked-at", this.view.lookedAt(), "lookedAtSpan");
    this.markPartings(about);
    const chosen = written >= about.n_prompt && this.spans[written] ? written : position;
    this.choose(chosen);
  }

  append(recording, place) {
    const token = recording.tokens[place];
    const { about, steps, stepOfToken } = recording;
    const isPrompt = place < about.n_prompt;
    const span = element(
      "span",
      {
        class: isPrompt ? "lv-token lv-prompt-token" : "lv-token",
        role: "option",
        id: newId("token"),
        "data-position": place,
      },
      ...tokenParts(token),
    );
    const probability = isPrompt ? null : steps[stepOfToken[place]].probability;
    if (probability !== null) span.style.setProperty("--p", probability.toFixed(3));
    const likely = probability === null ? "" : `, probability ${chance(probability)}`;
    span.title = `position ${place}, id ${token.id}${likely}`;
    this.spans.push(span);
    this.element.append(...withBreaks(span, token));
  }

  /** Move a mark from the token that had it to another. */
  mark(name, position, slot) {
    const span = this.spans[position] ?? null;
    if (this[slot] === span) return;
    this[slot]?.classList.remove(name);
    span?.classList.add(name);
    this[slot] = span;
  }

  /** Where another branch goes on with another token. */
  markPartings(about) {
    const parting = partings(this.view.recordings.branches, this.recordingRun);
    const places = new Map(parting.map(([step, words]) => [about.n_prompt + step, words]));
    this.spans.forEach((span, place) => {
      const words = places.get(place);
      if (span.classList.toggle("lv-parted", Boolean(words))) span.dataset.parting = words;
      else delete span.dataset.parting;
    });
  }

  choose(position) {
    const span = this.spans[position];
    if (!span || this.chosen === span) return;
    this.chosen?.setAttribute("aria-selected", "false");
    span.setAttribute("aria-selected", "true");
    this.element.setAttribute("aria-activedescendant", span.id);
    this.chosen = span;
    this.chosenPosition = position;
    this.bringIntoView(span);
  }

  /** Scroll the box, and nothing around it, as little as needed. */
  bringIntoView({ offsetTop: top, offsetHeight: height }) {
    const { scrollTop, clientHeight } = this.element;
    const margin = 8;
    if (top < scrollTop) this.element.scrollTop = top - margin;
    if (top + height > scrollTop + clientHeight) {
      this.element.scrollTop = top + height + margin - clientHeight;
    }
  }

  click(event) {
    const span = event.target.closest("[data-position]");
    if (span) this.view.chooseToken(Number(span.dataset.position));
  }

  move(event) {
    const last = this.spans.length - 1;
    const at = this.chosenPosition ?? last;
    const places = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last };
    if (!(event.key in places) || last < 0) return;
    event.preventDefault();
    this.view.chooseToken(clamp(places[event.key], 0, last));
  }
}

/** A token for the legend. */
function sample(words, mark) {
  return element("span", { class: `lv-token ${mark}` }, words);
}

/** The branches from the run itself to one of them. */
function pathTo(branches, run) {
  const path = [];
  for (let at = branches.find((one) => one.run === run); at; ) {
    path.unshift(at);
    const { parent } = at;
    at = branches.find((one) => one.run === parent);
  }
  return path;
}

/** The step at which two branches part. */
function partingOf(branches, run, other) {
  const [own, their] = [pathTo(branches, run), pathTo(branches, other)];
  let shared = 0;
  while (shared < own.length && own[shared] === their[shared]) shared++;
  return Math.min(own[shared]?.step ?? Infinity, their[shared]?.step ?? Infinity);
}

/** The steps at which others part from this branch, each with their names. */
function partings(branches, run) {
  const names = new Map();
  for (const branch of branches) {
    if (branch.run === run) continue;
    const step = partingOf(branches, run, branch.run);
    if (!Number.isFinite(step)) continue;
    names.set(step, [...(names.get(step) ?? []), branchName(branch)]);
  }
  return [...names].map(([step, words]) => [step, words.join("; ")]);
}

const branchName = ({ parent, step, written, instead }) =>
  parent === null ? "the run" : `step ${step}: ${written} instead of ${instead}`;

/** What a branch wrote from where it parts from its parent; of the run itself, everything. */
function ownText(branches, { text, parent }) {
  const own = Array.from(text.replace(/\s+/g, " "));
  const before = branches.find((one) => one.run === parent)?.text.replace(/\s+/g, " ") ?? "";
  const their = Array.from(before);
  let shared = 0;
  while (shared < own.length && own[shared] === their[shared]) shared++;
  return shared ? `…${own.slice(shared).join("")}` : own.join("");
}

/** The run and its branches as a tree: what each is, and how likely its text. */
class BranchTree {
  constructor(view) {
    this.view = view;
    this.list = element("div", {
      class: "lv-branch-list",
      role: "group",
      "aria-label": "The run and its branches",
    });
    this.words = element("p", { class: "lv-branch-words" });
    this.element = element("section", { class: "lv-branches" }, this.list, this.words);
  }

  draw(branches, shown) {
    this.element.hidden = branches.length < 2;
    const key = JSON.stringify([branches, shown]);
    if (this.element.hidden || key === this.drawn) return;
    this.drawn = key;
    const hadFocus = this.list.contains(document.activeElement);
    // Of texts of unlike length, only as many tokens as the shortest has can be compared.
    const nCommon = Math.min(...branches.map((one) => one.log_probabilities.length));
    const sum = (branch) => total(branch.log_probabilities.slice(0, nCommon));
    const [own] = branches.filter((one) => one.run === shown);
    const ordered = inOrder(branches, null);
    const rows = ordered.map((branch) => this.row(branches, branch, shown, nCommon, sum(branch)));
    this.list.replaceChildren(...rows);
    if (hadFocus) this.list.querySelector("[aria-pressed=true]")?.focus();
    this.words.textContent = this.inWords(branches, own, nCommon, sum);
  }

  row(branches, branch, shown, nCommon, sum) {
    const { log_probabilities: all, depth } = branch;
    const whole = total(all);
    const numbers =
      `${plural(all.length, "token")}, log probability ${fixed(whole)} ` +
      `(${fixed(whole / Math.max(all.length, 1))} each)` +
      (all.length === nCommon ? "" : `; first ${nCommon}: ${fixed(sum)}`);
    return element(
      "button",
      {
        type: "button",
        class: "lv-branch",
        "aria-pressed": String(branch.run === shown),
        "data-run": branch.run,
        style: `margin-left: ${Math.min(depth, 6) * 20}px`,
        onclick: () => this.view.showBranch(branch.run),
      },
      element("strong", {}, `${depth ? "└ " : ""}${branchName(branch)}`),
      " ",
      element("span", { class: "lv-branch-text" }, shorten(ownText(branches, branch), 70)),
      element("small", {}, numbers),
    );
  }

  /** The one that is shown beside the one that it was forked from, or the likeliest other. */
  inWords(branches, own, nCommon, sum) {
    if (!own) return "";
    const others = branches.filter((one) => one !== own);
    const other =
      branches.find((one) => one.run === own.parent) ??
      others.reduce((best, one) => (sum(one) > sum(best) ? one : best));
    const step = partingOf(branches, own.run, other.run);
    const more = sum(own) - sum(other);
    const factor = Math.exp(Math.abs(more));
    const number = Number.isFinite(factor) ? ` = ${brief(factor)}` : "";
    const verdict =
      `e^${fixed(Math.abs(more))}${number} times ${more < 0 ? "less" : "more"} likely`;
    return (
      `This text (${branchName(own)}) parts from the other (${branchName(other)}) at step ` +
      `${step}, position ${own.n_prompt + step}. Over the first ${plural(nCommon, "token")} it is ` +
      `${verdict} to the model.`
    );
  }
}

/** Parents before their branches, each with its depth. */
function inOrder(branches, parent, depth = 0) {
  return branches
    .filter((one) => one.parent === parent)
    .flatMap((one) => [{ ...one, depth }, ...inOrder(branches, one.run, depth + 1)]);
}

function momentInWords(recording, step, position, isLastOfStep) {
  const { start, end, written } = recording.steps[step];
  const last = recording.steps.length - 1;
  const read = `${tokenText(recording.tokens[position])} at position ${position}`;
  if (!isLastOfStep) return `Step 0 of ${last}, prefill: read ${read}, one of ${end} at once.`;
  const what =
    end - start > 1 ? `prefill: read positions ${start} to ${end - 1}` : `read ${read}`;
  const wrote = written ? `, wrote ${tokenText(written)}` : "";
  return `Step ${step} of ${last}, ${what}${wrote}.`;
}

// ---------------------------------------------------------------- the view

/** One display of the explorer: which moment is shown, and everything that shows it. */
class View extends Display {
  constructor(model, recordings, root) {
    super(model, root, "Generation explorer");
    this.recordings = recordings;
    this.step = 0;
    this.position = null; // a prompt token that was chosen, else the newest of the step
    this.layer = Infinity; // the last one, until another is chosen
    this.following = true;
    this.build();
    this.listen();
    this.refresh();
  }

  get choices() {
    return this.model.get("choices");
  }

  /** The run or the branch that is shown. */
  get recording() {
    return this.recordings.shown;
  }

  /** Whether a model is there, and idle, to go on from a step with another token. */
  get canFork() {
    return this.choices.models.length > 0 && !this.model.get("running");
  }

  fork(step, id) {
    if (!this.canFork) return;
    this.player.pause();
    this.model.send({ type: "fork", run: this.recording.run, step, id });
  }

  showBranch(run) {
    this.player.pause();
    this.model.set("shown", run);
    this.model.save_changes();
  }

  build() {
    this.controls = new Controls(this);
    this.story = new Story(this);
    this.tree = new BranchTree(this);
    this.player = new Player({ label: "Step", onstep: (step) => this.scrub(step) });
    this.attention = new AttentionPanel(this);
    this.panels = [
      this.attention,
      new CandidatePanel(this),
      new NormPanel(),
      new RotationPanel(this),
      new CachePanel(this),
      new TimePanel(),
    ];
    this.empty = element("p", { class: "lv-empty" }, "Nothing has run yet. Press Run.");
    const signals = this.panels.map((panel) => panel.element);
    this.results = element(
      "div",
      { class: "lv-results" },
      this.story.box,
      this.tree.element,
      this.player.element,
      element("div", { class: "lv-panels" }, ...signals),
    );
    this.element.append(this.controls.element, this.empty, this.results);
    this.element.addEventListener("keydown", (event) => this.shortcut(event));
  }

  listen() {
    const { model, controls } = this;
    this.on("change:choices", () => {
      controls.offer(this.choices);
      this.refreshRunning();
    });
    this.on("change:settings", () => controls.write(model.get("settings")));
    this.on("change:status", () => controls.showStatus(model.get("status")));
    this.on("change:running", () => this.refreshRunning());
    this.on("msg:custom", (message) => {
      if (message.type === "plan" && message.view === this.id) controls.showPlan(message);
    });
    this.onRecording = () => this.follow();
    this.recordings.listeners.add(this.onRecording);
    this.on("change:branches", () => this.draw());
    this.observe();
  }

  measure() {
    for (const panel of this.panels) panel.measure();
  }

  refresh() {
    this.controls.offer(this.choices);
    this.controls.showStatus(this.model.get("status"));
    this.refreshRunning();
    this.follow();
  }

  refreshRunning() {
    const running = this.model.get("running");
    if (running) this.following = true;
    this.player.pause();
    this.controls.showRunning(running);
    this.draw();
  }

  remove() {
    this.player.pause();
    this.recordings.listeners.delete(this.onRecording);
    clearTimeout(this.controls.planning);
    super.remove();
  }

  /** New steps are here: show the newest, unless the reader has gone back to an earlier one. */
  follow() {
    const last = this.recording.steps.length - 1;
    if (this.recording.run !== this.shownRun) {
      // Another branch is looked at where the reader stands, if it goes so far.
      this.shownRun = this.recording.run;
      this.following = this.model.get("running") || this.step >= last;
      this.position = null;
    }
    if (this.following) this.step = Math.max(last, 0);
    this.draw();
  }

  scrub(step) {
    const last = this.recording.steps.length - 1;
    this.step = clamp(step, 0, last);
    this.position = null;
    this.following = this.step === last;
    this.draw();
  }

  /** A written token shows the step that wrote it, a prompt token its place in the prefill. */
  chooseToken(place) {
    const { about, stepOfToken } = this.recording;
    this.scrub(stepOfToken[place]);
    if (place < about.n_prompt) {
      this.position = place;
      this.following = false;
    }
  }

  chooseLayer(index) {
    this.layer = index;
    this.draw();
  }

  /** The position whose key is pointed at in the attention panel. */
  lookedAt() {
    return this.attention.cursor?.key ?? -1;
  }

  shortcut(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      this.controls.run();
    } else if (event.key === "Escape") {
      this.attention.unlock();
    }
  }

  paint() {
    const { recording } = this;
    const isEmpty = !recording.steps.length;
    this.empty.hidden = !isEmpty;
    this.results.hidden = isEmpty;
    if (isEmpty) return;
    if (!this.attention.width) this.measure();
    const moment = this.moment();
    this.controls.showProgress(recording, this.model.get("running"));
    this.tree.draw(this.recordings.branches, recording.run);
    const last = recording.steps.length - 1;
    const { step, position, isLastOfStep } = moment;
    this.player.show(step, last, momentInWords(recording, step, position, isLastOfStep));
    for (const panel of this.panels) panel.draw(moment);
    this.story.draw(moment); // last, since it asks where its tokens have come to stand
    this.element.dataset.run = recording.run;
  }

  /** What the panels draw: a step of the recording, a position, and how much is to come. */
  moment() {
    const { recording, layer } = this;
    const step = clamp(this.step, 0, recording.steps.length - 1);
    const newest = recording.steps[step].end - 1;
    const position = this.position ?? newest;
    // While tokens are still coming, the panels leave room for all of them.
    const { about } = recording;
    const isGrowing = this.model.get("running");
    return {
      recording,
      step,
      position,
      layer: clamp(layer, 0, about.layers.length - 1),
      isLastOfStep: position === newest,
      columns: isGrowing ? about.n_positions : recording.steps.at(-1).end,
      nSteps: isGrowing ? about.n_steps : recording.steps.length,
    };
  }
}

export default () => {
  const recordings = new Recordings();
  return {
    initialize({ model }) {
      recordings.connect(model);
    },
    render({ model, el }) {
      const view = new View(model, recordings, el);
      return () => view.remove();
    },
  };
};
