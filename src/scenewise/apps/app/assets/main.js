/** The page: what is shown follows from the image, the models and the pins; the rest are modules. */

import * as api from "./api.js";
import { showChannels, wireChannels } from "./channels.js";
import { byId, debounced } from "./dom.js";
import { addFrame, markFrame, notice, wireFiles } from "./files.js";
import { Stage } from "./image.js";
import { showBlocks, showModels, wireMenus } from "./menus.js";
import { compared, sentence, showCards, showLegend, showPins, wireTabs } from "./panel.js";
import { Pins } from "./pins.js";
import { pointer } from "./pointer.js";
import { fromAddress, toAddress, wireBlend, wireSettings } from "./settings.js";
import { latest, View } from "./view.js";

const root = document.documentElement;
const page = { models: [], image: null, views: [], effects: [], blend: 2, tab: "pixel", pins: new Pins(refresh) };
const { pins } = page;
const colormap = () => byId("colormap").value;
const does = pointer(page, drawPinned, (view, answer) => view.stage.drawMap(answer, colormap()));
let work = new AbortController(), effectWork = new AbortController();

// What a pin shows: at once where it is, then its attention, then whether that matters.
function refresh(rests) {
  effectWork.abort();
  page.effects = [];
  for (const view of page.views) {
    if (!pins.at) view.answer = null;
    if (pins.at) drawMarks(view);
    else drawPinned(view);
  }
  if (rests) toAddress({ model: byId("model").value, compare: byId("compare").value, image: page.image.id, pins: pins.all });
  if (pins.at) look();
  if (pins.at && rests) weigh();
  draw();
}

const look = latest(async () => {
  const at = pins.at && { ...pins.at }, of = page.image;
  if (!at) return;
  for (const view of page.views.filter(each => !each.waiting)) {
    view.problem = null;
    const answer = await view.look(of, at).catch(error => void (view.problem = error.message));
    if (of !== page.image || pins.at?.row !== at.row || pins.at?.column !== at.column) return;
    view.answer = answer ?? null;
    drawPinned(view);
  }
  draw();
});

const weigh = debounced(200, async () => {
  effectWork = new AbortController();
  const { signal } = effectWork, of = page.image;
  if (!pins.at) return;
  const at = { ...pins.at };
  for (const [k, view] of page.views.entries()) {
    if (view.waiting || !view.block) continue;
    const effect = await view.effect(of, at, signal).catch(error => ({ error: error.message }));
    if (signal.aborted || of !== page.image) return;
    page.effects[k] = effect;
    draw();
  }
});

function drawMarks(view) {
  view.stage.drawMarks(pins.all, pins.active, view.answer?.places ?? [], view.answer?.box);
}

function drawPinned(view) {
  view.stage.drawMap(view.answer, colormap());
  drawMarks(view);
}

function draw() {
  const { views, effects } = page;
  showPins(pins);
  showCards(views, pins.at, effects, { changes });
  if (!views.some(view => view.waiting)) say(views[1] ? compared(views, pins.at) : sentence(views[0], pins.at, effects[0]));
  if (page.tab === "channels" && !views[0].waiting) showChannels(current());
}

function say(text) {
  if (byId("caption").textContent !== text) byId("caption").textContent = text;
}

// Differences: without the block, or between the models.
async function changes(view) {
  view.changing = !view.changing;
  byId("differences").checked = false;
  const other = view.changing ? await view.without(page.image).catch(error => void notice(error.message, true)) : null;
  view.stage.drawChanges(view.labels, other, view.colors);
  draw();
}

function differences() {
  const [first, second] = page.views, shown = byId("differences").checked;
  if (!second || first.waiting || second.waiting) return;
  first.changing = second.changing = false;
  first.stage.drawChanges(second.labels, shown ? first.labels : null, first.colors);
  second.stage.drawChanges(first.labels, shown ? second.labels : null, second.colors);
  draw();
}

// Images and models.
async function open(info, places = []) {
  page.image = info;
  pins.set(places);
  markFrame(info.id);
  await start();
}

/** Show the image and segment it with each model that has not yet done so. */
async function start() {
  work.abort();
  work = new AbortController();
  const { signal } = work, { image, views } = page;
  root.dataset.state = "busy";
  for (const view of views) {
    view.stage.reserve(image);
    empty(view);
  }
  byId("cards").replaceChildren();
  say(`Segmenting ${image.name} …`);
  try {
    await Promise.all(views.map(view => view.stage.open(image)));
    for (const view of views) await view.predict(image, signal);
  } catch (error) {
    if (signal.aborted) return;
    say(error.message);
    notice(error.message, true);
    return;
  }
  if (views[0].summary.note) notice(views[0].summary.note);
  showLegend(views[0]);
  differences();
  refresh(true);
  root.dataset.state = "ready";
}

function empty(view) {
  view.forget();
  view.stage.drawChanges(null, null);
  view.stage.drawMap(null);
  view.stage.drawMarks([], -1, []);
}

function cancel() {
  work.abort();
  say("Cancelled. Choose an image to segment it.");
  root.dataset.state = "ready";
}

function setModels() {
  const { models, views } = page;
  const chosen = [models[byId("model").value], models[byId("compare").value || -1]].filter(Boolean);
  while (views.length > chosen.length) views.pop().stage.remove();
  chosen.forEach((model, k) => {
    if (!views[k]) views.push(new View(new Stage(byId("stages"), `Image, model ${k + 1}`, does), model, cancel));
    else if (views[k].model !== model) views[k].use(model);
    views[k].stage.name.textContent = model.title;
    views[k].stage.name.hidden = chosen.length < 2;
  });
  byId("stages").dataset.count = chosen.length;
  byId("differences-field").hidden = chosen.length < 2;
  document.title = `${chosen.map(model => model.title).join(" and ")} – Scenewise`;
  showBlocks(views[0]);
}

const current = () => ({ view: page.views[0], image: page.image, at: pins.at });

/** The image of the address, or the first sample where it is no longer kept. */
async function first(id) {
  try {
    return await api.json(`/api/images/${encodeURIComponent(id)}/info`);
  } catch (error) {
    if (id === "sample-0") throw error;
    notice(`${error.message} This is the first sample instead.`, true);
    return first("sample-0");
  }
}

function wire() {
  wireSettings(() => page.views.forEach(drawPinned));
  wireBlend(value => { page.blend = value; });
  wireTabs(name => { page.tab = name; draw(); });
  wireMenus(page, { models: () => { setModels(); start(); }, block: () => refresh(true), differences });
  wireChannels(current);
  wireFiles(open);
}

async function main() {
  const asked = fromAddress();
  const [models, info] = await Promise.all([api.json("/api/models"), first(asked.image ?? "sample-0")]);
  page.models = models;
  showModels(models, asked);
  setModels();
  for (const view of page.views) view.stage.reserve(info);
  wire();
  document.body.classList.add("sized");
  await open(info, asked.pins.filter(([row, column]) => row < info.height && column < info.width));
  const samples = await api.json("/api/samples");
  for (const sample of samples) addFrame(sample, open);
  markFrame(page.image.id);
  if (page.image === info && !pins.at) {
    pins.set([samples.find(({ id }) => id === info.id)?.at ?? [info.height >> 1, info.width >> 1]]);
    refresh(true);
  }
  root.dataset.started = "";
}

main().catch(error => {
  say(error.message);
  notice(error.message, true);
});
