// How long a step of data parallelism takes on N ranks: the step on a clock, and the speed-up against N.
// data: {millions, bytes, bandwidth (GB/s), latency (µs), compute (ms a sample), batch, ranks, buckets, scaling}, the start of each.
// Nine controls have 13 million choices, too many for a table: stepOn mirrors course_utils.data_parallel.cost.step; forward is a third
// of computing, backward two thirds.

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
  const clock = drawing(), curve = drawing(), result = headline(), remark = note();
  const scalings = { weak: "weak: batch per rank stays", strong: "strong: batch in all stays" };
  const read = panel(root, { scaling: "weak", ...data }, {
    scaling: [menu, "scaling", Object.keys(scalings), name => scalings[name]],
    ranks: [slider, "ranks N", RANKS],
    batch: [slider, "batch", [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]],
    millions: [slider, "parameters", [5, 25, 110, 340, 1500, 7000], v => `${v} million`],
    bytes: [menu, "gradients in", [4, 2], v => (v === 4 ? "FP32" : "16 bits")],
    compute: [slider, "computing", [0.1, 0.5, 1, 3, 6, 12, 25, 50, 100, 250], v => `${v} ms a sample`],
    bandwidth: [slider, "link", [0.125, 1.25, 3, 6.25, 12.5, 25, 50, 100, 450], v => `${v} GB/s`],
    latency: [slider, "latency", [1, 3, 10, 30, 100, 300, 1000], v => `${v} µs`],
    buckets: [slider, "buckets", [1, 2, 4, 8, 16, 32, 64, 128]],
  }, paint);
  root.append(clock, result, remark, curve);
  const seconds = t => t >= 1 ? `${t.toPrecision(3)} s` : `${short(1e3 * t)} ms`;

  function paintClock(step, sentence) {
    const width = clear(clock, 84, sentence), left = 66, unit = (width - left - 4) / step.end;
    const block = (row, begin, end, colour) => svg("rect", { x: left + begin * unit, y: 4 + 30 * row, width: Math.max((end - begin) * unit, 0.5),
      height: 24, fill: colour, "fill-opacity": 0.5, stroke: colour, "stroke-width": step.buckets.length > 32 ? 0.3 : 1 });
    clock.append(text(0, 20, "computes"), text(0, 50, "sends"), block(0, 0, step.forward, "#888888"));
    step.buckets.forEach(([full, start, end], k) => {
      const begin = k ? step.buckets[k - 1][0] : step.forward, colour = COLOURS[k % COLOURS.length];
      clock.append(block(0, begin, full, colour));
      if (end > start) clock.append(block(1, start, end, colour));
    });
    if (step.forward * unit > 60) clock.append(text(left + step.forward * unit / 2, 20, "forward", "middle"));
    clock.append(text(left, 78, "0"), text(width - 4, 78, seconds(step.end), "end"));
  }

  function paintCurve(s) {
    const width = clear(curve, 238, `Speed-up against the number of ranks: ${RANKS.map(n => `${n}: ${speedUp(n, s).toPrecision(2)}`).join(", ")}`);
    const left = 44, right = width - 44, top = 30, floor = 200, x = n => left + Math.log2(n) / 10 * (right - left);
    const y = v => floor - Math.log2(Math.max(v, 0.5) / 0.5) / 11 * (floor - top);
    const path = value => RANKS.map((n, k) => `${k ? "L" : "M"}${x(n).toFixed(1)} ${y(value(n)).toFixed(1)}`).join("");
    curve.append(text(0, 14, "speed-up"), text((left + right) / 2, 234, "ranks N", "middle"));
    for (const n of [1, 4, 16, 64, 256, 1024]) curve.append(text(x(n), floor + 16, n, "middle"), text(left - 8, y(n) + 4, n, "end"),
      svg("path", { d: `M${left} ${y(n)}H${right}`, stroke: "#888888", "stroke-opacity": 0.3 }));
    curve.append(svg("path", { d: path(n => n), stroke: "#888888", "stroke-dasharray": "5 4", fill: "none" }), text(right + 6, y(1024) + 4, "ideal"),
      svg("path", { d: path(n => speedUp(n, s)), stroke: "#0072B2", "stroke-width": 2.5, fill: "none" }),
      svg("circle", { cx: x(s.ranks), cy: y(speedUp(s.ranks, s)), r: 6, fill: "#D55E00" }));
  }

  function paint() {
    const s = read(), step = stepOn(s.ranks, s), gain = speedUp(s.ranks, s);
    const batch = s.scaling === "weak" ? `global batch ${s.batch * s.ranks}` : `${short(s.batch / s.ranks)} of ${s.batch} samples on each rank` +
      (s.batch < s.ranks ? " (less than one: no real run)" : "");
    result.textContent = `speed-up ${gain.toPrecision(3)} on ${s.ranks} rank${s.ranks > 1 ? "s" : ""}: ${(100 * gain / s.ranks).toFixed(1)} % of ideal`;
    remark.textContent = `step ${seconds(step.end)}, of which ${seconds(step.end - step.computed)} waiting for the link; ${batch}`;
    paintClock(step, `One step on a clock: ${remark.textContent}`);
    paintCurve(s);
  }

  paint();
}
