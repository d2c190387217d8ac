// Snapshots of a training run on a slider: losses, kinds of heads, attention and text emerge.

import { Surface } from "./page/canvas.js";
import { CHART_HEIGHT, Chart, Panel } from "./page/chart.js";
import { ColourBar } from "./page/colours.js";
import { button, menu, pills, tickBox } from "./page/controls.js";
import { element, say, shape } from "./page/elements.js";
import { Explorer, explorer } from "./page/explorer.js";
import { HeadMap, HeadMaps } from "./page/maps.js";
import { chance, clamp, fixed, grouped, plural, ticks } from "./page/numbers.js";
import { Picking, arrow } from "./page/picking.js";
import { TokenText, shorten, tokenText } from "./page/tokens.js";

const PLAY_STEP_MS = 700;
const LARGEST_MAP = 330;
const KINDS = {
  previous: "the token before",
  first: "the first token",
  induction: "what followed the same token before",
};

// ---------------------------------------------------------------- charts over the steps

/** A chart over the training steps; a click goes to the snapshot that is nearest. */
class StepsPanel extends Panel {
  constructor(view, name, title, unit) {
    super(name, title, unit);
    this.view = view;
    this.chart = new Chart({ onclick: (event) => this.click(event) });
    this.chart.svg.classList.add("lv-training-steps");
    this.body.append(this.chart.svg);
  }

  /** Whether something that the curves depend on is new: a pick of a head is nothing to them. */
  isNew() {
    const { snapshot, log_steps: logSteps } = this.view.state;
    const nRead = this.view.data.readings.filter(Boolean).length;
    const key = `${this.width} ${snapshot} ${logSteps} ${nRead}`;
    const wasNew = key !== this.drawnFor;
    this.drawnFor = key;
    return wasNew;
  }

  /** Axes, the marks of the snapshots, and a line at the one in view; gives x and y of values. */
  axes(high) {
    const { chart, view } = this;
    chart.resize(this.width, CHART_HEIGHT + 10);
    const frame = { left: 36, right: this.width - 12, top: 8, bottom: CHART_HEIGHT - 16 };
    const y = chart.scale(frame, high);
    const x = view.along(frame);
    this.x = x;
    view.data.steps.forEach((step, number) => {
      const isRead = view.data.readings[number] ? "" : " lv-unread";
      chart.line(x(step), frame.bottom, x(step), frame.bottom + 5, `lv-axis${isRead}`);
    });
    for (const step of view.stepMarks()) {
      const anchor = x(step) > frame.right - 16 ? "end" : "middle";
      chart.text(x(step), frame.bottom + 17, grouped(step), "lv-tick", anchor);
    }
    const now = view.data.steps[view.state.snapshot];
    chart.line(x(now), frame.top, x(now), frame.bottom, "lv-training-now");
    return { x, y, frame, now };
  }

  click(event) {
    if (!this.x) return;
    const at = event.clientX - this.chart.svg.getBoundingClientRect().left;
    const far = this.view.data.steps.map((step) => Math.abs(this.x(step) - at));
    this.view.pick({ snapshot: far.indexOf(Math.min(...far)) });
  }

  empty(words) {
    this.chart.resize(this.width, 10);
    this.chart.show("nothing to show");
    this.x = null;
    this.say(words);
  }
}

/** Training loss and held-out loss. */
class LossesPanel extends StepsPanel {
  constructor(view) {
    super(view, "training-losses", "Loss", "nats per token");
  }

  draw() {
    if (!this.isNew()) return;
    const { chart, view } = this;
    const curves = view.curves(["train_loss", "held_out_loss"]);
    if (!curves.length) return this.empty("No table of losses was given (losses=).");
    const values = curves.flatMap(({ points }) => points.map(([, value]) => value));
    const { x, y, now } = this.axes(Math.max(...values));
    curves.forEach(({ name, points }) => {
      chart.path(points.map(([step, value]) => [x(step), y(value)]), `lv-curve lv-${name}`);
      const [step, value] = nearest(points, now);
      chart.add("circle", { cx: x(step), cy: y(value), r: 4, class: `lv-mark lv-${name}` });
    });
    chart.show(`Loss over the steps, step ${now} marked`);
    const words = curves.map(({ name, points }) => {
      const [step, value] = nearest(points, now);
      const near = step === now ? "" : ` (at step ${grouped(step)})`;
      return `${LOSS_WORDS[name]} ${fixed(value)}${near}`;
    });
    this.say(`Step ${grouped(now)}: ${words.join(", ")}.`);
  }
}

const LOSS_WORDS = { train_loss: "training loss", held_out_loss: "held-out loss" };

const nearest = (points, step) =>
  points.reduce((best, point) =>
    Math.abs(point[0] - step) < Math.abs(best[0] - step) ? point : best);

/** How often what a story told is recalled, a line for each kind of question. */
class RecallPanel extends StepsPanel {
  constructor(view) {
    super(view, "training-recall", "Recall", "share of right answers");
    this.legend = element("p", { class: "lv-training-legend" });
    this.element.insertBefore(this.legend, this.caption);
  }

  draw() {
    if (!this.isNew()) return;
    const { chart, view } = this;
    const names = Object.keys(view.data.losses).filter((name) => name.startsWith("recall_"));
    const curves = view.curves(names);
    this.element.hidden = !curves.length;
    if (!curves.length) return;
    const { x, y, now } = this.axes(1);
    const entries = curves.map(({ name, points }, index) => {
      const look = `lv-curve lv-look-${index % 12}`;
      chart.path(points.map(([step, value]) => [x(step), y(value)]), look);
      const [step, value] = nearest(points, now);
      const mark = `lv-mark lv-look-${index % 12}`;
      chart.add("circle", { cx: x(step), cy: y(value), r: 3.2, class: mark });
      const sample = shape("svg", { viewBox: "0 0 22 8", class: "lv-training-sample",
        "aria-hidden": "true" }, shape("path", { d: "M0 4H22", class: look }));
      const words = `${name.slice(7)} ${Math.round(100 * value)}%`;
      return element("span", {}, sample, words);
    });
    const key = entries.map(({ textContent }) => textContent).join();
    if (key !== this.told) this.legend.replaceChildren(...entries);
    this.told = key;
    chart.show(`Recall of ${plural(curves.length, "kind")} of questions over the steps`);
    this.say(`Share of right answers about step ${grouped(now)}.`);
  }
}

/** The score of one kind for every head: a table of colours now, and lines over the snapshots. */
class KindsPanel extends StepsPanel {
  constructor(view) {
    super(view, "training-kinds", "Kinds of heads", "mean weight given there, 0 to 1");
    this.kind = pills(
      "weight on",
      view.data.kinds.map((kind) => [kind, kind, `${kind}: ${KINDS[kind]}`]),
      (kind) => view.pick({ kind }),
    );
    this.tools.append(this.kind.element);
    this.surface = new Surface({
      class: "lv-map lv-training-table",
      tabindex: "0",
      role: "application",
      onclick: (event) => this.pickCell(event),
      onkeydown: (event) => this.move(event),
    });
    this.names = new Chart({ class: "lv-chart lv-over", "aria-hidden": "true" });
    const table = element("div", { class: "lv-training-cells" }, this.surface.canvas,
      this.names.svg);
    const lines = element("div", { class: "lv-training-lines" }, this.chart.svg);
    this.body.append(table, lines);
    this.table = table;
    this.lines = lines;
  }

  measure() {
    this.width = Math.max(this.lines.clientWidth, 200);
    this.tableWidth = Math.max(this.table.clientWidth, 160);
  }

  draw() {
    const { view } = this;
    this.kind.set(view.state.kind);
    this.drawTable();
    this.drawLines();
  }

  drawTable() {
    const { surface, view, names } = this;
    const { n_layers: nLayers, n_heads: nHeads } = view.data;
    const scores = view.scores(view.state.snapshot);
    const left = 50;
    this.cell = Math.min((this.tableWidth - left) / nHeads, 34);
    this.row = clamp(150 / nLayers, 9, 30);
    this.left = left;
    surface.resize(this.tableWidth, nLayers * this.row + 20);
    names.resize(this.tableWidth, nLayers * this.row + 20);
    const context = surface.clear();
    const { sequential, masked, vermilion } = view.colours;
    const colours = Uint32Array.from({ length: nLayers * nHeads }, (_, index) =>
      scores && !Number.isNaN(scores[index])
        ? sequential[Math.round(255 * clamp(scores[index], 0, 1))] : masked);
    surface.cells(colours, nLayers, nHeads, left, 0, this.cell * nHeads, this.row * nLayers);
    const { layer, head } = view.state;
    context.strokeStyle = vermilion;
    context.lineWidth = 2;
    context.strokeRect(left + head * this.cell, layer * this.row, this.cell, this.row);
    const everyLayer = Math.ceil(11 / this.row);
    const everyHead = Math.ceil(18 / this.cell);
    for (let number = 0; number < nLayers; number += everyLayer) {
      const y = (number + 0.5) * this.row + 3.5;
      names.text(left - 5, y, `layer ${number}`, "lv-tick", "end");
    }
    for (let number = 0; number < nHeads; number += everyHead) {
      const x = left + (number + 0.5) * this.cell;
      names.text(x, nLayers * this.row + 13, String(number), "lv-tick", "middle");
    }
    names.text(left - 5, nLayers * this.row + 13, "head", "lv-tick", "end");
    names.show("");
    const score = scores?.[layer * nHeads + head];
    this.surface.canvas.setAttribute("aria-label",
      `Scores of ${nLayers} layers by ${nHeads} heads; layer ${layer}, head ${head}: ` +
        `${score === undefined ? "not read yet" : fixed(score)}. Arrow keys choose a head.`);
  }

  drawLines() {
    const { chart, view } = this;
    const { x, y, now } = this.axes(this.highest());
    const { layer, head, kind } = view.state;
    const { n_heads: nHeads, n_layers: nLayers, steps } = view.data;
    const read = steps.map((_, number) => number).filter((number) => view.scores(number));
    const line = (index) => read
      .map((number) => [x(steps[number]), y(view.scores(number)[index])])
      .filter(([, height]) => !Number.isNaN(height));
    const chosen = layer * nHeads + head;
    for (let index = 0; index < nLayers * nHeads; index++) {
      if (index !== chosen && read.length) chart.path(line(index), "lv-curve lv-training-other");
    }
    chart.path(line(chosen), "lv-curve lv-training-chosen");
    for (const [cx, cy] of line(chosen)) {
      chart.add("circle", { cx, cy, r: 3, class: "lv-mark lv-training-chosen" });
    }
    chart.show(`${kind} score of every head over the snapshots; layer ${layer}, head ${head} stands out`);
    this.say(this.inWords(read, now, kind, chosen));
  }

  /** The axis reaches the highest score of any snapshot, and at least a fifth. */
  highest() {
    let high = 0.2;
    this.view.data.steps.forEach((_, number) => {
      for (const score of this.view.scores(number) ?? []) if (score > high) high = score;
    });
    return high;
  }

  inWords(read, now, kind, chosen) {
    const { view } = this;
    const { n_heads: nHeads, steps } = view.data;
    const place = (index) => `layer ${Math.floor(index / nHeads)}, head ${index % nHeads}`;
    const meaning = `${kind}: mean weight on ${KINDS[kind]}.`;
    const scores = view.scores(view.state.snapshot);
    if (!scores) return `${meaning} Step ${grouped(now)} is not read yet.`;
    if (scores.every(Number.isNaN)) return `${meaning} No token of the prompt comes again.`;
    const best = scores.reduce((top, score, index) => (score > scores[top] ? index : top), 0);
    const words = [
      `${meaning} At step ${grouped(now)} the strongest is ${place(best)} with ${fixed(scores[best])};`,
      `${place(chosen)} has ${fixed(scores[chosen])}.`,
    ];
    const last = read.at(-1);
    const final = view.scores(last)[chosen];
    const start = view.scores(read[0])[chosen];
    if (read.length === steps.length && final > 2 * start && final > 0.2) {
      const half = read.find((number) => view.scores(number)[chosen] >= final / 2);
      words.push(`It reaches half of its last score by step ${grouped(steps[half])}.`);
    }
    return words.join(" ");
  }

  pickCell(event) {
    const [x, y] = this.surface.place(event);
    const head = Math.floor((x - this.left) / this.cell);
    const layer = Math.floor(y / this.row);
    const { n_layers: nLayers, n_heads: nHeads } = this.view.data;
    if (head >= 0 && head < nHeads && layer >= 0 && layer < nLayers) this.view.pick({ layer, head });
  }

  move(event) {
    const step = arrow(event);
    if (!step) return;
    event.preventDefault();
    const { layer, head } = this.view.state;
    const { n_layers: nLayers, n_heads: nHeads } = this.view.data;
    this.view.pick({
      layer: clamp(layer + step[0], 0, nLayers - 1),
      head: clamp(head + step[1], 0, nHeads - 1),
    });
  }
}

// ---------------------------------------------------------------- texts

/** What the snapshot in view writes, and below it what every one of them does. */
class TextsPanel extends Panel {
  constructor(view) {
    super("training-texts", "What it writes", "after the prompt, the likeliest token each time");
    this.view = view;
    this.told = [];
    this.now = element("p", { class: "lv-training-text", dir: "auto" });
    this.rows = view.data.steps.map((step, number) => {
      const text = element("span", { class: "lv-training-row-text" });
      const row = element(
        "button",
        { type: "button", class: "lv-training-row", onclick: () => view.pick({ snapshot: number }) },
        element("strong", {}, `step ${grouped(step)}`),
        text,
      );
      return { row, text };
    });
    const list = this.rows.map(({ row }) => element("li", {}, row));
    this.body.append(this.now, element("ol", { class: "lv-training-rows" }, ...list));
    this.caption.remove();
  }

  draw() {
    const { data, state } = this.view;
    const reading = data.readings[state.snapshot];
    const prompt = data.tokens.map(plain).join("").trim();
    const key = `${state.snapshot} ${Boolean(reading)}`;
    if (key !== this.shown) {
      this.shown = key;
      this.now.replaceChildren(
        element("span", { class: "lv-training-prompt" }, prompt),
        element("span", {}, reading ? reading.tokens.map(plain).join("") : " … is being read"),
      );
    }
    this.rows.forEach(({ row, text }, number) => {
      row.setAttribute("aria-current", String(number === state.snapshot));
      const own = data.readings[number] ?? null;
      if (this.told[number] === own) return;
      this.told[number] = own;
      say(text, own ? own.tokens.map(plain).join("").trim() || "(nothing)" : "not read yet");
    });
  }
}

/** A token as running text: a space where its label has a mark for one. */
const plain = ({ label, character }) => {
  if (/^<0x[0-9A-F]{2}>$/.test(label)) return character ?? "";
  return label === "<s>" ? "" : label.replaceAll("▁", " ");
};

// ---------------------------------------------------------------- attention and the next token

/** The prompt, all heads of a layer small, and one of them large. */
class AttentionPanel extends Panel {
  constructor(view) {
    super("training-attention", "Attention", "weight, 0 to 1");
    this.view = view;
    const layers = Array.from({ length: view.data.n_layers }, (_, layer) => [layer, `layer ${layer}`]);
    this.layer = menu("Layer", layers, (layer) => view.pick({ layer }));
    this.tools.append(this.layer.element);
    this.heads = new HeadMaps({ onpick: (head) => view.pick({ head }) });
    this.map = new HeadMap({
      onpoint: (place) => view.picking.point(place),
      onlock: (place) => view.lock(place),
      onmove: (place) => view.picking.move(place),
    });
    this.small = element("div", { class: "lv-training-small" }, this.heads.element);
    this.large = element("div", { class: "lv-training-large" }, this.map.element);
    this.readout = element("p", { class: "lv-readout" });
    this.bar = new ColourBar();
    this.bar.show({ kind: "sequential", low: "0", high: "1", masked: true,
      meaning: "attention weight" });
    this.body.append(this.small, this.large);
    this.element.insertBefore(this.readout, this.caption);
    this.element.insertBefore(this.bar.element, this.caption);
  }

  measure() {
    this.smallWidth = Math.max(this.small.clientWidth, 120);
    this.largeWidth = Math.max(this.large.clientWidth, 120);
  }

  draw() {
    const { view } = this;
    const { data, state, colours } = view;
    const { layer, head, position, snapshot } = state;
    const packed = view.arrays[`attention ${snapshot}`];
    const n = packed ? packed.shape[2] : 0;
    const weights = packed?.values;
    const start = layer * data.n_heads * n * n;
    this.layer.set(layer);
    const name = `Step ${data.steps[snapshot]}, layer ${layer}`;
    this.heads.draw({ weights, start, n, nHeads: data.n_heads, chosen: head,
      width: this.smallWidth, colours, name });
    const own = start + head * n * n;
    const cursor = view.picking.current;
    const side = Math.min(this.largeWidth, LARGEST_MAP);
    this.map.draw({ weights, start: own, n, row: position, cursor,
      isLocked: view.picking.isLocked, side, colours, name: `${name}, head ${head}` });
    view.weight = (query, key) => (n ? weights[own + query * n + key] / 255 : 0);
    say(this.readout, n ? this.inWords(cursor) : "This snapshot is not read yet.");
    this.say(`Layer ${layer} at step ${grouped(data.steps[snapshot])}; head ${head} large.`);
  }

  inWords(cursor) {
    const { view } = this;
    const { tokens } = view.data;
    const query = cursor?.query ?? view.state.position;
    let key = cursor?.key ?? 0;
    if (!cursor) {
      for (let one = 1; one <= query; one++) {
        if (view.weight(query, one) > view.weight(query, key)) key = one;
      }
    }
    const lock = cursor && view.picking.isLocked ? " — locked, Escape unlocks" : "";
    const what = cursor ? "" : "Strongest: ";
    return `${what}${tokenText(tokens[query])} (${query}) → ${tokenText(tokens[key])} (${key}): ` +
      `weight ${fixed(view.weight(query, key))}${lock}`;
  }
}

/** The likeliest next tokens after a position of the prompt. */
class NextPanel extends Panel {
  constructor(view) {
    super("training-next", "Next token", "probability");
    this.view = view;
    this.chart = new Chart();
    this.body.append(this.chart.svg);
  }

  draw() {
    const { chart, view } = this;
    const { position, snapshot } = view.state;
    const rows = view.candidates(snapshot, position);
    const { tokens, steps } = view.data;
    chart.resize(this.width, Math.max(rows.length, 1) * 22 + 4);
    const left = Math.min(92, this.width * 0.36);
    const full = this.width - left - 44;
    rows.forEach(({ label, probability, came }, rank) => {
      const y = rank * 22;
      const strong = came ? "lv-strong" : "";
      chart.text(left - 6, y + 15, shorten(label, 12), `lv-label ${strong}`, "end");
      chart.box(left, y + 4, full, 15, "lv-track");
      const name = came ? "lv-bar lv-came" : "lv-bar";
      chart.box(left, y + 4, Math.max(probability * full, 1), 15, name);
      chart.text(left + full + 4, y + 15, chance(probability), `lv-tick ${strong}`);
    });
    chart.show(`The ${plural(rows.length, "likeliest next token")} after position ${position}`);
    const came = tokens[position + 1];
    const loss = view.data.readings[snapshot]?.loss;
    const whole = loss ? ` On the whole prompt: ${fixed(loss.nats)} nats per token.` : "";
    const then = came ? `${tokenText(came)} came.` : "the prompt ends here.";
    this.say(`After ${tokenText(tokens[position])} (${position}) at step ` +
      `${grouped(steps[snapshot])}; ${then}${whole}`);
  }
}

// ---------------------------------------------------------------- the explorer

class TrainingView extends Explorer {
  constructor(model, connection, root) {
    super(model, connection, root, "Training explorer");
  }

  build(root, { header, arrays }) {
    this.data = header;
    this.arrays = arrays;
    this.scoresOf = new Map();
    this.picking = new Picking(() => this.draw());
    this.buildPlayer();
    this.text = new TokenText({
      label: "Tokens of the prompt",
      onpick: (position) => this.pick({ position }),
    });
    this.text.fill(header.tokens);
    this.panels = [
      new LossesPanel(this),
      new RecallPanel(this),
      new TextsPanel(this),
      new KindsPanel(this),
      new AttentionPanel(this),
      new NextPanel(this),
    ];
    const hint = element("p", { class: "lv-legend" },
      "The prompt: a pick chooses the position; shaded by the weight that it gives in this head.");
    root.append(
      this.player,
      this.reading,
      element("div", { class: "lv-panels" },
        ...this.panels.slice(0, 4).map((panel) => panel.element),
        element("div", { class: "lv-training-story" }, this.text.element, hint),
        ...this.panels.slice(4).map((panel) => panel.element)),
      this.table.button,
      this.table.region,
    );
    this.readRest();
  }

  /** The slider over the snapshots, Play, and the switch of the axis. */
  buildPlayer() {
    const last = this.data.steps.length - 1;
    this.play = button("▶", () => this.togglePlay(), { class: "lv-button lv-training-play" });
    this.range = element("input", {
      type: "range", min: 0, max: last, step: 1, "aria-label": "Snapshot",
      oninput: () => this.pick({ snapshot: Number(this.range.value) }),
    });
    this.moment = element("strong", { class: "lv-training-moment" });
    this.logarithmic = tickBox("logarithmic steps", (value) => this.pick({ log_steps: value }));
    this.player = element("div", { class: "lv-training-player" }, this.play, this.range,
      this.moment, this.logarithmic.element);
    this.readingWords = element("span", {});
    this.readingButton = button("Stop reading", () => this.toggleReading());
    this.reading = element("p", { class: "lv-training-reading" }, this.readingWords, " ",
      this.readingButton);
    this.isReading = this.isLive;
  }

  measure() {
    for (const panel of this.panels) panel.measure();
  }

  // Snapshots that are not read yet

  /** One after another, the one in view first; each is run in the kernel once. */
  async readRest() {
    const { data } = this;
    while (this.isReading && this.data === data && this.element.isConnected !== false) {
      const number = this.nextToRead();
      if (number === null) break;
      if (!(await this.readOne(number))) {
        this.isReading = false;
        break;
      }
    }
    this.draw();
  }

  nextToRead() {
    const unread = this.data.readings.flatMap((own, number) => (own ? [] : [number]));
    if (!unread.length) return null;
    return unread.includes(this.state.snapshot) ? this.state.snapshot : unread.at(-1);
  }

  /** The content itself takes what comes, so that a display that opens later has it as well. */
  async readOne(number) {
    const { data, arrays } = this;
    const answer = await this.more("snapshot", { number });
    if (!answer) return false;
    data.readings[number] = answer.header;
    for (const [name, array] of Object.entries(answer.arrays)) arrays[`${name} ${number}`] = array;
    this.draw();
    return true;
  }

  toggleReading() {
    this.isReading = !this.isReading;
    if (this.isReading) this.readRest();
    this.draw();
  }

  // Playing

  /** Where the reader wants no motion, a press goes one snapshot on. */
  togglePlay() {
    const last = this.data.steps.length - 1;
    const next = () => (this.state.snapshot >= last ? 0 : this.state.snapshot + 1);
    if (wantsNoMotion.matches) return this.pick({ snapshot: next() });
    if (this.playing) return this.pause();
    this.pick({ snapshot: next() });
    this.playing = setInterval(() => {
      if (this.state.snapshot >= last) this.pause();
      else if (this.data.readings[this.state.snapshot]) this.pick({ snapshot: next() });
    }, PLAY_STEP_MS);
    this.draw();
  }

  pause() {
    clearInterval(this.playing);
    this.playing = null;
    this.draw();
  }

  remove() {
    clearInterval(this.playing);
    this.isReading = false;
    super.remove();
  }

  // What panels read

  /** Where a step lies: evenly, or by its logarithm, with step 0 before step 1. */
  along({ left, right }) {
    const high = this.lastStep;
    if (!this.state.log_steps) return (step) => left + (step / (high || 1)) * (right - left);
    const low = this.firstStep;
    const start = left + 0.07 * (right - left);
    const share = (step) => Math.log(step / low) / Math.log(high / low || 2);
    return (step) => (step < low ? left : start + share(step) * (right - start));
  }

  get lastStep() {
    return Math.max(...this.data.steps, ...(this.data.losses.step ?? []), 1);
  }

  /** The first step after 0 that something is known of. */
  get firstStep() {
    const steps = [...this.data.steps, ...(this.data.losses.step ?? [])].filter((step) => step > 0);
    return Math.min(...steps, this.lastStep);
  }

  /** The steps that are written under an axis. */
  stepMarks() {
    const high = this.lastStep;
    if (!this.state.log_steps) return ticks(high, 4).filter((step) => step <= high && step % 1 === 0);
    const powers = [];
    for (let power = 1; power <= high; power *= 10) if (power >= this.firstStep) powers.push(power);
    const marks = powers.length > 1 ? powers : [this.firstStep, high];
    return this.data.steps[0] === 0 ? [0, ...marks.filter((step) => step > 0)] : marks;
  }

  /** Columns of the table of losses as points [step, value], less what was not measured. */
  curves(names) {
    const { losses } = this.data;
    return names.filter((name) => losses[name]).map((name) => ({
      name,
      points: losses[name]
        .map((value, row) => [losses.step[row], value])
        .filter(([, value]) => value !== null),
    })).filter(({ points }) => points.length);
  }

  /** The scores of the chosen kind in a snapshot, (layer, head); null where it is not read. */
  scores(number) {
    const packed = this.arrays[`kinds ${number}`];
    if (!packed) return null;
    const [, nLayers, nHeads] = packed.shape;
    const from = this.data.kinds.indexOf(this.state.kind) * nLayers * nHeads;
    return packed.values.subarray(from, from + nLayers * nHeads);
  }

  candidates(number, position) {
    const labels = this.data.readings[number]?.candidates[position];
    if (!labels) return [];
    const ids = this.arrays[`candidate_id ${number}`];
    const from = position * ids.shape[1];
    const came = this.data.tokens[position + 1];
    return labels.map((label, rank) => ({
      label,
      probability: this.arrays[`candidate_probability ${number}`].values[from + rank],
      came: came !== undefined && came.id === ids.values[from + rank],
    }));
  }

  lock(place) {
    if (!place) return;
    this.picking.lock(place);
    if (this.picking.isLocked) this.pick({ position: place.query });
  }

  escape() {
    return this.picking.unlock();
  }

  // Drawing

  show() {
    const { data, state } = this;
    const step = data.steps[state.snapshot];
    const words = `step ${grouped(step)} (${state.snapshot + 1} of ${data.steps.length})`;
    this.range.value = state.snapshot;
    this.range.setAttribute("aria-valuetext", words);
    say(this.moment, words);
    say(this.play, this.playing ? "❚❚" : "▶");
    const name = wantsNoMotion.matches ? "Next snapshot" : "Play the snapshots";
    this.play.setAttribute("aria-label", this.playing ? "Pause" : name);
    this.logarithmic.set(state.log_steps);
    this.showReading();
    for (const panel of this.panels) panel.draw();
    this.text.choose(state.position);
    this.text.mark("lv-training-picked", [state.position]);
    const cursor = this.picking.current;
    this.text.mark("lv-looked-at", cursor ? [cursor.key] : []);
    const query = state.position;
    this.text.shade(data.tokens.map((_, key) => (key <= query ? this.weight(query, key) : 0)));
    this.announce(`step ${step}, layer ${state.layer}, head ${state.head}, ` +
      `position ${query} ${tokenText(data.tokens[query])}`);
    const current = data.readings[state.snapshot];
    if (!current && this.isLive && !this.isReading) this.readOne(state.snapshot);
  }

  showReading() {
    const { readings } = this.data;
    const nRead = readings.filter(Boolean).length;
    this.reading.hidden = nRead === readings.length || !this.isLive;
    say(this.readingWords, `${nRead} of ${plural(readings.length, "snapshot")} read.`);
    say(this.readingButton, this.isReading ? "Stop reading" : "Read the rest");
  }

  numbers() {
    const { data, state } = this;
    const { layer, head, kind, position } = state;
    const at = (name, step) => {
      const [curve] = this.curves([name]);
      return curve ? nearest(curve.points, step) : null;
    };
    const rows = data.steps.map((step, number) => {
      const scores = this.scores(number);
      const [best] = this.candidates(number, position);
      const loss = data.readings[number]?.loss;
      const losses = ["train_loss", "held_out_loss"].map((name) => at(name, step));
      return [
        `${number === state.snapshot ? "▸ " : ""}${grouped(step)}`,
        ...losses.map((point) => (point ? fixed(point[1], 3) : "—")),
        loss ? fixed(loss.nats, 3) : "—",
        scores ? fixed(scores[layer * data.n_heads + head], 3) : "—",
        best ? `${best.label} ${chance(best.probability)}` : "—",
        data.readings[number]?.tokens.map(plain).join("") ?? "not read yet",
      ];
    });
    return {
      caption: `Every snapshot; ${kind} score of layer ${layer}, head ${head}; the likeliest token ` +
        `after position ${position}.`,
      header: ["step", "training loss", "held-out loss", "loss on the prompt", `${kind} score`,
        "next token", "text"],
      rows,
    };
  }
}

const wantsNoMotion = window.matchMedia("(prefers-reduced-motion: reduce)");

export default explorer(TrainingView);
