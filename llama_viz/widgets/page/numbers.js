// Numbers as words.

export const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
export const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
const thousandsApart = new Intl.NumberFormat("en"); // made once: it takes longer than its use
export const grouped = (number) => thousandsApart.format(number);
export const fixed = (number, digits = 2) => number.toFixed(digits);
export const chance = (probability) => (probability < 0.0005 ? "<0.001" : fixed(probability, 3));
export const total = (values) => values.reduce((sum, value) => sum + value, 0);

/** Three digits that matter: 12.3, 0.0316, 3.2e-5. */
export function brief(number) {
  if (number === 0) return "0";
  const size = Math.abs(number);
  if (size < 0.001 || size >= 1e5) return number.toExponential(1);
  return String(Number(number.toPrecision(3)));
}

/** The same with a true minus sign. */
export const signed = (number) => brief(number).replace("-", "−");

/** With its sign, also where it is positive: +3, −3, 0. */
export const withSign = (number) => (number > 0 ? `+${signed(number)}` : signed(number));

/** Three significant digits, all of them written: 12.0, 0.0300, 3.21e-5, −0.500. */
export function threeDigits(number) {
  if (number === 0) return "0";
  if (!Number.isFinite(number)) return number > 0 ? "∞" : number < 0 ? "−∞" : "—";
  const size = Math.abs(number);
  const text =
    size < 0.001 || size >= 1e5 ? size.toExponential(2) : size.toPrecision(3).replace(/\.$/, "");
  // toPrecision(3) of 1234 is 1.23e+3: whole numbers of that size are written as they are.
  const plain = text.includes("e") && size >= 0.001 && size < 1e5 ? String(Math.round(size)) : text;
  return number < 0 ? `−${plain}` : plain;
}

export function bytes(count) {
  if (count < 1000) return `${count} B`;
  const units = ["kB", "MB", "GB", "TB"];
  const power = Math.min(Math.floor(Math.log10(count) / 3), units.length);
  return `${Number((count / 1000 ** power).toPrecision(3))} ${units[power - 1]}`;
}

export function duration(seconds) {
  return seconds < 60 ? `${Math.ceil(seconds)} s` : `${Math.ceil(seconds / 60)} min`;
}

export function median(values) {
  const ordered = [...values].sort((a, b) => a - b);
  const middle = ordered.length >> 1;
  return ordered.length % 2 ? ordered[middle] : (ordered[middle - 1] + ordered[middle]) / 2;
}

/** Round numbers from 0 to at least `high`, about `count` of them. */
export function ticks(high, count = 4) {
  const rough = (high || 1) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  return Array.from({ length: Math.ceil((high || 1) / step - 1e-9) + 1 }, (_, i) => i * step);
}
