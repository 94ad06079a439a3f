// How long a step of data parallelism takes on N ranks: the step on a clock, and the speed-up against N.
// data: {millions, bytes, bandwidth (GB/s), latency (µs), compute (ms a sample), batch, ranks, buckets}.
// Mirrors course_utils.data_parallel.cost.step; forward is a third of computing, backward two thirds.

const COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"];
const RANKS = Array.from({ length: 11 }, (_, k) => 2 ** k);

function stepOn(ranks, s) { // seconds: {forward, computed, buckets: [[full, start, end]], end}
  const compute = s.compute * 1e-3 * s.batch / (s.scaling === "strong" ? ranks : 1), forward = compute / 3;
  const size = s.millions * 1e6 * s.bytes / s.buckets, alpha = s.latency * 1e-6, beta = 1e-9 / s.bandwidth;
  const transfer = ranks > 1 ? 2 * (ranks - 1) * (alpha + size / ranks * beta) : 0, buckets = [];
  let free = 0;
  for (let k = 0; k < s.buckets; k++) {
    const full = forward + (compute - forward) * (k + 1) / s.buckets, start = Math.max(free, full);
    free = start + transfer;
    buckets.push([full, start, free]);
  }
  return { forward, computed: compute, buckets, end: Math.max(compute, free) };
}

function speedUp(ranks, s) { // samples per second, relative to one rank
  return (s.scaling === "strong" ? 1 : ranks) * stepOn(1, s).end / stepOn(ranks, s).end;
}

function mount(root, data) {
  const WIDTH = 640, controls = element("div", { className: "controls" });
  const read = {
    scaling: menu(controls, "scaling", { weak: "weak: batch per rank stays", strong: "strong: batch in all stays" }, data.scaling ?? "weak"),
    ranks: valueSlider(controls, "ranks N", RANKS, data.ranks),
    batch: valueSlider(controls, "batch", [1, 2, 4, 8, 16, 32, 64, 128, 256, 512], data.batch),
    millions: valueSlider(controls, "parameters", [5, 25, 110, 340, 1500, 7000], data.millions, v => `${v} million`),
    bytes: menu(controls, "gradients in", { 4: "FP32", 2: "16 bits" }, data.bytes),
    compute: valueSlider(controls, "computing", [0.1, 0.5, 1, 3, 6, 12, 25, 50, 100, 250], data.compute, v => `${v} ms a sample`),
    bandwidth: valueSlider(controls, "link", [0.125, 1.25, 3, 6.25, 12.5, 25, 50, 100, 450], data.bandwidth, v => `${v} GB/s`),
    latency: valueSlider(controls, "latency", [1, 3, 10, 30, 100, 300, 1000], data.latency, v => `${v} µs`),
    buckets: valueSlider(controls, "buckets", [1, 2, 4, 8, 16, 32, 64, 128], data.buckets),
  };
  const clock = svg("svg", { role: "img", fill: "currentColor" }), curve = svg("svg", { role: "img", fill: "currentColor" });
  for (const drawing of [clock, curve]) drawing.style.cssText = "width:100%;height:auto;display:block";
  const result = element("output", { className: "value" }), note = element("output", { className: "note" });
  result.setAttribute("aria-live", "polite");
  root.append(controls, clock, result, note, curve);
  const seconds = t => t >= 1 ? `${t.toPrecision(3)} s` : `${Number((1e3 * t).toPrecision(3))} ms`;
  const text = (x, y, words, anchor = "start") => svg("text", { x, y, "text-anchor": anchor, "font-size": 12 }, words);

  function paintClock(step) {
    const LEFT = 66, unit = (WIDTH - LEFT - 4) / step.end;
    clock.setAttribute("viewBox", `0 0 ${WIDTH} 84`);
    const bar = (row, begin, end, colour) => svg("rect", { x: LEFT + begin * unit, y: 4 + 30 * row, width: Math.max((end - begin) * unit, 0.5),
      height: 24, fill: colour, "fill-opacity": 0.5, stroke: colour, "stroke-width": step.buckets.length > 32 ? 0.3 : 1 });
    clock.replaceChildren(text(0, 20, "computes"), text(0, 50, "sends"), bar(0, 0, step.forward, "#888888"));
    step.buckets.forEach(([full, start, end], k) => {
      const begin = k ? step.buckets[k - 1][0] : step.forward, colour = COLOURS[k % COLOURS.length];
      clock.append(bar(0, begin, full, colour));
      if (end > start) clock.append(bar(1, start, end, colour));
    });
    if (step.forward * unit > 60) clock.append(text(LEFT + step.forward * unit / 2, 20, "forward", "middle"));
    clock.append(text(LEFT, 78, "0"), text(WIDTH - 4, 78, seconds(step.end), "end"));
  }

  function paintCurve(s) {
    const LEFT = 66, RIGHT = WIDTH - 70, TOP = 30, BOTTOM = 200, x = n => LEFT + Math.log2(n) / 10 * (RIGHT - LEFT);
    const y = v => BOTTOM - Math.log2(Math.max(v, 0.5) / 0.5) / 11 * (BOTTOM - TOP);
    const path = value => RANKS.map((n, k) => `${k ? "L" : "M"}${x(n).toFixed(1)} ${y(value(n)).toFixed(1)}`).join("");
    curve.setAttribute("viewBox", `0 0 ${WIDTH} 234`);
    curve.replaceChildren(text(0, 12, "speed-up"), text((LEFT + RIGHT) / 2, 232, "ranks N", "middle"));
    for (const n of [1, 4, 16, 64, 256, 1024]) curve.append(text(x(n), BOTTOM + 16, n, "middle"), text(LEFT - 8, y(n) + 4, n, "end"),
      svg("path", { d: `M${LEFT} ${y(n)}H${RIGHT}`, stroke: "#888888", "stroke-opacity": 0.3 }));
    curve.append(svg("path", { d: path(n => n), stroke: "#888888", "stroke-dasharray": "5 4", fill: "none" }), text(RIGHT + 6, y(1024) + 4, "ideal"));
    curve.append(svg("path", { d: path(n => speedUp(n, s)), stroke: "#0072B2", "stroke-width": 2.5, fill: "none" }));
    curve.append(svg("circle", { cx: x(s.ranks), cy: y(speedUp(s.ranks, s)), r: 6, fill: "#D55E00" }));
  }

  function paint() {
    const s = Object.fromEntries(Object.entries(read).map(([name, value]) => [name, name === "scaling" ? value() : Number(value())]));
    const step = stepOn(s.ranks, s), gain = speedUp(s.ranks, s), exposed = step.end - step.computed;
    result.textContent = `speed-up ${gain.toPrecision(3)} on ${s.ranks} rank${s.ranks > 1 ? "s" : ""}: ${(100 * gain / s.ranks).toFixed(1)} % of ideal`;
    const words = s.scaling === "strong" ? `${Number((s.batch / s.ranks).toPrecision(3))} of ${s.batch} samples on each rank` +
      (s.batch < s.ranks ? " (less than one: no real run)" : "") : `global batch ${s.batch * s.ranks}`;
    note.textContent = `step ${seconds(step.end)}, of which ${seconds(exposed)} waiting for the link; ${words}`;
    paintClock(step);
    paintCurve(s);
    clock.setAttribute("aria-label", `One step on a clock: ${note.textContent}`);
    curve.setAttribute("aria-label", `Speed-up against the number of ranks: ${RANKS.map(n => `${n}: ${speedUp(n, s).toPrecision(2)}`).join(", ")}`);
  }

  controls.addEventListener("input", paint);
  paint();
}
