// Which ZeRO to choose: model and machine in; bytes on a device, seconds of a step, and the fastest setting that fits out.
// data: {billions, ranks, memory, hostMemory (GB), tokens a rank, tflops, device, link, hostLink, host (GB/s)}.
// Mirrors course_utils.zero.choice: states, step and choose. BF16 with Adam; nothing overlaps.

const SETTINGS = [
  { name: "0", stage: 0 }, { name: "1", stage: 1 }, { name: "2", stage: 2 }, { name: "2 + offload", stage: 2, optimizer: true },
  { name: "3", stage: 3 }, { name: "3 + offloads", stage: 3, optimizer: true, weights: true }];
const PARTS = [["compute", "#0072B2"], ["link", "#E69F00"], ["host link", "#CC79A7"], ["update", "#009E73"]];
const UPDATE_BYTES = 28;

function stateBytes(s, parameters, ranks) { // [on the device, on the host]
  const share = parameters / (s.stage ? ranks : 1), weights = 2 * parameters / (s.stage >= 3 ? ranks : 1);
  const gradients = 2 * parameters / (s.stage >= 2 ? ranks : 1), optimizer = 12 * share;
  return [(s.weights ? 0 : weights) + (s.optimizer ? 0 : gradients + optimizer),
    (s.weights ? weights : 0) + (s.optimizer ? gradients + optimizer : 0)];
}

function stepSeconds(s, parameters, ranks, tokens, m) { // in the order of PARTS
  const share = parameters / (s.stage ? ranks : 1), passes = s.stage === 3 ? 3 : 2;
  const moved = (s.optimizer ? 2 * share + (s.weights ? 0 : 2 * share) : 0) + (s.weights ? 4 * share : 0);
  return [6 * parameters * tokens / m.flops, passes * (ranks - 1) / ranks * 2 * parameters / m.link, moved / m.hostLink,
    UPDATE_BYTES * share / (s.optimizer ? m.host : m.device)];
}

const sum = list => list.reduce((a, b) => a + b, 0);

function chooseSetting(parameters, ranks, tokens, m) {
  let best = null;
  for (const s of SETTINGS) {
    const seconds = sum(stepSeconds(s, parameters, ranks, tokens, m)), [device, host] = stateBytes(s, parameters, ranks);
    if (device <= m.memory && host <= m.hostMemory && (!best || seconds < best.seconds)) best = { s, seconds };
  }
  return best && best.s;
}

function mount(root, data) {
  const WIDTH = 640, ROW = 30, LEFT = 100, MIDDLE = 330, controls = element("div", { className: "controls" });
  const read = {
    billions: valueSlider(controls, "parameters", [0.125, 0.35, 1.3, 2.8, 7.5, 13, 30, 70, 175], data.billions, v => `${v} billion`),
    ranks: valueSlider(controls, "ranks N", [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024], data.ranks),
    memory: valueSlider(controls, "memory for states", [6, 12, 20, 35, 70, 120, 170], data.memory, v => `${v} GB`),
    hostMemory: valueSlider(controls, "of the host, a rank", [8, 16, 32, 64, 128, 256, 512], data.hostMemory, v => `${v} GB`),
    tokens: valueSlider(controls, "tokens a rank and step", [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536], data.tokens),
    tflops: valueSlider(controls, "reaches", [10, 25, 50, 100, 150, 300, 500, 1000], data.tflops, v => `${v} TFLOP/s`),
    link: valueSlider(controls, "link", [0.125, 1.25, 3, 6, 12.5, 25, 50, 100, 200, 400], data.link, v => `${v} GB/s`),
    hostLink: valueSlider(controls, "to the host", [6, 12, 25, 50, 400], data.hostLink, v => `${v} GB/s`),
    host: valueSlider(controls, "host memory", [5, 10, 25, 50, 100, 400], data.host, v => `${v} GB/s`),
  };
  const drawing = svg("svg", { role: "img", fill: "currentColor", viewBox: `0 0 ${WIDTH} ${ROW * 6 + 62}` });
  drawing.style.cssText = "width:100%;height:auto;display:block";
  const result = element("output", { className: "value" }), note = element("output", { className: "note" });
  result.setAttribute("aria-live", "polite");
  root.append(controls, result, drawing, note);
  const text = (x, y, words, anchor = "start", weight = "normal") =>
    svg("text", { x, y, "text-anchor": anchor, "font-size": 12, "font-weight": weight }, words);
  const short = x => (x >= 999.5 ? Math.round(x).toLocaleString("en") : String(Number(x.toPrecision(3))));
  const seconds = t => (t >= 1 ? `${short(t)} s` : `${short(1e3 * t)} ms`);

  function paint() {
    const v = Object.fromEntries(Object.entries(read).map(([name, value]) => [name, value()]));
    const m = { memory: v.memory * 1e9, hostMemory: v.hostMemory * 1e9, flops: v.tflops * 1e12, device: data.device * 1e9, link: v.link * 1e9,
      hostLink: v.hostLink * 1e9, host: v.host * 1e9 };
    const P = v.billions * 1e9, best = chooseSetting(P, v.ranks, v.tokens, m);
    const both = SETTINGS.map(s => stateBytes(s, P, v.ranks)), held = both.map(pair => pair[0]), times = SETTINGS.map(s => stepSeconds(s, P, v.ranks, v.tokens, m));
    const most = Math.max(...held, m.memory) * 1.02, slowest = Math.max(...times.map(sum));
    const x = bytes => LEFT + bytes / most * (MIDDLE - LEFT - 60), unit = (WIDTH - MIDDLE - 66) / slowest;
    drawing.replaceChildren(text(LEFT, 14, "GB on a device"), text(MIDDLE, 14, "seconds of a step"));
    SETTINGS.forEach((s, k) => {
      const y = 24 + ROW * k, chosen = s === best, fits = held[k] <= m.memory && both[k][1] <= m.hostMemory;
      if (chosen) drawing.append(svg("rect", { x: 0, y: y - 2, width: WIDTH, height: ROW - 2, fill: "#888888", "fill-opacity": 0.22 }));
      drawing.append(text(4, y + 17, s.name, "start", chosen ? "bold" : "normal"));
      drawing.append(svg("rect", { x: LEFT, y: y + 2, width: Math.max(x(held[k]) - LEFT, 0.5), height: ROW - 10,
        fill: fits ? "#56B4E9" : "#D55E00", "fill-opacity": 0.7 }));
      drawing.append(text(x(held[k]) + 5, y + 17, short(held[k] / 1e9)));
      let at = MIDDLE;
      times[k].forEach((t, part) => {
        drawing.append(svg("rect", { x: at, y: y + 2, width: t * unit, height: ROW - 10, fill: PARTS[part][1], "fill-opacity": fits ? 0.8 : 0.25 }));
        at += t * unit;
      });
      drawing.append(text(at + 5, y + 17, seconds(sum(times[k]))));
    });
    const bottom = 24 + ROW * 6;
    drawing.append(svg("path", { d: `M${x(m.memory)} 20V${bottom}`, stroke: "currentColor", "stroke-width": 2, "stroke-dasharray": "5 4" }));
    drawing.append(text(x(m.memory), bottom + 14, "memory", "middle"));
    PARTS.forEach(([name, colour], part) => drawing.append(
      svg("rect", { x: MIDDLE + 76 * part, y: bottom + 4, width: 11, height: 11, fill: colour, "fill-opacity": 0.8 }),
      text(MIDDLE + 76 * part + 15, bottom + 14, name)));
    result.textContent = best ? `take stage ${best.name}` : "nothing fits: cut the model too (tensor or pipeline parallelism), or add ranks";
    const described = SETTINGS.map((s, k) => `stage ${s.name}: ${short(held[k] / 1e9)} GB` +
      (both[k][1] ? ` and ${short(both[k][1] / 1e9)} GB on the host` : "") + `, ${seconds(sum(times[k]))}`);
    note.textContent = `With offload a rank keeps ${short(both[3][1] / 1e9)} GB on the host. Activations need memory besides; nothing overlaps in these seconds.`;
    drawing.setAttribute("aria-label", described.join("; "));
  }

  controls.addEventListener("input", paint);
  paint();
}
