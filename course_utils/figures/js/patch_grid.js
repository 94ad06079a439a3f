// What a Vision Transformer costs at a chosen size, and its patch grid drawn over an image.
// data: {models: [{name, width, depth, heads, mlp_ratio}], model, image_size, patch_size, channels, classes, pixels: [[0..255]]}
// The formulas mirror course_utils.plan.flops (all tokens worked out in every layer); images and patches are square.

function sizeProblem(image, patch) {
  const whole = n => Number.isInteger(n) && n > 0;
  if (!whole(image) || !whole(patch)) return "give whole numbers of pixels, such as 224 and 16";
  if (image % patch === 0) return "";
  const below = Math.floor(image / patch) * patch;
  const near = [below, below + patch].filter(n => n > 0).join(" or ");
  return `image height ${image} is no multiple of the patch's ${patch}: resize or pad it to ${near}`;
}

function vitCost(m, image, patch, channels, classes) {
  const side = image / patch, patches = side * side, tokens = patches + 1;
  const D = m.width, F = Math.round(D * m.mlp_ratio), L = m.depth, inputs = channels * patch * patch;
  const macs = {
    patch: patches * inputs * D,
    qkv: L * 3 * tokens * D * D,
    scores: L * 2 * tokens * tokens * D,
    out: L * tokens * D * D,
    mlp: L * 2 * tokens * D * F,
    head: D * classes,
  };
  const parameters = {
    patch: inputs * D + D, tokens: D, positions: tokens * D, qkv: L * 3 * (D * D + D), out: L * (D * D + D),
    mlp: L * (2 * D * F + F + D), norms: (2 * L + 1) * 2 * D, head: classes * (D + 1),
  };
  const sum = o => Object.values(o).reduce((a, b) => a + b, 0);
  return { side, tokens, macs, parameters, allMacs: sum(macs), allParameters: sum(parameters),
    scoreBytes: 4 * L * m.heads * tokens * tokens };
}

function withUnit(n, unit) {
  const step = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]].find(([size]) => n >= size) || [1, ""];
  return `${(n / step[0]).toPrecision(3)} ${step[1]}${unit}`.trim();
}

function mount(root, data) {
  const model = element("select"), patch = element("select"), image = element("input", { type: "number", min: 8, max: 1024, step: 8 });
  for (const m of data.models) model.append(element("option", { value: m.name, textContent: `${m.name} (width ${m.width}, depth ${m.depth})` }));
  for (const p of [4, 7, 8, 14, 16, 32]) patch.append(element("option", { value: p, textContent: `${p} x ${p}` }));
  const canvas = element("canvas", { className: "patches", width: 448, height: 448 });
  canvas.setAttribute("role", "img");
  const headline = element("output", { className: "value" }), memory = element("output"), note = element("output", { className: "note" });
  const bars = element("div", { className: "bars" }), facts = element("div", { className: "facts" }, headline, memory, bars, note);
  headline.setAttribute("aria-live", "polite");
  root.append(
    element("div", { className: "controls" }, element("label", {}, "model ", model), element("label", {}, "image, pixels ", image), element("label", {}, "patch ", patch)),
    element("div", { className: "panes" }, canvas, facts));

  const names = { patch: "patch embedding", qkv: "queries, keys, values", scores: "scores and their mean", out: "output projection", mlp: "MLP", head: "head" };
  const source = element("canvas", { width: data.pixels[0].length, height: data.pixels.length });
  const grey = new ImageData(source.width, source.height);
  data.pixels.flat().forEach((v, i) => grey.data.set([v, v, v, 255], 4 * i));
  source.getContext("2d").putImageData(grey, 0, 0);

  function draw(size, p) {
    const c = canvas.getContext("2d"), scale = canvas.width / size, used = Math.floor(size / p) * p * scale;
    c.imageSmoothingEnabled = false;
    c.drawImage(source, 0, 0, canvas.width, canvas.height);
    c.fillStyle = "#D55E00AA";  // what a floor division would drop
    c.fillRect(used, 0, canvas.width - used, canvas.height);
    c.fillRect(0, used, used, canvas.height - used);
    c.strokeStyle = "#E69F00";
    c.lineWidth = p * scale > 12 ? 2 : 1;
    c.beginPath();
    for (let at = 0; at <= used + 0.01; at += p * scale) {
      c.moveTo(at, 0); c.lineTo(at, used); c.moveTo(0, at); c.lineTo(used, at);
    }
    c.stroke();
  }

  function paint() {
    const m = data.models.find(m => m.name === model.value), size = image.value === "" ? NaN : Number(image.value), p = Number(patch.value);
    const problem = sizeProblem(size, p);
    bars.replaceChildren();
    if (Number.isInteger(size) && size > 0) draw(size, p);
    if (problem) {
      headline.textContent = "does not fit";
      memory.textContent = "";
      note.textContent = problem;
      canvas.setAttribute("aria-label", problem);
      return;
    }
    const cost = vitCost(m, size, p, data.channels, data.classes);
    headline.textContent = `${cost.side} x ${cost.side} patches, ${cost.tokens.toLocaleString("en")} tokens`;
    memory.textContent = `${cost.allParameters.toLocaleString("en")} parameters, ${withUnit(cost.allMacs, "MACs")}; scores of all layers, if kept: ${withUnit(cost.scoreBytes, "B")} an image`;
    canvas.setAttribute("aria-label", `An image with a grid of ${cost.side} by ${cost.side} patches over it`);
    for (const [part, macs] of Object.entries(cost.macs)) {
      const share = 100 * macs / cost.allMacs, bar = element("span", { className: `bar ${part}` });
      bar.style.width = `${share * 0.8}%`;
      bars.append(element("div", { className: "share" }, element("span", { className: "name", textContent: names[part] }),
        element("span", { className: "track" }, bar, element("span", { textContent: `${share.toFixed(1)} %` }))));
    }
    note.textContent = "Bars: shares of the multiplications.";
  }

  for (const control of [model, image, patch]) control.addEventListener("input", paint);
  model.value = data.model;
  image.value = data.image_size;
  patch.value = data.patch_size;
  paint();
}
