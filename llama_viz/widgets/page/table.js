// The numbers in view as a table, for those who want them, and those who do not see the drawing.

import { element, newId, say } from "./elements.js";
import { grouped } from "./numbers.js";

const MOST_ROWS = 500;

/** A button that shows and hides a table. */
export class NumbersTable {
  /** read() gives {caption, header, rows} for the state in view; it is called while shown. */
  constructor(read) {
    this.read = read;
    const id = newId("numbers");
    this.region = element("div", {
      class: "lv-table",
      id,
      role: "region",
      "aria-label": "Numbers in view",
      tabindex: "0",
      hidden: true,
    });
    this.button = element(
      "button",
      {
        type: "button",
        class: "lv-button lv-numbers-button",
        "aria-expanded": "false",
        "aria-controls": id,
        onclick: () => this.toggle(),
      },
      "Numbers",
    );
  }

  toggle() {
    this.region.hidden = !this.region.hidden;
    this.button.setAttribute("aria-expanded", String(!this.region.hidden));
    this.draw();
  }

  draw() {
    if (this.region.hidden) return;
    const { caption, header, rows } = this.read();
    const shown = rows.slice(0, MOST_ROWS);
    const cut =
      rows.length > shown.length
        ? ` The first ${MOST_ROWS} of ${grouped(rows.length)} rows.`
        : "";
    const line = (tag, cells) => element("tr", {}, ...cells.map((cell) => element(tag, {}, cell)));
    const title = element("caption", {});
    say(title, `${caption}${cut}`);
    this.region.replaceChildren(
      element(
        "table",
        {},
        title,
        element("thead", {}, line("th", header)),
        element("tbody", {}, ...shown.map((row) => line("td", row.map(String)))),
      ),
    );
  }
}
