// Elements of a page. Texts become text nodes only, never markup.

const SVG = "http://www.w3.org/2000/svg"; // a name, never asked for

// What has the focus here and uses keys. Where text is typed, JupyterLab steps aside by itself.
const OWN_KEYS = "button, select, [type=radio], [type=checkbox], [type=range], [tabindex]";

/** An HTML element; attributes named on… are listeners, and strings among children become text. */
export function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function shape(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children);
  if (node.matches(OWN_KEYS)) keepKeys(node, true);
  if (node.matches("input, textarea")) node.addEventListener("beforeinput", keepLineBreak);
  return node;
}

// In a cell JupyterLab takes away what Enter does: the change event of an input, the new line of a
// textarea. It listens to beforeinput on the same element, from the key press on: we came first.
function keepLineBreak(event) {
  if (event.inputType === "insertLineBreak") event.stopImmediatePropagation();
}

const shown = new WeakMap(); // by element

/** New children, made only where a key says that they show something else: a focus stays. */
export function renew(node, key, make) {
  if (shown.get(node) === key) return;
  shown.set(node, key);
  node.replaceChildren(...make());
}

/** While this element has the focus, JupyterLab's shortcuts (arrows, Enter, letters) are off. */
export function keepKeys(node, keeps) {
  node.toggleAttribute("data-lm-suppress-shortcuts", keeps);
}

// Every explorer on a page loads this file for itself, so a number alone would come again.
const MINE = Math.random().toString(36).slice(2, 8);
let lastId = 0;

/** An id that no other element of the page has. */
export const newId = (name) => `lv-${name}-${MINE}-${++lastId}`;

/** Set the text of a node only where it differs: a live region would say it again. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
