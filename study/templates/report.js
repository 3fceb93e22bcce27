"use strict";
document.documentElement.classList.add("js");

// Tables: a heading sorts the body by its column; the foot, which sums it up, stays.
const NUMBER = /^[<+-]?[\d.]/;
const ABSENT = "–";

function sortBy(table, column, descending) {
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [row.cells[column].textContent.trim(), row]);
  const present = rows.filter(([text]) => text !== ABSENT && text !== "");
  const absent = rows.filter(([text]) => text === ABSENT || text === "");
  const numeric = present.every(([text]) => NUMBER.test(text));
  const number = (text) => parseFloat(text.replace("<", ""));
  present.sort(([a], [b]) => {
    const order = numeric ? number(a) - number(b) : a.localeCompare(b, "en", { numeric: true });
    return descending ? -order : order;
  });
  body.append(...[...present, ...absent].map(([, row]) => row));
}

for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const descending = heading.getAttribute("aria-sort") === "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sortBy(table, column, descending);
    });
  });
}

// Frames: a slider goes through four pictures; half-way, two lie over each other.
const HEADINGS = ["Frame", "Label", "Prediction", "Errors"];

function show(frame, place) {
  const first = Math.floor(place);
  frame.querySelectorAll(".stack img").forEach((image, i) => {
    image.style.opacity = i === first ? 1 : i === first + 1 ? place - first : 0;
  });
  say(frame.querySelector("input[type=range]"), place);
}

function say(slider, place) {
  const first = Math.floor(place);
  const second = place > first ? ` and ${HEADINGS[first + 1].toLowerCase()}` : "";
  slider.value = place;
  slider.setAttribute("aria-valuetext", HEADINGS[first] + second);
  slider.nextElementSibling.textContent = HEADINGS[first] + second;
}

const frames = [...document.querySelectorAll(".frame")];
const pictured = frames.filter((frame) => frame.querySelector(".stack"));
for (const frame of pictured) {
  const slider = frame.querySelector("input[type=range]");
  slider.addEventListener("input", () => show(frame, Number(slider.value)));
  show(frame, 0);
}
const all = document.getElementById("all");
if (all) {
  all.addEventListener("input", () => {
    say(all, Number(all.value));
    pictured.forEach((frame) => show(frame, Number(all.value)));
  });
  say(all, 0);
}

// Frames: which, and in which order; of a class, only those in which it occurs.
const control = (id) => document.getElementById(id);

function choose() {
  const [order, name, fold] = ["order", "class", "fold"].map((id) => control(id).value);
  const onlyPictured = control("pictured")?.checked;
  const label = name ? control("class").selectedOptions[0].textContent : "";
  const score = (frame) => (name ? frame.dataset.iou.split(" ")[name] : frame.dataset.miou);
  const compare = {
    worst: (a, b) => score(a) - score(b),
    best: (a, b) => score(b) - score(a),
    name: (a, b) => a.dataset.name.localeCompare(b.dataset.name, "en", { numeric: true }),
  }[order];
  for (const frame of frames) {
    const text = score(frame);
    frame.hidden =
      (fold !== "" && frame.dataset.fold !== fold) ||
      (name !== "" && text === "") ||
      (onlyPictured && !frame.querySelector(".stack"));
    frame.querySelector(".score").textContent = `${label ? `${label} IoU` : "mIoU"} ${text || ABSENT}`;
  }
  const ordered = [...frames].sort((a, b) => (score(a) === "") - (score(b) === "") || compare(a, b));
  document.querySelector(".gallery").append(...ordered);
  const shown = frames.filter((frame) => !frame.hidden).length;
  control("shown").textContent = `${shown} frame${shown === 1 ? "" : "s"} shown`;
}

const form = document.querySelector(".controls");
if (form) {
  form.addEventListener("input", choose);
  form.addEventListener("submit", (event) => event.preventDefault());
  choose();
}

// Paper folds nothing.
const folded = () => [...document.querySelectorAll("details:not([open])")];
let opened = [];
window.addEventListener("beforeprint", () => {
  opened = folded();
  opened.forEach((one) => (one.open = true));
});
window.addEventListener("afterprint", () => opened.forEach((one) => (one.open = false)));
