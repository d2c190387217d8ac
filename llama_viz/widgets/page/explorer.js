// What all explorers share: one drawing a frame, the kernel's data, and the state that is picked.

import { unpack } from "./arrays.js";
import { palette } from "./colours.js";
import { element, newId, say } from "./elements.js";
import { NumbersTable } from "./table.js";

/** One display on a page: it draws at most once a frame, and follows the size and the theme. */
export class Display {
  constructor(model, root, label) {
    this.model = model;
    this.id = newId("view");
    // "Attention explorer" has the class lv-attention-explorer, for rules of its own.
    const own = `lv-${label.toLowerCase().replaceAll(" ", "-")}`;
    this.element = element("div", {
      class: `lv-explorer ${own}`,
      role: "group",
      "aria-label": label,
    });
    root.append(this.element);
    this.nDrawn = 0;
    this.subscriptions = [];
    this.resizing = new ResizeObserver(() => {
      this.measure();
      this.draw();
    });
    // JupyterLab tells its theme by attributes of the body, and so does a page that stands alone.
    this.theming = new MutationObserver(() => {
      this.palette = null;
      this.draw();
    });
  }

  /** Begin to follow size and theme; called when everything is built. */
  observe() {
    this.resizing.observe(this.element);
    this.theming.observe(document.body, { attributes: true });
  }

  /** Listen to the model until this display goes. */
  on(name, listener) {
    this.model.on(name, listener);
    this.subscriptions.push([name, listener]);
  }

  /** The colours of the theme, read from the style sheet once for each theme. */
  get colours() {
    return (this.palette ??= palette(this.element));
  }

  /** Draw with the next frame, once, however much has changed until then. */
  draw() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = null;
      if (!this.element.isConnected) return;
      this.paint();
      this.element.dataset.drawn = ++this.nDrawn;
    });
  }

  remove() {
    cancelAnimationFrame(this.frame);
    this.resizing.disconnect();
    this.theming.disconnect();
    for (const [name, listener] of this.subscriptions) this.model.off(name, listener);
  }

  /** For those who build on this: read the sizes of elements; and show everything as it is now. */
  measure() {}
  paint() {}
}

/** The way to the kernel, one for each page: requests go out with a number, answers come back. */
export class Connection {
  constructor() {
    this.waiting = new Map();
    this.remembered = new Map();
  }

  connect(model) {
    this.model = model;
    model.on("msg:custom", (message, buffers) => this.receive(message, buffers));
    model.on("change:revision", () => this.remembered.clear());
  }

  /** Whether there is a kernel; a page that stands alone has what was put into it, and no more. */
  get isLive() {
    return !this.model.standsAlone;
  }

  /** What the method answer_<name> of the explorer gives: {header, arrays}; rejects in one line.
   *
   * An answer that takes long tells its progress in words, and an AbortSignal stops it.
   */
  ask(name, parameters = {}, { progress = () => {}, signal } = {}) {
    const request = newId("request");
    return new Promise((answer, refuse) => {
      this.waiting.set(request, { answer, refuse, progress });
      this.model.send({ type: "ask", request, name, parameters });
      signal?.addEventListener("abort", () => this.model.send({ type: "stop", request }));
    });
  }

  /** The same, asked once, until the kernel has something new to show. */
  askOnce(name, parameters = {}) {
    const key = JSON.stringify([name, parameters]);
    if (!this.remembered.has(key)) {
      const answer = this.ask(name, parameters);
      answer.catch(() => this.remembered.delete(key));
      this.remembered.set(key, answer);
    }
    return this.remembered.get(key);
  }

  receive(message, buffers) {
    const request = this.waiting.get(message.request);
    if (!request) return;
    if (message.type === "progress") return request.progress(message.text);
    this.waiting.delete(message.request);
    if (message.error) request.refuse(new Error(message.error));
    else request.answer({ header: message.header, arrays: unpack(message.arrays, buffers) });
  }
}

/** An explorer: build() makes its elements from the content, paint() shows the state. */
export class Explorer extends Display {
  constructor(model, connection, root, label) {
    super(model, root, label);
    this.connection = connection;
    this.status = element("p", { class: "lv-status", role: "status" }, "Opening …");
    this.alert = element("p", { class: "lv-alert", role: "alert" });
    this.spoken = element("p", { class: "lv-spoken", role: "status", "aria-live": "polite" });
    this.element.append(this.status, this.alert, this.spoken);
    this.element.addEventListener("keydown", (event) => this.keydown(event));
    this.on("change:state", () => this.draw());
    this.on("change:revision", () => this.load());
    this.load();
  }

  /** Whether a kernel is there to be asked for more. */
  get isLive() {
    return this.connection.isLive;
  }

  /** What is picked: the same in Python. */
  get state() {
    return this.model.get("state");
  }

  /** Pick: pick({layer: 2}). Drawn with the next frame, and told to the kernel. */
  pick(changes) {
    const state = this.state;
    const isNew = Object.entries(changes).some(([name, value]) => state[name] !== value);
    if (!isNew) return;
    this.model.set("state", { ...state, ...changes });
    this.model.save_changes();
    this.draw();
  }

  /** Ask the kernel for what is to be shown, and build the display anew from it. */
  async load() {
    try {
      this.content = await this.connection.askOnce("content");
      say(this.alert, "");
      say(this.status, "");
      this.shown?.remove();
      this.shown = element("div", { class: "lv-shown" });
      this.table = new NumbersTable(() => this.numbers());
      this.element.append(this.shown);
      this.build(this.shown, this.content);
      this.measure();
      this.observe();
      this.draw();
    } catch (error) {
      say(this.status, "");
      this.complain(error);
    }
  }

  /** Ask the kernel for more, once; what goes wrong is said in the display and gives null. */
  async more(name, parameters = {}) {
    try {
      return await this.connection.askOnce(name, parameters);
    } catch (error) {
      this.complain(error);
      return null;
    }
  }

  /** What more() gives where it has come already; else null, and drawn again when it comes. */
  arrived(name, parameters = {}) {
    const { content } = this;
    const key = JSON.stringify([name, parameters]);
    const answers = (content.answers ??= new Map());
    if (!answers.has(key)) {
      answers.set(key, null);
      this.more(name, parameters).then((answer) => {
        answers.set(key, answer);
        if (answer && this.content === content) this.draw();
      });
    }
    return answers.get(key);
  }

  complain(error) {
    say(this.alert, error.message);
  }

  /** Say for those who do not see it what was picked. */
  announce(text) {
    say(this.spoken, text);
  }

  draw() {
    if (this.table) super.draw();
  }

  /** Called once a frame; explorers paint() and then the table shows the numbers in view. */
  paint() {
    this.show();
    this.table.draw();
  }

  keydown(event) {
    if (event.key !== "Escape" || !this.escape()) return;
    event.preventDefault();
    event.stopPropagation();
  }

  // What an explorer has of its own. build(root, {header, arrays}) appends its elements to root,
  // among them this.table.button and this.table.region; show() draws the present state; numbers()
  // gives {caption, header, rows} of what is in view; escape() lets go, and says whether it did.
  build() {}
  show() {}
  numbers() {
    return { caption: "", header: [], rows: [] };
  }
  escape() {
    return false;
  }
}

/** What anywidget expects of a module: `export default explorer(MyExplorer);`. */
export function explorer(Kind) {
  return () => {
    const connection = new Connection();
    return {
      initialize({ model }) {
        connection.connect(model);
      },
      render({ model, el }) {
        const display = new Kind(model, connection, el);
        return () => display.remove();
      },
    };
  };
}
