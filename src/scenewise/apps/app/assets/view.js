/** A model's view of the image: labels, confidence, and what a pixel attends to. */

import * as api from "./api.js";

const KEPT = 300; // maps
const NEAR = 0.1; // of the longer side: regions closer than this are one place

export class View {
  /** @param {function} cancel stops the prediction that runs */
  constructor(stage, model, cancel) {
    Object.assign(this, { stage, cancel, kept: new Map() });
    this.use(model);
  }

  /** Show another model. */
  use(model) {
    this.model = model;
    this.colors = model.classes.map(({ color }) => color);
    this.show(model.blocks.find(block => block.maps) ?? null);
    this.forget();
  }

  /** Show another block, after all its rounds. */
  show(block) {
    this.block = block;
    this.round = block?.rounds?.at(-1) ?? null;
  }

  /** Forget what was computed for an image. */
  forget() {
    this.labels = this.confidence = this.summary = this.answer = this.problem = null;
    this.changing = false;
  }

  get waiting() {
    return !this.labels;
  }

  /** Segment an image. */
  async predict(image, signal) {
    const slow = setTimeout(() => this.stage.working(0, this.cancel), 250); // quick work shows no progress
    try {
      this.summary = await api.predict(image.id, this.model.id, signal, progress => {
        if (progress > 0) this.stage.working(progress, this.cancel);
      });
      const asked = { image: image.id, model: this.model.id };
      [this.labels, this.confidence] = await Promise.all([
        api.grey("/api/labels", asked, signal), api.grey("/api/confidence", asked, signal)]);
    } finally {
      clearTimeout(slow);
      this.stage.working(null);
    }
    this.stage.drawClasses(this.labels, this.colors);
  }

  /** Class and confidence of a pixel: [id, 0..1]. */
  at(row, column) {
    const i = row * this.stage.size[1] + column;
    return this.labels ? [this.labels[i], this.confidence[i] / 255] : null;
  }

  /** The name of a class. */
  called(id) {
    return this.model.classes[id]?.name ?? "unlabelled";
  }

  /** What a pixel attends to; of a model without attention, its gradient. */
  async look(image, { row, column }) {
    const place = { image: image.id, model: this.model.id, row, column };
    const asked = this.block ? { ...place, block: this.block.id, round: this.round } : place;
    const key = JSON.stringify(asked);
    if (!this.kept.has(key)) {
      const answer = await api.json(this.block ? "/api/attention" : "/api/gradient", asked);
      if (this.kept.size >= KEPT) this.kept.delete(this.kept.keys().next().value);
      this.kept.set(key, { ...answer, values: api.floats(answer.times), places: merged(answer.regions, this.stage.size) });
    }
    return this.kept.get(key);
  }

  /** The pixel with the block and without it; null for a model without attention. */
  async effect(image, { row, column }, signal) {
    if (!this.block) return null;
    return api.json("/api/effect", { image: image.id, model: this.model.id, block: this.block.id, row, column }, signal);
  }

  /** The labels without the block. */
  async without(image) {
    return api.grey("/api/labels", { image: image.id, model: this.model.id, without: this.block.id });
  }
}

/** Regions close to each other and of one class as one place, so that a sign is not listed five times. */
function merged(regions, size) {
  const near = NEAR * Math.max(...size), places = [];
  for (const { row, column, class: label, share } of regions) {
    const place = places.find(other => other.class === label && other.parts.some(part => Math.hypot(part.row - row, part.column - column) < near));
    if (place) place.parts.push({ row, column, share });
    else places.push({ class: label, parts: [{ row, column, share }] });
  }
  const middle = (parts, side, sum) => Math.round(parts.reduce((total, part) => total + part[side] * part.share, 0) / sum);
  return places.map(({ class: label, parts }) => {
    const share = parts.reduce((sum, part) => sum + part.share, 0);
    return { class: label, share, row: middle(parts, "row", share), column: middle(parts, "column", share) };
  }).sort((a, b) => b.share - a.share);
}

/** Runs one request at a time; of those that come meanwhile only the last one. */
export function latest(call) {
  let running = false, next = null;
  return async function ask(...values) {
    if (running) return void (next = values);
    running = true;
    try {
      await call(...values);
    } finally {
      running = false;
      const following = next;
      next = null;
      if (following) ask(...following);
    }
  };
}
