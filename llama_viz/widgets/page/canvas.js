// A canvas in CSS pixels, sharp on any screen, on which arrays of colours are drawn cell by cell.

import { element } from "./elements.js";

export class Surface {
  constructor(attributes = {}) {
    this.canvas = element("canvas", { class: "lv-map", ...attributes });
    this.context = this.canvas.getContext("2d");
    this.cellsCanvas = document.createElement("canvas");
    this.cellsContext = this.cellsCanvas.getContext("2d");
    this.width = this.height = 0;
  }

  /** Take a size in CSS pixels; what was drawn goes where the size is new. */
  resize(width, height) {
    const ratio = window.devicePixelRatio || 1;
    if (width === this.width && height === this.height && ratio === this.ratio) return;
    Object.assign(this, { width, height, ratio });
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.canvas.style.height = `${height}px`;
  }

  /** Begin a new drawing: everything is clear, and lengths are CSS pixels. */
  clear() {
    const { context, canvas } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.setTransform(canvas.width / this.width, 0, 0, canvas.height / this.height, 0, 0);
    context.imageSmoothingEnabled = false;
    return context;
  }

  /** Rows of colours (a Uint32Array of pixels) as an image of one pixel a cell. */
  picture(colours, nRows, nColumns) {
    const image = new ImageData(new Uint8ClampedArray(colours.buffer), nColumns, nRows);
    this.cellsCanvas.width = nColumns;
    this.cellsCanvas.height = nRows;
    this.cellsContext.putImageData(image, 0, 0);
    return this.cellsCanvas;
  }

  /** Draw rows of colours into a box, each cell a rectangle of one colour. */
  cells(colours, nRows, nColumns, x, y, width, height) {
    const picture = this.picture(colours, nRows, nColumns);
    this.context.drawImage(picture, 0, 0, nColumns, nRows, x, y, width, height);
  }

  /** Where a pointer is, in the lengths of the drawing. */
  place(event) {
    const bounds = this.canvas.getBoundingClientRect();
    return [event.clientX - bounds.left, event.clientY - bounds.top];
  }
}
