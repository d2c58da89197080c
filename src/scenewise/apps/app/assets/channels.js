/** The strongest channels of a block, each with the class it speaks for; a click shows one large. */

import * as api from "./api.js";
import { byId, el, options, swatch } from "./dom.js";

const COUNT = 12;
let side = "after", shown = null, asked = "";

/** Prepare the controls; `current()` gives the view, the image and the pin. */
export function wireChannels(current) {
  byId("channel-block").addEventListener("change", () => showChannels(current()));
  byId("sides").addEventListener("click", ({ target }) => {
    if (!target.dataset.side) return;
    side = target.dataset.side;
    for (const button of byId("sides").children) button.setAttribute("aria-pressed", button.dataset.side === side);
    draw();
  });
}

/** Fetch and draw; nothing is fetched twice in a row. */
export async function showChannels({ view, image, at }) {
  const select = byId("channel-block"), ids = view.model.blocks.map(block => block.id);
  if (!ids.length) {
    options(select, []);
    shown = asked = null;
    return byId("grid").replaceChildren(el("p", { class: "lead" }, `${view.model.title} has no attention block.`));
  }
  if (!ids.includes(select.value)) {
    const channel = view.model.blocks.find(block => block.kind === "channel");
    options(select, view.model.blocks.map(block => [block.id, block.title]), (channel ?? view.model.blocks[0]).id);
  }
  const place = view.summary?.window && at ? { row: at.row, column: at.column } : {};
  const values = { image: image.id, model: view.model.id, block: select.value, count: COUNT, ...place };
  if (asked === JSON.stringify(values)) return;
  asked = JSON.stringify(values);
  const mine = asked;
  byId("grid").replaceChildren(el("p", { class: "lead" }, "Loading the channels …"));
  try {
    const channels = await api.json("/api/channels", values);
    if (mine !== asked) return;
    shown = { view, channels };
    draw();
  } catch (error) {
    if (mine !== asked) return;
    asked = "";
    byId("grid").replaceChildren(el("p", { class: "lead", role: "alert" }, error.message));
  }
}

function draw() {
  if (!shown) return;
  const { view, channels } = shown;
  byId("grid").replaceChildren(...channels.map(channel => el("button", {
    class: "channel", type: "button", onclick: () => enlarge(view, channel),
    title: "Show it large",
  }, el("img", { src: channel[side], alt: "" }),
  el("span", {}, swatch(view.colors[channel.class]), view.called(channel.class)),
  el("small", {}, `channel ${channel.channel}`))));
}

function enlarge(view, channel) {
  const dialog = byId("dialog");
  const figure = name => el("figure", {}, el("img", { src: channel[name], alt: `Channel ${channel.channel} ${name} the block` }),
    el("figcaption", {}, name === "before" ? "Before the block" : "After the block"));
  dialog.replaceChildren(
    el("h2", {}, `Channel ${channel.channel}`),
    el("p", { class: "lead" }, `Highest on “${view.called(channel.class)}”. Bright is high; both share one scale.`),
    figure("before"), figure("after"),
    el("button", { class: "button primary", type: "button", onclick: () => dialog.close() }, "Close"));
  dialog.showModal();
}
