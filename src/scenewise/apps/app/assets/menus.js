/** The menus: models, blocks, rounds of criss-cross attention, differences and downloads. */

import * as api from "./api.js";
import { byId, el, options } from "./dom.js";
import { notice } from "./files.js";

/** @param {Object} does models(), block(), differences() are called when a choice changes */
export function wireMenus(page, does) {
  for (const name of ["model", "compare"]) byId(name).addEventListener("change", does.models);
  byId("block").addEventListener("change", ({ target }) => {
    const [view] = page.views;
    view.show(view.model.blocks.find(block => block.id === target.value));
    showBlocks(view);
    does.block();
  });
  byId("round").addEventListener("change", ({ target }) => {
    page.views[0].round = Number(target.value);
    does.block();
  });
  byId("differences").addEventListener("change", does.differences);
  const menus = [...document.querySelectorAll("details.menu")];
  addEventListener("pointerdown", ({ target }) => menus.forEach(menu => menu.contains(target) || (menu.open = false)));
  for (const menu of menus) menu.addEventListener("keydown", event => {
    if (event.key !== "Escape") return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
  byId("download").addEventListener("toggle", () => downloads(page));
}

/** The models of the page; a second one only where there is one. */
export function showModels(models, { model, compare }) {
  const pairs = models.map(({ title }, k) => [k, title]);
  options(byId("model"), pairs, models[model] ? model : "0");
  options(byId("compare"), [["", "Compare with …"], ...pairs], models[compare] ? compare : "");
  byId("compare").hidden = models.length < 2;
}

/** The blocks of the first model that have a map, and their rounds. */
export function showBlocks(view) {
  const maps = view.model.blocks.filter(block => block.maps), rounds = view.block?.rounds ?? [];
  byId("block-field").hidden = maps.length < 2;
  options(byId("block"), maps.map(block => [block.id, block.title]), view.block?.id);
  byId("round-field").hidden = rounds.length < 2;
  options(byId("round"), rounds.map(n => [n, `step ${n}`]), view.round);
  byId("stops").lastElementChild.textContent = view.block ? "Attention" : "Gradient";
}

function downloads({ views: [view], pins: { at }, image }) {
  const pinned = at && view.block;
  const files = [["labels.png", "Labels, PNG", true], ["overlay.png", "Overlay, PNG", true],
    ["figure.pdf", "Figure of the pin, PDF", pinned], ["attention.json", "Attention of the pin, JSON", pinned]];
  const asked = { image: image.id, model: view.model.id, block: view.block?.id, row: at?.row, column: at?.column };
  byId("downloads").replaceChildren(...files.map(([name, text, can]) => el("button", {
    type: "button", disabled: !can || view.waiting,
    onclick: () => api.save(name, asked).then(() => { byId("download").open = false; }, error => notice(error.message, true)),
  }, text)));
}
