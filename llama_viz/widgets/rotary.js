// The page of the rotary explorer: hands of queries and keys, and a score as the sum of its pairs.

import { logarithmicAxis, signedAxis } from "./page/axes.js";
import { CHART_HEIGHT, Chart, Panel } from "./page/chart.js";
import { button, pills, slider } from "./page/controls.js";
import { element, say } from "./page/elements.js";
import { Explorer, explorer } from "./page/explorer.js";
import {
  brief,
  clamp,
  fixed,
  grouped,
  plural,
  signed,
  total,
  withSign,
} from "./page/numbers.js";
import { shorten, TokenText, tokenText } from "./page/tokens.js";

const TURN = 2 * Math.PI;
const SIDES = ["query", "key"];
const PLACE_OF = { query: "position", key: "key_position" }; // in the state
// A pair shorter than this part of its vector's longest has no direction worth drawing.
const SHORTEST = 1e-5;
const LEAST_OFFSETS = 32;
const MOST_OFFSETS = 256;

/** The same direction as an angle in (−π, π]. */
const wrap = (angle) => angle - TURN * Math.ceil((angle - Math.PI) / TURN);
const sixDigits = (number) => fixed(number, 6).replace("-", "−");
const radians = (angle) => `${fixed(angle, 4).replace("-", "−")} rad`;
const tiny = (difference) =>
  difference === 0 ? "0" : `${difference.toExponential(0).replaceAll("-", "−")}`;

// ---------------------------------------------------------------- vectors

/** The features of a vector as pairs: point i is (x[i], y[i]). */
class Pairs {
  constructor(x, y) {
    this.x = x;
    this.y = y;
  }

  /** null where a part of the run was left out. */
  static of(features) {
    if (features.some(Number.isNaN)) return null;
    const half = Array.from({ length: features.length / 2 }, (_, pair) => pair);
    return new Pairs(
      Float64Array.from(half, (pair) => features[2 * pair]),
      Float64Array.from(half, (pair) => features[2 * pair + 1]),
    );
  }

  length(pair) {
    return Math.hypot(this.x[pair], this.y[pair]);
  }

  direction(pair) {
    return Math.atan2(this.y[pair], this.x[pair]);
  }

  get longest() {
    return Math.max(...this.x.map((_, pair) => this.length(pair)));
  }

  /** Each pair turned by its angle, counter-clockwise. */
  turned(angles) {
    const { x, y } = this;
    return new Pairs(
      x.map((_, pair) => x[pair] * Math.cos(angles[pair]) - y[pair] * Math.sin(angles[pair])),
      x.map((_, pair) => x[pair] * Math.sin(angles[pair]) + y[pair] * Math.cos(angles[pair])),
    );
  }

  /** The angles that lead from here to other pairs, NaN where there is no direction. */
  anglesTo(other) {
    const least = SHORTEST * this.longest;
    return this.x.map((_, pair) =>
      this.length(pair) > least
        ? wrap(other.direction(pair) - this.direction(pair))
        : NaN,
    );
  }

  /** What each pair adds to the score with another vector. */
  scores(other, headDim) {
    const { x, y } = this;
    return x.map(
      (_, pair) => (x[pair] * other.x[pair] + y[pair] * other.y[pair]) / Math.sqrt(headDim),
    );
  }
}

/** A query or a key at its place, as recorded and as moved. */
class Side {
  constructor(name, { token, position, shift, frequency, before, recorded, angles }) {
    Object.assign(this, { name, token, position, shift, frequency, before, recorded });
    this.place = position + shift;
    this.applied = frequency.map((step) => step * this.place);
    this.recordedAngles = angles;
    this.measured = before && recorded ? before.anglesTo(recorded) : null;
    const isAsRecorded = shift === 0 && recorded;
    this.after = isAsRecorded ? recorded : before?.turned(this.applied);
  }

  /** The vector at another position, turned in this page. */
  at(place) {
    return this.before.turned(this.frequency.map((step) => step * place));
  }

  get words() {
    return `${this.name} at ${this.position}, ${shorten(tokenText(this.token), 14)}`;
  }
}

// ---------------------------------------------------------------- panels

/** A chart with a column for each pair; pointing and clicking choose one. */
class PairPanel extends Panel {
  constructor(view, name, title, unit) {
    super(`rotary-${name}`, title, unit);
    this.view = view;
    this.chart = new Chart({
      onmousemove: (event) => view.point("pair", this.pairAt(event)),
      onmouseleave: () => view.point("pair", null),
      onclick: (event) => view.pick({ pair: this.pairAt(event) ?? view.state.pair }),
    });
    this.chart.svg.classList.add("lv-rotary-pairs");
    this.body.append(this.chart.svg);
  }

  pairAt(event) {
    if (!this.frame) return null;
    const { left, right } = this.frame;
    const across = event.clientX - this.chart.svg.getBoundingClientRect().left;
    if (across < left || across > right) return null;
    const share = (across - left) / (right - left);
    return clamp(Math.floor(share * this.nPairs), 0, this.nPairs - 1);
  }

  /** Take the size, mark the chosen pair and number the columns. */
  begin({ nPairs, pair }) {
    const { chart } = this;
    chart.resize(this.width, CHART_HEIGHT);
    const frame = { left: 46, right: chart.width - 8, top: 10, bottom: CHART_HEIGHT - 20 };
    const column = (frame.right - frame.left) / nPairs;
    const x = (index) => frame.left + (index + 0.5) * column;
    chart.box(x(pair) - column / 2, frame.top, column, frame.bottom - frame.top, "lv-rotary-band");
    const every = [1, 2, 4, 8, 16, 32].find((step) => step * column >= 22) ?? 64;
    for (let index = 0; index < nPairs; index += every) {
      chart.text(x(index), CHART_HEIGHT - 6, String(index), "lv-tick", "middle");
    }
    chart.text(frame.left - 5, CHART_HEIGHT - 6, "pair", "lv-tick", "end");
    Object.assign(this, { frame, nPairs, column });
    return { chart, frame, column, x };
  }
}

/** A circle for each pair, with the hands of query and key before and after rotation. */
class ClocksPanel extends Panel {
  constructor(view) {
    super("rotary-clocks", "Hands of every pair", "dashed: before rotation");
    this.view = view;
    this.chart = new Chart({
      onmousemove: (event) => view.point("pair", this.pairAt(event)),
      onmouseleave: () => view.point("pair", null),
      onclick: (event) => view.pick({ pair: this.pairAt(event) ?? view.state.pair }),
    });
    this.chart.svg.classList.add("lv-rotary-pairs");
    this.body.append(this.chart.svg);
    const choices = [
      ["direction", "directions", "directions only"],
      ["length", "lengths", "true lengths"],
    ];
    this.hands = pills("Hands", choices, (hands) => view.pick({ hands }));
    this.tools.append(this.hands.element);
  }

  pairAt(event) {
    if (!this.cell) return null;
    const bounds = this.chart.svg.getBoundingClientRect();
    const column = Math.floor((event.clientX - bounds.left) / this.cell);
    const row = Math.floor((event.clientY - bounds.top) / (this.cell + 12));
    const pair = row * this.columns + column;
    return column < this.columns && pair < this.nPairs && pair >= 0 ? pair : null;
  }

  draw({ nPairs, pair: chosen, query, key, hands }) {
    const { chart, width } = this;
    const wanted = clamp(Math.sqrt((width * 250) / nPairs), 52, 150);
    const nRows = Math.ceil(nPairs / Math.floor(width / wanted));
    const columns = Math.ceil(nPairs / nRows);
    const cell = Math.min(Math.floor(width / columns), 150);
    Object.assign(this, { columns, cell, nPairs });
    chart.resize(width, nRows * (cell + 12) + 2);
    const longest = { query: longestOf(query), key: longestOf(key) };
    for (let pair = 0; pair < nPairs; pair++) {
      const x = ((pair % columns) + 0.5) * cell;
      const y = Math.floor(pair / columns) * (cell + 12) + cell / 2;
      const radius = cell / 2 - 4;
      drawDial(chart, x, y, radius, pair === chosen);
      for (const side of [query, key]) {
        const scale = hands === "length" ? longest[side.name] : null;
        drawHands(chart, x, y, radius - 2, side, pair, scale);
      }
      chart.text(x, y + radius + 13, String(pair), "lv-tick", "middle");
    }
    this.hands.set(hands);
    chart.show(`${nPairs} circles with the hands of ${query.words} and ${key.words}`);
    this.say(
      "Blue with a round tip: query; orange with a square tip: key. " +
        (hands === "length"
          ? "Hands are as long as the pairs are, the longest of each vector is the radius."
          : "Every hand is drawn at full length: only directions are compared."),
    );
  }
}

const longestOf = ({ before, after }) => (before ?? after)?.longest ?? 1;

function drawDial(chart, x, y, radius, isChosen) {
  const name = isChosen ? "lv-rotary-dial lv-rotary-chosen" : "lv-rotary-dial";
  chart.add("circle", { cx: x, cy: y, r: radius, class: name });
  chart.line(x + radius - 3, y, x + radius, y, "lv-axis");
}

/** Both hands of a side; scale is the length that reaches the rim, null for all alike. */
function drawHands(chart, x, y, radius, side, pair, scale) {
  for (const [pairs, name] of [
    [side.before, `lv-rotary-${side.name} lv-rotary-before`],
    [side.after, `lv-rotary-${side.name}`],
  ]) {
    if (!pairs || !pairs.length(pair)) continue;
    const length = radius * (scale ? pairs.length(pair) / scale : 1);
    const direction = pairs.direction(pair);
    const [tipX, tipY] = [x + length * Math.cos(direction), y - length * Math.sin(direction)];
    chart.line(x, y, fixed(tipX, 1), fixed(tipY, 1), name);
    if (pairs === side.before) continue;
    drawTip(chart, tipX, tipY, clamp(radius / 12, 2, 5), side.name);
  }
}

/** Round for queries, square for keys. */
function drawTip(chart, x, y, size, name) {
  const shape = { class: `lv-rotary-${name}-tip` };
  if (name === "query") {
    chart.add("circle", { cx: fixed(x, 1), cy: fixed(y, 1), r: fixed(size, 1), ...shape });
  } else {
    chart.box(x - size, y - size, 2 * size, 2 * size, shape.class);
  }
}

/** One pair from near: how far it turned, as applied and as measured. */
class PairCloseUp extends Panel {
  constructor() {
    super("rotary-close-up", "One pair", "angles in radians");
    this.chart = new Chart();
    this.lines = element("div", { class: "lv-rotary-lines" });
    this.body.append(this.chart.svg, this.lines);
  }

  draw(moment) {
    const { pair, query, key, split } = moment;
    const { chart } = this;
    const size = Math.min(this.width, 200);
    chart.resize(this.width, size);
    const [x, y, radius] = [this.width / 2, size / 2, size / 2 - 8];
    drawDial(chart, x, y, radius, false);
    drawTurn(chart, x, y, radius * 0.42, query, pair);
    drawTurn(chart, x, y, radius * 0.3, key, pair);
    for (const side of [query, key]) drawHands(chart, x, y, radius - 4, side, pair, null);
    chart.show(`The hands of pair ${pair}`);
    this.lines.replaceChildren(
      ...[query, key].map((side) => angleLine(side, pair)),
      element("p", {}, offsetInWords(query, key, pair)),
    );
    this.say(
      split
        ? `Pair ${pair} adds ${signed(split[pair])} to the score.`
        : `Pair ${pair}: its part of the score needs query and key.`,
    );
  }
}

/** An arc from the hand before to the hand after, as far as can be seen: whole turns cannot. */
function drawTurn(chart, x, y, radius, { name, before, after, applied }, pair) {
  if (!before || !after || !before.length(pair)) return;
  const [from, by] = [before.direction(pair), wrap(applied[pair])];
  const at = (angle) =>
    `${fixed(x + radius * Math.cos(angle), 1)} ${fixed(y - radius * Math.sin(angle), 1)}`;
  const arc = `A${fixed(radius, 1)} ${fixed(radius, 1)} 0 0 ${by > 0 ? 0 : 1}`;
  const d = `M${at(from)}${arc} ${at(from + by)}`;
  chart.add("path", { d, class: `lv-rotary-turn lv-rotary-${name}` });
}

/** "query at 12: 12 × 0.5623 = 6.7476 rad = 1 whole turn + 0.4644 rad; measured 0.4644 rad" */
function angleLine(side, pair) {
  const angle = side.applied[pair];
  const turns = Math.trunc(angle / TURN);
  const rest = angle - turns * TURN;
  const whole = turns
    ? ` = ${plural(Math.abs(turns), "whole turn")}${angle < 0 ? " back," : " +"} ${radians(rest)}`
    : "";
  const measured = side.measured?.[pair];
  const seen =
    side.shift !== 0
      ? "; turned in this page"
      : measured === undefined
        ? "; not measured"
        : Number.isNaN(measured)
          ? "; too short to be measured"
          : `; measured ${radians(rest + wrap(measured - rest))}`;
  return element(
    "p",
    {},
    element("strong", { class: `lv-rotary-${side.name}-word` }, side.name),
    ` at ${signed(side.place)}: ${signed(side.place)} × ${brief(side.frequency[pair])} = ` +
      `${radians(angle)}${whole}${seen}`,
  );
}

function offsetInWords(query, key, pair) {
  const offset = query.place - key.place;
  const between = query.applied[pair] - key.applied[pair];
  return `offset ${withSign(offset)}: rotation moves them ${radians(between)} apart`;
}

/** What each pair adds to the score, as recorded and as moved. */
class SplitPanel extends PairPanel {
  constructor(view) {
    super(view, "split", "Score split by pair", "sum = score");
  }

  draw(moment) {
    const { split, recordedSplit, isMoved, nPairs, pair } = moment;
    const { chart, frame, column, x } = this.begin(moment);
    if (!split) {
      chart.show("No score");
      return this.say("A score needs the query and the key at these positions.");
    }
    const both = [...split, ...(recordedSplit ?? [])];
    const y = signedAxis(chart, frame, Math.min(0, ...both), Math.max(0, ...both));
    const width = Math.max(column * 0.7, 1);
    const drawBar = (value, index, name) => {
      const [top, height] = [Math.min(y(0), y(value)), Math.abs(y(value) - y(0))];
      chart.box(x(index) - width / 2, top, width, height, name);
    };
    split.forEach((value, index) => {
      drawBar(value, index, value >= 0 ? "lv-rotary-positive" : "lv-rotary-negative");
    });
    if (isMoved) {
      recordedSplit?.forEach((value, index) => drawBar(value, index, "lv-rotary-outline"));
    }
    chart.show(`What each of ${nPairs} pairs adds to the score`);
    const sizes = split.map(Math.abs);
    const most = sizes.indexOf(Math.max(...sizes));
    const outline = isMoved && recordedSplit ? " Outlines: as recorded." : "";
    this.say(
      `Sum of ${plural(nPairs, "pair")}: ${sixDigits(total(split))}. Pair ${pair}: ` +
        `${signed(split[pair])}. Most: pair ${most} with ${signed(split[most])}.${outline}`,
    );
  }
}

/** Angles within a turn: rings as applied, dots as measured. */
class AnglesPanel extends PairPanel {
  constructor(view) {
    super(view, "angles", "Angles: applied and measured", "radians, within one turn");
  }

  draw(moment) {
    const { query, key, pair } = moment;
    const { chart, frame, column, x } = this.begin(moment);
    const y = (angle) => frame.bottom - ((angle / TURN + 0.5) * (frame.bottom - frame.top - 8)) - 4;
    for (const [angle, words] of [[-Math.PI, "−π"], [0, "0"], [Math.PI, "π"]]) {
      chart.line(frame.left, y(angle), frame.right, y(angle), angle ? "lv-grid" : "lv-axis");
      chart.text(frame.left - 5, y(angle) + 3.5, words, "lv-tick", "end");
    }
    const size = clamp(column * 0.18, 1.6, 4);
    [query, key].forEach((side, index) => {
      const across = (place) => x(place) + (index ? 1 : -1) * Math.min(column * 0.2, 6);
      side.applied.forEach((angle, place) => {
        const shape = { cx: fixed(across(place), 1), cy: fixed(y(wrap(angle)), 1), r: size + 1.6 };
        chart.add("circle", { ...shape, class: `lv-rotary-ring lv-rotary-${side.name}` });
      });
      if (side.shift || !side.measured) return;
      side.measured.forEach((angle, place) => {
        if (Number.isNaN(angle)) return;
        drawTip(chart, across(place), y(angle), size * (index ? 0.8 : 1), side.name);
      });
    });
    chart.show("Angles applied and measured, for every pair");
    this.say(`Rings: position × θ; filled: measured. ${agreement([query, key], pair)}`);
  }
}

function agreement(sides, pair) {
  const measured = sides.filter((side) => side.measured && side.shift === 0);
  if (!measured.length) return "Turned in this page: at these positions nothing was measured.";
  const largest = (side) =>
    Math.max(
      ...side.applied.map((angle, i) => Math.abs(wrap(angle - side.measured[i])) || 0),
    );
  const apart = Math.max(...measured.map(largest));
  const names = measured.map((side) => side.name).join(" and ");
  return `Largest difference (${names}): ${tiny(apart)} rad. Pair ${pair} is marked.`;
}

/** How many positions each pair takes for a turn. */
class WavesPanel extends PairPanel {
  constructor(view) {
    super(view, "waves", "Wavelength of each pair", "positions for one turn");
  }

  draw(moment) {
    const { query, pair, header } = moment;
    const { chart, frame, column, x } = this.begin(moment);
    const waves = Array.from(query.frequency, (step) => TURN / step);
    const nPositions = header.positions.length;
    const limits = [
      [nPositions, `this run: ${grouped(nPositions)}`],
      [header.context, `context: ${grouped(header.context)}`],
    ];
    const all = [...waves, nPositions, header.context];
    const y = logarithmicAxis(chart, frame, Math.min(...all), Math.max(...all));
    for (const [limit, words] of limits) {
      chart.line(frame.left, y(limit), frame.right, y(limit), "lv-rotary-limit");
      const isRun = words.startsWith("this run");
      const across = isRun ? frame.left + 3 : frame.right - 3;
      chart.text(across, y(limit) - 3, words, "lv-tick", isRun ? "start" : "end");
    }
    const size = clamp(column * 0.3, 1.6, 4.5);
    waves.forEach((wave, index) => {
      const name = index === pair ? "lv-point lv-rotary-chosen-point" : "lv-point";
      chart.add("circle", { cx: fixed(x(index), 1), cy: fixed(y(wave), 1), r: size, class: name });
    });
    chart.show(`Wavelengths of ${waves.length} pairs`);
    const fast = waves.filter((wave) => wave <= nPositions).length;
    const slow = waves.filter((wave) => wave > header.context).length;
    const scaled = header.scaling ? `, ${header.scaling} scaling applied` : "";
    this.say(
      `θ = ${grouped(header.theta)}^(−2i/${header.head_dim})${scaled}. Pair ${pair} turns ` +
        `${brief(query.frequency[pair])} rad per position, a turn in ${brief(waves[pair])}. ` +
        `${fast} of ${plural(waves.length, "pair")} turn at least once in this run, ` +
        `${slow} not once in the whole context.`,
    );
  }
}

/** The score of these two vectors at every offset: the key is moved, the query stays. */
class OffsetPanel extends Panel {
  constructor() {
    super("rotary-offset", "The same two vectors at other offsets", "score");
    this.chart = new Chart();
    this.body.append(this.chart.svg);
  }

  draw({ query, key, headDim, header }) {
    const { chart } = this;
    chart.resize(this.width, CHART_HEIGHT);
    if (!query.before || !key.before) {
      chart.show("Nothing to move");
      return this.say("To move them, record query and key.");
    }
    const offset = query.place - key.place;
    const usual = clamp(header.positions.length, LEAST_OFFSETS, MOST_OFFSETS);
    const far = Math.max(usual, Math.abs(offset) + 4);
    const turned = query.at(query.place);
    const score = (apart) => total(turned.scores(key.at(query.place - apart), headDim));
    const offsets = Array.from({ length: 2 * far + 1 }, (_, index) => index - far);
    const scores = offsets.map(score);
    const frame = { left: 46, right: chart.width - 8, top: 10, bottom: CHART_HEIGHT - 20 };
    const y = signedAxis(chart, frame, Math.min(0, ...scores), Math.max(0, ...scores));
    const x = (apart) => frame.left + ((apart + far) / (2 * far)) * (frame.right - frame.left);
    chart.line(x(0), frame.top, x(0), frame.bottom, "lv-axis");
    chart.path(offsets.map((apart, index) => [x(apart), y(scores[index])]), "lv-now");
    for (const apart of [-1, 1]) {
      chart.add("circle", { cx: x(apart), cy: y(score(apart)), r: 3.4, class: "lv-rotary-one" });
    }
    chart.add("circle", { cx: x(offset), cy: y(score(offset)), r: 5.5, class: "lv-rotary-here" });
    chart.text(frame.left, CHART_HEIGHT - 6, signed(-far), "lv-tick");
    chart.text(x(0), CHART_HEIGHT - 6, "offset 0", "lv-tick", "middle");
    chart.text(frame.right, CHART_HEIGHT - 6, `+${far}`, "lv-tick", "end");
    chart.show(`The score at offsets from ${-far} to ${far}`);
    this.say(
      `Ring: offset ${withSign(offset)}. Key one position before the query, +1: ` +
        `${sixDigits(score(1))}; one after it, −1: ${sixDigits(score(-1))}. ` +
        "The sign of the offset counts, not the distance alone.",
    );
  }
}

// ---------------------------------------------------------------- the view

class RotaryView extends Explorer {
  constructor(model, connection, root) {
    super(model, connection, root, "Rotary explorer");
  }

  build(root, { header, arrays }) {
    this.header = header;
    this.arrays = arrays;
    this.pointed = { position: null, key_position: null, pair: null };
    this.indexOf = new Map(header.positions.map((position, index) => [position, index]));
    this.canMove = ["query", "key"].every((name) => header.recorded.includes(name));
    this.clocks = new ClocksPanel(this);
    this.closeUp = new PairCloseUp();
    this.split = new SplitPanel(this);
    this.offset = new OffsetPanel();
    this.angles = new AnglesPanel(this);
    this.waves = new WavesPanel(this);
    this.panels = [this.clocks, this.closeUp, this.split, this.offset, this.angles, this.waves];
    this.waiting = element("p", { class: "lv-empty" }, "Fetching the vectors of this layer …");
    this.drawings = element(
      "div",
      { class: "lv-panels" },
      ...this.panels.map((panel) => panel.element),
    );
    root.append(
      element("h3", {}, "Rotary positions: how queries and keys turn"),
      ...header.notes.map((note) => element("p", { class: "lv-status lv-notice" }, note)),
      this.buildPlace(),
      this.buildTexts(),
      this.buildMoves(),
      this.waiting,
      this.drawings,
      this.table.button,
      this.table.region,
    );
  }

  buildPlace() {
    const { header } = this;
    const places = header.positions;
    const write = (index) =>
      `${places[index]}, ${shorten(tokenText(header.tokens[index]), 10)}`;
    const position = (side) => {
      const name = PLACE_OF[side];
      const made = slider(
        side === "query" ? "Query position" : "Key position",
        { min: 0, max: places.length - 1, write, class: `lv-rotary-${side}-slider` },
        (index) => this.choose({ [name]: places[index] }),
      );
      return { ...made, set: (value) => made.set(this.indexOf.get(value)) };
    };
    const among = (words, values, name) => {
      const options = { min: 0, max: values.length - 1, write: (index) => String(values[index]) };
      const made = slider(words, options, (index) => this.choose({ [name]: values[index] }));
      made.element.hidden = values.length < 2;
      return { ...made, set: (value) => made.set(values.indexOf(value)) };
    };
    const heads = header.kv_head_of_head.map((_, head) => head);
    const pairs = Array.from({ length: header.head_dim / 2 }, (_, pair) => pair);
    this.sliders = {
      layer: among("Layer", header.layers, "layer"),
      head: among("Head", heads, "head"),
      position: position("query"),
      key_position: position("key"),
      pair: among("Pair", pairs, "pair"),
    };
    const parts = Object.values(this.sliders).map((one) => one.element);
    return element("div", { class: "lv-bar-of-controls lv-rotary-place" }, ...parts);
  }

  buildTexts() {
    this.texts = {};
    const columns = SIDES.map((side) => {
      const name = PLACE_OF[side];
      const text = new TokenText({
        label: side === "query" ? "Token of the query" : "Token of the key",
        onpoint: (index) => this.point(name, this.header.positions[index] ?? null),
        onpick: (index) => this.choose({ [name]: this.header.positions[index] }),
      });
      text.fill(this.header.tokens);
      text.element.addEventListener("focusout", () => this.point(name, null));
      this.texts[side] = text;
      const title = element("strong", { class: `lv-rotary-${side}-word` }, side);
      return element("div", {}, element("p", {}, "Token of the ", title), text.element);
    });
    return element("div", { class: "lv-rotary-texts" }, ...columns);
  }

  buildMoves() {
    const { farthest } = this.header;
    const move = (words, name) =>
      slider(words, { min: -farthest, max: farthest, write: withSign }, (value) =>
        this.choose({ [name]: value }),
      );
    this.moves = {
      shift: move("Shift both", "shift"),
      shift_query: move("Shift the query alone", "shift_query"),
      shift_key: move("Shift the key alone", "shift_key"),
    };
    this.back = button("Back to the recording", () =>
      this.choose({ shift: 0, shift_query: 0, shift_key: 0 }),
    );
    this.recordedLine = element("p", { class: "lv-rotary-recorded" });
    this.movedLine = element("p", { class: "lv-rotary-moved" });
    const sliders = Object.values(this.moves).map((one) => one.element);
    const controls = element("div", { class: "lv-bar-of-controls" }, ...sliders, this.back);
    controls.hidden = !this.canMove;
    return element(
      "div",
      { class: "lv-rotary-moves" },
      controls,
      this.recordedLine,
      this.movedLine,
    );
  }

  measure() {
    for (const panel of this.panels) panel.measure();
  }

  /** The pointer is over something: shown until it goes. */
  point(name, value) {
    if (this.pointed[name] === value) return;
    this.pointed[name] = value;
    this.draw();
  }

  /** Pick with a control: what was pointed at by the same name lets go. */
  choose(changes) {
    for (const name of Object.keys(changes)) if (name in this.pointed) this.pointed[name] = null;
    this.pick(changes);
    this.draw();
  }

  escape() {
    const wasPointed = Object.values(this.pointed).some((value) => value !== null);
    const { shift, shift_query: query, shift_key: key } = this.state;
    for (const name of Object.keys(this.pointed)) this.pointed[name] = null;
    if (shift || query || key) this.choose({ shift: 0, shift_query: 0, shift_key: 0 });
    else if (!wasPointed) return false;
    this.draw();
    return true;
  }

  /** An array of a layer: sent with the content, or asked for. */
  ofLayer(name) {
    const { layer } = this.state;
    const full = `${name} ${layer}`;
    return this.arrays[full] ?? this.arrived("layer", { layer })?.arrays[full];
  }

  side(name, head) {
    const { header, state } = this;
    const position = this.pointed[PLACE_OF[name]] ?? state[PLACE_OF[name]];
    const index = this.indexOf.get(position);
    const read = (variable) => {
      if (!header.recorded.includes(variable)) return null;
      const array = this.ofLayer(variable);
      const [, nHeads, size] = array.shape;
      const start = (index * nHeads + head) * size;
      return Pairs.of(array.numbers(start, start + size));
    };
    const angles = this.arrays.rotation_angle;
    const nPairs = header.head_dim / 2;
    return new Side(name, {
      token: header.tokens[index],
      position,
      shift: this.canMove ? state.shift + state[`shift_${name}`] : 0,
      frequency: header.frequencies[this.arrays.frequency_of_position.values[index]],
      before: read(name),
      recorded: read(`${name}_rotated`),
      angles: angles && angles.numbers(index * nPairs, (index + 1) * nPairs),
    });
  }

  /** Everything that the panels draw; null while the vectors of the layer are on their way. */
  moment() {
    const { header, state } = this;
    const some = header.recorded.find((name) => name !== "rotation_angle");
    if (!this.ofLayer(some)) return null;
    const query = this.side("query", state.head);
    const key = this.side("key", header.kv_head_of_head[state.head]);
    const { head_dim: headDim } = header;
    const between = (one, other) => (one && other ? one.scores(other, headDim) : null);
    return {
      header,
      headDim,
      nPairs: headDim / 2,
      hands: state.hands,
      pair: this.pointed.pair ?? state.pair,
      query,
      key,
      isMoved: query.shift !== 0 || key.shift !== 0,
      split: between(query.after, key.after),
      recordedSplit: between(query.recorded, key.recorded),
      score: this.recordedScore(query.position, key.position),
    };
  }

  /** The recorded score; NaN where the mask hides it, null where none was recorded. */
  recordedScore(queryPosition, keyPosition) {
    if (!this.header.recorded.includes("attention_scores")) return null;
    const array = this.ofLayer("attention_scores");
    const { query_positions: queries, key_positions: keys } = this.header;
    const [query, key] = [queries.indexOf(queryPosition), keys.indexOf(keyPosition)];
    if (query < 0 || key < 0) return null;
    const at = (this.state.head * queries.length + query) * keys.length + key;
    return array.numbers(at, at + 1)[0];
  }

  show() {
    const moment = this.moment();
    this.waiting.hidden = moment !== null;
    this.drawings.hidden = moment === null;
    this.drawControls();
    if (!moment) return;
    if (!this.clocks.width) this.measure();
    for (const panel of this.panels) panel.draw(moment);
    this.drawScores(moment);
  }

  drawControls() {
    const { state, header, pointed } = this;
    const at = (name) => pointed[name] ?? state[name];
    for (const [name, one] of Object.entries(this.sliders)) one.set(at(name));
    for (const [name, one] of Object.entries(this.moves)) one.set(state[name]);
    this.back.disabled = !(state.shift || state.shift_query || state.shift_key);
    for (const side of SIDES) {
      const index = this.indexOf.get(at(PLACE_OF[side]));
      this.texts[side].mark(`lv-rotary-at-${side}`, [index]);
      if (pointed[PLACE_OF[side]] !== null) continue;
      this.texts[side].choose(index);
      this.texts[side].reveal(index);
    }
    const places = `query position ${at("position")}, key position ${at("key_position")}`;
    const layer = header.layers.length > 1 ? `layer ${state.layer}, ` : "";
    this.announce(`${layer}head ${state.head}, ${places}, pair ${at("pair")}`);
  }

  drawScores(moment) {
    say(this.recordedLine, recordedInWords(moment));
    const canMove = moment.query.before && moment.key.before;
    const words = canMove ? movedInWords(moment) : "To move them, record query and key.";
    say(this.movedLine, words);
  }

  numbers() {
    const moment = this.moment();
    if (!moment) return super.numbers();
    const { query, key, split, recordedSplit } = moment;
    const write = (values, pair) =>
      values == null || Number.isNaN(values[pair]) ? "—" : sixDigits(values[pair]);
    const rows = Array.from({ length: moment.nPairs }, (_, pair) => [
      pair,
      query.frequency[pair].toPrecision(6),
      brief(TURN / query.frequency[pair]),
      ...[query, key].flatMap((side) => [
        write(side.applied, pair),
        write(side.shift === 0 ? side.recordedAngles : null, pair),
        write(side.shift === 0 ? side.measured : null, pair),
      ]),
      write(recordedSplit, pair),
      write(split, pair),
    ]);
    const caption =
      `Layer ${this.state.layer}, head ${this.state.head}, ${query.words}; ${key.words}; ` +
      `in view at ${query.place} and ${key.place}. Angles in radians, measured within one turn.`;
    const ofSides = SIDES.flatMap((side) => [
      `${side}: applied`,
      `${side}: recorded`,
      `${side}: measured`,
    ]);
    const header = ["pair", "θ", "wavelength", ...ofSides, "added, recorded", "added, in view"];
    return { caption, header, rows };
  }
}

function recordedInWords({ query, key, score, recordedSplit, nPairs }) {
  const names = `${query.words}; ${key.words}`;
  const sum = recordedSplit && total(recordedSplit);
  const ofPairs = recordedSplit
    ? `sum of the ${plural(nPairs, "pair")} ${sixDigits(sum)}`
    : "the rotated vectors were not recorded";
  if (score === null) return `${names}: no recorded score at hand; ${ofPairs}.`;
  if (Number.isNaN(score)) {
    const isHidden = key.position > query.position;
    const why = isHidden ? "the mask hides keys after the query" : "it was left out of the run";
    return `${names}: no recorded score, ${why}; ${ofPairs}.`;
  }
  const apart = recordedSplit ? `, difference ${tiny(Math.abs(sum - score))}` : "";
  return `${names}: recorded score ${sixDigits(score)}; ${ofPairs}${apart}.`;
}

function movedInWords({ query, key, headDim }) {
  const first = total(query.at(query.position).scores(key.at(key.position), headDim));
  const now = total(query.at(query.place).scores(key.at(key.place), headDim));
  const offset = query.place - key.place;
  const change = query.shift - key.shift ? "" : " as before";
  return (
    `Turned in this page: query to ${signed(query.place)}, key to ${signed(key.place)}, offset ` +
    `${withSign(offset)}${change}: score ${sixDigits(now)}, ${tiny(Math.abs(now - first))} from ` +
    "where they were recorded."
  );
}

export default explorer(RotaryView);
