// Charts in SVG, and the framed panels that they stand in.

import { element, newId, say, shape } from "./elements.js";
import { brief, fixed, ticks } from "./numbers.js";

export const CHART_HEIGHT = 186;

/** A drawing in SVG, made anew for every moment: shapes are collected, then shown at once. */
export class Chart {
  constructor(attributes = {}) {
    this.svg = shape("svg", { class: "lv-chart", role: "img", ...attributes });
    this.shapes = [];
    this.resize(320, CHART_HEIGHT);
  }

  resize(width, height) {
    this.width = width;
    this.height = height;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.setAttribute("height", height);
  }

  add(tag, attributes, ...children) {
    const node = shape(tag, attributes, ...children);
    this.shapes.push(node);
    return node;
  }

  line(x1, y1, x2, y2, name) {
    this.add("line", { x1, y1, x2, y2, class: name });
  }

  box(x, y, width, height, name) {
    this.add("rect", { x, y, width: Math.max(width, 0), height: Math.max(height, 0), class: name });
  }

  path(points, name) {
    this.add("path", { d: pathThrough(points), class: name });
  }

  text(x, y, content, name = "", anchor = "start", turned = false) {
    const transform = turned ? `rotate(90 ${x} ${y})` : null;
    this.add("text", { x, y, class: name, "text-anchor": anchor, transform }, content);
  }

  /** Lines and numbers of a vertical axis from 0; returns the height of a value on the page. */
  scale(frame, high, write = brief) {
    const marks = ticks(high);
    const top = marks.at(-1);
    const y = (value) => frame.bottom - (value / top) * (frame.bottom - frame.top);
    for (const mark of marks) {
      this.line(frame.left, y(mark), frame.right, y(mark), mark ? "lv-grid" : "lv-axis");
      this.text(frame.left - 5, y(mark) + 3.5, write(mark), "lv-tick", "end");
    }
    return y;
  }

  show(description) {
    this.svg.setAttribute("aria-label", description);
    this.svg.replaceChildren(...this.shapes);
    this.shapes = [];
  }
}

export function pathThrough(points) {
  return points.map(([x, y], i) => `${i ? "L" : "M"}${fixed(x, 1)} ${fixed(y, 1)}`).join("");
}

/** A framed signal: a title with its unit, a chart, and one line that says what is to be seen. */
export class Panel {
  constructor(name, title, unit) {
    const id = newId(name);
    this.caption = element("p", { class: "lv-caption" });
    this.body = element("div", { class: "lv-body" });
    this.tools = element("div", { class: "lv-tools" });
    this.element = element(
      "section",
      { class: `lv-panel lv-${name}`, "aria-labelledby": id, "data-panel": name },
      element(
        "header",
        {},
        element("h4", { id }, title, " ", element("small", {}, unit)),
        this.tools,
      ),
      this.body,
      this.caption,
    );
  }

  /** Room for the drawing. Read once for each layout: reading it in every frame would force one. */
  measure() {
    this.width = Math.max(this.body.clientWidth, 200);
  }

  /** Say in words what the chart shows; without a chart, why. */
  say(text) {
    say(this.caption, text);
  }
}
