// Controls: each has a label, works from the keyboard, and is {element, set(value)}.

import { element, newId } from "./elements.js";

/** An input with words above it. */
export function field(words, input) {
  return element("label", { class: "lv-field" }, element("span", {}, words), input);
}

export function numberInput(name, attributes) {
  return element("input", { type: "number", class: name, ...attributes });
}

/** The number in an input, null where it is empty. */
export const numberOf = (input) => (input.value === "" ? null : Number(input.value));

/** A menu; options are [value, words], and values may be anything that JSON can hold. */
export function menu(words, options, onchange, attributes = {}) {
  const select = element(
    "select",
    { ...attributes, onchange: () => onchange(options[select.selectedIndex][0]) },
    ...options.map(([, name], index) => element("option", { value: index }, name)),
  );
  return {
    element: field(words, select),
    input: select,
    set: (value) => (select.selectedIndex = options.findIndex(([own]) => own === value)),
  };
}

/** A row of buttons of which one is on; options are [value, words] or [value, words, spoken]. */
export function pills(words, options, onchange, attributes = {}) {
  const name = newId("pills");
  const inputs = options.map(([value, , spoken], index) =>
    element("input", {
      type: "radio",
      name,
      value: index,
      "aria-label": spoken,
      onchange: () => onchange(value),
    }),
  );
  const labels = inputs.map((input, index) =>
    element("label", {}, input, element("span", {}, options[index][1])),
  );
  return {
    element: element(
      "fieldset",
      { class: "lv-pills", ...attributes },
      element("legend", {}, words),
      ...labels,
    ),
    inputs,
    set: (value) =>
      options.forEach(([own], index) => (inputs[index].checked = own === value)),
  };
}

/** A slider that says its value in words: write(value) gives them. */
export function slider(words, { min, max, step = 1, write = String, ...attributes }, onchange) {
  // No output element: the label would name that one, the first that can be named, not the input.
  const value = element("span", {});
  const input = element("input", {
    type: "range",
    min,
    max,
    step,
    ...attributes,
    oninput: () => {
      show(Number(input.value));
      onchange(Number(input.value));
    },
  });
  const show = (number) => {
    value.textContent = write(number);
    input.setAttribute("aria-valuetext", write(number));
  };
  return {
    element: element(
      "label",
      { class: "lv-field" },
      element("span", {}, `${words}: `, value),
      input,
    ),
    input,
    set: (number) => {
      input.value = number;
      show(number);
    },
  };
}

/** A box to tick. */
export function tickBox(words, onchange, attributes = {}) {
  const input = element("input", {
    type: "checkbox",
    ...attributes,
    onchange: () => onchange(input.checked),
  });
  return {
    element: element("label", { class: "lv-tick-box" }, input, ` ${words}`),
    input,
    set: (value) => (input.checked = value),
  };
}

/** A plain button. */
export function button(words, onclick, attributes = {}) {
  return element("button", { type: "button", class: "lv-button", ...attributes, onclick }, words);
}
