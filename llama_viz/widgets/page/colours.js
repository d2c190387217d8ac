// The colours by meaning, read from the style sheet, and the bar that says what a colour means.

import { element } from "./elements.js";

/** What a canvas needs of the style sheet, for the theme of the moment. */
export function palette(root) {
  const style = getComputedStyle(root);
  const read = (name) => style.getPropertyValue(name).trim();
  return {
    sequential: blend(read("--lv-map").split(",")), // 0 to 1
    diverging: blend(read("--lv-signed").split(",")), // −1 to 1
    masked: solid(read("--lv-unseen")),
    unseen: read("--lv-unseen"),
    text: read("--lv-text"),
    quiet: read("--lv-quiet"),
    line: read("--lv-strong-line"),
    raised: read("--lv-raised"),
    blue: read("--lv-blue"),
    vermilion: read("--lv-vermilion"),
    green: read("--lv-green"),
    orange: read("--lv-orange"),
  };
}

/** 256 colours, each a pixel of an ImageData, that pass through stops such as "#3a84bf 0.6". */
function blend(stops) {
  const points = stops.map((stop) => {
    const [colour, place] = stop.trim().split(/\s+/);
    return { at: Number(place), parts: partsOf(colour) };
  });
  return Uint32Array.from({ length: 256 }, (_, index) => {
    const value = index / 255;
    const next = points.findIndex((point, i) => i > 0 && value <= point.at);
    const [low, high] = [points[next - 1], points[next]];
    const share = (value - low.at) / (high.at - low.at);
    return pixel(low.parts.map((part, i) => Math.round(part + share * (high.parts[i] - part))));
  });
}

const partsOf = (colour) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));

const solid = (colour) => pixel(partsOf(colour));

/** Red, green and blue in the order of bytes of an ImageData, opaque. */
function pixel([red, green, blue]) {
  return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

/** A bar from the lowest to the highest colour, with the values at its ends and what they are. */
export class ColourBar {
  constructor() {
    this.low = element("span", { class: "lv-tick" });
    this.high = element("span", { class: "lv-tick" });
    this.ramp = element("span", { class: "lv-colours" });
    this.meaning = element("span", { class: "lv-colours-meaning" });
    this.masked = element(
      "span",
      { class: "lv-colours-masked" },
      element("span", { class: "lv-masked-sample" }),
      " masked",
    );
    this.element = element(
      "p",
      { class: "lv-colour-bar" },
      this.meaning,
      this.low,
      this.ramp,
      this.high,
      this.masked,
    );
  }

  /** kind is "sequential" or "diverging"; low and high are written at the ends. */
  show({ kind, low, high, meaning, masked = false }) {
    this.ramp.classList.toggle("lv-signed-colours", kind === "diverging");
    this.low.textContent = low;
    this.high.textContent = high;
    this.meaning.textContent = meaning;
    this.masked.hidden = !masked;
  }
}
