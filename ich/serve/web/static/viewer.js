// Shows the slices of a study on a canvas. The server sends HU; the window is applied here.
"use strict";

const viewer = document.getElementById("viewer");
const stage = document.getElementById("stage");
const canvas = document.getElementById("picture");
const place = document.getElementById("place");
const strip = document.getElementById("strip");
const cursor = document.getElementById("cursor");
const where = document.getElementById("where");
const corner = document.getElementById("corner");
const shown = document.getElementById("shown");
const problem = document.getElementById("problem");
const fields = { center: document.getElementById("center"), width: document.getElementById("width") };
const presets = [...document.querySelectorAll(".preset")];
const slices = [...document.getElementById("slices").children].map((each) => each.dataset);
const near = document.getElementById("near");
const context = canvas.getContext("2d");

const MOST_PIXELS = 100e6; // of the slices in memory: 200 MB
const AHEAD = 4; // slices that are loaded before they are wanted
const PIXELS_PER_SLICE = 14; // that a finger moves

let number = 0;
let windowed = { center: 0, width: 1 };
let image = null; // what the canvas shows
const loaded = new Map(); // number -> promise of a slice, the least recently used first

function load(wanted) {
  let found = loaded.get(wanted);
  if (found) loaded.delete(wanted);
  else found = fetchSlice(wanted).catch((error) => { loaded.delete(wanted); throw error; });
  loaded.set(wanted, found);
  return found;
}

async function fetchSlice(wanted) {
  const answer = await fetch(`${viewer.dataset.address}${wanted}?reading=${viewer.dataset.reading}`);
  if (answer.status === 401) location.reload();
  if (!answer.ok) throw new Error(await answer.text());
  const { headers } = answer;
  const slice = {
    rows: Number(headers.get("X-Rows")),
    columns: Number(headers.get("X-Columns")),
    aspect: Number(headers.get("X-Aspect")),
    knowsSides: headers.get("X-Sides") === "known",
    hu: readHu(await answer.arrayBuffer()),
  };
  const most = Math.max(2 * AHEAD + 2, Math.floor(MOST_PIXELS / slice.hu.length));
  for (const old of loaded.keys()) {
    if (loaded.size <= most) break;
    loaded.delete(old);
  }
  return slice;
}

function readHu(buffer) {
  const isLittle = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;
  if (isLittle) return new Int16Array(buffer);
  const view = new DataView(buffer);
  return Int16Array.from({ length: buffer.byteLength / 2 }, (_, n) => view.getInt16(2 * n, true));
}

function draw() {
  if (!image) return;
  const { rows, columns, hu } = image;
  if (canvas.width !== columns || canvas.height !== rows) {
    canvas.width = columns;
    canvas.height = rows;
  }
  canvas.style.aspectRatio = `${columns} / ${rows * image.aspect}`;
  stage.classList.toggle("knows-sides", image.knowsSides);
  const picture = context.createImageData(columns, rows);
  const gray = new Uint32Array(picture.data.buffer);
  const low = windowed.center - windowed.width / 2;
  const scale = 255 / windowed.width;
  for (let n = 0; n < hu.length; n += 1) {
    const value = Math.max(0, Math.min(255, Math.round((hu[n] - low) * scale)));
    gray[n] = 0xff000000 | (value << 16) | (value << 8) | value;
  }
  context.putImageData(picture, 0, 0);
}

function describe() {
  const { shown: prob, position, key, out } = slices[number - 1];
  const at = position === undefined ? "position unknown" : `${position} mm`;
  const more = [key ? "key slice" : "", out ? `left out: ${out}` : ""].filter(Boolean);
  return { first: `${number} / ${slices.length}`, rest: [at, `probability ${prob}`, ...more].join(" · ") };
}

function go(wanted) {
  const next = Math.max(1, Math.min(slices.length, Math.round(wanted)));
  if (next === number) return;
  number = next;
  place.value = number;
  cursor.setAttribute("x", number - 1);
  const { first, rest } = describe();
  corner.textContent = first;
  where.textContent = `Slice ${first.replace("/", "of")} · ${rest}`;
  place.setAttribute("aria-valuetext", where.textContent);
  show(number);
}

async function show(wanted) {
  try {
    const slice = await load(wanted);
    if (wanted !== number) return;
    image = slice;
    problem.hidden = true;
    draw();
    const sides = image.knowsSides ? "the patient's left is on the right" : "the sides are unknown";
    canvas.setAttribute("aria-label", `${where.textContent}; ${sides}`);
    viewer.dataset.drawn = wanted;
  } catch (error) {
    if (wanted !== number) return;
    image = null;
    context.clearRect(0, 0, canvas.width, canvas.height);
    problem.textContent = error.message || "The slice cannot be loaded.";
    problem.hidden = false;
    return;
  }
  for (let step = 1; step <= AHEAD; step += 1) {
    for (const near of [wanted + step, wanted - step]) {
      if (near >= 1 && near <= slices.length && !loaded.has(near)) load(near).catch(() => {});
    }
  }
}

function setWindow(center, width) {
  windowed = { center: Math.round(center), width: Math.max(1, Math.round(width)) };
  fields.center.value = windowed.center;
  fields.width.value = windowed.width;
  shown.textContent = `C ${windowed.center}  W ${windowed.width}`;
  for (const each of presets) {
    const same = Number(each.dataset.center) === windowed.center && Number(each.dataset.width) === windowed.width;
    each.setAttribute("aria-pressed", String(same));
  }
  draw();
}

function choosePreset(each) {
  if (each) setWindow(Number(each.dataset.center), Number(each.dataset.width));
}

function followAddress() {
  const found = /^#slice-(\d+)$/.exec(location.hash);
  if (!found) return false;
  go(Number(found[1]));
  viewer.scrollIntoView({ block: "nearest" });
  stage.focus({ preventScroll: true });
  return true;
}

const STEPS = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 5, PageDown: -5 };

stage.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key in STEPS) go(number + STEPS[event.key]);
  else if (event.key === "Home") go(1);
  else if (event.key === "z") near.click();
  else if (event.key === "End") go(slices.length);
  else if (presets[Number(event.key) - 1]) choosePreset(presets[Number(event.key) - 1]);
  else return;
  event.preventDefault();
});

let turned = 0;
stage.addEventListener("wheel", (event) => {
  if (event.ctrlKey) return;
  event.preventDefault();
  turned += event.deltaMode === 0 ? event.deltaY : event.deltaY * 40;
  const steps = Math.trunc(turned / 40);
  turned -= steps * 40;
  if (steps) go(number - steps);
}, { passive: false });

const pointers = new Map();
let moved = 0;
stage.addEventListener("pointerdown", (event) => {
  if (event.pointerType === "mouse" && event.button !== 0) return;
  pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  stage.setPointerCapture(event.pointerId);
  moved = 0;
});
stage.addEventListener("pointermove", (event) => {
  const before = pointers.get(event.pointerId);
  if (!before) return;
  const right = event.clientX - before.x;
  const down = event.clientY - before.y;
  pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  if (event.pointerType === "mouse" || pointers.size > 1) {
    const step = Math.max(0.5, windowed.width / 250) / pointers.size;
    setWindow(windowed.center - down * step, windowed.width + right * step);
    return;
  }
  moved -= down;
  const steps = Math.trunc(moved / PIXELS_PER_SLICE);
  moved -= steps * PIXELS_PER_SLICE;
  if (steps) go(number + steps);
});
for (const name of ["pointerup", "pointercancel"]) {
  stage.addEventListener(name, (event) => pointers.delete(event.pointerId));
}

place.addEventListener("input", () => go(Number(place.value)));
strip.addEventListener("click", (event) => {
  const box = strip.getBoundingClientRect();
  go(1 + Math.floor(((event.clientX - box.left) / box.width) * slices.length));
});
for (const each of presets) each.addEventListener("click", () => choosePreset(each));
for (const field of Object.values(fields)) {
  field.addEventListener("change", () => setWindow(Number(fields.center.value), Number(fields.width.value)));
}
near.addEventListener("click", () => {
  near.setAttribute("aria-pressed", String(stage.classList.toggle("is-near")));
});
window.addEventListener("hashchange", followAddress);
for (const link of document.querySelectorAll('a[href^="#slice-"]')) {
  link.addEventListener("click", () => { if (link.hash === location.hash) followAddress(); });
}

// The form of a correction takes the slice that is shown.
for (const button of document.querySelectorAll(".add")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    const { label } = button.dataset;
    const input = document.querySelector(`input[name="slices_${label}"]`);
    const listed = input.value.split(",").map((each) => each.trim()).filter(Boolean);
    if (!listed.includes(String(number))) input.value = [...listed, number].join(", ");
    document.getElementById(`label_${label}`).value = "1";
    document.querySelector('input[name="verdict"][value="correct"]').checked = true;
  });
}

choosePreset(presets[0]);
if (!followAddress()) go(Number(viewer.dataset.first));
