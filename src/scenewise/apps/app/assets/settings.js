/** What is remembered: theme, opacity and colours in the browser; model, image and pins in the address. */

import { COLORMAPS, drawBar } from "./colors.js";
import { byId, options } from "./dom.js";

const root = document.documentElement;

function read(name, fallback) {
  try {
    return localStorage.getItem(`scenewise.${name}`) ?? fallback;
  } catch {
    return fallback;
  }
}

function write(name, value) {
  try {
    localStorage.setItem(`scenewise.${name}`, value);
  } catch {
    // storage is switched off: nothing is remembered
  }
}

/** Prepare the controls; `redraw()` is called when the colours change. */
export function wireSettings(redraw) {
  const opacity = byId("opacity"), colormap = byId("colormap");
  const apply = () => {
    root.style.setProperty("--opacity", opacity.value);
    drawBar(byId("bar"), colormap.value);
  };
  opacity.value = read("opacity", "0.65");
  options(colormap, COLORMAPS.map(name => [name, name[0].toUpperCase() + name.slice(1)]));
  colormap.value = read("colormap", "magma");
  if (!COLORMAPS.includes(colormap.value)) colormap.value = "magma";
  opacity.addEventListener("input", () => { write("opacity", opacity.value); apply(); });
  colormap.addEventListener("change", () => { write("colormap", colormap.value); apply(); redraw(); });
  byId("theme").addEventListener("click", () => {
    const dark = getComputedStyle(root).colorScheme === "dark"
      || (getComputedStyle(root).colorScheme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
    root.dataset.theme = dark ? "light" : "dark";
    write("theme", root.dataset.theme);
  });
  apply();
}

/** From the image (0) over its classes (1) to attention (2). */
export function wireBlend(changed) {
  const slider = byId("blend"), stops = [...byId("stops").children];
  const apply = () => {
    const value = Number(slider.value);
    root.style.setProperty("--classes", Math.max(0, 1 - Math.abs(value - 1)).toFixed(2));
    root.style.setProperty("--attention", Math.max(0, value - 1).toFixed(2));
    for (const stop of stops) stop.setAttribute("aria-pressed", Math.abs(Number(stop.dataset.blend) - value) < 0.5);
    changed(value);
  };
  slider.addEventListener("input", apply);
  for (const stop of stops) stop.addEventListener("click", () => { slider.value = stop.dataset.blend; apply(); });
  apply();
}

/** The address as {model, compare, image, pins}. */
export function fromAddress() {
  const values = new URLSearchParams(location.hash.slice(1));
  const pins = (values.get("pin") ?? "").split(";").map(text => text.split(",").map(Number))
    .filter(pin => pin.length === 2 && pin.every(part => Number.isInteger(part) && part >= 0));
  return { model: values.get("model"), compare: values.get("compare"), image: values.get("image"), pins };
}

export function toAddress({ model, compare, image, pins }) {
  const parts = [`model=${model}`, compare ? `compare=${compare}` : "", `image=${encodeURIComponent(image)}`,
    pins.length ? `pin=${pins.map(pin => `${pin.row},${pin.column}`).join(";")}` : ""];
  history.replaceState(null, "", `#${parts.filter(Boolean).join("&")}`);
}
