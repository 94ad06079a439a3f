// Pipeline schedules on a clock: choose schedule, ranks, micro-batches, chunks and times; see timeline, bubble, activations.
// data: {schedule, ranks, microBatches, chunks, ratio, transfer}; ratio is backward / forward, half of it for the input and
//   half for the weights; a transfer is in forwards of one rank. Mirrors course_utils.pipeline.recipes and .simulator.

const RECIPES = { naive: "naive", gpipe: "GPipe", one_f_one_b: "1F1B", interleaved: "interleaved 1F1B", zero_bubble_h1: "ZB-H1", zero_bubble_v: "ZB-V" };
const COLOURS = { F: "#0072B2", B: "#E69F00", I: "#D55E00", W: "#009E73" };

function chunksOf(recipe, chunks) { return recipe === "interleaved" ? chunks : recipe === "zero_bubble_v" ? 2 : 1; }

function rankOf(recipe, stage, p) { return recipe === "zero_bubble_v" && stage >= p ? 2 * p - 1 - stage : stage % p; }

function tokens(recipe, p, m, v, rank) { // what a rank does, as [kind, stage]; the n-th of each is micro-batch n
  const list = [], add = (times, ...some) => { for (let i = 0; i < times; i++) list.push(...some); };
  if (recipe === "zero_bubble_v") {
    const down = rank, up = 2 * p - 1 - rank, full = Math.max(m, 2 * p - 1);
    const both = [["I", down], ["W", down], ["F", up], ["I", up], ["W", up]];
    add(2 * (p - rank) - 1, ["F", down]);
    add(rank, ["F", up], ["F", down]);
    add(p - rank, ["F", up], ["I", up], ["W", up]);
    add(full - 2 * p + 1 + rank, ["F", down], ...both);
    add(p - 1 - rank, ...both);
    add(rank, ["I", down], ["I", up]);
    add(p - rank, ["I", down], ["W", down]);
    add(rank, ["W", up]);
    add(rank, ["W", down]);
    return list;
  }
  const total = m * v, group = Math.min(p, m), split = recipe === "zero_bubble_h1", late = split ? rank : 0;
  const ahead = recipe === "naive" ? 0 : recipe === "gpipe" ? m
    : v > 1 ? Math.min(total, (v - 1) * group + 2 * (p - 1 - rank)) : Math.min(m, p - 1 - rank);
  const stage = step => v > 1 ? Math.floor(step / group) % v * p + rank : rank;
  const back = step => v > 1 ? (v - 1 - Math.floor(step / group) % v) * p + rank : rank;
  for (let step = 0; step < total + ahead + late; step++) {
    if (step < total) list.push(["F", stage(step)]);
    if (step >= ahead && step < total + ahead) list.push([split ? "I" : "B", back(step - ahead)]);
    if (split && step >= ahead + late) list.push(["W", back(step - ahead - late)]);
  }
  return list;
}

function pipelineProblem(recipe, p, m, v) { // why the package refuses these sizes; empty when it does not
  if (recipe !== "interleaved" || v === 1 || m % p === 0 || m < p) return "";
  const below = Math.floor(m / p) * p;
  return `interleaved 1F1B cannot deal ${m} micro-batches out to ${p} ranks in groups of ${p}: ` +
    `choose a multiple of ${p}, such as ${below} or ${below + p}`;
}

function simulatePipeline(recipe, p, m, chunks, ratio, transfer) { // spans [rank, kind, stage, micro-batch, start, end] and what follows
  const v = chunksOf(recipe, chunks), last = p * v - 1, times = { F: 1 / v, B: ratio / v, I: ratio / 2 / v, W: ratio / 2 / v };
  const programs = Array.from({ length: p }, (_, rank) => {
    const count = {};
    return tokens(recipe, p, m, v, rank).map(([kind, stage]) => [kind, stage, count[kind + stage] = (count[kind + stage] ?? -1) + 1])
      .filter(action => action[2] < m);
  });
  const end = new Map(), free = Array(p).fill(0), next = Array(p).fill(0), live = Array(p).fill(0), peaks = Array(p).fill(0), spans = [];
  const ready = (rank, kind, stage, batch) => { // when its input is there; Infinity when that is not known yet
    const arrival = (k, s) => (end.get(`${k},${s},${batch}`) ?? Infinity) + (rankOf(recipe, s, p) === rank ? 0 : transfer);
    if (kind === "F") return stage ? arrival("F", stage - 1) : 0;
    if (kind === "W") return arrival("I", stage);
    return Math.max(arrival("F", stage), stage < last ? arrival("I", stage + 1) : 0);
  };
  for (let moving = true; moving;) {
    moving = false;
    for (let rank = 0; rank < p; rank++) for (; next[rank] < programs[rank].length; next[rank]++) {
      const [kind, stage, batch] = programs[rank][next[rank]], start = Math.max(free[rank], ready(rank, kind, stage, batch));
      if (start === Infinity) break;
      moving = true;
      free[rank] = start + times[kind];
      end.set(`${kind === "B" ? "I" : kind},${stage},${batch}`, free[rank]);
      peaks[rank] = Math.max(peaks[rank], live[rank] += { F: 1, B: -1, I: 0, W: -1 }[kind]);
      spans.push([rank, kind, stage, batch, start, free[rank]]);
    }
  }
  const makespan = Math.max(...free), ideal = m * (1 + ratio);
  return { spans, makespan, ideal, fraction: 1 - ideal / makespan, overhead: makespan / ideal - 1, peaks, chunks: v };
}

function mount(root, data) {
  const WIDTH = 640, LEFT = 46, ROW = 25;
  const controls = element("div", { className: "controls" }), select = element("select");
  for (const [value, textContent] of Object.entries(RECIPES)) select.append(element("option", { value, textContent }));
  controls.append(element("label", {}, "schedule ", select));
  const slider = (text, min, max, step, value) => {
    const input = element("input", { type: "range", min, max, step, value }), shown = element("span", { className: "value" });
    controls.append(element("label", {}, text + " ", input, " ", shown));
    return [input, shown];
  };
  const sliders = { p: slider("ranks p", 1, 8, 1, data.ranks), m: slider("micro-batches m", 1, 24, 1, data.microBatches),
    v: slider("chunks v", 1, 4, 1, data.chunks), ratio: slider("backward / forward", 1, 3, 0.5, data.ratio),
    transfer: slider("transfer", 0, 2, 0.25, data.transfer) };
  const hatches = svg("defs", {});
  for (const [kind, path] of [["B", "M-1 5L5-1M3 9L9 3"], ["I", "M3 0V8M7 0V8"], ["W", "M0 2H8M0 6H8"]]) hatches.append(
    svg("pattern", { id: `${root.id}-${kind}`, width: 8, height: 8, patternUnits: "userSpaceOnUse" },
      svg("path", { d: path, stroke: COLOURS[kind], "stroke-width": 1.4 })));
  const drawing = svg("svg", { role: "img", fill: "currentColor" });
  drawing.style.cssText = "width:100%;height:auto;display:block";
  const legend = element("div", { className: "controls" });
  const result = element("output", { className: "value" }), note = element("output", { className: "note" });
  result.setAttribute("aria-live", "polite");
  root.append(controls, drawing, legend, result, note);
  const percent = share => (100 * share).toFixed(1) + " %", round = x => Number(x.toFixed(2)).toString();

  function block(kind, x, y, width, height, tint) {
    const parts = [svg("rect", { x, y, width, height, fill: COLOURS[kind], "fill-opacity": tint, stroke: COLOURS[kind] })];
    if (kind !== "F") parts.push(svg("rect", { x, y: y + height - 5, width, height: 5, fill: `url(#${root.id}-${kind})` }));
    return parts;
  }

  function paint() {
    const recipe = select.value, [p, m, v, ratio, transfer] = ["p", "m", "v", "ratio", "transfer"].map(name => Number(sliders[name][0].value));
    const used = chunksOf(recipe, v), problem = pipelineProblem(recipe, p, m, v);
    sliders.v[0].disabled = recipe !== "interleaved";
    const words = { p, m, v: used, ratio, transfer: transfer + (transfer === 1 ? " forward" : " forwards") };
    for (const [name, [input, shown]] of Object.entries(sliders)) input.setAttribute("aria-valuetext", shown.textContent = words[name]);
    drawing.replaceChildren(hatches);
    legend.replaceChildren();
    if (problem) {
      result.textContent = "no such schedule";
      note.textContent = problem;
      drawing.setAttribute("viewBox", `0 0 ${WIDTH} 1`);
      drawing.setAttribute("aria-label", problem);
      return;
    }
    const run = simulatePipeline(recipe, p, m, v, ratio, transfer), unit = (WIDTH - LEFT - 2) / run.makespan;
    drawing.setAttribute("viewBox", `0 0 ${WIDTH} ${p * ROW + 24}`);
    for (let rank = 0; rank < p; rank++) drawing.append(svg("text", { x: 0, y: rank * ROW + 16, "font-size": 12 }, `rank ${rank}`));
    for (const [rank, kind, stage, batch, start, end] of run.spans) {
      const x = LEFT + start * unit, width = (end - start) * unit, y = rank * ROW + 1, chunk = stage >= p ? Math.floor(stage / p) : 0;
      drawing.append(...block(kind, x, y, width, ROW - 4, 0.45 - 0.33 * chunk / Math.max(used - 1, 1)));
      const label = [kind + batch, String(batch)].find(text => 6.4 * text.length <= width);
      if (label) drawing.append(svg("text", { x: x + width / 2, y: y + 13, "text-anchor": "middle", "font-size": 10.5 }, label));
    }
    const tick = [1, 2, 5, 10, 20, 50, 100, 200].find(t => run.makespan / t <= 12);
    for (let t = 0; t <= run.makespan; t += tick) drawing.append(svg("text",
      { x: LEFT + t * unit, y: p * ROW + 16, "text-anchor": t ? t > run.makespan - tick / 2 ? "end" : "middle" : "start", "font-size": 11 }, t || "0 forwards"));
    const names = { F: "F forward", B: "B backward", I: "I backward for the input", W: "W backward for the weights" };
    for (const kind of new Set(run.spans.map(span => span[1]).sort((a, b) => "FBIW".indexOf(a) - "FBIW".indexOf(b)))) legend.append(
      element("span", {}, svg("svg", { width: 22, height: 16, "aria-hidden": "true" }, ...block(kind, 1, 1, 20, 14, 0.45)), " " + names[kind]));
    if (used > 1) legend.append(element("span", {}, "paler: a rank's later stages"));
    result.textContent = `idle ${percent(run.fraction)} of the step · ${percent(run.overhead)} over the ideal time`;
    const share = used > 1 ? `; each covers 1/${used} of a rank's layers, so ${Math.max(...run.peaks)} weigh as much as ${round(Math.max(...run.peaks) / used)} of all` : "";
    note.textContent = `step ${round(run.makespan)} forwards, ideal ${round(run.ideal)}; live micro-batches, at most, by rank: ${run.peaks.join(", ")}${share}`;
    drawing.setAttribute("aria-label", `Timeline of ${RECIPES[recipe]} on ${p} ranks with ${m} micro-batches: ${result.textContent}`);
  }

  for (const control of [select, ...Object.values(sliders).map(pair => pair[0])]) control.addEventListener("input", paint);
  select.value = data.schedule;
  paint();
}
