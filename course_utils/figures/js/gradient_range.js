// Where gradients lie in a format: choose the format, the loss scale, and the size of the batch that the loss is a mean of.
// data: {sizes: [log2 of |gradient|, for a mean over 2^base images], base, formats: [{name, smallest, normal, largest,
//   mantissa_bits}], format: name, images: log2, scale: log2}; smallest and normal are exponents, largest is a value.
// The limits mirror course_utils.precision.formats: nearest rounding, so half the smallest number is already zero.

const KINDS = [["vanish", "#D55E00"], ["subnormal", "#E69F00"], ["normal", "#0072B2"], ["overflow", "#CC79A7"]];

function limits(f) { // powers of two: up to the first all is zero, then subnormal, then normal, from the last on too large
  const top = Math.floor(Math.log2(f.largest));
  return [f.smallest - 1, f.normal, Math.log2(f.largest + 2 ** (top - f.mantissa_bits - 1))];
}

function kind(size, [zero, normal, end]) {
  return size <= zero ? 0 : size < normal ? 1 : size < end ? 2 : 3;
}

function shares(sizes, shift, bounds) {
  const counts = [0, 0, 0, 0];
  for (const size of sizes) counts[kind(size + shift, bounds)]++;
  return counts.map(c => c / sizes.length);
}

function mount(root, data) {
  const LOW = -64, HIGH = 20, WIDTH = 640, HEIGHT = 190, FLOOR = 160;
  const x = power => (power - LOW) / (HIGH - LOW) * WIDTH;

  const select = element("select");
  for (const f of data.formats) select.append(element("option", { value: f.name, textContent: f.name }));
  const slider = (min, max, value) => element("input", { type: "range", min, max, step: 1, value });
  const images = slider(data.base, 26, data.images), scale = slider(0, 40, data.scale);
  const imagesText = element("span", { className: "value" }), scaleText = element("span", { className: "value" });
  const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", fill: "currentColor" });
  drawing.style.cssText = "width:100%;height:auto;display:block";
  const result = element("output", { className: "value" }), note = element("output", { className: "note" });
  const legend = element("div", { className: "controls" });
  for (const [name, colour] of KINDS) {
    const box = element("span");
    box.style.cssText = `display:inline-block;width:.9em;height:.9em;background:${colour};margin-right:.35em`;
    legend.append(element("span", {}, box, name));
  }
  root.append(
    element("div", { className: "controls" }, element("label", {}, "format ", select),
      element("label", {}, "images in the mean ", images, " ", imagesText),
      element("label", {}, "loss scale ", scale, " ", scaleText)),
    drawing, legend, result, note);
  result.setAttribute("aria-live", "polite");

  const superscript = n => String(n).replace("-", "⁻").replace(/\d/g, d => "⁰¹²³⁴⁵⁶⁷⁸⁹"[d]);
  const power = n => `2${superscript(n)}`;
  const percent = share => (100 * share).toFixed(1) + " %";

  function paint() {
    const f = data.formats.find(g => g.name === select.value), bounds = limits(f);
    const shift = data.base - Number(images.value) + Number(scale.value);
    imagesText.textContent = (2 ** images.value).toLocaleString("en");
    scaleText.textContent = power(scale.value);
    images.setAttribute("aria-valuetext", imagesText.textContent);
    scale.setAttribute("aria-valuetext", `2 to the ${scale.value}`);

    const bins = new Map(); // whole power of two -> counts by kind
    for (const size of data.sizes) {
      const bin = Math.floor(size + shift);
      if (!bins.has(bin)) bins.set(bin, [0, 0, 0, 0]);
      bins.get(bin)[kind(size + shift, bounds)]++;
    }
    const highest = Math.max(...[...bins.values()].map(c => c.reduce((a, b) => a + b)));
    drawing.replaceChildren();
    const from = Math.max(x(bounds[0]), 0), to = Math.min(x(bounds[2]), WIDTH);
    drawing.append(svg("rect", { x: from, y: 18, width: to - from, height: FLOOR - 18, fill: "#009E73", "fill-opacity": 0.14 }));
    drawing.append(svg("text", { x: (from + to) / 2, y: 13, "text-anchor": "middle", "font-size": 12 }, `${f.name} has numbers here`));
    for (const [bin, counts] of bins) {
      let y = FLOOR;
      counts.forEach((count, i) => {
        const height = count / highest * (FLOOR - 30);
        if (count) drawing.append(svg("rect", { x: x(bin) + 0.5, y: y -= height, width: x(1) - x(0) - 1, height, fill: KINDS[i][1] }));
      });
    }
    drawing.append(svg("rect", { x: 0, y: FLOOR, width: WIDTH, height: 1 }));
    for (let p = LOW + 4; p < HIGH; p += 10) drawing.append(svg("text", { x: x(p), y: FLOOR + 17, "text-anchor": "middle", "font-size": 12 }, power(p)));

    const parts = shares(data.sizes, shift, bounds);
    result.textContent = KINDS.map(([name], i) => `${name} ${percent(parts[i])}`).join(" · ");
    drawing.setAttribute("aria-label", `Histogram of gradient sizes over the range of ${f.name}: ${result.textContent}`);
    const room = Math.floor(bounds[2] - Math.max(...data.sizes) - shift);
    note.textContent = parts[3] ? "some gradients overflow: the scaler would skip this step and halve the scale"
      : room > 60 ? "the largest gradient is far from the end of this format: no scale is needed"
      : `the largest gradient would bear ${power(room)} more`;
  }

  for (const control of [select, images, scale]) control.addEventListener("input", paint);
  select.value = data.format;
  paint();
}
