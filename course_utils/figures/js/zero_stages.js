// What each stage of ZeRO holds on a device and in host memory, and what it sends in a step, per rank.
// data: {billions of parameters, ranks, precision ("bf16" or "fp32"), offload, memory (GB of a device), microBatches}.
// Mirrors course_utils.zero.cost.

const ZERO_LEDGERS = { bf16: { weights: 2, gradients: 2, masters: 4, moments: 8 }, fp32: { weights: 4, gradients: 4, masters: 0, moments: 8 } };
const ZERO_KINDS = [["parameters", "#0072B2"], ["gradients", "#E69F00"], ["master weights", "#009E73"], ["moments", "#CC79A7"]];

function zeroHeld(parameters, ranks, stage, precision, offload) { // bytes: [parameters, gradients, master weights, moments] on both
  const { weights, gradients, masters, moments } = ZERO_LEDGERS[precision];
  const share = parameters / (stage >= 1 ? ranks : 1), own = gradients * parameters / (stage >= 2 ? ranks : 1);
  const whole = weights * parameters / (stage >= 3 ? ranks : 1);
  if (!offload || stage === 0) return { device: [whole, own, masters * share, moments * share], host: [0, 0, 0, 0] };
  return { device: [whole, stage >= 2 ? 0 : own, 0, 0], host: [0, stage >= 2 ? own : 0, 4 * share, moments * share] };
}

function zeroSent(parameters, ranks, stage, precision, microBatches) { // bytes a rank sends in a step
  const half = ZERO_LEDGERS[precision].weights * parameters * (ranks - 1) / ranks;
  return half * [2, 2, microBatches + 1, 3 * microBatches][stage];
}

function mount(root, data) {
  const WIDTH = 640, LEFT = 62, controls = element("div", { className: "controls" });
  const read = {
    billions: valueSlider(controls, "parameters", [0.11, 0.34, 1.5, 3, 7.5, 13, 30, 70, 128, 176, 405, 1000], data.billions, v => `${v} billion`),
    ranks: valueSlider(controls, "ranks N", [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024], data.ranks),
    memory: valueSlider(controls, "a device has", [8, 16, 24, 40, 80, 141, 192], data.memory, v => `${v} GB`),
    microBatches: valueSlider(controls, "micro-batches a step", [1, 2, 4, 8, 16, 32], data.microBatches),
    precision: menu(controls, "precision", { bf16: "BF16, FP32 master weights", fp32: "FP32" }, data.precision),
    offload: menu(controls, "optimizer on", { false: "the device", true: "the host (offload)" }, data.offload),
  };
  const drawing = svg("svg", { role: "img", fill: "currentColor" });
  drawing.style.cssText = "width:100%;height:auto;display:block";
  const result = element("output", { className: "value" });
  result.setAttribute("aria-live", "polite");
  root.append(controls, drawing, result);
  const text = (x, y, words, anchor = "start", size = 12) => svg("text", { x, y, "text-anchor": anchor, "font-size": size }, words);
  const gb = bytes => bytes >= 1e12 ? `${Number((bytes / 1e12).toPrecision(3))} TB` : `${Number((bytes / 1e9).toPrecision(3))} GB`;

  function paint() {
    const memory = read.memory() * 1e9, ranks = read.ranks(), parameters = read.billions() * 1e9, microBatches = read.microBatches();
    const precision = read.precision(), offload = read.offload() === "true", RIGHT = WIDTH - 8;
    const rows = [0, 1, 2, 3].map(stage => {
      const { device, host } = zeroHeld(parameters, ranks, stage, precision, offload), sum = parts => parts.reduce((a, b) => a + b);
      return { stage, device, total: sum(device), host: sum(host), sent: zeroSent(parameters, ranks, stage, precision, microBatches) };
    });
    const most = Math.max(rows[0].total, 1.15 * memory), x = bytes => LEFT + bytes / most * (RIGHT - LEFT);
    drawing.setAttribute("viewBox", `0 0 ${WIDTH} 262`);
    drawing.replaceChildren();
    for (const { stage, device, total, host, sent } of rows) {
      const y = 8 + 52 * stage;
      let from = 0;
      drawing.append(text(0, y + 18, `stage ${stage}`));
      device.forEach((bytes, k) => {
        if (bytes) drawing.append(svg("rect", { x: x(from), y, width: Math.max(x(from + bytes) - x(from), 0.5), height: 26,
          fill: ZERO_KINDS[k][1], "fill-opacity": 0.6, stroke: ZERO_KINDS[k][1] }));
        from += bytes;
      });
      const words = `${gb(total)}${total <= memory ? "" : ", too much"}${host ? `; host ${gb(host)}` : ""}; sends ${gb(sent)} a step`;
      drawing.append(text(LEFT, y + 41, words));
    }
    drawing.append(svg("path", { d: `M${x(memory)} 2V212`, stroke: "#D55E00", "stroke-width": 2, "stroke-dasharray": "5 4" }));
    let at = LEFT;
    for (const [name, colour] of ZERO_KINDS) {
      drawing.append(svg("rect", { x: at, y: 222, width: 11, height: 11, fill: colour, "fill-opacity": 0.6, stroke: colour }), text(at + 16, 232, name));
      at += 28 + 7.2 * name.length;
    }
    drawing.append(text(LEFT, 254, "dashed: a device's memory, of which activations need a part too"));
    const fitting = rows.filter(row => row.total <= memory);
    result.textContent = fitting.length ? `The lowest stage whose states fit: ${fitting[0].stage}, with ${gb(fitting[0].total)} of ${gb(memory)}.`
      : `No stage fits: ${gb(Math.min(...rows.map(row => row.total)))} at least. Take more ranks, or offload.`;
    drawing.setAttribute("aria-label", `Bytes per rank: ${rows.map(r => `stage ${r.stage} ${gb(r.total)}, sends ${gb(r.sent)}`).join("; ")}`);
  }

  controls.addEventListener("input", paint);
  paint();
}
