// The map of the architecture: two drawings whose boxes can be picked, what differs between them,
// who reads which key/value head, and where the parameters of published models sit.

import { Chart, Panel } from "./page/chart.js";
import { button, pills, tickBox } from "./page/controls.js";
import { element, newId, say, shape } from "./page/elements.js";
import { Explorer, explorer } from "./page/explorer.js";
import { bytes, clamp, grouped, plural } from "./page/numbers.js";
import { arrow } from "./page/picking.js";

const LINE_HEIGHT = 13;
const WIRING_HEIGHT = 150;

// What a part of the sizes is drawn as: columns of a square, each cut into its parts.
const COLUMNS = [
  ["embedding", ["embedding"]],
  ["attention", ["query", "key", "value", "attention_output"]],
  ["feed_forward", ["gate", "up", "down"]],
  ["norm", ["attention_norm", "feed_forward_norm", "final_norm"]],
  ["embedding", ["output_head"]],
];
const LARGEST_SIDE = 300;
const SLOT = 128; // the least room for a model's name
const GAP = 18;

/** 6.74B, 16.8M, 4,096: three digits that matter. */
function shortCount(number) {
  for (const [size, letter] of [
    [1e9, "B"],
    [1e6, "M"],
    [1e4, "k"],
  ]) {
    if (number >= size) return `${Number((number / (size === 1e4 ? 1e3 : size)).toPrecision(3))}${letter}`;
  }
  return grouped(number);
}

const words = (name) => name.replaceAll("_", " ");

/** One drawing: its boxes are buttons, reached by Tab once and then by the arrow keys. */
class DrawnModel {
  constructor(drawing, onpick) {
    this.drawing = drawing;
    this.onpick = onpick;
    this.boxes = new Map(drawing.boxes.map((box) => [box.name, box]));
    this.nodes = new Map();
    this.active = drawing.boxes.at(-1).name;
    const tip = newId("tip");
    const title = newId("drawing");
    this.svg = shape(
      "svg",
      {
        class: "lv-drawing",
        viewBox: `0 0 ${drawing.width} ${drawing.height}`,
        role: "group",
        "aria-labelledby": title,
        onclick: (event) => this.clicked(event),
        onkeydown: (event) => this.keydown(event),
      },
      shape(
        "defs",
        {},
        shape(
          "marker",
          { id: tip, viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 8, markerHeight: 8,
            markerUnits: "userSpaceOnUse", orient: "auto" },
          shape("path", { d: "M0 0.8L8 4L0 7.2Z", class: "lv-tip" }),
        ),
      ),
      ...drawing.frames.flatMap(([[x, y, width, height], text]) => [
        shape("rect", { x, y, width, height, rx: 9, class: "lv-frame" }),
        shape("text", { x: x + width - 8, y: y + height - 7, "text-anchor": "end", class: "lv-note" }, text),
      ]),
      ...drawing.lines.map((line) => shape("path", { d: pathOf(line), class: "lv-wire" })),
      ...drawing.arrows.map((line) =>
        shape("path", { d: pathOf(line), class: "lv-wire", "marker-end": `url(#${tip})` }),
      ),
      ...drawing.labels.map(([x, y, text, anchor]) =>
        shape("text", { x, y, "text-anchor": anchor, class: "lv-note" }, text),
      ),
      ...this.reading().map((box) => this.drawn(box)),
    );
    this.heading = element("h4", { id: title });
    this.element = element("section", { class: "lv-drawn-model" }, this.heading, this.svg);
    this.activate(this.reading()[0].name);
  }

  /** The boxes in the order in which a token passes through them: from the bottom up. */
  reading() {
    const at = ({ place }) => [-(place[1] + place[3]), place[0]];
    return [...this.boxes.values()].sort((a, b) => {
      const [[y, x], [otherY, otherX]] = [at(a), at(b)];
      return y - otherY || x - otherX;
    });
  }

  drawn(box) {
    const [x, y, width, height] = box.place;
    const node = shape(
      "g",
      {
        class: `lv-box lv-${box.kind.replace("_", "-")}-box`,
        role: "button",
        tabindex: "-1",
        "aria-pressed": "false",
        "data-box": box.name,
      },
      shape("rect", { x, y, width, height, rx: box.kind === "add" ? 10 : 6 }),
    );
    this.nodes.set(box.name, node);
    return node;
  }

  /** Write shapes, parameters and bytes into the boxes. */
  write(itemBytes) {
    const total = [...this.boxes.values()].reduce((sum, box) => sum + box.n_parameters * box.n_copies, 0);
    const { title } = this.drawing;
    this.heading.replaceChildren(
      `${title} `,
      element("small", {}, `${grouped(total)} parameters, ${bytes(total * itemBytes)}`),
    );
    for (const [name, node] of this.nodes) {
      const box = this.boxes.get(name);
      const lines = boxLines(box, itemBytes);
      const [x, y, width, height] = box.place;
      const texts = lines.map((text, index) =>
        shape(
          "text",
          {
            x: x + width / 2,
            y: y + height / 2 + (index - (lines.length - 1) / 2) * LINE_HEIGHT + 4,
            "text-anchor": "middle",
            class: index ? "lv-note" : "lv-name",
          },
          text,
        ),
      );
      node.replaceChildren(node.firstChild, ...texts);
      node.setAttribute("aria-label", spokenBox(box, itemBytes));
    }
  }

  /** Show what is picked, and where a difference shows; the rest of it steps back. */
  show(picked, marked) {
    this.svg.classList.toggle("lv-differs", marked.length > 0);
    for (const [name, node] of this.nodes) {
      node.classList.toggle("lv-picked", name === picked);
      node.classList.toggle("lv-marked", marked.includes(name));
      node.setAttribute("aria-pressed", String(name === picked));
    }
    if (this.nodes.has(picked)) this.activate(picked);
  }

  activate(name) {
    this.nodes.get(this.active).setAttribute("tabindex", "-1");
    this.active = name;
    this.nodes.get(name).setAttribute("tabindex", "0");
  }

  clicked(event) {
    const node = event.target.closest("[data-box]");
    if (!node) return;
    this.activate(node.dataset.box);
    this.onpick(node.dataset.box);
  }

  keydown(event) {
    if (event.key === "Enter" || event.key === " ") this.onpick(this.active);
    else if (event.key === "Home" || event.key === "End") this.goTo(this.reading().at(event.key === "Home" ? 0 : -1));
    else if (arrow(event)) this.goTo(this.next(arrow(event)));
    else return;
    event.preventDefault();
  }

  goTo(box) {
    if (!box) return;
    this.activate(box.name);
    this.nodes.get(box.name).focus();
  }

  /** The nearest box in a direction; what lies aside counts twice. */
  next([down, right]) {
    const middle = ({ place: [x, y, width, height] }) => [x + width / 2, y + height / 2];
    const [x, y] = middle(this.boxes.get(this.active));
    let nearest = null;
    let least = Infinity;
    for (const box of this.boxes.values()) {
      const [otherX, otherY] = middle(box);
      const ahead = down ? down * (otherY - y) : right * (otherX - x);
      const aside = Math.abs(down ? otherX - x : otherY - y);
      if (ahead < 4 || (right && aside > ahead + 60)) continue;
      const distance = ahead + 2 * aside;
      if (distance < least) [nearest, least] = [box, distance];
    }
    return nearest;
  }
}

const pathOf = (points) => points.map(([x, y], index) => `${index ? "L" : "M"}${x} ${y}`).join("");

function boxLines(box, itemBytes) {
  const lines = [box.title];
  if (box.shape) lines.push(box.shape);
  if (box.n_parameters) lines.push(`${shortCount(box.n_parameters)} · ${bytes(box.n_parameters * itemBytes)}`);
  if (box.numbers_per_position) lines.push(`${bytes(box.numbers_per_position * itemBytes)} a position`);
  return lines;
}

function spokenBox(box, itemBytes) {
  const parts = [box.kind === "add" ? words(box.name) : box.title, box.shape];
  if (box.n_parameters) {
    parts.push(`${grouped(box.n_parameters)} parameters, ${bytes(box.n_parameters * itemBytes)}`);
  }
  return parts.filter(Boolean).join(", ");
}

class ArchitectureView extends Explorer {
  constructor(model, connection, root) {
    super(model, connection, root, "Architecture map");
  }

  build(root, { header }) {
    this.header = header;
    this.drawn = header.drawings.map(
      (drawing) =>
        new DrawnModel(drawing, (box) =>
          this.pick({ box: this.state.box === box ? null : box, opened: null }),
        ),
    );
    this.written = null;
    this.dtype = pills("Bytes in", Object.keys(header.dtypes).map((name) => [name, name]),
      (dtype) => this.pick({ dtype }), { class: "lv-pills lv-dtype" });
    this.side = this.buildSide();
    root.append(
      element("div", { class: "lv-bar-of-controls" }, this.dtype.element),
      element(
        "div",
        { class: "lv-architecture" },
        ...this.drawn.map((one) => one.element),
        this.side,
      ),
      element("div", { class: "lv-panels" }, this.buildWiring(), this.buildSizes()),
      this.table.button,
      this.table.region,
    );
  }

  /** What differs, and the box that is picked. */
  buildSide() {
    const { differences } = this.header;
    this.differences = pills(
      "What changed since 2017",
      [[null, "show both as they are"], ...differences.map(({ name, title }) => [name, title])],
      (difference) => this.pick({ difference }),
      { class: "lv-pills lv-differences" },
    );
    this.before = element("p", { class: "lv-before" });
    this.after = element("p", { class: "lv-after" });
    this.lesson = element("p", { class: "lv-caption" });
    this.told = element("div", { class: "lv-told" }, this.before, this.after, this.lesson);
    this.boxTitle = element("h4", {});
    this.boxText = element("p", {});
    this.boxFacts = element("dl", {});
    this.openButton = button("Open its explorer", () => this.open(), { class: "lv-button lv-open" });
    this.opening = element("p", { class: "lv-caption lv-opening" });
    this.card = element(
      "section",
      { class: "lv-card", "aria-label": "The box that is picked" },
      this.boxTitle,
      this.boxText,
      this.boxFacts,
      this.isLive && this.header.can_open ? this.openButton : "",
      this.opening,
    );
    return element(
      "div",
      { class: "lv-side" },
      this.differences.element,
      this.told,
      this.card,
    );
  }

  buildWiring() {
    const { n_heads, n_kv_heads, attention_kind } = this.header.config;
    this.wiring = new Panel("wiring", "Which query head reads which key/value head", attention_kind);
    this.wiringChart = new Chart();
    this.wiring.body.append(this.wiringChart.svg);
    const share = n_heads / n_kv_heads;
    this.wiring.say(
      n_heads === n_kv_heads
        ? `Each of the ${plural(n_heads, "query head")} reads a key/value head of its own (MHA).`
        : `${n_heads} query heads read ${plural(n_kv_heads, "key/value head")}, ${share} each ` +
            `(${attention_kind}): query heads 0 to ${share - 1} read key/value head 0` +
            (n_kv_heads > 1 ? `, ${share} to ${2 * share - 1} head 1, and so on.` : "."),
    );
    return this.wiring.element;
  }

  buildSizes() {
    const { models } = this.header;
    this.sizes = new Panel("sizes", "Where the parameters sit", "areas to scale");
    this.sizesChart = new Chart({ onclick: (event) => this.clickedPart(event) });
    this.models = models.slice(1).map(({ name }) =>
      tickBox(name, (isOn) => {
        const chosen = this.state.models.filter((own) => own !== name);
        this.pick({ models: isOn ? [...chosen, name] : chosen });
      }),
    );
    this.scale = pills(
      "Squares",
      [
        ["size", "one scale for all"],
        ["share", "all of one size"],
      ],
      (scale) => this.pick({ scale }),
      { class: "lv-pills lv-scale" },
    );
    this.sizes.body.append(
      element(
        "fieldset",
        { class: "lv-models-shown" },
        element("legend", {}, `Published models beside ${models[0].name}`),
        ...this.models.map((box) => box.element),
      ),
      this.scale.element,
      this.sizesChart.svg,
    );
    return this.sizes.element;
  }

  measure() {
    this.wiring.measure();
    this.sizes.measure();
  }

  get itemBytes() {
    return this.header.dtypes[this.state.dtype];
  }

  get difference() {
    return this.header.differences.find(({ name }) => name === this.state.difference) ?? null;
  }

  /** The picked box, and the drawing that it is in. */
  get picked() {
    for (const one of this.drawn) {
      const box = one.boxes.get(this.state.box);
      if (box) return { box, drawing: one.drawing };
    }
    return null;
  }

  /** The models in view, this one first. */
  get modelsShown() {
    const [own, ...others] = this.header.models;
    return [own, ...this.state.models.map((name) => others.find((one) => one.name === name))];
  }

  show() {
    const { state, difference } = this;
    if (this.written !== state.dtype) {
      for (const one of this.drawn) one.write(this.itemBytes);
      this.written = state.dtype;
    }
    this.dtype.set(state.dtype);
    this.differences.set(state.difference);
    this.scale.set(state.scale);
    this.models.forEach((box, index) =>
      box.set(state.models.includes(this.header.models[index + 1].name)),
    );
    const [llama, transformer] = this.drawn;
    llama.show(state.box, difference?.boxes_after ?? []);
    transformer.show(state.box, difference?.boxes_before ?? []);
    this.wiring.element.classList.toggle("lv-marked", state.difference === "grouped_queries");
    this.showDifference();
    this.showBox();
    this.showWiring();
    this.showSizes();
  }

  showDifference() {
    const { difference } = this;
    this.told.hidden = !difference;
    if (!difference) return;
    this.before.replaceChildren(element("b", {}, "2017: "), difference.before);
    this.after.replaceChildren(element("b", {}, "LLaMA: "), difference.after);
    say(this.lesson, `Marked in both drawings. More in notebook ${difference.notebook}.`);
    this.announce(`${difference.title}. 2017: ${difference.before} LLaMA: ${difference.after}`);
  }

  showBox() {
    const { picked, state } = this;
    if (!picked) {
      say(this.boxTitle, "Pick a box");
      say(this.boxText, "A click or Enter on a box tells what it does. Escape lets go.");
      this.boxFacts.replaceChildren();
      this.openButton.hidden = true;
      say(this.opening, "");
      return;
    }
    const { box, drawing } = picked;
    const name = box.kind === "add" ? words(box.name) : box.title;
    say(this.boxTitle, `${name} (${drawing.title})`);
    say(this.boxText, box.words);
    const facts = this.factsOf(box);
    this.boxFacts.replaceChildren(
      ...facts.flatMap(([term, ...values]) => [
        element("dt", {}, term),
        ...values.map((value) => element("dd", {}, value)),
      ]),
    );
    this.openButton.hidden = !box.explorer;
    say(this.opening, box.explorer ? this.openingText(box, state.opened) : "");
    if (!this.difference || this.saidBox !== box.name) this.announce(`${name}. ${box.words}`);
    this.saidBox = box.name;
  }

  factsOf(box) {
    const { itemBytes } = this;
    const facts = [];
    if (box.shape) facts.push(["shape", box.shape]);
    if (box.n_parameters) {
      const all = box.n_parameters * box.n_copies;
      facts.push(["parameters", `${grouped(box.n_parameters)} (${bytes(box.n_parameters * itemBytes)})`]);
      if (box.n_copies > 1) {
        facts.push([`in ${box.n_copies} layers`, `${grouped(all)} (${bytes(all * itemBytes)})`]);
      }
    }
    if (box.numbers_per_position) {
      const each = box.numbers_per_position;
      facts.push(["for each position", `${grouped(each)} numbers (${bytes(each * itemBytes)})`]);
      facts.push([
        `in ${plural(box.n_copies, "layer")}`,
        `${grouped(each * box.n_copies)} (${bytes(each * box.n_copies * itemBytes)})`,
      ]);
    }
    if (box.variables) {
      const missing = box.recorded ? box.variables.filter((one) => !box.recorded.includes(one)) : [];
      facts.push([
        "in a trace",
        ...box.variables.map((one) => (missing.includes(one) ? `${one} (not in this one)` : one)),
      ]);
      if (box.taps.length) facts.push(["taps", ...box.taps]);
    }
    return facts;
  }

  openingText(box, opened) {
    const shown = `lv.widgets.${box.explorer}`;
    if (!this.isLive) return `${shown} shows it: open this map in a notebook with a kernel.`;
    if (!this.header.can_open) {
      return `${shown} shows it, given a trace: this map was made from sizes alone.`;
    }
    if (opened === box.name) return `Asked for ${shown}; the map's open_explorer() returns it, too.`;
    return `${shown} shows it.`;
  }

  open() {
    this.pick({ opened: this.state.box });
  }

  /** Query heads above, key/value heads below, a line for each that reads. */
  showWiring() {
    const { wiringChart: chart } = this;
    const { n_heads, n_kv_heads } = this.header.config;
    const reads = this.header.kv_head_of_head;
    chart.resize(this.wiring.width, WIRING_HEIGHT);
    const [left, right, top, bottom] = [8, chart.width - 8, 34, 108];
    const wide = Math.min((right - left) / n_heads, 64);
    const start = left + (right - left - wide * n_heads) / 2;
    const size = Math.max(Math.min(wide - 2, 26), 1);
    const x = (head) => start + (head + 0.5) * wide;
    const group = n_heads / n_kv_heads;
    const kvX = (kv) => x(kv * group + (group - 1) / 2);
    reads.forEach((kv, head) => {
      chart.line(x(head), top + 8, kvX(kv), bottom - 9, `lv-reads${kv % 2 ? " lv-odd" : ""}`);
    });
    const every = Math.max(1, 2 ** Math.ceil(Math.log2(24 / wide)));
    for (let head = 0; head < n_heads; head++) {
      chart.box(x(head) - size / 2, top - 8, size, 16, "lv-query-head");
      if (head % every === 0) chart.text(x(head), top - 13, String(head), "lv-tick", "middle");
    }
    const kvSize = Math.min(group * wide - 2, Math.max(size, 30));
    const everyKv = Math.max(1, 2 ** Math.ceil(Math.log2(24 / (wide * group))));
    for (let kv = 0; kv < n_kv_heads; kv++) {
      chart.box(kvX(kv) - kvSize / 2, bottom - 9, kvSize, 18, "lv-kv-head");
      if (kv % everyKv === 0) chart.text(kvX(kv), bottom + 23, String(kv), "lv-tick", "middle");
    }
    chart.text(left, 10, "query heads", "lv-tick");
    chart.text(left, WIRING_HEIGHT - 4, "key/value heads", "lv-tick");
    chart.show(`${n_heads} query heads read ${n_kv_heads} key/value heads`);
  }

  /** A square for each model, its area the parameters, cut into columns and parts. */
  showSizes() {
    const { sizesChart: chart, modelsShown } = this;
    const { width } = this.sizes;
    const layout = layoutSquares(modelsShown, width, this.state.scale === "size");
    chart.resize(width, layout.height);
    for (const { model, x, bottom, side, slot } of layout.squares) {
      this.drawSquare(chart, model, x, bottom - side, side);
      const middle = x + side / 2;
      const anchor = side < slot ? "start" : "middle";
      const textX = side < slot ? x : middle;
      chart.text(textX, bottom + 15, model.name, "lv-label", anchor);
      chart.text(textX, bottom + 29, `${shortCount(model.total)}, ${bytes(model.total * this.itemBytes)}`,
        "lv-tick", anchor);
    }
    const [own] = modelsShown;
    const { parameters: sizes, total } = own;
    const share = (names) =>
      `${((100 * names.reduce((sum, name) => sum + sizes[name], 0)) / total).toFixed(1)}%`;
    this.sizes.say(
      `${own.name}: ${grouped(total)} parameters, of them ${share(COLUMNS[2][1])} in feed-forward, ` +
        `${share(COLUMNS[1][1])} in attention, ${share(["embedding", "output_head"])} in embedding ` +
        `and output head${sizes.output_head ? "" : " (tied: one matrix)"}.`,
    );
    chart.show(
      `Squares: ${modelsShown.map(({ name, total: all }) => `${name} ${grouped(all)} parameters`).join(", ")}`,
    );
  }

  drawSquare(chart, { parameters: sizes, total }, left, top, side) {
    let x = left;
    for (const [kind, parts] of COLUMNS) {
      const inColumn = parts.reduce((sum, part) => sum + sizes[part], 0);
      const width = (side * inColumn) / total;
      let y = top;
      for (const part of parts) {
        const height = inColumn ? (side * sizes[part]) / inColumn : 0;
        if (!sizes[part]) continue;
        const percent = (100 * sizes[part]) / total;
        const isPicked = part === this.state.box;
        chart.add(
          "rect",
          { x, y, width, height, class: `lv-part lv-${kind.replace("_", "-")}-part${isPicked ? " lv-picked" : ""}`,
            "data-part": part },
          shape("title", {}, `${words(part)}: ${grouped(sizes[part])} parameters, ${percent.toFixed(1)}%`),
        );
        const name = part === "attention_output" ? "output" : words(part);
        if (width > 6.4 * name.length && height > 16) {
          chart.text(x + width / 2, y + height / 2 + 1, name, "lv-part-name", "middle");
          if (height > 30) {
            chart.text(x + width / 2, y + height / 2 + 14, `${percent.toFixed(0)}%`, "lv-part-name lv-small", "middle");
          }
        }
        y += height;
      }
      x += width;
    }
  }

  clickedPart(event) {
    const part = event.target.closest("[data-part]")?.dataset.part;
    if (part) this.pick({ box: this.state.box === part ? null : part, opened: null });
  }

  numbers() {
    const { modelsShown, itemBytes } = this;
    const llama = this.drawn[0].boxes;
    const parts = Object.keys(modelsShown[0].parameters);
    const rows = parts.map((part) => {
      const box = llama.get(part);
      return [
        words(part),
        box.shape,
        box.n_copies,
        bytes(modelsShown[0].parameters[part] * itemBytes),
        ...modelsShown.map(({ parameters: sizes }) => grouped(sizes[part])),
      ];
    });
    rows.push(["all", "", "", bytes(modelsShown[0].total * itemBytes),
      ...modelsShown.map(({ total }) => grouped(total))]);
    rows.push(["KV cache for each position", "", "", bytes(modelsShown[0].numbers_per_position * itemBytes),
      ...modelsShown.map((one) => grouped(one.numbers_per_position))]);
    return {
      caption: `Parameters of each part; bytes of ${modelsShown[0].name} in ${this.state.dtype}.`,
      header: ["part", "shape", "copies", "bytes", ...modelsShown.map(({ name }) => name)],
      rows,
    };
  }

  escape() {
    if (this.state.box !== null) this.pick({ box: null, opened: null });
    else if (this.state.difference !== null) this.pick({ difference: null });
    else return false;
    return true;
  }
}

/** Squares in rows, as large as fits: {height, squares: [{model, x, bottom, side, slot}]}. */
function layoutSquares(models, width, toScale) {
  const largest = Math.max(...models.map(({ total }) => total));
  const room = clamp(width - 2, 120, LARGEST_SIDE);
  const sideOf = (model, most) => (toScale ? most * Math.sqrt(model.total / largest) : most);
  for (let most = room; ; most -= 20) {
    const rows = [[]];
    let used = 0;
    for (const model of models) {
      const side = sideOf(model, most);
      const slot = Math.max(side, SLOT);
      if (used && used + slot > width) {
        rows.push([]);
        used = 0;
      }
      rows.at(-1).push({ model, x: used, side, slot });
      used += slot + GAP;
    }
    if (rows.length <= 2 || most <= 140) {
      let bottom = 0;
      for (const row of rows) {
        bottom += Math.max(...row.map(({ side }) => side)) + 8;
        for (const square of row) square.bottom = bottom;
        bottom += 36;
      }
      return { height: bottom, squares: rows.flat() };
    }
  }
}

export default explorer(ArchitectureView);
