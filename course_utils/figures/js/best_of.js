// What the best of several equally good models seems to be worth, when the set that reports is the one that chose.
// data: {images, candidates, accuracy: percent}. A measured accuracy is the true one plus noise of standard error
// sqrt(p (1 - p) / n); the best of k is too high by that error times the mean of the largest of k standard normals.

function largestOfNormals(k) { // mean of the largest of k independent standard normal numbers; 0 for one of them
  const STEP = 0.002, END = 9;
  let below = 0, mean = 0; // probability of a number below x; the sum so far
  let last = Math.exp(-END * END / 2) / Math.sqrt(2 * Math.PI);
  for (let x = -END; x < END; x += STEP) {
    const density = Math.exp(-((x + STEP) ** 2) / 2) / Math.sqrt(2 * Math.PI);
    const next = below + (last + density) / 2 * STEP;
    mean += (x + STEP / 2) * (next ** k - below ** k);
    [below, last] = [next, density];
  }
  return Math.max(0, mean);
}

function standardError(accuracy, images) {
  return Math.sqrt(accuracy * (1 - accuracy) / images);
}

function mount(root, data) {
  const WIDTH = 640, HEIGHT = 220, LEFT = 52, RIGHT = 620, TOP = 16, FLOOR = 180;
  const slider = (min, max, step, value) => element("input", { type: "range", min, max, step, value });
  const images = slider(2, 5, 0.05, Math.log10(data.images)), candidates = slider(1, 100, 1, data.candidates);
  const accuracy = slider(50, 99.5, 0.5, data.accuracy);
  const texts = [0, 1, 2].map(() => element("span", { className: "value" }));
  const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", fill: "currentColor" });
  drawing.style.cssText = "width:100%;height:auto;display:block";
  const result = element("output", { className: "value" }), note = element("output", { className: "note" });
  root.append(
    element("div", { className: "controls" },
      element("label", {}, "test images ", images, " ", texts[0]),
      element("label", {}, "models or epochs to choose from ", candidates, " ", texts[1]),
      element("label", {}, "true accuracy of each ", accuracy, " ", texts[2])),
    drawing, result, note);
  result.setAttribute("aria-live", "polite");
  const largest = Array.from({ length: 100 }, (_, i) => largestOfNormals(i + 1));
  const x = k => LEFT + (k - 1) / 99 * (RIGHT - LEFT);

  function paint() {
    const n = Math.round(10 ** images.value), k = Number(candidates.value), p = accuracy.value / 100;
    [n.toLocaleString("en"), String(k), `${Number(accuracy.value).toFixed(1)} %`].forEach((text, i) => {
      texts[i].textContent = text;
      [images, candidates, accuracy][i].setAttribute("aria-valuetext", text);
    });
    const error = 100 * standardError(p, n), points = largest.map(mean => error * mean);
    const top = Math.max(1, Math.ceil(points[99]));
    const y = value => FLOOR - value / top * (FLOOR - TOP);
    drawing.replaceChildren();
    for (let i = 0; i <= 4; i++) {
      const value = top * i / 4;
      drawing.append(
        svg("line", { x1: LEFT, x2: RIGHT, y1: y(value), y2: y(value), stroke: "currentColor", opacity: 0.15 }),
        svg("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end", "font-size": 12 }, value.toFixed(2)));
    }
    for (const tick of [1, 25, 50, 75, 100]) {
      drawing.append(svg("text", { x: x(tick), y: FLOOR + 18, "text-anchor": "middle", "font-size": 12 }, String(tick)));
    }
    drawing.append(
      svg("text", { x: (LEFT + RIGHT) / 2, y: HEIGHT - 4, "text-anchor": "middle", "font-size": 12 }, "models to choose from"),
      svg("text", { x: LEFT, y: 11, "font-size": 12 }, "points too high"),
      svg("polyline", { points: points.map((value, i) => `${x(i + 1)},${y(value)}`).join(" "), fill: "none",
        stroke: "#0072B2", "stroke-width": 2.5 }),
      svg("circle", { cx: x(k), cy: y(points[k - 1]), r: 6, fill: "#D55E00" }));
    const best = 100 * p + points[k - 1];
    result.textContent = `the best of ${k} seems to be ${best.toFixed(2)} %, ${points[k - 1].toFixed(2)} points too high`;
    note.textContent = `One accuracy on ${n.toLocaleString("en")} images has a standard error of ${error.toFixed(2)} points. ` +
      "Models that err on the same images, as the epochs of one run do, are fewer than their number.";
    drawing.setAttribute("aria-label", `Points by which the best accuracy is too high, against the number of models: ${result.textContent}`);
  }
  for (const control of [images, candidates, accuracy]) control.addEventListener("input", paint);
  paint();
}
