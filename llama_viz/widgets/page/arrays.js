// Arrays as the kernel packs them: bytes with a name, a type and a shape.

const TYPES = {
  uint8: Uint8Array,
  int8: Int8Array,
  uint16: Uint16Array,
  int16: Int16Array,
  int32: Int32Array,
  float16: Uint16Array, // decoded below
  float32: Float32Array,
};

/** One array: `values` as they were sent, `numbers()` as float32 in the units of the recording. */
export class PackedArray {
  constructor({ name, dtype, shape, unit }, bytes, scale) {
    this.name = name;
    this.shape = shape;
    this.dtype = dtype;
    this.unit = unit; // value = stored x unit, for all alike
    this.scale = scale; // or for each vector along the last axis
    // A copy where it must be: a message's parts need not lie at multiples of the item's size.
    const type = TYPES[dtype];
    const isAligned = bytes.byteOffset % type.BYTES_PER_ELEMENT === 0;
    this.values = isAligned
      ? new type(bytes.buffer, bytes.byteOffset, bytes.byteLength / type.BYTES_PER_ELEMENT)
      : new type(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
    if (dtype === "float16") this.values = halves(this.values);
  }

  get length() {
    return this.values.length;
  }

  /** The values from start to end as float32, decoded anew. */
  numbers(start = 0, end = this.length) {
    const { values, unit, scale } = this;
    if (!unit && !scale) return Float32Array.from(values.subarray(start, end));
    const decoded = new Float32Array(end - start);
    const last = this.shape.at(-1);
    for (let index = start; index < end; index++) {
      decoded[index - start] = values[index] * (unit ?? scale[Math.floor(index / last)]);
    }
    return decoded;
  }
}

/** Arrays by name, from their descriptions and their bytes in the same order. */
export function unpack(specs, buffers) {
  const bytes = specs.map((_, index) => asBytes(buffers[index]));
  const scaleOf = {};
  specs.forEach((spec, index) => {
    if (spec.scales) scaleOf[spec.scales] = new PackedArray(spec, bytes[index]).values;
  });
  const arrays = {};
  specs.forEach((spec, index) => {
    if (spec.scales) return;
    arrays[spec.name] = new PackedArray(spec, bytes[index], scaleOf[spec.name]);
  });
  return arrays;
}

function asBytes(view) {
  return ArrayBuffer.isView(view)
    ? new Uint8Array(view.buffer, view.byteOffset, view.byteLength)
    : new Uint8Array(view);
}

/** float32 values of IEEE half floats. */
function halves(bits) {
  return Float32Array.from(bits, (half) => {
    const sign = half & 0x8000 ? -1 : 1;
    const exponent = (half >> 10) & 0x1f;
    const fraction = half & 0x3ff;
    if (exponent === 0) return sign * fraction * 2 ** -24;
    if (exponent === 0x1f) return fraction ? NaN : sign * Infinity;
    return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  });
}
