/** Elements from data: text is always text, so no name of a class or file can become markup. */

/**
 * @param {string} tag
 * @param {Object} properties `class`, `style` (object), `on…` handlers, attributes; false is left out
 * @param {...(Node|string)} children
 */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || (value === false && !name.startsWith("aria-"))) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") {
      for (const [key, part] of Object.entries(value)) node.style.setProperty(key, part);
    } else node.setAttribute(name, value === true && !name.startsWith("aria-") ? "" : value);
  }
  node.append(...children.filter(child => child !== null && child !== undefined));
  return node;
}

export const byId = id => document.getElementById(id);

/** Fill a select with `[value, text]` pairs. */
export function options(select, pairs, chosen) {
  select.replaceChildren(...pairs.map(([value, text]) => el("option", { value }, text)));
  if (chosen !== undefined && chosen !== null) select.value = chosen;
}

export const rgb = color => `rgb(${color.join(" ")})`;

export function swatch(color) {
  return el("i", { class: "swatch", style: { "background-color": rgb(color) } });
}

/** 0.9312 -> "93 %"; what is neither 0 nor 1 is not shown as such. */
export function percent(share) {
  const rounded = Math.round(100 * share);
  if (rounded === 0 && share > 0) return "< 1 %";
  if (rounded === 100 && share < 0.9995) return `${(Math.floor(1000 * share) / 10).toFixed(1)} %`;
  return `${rounded} %`;
}

/** 0.53 -> "0.5", 28.4 -> "28". */
export const times = value => (value < 10 ? value.toFixed(1) : Math.round(value).toString());

/** Wait for calm: only the last call within `milliseconds` runs. */
export function debounced(milliseconds, call) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => call(...values), milliseconds);
  };
}
