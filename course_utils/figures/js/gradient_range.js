// Where gradients lie in a format: choose the format, the loss scale, and the size of the batch that the loss is a mean of.
// data: course_utils.figures.gradient_range.answers, and start: {format, images, scale}; the last two are powers of two.

const KINDS = [["vanish", "#D55E00"], ["subnormal", "#E69F00"], ["normal", "#0072B2"], ["overflow", "#CC79A7"]];

function mount(root, data) {
  const LOW = -64, HIGH = 20, FLOOR = 164, picture = drawing(), result = headline(), remark = note();
  const count = (from, to) => Array.from({ length: to - from + 1 }, (_, k) => from + k);
  const power = n => `2${String(n).replace("-", "⁻").replace(/\d/g, d => "⁰¹²³⁴⁵⁶⁷⁸⁹"[d])}`;
  const read = panel(root, data.start, {
    format: [menu, "format", data.formats.map(f => f.name)],
    images: [slider, "images in the mean", count(data.images, 26), n => thousands(2 ** n)],
    scale: [slider, "loss scale", count(0, 40), power],
  }, paint);
  root.append(picture, element("div", { className: "controls" }, ...KINDS.map(([name, colour]) => key(colour, name))), result, remark);

  function paint() {
    const { format, images, scale } = read(), shift = data.images - images + scale;
    const [zero, normal, end] = data.formats.find(f => f.name === format).limits;
    const bins = new Map(), sums = [0, 0, 0, 0]; // whole power of two -> counts by kind
    for (const size of data.sizes) {
      const at = size + shift, bin = Math.floor(at), kind = at <= zero ? 0 : at < normal ? 1 : at < end ? 2 : 3;
      if (!bins.has(bin)) bins.set(bin, [0, 0, 0, 0]);
      bins.get(bin)[kind]++;
      sums[kind]++;
    }
    result.textContent = KINDS.map(([name], k) => `${name} ${(100 * sums[k] / data.sizes.length).toFixed(1)} %`).join(" · ");
    const room = Math.floor(end - Math.max(...data.sizes) - shift);
    remark.textContent = sums[3] ? "some gradients overflow: the scaler would skip this step and halve the scale"
      : room > 60 ? "the largest gradient is far from the end of this format: no scale is needed"
      : `the largest gradient would bear ${power(room)} more`;

    const width = clear(picture, 206, `Histogram of gradient sizes over the range of ${format}: ${result.textContent}`);
    const x = p => (p - LOW) / (HIGH - LOW) * width, from = Math.max(x(zero), 0), to = Math.min(x(end), width);
    const most = Math.max(...[...bins.values()].map(counts => counts.reduce((a, b) => a + b)));
    picture.append(text((from + to) / 2, 13, `${format} has numbers here`, "middle"),
      svg("rect", { x: from, y: 18, width: to - from, height: FLOOR - 18, fill: "#009E73", "fill-opacity": 0.14 }));
    for (const [bin, counts] of bins) {
      let y = FLOOR;
      counts.forEach((n, kind) => {
        const height = n / most * (FLOOR - 30);
        if (n) picture.append(svg("rect", { x: x(bin) + 0.5, y: y -= height, width: width / (HIGH - LOW) - 0.7, height, fill: KINDS[kind][1] }));
      });
    }
    picture.append(svg("rect", { x: 0, y: FLOOR, width, height: 1 }));
    for (let p = LOW + 4; p < HIGH; p += 10) picture.append(text(x(p), FLOOR + 17, power(p), "middle"));
    picture.append(text(width / 2, FLOOR + 37, "size of a gradient, scaled", "middle"));
  }

  paint();
}
