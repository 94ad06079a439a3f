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
  const LEFT = 46, ROW = 25, picture = drawing(), legend = element("div", { className: "controls" }), result = headline(), remark = note();
  const used = v => chunksOf(root.querySelector("select").value, v), upTo = n => Array.from({ length: n }, (_, k) => k + 1);
  const read = panel(root, data, {
    schedule: [menu, "schedule", Object.keys(RECIPES), name => RECIPES[name]],
    ranks: [slider, "ranks p", upTo(8)],
    microBatches: [slider, "micro-batches m", upTo(24)],
    chunks: [slider, "chunks v", upTo(4), used],
    ratio: [slider, "backward / forward", [1, 1.5, 2, 2.5, 3]],
    transfer: [slider, "transfer", [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2], v => v + (v === 1 ? " forward" : " forwards")],
  }, paint);
  root.append(picture, legend, result, remark);
  const chunksInput = root.querySelectorAll("input")[2];
  const hatches = svg("defs", {}, ...[["B", "M-1 5L5-1M3 9L9 3"], ["I", "M3 0V8M7 0V8"], ["W", "M0 2H8M0 6H8"]].map(([kind, path]) =>
    svg("pattern", { id: `${root.id}-${kind}`, width: 8, height: 8, patternUnits: "userSpaceOnUse" },
      svg("path", { d: path, stroke: COLOURS[kind], "stroke-width": 1.4 }))));
  const percent = share => (100 * share).toFixed(1) + " %", round = x => Number(x.toFixed(2)).toString();

  function block(kind, x, y, width, height, tint) {
    const parts = [svg("rect", { x, y, width, height, fill: COLOURS[kind], "fill-opacity": tint, stroke: COLOURS[kind] })];
    if (kind !== "F") parts.push(svg("rect", { x, y: y + height - 5, width, height: 5, fill: `url(#${root.id}-${kind})` }));
    return parts;
  }

  function paint() {
    const { schedule, ranks: p, microBatches: m, chunks, ratio, transfer } = read(), v = used(chunks), problem = pipelineProblem(schedule, p, m, chunks);
    chunksInput.disabled = schedule !== "interleaved";
    legend.replaceChildren();
    if (problem) {
      result.textContent = "no such schedule";
      remark.textContent = problem;
      clear(picture, 1, problem);
      return;
    }
    const run = simulatePipeline(schedule, p, m, chunks, ratio, transfer), most = Math.max(...run.peaks);
    result.textContent = `idle ${percent(run.fraction)} of the step · ${percent(run.overhead)} over the ideal time`;
    const share = v > 1 ? `; each covers 1/${v} of a rank's layers, so ${most} weigh as much as ${round(most / v)} of all` : "";
    remark.textContent = `step ${round(run.makespan)} forwards, ideal ${round(run.ideal)}; live micro-batches, at most, by rank: ${run.peaks.join(", ")}${share}`;
    const width = clear(picture, p * ROW + 24, `Timeline of ${RECIPES[schedule]} on ${p} ranks with ${m} micro-batches: ${result.textContent}`), unit = (width - LEFT - 2) / run.makespan;
    picture.append(hatches);
    for (let rank = 0; rank < p; rank++) picture.append(text(0, rank * ROW + 16, `rank ${rank}`));
    for (const [rank, kind, stage, batch, start, end] of run.spans) {
      const x = LEFT + start * unit, wide = (end - start) * unit, y = rank * ROW + 1, chunk = stage >= p ? Math.floor(stage / p) : 0;
      picture.append(...block(kind, x, y, wide, ROW - 4, 0.45 - 0.33 * chunk / Math.max(v - 1, 1)));
      const label = [kind + batch, String(batch)].find(words => 6.4 * words.length <= wide);
      if (label) picture.append(text(x + wide / 2, y + 13, label, "middle", 10.5));
    }
    const tick = [1, 2, 5, 10, 20, 50, 100, 200].find(t => run.makespan / t <= (width < 480 ? 6 : 12));
    for (let t = 0; t <= run.makespan; t += tick) picture.append(
      text(LEFT + t * unit, p * ROW + 16, t || "0 forwards", t ? t > run.makespan - tick / 2 ? "end" : "middle" : "start", 11));
    const names = { F: "F forward", B: "B backward", I: "I backward for the input", W: "W backward for the weights" };
    for (const kind of new Set(run.spans.map(span => span[1]).sort((a, b) => "FBIW".indexOf(a) - "FBIW".indexOf(b)))) legend.append(
      element("span", {}, svg("svg", { width: 22, height: 16, "aria-hidden": "true" }, ...block(kind, 1, 1, 20, 14, 0.45)), " " + names[kind]));
    if (v > 1) legend.append(element("span", {}, "paler: a rank's later stages"));
  }

  paint();
}
