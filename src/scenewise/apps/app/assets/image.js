/** One image on the page: its pixels, and over them classes, attention, differences and pins. */

import { heat } from "./colors.js";
import { el } from "./dom.js";

const SMALL = 512; // pixels of width below which an image is enlarged by its nearest pixels
const FINE = 640; // pixels that an enlarged map has about

export class Stage {
  /** @param {Object} does what `pointer()` gives */
  constructor(host, label, does) {
    const layer = name => el("canvas", { class: `layer ${name}`, "aria-hidden": true });
    [this.base, this.classes, this.edges, this.map, this.changes] =
      ["base", "classes", "edges", "map", "changes"].map(layer);
    this.marks = el("div", { class: "marks", "aria-hidden": true });
    this.tip = el("output", { class: "tip", hidden: true, "aria-live": "off" });
    this.name = el("p", { class: "name", hidden: true });
    this.note = el("div", { class: "working", hidden: true });
    this.node = el("div", {
      class: "stage", tabindex: 0, role: "application",
      "aria-label": `${label}. Arrow keys move the pin, with Shift by ten pixels; N adds a pin; Escape clears.`,
    }, this.base, this.classes, this.edges, this.map, this.changes, this.marks, this.name, this.tip, this.note);
    host.append(el("div", { class: "cell" }, this.node));
    this.node.dataset.turn = "0";
    this.node.addEventListener("pointermove", event => this.size && does.hover(...this.pixel(event), event));
    this.node.addEventListener("pointerleave", () => { this.tip.hidden = true; does.leave(); });
    this.node.addEventListener("pointerdown", event => this.size && does.down(...this.pixel(event), event));
    this.node.addEventListener("pointerup", event => this.size && does.up(...this.pixel(event), event));
    this.node.addEventListener("pointercancel", () => does.cancel());
    this.node.addEventListener("keydown", event => this.size && does.key(event));
  }

  remove() {
    this.node.parentElement.remove();
  }

  /** Show an image; its layers are emptied. */
  async open(info) {
    for (const canvas of [this.classes, this.edges, this.map, this.changes]) canvas.width = canvas.height = 0;
    if (this.shown === info.id) return;
    this.shown = info.id;
    const source = new Image();
    this.node.classList.add("empty");
    source.src = `/api/images/${info.id}`;
    await source.decode();
    if (this.shown !== info.id) return; // another image came meanwhile
    this.base.width = info.width;
    this.base.height = info.height;
    this.base.getContext("2d").drawImage(source, 0, 0, info.width, info.height);
    this.node.classList.remove("empty");
  }

  /** Take the room that an image needs, before it is here. */
  reserve(info) {
    this.size = [info.height, info.width];
    document.documentElement.style.setProperty("--ratio", info.width / info.height);
    this.node.closest("#stages").classList.toggle("wide", info.width > 1.8 * info.height);
    this.node.classList.toggle("small", info.width < SMALL);
  }

  /** The pixel under an event. */
  pixel(event) {
    const box = this.node.getBoundingClientRect();
    const inside = (offset, side, count) => Math.max(0, Math.min(count - 1, Math.floor(offset / side * count)));
    return [inside(event.clientY - box.top, box.height, this.size[0]), inside(event.clientX - box.left, box.width, this.size[1])];
  }

  /** Colour the labels; lines where two classes meet stay over the attention. */
  drawClasses(labels, colors) {
    const [height, width] = this.size, fine = width < SMALL ? 4 : 1;
    const lines = new ImageData(fine * width, fine * height);
    const line = (x, y) => lines.data.set([255, 255, 255, 255], 4 * (y * fine * width + x));
    paint(this.classes, this.size, i => colors[labels[i]] ? [...colors[labels[i]], 255] : [0, 0, 0, 0]);
    for (let i = 0; i < labels.length; i++) {
      const x = fine * (i % width), y = fine * Math.floor(i / width);
      const right = (i + 1) % width && labels[i + 1] !== labels[i];
      const below = i + width < labels.length && labels[i + width] !== labels[i];
      for (let k = 0; k < fine; k++) {
        if (right) line(x + fine - 1, y + k);
        if (below) line(x + k, y + fine - 1);
      }
    }
    put(this.edges, lines);
  }

  /** Draw a map over `box` [top, left, bottom, right]; null removes it. */
  drawMap(answer, colormap) {
    if (answer) {
      const { values, height, width, box } = answer;
      const zoom = Math.max(1, Math.min(8, Math.floor(FINE / width)));
      put(this.map, heat(values, height, width, zoom, colormap));
      this.place(this.map, box);
    }
    this.node.classList.toggle("mapped", Boolean(answer));
    this.node.dataset.turn = Number(this.node.dataset.turn) + 1;
  }

  /** Where `other` differs from `labels`, in its own colours; the rest is dimmed. Null removes it. */
  drawChanges(labels, other, colors) {
    this.node.classList.toggle("changed", Boolean(other));
    if (other) paint(this.changes, this.size, i => labels[i] === other[i] ? [12, 14, 18, 190] : [...(colors[other[i]] ?? [255, 255, 255]), 255]);
  }

  /** Pins, and numbered regions. */
  drawMarks(pins, active, regions, box) {
    const ring = ({ row, column }, k) => this.mark(row, column, el("b", { class: "region" }, String(k + 1)));
    const pin = ({ row, column, color }, k) => this.mark(row, column,
      el("b", { class: k === active ? "pin active" : "pin", style: { "--pin": color } }));
    const frame = box && (box[2] - box[0] < this.size[0] || box[3] - box[1] < this.size[1]);
    const nodes = [...regions.map(ring), ...pins.map(pin)];
    if (frame) nodes.unshift(this.place(el("span", { class: "frame" }), box));
    this.marks.replaceChildren(...nodes);
  }

  mark(row, column, node) {
    node.style.top = `${100 * (row + 0.5) / this.size[0]}%`;
    node.style.left = `${100 * (column + 0.5) / this.size[1]}%`;
    return node;
  }

  place(node, [top, left, bottom, right]) {
    const [height, width] = this.size;
    const sides = { top: top / height, left: left / width, height: (bottom - top) / height, width: (right - left) / width };
    for (const [side, part] of Object.entries(sides)) node.style[side] = `${100 * part}%`;
    return node;
  }

  /** Words beside a pixel. */
  say(row, column, ...words) {
    const [height, width] = this.size;
    this.tip.replaceChildren(...words);
    this.mark(row, column, this.tip);
    this.tip.classList.toggle("leftward", column > width / 2);
    this.tip.classList.toggle("upward", row > height / 2);
    this.tip.hidden = false;
  }

  /** Progress 0..1 with a button to cancel it, or null: nothing runs. */
  working(progress, cancel) {
    this.note.hidden = progress === null;
    if (progress === null) return this.note.replaceChildren();
    if (!this.note.firstChild) {
      const label = el("label", {}, el("span", {}), el("progress", { max: 1, "aria-label": "Segmenting" }));
      const stop = event => { event.stopPropagation(); cancel(); };
      this.note.append(label, el("button", { class: "button", type: "button", onclick: stop, onpointerdown: event => event.stopPropagation(), onpointerup: event => event.stopPropagation() }, "Cancel"));
    }
    this.note.querySelector("span").textContent = `Segmenting ${Math.round(100 * progress)} %`;
    this.note.querySelector("progress").value = progress;
  }
}

function put(canvas, image) {
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function paint(canvas, [height, width], color) {
  const image = new ImageData(width, height);
  for (let i = 0; i < height * width; i++) image.data.set(color(i), 4 * i);
  put(canvas, image);
}
