// Learning rate over a run: warm-up and cosine whose peak is tied to the global batch; the area bounds how far Adam moves a weight.
// data: {ranks, per_rank, epochs, images, lr, lr_batch, warmup}. Mirrors course_utils.vision.assembly.make_optimizer.

const STD = 0.02, FINE_TUNING = 1e-5; // what a weight begins with; the constant rate it is compared with

function roundHalfEven(x) { // as Python rounds
  const down = Math.floor(x), rest = x - down;
  return rest > 0.5 || (rest === 0.5 && down % 2) ? down + 1 : down;
}

function planOf(s) { // {batch, stepsPerEpoch, steps, peak, warmup}
  const batch = s.ranks * s.per_rank, stepsPerEpoch = Math.floor(s.images / batch), steps = stepsPerEpoch * s.epochs;
  const warmup = s.warmup ? Math.min(Math.max(1, roundHalfEven(s.warmup * steps)), steps - 1) : 0;
  return { batch, stepsPerEpoch, steps, peak: s.lr * (s.tied ? batch / s.lr_batch : 1), warmup };
}

function rateAt(step, plan) {
  if (step < plan.warmup) return plan.peak * step / plan.warmup;
  return 0.5 * plan.peak * (1 + Math.cos(Math.PI * Math.min(1, (step - plan.warmup) / (plan.steps - plan.warmup))));
}

function areaOf(plan) {
  let area = 0;
  for (let step = 0; step < plan.steps; step++) area += rateAt(step, plan);
  return area;
}

function mount(root, data) {
  const WIDTH = 640, LEFT = 70, RIGHT = WIDTH - 12, TOP = 24, BOTTOM = 210;
  const controls = element("div", { className: "controls" });
  const read = {
    ranks: valueSlider(controls, "processes", [1, 2, 4, 8, 16, 32, 64], data.ranks),
    per_rank: valueSlider(controls, "images on each", [8, 16, 32, 64, 128, 256], data.per_rank),
    epochs: valueSlider(controls, "epochs", [1, 2, 5, 10, 20, 50, 100, 200, 300], data.epochs),
    lr: valueSlider(controls, `rate for a batch of ${data.lr_batch}`, [1e-5, 3e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3], data.lr, v => v.toExponential(0)),
    warmup: valueSlider(controls, "warm-up", [0, 0.02, 0.05, 0.1, 0.2, 0.3], data.warmup, v => `${Math.round(100 * v)} %`),
  };
  const tied = element("input", { type: "checkbox", checked: true });
  controls.append(element("label", {}, tied, " rate grows with the batch"));
  const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} 250`, role: "img", fill: "currentColor" });
  drawing.style.cssText = "width:100%;height:auto;display:block";
  const result = element("output", { className: "value" }), note = element("output", { className: "note" });
  result.setAttribute("aria-live", "polite");
  root.append(controls, result, note, drawing);
  const text = (x, y, words, anchor = "start") => svg("text", { x, y, "text-anchor": anchor, "font-size": 12 }, words);

  function paint() {
    const s = { ...data, ...Object.fromEntries(Object.entries(read).map(([name, value]) => [name, value()])), tied: tied.checked };
    const plan = planOf(s), area = areaOf(plan), plain = plan.steps * FINE_TUNING, top = Math.max(plan.peak, FINE_TUNING);
    const x = t => LEFT + t / plan.steps * (RIGHT - LEFT), y = v => BOTTOM - v / top * (BOTTOM - TOP);
    result.textContent = `a weight moves by at most ${area.toPrecision(3)}: ${Number((area / STD).toPrecision(3))} times what it began with`;
    note.textContent = `global batch ${plan.batch}, ${plan.stepsPerEpoch} steps an epoch, ${plan.steps} steps, warm-up ${plan.warmup}, largest rate ` +
      `${plan.peak.toPrecision(2)}; a constant 1e-5 would come to ${plain.toPrecision(3)}`;
    const points = Array.from({ length: 241 }, (_, k) => plan.steps * k / 240);
    const line = points.map((t, k) => `${k ? "L" : "M"}${x(t).toFixed(1)} ${y(rateAt(t, plan)).toFixed(1)}`).join("");
    drawing.replaceChildren(
      text(LEFT, 12, "learning rate", "middle"), text((LEFT + RIGHT) / 2, 246, "step", "middle"),
      text(LEFT - 6, y(top) + 4, top.toPrecision(2), "end"), text(LEFT - 6, BOTTOM + 4, "0", "end"),
      text(LEFT, BOTTOM + 16, "0", "middle"), text(RIGHT, BOTTOM + 16, String(plan.steps), "end"),
      svg("path", { d: `M${LEFT} ${BOTTOM}H${RIGHT}`, stroke: "#888888" }),
      svg("path", { d: `${line}L${RIGHT} ${BOTTOM}L${LEFT} ${BOTTOM}Z`, fill: "#0072B2", "fill-opacity": 0.25 }),
      svg("path", { d: line, fill: "none", stroke: "#0072B2", "stroke-width": 2.5 }),
      svg("path", { d: `M${LEFT} ${y(FINE_TUNING)}H${RIGHT}`, stroke: "#D55E00", "stroke-dasharray": "6 4", "stroke-width": 2 }));
    drawing.setAttribute("aria-label", `Learning rate over the run: ${note.textContent}`);
  }

  controls.addEventListener("input", paint);
  paint();
}
