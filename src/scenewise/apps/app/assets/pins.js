/** The pinned pixels: one is active; pointer and keys move it, the address keeps all. */

const COLORS = ["#ffffff", "#f0a202", "#56b4e9", "#ff7ab8", "#7ddf64"]; // told apart by colour-blind people

export class Pins {
  /** @param {function} changed called with true when the pin rests, false while it is dragged */
  constructor(changed) {
    this.all = [];
    this.active = -1;
    this.changed = changed;
  }

  get at() {
    return this.all[this.active] ?? null;
  }

  /** Move the active pin, or set the first one. */
  move(row, column, rests = true) {
    if (!this.at) return this.add(row, column);
    if (row === this.at.row && column === this.at.column && !rests) return;
    Object.assign(this.at, { row, column });
    this.changed(rests);
  }

  /** One more pin; beyond the fifth the active one moves. */
  add(row, column) {
    const free = COLORS.find(color => !this.all.some(pin => pin.color === color));
    if (!free) return this.move(row, column);
    this.active = this.all.push({ row, column, color: free }) - 1;
    this.changed(true);
  }

  choose(index) {
    this.active = index;
    this.changed(true);
  }

  clear() {
    this.set([]);
    this.changed(true);
  }

  /** Replace all pins silently; `places` are [row, column]. */
  set(places) {
    this.all = places.slice(0, COLORS.length).map(([row, column], k) => ({ row, column, color: COLORS[k] }));
    this.active = this.all.length ? 0 : -1;
  }

  /** The pin within `reach` pixels of a place, or -1. */
  near(row, column, reach) {
    const distances = this.all.map(pin => Math.hypot(pin.row - row, pin.column - column));
    const least = Math.min(...distances);
    return least <= reach ? distances.indexOf(least) : -1;
  }

  /** Arrow keys, N and Escape. Returns whether the key was one of these. */
  key(event, [height, width]) {
    const step = event.shiftKey ? 10 : 1;
    const move = { ArrowUp: [-step, 0], ArrowDown: [step, 0], ArrowLeft: [0, -step], ArrowRight: [0, step] }[event.key];
    const middle = { row: height >> 1, column: width >> 1 }, at = this.at ?? middle;
    const inside = (value, count) => Math.max(0, Math.min(count - 1, value));
    if (move && !this.at) this.add(at.row, at.column);
    else if (move) this.move(inside(at.row + move[0], height), inside(at.column + move[1], width));
    else if (event.key === "n" || event.key === "N") this.add(inside(at.row + 10, height), inside(at.column + 10, width));
    else if (event.key === "Escape") this.clear();
    else return false;
    return true;
  }
}
