// Models side by side on one prompt: what is picked in one column is picked in all.

import { CHART_HEIGHT, Chart, Panel } from "./page/chart.js";
import { ColourBar } from "./page/colours.js";
import { button, field, menu, numberInput, numberOf, slider } from "./page/controls.js";
import { element, keepKeys, newId, say, shape } from "./page/elements.js";
import { Explorer, explorer } from "./page/explorer.js";
import { HeadMap, HeadMaps } from "./page/maps.js";
import { brief, bytes, chance, clamp, fixed, grouped, median, plural } from "./page/numbers.js";
import { Picking } from "./page/picking.js";
import { TokenText, shorten, tokenText } from "./page/tokens.js";

const ORDERS = ["one after another", "in turns"];
const LARGEST_MAP = 320;

/** The place among `other` that lies as deep as place `number` of `count`; as in Python. */
const sameDepth = (number, count, other) =>
  Math.floor((number / Math.max(count - 1, 1)) * (other - 1) + 0.5);

const whole = (number) => number !== null && Number.isInteger(number);

// ---------------------------------------------------------------- one column

/** One model: its name, wiring, text, heads, one head large, and the next token. */
class Column {
  constructor(view, number) {
    this.view = view;
    this.number = number;
    const id = newId("column");
    this.title = element("strong", { id });
    this.sizes = element("small", {});
    this.wiring = element("div", { class: "lv-compare-wiring" });
    this.text = new TokenText({
      label: `Tokens of column ${number}`,
      onpick: (position) => view.pickPosition(number, position),
    });
    this.where = element("p", { class: "lv-compare-where" });
    this.heads = new HeadMaps({ onpick: (head) => view.pickHead(number, head) });
    this.headsBox = element("div", { class: "lv-compare-heads" }, this.where, this.heads.element);
    const onto = (place) => place && { column: number, ...place };
    this.map = new HeadMap({
      onpoint: (place) => view.picking.point(onto(place)),
      onlock: (place) => view.lock(onto(place)),
      onmove: (place) => view.picking.move(onto(place)),
    });
    this.readout = element("p", { class: "lv-readout" });
    this.candidates = new Chart();
    this.next = element("p", { class: "lv-compare-where" });
    this.element = element(
      "section",
      { class: `lv-compare-column lv-compare-${number}`, "aria-labelledby": id },
      element("p", { class: "lv-compare-name" }, line(number), this.title, " ", this.sizes),
      this.wiring,
      this.text.element,
      this.headsBox,
      element("div", {}, this.map.element, this.readout),
      element("div", { class: "lv-compare-next" }, this.next, this.candidates.svg),
    );
  }

  get data() {
    return this.view.data.columns[this.number];
  }

  measure() {
    this.width = Math.max(this.headsBox.clientWidth, 120);
  }

  /** The last token was written but not read: it stands for the position that wrote it. */
  clampPosition(position) {
    return clamp(position, 0, Math.max(this.data.n_positions, 1) - 1);
  }

  draw() {
    const { data, view } = this;
    say(this.title, data.name);
    say(this.sizes, sizesInWords(data));
    this.drawWiring();
    this.drawText();
    this.drawAttention();
    this.drawCandidates(view.positionIn(this.number));
  }

  drawWiring() {
    const head = this.view.headIn(this.number);
    const key = `${head} ${this.width}`;
    if (this.wired === key) return;
    this.wired = key;
    this.wiring.replaceChildren(wiringOf(this.data, head, this.width));
  }

  drawText() {
    const { data, text } = this;
    const { run } = data;
    if (this.filled !== run || text.spans.length !== data.tokens.length) {
      if (this.filled !== run || text.spans.length > data.tokens.length) text.fill([]);
      this.filled = run;
      text.extend(data.tokens);
      const written = data.tokens.map((_, place) => place).filter((p) => p >= data.n_prompt);
      text.mark("lv-compare-written", written);
    }
    const position = this.view.positionIn(this.number);
    text.mark("lv-compare-picked", data.tokens.length ? [position] : []);
    text.choose(position);
    text.reveal(position);
    const place = this.view.cursorIn(this.number);
    text.mark("lv-looked-at", place ? [place.key] : []);
  }

  drawAttention() {
    const { data, number, view } = this;
    const layer = view.layerIn(number);
    const head = view.headIn(number);
    const position = view.positionIn(number);
    const found = view.attention(number, layer);
    const n = found.weights ? found.n : 0;
    const name = `${data.name}, layer ${layer}`;
    const { colours } = view;
    say(this.where, n ? `layer ${layer} of ${data.n_layers}, all heads` : found.why);
    const sizes = { n, nHeads: data.n_heads, width: this.width, colours };
    this.heads.draw({ ...found, ...sizes, chosen: head, name });
    const start = n ? found.start + head * n * n : 0;
    const cursor = view.cursorIn(number);
    const side = Math.min(this.width, LARGEST_MAP);
    const isLocked = view.picking.isLocked;
    this.map.draw({ weights: found.weights, start, n, row: position, cursor, isLocked, side,
      colours, name: `${name}, head ${head}` });
    this.shown = { weights: found.weights, start, n, layer, head };
    const row = n && position < n ? this.rowOf(position) : null;
    this.text.shade(
      row && Array.from(data.tokens, (_, key) => (key < n ? row[key] / 255 : 0)),
    );
    say(this.readout, n ? this.inWords(cursor, position) : "");
  }

  rowOf(query) {
    const { weights, start, n } = this.shown;
    return weights.subarray(start + query * n, start + (query + 1) * n);
  }

  weight(query, key) {
    const { n } = this.shown;
    return query < n && key <= query ? this.rowOf(query)[key] / 255 : null;
  }

  /** The key that a query looks at most; the first position often takes what has no use. */
  strongest(query) {
    const row = this.rowOf(query);
    let best = Math.min(1, query);
    for (let key = best; key <= query; key++) if (row[key] > row[best]) best = key;
    return best;
  }

  inWords(cursor, position) {
    const { layer, head, n } = this.shown;
    const query = Math.min(cursor ? cursor.query : position, n - 1);
    const key = Math.min(cursor ? cursor.key : this.strongest(query), query);
    const { tokens } = this.data;
    const what = cursor ? "" : "Strongest after position 0: ";
    const from = `${tokenText(tokens[query])} (${query})`;
    const to = `${tokenText(tokens[key])} (${key})`;
    const lock = cursor && this.view.picking.isLocked ? " — locked, Escape unlocks" : "";
    const value = fixed(this.weight(query, key));
    return `${what}layer ${layer}, head ${head}: ${from} → ${to} ${value}${lock}`;
  }

  /** The likeliest tokens after a position, and the one that really came. */
  rows(position) {
    const { arrays, data } = this.view;
    const labels = this.data.candidates?.[position];
    const probabilities = arrays[`candidate_probability ${this.number}`];
    if (!labels || !probabilities) return [];
    const ids = arrays[`candidate_id ${this.number}`];
    const [, count] = probabilities.shape;
    const came = this.data.tokens[position + 1];
    return labels.map((label, rank) => ({
      label,
      probability: probabilities.values[position * count + rank],
      came: came !== undefined && came.id === ids.values[position * count + rank],
    })).filter(({ probability }) => !Number.isNaN(probability));
  }

  drawCandidates(position) {
    const { candidates: chart, data } = this;
    const rows = this.rows(position);
    const token = data.tokens[position];
    const why = data.n_positions ? (data.missing.logits ?? "") : "";
    say(this.next, rows.length ? `Next after ${shorten(tokenText(token), 14)} (${position})` : why);
    chart.resize(this.width, rows.length * 19 + 2);
    const left = Math.min(82, this.width * 0.36);
    const full = this.width - left - 40;
    rows.forEach(({ label, probability, came }, rank) => {
      const y = rank * 19;
      const strong = came ? "lv-strong" : "";
      chart.text(left - 6, y + 13, shorten(label, 11), `lv-label ${strong}`, "end");
      chart.box(left, y + 3, full, 13, "lv-track");
      const name = came ? "lv-bar lv-came" : "lv-bar";
      chart.box(left, y + 3, Math.max(probability * full, 1), 13, name);
      chart.text(left + full + 4, y + 13, chance(probability), `lv-tick ${strong}`);
    });
    chart.show(`${data.name}: the ${plural(rows.length, "likeliest next token")}`);
  }
}

function sizesInWords({ kind, n_layers: nLayers, n_heads: nHeads, n_kv_heads: nKvHeads }) {
  return `${kind}: ${plural(nLayers, "layer")}, ${plural(nHeads, "head")}, ${nKvHeads} kv`;
}

/** The line that stands for a column in all charts. */
function line(number) {
  return shape(
    "svg",
    { class: "lv-compare-line", viewBox: "0 0 26 8", "aria-hidden": "true" },
    shape("line", { x1: 0, y1: 4, x2: 26, y2: 4, class: `lv-line-${number}` }),
  );
}

/** Query heads above, key/value heads below, drawn from the configuration. */
function wiringOf(data, chosen, width) {
  const { n_heads: nHeads, n_kv_heads: nKvHeads, kv_head_of_head: groups } = data;
  const height = 46;
  const across = (index, count) => ((index + 0.5) * width) / count;
  const radius = clamp((width / nHeads) * 0.3, 1, 4.5);
  const drawing = new Chart({ class: "lv-chart lv-wires" });
  drawing.resize(width, height);
  const isShared = (head) => groups[head] === groups[chosen];
  for (let head = 0; head < nHeads; head++) {
    const name = isShared(head) ? "lv-wire lv-wire-shared" : "lv-wire";
    drawing.line(across(head, nHeads), 8, across(groups[head], nKvHeads), height - 8, name);
  }
  for (let head = 0; head < nHeads; head++) {
    const name = head === chosen ? "lv-query lv-query-chosen" : "lv-query";
    drawing.add("circle", { cx: across(head, nHeads), cy: 8, r: radius, class: name });
  }
  for (let group = 0; group < nKvHeads; group++) {
    const x = across(group, nKvHeads) - radius;
    drawing.box(x, height - 8 - radius, 2 * radius, 2 * radius, "lv-shared");
  }
  drawing.show(
    `${data.name}: ${plural(nHeads, "query head")} above, ` +
      `${plural(nKvHeads, "key/value head")} below; head ${chosen} reads ${groups[chosen]}`,
  );
  return drawing.svg;
}

// ---------------------------------------------------------------- what all columns share

/** Bytes of the cache after each step, all models on one scale. */
class CachePanel extends Panel {
  constructor(view) {
    super("compare-cache", "KV cache", "bytes of all layers, after each step");
    this.view = view;
    this.chart = new Chart();
    this.body.append(this.chart.svg);
  }

  draw() {
    const { chart, view } = this;
    const { columns } = view.data;
    const curves = columns.map(({ cache, formula }) => cache ?? formula ?? []);
    if (!curves.some((curve) => curve.length)) return this.empty("Nothing has run yet.");
    const nSteps = Math.max(...curves.map((curve) => curve.length));
    const { x, y } = axes(chart, this.width, nSteps, Math.max(...curves.flat()), bytes);
    curves.forEach((curve, number) => {
      chart.path(curve.map((size, step) => [x(step), y(size)]), `lv-line-${number}`);
      const step = Math.min(view.stepIn(number), curve.length - 1);
      if (step < 0) return;
      const point = { cx: x(step), cy: y(curve[step]), r: 3.5, class: `lv-dot-${number}` };
      chart.add("circle", point, shape("title", {}, `step ${step}: ${grouped(curve[step])} bytes`));
    });
    chart.show(`KV cache of ${plural(columns.length, "model")} over ${plural(nSteps, "step")}`);
    this.say(columns.map((column, number) => this.inWords(column, number)).join(" "));
  }

  inWords(column, number) {
    const { n_layers: nLayers, n_kv_heads: nKvHeads, head_dim: headDim, cache, formula } = column;
    const step = Math.min(this.view.stepIn(number), (formula ?? cache ?? []).length - 1);
    if (step < 0) return `${column.name}: not run.`;
    const held = column.step_of.filter((own) => own <= step).length;
    const sum = `2 × ${nLayers} × ${nKvHeads} × ${headDim} × ${held} × ${column.item_bytes}`;
    const verdict = !cache ? "by the formula alone, the cache was not recorded"
      : cache[step] === formula?.[step] ? "as recorded" : `recorded: ${grouped(cache[step])}`;
    return `${column.name}: ${sum} = ${grouped(formula?.[step] ?? cache[step])}, ${verdict}.`;
  }

  empty(words) {
    this.chart.resize(this.width, 10);
    this.chart.show("nothing to show yet");
    this.say(words);
  }
}

/** Time of each decode step, from runs that nothing was recorded from. */
class TimePanel extends Panel {
  constructor(view) {
    super("compare-time", "Time per step", "milliseconds, unrecorded");
    this.view = view;
    this.chart = new Chart();
    this.body.append(this.chart.svg);
  }

  draw() {
    const { chart, view } = this;
    const { columns, runs } = view.data;
    const decode = columns.map(({ seconds }) => (seconds ?? []).slice(1).map((s) => 1000 * s));
    const measured = decode.filter((times) => times.length);
    if (!measured.length) {
      chart.resize(this.width, 10);
      chart.show("no times were measured");
      const how = runs ? "Run measures them: each model then writes its text once more, with " +
        "nothing recorded." : "Recorded runs: recording slows a step, so no times are shown.";
      return this.say(view.isLive || !runs ? how : "No times were measured before this was saved.");
    }
    const nSteps = Math.max(...decode.map((times) => times.length)) + 1;
    // A pause of the machine leaves the frame instead of squeezing every other step.
    const high = 1.8 * Math.max(...measured.map(median));
    const { x, y, frame } = axes(chart, this.width, nSteps, high, brief);
    decode.forEach((times, number) => {
      const inside = (value) => Math.max(y(value), frame.top - 4);
      const points = times.map((value, step) => [x(step + 1), inside(value)]);
      chart.path(points, `lv-line-${number}`);
    });
    chart.show(`Time of ${plural(nSteps - 1, "decode step")} of ${plural(columns.length, "model")}`);
    this.say(columns.map((column, number) => this.inWords(column, decode[number])).join(" "));
  }

  inWords({ name, seconds }, times) {
    if (!times.length) return `${name}: not measured.`;
    const middle = median(times);
    return `${name}: median ${brief(middle)} ms (${brief(1000 / middle)} tokens/s), ` +
      `prefill ${brief(1000 * seconds[0])} ms.`;
  }
}

/** Loss on the prompt, a bar for each model. */
class LossPanel extends Panel {
  constructor(view) {
    super("compare-loss", "Loss on the prompt", "nats per token");
    this.view = view;
    this.chart = new Chart();
    this.body.append(this.chart.svg);
  }

  draw() {
    const { chart, view } = this;
    const { columns, lock } = view.data;
    const known = columns.filter(({ loss }) => loss);
    chart.resize(this.width, columns.length * 30 + 8);
    const most = Math.max(...known.map(({ loss }) => loss.nats), 1e-6);
    const letters = Math.min(Math.max(...columns.map(({ name }) => name.length)), 13);
    const left = 7 * letters + 8;
    const full = this.width - left - 40;
    columns.forEach(({ name, loss }, number) => {
      const y = number * 30 + 4;
      chart.text(left - 6, y + 15, shorten(name, 13), "lv-label", "end");
      if (!loss) return chart.text(left, y + 15, "not known", "lv-tick");
      const width = (loss.nats / most) * full;
      chart.box(left, y + 2, width, 18, `lv-fill-${number}`);
      chart.text(left + width + 5, y + 15, fixed(loss.nats), "lv-tick lv-strong");
    });
    chart.show("Loss on the prompt");
    this.say(known.length ? this.inWords(known, lock) : "Logits were not recorded, or no run yet.");
  }

  inWords(known, lock) {
    const counted = `Mean of −log p over ${plural(known[0].loss.tokens, "token")}.`;
    if (lock.kind === "ids") return counted;
    const per = known.filter(({ loss }) => loss.per_character !== null)
      .map(({ name, loss }) => `${name} ${fixed(loss.per_character, 3)}`);
    return `Tokens differ; in nats per character: ${per.join(", ")}.`;
  }
}

/** Axes of a chart over the steps. */
function axes(chart, width, nSteps, high, write) {
  chart.resize(width, CHART_HEIGHT);
  const frame = { left: 54, right: width - 10, top: 10, bottom: CHART_HEIGHT - 20 };
  const y = chart.scale(frame, high, (value) => (value ? write(value) : "0"));
  const x = (step) => frame.left + (step / Math.max(nSteps - 1, 1)) * (frame.right - frame.left);
  chart.text(frame.left, CHART_HEIGHT - 5, "step 0", "lv-tick", "middle");
  if (nSteps > 1) {
    chart.text(frame.right, CHART_HEIGHT - 5, String(nSteps - 1), "lv-tick", "end");
  }
  return { x, y, frame };
}

// ---------------------------------------------------------------- the controls of a run

class RunControls {
  constructor(view) {
    this.view = view;
    this.prompt = element("textarea", { rows: "2", dir: "auto", spellcheck: "false" });
    this.nTokens = numberInput("lv-new-tokens", { min: 1, step: 1 });
    this.temperature = numberInput("lv-temperature", { min: 0, step: 0.1 });
    this.seed = numberInput("lv-seed", { step: 1 });
    this.order = menu("Models write", ORDERS.map((order) => [order, order]), () => {});
    this.run = button("Run", () => this.press(), { class: "lv-button lv-compare-run" });
    this.bar = element("progress", { max: 1, value: 0, "aria-label": "Progress of the run" });
    this.status = element("p", { class: "lv-status lv-compare-status", role: "status" });
    this.element = element(
      "div",
      { class: "lv-compare-controls" },
      field("Prompt (Ctrl+Enter runs it)", this.prompt),
      element(
        "div",
        { class: "lv-bar-of-controls" },
        field("New tokens, at most", this.nTokens),
        field("Temperature", this.temperature),
        field("Seed", this.seed),
        this.order.element,
        this.run,
        this.bar,
      ),
      this.status,
    );
    this.element.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      this.press();
    });
    this.write();
    this.show();
  }

  write() {
    const settings = this.view.model.get("settings");
    this.prompt.value = settings.prompt;
    this.nTokens.value = settings.max_new_tokens;
    this.temperature.value = settings.temperature;
    this.seed.value = settings.seed;
    this.order.set(settings.order);
  }

  async press() {
    const { view } = this;
    say(view.alert, "");
    try {
      if (view.model.get("running")) {
        say(this.run, "Stopping …");
        await view.connection.ask("stop");
      } else {
        await view.connection.ask("run", this.read());
      }
    } catch (error) {
      view.complain(error);
    }
  }

  read() {
    const numbers = { "New tokens": this.nTokens, Seed: this.seed };
    for (const [name, input] of Object.entries(numbers)) {
      if (!whole(numberOf(input))) throw new Error(`${name} must be a whole number.`);
    }
    if (numberOf(this.temperature) === null) throw new Error("Temperature must be a number.");
    return {
      prompt: this.prompt.value,
      max_new_tokens: numberOf(this.nTokens),
      temperature: numberOf(this.temperature),
      seed: numberOf(this.seed),
      order: ORDERS[this.order.input.selectedIndex],
    };
  }

  show() {
    const { model, alert } = this.view;
    const running = model.get("running");
    const { text = "", share = 0, problem = false } = model.get("status");
    say(this.run, running ? "Stop" : "Run");
    this.run.classList.toggle("lv-stop", running);
    this.bar.value = share;
    this.bar.hidden = !running;
    say(this.status, problem ? "" : text);
    if (problem) say(alert, text);
    this.prompt.readOnly = running;
    keepKeys(this.prompt, running);
    for (const input of this.element.querySelectorAll("input, select")) input.disabled = running;
  }
}

// ---------------------------------------------------------------- the explorer

class CompareView extends Explorer {
  constructor(model, connection, root) {
    super(model, connection, root, "Compare explorer");
    this.on("msg:custom", (message) => this.heard(message));
    for (const name of ["running", "status"]) this.on(`change:${name}`, () => this.controls?.show());
    this.on("change:settings", () => this.controls?.write());
  }

  build(root, { header, arrays }) {
    this.data = header;
    this.arrays = arrays;
    this.extra = new Map(); // layers that were asked for later
    this.asked = new Map();
    this.picking = new Picking(() => this.draw());
    this.columns = header.columns.map((_, number) => new Column(this, number));
    this.panels = [new CachePanel(this), new TimePanel(this), new LossPanel(this)];
    this.controls = header.runs && this.isLive ? new RunControls(this) : null;
    this.differences = element("ul", { class: "lv-compare-differences" });
    this.lockWords = element("p", { class: "lv-legend lv-compare-lock" });
    this.buildBar();
    root.append(
      ...(this.controls ? [this.controls.element] : []),
      this.differences,
      element("div", { class: "lv-bar-of-controls" }, ...this.sliders.map((one) => one.element)),
      this.lockWords,
      element(
        "div",
        { class: "lv-compare-columns", style: `--columns: ${this.columns.length}` },
        ...this.columns.map((column) => column.element),
      ),
      this.colourBar.element,
      element("div", { class: "lv-panels" }, ...this.panels.map((panel) => panel.element)),
      this.table.button,
      this.table.region,
    );
  }

  buildBar() {
    const position = (value) => {
      const { tokens } = this.data.columns[this.state.column];
      return `${value} ${shorten(tokenText(tokens[value]), 12)}`;
    };
    this.layer = slider("Layer", { min: 0, max: 0, write: (value) => this.layerWords(value) },
      (layer) => this.pick({ layer }));
    this.head = slider("Head", { min: 0, max: 0 }, (head) => this.pick({ head }));
    this.position = slider("Position", { min: 0, max: 0, write: position },
      (value) => this.pickPosition(this.state.column, value));
    this.sliders = [this.layer, this.head, this.position];
    this.colourBar = new ColourBar();
    this.colourBar.show({ kind: "sequential", low: "0", high: "1", masked: true,
      meaning: "attention weight, the same colours in all columns" });
  }

  measure() {
    for (const one of [...this.columns, ...this.panels]) one.measure();
  }

  // What belongs together

  get nLayers() {
    return Math.max(...this.data.columns.map(({ layers }) => layers.length));
  }

  get nHeads() {
    return Math.max(...this.data.columns.map(({ n_heads: nHeads }) => nHeads));
  }

  /** The number of the layer that a column shows; null where it has none. */
  layerIn(number) {
    const { layers } = this.data.columns[number];
    return layers[sameDepth(this.state.layer, this.nLayers, layers.length)] ?? null;
  }

  headIn(number) {
    return sameDepth(this.state.head, this.nHeads, this.data.columns[number].n_heads);
  }

  positionIn(number) {
    return this.columns[number].clampPosition(this.matching(this.state.position, number,
      this.state.column));
  }

  /** The position of a column that belongs to a position of another one. */
  matching(position, number, from) {
    if (number === from || this.data.lock.kind !== "characters") return position;
    const [there, here] = [from, number].map((one) => this.data.columns[one].ends);
    const reached = there[Math.min(position, there.length - 1)];
    const found = here.findIndex((end) => end >= reached);
    return found < 0 ? here.length - 1 : found;
  }

  cursorIn(number) {
    const place = this.picking.current;
    if (!place) return null;
    const [query, key] = [place.query, place.key].map((at) =>
      this.columns[number].clampPosition(this.matching(at, number, place.column)));
    return { query, key: Math.min(key, query) };
  }

  /** The step in which the picked position passed through. */
  stepIn(number) {
    const { step_of: steps } = this.data.columns[number];
    return steps[Math.min(this.positionIn(number), steps.length - 1)] ?? 0;
  }

  /** Weights of a layer of a column: (head, query, key) from `start`; or why there are none. */
  attention(number, layer) {
    const { run, sent_layers: sent, missing, n_positions: nPositions } =
      this.data.columns[number];
    const packed = this.arrays[`attention ${number}`];
    if (!nPositions) return { weights: null, why: "waits for its turn" };
    if (missing.attention) return { weights: null, why: missing.attention };
    const key = `${run} ${nPositions} ${number} ${layer}`;
    const own = packed && sent.indexOf(layer) >= 0 ? packed : this.extra.get(key);
    if (!own) return this.fetchLayer(key, number, layer);
    const [, nHeads, n] = own.shape;
    const start = own === packed ? sent.indexOf(layer) * nHeads * n * n : 0;
    return { weights: own.values, n, start };
  }

  fetchLayer(key, number, layer) {
    if (!this.isLive) return { weights: null, why: `layer ${layer} is not in this saved page` };
    if (!this.asked.has(key)) {
      const more = this.more("attention", { number, layer, version: key });
      this.asked.set(key, more.then((answer) => {
        if (answer) this.extra.set(key, answer.arrays.attention);
        this.draw();
      }));
    }
    return { weights: null, why: `layer ${layer} is on its way …` };
  }

  // Picking

  pickPosition(column, position) {
    this.pick({ column, position: this.columns[column].clampPosition(position) });
  }

  pickHead(number, head) {
    const { n_heads: nHeads } = this.data.columns[number];
    // Of several heads of the widest model that stand for this one, the first.
    const all = Array.from({ length: this.nHeads }, (_, one) => one);
    this.pick({ head: all.find((one) => sameDepth(one, this.nHeads, nHeads) === head) ?? head });
  }

  lock(place) {
    if (!place) return;
    this.picking.lock(place);
    if (this.picking.isLocked) this.pickPosition(place.column, place.query);
  }

  escape() {
    return this.picking.unlock();
  }

  // What the kernel tells while models run

  heard(message) {
    if (!this.data || message.run === undefined) return;
    const column = this.data.columns[message.number];
    if (message.type === "token" && message.run === column.run) {
      column.tokens[message.place] = message.token;
      this.drawPart(message.number, "text");
    } else if (message.type === "column") this.fetchColumn(message.number);
  }

  /** Ask for a column as it is now; while an answer is under way, once more after it. */
  async fetchColumn(number) {
    this.fetching ??= new Map();
    if (this.fetching.has(number)) return this.fetching.set(number, true);
    this.fetching.set(number, false);
    try {
      this.take(number, await this.connection.ask("column", { number }));
    } catch (error) {
      this.complain(error);
    }
    const again = this.fetching.get(number);
    this.fetching.delete(number);
    if (again) this.fetchColumn(number);
  }

  /** Put a column into the content itself: displays that open later begin with it. */
  take(number, { header, arrays }) {
    const { column, ...shared } = header;
    const before = this.data.columns[number];
    if (column.run === before.run && before.tokens.length > column.tokens.length) {
      column.tokens = before.tokens;
    }
    Object.assign(this.data, shared);
    this.data.columns[number] = column;
    for (const name of ["attention", "candidate_id", "candidate_probability"]) {
      delete this.arrays[`${name} ${number}`];
      if (arrays[name]) this.arrays[`${name} ${number}`] = arrays[name];
    }
    this.drawPart(number, "column");
  }

  // Drawing

  /** With the next frame everything. */
  draw() {
    this.parts = null;
    super.draw();
  }

  /** With the next frame a column, or its text alone: tokens come faster than all is drawn. */
  drawPart(number, part) {
    if (!this.frame) this.parts = new Map();
    if (this.parts?.get(number) !== "column") this.parts?.set(number, part);
    super.draw();
  }

  show() {
    const { parts } = this;
    this.parts = null;
    const isTextOnly = parts && [...parts.values()].every((part) => part === "text");
    if (!isTextOnly) this.showShared();
    this.columns.forEach((column, number) => {
      if (!parts || parts.get(number) === "column") column.draw();
      else if (parts.has(number)) column.drawText();
    });
    if (isTextOnly) return;
    for (const panel of this.panels) panel.draw();
    if (!parts) this.announce(this.spokenWords());
  }

  /** What stands above the columns. */
  showShared() {
    const { data, state } = this;
    this.layer.input.max = Math.max(this.nLayers - 1, 0);
    this.head.input.max = this.nHeads - 1;
    this.position.input.max = Math.max(data.columns[state.column].n_positions - 1, 0);
    this.layer.set(state.layer);
    this.head.set(state.head);
    this.position.set(this.positionIn(state.column));
    this.showDifferences();
    say(this.lockWords, `${data.lock.words} ${this.depthWords()}`);
  }

  showDifferences() {
    const key = this.data.differences.join("\n");
    if (this.toldDifferences === key) return;
    this.toldDifferences = key;
    const lines = this.data.differences.map((words) => element("li", {}, words));
    this.differences.replaceChildren(...lines);
  }

  layerWords() {
    const own = new Set(this.data.columns.map((_, number) => this.layerIn(number)));
    const last = Math.max(...this.data.columns.map(({ n_layers: count }) => count)) - 1;
    return own.size === 1 ? `${[...own][0]} of 0 to ${last}` : [...own].join(", ");
  }

  depthWords() {
    const sizes = new Set(this.data.columns.map((one) => `${one.layers.length} ${one.n_heads}`));
    return sizes.size > 1 ? "Layers and heads stand at the same relative depth." : "";
  }

  spokenWords() {
    const { column } = this.state;
    const token = this.data.columns[column].tokens[this.positionIn(column)];
    return `position ${this.positionIn(column)} ${tokenText(token)}, ` +
      `layer ${this.layerIn(column)}, head ${this.headIn(column)}`;
  }

  numbers() {
    const { columns } = this.data;
    const rows = [
      ["text", (one) => one.tokens.slice(one.n_prompt).map(({ label }) => label).join("")],
      ["attention", (one) => sizesInWords(one)],
      ["position", (one, number) => `${this.positionIn(number)} ` +
        tokenText(one.tokens[this.positionIn(number)])],
      ["layer, head", (one, number) => `${this.layerIn(number)}, ${this.headIn(number)}`],
      ["weights of this query", (one, number) => this.weightsInWords(number)],
      ["next token", (one, number) => this.columns[number].rows(this.positionIn(number))
        .map(({ label, probability }) => `${label} ${chance(probability)}`).join("; ")],
      ["cache bytes at this step", (one, number) =>
        grouped((one.cache ?? one.formula ?? [])[this.stepIn(number)] ?? 0)],
      ["loss on the prompt, nats per token", (one) => (one.loss ? fixed(one.loss.nats, 4) : "—")],
      ["decode step, median ms, unrecorded", (one) =>
        one.seconds?.length > 1 ? brief(1000 * median(one.seconds.slice(1))) : "—"],
    ];
    return {
      caption: "The columns at the picked position.",
      header: ["", ...columns.map(({ name }) => name)],
      rows: rows.map(([words, read]) => [words, ...columns.map(read)]),
    };
  }

  /** The three strongest weights of the picked position. */
  weightsInWords(number) {
    const column = this.columns[number];
    const query = this.positionIn(number);
    if (!column.shown?.n || query >= column.shown.n) return "—";
    const { tokens } = this.data.columns[number];
    return Array.from(column.rowOf(query).subarray(0, query + 1), (weight, key) => [weight, key])
      .sort(([a], [b]) => b - a)
      .slice(0, 3)
      .map(([weight, key]) => `${tokenText(tokens[key])} (${key}) ${fixed(weight / 255)}`)
      .join("; ");
  }
}

export default explorer(CompareView);
