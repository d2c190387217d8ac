// Hover shows, click locks, Escape unlocks.

/** What is pointed at, until something is locked; then that, until it is unlocked. */
export class Picking {
  /** changed() is called whenever there is something new to draw. */
  constructor(changed) {
    this.changed = changed;
    this.hovered = null;
    this.locked = null;
  }

  /** What is shown: the locked one, else the one under the pointer, else null. */
  get current() {
    return this.locked ?? this.hovered;
  }

  get isLocked() {
    return this.locked !== null;
  }

  /** The pointer is over this (null: over nothing). */
  point(place) {
    if (same(place, this.hovered)) return;
    this.hovered = place;
    if (!this.isLocked) this.changed();
  }

  /** A click, or Enter: hold on to this; a second click on it lets go. */
  lock(place) {
    if (place === null) return;
    this.locked = same(place, this.locked) ? null : place;
    this.changed();
  }

  /** Move what is held, or what is pointed at, as the arrow keys do. */
  move(place) {
    if (this.isLocked) this.locked = place;
    else this.hovered = place;
    this.changed();
  }

  /** Escape; says whether there was something to let go. */
  unlock() {
    if (!this.isLocked && this.hovered === null) return false;
    const was = this.isLocked;
    this.locked = this.hovered = null;
    this.changed();
    return was;
  }
}

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

/** The step of an arrow key as [down, right], else null. */
export function arrow(event) {
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  return steps[event.key] ?? null;
}
