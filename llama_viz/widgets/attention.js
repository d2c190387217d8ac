// The page of the attention explorer: scores and weights are computed here, from the queries and
// keys that were recorded, so that any cell can be asked for at once. Maps are shown from the
// kernel's coarse levels first; what is in view is computed meanwhile in tiles of as many cells as
// the screen can show, a few milliseconds in each frame.

import { Surface } from "./page/canvas.js";
import { Chart } from "./page/chart.js";
import { ColourBar } from "./page/colours.js";
import { button, menu, pills } from "./page/controls.js";
import { element, say } from "./page/elements.js";
import { Explorer, explorer } from "./page/explorer.js";
import { brief, clamp, duration, fixed, grouped, plural, signed, threeDigits } from "./page/numbers.js";
import { arrow, Picking } from "./page/picking.js";
import { LongTokenText, shorten, tokenText, TokenText } from "./page/tokens.js";

const COMPUTE_MS = 12; // of each frame, for maps that are not finished
const ASK_FROM = 640; // positions: levels of larger maps are the kernel's work, where there is one
const QUICK_MAPS = 120; // so many maps are shown more finely than in the overview at once
const TILE = 128; // cells along each side of what is computed at once
const TILES_KEPT = 2000; // of 16 kB
const LEVELS_KEPT = 160; // of at most 262 kB
const HEADS_KEPT = 12; // of those that were asked for one by one
const LONG_TEXT = 1000; // tokens: of more, only those near what is in view are elements
const CLOSEST = 8; // positions along each side of the smallest part of a map
const NAME_LETTERS = 8; // of a token that is named beside a map or a bar
const LETTER_WIDTH = 7.4; // pixels of one of them, where it is picked and bold
const BARS_BOTTOM = 236; // pixels from the top

const VIEW_NAMES = ["model", "layer", "head", "row", "product"];

// ---------------------------------------------------------------- what was recorded

/** Heads and levels of maps, as far as they are here; and what follows of them. */
class Attention {
  constructor(view, { header, arrays }) {
    this.view = view;
    this.about = header;
    this.n = header.n_positions;
    this.nMaps = header.layers.length * header.n_heads;
    this.kinds = header.has_vectors ? ["weights", "scores"] : ["weights"];
    this.heads = new Map(); // "layer head" -> what any of its cells can be computed from
    this.overviews = new Map(); // "layer kind" -> pooled maps of all heads of the layer
    this.levels = new Map(); // "layer head kind" -> the finest level of the map that is here
    this.finest = new Set(); // of which of them the kernel has no finer one
    this.tiles = new Map(); // parts of maps that were computed here
    this.asked = new Set();
    this.version = 0; // grows with everything that comes in
    const numbers = new Map(); // heads that share a key share its numbers
    const read = (name) => {
      if (!numbers.has(name)) numbers.set(name, arrays[name].numbers());
      return numbers.get(name);
    };
    for (const [layer, heads] of Object.entries(header.heads_held)) {
      for (const head of heads) {
        const own = (name) => read(`${name} ${layer} ${name === "key" ? this.group(head) : head}`);
        this.heads.set(`${layer} ${head}`, this.vectors(own));
      }
    }
    this.held = new Set(this.heads.keys());
    for (const layer of header.layers) {
      for (const kind of this.kinds) {
        const cells = arrays[`${kind} ${layer}`]?.values;
        const limits = kind === "scores" ? header.limits[layer] : null;
        if (cells) this.keepOverview(layer, kind, { cells, limits });
      }
    }
  }

  group(head) {
    return this.about.kv_head_of_head[head];
  }

  vectors(own) {
    if (!this.about.has_vectors) return { map: own("map") };
    return { query: own("query"), key: own("key"), normalizer: own("normalizer") };
  }

  /** Ask the kernel; what comes is kept, and drawn. One of each name at a time: what is no longer
   * looked at when its turn comes is not asked for. */
  async want(name, parameters, keep) {
    if (!this.view.isLive || this.asked.has(name)) return;
    this.asked.add(name);
    try {
      keep(await this.view.connection.ask(name, parameters));
      this.asked.delete(name);
    } catch (error) {
      this.view.complain(error); // and is not asked for again
    }
    this.version++;
    this.view.draw();
  }

  /** Overviews come one after the other, the layer that is picked first. */
  async wantOverviews(kind, first) {
    if (!this.view.isLive || this.asked.has(`all ${kind}`)) return;
    this.asked.add(`all ${kind}`);
    const { layers } = this.about;
    const order = [first, ...layers.filter((layer) => layer !== first)];
    const progress = (this.progress = { kind, began: performance.now(), done: 0 });
    try {
      for (const layer of order) {
        const { header, arrays } = await this.view.connection.ask("summary", { layer, kind });
        this.keepOverview(layer, kind, { cells: arrays.cells.values, limits: header.limits });
        progress.done++;
        this.version++;
        this.view.draw();
      }
    } catch (error) {
      this.view.complain(error);
    }
  }

  /** How far the overviews are, and how long the others will take. */
  get progressInWords() {
    const { layers } = this.about;
    const { done, began } = this.progress ?? {};
    if (done === undefined || done >= layers.length) return "";
    const left = (performance.now() - began) / 1000 / Math.max(done, 1) * (layers.length - done);
    const time = done ? `; about ${duration(left)} left` : "";
    return ` ${done} of ${plural(layers.length, "layer")} are pooled so far${time}.`;
  }

  /** Whether any cell of a head can be computed now; if not, it is asked for. */
  has(layer, head) {
    const key = `${layer} ${head}`;
    if (this.heads.has(key)) return true;
    this.want("head", { layer, head }, ({ arrays }) => {
      this.heads.set(key, this.vectors((name) => arrays[name].numbers()));
      const extra = [...this.heads.keys()].filter((one) => !this.held.has(one));
      if (extra.length > HEADS_KEPT) this.heads.delete(extra[0]);
    });
    return false;
  }

  /** query · key / sqrt(head_dim), as the model has it. */
  score(layer, head, position, key) {
    const { head_dim: size } = this.about;
    const { query, key: keys } = this.heads.get(`${layer} ${head}`);
    const [from, to] = [position * size, key * size];
    let sum = 0;
    for (let i = 0; i < size; i++) sum += query[from + i] * keys[to + i];
    return sum / Math.sqrt(size);
  }

  /** The softmax of the row, of which the kernel sent the normalizer; 0 for later keys. */
  weight(layer, head, position, key) {
    if (key > position) return 0;
    const { map, normalizer } = this.heads.get(`${layer} ${head}`);
    if (map) return map[(position * (position + 1)) / 2 + key];
    return Math.exp(this.score(layer, head, position, key) - normalizer[position]);
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
    const { head_dim: size } = this.about;
    const { query, key: keys } = this.heads.get(`${layer} ${head}`);
    const [from, to] = [position * size, key * size];
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
    const places = over.flatMap((one) => heads.map((own) => [one, own]));
    if (scope === "head") {
      if (!this.has(layer, head)) return null;
    } else if (!places.every((place) => this.heads.has(place.join(" ")))) {
      return this.meansOfKernel(scope, layer, position);
    }
    const values = new Float32Array(this.n);
    const before = new Float32Array(this.n);
    for (const [one, own] of places) {
      for (let key = 0; key <= position; key++) before[key] += this.weight(one, own, position, key);
      for (let later = position + 1; later < this.n; later++) {
        values[later] += this.weight(one, own, later, position);
      }
    }
    const count = places.length;
    return { row: before.map((sum) => sum / count), column: values.map((sum) => sum / count) };
  }

  /** Over more than the page holds, the kernel takes the mean. */
  meansOfKernel(scope, layer, position) {
    const key = `${scope} ${scope === "model" ? "" : layer} ${position}`;
    if (this.knownMeans?.key === key) return this.knownMeans;
    this.want("means", { scope, layer, position }, ({ arrays }) => {
      this.knownMeans = { key, row: arrays.row.values, column: arrays.column.values };
    });
    return null;
  }

  /** The key that each head of these layers looks at most: of those that can be told. */
  strongest(layers, position) {
    const { n_heads: nHeads } = this.about;
    const places = layers.flatMap((layer) =>
      Array.from({ length: nHeads }, (_, head) => ({ layer, head })),
    );
    const here = places.filter(({ layer, head }) => this.heads.has(`${layer} ${head}`));
    if (here.length === places.length || !this.view.isLive) {
      return here.map(({ layer, head }) => {
        const weights = this.row(layer, head, position, "weights").subarray(0, position + 1);
        const key = weights.reduce((best, weight, one) => (weight > weights[best] ? one : best), 0);
        return { layer, head, key, weight: weights[key] };
      });
    }
    const asked = `${layers} ${position}`;
    if (this.knownStrongest?.asked !== asked) {
      this.want("strongest", { layers, position }, ({ arrays }) => {
        const [keys, weights] = [arrays.key.values, arrays.weight.values];
        const rows = places.map((place, i) => ({ ...place, key: keys[i], weight: weights[i] }));
        this.knownStrongest = { asked, rows };
      });
    }
    return this.knownStrongest?.asked === asked ? this.knownStrongest.rows : [];
  }

  // Levels of maps: cells as places among 256 colours

  keepOverview(layer, kind, overview) {
    this.overviews.set(`${layer} ${kind}`, overview);
    const { block } = this.about;
    const side = Math.ceil(this.n / block);
    for (let head = 0; head < this.about.n_heads; head++) {
      const key = `${layer} ${head} ${kind}`;
      if (this.levels.get(key)?.block <= block) continue;
      const cells = overview.cells.subarray(head * side * side, (head + 1) * side * side);
      this.keepLevel(key, kind, { cells, block, limit: overview.limits?.[head] ?? 1 });
    }
  }

  keepLevel(key, kind, { cells, block, limit }) {
    const colours = kind === "weights" ? cells : Uint8Array.from(cells, signedIndex);
    const side = Math.ceil(this.n / block);
    this.levels.set(key, { cells: colours, block, side, limit, nothing: kind === "weights" ? 0 : 127.5 });
  }

  /** The finest level of a map that is here; a finer one is asked for where that is the kernel's. */
  level(layer, head, kind, block, mayAsk) {
    const key = `${layer} ${head} ${kind}`;
    const known = this.levels.get(key);
    const isTooCoarse = (known?.block ?? Infinity) > block;
    if (mayAsk && isTooCoarse && this.isKernels(key)) {
      this.want("map", { layer, head, kind }, ({ header, arrays }) => {
        const { block: finest, limit } = header;
        this.keepLevel(key, kind, { cells: arrays.cells.values, block: finest, limit });
        this.finest.add(key);
        if (this.finest.size > LEVELS_KEPT) this.forget(this.finest.values().next().value);
      });
    }
    return known;
  }

  /** Whether the kernel has a finer level of a map than is here. */
  isKernels(key) {
    return this.view.isLive && this.n > ASK_FROM && !this.finest.has(key);
  }

  /** Let go of a fine level; the overview stays. */
  forget(key) {
    this.finest.delete(key);
    this.levels.delete(key);
    const [layer, , kind] = key.split(" ");
    const overview = this.overviews.get(`${layer} ${kind}`);
    if (overview) this.keepOverview(Number(layer), kind, overview);
  }

  limit(layer, head) {
    return this.levels.get(`${layer} ${head} scores`)?.limit ?? 0;
  }

  /** A part of a map in blocks: places among 256 colours, −1 where nothing is known yet.
   *
   * What is coarser than asked for stands in for tiles that are still to be computed. */
  cells(layer, head, kind, block, part, isMasked, mayCompute) {
    const { row, column, nRows, nColumns } = part;
    const cells = new Int16Array(nRows * nColumns).fill(-1);
    let level = this.level(layer, head, kind, block, mayCompute);
    if (level && level.block < block) level = coarser(level, block);
    if (level) {
      const ratio = level.block / block;
      for (let i = 0; i < nRows; i++) {
        const from = Math.floor((row + i) / ratio) * level.side;
        for (let j = 0; j < nColumns; j++) {
          cells[i * nColumns + j] = level.cells[from + Math.floor((column + j) / ratio)];
        }
      }
      if (ratio === 1) return cells;
    }
    // A tile of scores needs to know the largest of them, to be in one scale with the others.
    const mustWait = this.isKernels(`${layer} ${head} ${kind}`) || (kind === "scores" && !level);
    if (!mayCompute || mustWait || !this.has(layer, head)) return cells;
    const [lastRow, lastColumn] = [row + nRows - 1, column + nColumns - 1];
    for (let down = Math.floor(row / TILE); down <= Math.floor(lastRow / TILE); down++) {
      for (let across = Math.floor(column / TILE); across <= Math.floor(lastColumn / TILE); across++) {
        if (isMasked && across > down) continue;
        const tile = this.tile(layer, head, kind, block, down, across, level?.limit);
        if (!tile) continue;
        const top = down * TILE;
        const left = across * TILE;
        const [first, last] = [Math.max(column, left), Math.min(lastColumn, left + TILE - 1)];
        for (let i = Math.max(row, top); i <= Math.min(lastRow, top + TILE - 1); i++) {
          const from = (i - top) * TILE - left;
          cells.set(tile.subarray(from + first, from + last + 1), (i - row) * nColumns + first - column);
        }
      }
    }
    return cells;
  }

  /** TILE x TILE cells of a map; null while they are computed. */
  tile(layer, head, kind, block, down, across, limit) {
    const key = `${layer} ${head} ${kind} ${block} ${down} ${across}`;
    let tile = this.tiles.get(key);
    if (!tile) {
      const values = new Float32Array(TILE * TILE);
      tile = { layer, head, kind, block, down, across, limit, values, next: 0 };
      this.tiles.set(key, tile);
      if (this.tiles.size > TILES_KEPT) this.tiles.delete(this.tiles.keys().next().value);
    }
    if (!tile.cells && !this.advance(tile)) {
      this.view.goOn();
      return null;
    }
    return tile.cells;
  }

  /** Go on with a tile, row by row, as long as this frame has time; whether it is finished. */
  advance(tile) {
    const { layer, head, kind, block, values } = tile;
    const { query, key: keys, normalizer, map } = this.heads.get(`${layer} ${head}`);
    const isScore = kind === "scores";
    const size = this.about.head_dim;
    const scale = 1 / Math.sqrt(size);
    const firstRow = tile.down * TILE * block;
    const nRows = Math.min(this.n - firstRow, TILE * block);
    const firstKey = tile.across * TILE * block;
    const endKey = Math.min(this.n, firstKey + TILE * block);
    // Of weights the logarithm: the largest of a cell is raised once, in the end.
    if (tile.next === 0 && !isScore) values.fill(-Infinity);
    while (tile.next < nRows && performance.now() < this.view.deadline) {
      const position = firstRow + tile.next;
      const from = Math.floor(tile.next++ / block) * TILE;
      const end = isScore ? endKey : Math.min(endKey, position + 1);
      const start = position * size;
      for (let key = firstKey; key < end; key++) {
        let value = 0;
        if (map) value = Math.log(map[(position * (position + 1)) / 2 + key]);
        else {
          for (let i = 0, at = key * size; i < size; i++, at++) value += query[start + i] * keys[at];
          value *= scale;
          if (!isScore) value -= normalizer[position];
        }
        const cell = from + Math.floor((key - firstKey) / block);
        if (isScore ? Math.abs(value) > Math.abs(values[cell]) : value > values[cell]) {
          values[cell] = value;
        }
      }
    }
    if (tile.next < nRows) return false;
    const root = this.about.by_root ? 0.5 : 1;
    const index = isScore
      ? (value) => signedIndex((127 * value) / tile.limit)
      : (value) => Math.round(255 * Math.exp(root * value));
    tile.cells = Uint8Array.from(values, index);
    tile.values = null;
    return true;
  }
}

/** The level whose blocks are so large: of each the colour that is farthest from nothing. */
function coarser(level, block) {
  const known = (level.coarser ??= new Map());
  if (known.has(block)) return known.get(block);
  const ratio = block / level.block;
  const side = Math.ceil(level.side / ratio);
  const { nothing } = level;
  const cells = new Uint8Array(side * side).fill(nothing);
  for (let i = 0; i < level.side; i++) {
    for (let j = 0; j < level.side; j++) {
      const value = level.cells[i * level.side + j];
      const cell = Math.floor(i / ratio) * side + Math.floor(j / ratio);
      if (Math.abs(value - nothing) > Math.abs(cells[cell] - nothing)) cells[cell] = value;
    }
  }
  const made = { ...level, cells, block, side, coarser: null };
  known.set(block, made);
  return made;
}

/** The smallest power of 2 by which so many positions are at most so many blocks. */
function blockFor(nPositions, nCells) {
  let block = 1;
  while (Math.ceil(nPositions / block) > Math.max(nCells, 1)) block *= 2;
  return block;
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
    const Text = this.about.n_positions > LONG_TEXT ? LongTokenText : TokenText;
    this.text = new Text({
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
      onclick: (event) => this.clicked(event),
      ondblclick: () => this.zoom(1),
      onkeydown: (event) => this.move(event),
      onpointerdown: (event) => this.grab(event),
      onpointermove: (event) => this.drag(event),
      onpointerup: () => this.drop(),
      onpointercancel: () => this.drop(),
    });
    this.canvas = this.surface.canvas;
    // Not passive: a pinch, which comes as Ctrl and the wheel, must not enlarge the page as well.
    this.canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.closerButton = button("Closer", () => this.magnify(0.5));
    this.fartherButton = button("Farther", () => this.magnify(2));
    this.wholeButton = button("Whole map", () => this.magnify(Infinity));
    this.lens = element(
      "div",
      { class: "lv-attention-lens", role: "group", "aria-label": "Part of the map" },
      this.closerButton,
      this.fartherButton,
      this.wholeButton,
    );
    this.chart = new Chart({ class: "lv-chart lv-over", "aria-hidden": "true" });
    this.readout = element("p", { class: "lv-readout lv-attention-readout" });
    this.caption = element("p", { class: "lv-caption" });
    this.body = element("div", { class: "lv-body" }, this.canvas, this.chart.svg);
    this.panel = element(
      "section",
      { class: "lv-panel", "aria-label": "Attention" },
      element("header", {}, this.heading, this.lens, this.colourBar.element),
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
    this.pick({ ...changes, ...this.following(changes) });
    this.draw();
    this.shouldSpeak = true;
  }

  // The part of a map that is in view: span queries and keys

  /** Where it begins, inside of the map, and how far it goes. */
  get part() {
    const n = this.about.n_positions;
    const span = clamp(this.state.span, Math.min(CLOSEST, n), n);
    const inside = (first) => clamp(Math.round(first), 0, n - span);
    const { first_query: query, first_key: key } = { ...this.state, ...this.dragged };
    return { span, query: inside(query), key: inside(key) };
  }

  /** The part moved as little as it must be to show the query and the key that are picked. */
  following(changes) {
    const { span, query, key } = this.part;
    const picked = { ...this.state, ...changes };
    const moved = (first, place) => clamp(first, place - span + 1, place);
    return {
      first_query: moved(query, picked.position),
      first_key: moved(key, picked.key_position),
    };
  }

  /** Show a part so many times as long around a place; Infinity shows all. */
  magnify(factor, around = this.at) {
    const n = this.about.n_positions;
    const { span, query, key } = this.part;
    const wanted = clamp(Math.round(span * factor), Math.min(CLOSEST, n), n);
    const inside = (first, place) => {
      const share = clamp((place - first) / span, 0, 1);
      return clamp(Math.round(place - share * wanted), 0, n - wanted);
    };
    this.pick({
      span: wanted,
      first_query: inside(query, around.position),
      first_key: inside(key, around.key_position),
    });
  }

  wheel(event) {
    if (!event.ctrlKey || !this.hasPart) return;
    event.preventDefault();
    this.magnify(2 ** clamp(event.deltaY / 120, -1, 1), { ...this.at, ...this.placeAt(event) });
  }

  grab(event) {
    if (event.button !== 0 || !this.hasPart || this.part.span === this.about.n_positions) return;
    const { query, key } = this.part;
    this.grabbed = { x: event.clientX, y: event.clientY, query, key, id: event.pointerId };
  }

  drag(event) {
    if (!this.grabbed) return;
    const { x, y, query, key, id } = this.grabbed;
    if (!this.dragged && Math.hypot(event.clientX - x, event.clientY - y) < 4) return;
    this.canvas.setPointerCapture(id);
    const { slot } = this.layout;
    const down = this.state.view === "head" ? (event.clientY - y) / slot : 0;
    this.dragged = { first_query: query - down, first_key: key - (event.clientX - x) / slot };
    this.draw();
  }

  /** Let go of the map: where it is now, it stays, and the click that follows picks nothing. */
  drop() {
    this.grabbed = null;
    if (!this.dragged) return;
    const { query, key } = this.part;
    this.dragged = null;
    this.wasDragged = true;
    this.pick({ first_query: query, first_key: key });
    this.draw();
  }

  clicked(event) {
    if (!this.wasDragged) this.lock(this.placeAt(event));
    this.wasDragged = false;
  }

  /** Whether the view shows a part of a map, or of a row. */
  get hasPart() {
    return this.state.view === "head" || this.state.view === "row";
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
    else if (event.key === "+" && this.hasPart) this.magnify(0.5, this.state);
    else if (event.key === "-" && this.hasPart) this.magnify(2, this.state);
    else if (event.key === "0" && this.hasPart) this.magnify(Infinity, this.state);
    else if (event.key === " ") this.lock(this.placeOfState());
    else if (event.key === "Backspace") this.zoom(-1);
    else if (step) {
      const far = event.shiftKey && this.hasPart ? Math.max(1, this.part.span >> 2) : 1;
      this.step(step[0] * far, step[1] * far);
    } else return;
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
    if (layout.kind === "bars") return { [layout.name]: layout.first + across };
    const down = Math.floor((y - layout.top) / layout.slot);
    if (down < 0 || down >= layout.count) return null;
    return { position: layout.query + down, key_position: layout.key + across };
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
    this.attention.wantOverviews(this.kind, this.state.layer);
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
    const { span } = this.part;
    const n = this.about.n_positions;
    this.lens.hidden = !this.hasPart;
    this.closerButton.disabled = span <= Math.min(CLOSEST, n);
    this.fartherButton.disabled = this.wholeButton.disabled = span === n;
    this.canvas.classList.toggle("lv-attention-grip", this.hasPart && span < n);
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
        ? { kind: "sequential", low: "0", high: "1", meaning: this.weightInWords, masked: true }
        : {
            kind: "diverging",
            low: `−${side}`,
            high: `+${side}`,
            meaning: stage === "masked" ? "score after the mask" : "query · key / √head_dim",
            masked: stage === "masked",
          },
    );
  }

  /** What the stage shows: weights, or scores, masked or not. */
  get kind() {
    return this.state.stage === "weights" ? "weights" : "scores";
  }

  get weightInWords() {
    return this.about.by_root ? "attention weight, by its square root" : "attention weight";
  }

  /** The largest score of these layers, as far as they are known. */
  limitOf(layers) {
    const { attention, about } = this;
    const known = layers.flatMap((layer) =>
      about.kv_head_of_head.map((_, head) => attention.limit(layer, head)),
    );
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
    const blocks = layout.tiles.map((one) => this.blockOf(one, isModel));
    const waiting = isModel ? attention.progressInWords : this.computingInWords;
    const pooled = this.poolingInWords([...new Set(blocks)].sort((one, other) => one - other));
    say(this.caption, `${groupsInWords(about)} ${pooled}${waiting}${this.notHeldInWords}`);
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

  /** In blocks of how many positions a tile shows its map. */
  blockOf({ side, layer, head }, isSmall) {
    const { about, attention } = this;
    const block = blockFor(about.n_positions, this.pixels(side));
    // Of all layers at once, only what is quickly done is shown more finely than in the overview.
    const isQuick = about.n_positions <= ASK_FROM && attention.nMaps < QUICK_MAPS;
    const isHere = attention.heads.has(`${layer} ${head}`);
    const mayCompute = isSmall ? isQuick && isHere : isHere || this.isLive;
    return mayCompute ? block : Math.max(block, about.block);
  }

  pixels(length) {
    return Math.round(length * (this.surface.ratio || 1));
  }

  paintTile(tile, limit, isSmall) {
    const { layer, head, x, y, side } = tile;
    const n = this.about.n_positions;
    const block = this.blockOf(tile, isSmall);
    const part = { query: 0, key: 0, span: n };
    this.paintPart({ layer, head, x, y, side, block, part }, limit, !isSmall || block < this.about.block);
  }

  /** A part of a map in a square of the canvas. */
  paintPart({ layer, head, x, y, side, block, part }, limit, mayCompute) {
    const { attention, surface, colours, kind } = this;
    const { context } = surface;
    context.fillStyle = colours.unseen;
    context.fillRect(x, y, side, side);
    const [row, column] = [Math.floor(part.query / block), Math.floor(part.key / block)];
    const count = (first, from) => Math.ceil((first + part.span) / block) - from;
    const [nRows, nColumns] = [count(part.query, row), count(part.key, column)];
    const place = { row, column, nRows, nColumns };
    const isMasked = this.state.stage !== "scores";
    const cells = attention.cells(layer, head, kind, block, place, isMasked, mayCompute);
    const own = kind === "scores" ? attention.limit(layer, head) || limit : 1;
    const pixels = this.coloured(cells, place, kind === "scores" ? own / limit : 1);
    // Blocks at the edges may reach beyond the part.
    const slot = side / part.span;
    context.save();
    context.beginPath();
    context.rect(x, y, side, side);
    context.clip();
    surface.cells(
      pixels, nRows, nColumns,
      x + (column * block - part.key) * slot, y + (row * block - part.query) * slot,
      nColumns * block * slot, nRows * block * slot,
    );
    context.restore();
  }

  /** Pixels of cells: their colours, grey for later keys where they are masked, else none. */
  coloured(cells, { row, column, nRows, nColumns }, share) {
    const { stage } = this.state;
    const { masked, sequential, diverging } = this.colours;
    const isScore = stage !== "weights";
    const lookup = isScore
      ? Uint32Array.from({ length: 256 }, (_, index) => {
          const value = clamp((index - 127.5) * share + 127.5, 0, 255);
          return diverging[Math.round(value)];
        })
      : sequential;
    const pixels = new Uint32Array(nRows * nColumns);
    for (let i = 0; i < nRows; i++) {
      const last = stage === "scores" ? nColumns - 1 : row + i - column;
      for (let j = 0; j < nColumns; j++) {
        const cell = i * nColumns + j;
        if (j > last) pixels[cell] = masked;
        else if (cells[cell] >= 0) pixels[cell] = lookup[cells[cell]];
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

  /** What a cell is; blocks are the sizes that are drawn, the smallest first. */
  poolingInWords(blocks) {
    const axes = "Down: queries, across: keys.";
    if (blocks.at(-1) === 1) return axes;
    const kind = this.kind === "weights" ? "largest weight" : "score of the largest size";
    const sizes = blocks.map((block) => `${block} × ${block}`).join(" or ");
    return `${axes} Each cell is the ${kind} of a block of ${sizes}.`;
  }

  get computingInWords() {
    return this.painted.isUnfinished ? " Finer cells are being computed …" : "";
  }

  /** How long the name of a token with its position may get, in pixels. */
  get nameRoom() {
    const digits = String(this.about.n_positions - 1).length;
    return Math.ceil(LETTER_WIDTH * (NAME_LETTERS + 1 + digits)) + 6;
  }

  showHead(at) {
    const { about, attention, surface, chart, part } = this;
    // At the left the longest names may reach into the panel's padding.
    const [left, bottom, top] = [Math.max(92, this.nameRoom - 12), this.nameRoom, 8];
    const size = clamp(this.width - left - 12, 180, 620);
    const { span } = part;
    const layout = { kind: "map", left, top, slot: size / span, count: span, size, ...part };
    this.layout = layout;
    const { layer, head, stage } = this.state;
    const limit = this.limitOf([layer]);
    this.showColours(limit);
    say(this.heading, `Layer ${layer}, head ${head}`);
    const height = top + size + bottom;
    surface.resize(this.width, height);
    chart.resize(this.width, height);
    const canCome = attention.heads.has(`${layer} ${head}`) || this.isLive;
    const fine = blockFor(span, this.pixels(size));
    const block = canCome ? fine : Math.max(fine, about.block);
    const key = JSON.stringify(["head", layer, head, stage, this.width, part]);
    this.paintOnce(key, () => {
      surface.clear();
      this.paintPart({ layer, head, x: left, y: top, side: size, block, part }, limit, canCome);
    });
    this.nameAxes(layout, at);
    const [down, across] = [at.position - part.query, at.key_position - part.key];
    const isIn = (place) => place >= 0 && place < span;
    const [x, y] = [left + across * layout.slot, top + down * layout.slot];
    const half = layout.slot / 2;
    if (isIn(down)) chart.line(left, y + half, left + size, y + half, "lv-attention-cross");
    if (isIn(across)) chart.line(x + half, top, x + half, top + size, "lv-attention-cross");
    const mark = Math.max(layout.slot, 5);
    const inset = (layout.slot - mark) / 2;
    if (isIn(down) && isIn(across)) {
      chart.box(x + inset - 1, y + inset - 1, mark + 2, mark + 2, this.cursorClass);
    }
    chart.show("");
    const kvHead = about.kv_head_of_head[head];
    const sharers = groupsOf(about)[kvHead].filter((one) => one !== head);
    const shared = sharers.length ? `, as ${listed(sharers)} do${sharers.length > 1 ? "" : "es"}` : "";
    const unknown = canCome ? "" : ` ${this.notHeld}`;
    const words = `${this.partInWords}${this.poolingInWords([block])}${unknown}${this.computingInWords}`;
    say(this.caption, `Head ${head} reads key/value head ${kvHead}${shared}. ${words}`);
  }

  /** Which part of the map is in view, where it is not all of it. */
  get partInWords() {
    const { span, query, key } = this.part;
    const n = this.about.n_positions;
    if (span === n) return "";
    const range = (first) => `${grouped(first)} to ${grouped(first + span - 1)}`;
    const rows = this.state.view === "head" ? `Queries ${range(query)}, keys` : "Keys";
    return `${rows} ${range(key)} of ${grouped(n)}. `;
  }

  /** What is said of a head that this page has only pooled. */
  get notHeld() {
    return `Layer ${this.state.layer}, head ${this.state.head} is here in blocks of ${this.about.block} × ${this.about.block} only.${this.notHeldInWords}`;
  }

  /** One line on what this page lacks; nothing where a kernel can be asked or all is here. */
  get notHeldInWords() {
    const { about, attention } = this;
    if (this.isLive || attention.held.size === attention.nMaps) return "";
    const groups = Object.entries(about.heads_held).filter(([, heads]) => heads.length);
    const some = groups.map(([layer, heads]) =>
      heads.length === about.n_heads
        ? `layer ${layer}`
        : `layer ${layer} (${heads.length > 1 ? "heads" : "head"} ${listed(heads)})`,
    );
    const which = `${attention.held.size} of ${plural(attention.nMaps, "head")}`;
    const held = some.length ? `holds ${which} in full, of ${some.join(", ")}` : "holds no head in full";
    return ` This file keeps to 5 MB: it ${held}; open the trace for the others.`;
  }

  /** Tokens along both axes where there is room, else positions here and there. */
  nameAxes({ left, top, slot, count, size, query, key }, at) {
    const { chart, about } = this;
    const every = Math.ceil(13 / slot);
    // Steps from a place that is a whole number of them, so that names stay while the map moves.
    const along = (first, chosen) => {
      const places = chosen >= first && chosen < first + count ? [chosen] : [];
      for (let place = Math.ceil(first / every) * every; place < first + count; place += every) {
        if (Math.abs(place - chosen) >= every) places.push(place);
      }
      return places;
    };
    const label = (place) => shorten(about.tokens[place].label, NAME_LETTERS);
    for (const place of along(query, at.position)) {
      const y = top + (place - query + 0.5) * slot + 3.5;
      const name = place === at.position ? "lv-tick lv-strong" : "lv-tick";
      chart.text(left - 6, y, `${label(place)} ${place}`, name, "end");
    }
    for (const place of along(key, at.key_position)) {
      const x = left + (place - key + 0.5) * slot - 3.5;
      const name = place === at.key_position ? "lv-tick lv-strong" : "lv-tick";
      chart.text(x, top + size + 6, `${place} ${label(place)}`, name, "start", true);
    }
  }

  showBars(at) {
    const { about, attention, surface, chart } = this;
    const { layer, head, stage, position } = this.state;
    const isRow = at.view === "row";
    const height = BARS_BOTTOM + this.nameRoom;
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
    if (!attention.has(layer, head)) {
      chart.show("");
      return say(this.caption, this.isLive ? "Fetching this head …" : this.notHeld);
    }
    const { key: firstKey, span } = this.part;
    const row = isRow && attention.row(layer, head, position, stage);
    const values = isRow
      ? row.subarray(firstKey, firstKey + span)
      : Float32Array.from(
          attention.products(layer, head, position, this.state.key_position),
          ({ part }) => part,
        );
    const left = 46;
    const slot = (this.width - left - 10) / values.length;
    const name = isRow ? "key_position" : "pair";
    this.layout = { kind: "bars", left, slot, count: values.length, name, first: isRow ? firstKey : 0 };
    this.drawBars(values, at[name] - this.layout.first, stage === "weights" && isRow);
    say(this.caption, isRow ? `${this.partInWords}${this.rowCaption(row)}` : this.productCaption(values));
  }

  drawBars(values, chosen, isWeight) {
    const { chart, layout } = this;
    const { left, slot, count } = layout;
    const [top, bottom] = [12, BARS_BOTTOM];
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
    if (chosen >= 0 && chosen < count) {
      chart.box(left + chosen * slot - 1, top, Math.max(slot, 3) + 1, bottom - top, this.cursorClass);
    }
    this.nameBars(values, chosen, bottom);
    chart.show("");
  }

  /** Names below as many bars as there is room for, the longest bars first. */
  nameBars(values, chosen, bottom) {
    const { left, slot, count, name, first } = this.layout;
    const order = Array.from(values.keys()).sort(
      (a, b) => Math.abs(values[b] || 0) - Math.abs(values[a] || 0),
    );
    if (chosen >= 0 && chosen < count) order.unshift(chosen);
    const apart = Math.ceil(13 / slot);
    const taken = new Uint8Array(count);
    for (const index of order) {
      if (taken.subarray(Math.max(0, index - apart + 1), index + apart).some(Boolean)) continue;
      taken[index] = 1;
      const label =
        name === "pair"
          ? `pair ${index}`
          : `${first + index} ${shorten(this.about.tokens[first + index].label, NAME_LETTERS)}`;
      const style = index === chosen ? "lv-tick lv-strong" : "lv-tick";
      this.chart.text(left + (index + 0.5) * slot - 3.5, bottom + 6, label, style, "start", true);
    }
  }

  rowCaption(values) {
    const { stage, position } = this.state;
    if (stage !== "weights") return `${STAGE_WORDS[stage]} of ${plural(this.about.n_positions, "key")}.`;
    const sum = values.subarray(0, position + 1).reduce((all, value) => all + value, 0);
    return `Weights of ${plural(position + 1, "key")}; together ${threeDigits(sum)}.`;
  }

  productCaption(values) {
    const { layer, head, position, key_position: key } = this.state;
    const sum = values.reduce((all, value) => all + value, 0);
    const weight = this.attention.weight(layer, head, position, key);
    const after = key > position ? "masked" : `weight ${threeDigits(weight)} after the softmax`;
    return (
      `Each bar: (q₂ᵢ k₂ᵢ + q₂ᵢ₊₁ k₂ᵢ₊₁) / √${this.about.head_dim}. ` +
      `Their sum is the score, ${threeDigits(sum)}; ${after}.`
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
    if (means || scope === "head") text.shade(shades);
    if (this.lookers !== position) {
      const later = Array.from({ length: about.n_positions - position - 1 }, (_, i) => position + 1 + i);
      text.mark("lv-attention-looker", later);
      this.lookers = position;
    }
    text.mark("lv-read", [position]);
    text.mark("lv-looked-at", at.view === "model" || at.view === "layer" ? [] : [at.key_position]);
    // A long text moves along with what is picked, not with what is pointed at.
    const chosen = text instanceof LongTokenText ? this.state.position : at.position;
    if (text.active !== chosen && this.pointedToken === null) text.choose(chosen);
    say(this.textWords, this.textInWords(means, position, at));
  }

  textInWords(means, position, { layer, head }) {
    const { tokens } = this.about;
    const scope = this.state.text_shows;
    const who = { head: `head ${head} of layer ${layer}`, layer: `layer ${layer}`, model: "all heads" };
    const token = `${tokenText(tokens[position])} at position ${position}`;
    if (!means) {
      if (this.isLive) return `${token}: fetching the weights of ${who[scope]} …`;
      return scope === "head"
        ? this.notHeld
        : `The mean of ${who[scope]} needs a kernel.${this.notHeldInWords}`;
    }
    const looked = strongestOf(means.row, 0, position, this);
    const lookers = strongestOf(means.column, position + 1, tokens.length - 1, this);
    const seen = looked ? `looked most at ${looked}` : "looked at nothing";
    const by = lookers ? `was seen most by ${lookers}` : "nobody came after it";
    return `${token}, ${who[scope]}: it ${seen}; ${lookers ? `it ${by}` : by}.`;
  }

  // Words and numbers

  inWords(at) {
    const { about, attention } = this;
    const lock = this.picking.isLocked ? " — locked, Escape unlocks" : "";
    const { layer, head, position, key_position: key } = at;
    const kvHead = about.kv_head_of_head[head];
    if (at.view === "model" || at.view === "layer") {
      const more = ` Enter or a double click ${at.view === "model" ? "shows its layer" : "shows it large"}.`;
      return `Layer ${layer}, head ${head}, reads key/value head ${kvHead}${lock || `.${more}`}`;
    }
    if (!attention.has(layer, head)) return this.isLive ? "Fetching this head …" : this.notHeld;
    if (at.view === "product") {
      const { q, k, part } = attention.products(layer, head, position, key)[at.pair];
            return (
        `Pair ${at.pair}: (${threeDigits(q[0])} × ${threeDigits(k[0])} + ${threeDigits(q[1])} × ${threeDigits(k[1])}) / ` +
        `√${about.head_dim} = ${threeDigits(part)}${lock}`
      );
    }
    const name = (place) => `${tokenText(about.tokens[place])} at ${place}`;
    const cell = `${name(position)} → ${name(key)}`;
    const score = about.has_vectors
      ? `score ${threeDigits(attention.score(layer, head, position, key))}, `
      : "";
    if (key > position) return `${cell}: ${score}masked, since this key comes later${lock}`;
    return `${cell}: ${score}weight ${threeDigits(attention.weight(layer, head, position, key))}${lock}`;
  }

  numbers() {
    const { about, attention } = this;
    const { view, layer, head, position, key_position: key } = this.state;
    const token = (place) => tokenText(about.tokens[place]);
    const where = `Layer ${layer}, head ${head}`;
    if (view === "model" || view === "layer") {
      const layers = view === "model" ? about.layers : [layer];
      const rows = attention
        .strongest(layers, position)
        .map(({ layer: one, head: own, key: best, weight }) => [
          one, own, about.kv_head_of_head[own], `${best} ${token(best)}`, threeDigits(weight),
        ]);
      return {
        caption: `What each head looks at most from position ${position} (${token(position)}).`,
        header: ["layer", "head", "kv head", "strongest key", "weight"],
        rows,
      };
    }
    if (!attention.has(layer, head)) return { caption: `${where} is not here.`, header: [], rows: [] };
    if (view === "product") {
      const parts = attention.products(layer, head, position, key);
      return {
        caption: `${where}: query ${position} (${token(position)}) times key ${key} (${token(key)}).`,
        header: ["pair", "q₂ᵢ", "k₂ᵢ", "q₂ᵢ₊₁", "k₂ᵢ₊₁", "part of the score"],
        rows: parts.map(({ q, k, part }, pair) => [
          pair, ...[q[0], k[0], q[1], k[1], part].map((value) => threeDigits(value)),
        ]),
      };
    }
    const part = this.part;
    const last = Math.min(position, part.key + part.span - 1);
    const rows = Array.from({ length: Math.max(last - part.key + 1, 0) }, (_, index) => {
      const place = part.key + index;
      const { has_vectors: hasScores } = about;
      return [
        place,
        token(place),
        ...(hasScores ? [threeDigits(attention.score(layer, head, position, place))] : []),
        threeDigits(attention.weight(layer, head, position, place)),
      ];
    });
    return {
      caption: `${where}: the row of query ${position} (${token(position)}). ${this.partInWords}`,
      header: ["key position", "token", ...(about.has_vectors ? ["score"] : []), "weight"],
      rows,
    };
  }
}

const HINTS = {
  model: "Arrow keys choose a layer and a head, Enter zooms in.",
  layer: "Arrow keys choose a head, Enter zooms in, Escape zooms out.",
  head:
    "Arrow keys choose a query and a key, with Shift farther away; plus and minus show a part of " +
    "the map closer or farther, 0 all of it; Enter shows the row, Escape zooms out.",
  row:
    "Arrow keys choose a key or a query; plus and minus show fewer keys or more; Enter shows the " +
    "product, Escape zooms out.",
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
function strongestOf(weights, first, last, view) {
  if (last < first) return "";
  let best = first;
  for (let place = first; place <= last; place++) if (weights[place] > weights[best]) best = place;
  const token = tokenText(view.about.tokens[best]);
  return `${token} at ${best} (${threeDigits(weights[best])})`;
}

export default explorer(AttentionView);
