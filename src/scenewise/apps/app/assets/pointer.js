/** Pointer and keys over the image, the same for all models, so that their pins are linked. */

import { percent, swatch } from "./dom.js";
import { latest } from "./view.js";

const REACH = 14; // screen pixels around a pin that grab it
const PAUSE = 60; // milliseconds between two previews

/**
 * @param {Object} page `pins`, `views`, `image`, `blend`; read whenever something happens
 * @param {function} drawPinned draws the map of the pin again, after a preview
 * @param {function} drawPreview draws another map
 */
export function pointer(page, drawPinned, drawPreview) {
  const { pins } = page;
  let hovered = null, pressed = false, dragging = false;

  const preview = latest(async () => {
    const place = hovered, of = page.image;
    if (!place) return;
    for (const view of page.views.filter(each => !each.waiting && !each.problem)) {
      const answer = await view.look(of, place).catch(() => null);
      if (answer && hovered && of === page.image) drawPreview(view, answer);
    }
    await new Promise(done => setTimeout(done, PAUSE));
  });

  function reach() {
    return REACH * page.image.width / page.views[0].stage.node.getBoundingClientRect().width;
  }

  function tell(row, column) {
    for (const view of page.views) {
      const found = view.at(row, column);
      if (found) view.stage.say(row, column, swatch(view.colors[found[0]] ?? [0, 0, 0]), `${view.called(found[0])} ${percent(found[1])}`);
    }
  }

  function calm() {
    if (hovered) page.views.forEach(drawPinned);
    hovered = null;
  }

  return {
    hover(row, column, event) {
      if (dragging) return pins.move(row, column, false);
      tell(row, column);
      if (event.pointerType !== "mouse" || page.blend <= 1 || pins.near(row, column, reach()) >= 0) return calm();
      hovered = { row, column };
      preview();
    },
    leave() {
      for (const view of page.views) view.stage.tip.hidden = true;
      calm();
    },
    down(row, column, event) {
      if (event.button !== 0) return;
      pressed = true;
      const index = event.shiftKey ? -1 : pins.near(row, column, reach());
      if (index < 0) return;
      event.currentTarget.setPointerCapture(event.pointerId);
      dragging = true;
      if (index !== pins.active) pins.choose(index);
    },
    up(row, column, event) {
      const [was, moved] = [pressed, dragging];
      pressed = dragging = false;
      if (!was || page.views.some(view => view.waiting)) return;
      hovered = null;
      if (event.shiftKey && !moved) pins.add(row, column);
      else pins.move(row, column);
    },
    cancel() {
      pressed = dragging = false;
    },
    key(event) {
      if (event.ctrlKey || event.metaKey || event.altKey || page.views.some(view => view.waiting)) return;
      if (!pins.key(event, [page.image.height, page.image.width])) return;
      event.preventDefault();
      hovered = null;
      if (pins.at) tell(pins.at.row, pins.at.column);
      else for (const view of page.views) view.stage.tip.hidden = true;
    },
  };
}
