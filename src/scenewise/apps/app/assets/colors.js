/** One logarithmic colour scale for all maps: transparent at the average, full at 100 times it. */

const TABLES = {
  viridis: "440154 48186a 472d7b 424086 3b528b 33638d 2c728e 26828e 21918c 1fa088 28ae80 3fbc73 5ec962 84d44b addc30 d8e219 fde725",
  cividis: "00224e 002e6a 1a386f 32436d 434e6c 535a6d 61656f 6f7073 7d7c78 8c8878 9b9476 aba072 bcae6c cdbb63 dec958 f0d846 fee838",
  magma: "000004 0a0822 1d1147 36106b 51127c 6a1c81 832681 9c2e7f b73779 d0416f e75263 f56b5c fc8961 fea772 fec488 fde2a3 fcfdbf",
};
const STEPS = 256;
const SOLID = 0.3; // of the scale: from 4 times the average on the colour is opaque

export const COLORMAPS = Object.keys(TABLES);

/** Times the average -> 0..1 on the scale. */
export const level = value => Math.max(0, Math.min(1, Math.log10(Math.max(value, 1)) / 2));

/** The table of a colour map: 256 times red, green, blue, alpha. */
export function table(name) {
  const anchors = (TABLES[name] ?? TABLES.viridis).split(" ").map(hex =>
    [0, 2, 4].map(i => parseInt(hex.slice(i, i + 2), 16)));
  const colors = new Uint8ClampedArray(4 * STEPS);
  for (let i = 0; i < STEPS; i++) {
    const x = i / (STEPS - 1) * (anchors.length - 1), k = Math.min(Math.floor(x), anchors.length - 2);
    for (let c = 0; c < 3; c++) colors[4 * i + c] = anchors[k][c] + (x - k) * (anchors[k + 1][c] - anchors[k][c]);
    colors[4 * i + 3] = 255 * Math.min(1, i / (STEPS - 1) / SOLID);
  }
  return colors;
}

/** Draw the scale itself. */
export function drawBar(canvas, name) {
  const context = canvas.getContext("2d"), colors = table(name);
  const image = context.createImageData(canvas.width, 1);
  for (let x = 0; x < canvas.width; x++) {
    const i = Math.round(x / (canvas.width - 1) * (STEPS - 1));
    image.data.set(colors.subarray(4 * i, 4 * i + 4), 4 * x);
  }
  context.putImageData(image, 0, 0);
}

/**
 * A map of (height, width) cells as an image, smoothly enlarged `zoom` times on the log scale.
 * @param {Float32Array} values times the average
 */
export function heat(values, height, width, zoom, name) {
  const colors = table(name), levels = Float32Array.from(values, level);
  const image = new ImageData(width * zoom, height * zoom);
  for (let y = 0; y < height * zoom; y++) {
    const [top, bottom, down] = between((y + 0.5) / zoom - 0.5, height);
    for (let x = 0; x < width * zoom; x++) {
      const [left, right, along] = between((x + 0.5) / zoom - 0.5, width);
      const upper = levels[top * width + left] * (1 - along) + levels[top * width + right] * along;
      const lower = levels[bottom * width + left] * (1 - along) + levels[bottom * width + right] * along;
      const i = 4 * Math.round((upper * (1 - down) + lower * down) * (STEPS - 1));
      const at = 4 * (y * width * zoom + x);
      for (let c = 0; c < 4; c++) image.data[at + c] = colors[i + c];
    }
  }
  return image;
}

/** The two cells that a place lies between, and how far it is from the first. */
function between(place, count) {
  const inside = Math.max(0, Math.min(count - 1, place)), first = Math.floor(inside);
  return [first, Math.min(first + 1, count - 1), inside - first];
}
