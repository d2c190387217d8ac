// The page of the attention explorer: scores and weights are computed here, from the queries and
// keys that were recorded, so that any cell can be asked for at once. Whole maps are shown from the
// kernel's summaries first, and computed in full meanwhile, a few milliseconds in each frame.

import { Surface } from "./page/canvas.js";
import { Chart } from "./page/chart.js";
import { ColourBar } from "./page/colours.js";
import { button, menu, pills } from "./page/controls.js";
import { element, say } from "./page/elements.js";
import { Explorer, explorer } from "./page/explorer.js";
import { brief, clamp, fixed, plural, signed, threeDigits } from "./page/numbers.js";
import { arrow, Picking } from "./page/picking.js";
import { shorten, tokenText, TokenText } from "./page/tokens.js";

const COMPUTE_MS = 12; // of each frame, for maps that are not finished
const ASK_FROM = 640; // positions: larger maps are the kernel's work, where there is one
const MAPS_KEPT = 120;
const LAYERS_KEPT = 4; // of those that were asked for one by one

const VIEW_NAMES = ["model", "layer", "head", "row", "product"];

// ---------------------------------------------------------------- what was recorded

/** Queries, keys and summaries of all layers, as far as they are here; and what follows of them. */
class Attention {
  constructor(view, { header, arrays }) {
    this.view = view;
    this.about = header;
    this.n = header.n_positions;
    this.nMaps = header.layers.length * header.n_heads;
    this.layers = new Map();
    this.summaries = new Map();
    this.maps = new Map();
    this.asked = new Set();
    this.version = 0; // grows with everything that comes in
    for (const layer of header.layers_held) {
      this.layers.set(layer, this.vectors((name) => arrays[`${name} ${layer}`]));
    }
    for (const [layer, limit] of Object.entries(header.limits)) {
      const own = (name) => arrays[`${name} ${layer}`];
      this.summaries.set(Number(layer), { limit, ...valuesOf(own) });
    }
    this.held = new Set(header.layers_held);
  }

  vectors(array) {
    if (!this.about.has_vectors) return { map: array("map").numbers() };
    const vectors = { query: array("query").numbers(), key: array("key").numbers() };
    const places = array("corrected place")?.values;
    if (!places) return vectors;
    const weights = array("corrected weight").values;
    const corrected = new Map(Array.from(places, (place, i) => [place, weights[i] / 65535]));
    return { ...vectors, corrected };
  }

  /** Ask the kernel once; what comes is kept, and drawn. */
  async want(key, name, parameters, keep) {
    if (!this.view.isLive || this.asked.has(key)) return;
    this.asked.add(key);
    try {
      keep(await this.view.connection.ask(name, parameters));
    } catch (error) {
      this.view.complain(error);
    } finally {
      if (name !== "summary") this.asked.delete(key);
    }
    this.version++;
    this.view.draw();
  }

  /** Summaries come one after the other, so that nothing else waits for long. */
  async wantSummaries(first) {
    const { layers } = this.about;
    const order = [first, ...layers.filter((layer) => layer !== first)];
    for (const layer of order) {
      if (this.summaries.has(layer)) continue;
      await this.want(`summary ${layer}`, "summary", { layer }, ({ header, arrays }) =>
        this.summaries.set(layer, { limit: header.limit, ...valuesOf((name) => arrays[name]) }),
      );
    }
  }

  /** Whether a layer can be computed now; if not, it is asked for, where somebody can answer. */
  has(layer) {
    const isHere = this.layers.has(layer) && this.summaries.has(layer);
    if (!this.layers.has(layer)) {
      this.want(`layer ${layer}`, "layer", { layer }, ({ arrays }) => {
        this.layers.set(layer, this.vectors((name) => arrays[name]));
        const extra = [...this.layers.keys()].filter((one) => !this.held.has(one));
        if (extra.length > LAYERS_KEPT) this.layers.delete(extra[0]);
      });
    }
    return isHere;
  }

  /** query · key / sqrt(head_dim), as the model has it. */
  score(layer, head, position, key) {
    const { head_dim: size, kv_head_of_head: kvHead } = this.about;
    const { query, key: keys } = this.layers.get(layer);
    const [from, to] = [(head * this.n + position) * size, (kvHead[head] * this.n + key) * size];
    let sum = 0;
    for (let i = 0; i < size; i++) sum += query[from + i] * keys[to + i];
    return sum / Math.sqrt(size);
  }

  /** The softmax of the row, of which the kernel sent the normalizer; 0 for later keys. */
  weight(layer, head, position, key) {
    if (key > position) return 0;
    if (!this.about.has_vectors) {
      const triangle = (this.n * (this.n + 1)) / 2;
      return this.layers.get(layer).map[head * triangle + (position * (position + 1)) / 2 + key];
    }
    const normalizer = this.summaries.get(layer).normalizer[head * this.n + position];
    const weight = Math.exp(this.score(layer, head, position, key) - normalizer);
    // Vectors in 8 bits: where that shows, the file brings the weight itself.
    const { corrected } = this.layers.get(layer);
    if (!corrected || weight < 0.01) return weight;
    return corrected.get((head * this.n + position) * this.n + key) ?? weight;
  }

  /** One query over all keys; NaN where a key is masked. */
  row(layer, head, position, stage) {
    const isScore = stage !== "weights";
    return Float32Array.from({ length: this.n }, (_, key) => {
      if (key > position && stage !== "scores") return NaN;
      return isScore
        ? this.score(layer, head, position, key)
        : this.weight(layer, head, position, key);
    });
  }

  /** What each pair of features adds to a score. */
  products(layer, head, position, key) {
    const { head_dim: size, kv_head_of_head: kvHead } = this.about;
    const { query, key: keys } = this.layers.get(layer);
    const [from, to] = [(head * this.n + position) * size, (kvHead[head] * this.n + key) * size];
    const root = Math.sqrt(size);
    return Array.from({ length: size / 2 }, (_, pair) => {
      const [i, j] = [from + 2 * pair, to + 2 * pair];
      const [q, k] = [[query[i], query[i + 1]], [keys[j], keys[j + 1]]];
      return { q, k, part: (q[0] * k[0] + q[1] * k[1]) / root };
    });
  }

  /** Mean weights of a position over heads: of the keys it saw, and of the queries that saw it. */
  means(scope, { layer, head, position }) {
    const { layers, n_heads: nHeads } = this.about;
    const heads = scope === "head" ? [head] : Array.from({ length: nHeads }, (_, one) => one);
    const over = scope === "model" ? layers : [layer];
    if (scope === "model" && !over.every((one) => this.layers.has(one))) {
      return this.meansOfAll(position);
    }
    if (!over.every((one) => this.has(one))) return null;
    const values = new Float32Array(this.n);
    const before = new Float32Array(this.n);
    for (const one of over) {
      for (const own of heads) {
        for (let key = 0; key <= position; key++) before[key] += this.weight(one, own, position, key);
        for (let later = position + 1; later < this.n; later++) {
          values[later] += this.weight(one, own, later, position);
        }
      }
    }
    const count = heads.length * over.length;
    return { row: before.map((sum) => sum / count), column: values.map((sum) => sum / count) };
  }

  /** Over more than the page holds, the kernel takes the mean. */
  meansOfAll(position) {
    if (this.allMeans?.position === position) return this.allMeans;
    this.want("means", "means", { position }, ({ arrays }) => {
      this.allMeans = { position, row: arrays.row.values, column: arrays.column.values };
    });
    return null;
  }

  /** The cells of a map for the screen, as numbers of colours; pooled where there are too many. */
  map(layer, head, stage, side, isSmall) {
    const kind = stage === "weights" ? "weights" : "scores";
    const wanted = Math.min(side, this.n);
    const summary = this.summaries.get(layer);
    const rough = summary && this.summaryMap(summary, head, kind);
    if (rough && this.about.side >= wanted) return rough;
    // Of all layers at once, only what is quickly done is shown more finely than in the summary.
    const isQuick = this.layers.has(layer) && this.n <= ASK_FROM;
    if (isSmall && !(isQuick && this.nMaps < MAPS_KEPT)) return rough ?? null;
    const key = `${layer} ${head} ${kind} ${wanted}`;
    const known = this.maps.get(key);
    if (known?.isDone) return known;
    if (this.view.isLive && this.n > ASK_FROM) {
      const parameters = { layer, head, stage, side: wanted };
      this.want("map", "map", parameters, ({ arrays }) => {
        const cells = arrays.map.values;
        const isScore = kind === "scores";
        this.keep(key, {
          side: wanted,
          cells: isScore ? Uint8Array.from(cells, signedIndex) : cells,
          isDone: true,
        });
      });
    } else if (this.has(layer)) {
      const task = known ?? this.task(layer, head, kind, wanted);
      this.keep(key, task);
      if (this.advance(task)) return task;
      this.view.goOn();
    }
    return rough ?? null;
  }

  keep(key, map) {
    this.maps.delete(key);
    this.maps.set(key, map);
    if (this.maps.size > MAPS_KEPT) this.maps.delete(this.maps.keys().next().value);
    if (map.isDone) this.version++;
  }

  summaryMap(summary, head, kind) {
    const { side } = this.about;
    const from = head * side * side;
    const values = (kind === "weights" ? summary.weights : summary.scores)?.subarray(
      from,
      from + side * side,
    );
    if (!values) return null;
    if (kind === "weights") return { side, cells: values };
    return { side, cells: Uint8Array.from(values, signedIndex) };
  }

  /** A map that is computed row by row. */
  task(layer, head, kind, side) {
    return { layer, head, kind, side, next: 0, values: new Float32Array(side * side) };
  }

  /** Go on with a map as long as this frame has time; whether it is finished. */
  advance(task) {
    const { layer, head, kind, side, values } = task;
    const { n } = this;
    const isScore = kind === "scores";
    const cellOf = Uint32Array.from({ length: n }, (_, index) => Math.floor((index * side) / n));
    while (task.next < n && performance.now() < this.view.deadline) {
      const position = task.next++;
      const from = cellOf[position] * side;
      const last = isScore ? n - 1 : position;
      for (let key = 0; key <= last; key++) {
        const cell = from + cellOf[key];
        if (isScore) {
          const score = this.score(layer, head, position, key);
          if (Math.abs(score) > Math.abs(values[cell])) values[cell] = score;
        } else {
          const weight = this.weight(layer, head, position, key);
          if (weight > values[cell]) values[cell] = weight;
        }
      }
    }
    if (task.next < n) return false;
    const { limit } = this.summaries.get(layer);
    const index = isScore
      ? (value) => signedIndex((127 * value) / limit)
      : (value) => Math.round(255 * value);
    task.cells = Uint8Array.from(values, index);
    task.values = null;
    task.isDone = true;
    this.version++;
    return true;
  }
}

/** The values of a summary's arrays, as they are stored. */
function valuesOf(array) {
  const [weights, scores, normalizer] = ["weights", "scores", "normalizer"].map(array);
  return {
    weights: weights.values,
    scores: scores?.values,
    normalizer: normalizer?.values,
  };
}

/** The place among 256 colours of a number from −127 to 127. */
const signedIndex = (value) => Math.round(((clamp(value, -127, 127) + 127) * 255) / 254);

// ---------------------------------------------------------------- where things stand

/** Tiles of all layers and heads: a line for each layer, heads together that share. */
function modelTiles(about, width) {
  const { layers, n_heads: nHeads, n_kv_heads: nGroups } = about;
  const [gutter, gap, between, top] = [62, 3, 9, 40];
  const extra = gutter + between * (nGroups - 1) + gap * nHeads;
  const layout = [1, 2, 3, 4].map((nColumns) => {
    const nLines = Math.ceil(layers.length / nColumns);
    const across = (width / nColumns - extra - 10) / nHeads;
    const down = 700 / nLines - gap;
    return { nColumns, nLines, side: Math.floor(Math.min(across, down, 150)) };
  });
  const best = layout.reduce((one, other) => (other.side > one.side + 3 ? other : one));
  const side = Math.max(best.side, 8);
  const columnWidth = width / best.nColumns;
  const tiles = layers.flatMap((layer, index) => {
    const column = Math.floor(index / best.nLines);
    const y = top + (index % best.nLines) * (side + gap);
    return about.kv_head_of_head.map((group, head) => ({
      layer,
      head,
      x: column * columnWidth + gutter + head * (side + gap) + group * between,
      y,
      side,
      startsLine: head === 0,
      startsColumn: index % best.nLines === 0,
    }));
  });
  return { tiles, height: top + best.nLines * (side + gap) + 4, columns: nHeads };
}

/** Tiles of one layer, as large as they can be, in blocks of heads that share. */
function layerTiles(about, layer, width) {
  const { n_heads: nHeads, n_kv_heads: nGroups } = about;
  const inGroup = nHeads / nGroups;
  const [gap, between, label, bracket] = [10, 22, 20, inGroup > 1 ? 26 : 4];
  let best = { side: 0 };
  for (let across = 1; across <= inGroup; across++) {
    for (let groups = 1; groups <= nGroups; groups++) {
      const rows = Math.ceil(inGroup / across);
      const lines = Math.ceil(nGroups / groups);
      const columns = across * groups;
      const room = width - 8 - gap * columns - between * (groups - 1);
      const tall = 640 / (rows * lines) - label - bracket / rows;
      const side = Math.floor(Math.min(room / columns, tall, 420));
      if (side > best.side) best = { side, across, groups, rows, lines, columns };
    }
  }
  const side = Math.max(best.side, 24);
  const blockWidth = best.across * (side + gap) + between;
  const blockHeight = bracket + best.rows * (side + label) + 8;
  const tiles = about.kv_head_of_head.map((group, head) => {
    const place = head % inGroup;
    const x = 4 + (group % best.groups) * blockWidth + (place % best.across) * (side + gap);
    const down = Math.floor(group / best.groups) * blockHeight;
    const y = down + bracket + label + Math.floor(place / best.across) * (side + label);
    return { layer, head, x, y, side };
  });
  const height = best.lines * blockHeight + 4;
  return { tiles, height, columns: best.columns, across: best.across, bracket, label, gap };
}

const groupsOf = (about) =>
  Array.from({ length: about.n_kv_heads }, (_, group) =>
    about.kv_head_of_head.flatMap((own, head) => (own === group ? [head] : [])),
  );

/** "heads 0–3 read key/value head 0", as long as there is room. */
function sharingInWords(heads, group, width) {
  const who = heads.length > 1 ? `heads ${heads[0]}–${heads.at(-1)}` : `head ${heads[0]}`;
  const verb = heads.length > 1 ? "read" : "reads";
  const forms = [
    `${who} ${verb} key/value head ${group}`,
    `key/value head ${group}`,
    `kv head ${group}`,
    `kv ${group}`,
    String(group),
  ];
  return forms.find((words) => 6 * words.length <= width) ?? forms.at(-1);
}

// ---------------------------------------------------------------- the display

class AttentionView extends Explorer {
  constructor(model, connection, root) {
    super(model, connection, root, "Attention explorer");
  }

  build(root, content) {
    this.attention = new Attention(this, content);
    this.about = content.header;
    this.picking = new Picking(() => this.draw());
    this.pointedToken = null;
    this.pair = 0;
    this.buildControls();
    this.buildPanel();
    this.text = new TokenText({
      label: "Tokens; the arrow keys go through them, Enter picks one as the query",
      onpoint: (position) => this.pointAtToken(position),
      onpick: (position) => this.choose({ position }),
    });
    this.text.fill(this.about.tokens);
    this.textWords = element("p", { class: "lv-readout lv-attention-said" });
    const legend = element(
      "p",
      { class: "lv-legend", "aria-hidden": "true" },
      element("span", { class: "lv-token lv-read" }, "query"),
      element("span", { class: "lv-token lv-looked-at" }, "key"),
      "what it looked at ",
      element("span", { class: "lv-ramp" }),
      " who looked at it ",
      element("span", { class: "lv-ramp lv-attention-lookers" }),
      " 0 to 1, by the square root",
    );
    const text = element(
      "section",
      { class: "lv-attention-text", "aria-label": "Text" },
      this.text.element,
      legend,
      this.textWords,
    );
    this.stageBox = element("div", { class: "lv-attention-views" }, text, this.panel);
    root.append(this.trail, this.controls, this.stageBox, this.table.region);
    this.attention.wantSummaries(this.state.layer);
  }

  buildControls() {
    const { about } = this;
    const choose = (name) => (value) => this.choose({ [name]: value });
    this.layerMenu = menu(
      "Layer",
      about.layers.map((layer) => [layer, `layer ${layer}`]),
      choose("layer"),
      { class: "lv-attention-layer" },
    );
    this.headMenu = menu(
      "Head",
      about.kv_head_of_head.map((group, head) => [head, `head ${head} (reads kv head ${group})`]),
      choose("head"),
      { class: "lv-attention-head" },
    );
    const stages = about.has_vectors ? ["scores", "masked", "weights"] : ["weights"];
    const spoken = { scores: "scores", masked: "masked scores", weights: "weights" };
    this.stagePills = pills(
      "stage",
      stages.map((stage) => [stage, spoken[stage]]),
      choose("stage"),
      { class: "lv-pills lv-attention-stage" },
    );
    this.scopeMenu = menu(
      "The text shows",
      [
        ["head", "this head"],
        ["layer", "the mean of this layer's heads"],
        ["model", "the mean of all heads"],
      ],
      choose("text_shows"),
      { class: "lv-attention-scope" },
    );
    this.controls = element(
      "div",
      { class: "lv-bar-of-controls" },
      this.layerMenu.element,
      this.headMenu.element,
      this.stagePills.element,
      this.scopeMenu.element,
      this.table.button,
    );
    this.views = about.has_vectors ? VIEW_NAMES : VIEW_NAMES.slice(0, -1);
    this.steps = this.views.map((view) =>
      button("", () => this.zoomTo(view), { class: "lv-button lv-attention-step" }),
    );
    this.outButton = button("Zoom out", () => this.zoom(-1));
    this.inButton = button("Zoom in", () => this.zoom(1));
    this.trail = element(
      "nav",
      { class: "lv-attention-trail", "aria-label": "From all layers to one product" },
      ...this.steps,
      element("span", { class: "lv-attention-zoom" }, this.outButton, this.inButton),
    );
  }

  buildPanel() {
    this.heading = element("h4", {});
    this.colourBar = new ColourBar();
    this.surface = new Surface({
      class: "lv-map lv-attention-map",
      tabindex: "0",
      role: "application",
      onmousemove: (event) => this.picking.point(this.placeAt(event)),
      onmouseleave: () => this.picking.point(null),
      onclick: (event) => this.lock(this.placeAt(event)),
      ondblclick: () => this.zoom(1),
      onkeydown: (event) => this.move(event),
    });
    this.canvas = this.surface.canvas;
    this.chart = new Chart({ class: "lv-chart lv-over", "aria-hidden": "true" });
    this.readout = element("p", { class: "lv-readout lv-attention-readout" });
    this.caption = element("p", { class: "lv-caption" });
    this.body = element("div", { class: "lv-body" }, this.canvas, this.chart.svg);
    this.panel = element(
      "section",
      { class: "lv-panel", "aria-label": "Attention" },
      element("header", {}, this.heading, this.colourBar.element),
      this.body,
      this.readout,
      this.caption,
    );
  }

  measure() {
    if (this.body) this.width = Math.max(this.body.clientWidth, 260);
  }

  // What is shown: the state, and over it what is pointed at

  /** The place in view: what is pointed at or locked, else what is picked. */
  get at() {
    return { ...this.state, pair: this.pair, ...this.picking.current };
  }

  choose(changes) {
    this.picking.locked = this.picking.hovered = null;
    this.pick(changes);
    this.draw();
    this.shouldSpeak = true;
  }

  lock(place) {
    if (!place) return;
    this.picking.lock(place);
    if ("pair" in place) this.pair = place.pair;
    else this.pick(place);
    this.shouldSpeak = true;
  }

  pointAtToken(position) {
    this.pointedToken = position;
    this.draw();
  }

  zoomTo(view) {
    const isOverOthers = this.picking.isLocked;
    if (isOverOthers) this.picking.locked = null;
    this.picking.hovered = null;
    if (view === "product" && this.state.key_position > this.state.position) {
      this.pick({ key_position: this.state.position });
    }
    this.pick({ view });
    this.shouldSpeak = true;
  }

  zoom(step) {
    const index = this.views.indexOf(this.state.view) + step;
    if (index >= 0 && index < this.views.length) this.zoomTo(this.views[index]);
  }

  escape() {
    this.pointedToken = null;
    if (this.picking.unlock()) return true;
    if (this.state.view === "model") return false;
    this.zoom(-1);
    return true;
  }

  move(event) {
    const step = arrow(event);
    if (event.key === "Enter") this.zoom(1);
    else if (event.key === " ") this.lock(this.placeOfState());
    else if (event.key === "Backspace") this.zoom(-1);
    else if (step) this.step(...step);
    else return;
    event.preventDefault();
  }

  /** The arrow keys: to the next tile, cell, bar or pair. */
  step(down, right) {
    const { view, layer, head, position, key_position: key } = this.state;
    const { layers, n_heads: nHeads, n_positions: n } = this.about;
    if (view === "product") {
      this.pair = clamp(this.pair + right, 0, this.about.head_dim / 2 - 1);
      this.choose({});
    } else if (view === "model") {
      const index = clamp(layers.indexOf(layer) + down, 0, layers.length - 1);
      this.choose({ layer: layers[index], head: clamp(head + right, 0, nHeads - 1) });
    } else if (view === "layer") {
      this.choose({ head: clamp(head + right + down * this.layout.columns, 0, nHeads - 1) });
    } else {
      this.choose({
        position: clamp(position + down, 0, n - 1),
        key_position: clamp(key + right, 0, n - 1),
      });
    }
  }

  placeOfState() {
    const { view, layer, head, position, key_position } = this.state;
    if (view === "product") return { pair: this.pair };
    if (view === "head") return { position, key_position };
    if (view === "row") return { key_position };
    return { layer, head };
  }

  /** What is under the pointer, in the words of the state; null between things. */
  placeAt(event) {
    const [x, y] = this.surface.place(event);
    const { layout } = this;
    if (!layout) return null;
    if (layout.tiles) {
      const isIn = (tile) =>
        x >= tile.x && x < tile.x + tile.side && y >= tile.y && y < tile.y + tile.side;
      const tile = layout.tiles.find(isIn);
      return tile ? { layer: tile.layer, head: tile.head } : null;
    }
    const across = Math.floor((x - layout.left) / layout.slot);
    if (across < 0 || across >= layout.count) return null;
    if (layout.kind === "bars") return { [layout.name]: across };
    const down = Math.floor((y - layout.top) / layout.slot);
    if (down < 0 || down >= layout.count) return null;
    return { position: down, key_position: across };
  }

  // Drawing

  show() {
    if (!this.width) this.measure();
    this.deadline = performance.now() + COMPUTE_MS;
    const { at } = this;
    this.element.dataset.view = at.view;
    if (this.shownView !== at.view) {
      this.shownView = at.view; // the panel is narrower where the text stands beside it
      this.measure();
    }
    this.showControls();
    this.layout = null;
    if (at.view === "model" || at.view === "layer") this.showTiles(at);
    else if (at.view === "head") this.showHead(at);
    else this.showBars(at);
    this.showText(at);
    const words = this.inWords(at);
    say(this.readout, words);
    this.canvas.setAttribute("aria-label", `${this.heading.textContent}. ${HINTS[at.view]}`);
    if (this.shouldSpeak) this.announce(`${this.heading.textContent}. ${words}`);
    this.shouldSpeak = false;
  }

  showControls() {
    const { state, views } = this;
    this.layerMenu.set(state.layer);
    this.headMenu.set(state.head);
    this.stagePills.set(state.stage);
    this.scopeMenu.set(state.text_shows);
    const words = [
      "All layers",
      `Layer ${state.layer}`,
      `Head ${state.head}`,
      `Query ${state.position}`,
      `Key ${state.key_position}`,
    ];
    this.steps.forEach((step, index) => {
      say(step, words[index]);
      const isHere = views[index] === state.view;
      step.toggleAttribute("aria-current", false);
      if (isHere) step.setAttribute("aria-current", "location");
    });
    const place = views.indexOf(state.view);
    this.outButton.disabled = place === 0;
    this.inButton.disabled = place === views.length - 1;
  }

  /** Colours of the stage: weights from 0 to 1, scores around 0 up to the largest in view. */
  showColours(limit) {
    const { stage } = this.state;
    const side = brief(limit);
    this.colourBar.element.hidden = false;
    this.colourBar.show(
      stage === "weights"
        ? { kind: "sequential", low: "0", high: "1", meaning: "attention weight", masked: true }
        : {
            kind: "diverging",
            low: `−${side}`,
            high: `+${side}`,
            meaning: stage === "masked" ? "score after the mask" : "query · key / √head_dim",
            masked: stage === "masked",
          },
    );
  }

  limitOf(layers) {
    const known = layers.map((layer) => this.attention.summaries.get(layer)?.limit ?? 0);
    return Math.max(...known) || 1;
  }

  showTiles(at) {
    const { about, attention, surface, chart } = this;
    const isModel = at.view === "model";
    const layout = isModel
      ? modelTiles(about, this.width)
      : layerTiles(about, this.state.layer, this.width);
    this.layout = layout;
    const limit = this.limitOf(isModel ? about.layers : [this.state.layer]);
    this.showColours(limit);
    say(this.heading, isModel ? "All layers and heads" : `Layer ${this.state.layer}: its heads`);
    surface.resize(this.width, layout.height);
    chart.resize(this.width, layout.height);
    // Where maps are still to come, the canvas is painted again with each that is there.
    const key = JSON.stringify([at.view, this.state.layer, at.stage, this.width, isModel]);
    this.paintOnce(key, () => {
      surface.clear();
      for (const tile of layout.tiles) this.paintTile(tile, limit, isModel);
    });
    if (isModel) this.nameModelTiles(layout, at);
    else this.nameLayerTiles(layout, at);
    const tile = layout.tiles.find((one) => one.layer === at.layer && one.head === at.head);
    if (tile) chart.box(tile.x - 2, tile.y - 2, tile.side + 4, tile.side + 4, this.cursorClass);
    chart.show("");
    const nKnown = attention.summaries.size;
    const waiting =
      isModel && nKnown < about.layers.length
        ? ` ${nKnown} of ${plural(about.layers.length, "layer")} are here so far.`
        : "";
    say(this.caption, `${groupsInWords(about)} ${this.poolingInWords(layout)}${waiting}`);
  }

  get cursorClass() {
    return this.picking.isLocked ? "lv-cursor lv-locked" : "lv-cursor";
  }

  /** Paint the canvas only where something of it has changed: pointing does not. */
  paintOnce(key, paint) {
    const { attention, colours, surface } = this;
    const same =
      this.painted?.key === key &&
      this.painted.colours === colours &&
      this.painted.version === attention.version &&
      this.painted.height === surface.height &&
      !this.painted.isUnfinished;
    if (same) return;
    const before = attention.version;
    this.painted = { key, colours, height: surface.height, isUnfinished: false };
    paint();
    this.painted.version = attention.version;
    if (attention.version !== before) this.draw();
  }

  /** Something of the canvas is not finished: paint it again with the next frame. */
  goOn() {
    this.painted.isUnfinished = true;
    this.draw();
  }

  paintTile({ layer, head, x, y, side }, limit, isSmall) {
    const { attention, surface, colours } = this;
    const pixels = Math.round(side * (surface.ratio || 1));
    const { stage } = this.state;
    const map = attention.map(layer, head, stage, pixels, isSmall);
    if (!map) {
      surface.context.fillStyle = colours.unseen;
      surface.context.fillRect(x, y, side, side);
      return;
    }
    const own = attention.summaries.get(layer)?.limit ?? limit;
    const cells = this.coloured(map, own / limit);
    surface.cells(cells, map.side, map.side, x, y, side, side);
  }

  /** Pixels of a map: its colours, and grey for later keys where they are masked. */
  coloured({ side, cells }, share) {
    const { stage } = this.state;
    const { masked, sequential, diverging } = this.colours;
    const isScore = stage !== "weights";
    const lookup = isScore
      ? Uint32Array.from({ length: 256 }, (_, index) => {
          const value = clamp((index - 127.5) * share + 127.5, 0, 255);
          return diverging[Math.round(value)];
        })
      : sequential;
    const pixels = new Uint32Array(side * side);
    for (let row = 0; row < side; row++) {
      const last = stage === "scores" ? side - 1 : row;
      for (let column = 0; column < side; column++) {
        const cell = row * side + column;
        pixels[cell] = column <= last ? lookup[cells[cell]] : masked;
      }
    }
    return pixels;
  }

  nameModelTiles({ tiles }, at) {
    const { chart, about } = this;
    for (const tile of tiles) {
      const isAt = tile.layer === at.layer && tile.startsLine;
      if (tile.startsLine && (tile.side >= 10 || tile.layer % 2 === 0)) {
        const name = isAt ? "lv-tick lv-strong" : "lv-tick";
        const middle = tile.y + tile.side / 2 + 3.5;
        chart.text(tile.x - 8, middle, `layer ${tile.layer}`, name, "end");
      }
      if (tile.startsColumn && tile.side >= 13) {
        const name = tile.head === at.head ? "lv-tick lv-strong" : "lv-tick";
        const words = tile.side >= 42 ? `head ${tile.head}` : String(tile.head);
        chart.text(tile.x + tile.side / 2, tile.y - 6, words, name, "middle");
      }
    }
    const first = tiles.filter((tile) => tile.startsColumn);
    for (let from = 0; from < first.length; from += about.n_heads) {
      const column = first.slice(from, from + about.n_heads);
      groupsOf(about).forEach((heads, group) => {
        const [start, end] = [column[heads[0]], column[heads.at(-1)]];
        this.bracket(start.x, end.x + end.side, start.y - 22, heads, group);
      });
    }
  }

  nameLayerTiles({ tiles, bracket }, at) {
    const { chart, about } = this;
    for (const tile of tiles) {
      const name = tile.head === at.head ? "lv-tick lv-strong" : "lv-tick";
      chart.text(tile.x, tile.y - 6, `head ${tile.head}`, name);
    }
    if (bracket < 10) return;
    groupsOf(about).forEach((heads, group) => {
      const own = heads.map((head) => tiles[head]);
      const left = Math.min(...own.map((tile) => tile.x));
      const right = Math.max(...own.map((tile) => tile.x + tile.side));
      this.bracket(left, right, own[0].y - 24, heads, group);
    });
  }

  /** A line over the heads that read one key/value head, and the words that say so. */
  bracket(left, right, y, heads, group) {
    const brace = [[left, y + 4], [left, y], [right, y], [right, y + 4]];
    this.chart.path(brace, "lv-brace");
    const words = sharingInWords(heads, group, right - left);
    this.chart.text((left + right) / 2, y - 4, words, "lv-tick lv-group", "middle");
  }

  poolingInWords({ tiles }) {
    const { n_positions: n, side } = this.about;
    const pixels = Math.round(tiles[0].side * (this.surface.ratio || 1));
    const isPooled = this.state.view === "model" && this.attention.nMaps >= MAPS_KEPT;
    const shown = Math.min(isPooled ? side : Math.max(pixels, side), n);
    const axes = "Down: queries, across: keys.";
    if (shown >= n) return axes;
    const kind = this.state.stage === "weights" ? "largest weight" : "score of the largest size";
    return `${axes} Each cell is the ${kind} of a block of ${fixed(n / shown, 1)} × ${fixed(n / shown, 1)}.`;
  }

  showHead(at) {
    const { about, attention, surface, chart } = this;
    const n = about.n_positions;
    const [left, bottom, top] = [92, 76, 8];
    const size = clamp(this.width - left - 12, 180, 620);
    const layout = { kind: "map", left, top, slot: size / n, count: n, size };
    this.layout = layout;
    const limit = this.limitOf([this.state.layer]);
    this.showColours(limit);
    const { layer, head, stage } = this.state;
    say(this.heading, `Layer ${layer}, head ${head}`);
    const height = top + size + bottom;
    surface.resize(this.width, height);
    chart.resize(this.width, height);
    const key = JSON.stringify(["head", layer, head, stage, this.width]);
    this.paintOnce(key, () => {
      surface.clear();
      this.paintTile({ layer, head, x: left, y: top, side: size }, limit, false);
    });
    this.nameAxes(layout, at);
    const { position, key_position: column } = at;
    const [x, y] = [left + column * layout.slot, top + position * layout.slot];
    chart.line(left, y + layout.slot / 2, left + size, y + layout.slot / 2, "lv-attention-cross");
    chart.line(x + layout.slot / 2, top, x + layout.slot / 2, top + size, "lv-attention-cross");
    const mark = Math.max(layout.slot, 5);
    const inset = (layout.slot - mark) / 2;
    chart.box(x + inset - 1, y + inset - 1, mark + 2, mark + 2, this.cursorClass);
    chart.show("");
    const kvHead = about.kv_head_of_head[head];
    const sharers = groupsOf(about)[kvHead].filter((one) => one !== head);
    const shared = sharers.length ? `, as ${listed(sharers)} do${sharers.length > 1 ? "" : "es"}` : "";
    const pooled = this.poolingInWords({ tiles: [{ side: size }] });
    const isHere = attention.layers.has(layer) || this.isLive;
    const unknown = isHere ? this.precision : ` ${this.notHeld}`;
    say(this.caption, `Head ${head} reads key/value head ${kvHead}${shared}. ${pooled}${unknown}`);
  }

  /** What is said where a file holds queries and keys less exactly than they were recorded. */
  get precision() {
    if (this.about.digits === 3 || this.isLive) return "";
    return " This file keeps to 5 MB with 8 bits a number: two digits count.";
  }

  /** What is said of a layer that this page has only as a summary. */
  get notHeld() {
    const held = this.about.layers_held;
    const some = held.length ? `only those of layers ${listed(held)}` : "none";
    return `This file keeps to 5 MB and holds ${some} in full; open the trace for the others.`;
  }

  /** Tokens along both axes where there is room, else positions here and there. */
  nameAxes({ left, top, slot, count, size }, at) {
    const { chart, about } = this;
    const every = Math.ceil(13 / slot);
    const places = new Set([at.position]);
    const columns = new Set([at.key_position]);
    for (let place = 0; place < count; place += every) {
      if (Math.abs(place - at.position) >= every) places.add(place);
      if (Math.abs(place - at.key_position) >= every) columns.add(place);
    }
    const label = (place) => shorten(about.tokens[place].label, 8);
    for (const place of places) {
      const y = top + (place + 0.5) * slot + 3.5;
      const name = place === at.position ? "lv-tick lv-strong" : "lv-tick";
      chart.text(left - 6, y, `${label(place)} ${place}`, name, "end");
    }
    for (const place of columns) {
      const x = left + (place + 0.5) * slot - 3.5;
      const name = place === at.key_position ? "lv-tick lv-strong" : "lv-tick";
      chart.text(x, top + size + 6, `${place} ${label(place)}`, name, "start", true);
    }
  }

  showBars(at) {
    const { about, attention, surface, chart } = this;
    const { layer, head, stage, position } = this.state;
    const isRow = at.view === "row";
    const height = 320;
    surface.resize(this.width, height);
    surface.clear();
    this.painted = null;
    chart.resize(this.width, height);
    const query = tokenText(about.tokens[position]);
    if (isRow) say(this.heading, `Layer ${layer}, head ${head}: what ${query} at ${position} sees`);
    else {
      const key = tokenText(about.tokens[this.state.key_position]);
      const words = `Layer ${layer}, head ${head}: ${query} at ${position} times ${key}`;
      say(this.heading, `${words} at ${this.state.key_position}, pair by pair`);
    }
    this.colourBar.element.hidden = true;
    if (!attention.has(layer)) {
      chart.show("");
      return say(this.caption, this.isLive ? "Fetching this layer …" : this.notHeld);
    }
    const values = isRow
      ? attention.row(layer, head, position, stage)
      : Float32Array.from(
          attention.products(layer, head, position, this.state.key_position),
          ({ part }) => part,
        );
    const left = 46;
    const slot = (this.width - left - 10) / values.length;
    const name = isRow ? "key_position" : "pair";
    this.layout = { kind: "bars", left, slot, count: values.length, name };
    this.drawBars(values, at[name], stage === "weights" && isRow);
    const words = isRow ? this.rowCaption(values) : this.productCaption(values);
    say(this.caption, `${words}${this.precision}`);
  }

  drawBars(values, chosen, isWeight) {
    const { chart, layout } = this;
    const { left, slot, count } = layout;
    const [top, bottom] = [12, 236];
    const known = values.filter(Number.isFinite);
    const high = isWeight ? Math.max(...known, 0.01) : Math.max(...known.map(Math.abs), 1e-6);
    const low = isWeight ? 0 : Math.min(...known, 0) < 0 ? -high : 0;
    const most = low < 0 ? high : high * 1.04;
    const y = (value) => bottom - ((value - low) / (most - low)) * (bottom - top);
    for (const mark of low < 0 ? [-high, 0, high] : [0, high / 2, high]) {
      chart.line(left, y(mark), this.width - 10, y(mark), mark ? "lv-grid" : "lv-axis");
      chart.text(left - 5, y(mark) + 3.5, signed(mark), "lv-tick", "end");
    }
    const width = Math.max(slot - (slot > 4 ? 1 : 0), 0.8);
    const bar = (value, index) =>
      `M${fixed(left + index * slot)} ${fixed(y(0))}V${fixed(y(value), 1)}h${fixed(width)}V${fixed(y(0))}Z`;
    const bars = { "lv-bar": "", "lv-attention-negative": "" };
    values.forEach((value, index) => {
      if (Number.isFinite(value)) bars[value < 0 ? "lv-attention-negative" : "lv-bar"] += bar(value, index);
    });
    for (const [name, d] of Object.entries(bars)) if (d) chart.add("path", { d, class: name });
    const firstMasked = values.findIndex((value) => Number.isNaN(value));
    if (firstMasked >= 0) {
      const x = left + firstMasked * slot;
      chart.box(x, top, (count - firstMasked) * slot, bottom - top, "lv-attention-masked");
      if ((count - firstMasked) * slot > 120) chart.text(x + 8, top + 16, "later keys: masked", "lv-tick");
    }
    chart.box(left + chosen * slot - 1, top, Math.max(slot, 3) + 1, bottom - top, this.cursorClass);
    this.nameBars(values, chosen, bottom);
    chart.show("");
  }

  /** Names below as many bars as there is room for, the longest bars first. */
  nameBars(values, chosen, bottom) {
    const { left, slot, count, name } = this.layout;
    const order = Array.from(values.keys()).sort(
      (a, b) => Math.abs(values[b] || 0) - Math.abs(values[a] || 0),
    );
    order.unshift(chosen);
    const apart = Math.ceil(13 / slot);
    const taken = new Uint8Array(count);
    for (const index of order) {
      if (taken.subarray(Math.max(0, index - apart + 1), index + apart).some(Boolean)) continue;
      taken[index] = 1;
      const label =
        name === "pair" ? `pair ${index}` : `${index} ${shorten(this.about.tokens[index].label, 8)}`;
      const style = index === chosen ? "lv-tick lv-strong" : "lv-tick";
      this.chart.text(left + (index + 0.5) * slot - 3.5, bottom + 6, label, style, "start", true);
    }
  }

  rowCaption(values) {
    const { stage, position } = this.state;
    if (stage !== "weights") return `${STAGE_WORDS[stage]} of ${plural(this.about.n_positions, "key")}.`;
    const sum = values.subarray(0, position + 1).reduce((all, value) => all + value, 0);
    return `Weights of ${plural(position + 1, "key")}; together ${this.number(sum)}.`;
  }

  productCaption(values) {
    const { layer, head, position, key_position: key } = this.state;
    const sum = values.reduce((all, value) => all + value, 0);
    const weight = this.attention.weight(layer, head, position, key);
    const after = key > position ? "masked" : `weight ${this.number(weight)} after the softmax`;
    return (
      `Each bar: (q₂ᵢ k₂ᵢ + q₂ᵢ₊₁ k₂ᵢ₊₁) / √${this.about.head_dim}. ` +
      `Their sum is the score, ${this.number(sum)}; ${after}.`
    );
  }

  // The text

  showText(at) {
    const { text, about, attention } = this;
    const position = this.pointedToken ?? at.position;
    const scope = this.state.text_shows;
    const means = attention.means(scope, { layer: at.layer, head: at.head, position });
    const shades = means && about.tokens.map((_, index) => {
      const value = index <= position ? means.row[index] : means.column[index];
      return Math.sqrt(Math.max(value, 0));
    });
    // While a mean is on its way, what was there stays.
    if (means || scope !== "model") text.shade(shades);
    if (this.lookers !== position) {
      text.spans.forEach((span, index) => {
        span.classList.toggle("lv-attention-looker", index > position);
      });
      this.lookers = position;
    }
    text.mark("lv-read", [position]);
    text.mark("lv-looked-at", at.view === "model" || at.view === "layer" ? [] : [at.key_position]);
    if (text.active !== at.position && this.pointedToken === null) text.choose(at.position);
    say(this.textWords, this.textInWords(means, position, at));
  }

  textInWords(means, position, { layer, head }) {
    const { tokens, layers } = this.about;
    const scope = this.state.text_shows;
    const who = { head: `head ${head} of layer ${layer}`, layer: `layer ${layer}`, model: "all heads" };
    const token = `${tokenText(tokens[position])} at position ${position}`;
    if (!means) {
      const canCome = this.isLive || this.attention.layers.has(layer);
      if (canCome) return `${token}: fetching the weights of ${who[scope]} …`;
      return scope === "model" && layers.length > this.about.layers_held.length
        ? "The mean of all heads needs a kernel: this file does not hold all layers in full."
        : this.notHeld;
    }
    const looked = strongest(means.row, 0, position, this);
    const lookers = strongest(means.column, position + 1, tokens.length - 1, this);
    const seen = looked ? `looked most at ${looked}` : "looked at nothing";
    const by = lookers ? `was seen most by ${lookers}` : "nobody came after it";
    return `${token}, ${who[scope]}: it ${seen}; ${lookers ? `it ${by}` : by}.`;
  }

  // Words and numbers

  number(value) {
    if (this.about.digits === 3 || !Number.isFinite(value)) return threeDigits(value);
    return String(Number(value.toPrecision(2))).replace("-", "−");
  }

  inWords(at) {
    const { about, attention } = this;
    const lock = this.picking.isLocked ? " — locked, Escape unlocks" : "";
    const { layer, head, position, key_position: key } = at;
    const kvHead = about.kv_head_of_head[head];
    if (at.view === "model" || at.view === "layer") {
      const more = ` Enter or a double click ${at.view === "model" ? "shows its layer" : "shows it large"}.`;
      return `Layer ${layer}, head ${head}, reads key/value head ${kvHead}${lock || `.${more}`}`;
    }
    if (!attention.has(layer)) return "";
    if (at.view === "product") {
      const { q, k, part } = attention.products(layer, head, position, key)[at.pair];
      const write = (value) => this.number(value);
      return (
        `Pair ${at.pair}: (${write(q[0])} × ${write(k[0])} + ${write(q[1])} × ${write(k[1])}) / ` +
        `√${about.head_dim} = ${write(part)}${lock}`
      );
    }
    const name = (place) => `${tokenText(about.tokens[place])} at ${place}`;
    const cell = `${name(position)} → ${name(key)}`;
    const score = about.has_vectors
      ? `score ${this.number(attention.score(layer, head, position, key))}, `
      : "";
    if (key > position) return `${cell}: ${score}masked, since this key comes later${lock}`;
    return `${cell}: ${score}weight ${this.number(attention.weight(layer, head, position, key))}${lock}`;
  }

  numbers() {
    const { about, attention } = this;
    const { view, layer, head, position, key_position: key } = this.state;
    const token = (place) => tokenText(about.tokens[place]);
    const where = `Layer ${layer}, head ${head}`;
    if (view === "model" || view === "layer") {
      const layers = (view === "model" ? about.layers : [layer]).filter((one) => attention.layers.has(one));
      const rows = layers.filter((one) => attention.has(one)).flatMap((one) =>
        about.kv_head_of_head.map((kvHead, own) => {
          const weights = attention.row(one, own, position, "weights").subarray(0, position + 1);
          const best = weights.indexOf(Math.max(...weights));
          return [one, own, kvHead, `${best} ${token(best)}`, this.number(weights[best])];
        }),
      );
      return {
        caption: `What each head looks at most from position ${position} (${token(position)}).`,
        header: ["layer", "head", "kv head", "strongest key", "weight"],
        rows,
      };
    }
    if (!attention.has(layer)) return { caption: `${where} is not here.`, header: [], rows: [] };
    if (view === "product") {
      const parts = attention.products(layer, head, position, key);
      return {
        caption: `${where}: query ${position} (${token(position)}) times key ${key} (${token(key)}).`,
        header: ["pair", "q₂ᵢ", "k₂ᵢ", "q₂ᵢ₊₁", "k₂ᵢ₊₁", "part of the score"],
        rows: parts.map(({ q, k, part }, pair) => [
          pair, ...[q[0], k[0], q[1], k[1], part].map((value) => this.number(value)),
        ]),
      };
    }
    const rows = Array.from({ length: position + 1 }, (_, place) => [
      place,
      token(place),
      ...(about.has_vectors ? [this.number(attention.score(layer, head, position, place))] : []),
      this.number(attention.weight(layer, head, position, place)),
    ]);
    return {
      caption: `${where}: the row of query ${position} (${token(position)}).`,
      header: ["key position", "token", ...(about.has_vectors ? ["score"] : []), "weight"],
      rows,
    };
  }
}

const HINTS = {
  model: "Arrow keys choose a layer and a head, Enter zooms in.",
  layer: "Arrow keys choose a head, Enter zooms in, Escape zooms out.",
  head: "Arrow keys choose a query and a key, Enter shows the row, Escape zooms out.",
  row: "Arrow keys choose a key or a query, Enter shows the product, Escape zooms out.",
  product: "Arrow keys choose a pair, Escape zooms out.",
};

const STAGE_WORDS = { scores: "Scores", masked: "Scores after the mask" };

const listed = (numbers) => numbers.join(", ");

function groupsInWords({ kind, n_heads: nHeads, n_kv_heads: nGroups }) {
  if (nHeads === nGroups) return `${kind}: each head reads a key/value head of its own.`;
  if (nGroups === 1) return `${kind}: all ${nHeads} query heads read the one key/value head.`;
  return `${kind}: ${nHeads} query heads read ${nGroups} key/value heads, ${nHeads / nGroups} each.`;
}

/** The place with the largest weight between two, and the weight. */
function strongest(weights, first, last, view) {
  if (last < first) return "";
  let best = first;
  for (let place = first; place <= last; place++) if (weights[place] > weights[best]) best = place;
  const token = tokenText(view.about.tokens[best]);
  return `${token} at ${best} (${view.number(weights[best])})`;
}

export default explorer(AttentionView);
