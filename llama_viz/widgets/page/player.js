// One step after another, by hand or played.

import { element } from "./elements.js";

const PLAY_STEP_MS = 150;

/** A play button, a slider over the steps, and words that say where it stands. */
export class Player {
  /** onstep(step) is called whenever another step is to be shown; show() says that it is. */
  constructor({ label, onstep }) {
    this.onstep = onstep;
    this.step = this.last = 0;
    this.play = element("button", {
      type: "button",
      class: "lv-play",
      onclick: () => this.toggle(),
    });
    this.range = element("input", {
      type: "range",
      class: "lv-scrubber",
      min: "0",
      step: "1",
      "aria-label": label,
      oninput: () => onstep(Number(this.range.value)),
    });
    this.words = element("p", { class: "lv-moment" });
    this.element = element("div", { class: "lv-scrub" }, this.play, this.range, this.words);
    this.name();
  }

  /** This step of so many is shown. */
  show(step, last, words) {
    Object.assign(this, { step, last });
    this.range.max = last;
    this.range.value = step;
    this.words.textContent = words;
    this.range.setAttribute("aria-valuetext", words);
  }

  toggle() {
    if (this.playing) {
      this.pause();
      return;
    }
    if (this.step >= this.last) this.onstep(0);
    this.playing = setInterval(() => {
      const next = Math.min(this.step + 1, this.last);
      if (next >= this.last) this.pause();
      this.onstep(next);
    }, PLAY_STEP_MS);
    this.name();
  }

  pause() {
    clearInterval(this.playing);
    this.playing = null;
    this.name();
  }

  name() {
    this.play.textContent = this.playing ? "❚❚" : "▶";
    this.play.setAttribute("aria-label", this.playing ? "Pause" : "Play the steps");
  }
}
