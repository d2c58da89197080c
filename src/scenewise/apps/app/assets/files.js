/** Images in: chosen, dropped, pasted or photographed; and the film strip of all of them. */

import * as api from "./api.js";
import { byId, el } from "./dom.js";

/** Prepare all ways in; `open(info)` is called with an image that the server keeps. */
export function wireFiles(open) {
  const take = files => addAll([...files], open);
  byId("choose").addEventListener("click", () => byId("files").click());
  byId("files").addEventListener("change", event => {
    take(event.target.files);
    event.target.value = "";
  });
  addEventListener("paste", event => {
    if (event.clipboardData.files.length) take(event.clipboardData.files);
  });
  for (const name of ["dragenter", "dragover"]) addEventListener(name, event => {
    event.preventDefault();
    document.body.classList.add("dragging");
  });
  addEventListener("dragleave", event => event.relatedTarget || document.body.classList.remove("dragging"));
  addEventListener("drop", event => {
    event.preventDefault();
    document.body.classList.remove("dragging");
    take(event.dataTransfer.files);
  });
  byId("camera").addEventListener("click", () => photograph(take));
}

/** Upload one after another; the first that is kept is opened, what is refused is explained. */
async function addAll(files, open) {
  byId("notices").replaceChildren();
  let opened = false;
  for (const file of files) {
    try {
      const info = await api.upload(file, file.name || "image.png");
      addFrame(info, open);
      if (info.note) notice(info.note);
      if (!opened) open(info);
      opened = true;
    } catch (error) {
      notice(error.message, true);
    }
  }
}

/** A sentence beside the drop zone; it stays until it is closed or other files come. */
export function notice(text, bad = false) {
  const node = el("p", { class: bad ? "notice bad" : "notice", role: bad ? "alert" : "status" }, el("span", {}, text),
    el("button", { class: "close", type: "button", "aria-label": "Close this message", onclick: () => node.remove() }, "×"));
  byId("notices").append(node);
}

/** A frame of the film strip. */
export function addFrame({ id, name }, open) {
  const chosen = async () => open(await api.json(`/api/images/${encodeURIComponent(id)}/info`));
  const button = el("button", { type: "button", "data-image": id, title: name, onclick: () => chosen().catch(error => notice(error.message, true)) },
    el("img", { src: `/api/images/${id}/thumbnail`, alt: name, width: 96, height: 64, loading: "lazy" }));
  byId("film").append(el("li", {}, button));
}

/** Mark the frame that is shown. */
export function markFrame(id) {
  for (const button of byId("film").querySelectorAll("button")) {
    const current = button.dataset.image === id;
    if (current) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
    if (current) byId("film").scrollTo({ left: button.offsetLeft - byId("film").offsetLeft - 120 });
  }
}

async function photograph(take) {
  const dialog = byId("dialog");
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 } } });
  } catch {
    return notice("There is no camera here, or the browser may not use it.", true);
  }
  const video = el("video", { autoplay: true, playsinline: true, muted: true, "aria-label": "Camera" });
  video.srcObject = stream;
  const shoot = () => {
    const canvas = el("canvas", { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob(blob => take([new File([blob], "photo.jpg", { type: "image/jpeg" })]), "image/jpeg", 0.92);
    dialog.close();
  };
  dialog.replaceChildren(el("h2", {}, "Take a photo"), video, el("p", { class: "row" },
    el("button", { class: "button primary", type: "button", onclick: shoot }, "Take photo"),
    el("button", { class: "button", type: "button", onclick: () => dialog.close() }, "Close")));
  dialog.addEventListener("close", () => stream.getTracks().forEach(track => track.stop()), { once: true });
  dialog.showModal();
}
