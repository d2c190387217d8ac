// A page that stands alone: the kernel's part is played by what was put into the page.

import { element } from "./elements.js";

/** As much of anywidget's model as explorers use; it answers "content", and refuses the rest. */
class EmbeddedModel {
  constructor({ state, header, arrays }, buffers) {
    this.standsAlone = true;
    this.values = { state };
    this.answer = { header, arrays };
    this.buffers = buffers;
    this.listeners = [];
  }

  get(name) {
    return this.values[name];
  }

  set(name, value) {
    this.values[name] = value;
    this.tell(`change:${name}`);
  }

  save_changes() {}

  on(name, listener) {
    this.listeners.push([name, listener]);
  }

  off(name, listener) {
    this.listeners = this.listeners.filter(([own, one]) => own !== name || one !== listener);
  }

  send({ type, request, name }) {
    if (type !== "ask") return;
    const answer =
      name === "content" ? this.answer : { error: "This needs a kernel: open it in a notebook." };
    const buffers = name === "content" ? this.buffers : [];
    queueMicrotask(() => this.tell("msg:custom", { type: "answer", request, ...answer }, buffers));
  }

  tell(name, ...values) {
    for (const [own, listener] of this.listeners) if (own === name) listener(...values);
  }
}

/** The bytes of an element of the page: base64, deflated where that was shorter. */
async function bytesOf(node) {
  const text = atob(node.textContent);
  const bytes = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
  if (!node.hasAttribute("data-deflated")) return new DataView(bytes.buffer);
  const inflated = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const shuffled = new Uint8Array(await new Response(inflated).arrayBuffer());
  // First bytes of all numbers, then second bytes: each number gets its own together again.
  const size = Number(node.dataset.deflated);
  const joined = new Uint8Array(shuffled.length);
  const count = shuffled.length / size;
  for (let byte = 0, from = 0; byte < size; byte++) {
    for (let index = 0; index < count; index++) joined[index * size + byte] = shuffled[from++];
  }
  return new DataView(joined.buffer);
}

/** JupyterLab's sign of its theme, set here by the reader's system. */
function followSystemTheme() {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const tell = () => (document.body.dataset.jpThemeLight = String(!dark.matches));
  dark.addEventListener("change", tell);
  tell();
}

/** Show the explorer of this page; definition is what its module exports to anywidget. */
export async function openPage(definition) {
  followSystemTheme();
  const root = document.getElementById("explorer");
  try {
    const content = JSON.parse(document.getElementById("content").textContent);
    const nodes = [...document.querySelectorAll("script[data-array]")];
    const model = new EmbeddedModel(content, await Promise.all(nodes.map(bytesOf)));
    const { initialize, render } = await definition();
    initialize({ model });
    render({ model, el: root });
  } catch (error) {
    root.append(element("p", { role: "alert" }, `This page cannot be shown: ${error.message}`));
  }
}
