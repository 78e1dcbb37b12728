// Reads what packing.py put into the page: numbers as base64 of deflated byte planes of differences.

const ARRAY_TYPES = { uint8: Uint8Array, int16: Int16Array, uint16: Uint16Array, uint32: Uint32Array };
const unpacked = new Map();

function element(id) {
  return document.getElementById(id);
}

async function inflate(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function decode({ blob, type, rows, columns }) {
  const bytes = await inflate(element(blob).textContent);
  const values = new ARRAY_TYPES[type](rows * columns);
  const size = values.BYTES_PER_ELEMENT;
  if (bytes.length !== size * values.length) throw new Error(`${blob} is damaged`);
  for (let plane = 0; plane < size; plane++) {
    const offset = plane * values.length;
    for (let i = 0; i < values.length; i++) values[i] |= bytes[offset + i] << (8 * plane);
  }
  // The typed array wraps around as the differences did.
  for (let row = 0; row < rows; row++) {
    for (let i = row * columns + 1; i < (row + 1) * columns; i++) values[i] += values[i - 1];
  }
  return values;
}

/** {blob, type, rows, columns} -> typed array [rows * columns], row by row; faces share their blobs. */
function unpack(packed) {
  if (!unpacked.has(packed.blob)) unpacked.set(packed.blob, decode(packed));
  return unpacked.get(packed.blob);
}

/** As `unpack`, for quantised rows -> Float32Array [columns * rows], the rows interleaved. */
async function unpackInterleaved(packed) {
  const planes = await unpack(packed);
  const { rows, columns, scale, offset } = packed;
  const values = new Float32Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    for (let i = 0; i < columns; i++) {
      values[i * rows + row] = planes[row * columns + i] * scale[row] + offset[row];
    }
  }
  return values;
}
