// What a Vision Transformer costs at a chosen size, and its patch grid drawn over an image.
// data: course_utils.figures.patch_grid.answers, pixels: [[0..255]], and start: {model, image, patch}.

function withUnit(n, unit) {
  const [size, letter] = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]].find(([size]) => n >= size) || [1, ""];
  return `${(n / size).toPrecision(3)} ${letter}${unit}`;
}

function mount(root, data) {
  const { model, image, patch } = data.costs.arguments, result = headline(), memory = element("output"), remark = note();
  const bars = element("div", { className: "bars" }), canvas = element("canvas", { className: "patches", width: 448, height: 448 });
  canvas.setAttribute("role", "img");
  const read = panel(root, data.start, {
    model: [menu, "model", model],
    image: [slider, "image", image, side => `${side} x ${side} pixels`],
    patch: [slider, "patch", patch, side => `${side} x ${side}`],
  }, paint);
  root.append(element("div", { className: "panes" }, canvas, element("div", { className: "facts" }, result, memory, bars, remark)));

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
    const chosen = read(), cost = lookUp(data.costs, chosen);
    draw(chosen.image, chosen.patch);
    bars.replaceChildren();
    canvas.setAttribute("aria-label", cost.refused ?? `An image with a grid of ${cost.side} by ${cost.side} patches over it`);
    if (cost.refused) {
      [result.textContent, memory.textContent, remark.textContent] = ["does not fit", "", cost.refused];
      return;
    }
    result.textContent = `${cost.side} x ${cost.side} patches, ${thousands(cost.tokens)} tokens`;
    memory.textContent = `${thousands(cost.parameters)} parameters, ${withUnit(cost.macs, "MACs")}; scores of all layers, if kept: ${withUnit(cost.scores, "B")} an image`;
    Object.entries(data.parts).forEach(([part, name], k) => bars.append(bar(name, cost.shares[k] / 75, `${cost.shares[k].toFixed(1)} %`, part)));
    remark.textContent = "Bars: shares of the multiplications.";
  }

  paint();
}
