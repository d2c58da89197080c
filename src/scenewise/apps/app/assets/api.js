/** Every request to the server; whatever fails is an ApiError with one sentence. */

export class ApiError extends Error {}

async function request(path, settings = {}) {
  let response;
  try {
    response = await fetch(path, settings);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer; is scenewise app still running?");
  }
  if (response.ok) return response;
  let text = `The server refused this (${response.status}).`;
  try {
    text = (await response.json()).error ?? text;
  } catch {
    // no JSON: the status has to do
  }
  throw new ApiError(text);
}

function address(path, values = {}) {
  const given = Object.entries(values).filter(([, value]) => value !== null && value !== undefined);
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}

export async function json(path, values, signal) {
  return (await request(address(path, values), { signal })).json();
}

/** Keep an image; `file` is a File or a Blob. */
export async function upload(file, name) {
  const headers = { "X-Name": encodeURIComponent(name), "Content-Type": "application/octet-stream" };
  return (await request("/api/images", { method: "POST", body: file, headers })).json();
}

/** A grey PNG as bytes, row by row. */
export async function grey(path, values, signal) {
  const blob = await (await request(address(path, values), { signal })).blob();
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
  return Uint8Array.from({ length: data.length / 4 }, (_, i) => data[4 * i]);
}

/** Segment an image; aborting `signal` stops the work on the server. */
export async function predict(image, model, signal, progress) {
  const response = await request("/api/predict", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ image, model, without: null }),
    signal,
  });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ;) {
    const { value, done } = await reader.read();
    const lines = (text + (value ?? "")).split("\n");
    text = done ? "" : lines.pop();
    for (const line of lines.filter(Boolean)) {
      const message = JSON.parse(line);
      if (message.error) throw new ApiError(message.error);
      if (message.done) return message.done;
      progress(message.progress);
    }
    if (done) throw new ApiError("The server stopped before the prediction was done.");
  }
}

/** Base64 of little-endian float32 as numbers. */
export function floats(text) {
  const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
}

/** Save what the server sends under the name it gives. */
export async function save(name, values) {
  const response = await request(address(`/api/download/${name}`, values));
  const given = /filename="([^"]+)"/.exec(response.headers.get("content-disposition") ?? "");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await response.blob());
  link.download = given?.[1] ?? name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
