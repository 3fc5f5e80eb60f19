"use strict";
// Shows each curve's latency at the percentile under the pointer.
const readout = document.getElementById("readout");
const hidden = new Set();

function visible(plot) {
  return plot.getClientRects().length > 0;
}

function at(curve, inverse) {
  const xs = curve.inverse;
  if (inverse > xs[xs.length - 1]) return null;
  let i = 1;
  while (i < xs.length - 1 && xs[i] < inverse) i++;
  const span = Math.log(xs[i] / xs[i - 1]);
  const share = span > 0 ? Math.log(inverse / xs[i - 1]) / span : 1;
  const from = curve.ms[i - 1];
  return from * Math.pow(curve.ms[i] / from, Math.min(Math.max(share, 0), 1));
}

function show(reading, inverse) {
  const percentile = 100 * (1 - 1 / inverse);
  const digits = Math.max(0, Math.ceil(Math.log10(inverse)) - 1);
  readout.replaceChildren();
  const title = document.createElement("div");
  title.textContent = inverse > 1 ? `p${percentile.toFixed(digits)}` : "Hover over the plot to read values";
  readout.append(title);
  for (const curve of reading.curves) {
    const button = document.createElement("button");
    const ms = inverse > 1 ? at(curve, inverse) : null;
    const key = document.createElement("span");
    key.className = "key";
    key.style.background = `var(--c${curve.colour})`;
    button.append(key, ms === null ? curve.name : `${curve.name}: ${ms.toPrecision(3)} ms`);
    button.setAttribute("aria-pressed", String(!hidden.has(curve.name)));
    button.onclick = () => {
      if (!hidden.delete(curve.name)) hidden.add(curve.name);
      dim();
      show(reading, inverse);
    };
    readout.append(button);
  }
}

function dim() {
  for (const plot of document.querySelectorAll(".plot")) {
    for (const curve of JSON.parse(plot.dataset.reading).curves) {
      document.getElementById(curve.id).classList.toggle("off", hidden.has(curve.name));
    }
  }
}

for (const plot of document.querySelectorAll(".plot")) {
  const reading = JSON.parse(plot.dataset.reading);
  const svg = plot.querySelector("svg");
  const [left, top, right, bottom] = reading.box;
  const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
  line.setAttribute("stroke", "var(--faint)");
  line.setAttribute("y1", top);
  line.setAttribute("y2", bottom);
  svg.append(line);
  const point = (event) => {
    const place = svg.createSVGPoint();
    place.x = event.clientX;
    place.y = event.clientY;
    const x = place.matrixTransform(svg.getScreenCTM().inverse()).x;
    const share = Math.min(Math.max((x - left) / (right - left), 0.001), 1);
    line.setAttribute("x1", left + share * (right - left));
    line.setAttribute("x2", left + share * (right - left));
    show(reading, Math.pow(reading.inverse, share));
  };
  plot.addEventListener("pointermove", point);
  plot.addEventListener("pointerdown", point);
  if (visible(plot)) show(reading, 1);
}
