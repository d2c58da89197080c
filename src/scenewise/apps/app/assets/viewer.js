// One panel: the image under an overlay of class colours or a heat map. Gradio provides `element`,
// `props`, `trigger` and `watch`. A message holds a scene (a new prediction), a heat map or
// neither, and a caption; what is missing in a message stays as it is.
const part = name => element.querySelector("." + name);
const [stage, image, labels, heat] = ["stage", "image", "labels", "heat"].map(part);
const [frame, mark, cursor, tip, legend] = ["frame", "mark", "cursor", "tip", "legend"].map(part);
const INFERNO = [[0, 0, 4], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]];
let scene = null, map = null, cells = null, weights = null, at = [0, 0], latest = 0;

async function pixels(url) {
  const source = new Image();
  source.src = url;
  await source.decode();
  const context = new OffscreenCanvas(source.width, source.height).getContext("2d");
  context.drawImage(source, 0, 0);
  return context.getImageData(0, 0, source.width, source.height);
}

function paint(canvas, source, color) { // color: byte of the red channel -> [r, g, b, a]
  const out = new ImageData(source.width, source.height);
  for (let i = 0; i < out.data.length; i += 4) out.data.set(color(source.data[i]), i);
  canvas.width = source.width;
  canvas.height = source.height;
  canvas.getContext("2d").putImageData(out, 0, 0);
}

function inferno(byte) { // small values are more transparent
  const x = byte / 255 * (INFERNO.length - 1), k = Math.min(Math.floor(x), INFERNO.length - 2);
  const color = INFERNO[k].map((low, c) => low + (x - k) * (INFERNO[k + 1][c] - low));
  return [...color, 100 + 155 * Math.sqrt(byte / 255)];
}

function place(node, [top, left, bottom, right]) {
  const percent = (length, whole) => 100 * length / whole + "%";
  node.style.top = percent(top, scene.height);
  node.style.left = percent(left, scene.width);
  node.style.height = percent(bottom - top, scene.height);
  node.style.width = percent(right - left, scene.width);
}

function listClasses() {
  legend.replaceChildren(...scene.legend.map(({ name, color, share }) => {
    const item = document.createElement("li"), swatch = document.createElement("i");
    swatch.style.background = `rgb(${color})`;
    const [label, number] = ["span", "b"].map(tag => document.createElement(tag));
    label.textContent = name;
    number.textContent = share;
    item.append(swatch, label, number);
    return item;
  }));
}

function describe(row, column) { // class, confidence and heat of a pixel
  const i = 4 * (row * scene.width + column);
  let text = `${scene.names[cells.data[i]]} ${cells.data[i + 1]}%`;
  if (!map) return text;
  const [top, left, bottom, right] = map.box;
  if (row < top || row >= bottom || column < left || column >= right) return text;
  const y = Math.floor((row - top) / (bottom - top) * weights.height);
  const x = Math.floor((column - left) / (right - left) * weights.width);
  const value = map.low + weights.data[4 * (y * weights.width + x)] / 255 * (map.high - map.low);
  return `${text} · ${value.toPrecision(2)} ${map.unit}`;
}

function point(row, column, node) { // show the cursor and the tip
  place(cursor, [row, column, row + 1, column + 1]);
  place(tip, [row, column, row, column]);
  tip.classList.toggle("leftward", column > scene.width / 2);
  tip.classList.toggle("upward", row > scene.height / 2);
  tip.textContent = describe(row, column);
  tip.hidden = false;
  cursor.hidden = node !== "keys";
}

function pixelUnder(event) {
  const box = stage.getBoundingClientRect();
  const inside = (offset, side, count) =>
    Math.max(0, Math.min(count - 1, Math.floor(offset / side * count)));
  return [inside(event.clientY - box.top, box.height, scene.height),
          inside(event.clientX - box.left, box.width, scene.width)];
}

async function receive(message) { // decoding is asynchronous: an older message must not win
  if (!message) return;
  const turn = ++latest;
  const fresh = message.scene && await pixels(message.scene.cells);
  const shown = message.heat && await pixels(message.heat.map);
  if (turn !== latest && !fresh) return;
  if (fresh) {
    scene = message.scene;
    cells = fresh;
    image.src = scene.image;
    stage.style.aspectRatio = `${scene.width} / ${scene.height}`;
    paint(labels, cells, id => [...(scene.colors[id] ?? [0, 0, 0]), id < scene.colors.length ? 255 : 0]);
    listClasses();
    element.firstElementChild.classList.remove("empty");
  }
  map = message.heat;
  weights = shown;
  element.firstElementChild.classList.toggle("hot", Boolean(map));
  if (map) {
    paint(heat, weights, inferno);
    place(heat, map.box);
    place(frame, map.box);
    frame.hidden = map.box[2] - map.box[0] === scene.height && map.box[3] - map.box[1] === scene.width;
    part("low").textContent = map.low.toPrecision(2);
    part("high").textContent = `${map.high.toPrecision(3)} ${map.unit}`;
  } else frame.hidden = true;
  mark.hidden = !message.at;
  if (message.at) place(mark, [(at = message.at)[0], at[1], at[0] + 1, at[1] + 1]);
  part("caption").textContent = message.caption;
  stage.dataset.turn = turn;
}

stage.addEventListener("pointermove", event => scene && point(...pixelUnder(event), "mouse"));
stage.addEventListener("pointerleave", () => { tip.hidden = cursor.hidden = true; });
stage.addEventListener("blur", () => { tip.hidden = cursor.hidden = true; });
stage.addEventListener("click", event => {
  if (!scene) return;
  const [row, column] = pixelUnder(event);
  trigger("pick", { row, column });
});
stage.addEventListener("keydown", event => {
  if (!scene) return;
  const step = event.shiftKey ? 1 : 8;
  const move = { ArrowUp: [-step, 0], ArrowDown: [step, 0], ArrowLeft: [0, -step], ArrowRight: [0, step] }[event.key];
  if (move) {
    const count = [scene.height, scene.width];
    at = at.map((i, k) => Math.max(0, Math.min(count[k] - 1, i + move[k])));
    point(...at, "keys");
  } else if (event.key === "Enter" || event.key === " ") trigger("pick", { row: at[0], column: at[1] });
  else return;
  event.preventDefault();
});
watch("value", () => receive(props.value));
receive(props.value);
