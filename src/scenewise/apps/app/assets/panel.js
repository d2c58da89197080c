/** The side panel: why a pixel has its class, in bars and sentences. */

import { byId, el, percent, swatch, times } from "./dom.js";

const BARS = 5;
const LEAST = 0.005; // the smallest share with a bar

/** A row of buttons, one for each pin. */
export function showPins(pins) {
  const button = ({ row, column, color }, k) => el("button", {
    class: "chip", type: "button", "aria-pressed": k === pins.active, onclick: () => pins.choose(k),
    "aria-label": `Pin ${k + 1} at ${row}, ${column}`, title: "Row, column",
  }, el("i", { class: "dot", style: { "background-color": color } }), `${row}, ${column}`);
  const clear = el("button", { class: "chip", type: "button", onclick: () => pins.clear() }, "Clear");
  byId("pins").replaceChildren(...pins.all.map(button), ...(pins.all.length ? [clear] : []));
}

/** The classes of the image with their shares. */
export function showLegend(view) {
  const lines = (view.summary?.shares ?? []).map(part => el("li", {}, swatch(view.colors[part.class]),
    el("span", {}, view.called(part.class)), el("b", {}, percent(part.share))));
  byId("legend").replaceChildren(...lines);
}

/** A card for each view; without a pin, an invitation. */
export function showCards(views, at, effects, does) {
  const nodes = !at ? [el("p", { class: "lead" }, "Click a pixel of the image to see what it attends to.")]
    : views.map((view, k) => card(view, at, effects[k], views.length > 1, does));
  byId("cards").replaceChildren(...nodes);
}

function card(view, at, effect, titled, does) {
  const found = view.at(at.row, at.column);
  if (!found) return el("div", { class: "card" });
  const [label, confidence] = found;
  return el("article", { class: "card" },
    titled ? el("p", { class: "eyebrow" }, view.model.title) : null,
    el("h2", { class: "verdict" }, swatch(view.colors[label] ?? [0, 0, 0]), view.called(label),
      el("small", {}, `${percent(confidence)} sure`)),
    ...(view.answer ? attended(view) : [el("p", { class: "lead" }, view.problem ?? "Looking …")]),
    ...(view.block && view.answer ? matters(view, effect, does) : []));
}

function attended(view) {
  const { shares, places } = view.answer;
  const heading = view.block ? "It attends to" : "Its score is sensitive to";
  const bars = shares.filter((part, k) => k === 0 || part.share >= LEAST).slice(0, BARS).map(part => el("li", {},
    el("span", { class: "what" }, swatch(view.colors[part.class]), view.called(part.class)),
    el("span", { class: "track" }, el("span", { class: "fill", style: { width: `${100 * part.share}%`, "background-color": `rgb(${view.colors[part.class]})` } })),
    el("b", {}, percent(part.share)),
    el("small", {}, `${times(part.times)}×`)));
  const spots = places.map((region, k) => el("li", {},
    el("b", { class: "number" }, String(k + 1)), view.called(region.class), el("b", {}, percent(region.share))));
  return [
    el("h3", {}, heading), el("ul", { class: "bars" }, ...bars),
    ...(spots.length ? [el("h3", {}, "Strongest places"), el("ol", { class: "spots" }, ...spots)]
      : [el("p", { class: "lead" }, "No place stands out: it is spread nearly evenly.")]),
  ];
}

function matters(view, effect, does) {
  const heading = el("h3", {}, "Does it matter?");
  if (!effect) return [heading, el("p", { class: "lead" }, "Predicting without the block …")];
  if (effect.error) return [heading, el("p", { class: "lead" }, effect.error)];
  const decides = effect.class !== effect.class_without;
  const badge = decides ? "It decides here" : effect.hardly ? "It hardly matters here" : "It moves the scores";
  const side = (words, label, confidence) => el("div", { class: "side" }, el("small", {}, words),
    el("strong", {}, swatch(view.colors[label] ?? [0, 0, 0]), view.called(label)), el("small", {}, `${percent(confidence)} sure`));
  const cells = effect.scores.map(part => el("tr", {}, el("th", { scope: "row" }, view.called(part.class)),
    el("td", {}, percent(part.with)), el("td", {}, percent(part.without))));
  return [
    heading,
    el("p", { class: `badge ${decides ? "decides" : effect.hardly ? "hardly" : "moves"}` }, badge),
    el("div", { class: "sides" }, side("With the block", effect.class, effect.confidence),
      el("span", { class: "arrow", "aria-hidden": true }, "→"),
      side("Without it", effect.class_without, effect.confidence_without)),
    el("p", { class: "effect" }, effect.sentence),
    el("p", { class: "row" }, el("button", { class: "button", type: "button", "aria-pressed": view.changing ?? false, onclick: () => does.changes(view) },
      view.changing ? "Hide the changes" : "Show what changes"),
    el("small", {}, `${percent(effect.changed)} of the image changes class`)),
    el("details", {}, el("summary", {}, "Scores of the classes"), el("table", {},
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Class"), el("th", { scope: "col" }, "With"), el("th", { scope: "col" }, "Without"))),
      el("tbody", {}, ...cells))),
  ];
}

/** One line that says what is seen. */
export function sentence(view, at, effect) {
  const found = at && view.at(at.row, at.column);
  if (!found) return view.labels ? "Click any pixel to see what it attends to." : "";
  const [label, confidence] = found, start = `“${view.called(label)}”, ${percent(confidence)} sure.`;
  if (!view.answer) return start;
  const top = view.answer.shares[0];
  const verb = view.block ? "It attends most to" : "Its score is most sensitive to";
  const most = top ? ` ${verb} “${view.called(top.class)}” (${percent(top.share)}, ${times(top.times)} times the average).` : "";
  return `${start}${most}${outcome(view, effect)} Click any other pixel.`;
}

function outcome(view, effect) {
  if (!effect || effect.error) return "";
  if (effect.class !== effect.class_without) return ` Without this attention it would be “${view.called(effect.class_without)}”.`;
  return effect.hardly ? " This block hardly matters here: without it, the class is the same."
    : " Without this attention the class stays the same, but the scores move.";
}

/** The line of two models: what each says, and how much they differ. */
export function compared([first, second], at) {
  const count = first.labels.reduce((sum, label, i) => sum + (label !== second.labels[i]), 0);
  const says = view => `${view.model.title} says “${view.called(view.at(at.row, at.column)[0])}”. `;
  return `${at ? says(first) + says(second) : ""}They differ on ${percent(count / first.labels.length)} of the image. Click any pixel to compare.`;
}

/** Tabs by pointer and arrow keys; `opened` is called with the name of a tab. */
export function wireTabs(opened) {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const open = tab => {
    for (const other of tabs) {
      other.setAttribute("aria-selected", other === tab);
      other.tabIndex = other === tab ? 0 : -1;
      byId(other.getAttribute("aria-controls")).hidden = other !== tab;
    }
    opened(tab.getAttribute("aria-controls"));
  };
  tabs.forEach((tab, k) => {
    tab.addEventListener("click", () => open(tab));
    tab.addEventListener("keydown", event => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = tabs[(k + step + tabs.length) % tabs.length];
      next.focus();
      open(next);
    });
  });
}
