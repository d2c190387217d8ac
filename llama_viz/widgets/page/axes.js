// Vertical axes that do not begin at 0: around 0 for signed values, or in powers of ten.

import { brief, signed, ticks } from "./numbers.js";

/** An axis through 0 from low (at most 0) to high; returns the height of a value on the page. */
export function signedAxis(chart, frame, low, high, write = signed) {
  const step = ticks(Math.max(high - low, 1e-12))[1];
  const first = Math.floor(low / step + 1e-9);
  const last = Math.max(Math.ceil(high / step - 1e-9), first + 1);
  const y = (value) =>
    frame.bottom - ((value / step - first) / (last - first)) * (frame.bottom - frame.top);
  for (let mark = first; mark <= last; mark++) {
    const value = mark * step;
    chart.line(frame.left, y(value), frame.right, y(value), mark ? "lv-grid" : "lv-axis");
    chart.text(frame.left - 5, y(value) + 3.5, write(value), "lv-tick", "end");
  }
  return y;
}

/** A logarithmic axis that holds low and high (both above 0); returns the height of a value. */
export function logarithmicAxis(chart, frame, low, high, write = brief) {
  const [first, last] = [Math.log10(low), Math.log10(high)];
  const room = Math.max(last - first, 0.1) * 0.04;
  const [bottom, top] = [first - room, last + room];
  const y = (value) =>
    frame.bottom - ((Math.log10(value) - bottom) / (top - bottom)) * (frame.bottom - frame.top);
  for (const mark of roundValues(10 ** bottom, 10 ** top)) {
    chart.line(frame.left, y(mark), frame.right, y(mark), "lv-grid");
    chart.text(frame.left - 5, y(mark) + 3.5, write(mark), "lv-tick", "end");
  }
  chart.line(frame.left, frame.bottom, frame.right, frame.bottom, "lv-axis");
  return y;
}

/** A few round numbers between two: 1, 2 and 5 times powers of ten, fewer where there are many. */
function roundValues(low, high) {
  const powers = [];
  for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power++) powers.push(power);
  const every = Math.ceil(powers.length / 6);
  const digits = powers.length <= 3 ? [1, 2, 5] : [1];
  return powers
    .filter((power) => power % every === 0)
    .flatMap((power) => digits.map((digit) => digit * 10 ** power))
    .filter((value) => value >= low && value <= high);
}
