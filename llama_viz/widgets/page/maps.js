// Attention as maps: all heads of a layer small, one head large. Weights are bytes, 255 is 1.

import { Surface } from "./canvas.js";
import { clamp } from "./numbers.js";
import { arrow } from "./picking.js";

const GAP = 4;
const NAME = 12; // room for a head's number above its map
const WIDEST = 84;

/** One head's colours, row by row; its weights begin at `start`, and later keys are masked. */
export function mapCells(weights, start, n, { sequential, masked }) {
  const cells = new Uint32Array(n * n).fill(masked);
  for (let query = 0; query < n; query++) {
    const row = start + query * n;
    for (let key = 0; key <= query; key++) cells[query * n + key] = sequential[weights[row + key]];
  }
  return cells;
}

/** All heads of a layer as small maps, of which one is chosen: by a click, or the arrow keys. */
export class HeadMaps {
  constructor({ onpick }) {
    this.onpick = onpick;
    this.surface = new Surface({
      class: "lv-map lv-head-maps",
      tabindex: "0",
      role: "application",
      onclick: (event) => this.click(event),
      onkeydown: (event) => this.move(event),
    });
    this.element = this.surface.canvas;
    this.nHeads = 0;
  }

  /** weights of (head, query, key) begin at `start`; n counts the positions, 0 clears. */
  draw({ weights, start = 0, n, nHeads, chosen, width, colours, name }) {
    Object.assign(this, { nHeads, chosen });
    const narrowest = nHeads > 12 ? 24 : 48;
    const most = clamp(Math.floor((width + GAP) / (narrowest + GAP)), 1, nHeads);
    const nRows = Math.ceil(nHeads / most);
    this.columns = Math.ceil(nHeads / nRows);
    this.side = Math.min((width + GAP) / this.columns - GAP, WIDEST);
    this.surface.resize(width, nRows * (this.side + GAP + NAME));
    const context = this.surface.clear();
    context.font = "10px system-ui, sans-serif";
    for (let head = 0; head < nHeads; head++) {
      const [x, y] = this.corner(head);
      context.fillStyle = head === chosen ? colours.text : colours.quiet;
      context.fillText(this.side >= 44 ? `head ${head}` : String(head), x, y - 3);
      context.fillStyle = colours.unseen;
      context.fillRect(x, y, this.side, this.side);
      if (n) {
        const cells = mapCells(weights, start + head * n * n, n, colours);
        this.surface.cells(cells, n, n, x, y, this.side, this.side);
      }
      if (head === chosen) {
        context.strokeStyle = colours.vermilion;
        context.lineWidth = 2;
        context.strokeRect(x - 1, y - 1, this.side + 2, this.side + 2);
      }
    }
    this.element.setAttribute(
      "aria-label",
      `${name}: ${nHeads} heads, head ${chosen} chosen. Arrow keys choose another.`,
    );
  }

  corner(head) {
    const row = Math.floor(head / this.columns);
    const x = (head % this.columns) * (this.side + GAP) + 1;
    return [x, row * (this.side + GAP + NAME) + NAME];
  }

  click(event) {
    const [x, y] = this.surface.place(event);
    const column = Math.floor(x / (this.side + GAP));
    const head = Math.floor(y / (this.side + GAP + NAME)) * this.columns + column;
    if (column < this.columns && head >= 0 && head < this.nHeads) this.onpick(head);
  }

  move(event) {
    const step = arrow(event);
    if (!step || !this.nHeads) return;
    event.preventDefault();
    // Kept at once: the next key may come before the next drawing.
    this.chosen = clamp(this.chosen + step[0] * this.columns + step[1], 0, this.nHeads - 1);
    this.onpick(this.chosen);
  }
}

/** One head large. Places are {query, key}; it tells what is pointed at, clicked, or moved to. */
export class HeadMap {
  constructor({ onpoint, onlock, onmove }) {
    Object.assign(this, { onpoint, onlock, onmove });
    this.n = 0;
    this.surface = new Surface({
      class: "lv-map lv-head-map",
      tabindex: "0",
      role: "application",
      onmousemove: (event) => onpoint(this.placeOf(event)),
      onmouseleave: () => onpoint(null),
      onclick: (event) => onlock(this.placeOf(event)),
      onkeydown: (event) => this.move(event),
    });
    this.element = this.surface.canvas;
  }

  /** row is the query that is picked; cursor the place that is pointed at, or locked. */
  draw({ weights, start, n, row, cursor, isLocked, side, colours, name }) {
    Object.assign(this, { n, row, cursor, cell: side / Math.max(n, 1) });
    this.surface.resize(side, side);
    this.element.style.width = `${side}px`;
    const context = this.surface.clear();
    context.fillStyle = colours.unseen;
    context.fillRect(0, 0, side, side);
    if (n) this.surface.cells(mapCells(weights, start, n, colours), n, n, 0, 0, side, side);
    if (n && row < n) {
      context.strokeStyle = colours.blue;
      context.lineWidth = 1.5;
      context.strokeRect(0.75, row * this.cell + 0.75, side - 1.5, Math.max(this.cell - 1.5, 2));
    }
    if (cursor && cursor.query < n && cursor.key < n) {
      context.strokeStyle = isLocked ? colours.vermilion : colours.green;
      context.lineWidth = 2;
      const size = Math.max(this.cell, 5);
      const [x, y] = [cursor.key, cursor.query].map((at) => (at + 0.5) * this.cell - size / 2);
      context.strokeRect(x, y, size, size);
    }
    this.element.setAttribute(
      "aria-label",
      `${name}, ${n} queries by ${n} keys. Arrow keys point at a cell, Enter locks it, ` +
        "Escape unlocks.",
    );
  }

  /** The cell under the pointer; above the diagonal there is none. */
  placeOf(event) {
    if (!this.n) return null;
    const [x, y] = this.surface.place(event).map((at) => Math.floor(at / this.cell));
    return x >= 0 && y < this.n && x <= y ? { query: y, key: x } : null;
  }

  move(event) {
    const step = arrow(event);
    const at = this.cursor ?? { query: Math.min(this.row, this.n - 1), key: 0 };
    if (!this.n) return;
    if (event.key === "Enter" || event.key === " ") this.onlock(at);
    else if (step) {
      const query = clamp(at.query + (this.cursor ? step[0] : 0), 0, this.n - 1);
      this.cursor = { query, key: clamp(at.key + (this.cursor ? step[1] : 0), 0, query) };
      this.onmove(this.cursor);
    } else return;
    event.preventDefault();
  }
}
