// Tokens as text that shows everything, and the text as a control.

import { element, newId } from "./elements.js";
import { clamp } from "./numbers.js";

const SHADES = 64;

/** A token for a line of text: its label, and the character that its bytes completed. */
export function tokenText(token) {
  if (!token) return "";
  return token.character ? `${token.label} ${token.character}` : token.label;
}

export function shorten(text, length) {
  const letters = Array.from(text);
  return letters.length <= length ? text : `${letters.slice(0, length - 1).join("")}…`;
}

const isByte = (token) => /^<0x[0-9A-F]{2}>$/.test(token.label);

/** What stands inside the element of a token: its leading space quiet, its bytes small. */
export function tokenParts(token) {
  const hasSpace = token.label.startsWith("▁");
  const rest = hasSpace ? token.label.slice(1) : token.label;
  const parts = hasSpace ? [element("span", { class: "lv-space" }, "▁")] : [];
  parts.push(isByte(token) ? element("span", { class: "lv-byte" }, rest) : rest);
  if (token.character) parts.push(element("span", { class: "lv-character" }, token.character));
  return parts;
}

/** Elements in the order of the text: a line may break before a word, and does after a newline. */
export function withBreaks(span, token) {
  const endsLine = token.label === "⏎" || token.character === "⏎";
  return [element("wbr"), span, ...(endsLine ? [element("br")] : [])];
}

/** A text whose tokens can be pointed at and picked, with the mouse and with the arrow keys. */
export class TokenText {
  /** onpoint(position or null) follows the pointer, onpick(position) a click or Enter. */
  constructor({ label, onpoint = () => {}, onpick = () => {} }) {
    this.spans = [];
    this.shades = [];
    this.active = 0;
    this.onpoint = onpoint;
    this.onpick = onpick;
    this.element = element("div", {
      class: "lv-story",
      role: "listbox",
      "aria-label": label,
      onmouseover: (event) => this.pointed(event),
      onmouseleave: () => onpoint(null),
      onclick: (event) => this.clicked(event),
      onfocusin: (event) => this.pointed(event),
      onkeydown: (event) => this.move(event),
    });
  }

  /** Show these tokens: {label, id, character}, a span each. */
  fill(tokens) {
    this.spans = [];
    this.shades = [];
    this.active = 0;
    this.revealed = null;
    this.element.replaceChildren();
    this.extend(tokens);
  }

  /** The same text, grown: the tokens that are new are added behind the others. */
  extend(tokens) {
    for (let position = this.spans.length; position < tokens.length; position++) {
      const token = tokens[position];
      const span = this.span(position, token);
      this.spans.push(span);
      this.shades.push(0);
      this.element.append(...withBreaks(span, token));
    }
  }

  /** The element of a token. */
  span(position, token) {
    return element(
      "span",
      {
        class: "lv-token",
        role: "option",
        id: newId("token"),
        tabindex: position === 0 ? "0" : "-1",
        "aria-selected": "false",
        "data-position": position,
        title: `position ${position}, id ${token.id}`,
      },
      ...tokenParts(token),
    );
  }

  /** The background of each token, 0 to 1 in steps that an eye can tell apart; null clears all. */
  shade(values) {
    this.spans.forEach((span, position) => {
      const shade = values ? Math.round(values[position] * SHADES) / SHADES : 0;
      if (shade === this.shades[position]) return;
      this.shades[position] = shade;
      span.style.setProperty("--p", shade);
    });
  }

  /** Give these positions, and no others, a class of their own. */
  mark(name, positions) {
    for (const span of this.element.querySelectorAll(`.${name}`)) span.classList.remove(name);
    for (const position of positions) this.spans[position]?.classList.add(name);
  }

  /** The token that is picked, and that Tab comes back to. */
  choose(position) {
    if (!this.spans[position]) return;
    this.spans[this.active].tabIndex = -1;
    this.spans[this.active].setAttribute("aria-selected", "false");
    this.active = position;
    this.spans[position].tabIndex = 0;
    this.spans[position].setAttribute("aria-selected", "true");
  }

  /** Bring a token that is newly picked into view; then the reader may scroll on. */
  reveal(position) {
    const span = this.spans[position];
    if (!span || position === this.revealed || !this.element.clientHeight) return;
    this.revealed = position;
    this.bringIntoView(span);
  }

  /** Scroll the box of the text, and nothing around it. */
  bringIntoView({ offsetTop: top, offsetHeight: height }) {
    const { scrollTop, clientHeight } = this.element;
    if (top < scrollTop || top + height > scrollTop + clientHeight) {
      this.element.scrollTop = top - clientHeight / 2;
    }
  }

  position(event) {
    const span = event.target.closest("[data-position]");
    return span ? Number(span.dataset.position) : null;
  }

  pointed(event) {
    this.onpoint(this.position(event));
  }

  clicked(event) {
    const position = this.position(event);
    if (position === null) return;
    this.choose(position);
    this.onpick(position);
  }

  move(event) {
    const last = this.spans.length - 1;
    const at = this.position(event) ?? this.active;
    const places = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last };
    if (event.key === "Enter" || event.key === " ") this.onpick(at);
    else if (event.key in places && last >= 0) {
      this.choose(clamp(places[event.key], 0, last));
      this.spans[this.active].focus();
    } else return;
    event.preventDefault();
  }
}

const CHUNK = 128; // tokens, and up to half as many more until a line ends
const LETTERS = 90; // of a line, about: so high is a chunk before it has been seen
const LINE = 26; // pixels

/** The same for thousands of tokens: only those near what is in view are elements. */
export class LongTokenText extends TokenText {
  constructor(options) {
    super(options);
    this.marks = new Map();
    this.watching = new IntersectionObserver(
      (entries) => {
        for (const { target, isIntersecting } of entries) {
          const chunk = this.chunks[target.dataset.chunk];
          if (isIntersecting) this.build(chunk);
          else this.empty(chunk);
        }
      },
      { root: this.element, rootMargin: "300px 0px" },
    );
  }

  fill(tokens) {
    this.watching.disconnect();
    this.tokens = tokens;
    this.spans = new Array(tokens.length);
    this.shades = new Array(tokens.length).fill(0);
    this.values = null;
    this.active = 0;
    this.chunks = [];
    this.element.replaceChildren();
    for (let start = 0; start < tokens.length; ) {
      let end = Math.min(start + CHUNK, tokens.length);
      const most = Math.min(start + 1.5 * CHUNK, tokens.length);
      while (end < most && tokens[end - 1].label !== "⏎" && tokens[end - 1].character !== "⏎") end++;
      this.add(start, end);
      start = end;
    }
    if (this.chunks.length) this.build(this.chunks[0]);
  }

  add(start, end) {
    const letters = this.tokens.slice(start, end).reduce((sum, { label }) => sum + label.length, 0);
    const node = element("div", { "data-chunk": this.chunks.length, role: "presentation" });
    node.style.height = `${Math.ceil(letters / LETTERS) * LINE}px`;
    this.chunks.push({ node, start, end, isBuilt: false });
    this.element.append(node);
    this.watching.observe(node);
  }

  build(chunk) {
    if (chunk.isBuilt) return;
    chunk.isBuilt = true;
    chunk.node.style.height = "";
    const spans = [];
    for (let position = chunk.start; position < chunk.end; position++) {
      const token = this.tokens[position];
      const span = this.span(position, token);
      span.setAttribute("aria-setsize", this.tokens.length);
      span.setAttribute("aria-posinset", position + 1);
      span.tabIndex = position === this.active ? 0 : -1;
      span.setAttribute("aria-selected", String(position === this.active));
      for (const [name, marked] of this.marks) span.classList.toggle(name, marked.has(position));
      this.spans[position] = span;
      this.shades[position] = 0;
      this.tint(position);
      spans.push(...withBreaks(span, token));
    }
    chunk.node.append(...spans);
  }

  /** Let the elements go, and keep their room; Tab comes back to the one that is picked. */
  empty(chunk) {
    const isActive = this.active >= chunk.start && this.active < chunk.end;
    if (!chunk.isBuilt || isActive || chunk.node.contains(document.activeElement)) return;
    chunk.isBuilt = false;
    chunk.node.style.height = `${chunk.node.offsetHeight}px`;
    chunk.node.replaceChildren();
    this.spans.fill(undefined, chunk.start, chunk.end);
  }

  shade(values) {
    this.values = values;
    this.spans.forEach((span, position) => span && this.tint(position));
  }

  tint(position) {
    const { values, shades } = this;
    const shade = values ? Math.round(values[position] * SHADES) / SHADES : 0;
    if (shade === shades[position]) return;
    shades[position] = shade;
    this.spans[position].style.setProperty("--p", shade);
  }

  mark(name, positions) {
    const marked = new Set(positions);
    this.marks.set(name, marked);
    this.spans.forEach((span, position) => span?.classList.toggle(name, marked.has(position)));
  }

  /** The token that is picked comes into view, inside of the text. */
  choose(position) {
    if (!this.tokens?.[position]) return;
    const before = this.spans[this.active];
    if (before) {
      before.tabIndex = -1;
      before.setAttribute("aria-selected", "false");
    }
    this.active = position;
    this.build(this.chunks.find(({ end }) => position < end));
    const span = this.spans[position];
    span.tabIndex = 0;
    span.setAttribute("aria-selected", "true");
    this.bringIntoView(span);
  }
}
