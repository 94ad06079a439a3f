// Which ZeRO to choose: model and machine in; bytes on a device, seconds of a step, and the fastest choice that fits out.
// data: course_utils.figures.zero_choice.answers, amounts for one parameter, which are multiplied by how many there are and divided by
//   the machine's rates; device: GB/s of the device's memory; and start: a value for each control. Nothing overlaps.

const PARTS = [["compute", "#0072B2"], ["link", "#E69F00"], ["host link", "#CC79A7"], ["update", "#009E73"]];

function mount(root, data) {
  const ROW = 30, picture = drawing(), result = headline(), remark = note(), sum = list => list.reduce((a, b) => a + b, 0);
  const gb = v => `${v} GB`, rate = v => `${v} GB/s`;
  const read = panel(root, data.start, {
    billions: [slider, "parameters", [0.125, 0.35, 1.3, 2.8, 7.5, 13, 30, 70, 175], v => `${v} billion`],
    ranks: [slider, "ranks N", data.amounts.arguments.ranks],
    memory: [slider, "memory for states", [6, 12, 20, 35, 70, 120, 170], gb],
    host_memory: [slider, "host memory, a rank", [8, 16, 32, 64, 128, 256, 512], gb],
    tokens: [slider, "tokens a rank and step", [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536], thousands],
    tflops: [slider, "a device reaches", [10, 25, 50, 100, 150, 300, 500, 1000], v => `${v} TFLOP/s`],
    link: [slider, "link between ranks", [0.125, 1.25, 3, 6, 12.5, 25, 50, 100, 200, 400], rate],
    host_link: [slider, "link to the host", [6, 12, 25, 50, 400], rate],
    host: [slider, "host memory at", [5, 10, 25, 50, 100, 400], rate],
  }, paint);
  root.append(result, picture, element("div", { className: "controls" }, ...PARTS.map(([name, colour]) => key(colour, name))), remark);
  const seconds = t => (t >= 1 ? `${short(t)} s` : `${short(1e3 * t)} ms`);

  function paint() {
    const v = read(), billions = v.billions; // an amount for a parameter, times billions of them, is in GB
    const rows = lookUp(data.amounts, v).rows.map(([device, host, operations, link, hostLink, update, onHost], k) => ({
      name: data.choices[k], device: device * billions, host: host * billions,
      times: [operations * billions * v.tokens / (v.tflops * 1e3), link * billions / v.link, hostLink * billions / v.host_link, update * billions / (onHost ? v.host : data.device)],
    }));
    const fits = row => row.device <= v.memory && row.host <= v.host_memory;
    const best = rows.filter(fits).reduce((a, b) => (a && sum(a.times) <= sum(b.times) ? a : b), null);
    result.textContent = best ? `take stage ${best.name}` : "nothing fits: cut the model too (tensor or pipeline parallelism), or add ranks";
    remark.textContent = `With offload a rank keeps ${short(rows[3].host)} GB on the host. Activations need memory besides; nothing overlaps in these seconds.`;
    const width = clear(picture, ROW * rows.length + 44, rows.map(row => `stage ${row.name}: ${short(row.device)} GB` +
      (row.host ? ` and ${short(row.host)} GB on the host` : "") + `, ${seconds(sum(row.times))}`).join("; "));
    const left = 84, middle = left + 0.42 * (width - left), most = Math.max(...rows.map(row => row.device), v.memory) * 1.02, slowest = Math.max(...rows.map(row => sum(row.times)));
    const x = size => left + size / most * (middle - left - 42), unit = (width - middle - 56) / slowest, bottom = 24 + ROW * rows.length;
    picture.append(text(4, 14, "stage"), text(left, 14, width < 480 ? "GB" : "GB on a device"), text(middle, 14, width < 480 ? "a step's time" : "seconds of a step"));
    rows.forEach((row, k) => {
      const y = 24 + ROW * k, bold = row === best, limit = x(v.memory), end = x(row.device) + 5, size = short(row.device);
      if (bold) picture.append(svg("rect", { x: 0, y: y - 2, width, height: ROW - 2, fill: "#888888", "fill-opacity": 0.22 }));
      const name = text(4, y + 17, row.name);
      if (bold) name.setAttribute("font-weight", "bold");
      picture.append(name, text(end < limit && limit < end + 7 * size.length + 6 ? limit + 5 : end, y + 17, size), svg("rect", { x: left, y: y + 2, width: Math.max(x(row.device) - left, 0.5),
        height: ROW - 10, fill: fits(row) ? "#56B4E9" : "#D55E00", "fill-opacity": 0.7 }));
      let at = middle;
      row.times.forEach((t, part) => {
        picture.append(svg("rect", { x: at, y: y + 2, width: t * unit, height: ROW - 10, fill: PARTS[part][1], "fill-opacity": fits(row) ? 0.8 : 0.25 }));
        at += t * unit;
      });
      picture.append(text(at + 5, y + 17, seconds(sum(row.times))));
    });
    picture.append(svg("path", { d: `M${x(v.memory)} 20V${bottom}`, stroke: "currentColor", "stroke-width": 2, "stroke-dasharray": "5 4" }),
      text(x(v.memory), bottom + 14, "memory", "middle"));
  }

  paint();
}
