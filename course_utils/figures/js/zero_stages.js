// What each stage of ZeRO holds on a device and in host memory, and what it sends in a step, per rank.
// data: course_utils.figures.zero_stages.answers, bytes for one parameter, which are multiplied by how many there are;
//   and start: {billions of parameters, ranks, memory (GB of a device), micro_batches, precision, offload}.

const ZERO_KINDS = [["parameters", "#0072B2"], ["gradients", "#E69F00"], ["master weights", "#009E73"], ["moments", "#CC79A7"]];

function mount(root, data) {
  const { ranks, precision } = data.held.arguments, picture = drawing(), result = headline();
  const words = { bf16: "BF16, FP32 master weights", fp32: "FP32", false: "the device", true: "the host (offload)" };
  const read = panel(root, data.start, {
    billions: [slider, "parameters", [0.11, 0.34, 1.5, 3, 7.5, 13, 30, 70, 128, 176, 405, 1000], v => `${v} billion`],
    ranks: [slider, "ranks N", ranks],
    memory: [slider, "a device has", [8, 16, 24, 40, 80, 141, 192], v => `${v} GB`],
    micro_batches: [slider, "micro-batches a step", data.sent.arguments.micro_batches],
    precision: [menu, "precision", precision, v => words[v]],
    offload: [menu, "optimizer on", data.held.arguments.offload, v => words[v]],
  }, paint);
  root.append(picture, element("div", { className: "controls" }, ...ZERO_KINDS.map(([name, colour]) => key(colour, name))), result);
  const gb = bytes => bytes >= 1e12 ? `${short(bytes / 1e12)} TB` : `${short(bytes / 1e9)} GB`;

  function paint() {
    const chosen = read(), parameters = chosen.billions * 1e9, memory = chosen.memory * 1e9, held = lookUp(data.held, chosen), sent = lookUp(data.sent, chosen).stages;
    const rows = held.device.map((kinds, stage) => {
      const device = kinds.map(bytes => bytes * parameters);
      return { stage, device, total: device.reduce((a, b) => a + b), host: held.host[stage] * parameters, sent: sent[stage] * parameters };
    });
    const fitting = rows.find(row => row.total <= memory);
    result.textContent = fitting ? `The lowest stage whose states fit: ${fitting.stage}, with ${gb(fitting.total)} of ${gb(memory)}.`
      : `No stage fits: ${gb(Math.min(...rows.map(row => row.total)))} at least. Take more ranks, or offload.`;
    const width = clear(picture, 238, `Bytes per rank: ${rows.map(row => `stage ${row.stage} ${gb(row.total)}, sends ${gb(row.sent)}`).join("; ")}`);
    const left = 54, most = Math.max(rows[0].total, 1.15 * memory), x = bytes => left + bytes / most * (width - 8 - left);
    for (const { stage, device, total, host, sent } of rows) {
      const y = 8 + 52 * stage;
      let from = 0;
      picture.append(text(0, y + 18, `stage ${stage}`),
        text(left, y + 41, `${gb(total)}${total <= memory ? "" : ", too much"}${host ? `; host ${gb(host)}` : ""}; sends ${gb(sent)}${width < 480 ? "" : " a step"}`));
      device.forEach((bytes, k) => {
        if (bytes) picture.append(svg("rect", { x: x(from), y, width: Math.max(x(from + bytes) - x(from), 0.5), height: 26,
          fill: ZERO_KINDS[k][1], "fill-opacity": 0.6, stroke: ZERO_KINDS[k][1] }));
        from += bytes;
      });
      picture.append(svg("path", { d: `M${x(memory)} ${y - 5}V${y + 31}`, stroke: "currentColor", "stroke-width": 2, "stroke-dasharray": "5 4" }));
    }
    picture.append(text(left, 232, width < 480 ? "dashed: a device's memory" : "dashed: a device's memory, of which activations need a part too"));
  }

  paint();
}
