// What LoRA costs beside full fine-tuning: numbers trained, the arithmetic of a step, and the memory of what trains.
// data: {models: [{name, width, depth, mlp_width, parameters}], model, rank, matrices: ["q", ...], tokens, classes}
// The formulas mirror course_utils.tuning.cost; parameters are those of the whole model, its head among them.

const MATRICES = ["q", "k", "v", "out", "fc1", "fc2"];

function loraCosts(m, classes, tokens, rank, matrices) {
  const D = m.width, F = m.mlp_width, head = (D + 1) * classes;
  const shapes = { q: [D, D], k: [D, D], v: [D, D], out: [D, D], fc1: [D, F], fc2: [F, D] };
  const walk = full => {  // a text on its way through the layers: what moves, and what each product costs backward
    let forward = 0, backward = 0, moves = full;
    const product = (rows, inputs, outputs, first, second) => {
      forward += rows * inputs * outputs;
      backward += rows * inputs * outputs * (first + second);
    };
    const linear = (name, x) => {
      const [inputs, outputs] = shapes[name], tuned = !full && matrices.includes(name);
      product(tokens, inputs, outputs, x, full);
      if (tuned) {
        product(tokens, inputs, rank, x, true);
        product(tokens, rank, outputs, true, true);
      }
      return x || tuned;
    };
    for (let layer = 0; layer < m.depth; layer++) {
      const q = linear("q", moves), k = linear("k", moves), v = linear("v", moves);
      product(tokens, D, tokens, q, k);
      product(tokens, tokens, D, q || k, v);
      const out = linear("out", q || k || v);
      moves = moves || out;
      const mlp = linear("fc2", linear("fc1", moves));
      moves = moves || mlp;
    }
    product(1, D, D, moves, full);
    product(1, D, classes, moves, true);
    return { forward, backward };
  };
  const added = m.depth * matrices.reduce((sum, name) => sum + rank * (shapes[name][0] + shapes[name][1]), 0);
  return {
    full: { trained: m.parameters, weights: m.parameters, ...walk(true) },
    lora: { trained: added + head, weights: m.parameters + added, ...walk(false) },
  };
}

function mount(root, data) {
  const model = element("select");
  for (const m of data.models) model.append(element("option", { value: m.name, textContent: `${m.name} (width ${m.width}, depth ${m.depth})` }));
  const rank = element("input", { type: "number", min: 1, max: 1024, step: 1 });
  const tokens = element("input", { type: "number", min: 1, max: 512, step: 1 });
  const boxes = MATRICES.map(name => element("input", { type: "checkbox", value: name }));
  const choice = element("fieldset", { className: "controls" }, element("legend", { textContent: "matrices with an update" }),
    ...boxes.map(box => element("label", {}, box, ` ${box.value}`)));
  const headline = element("output", { className: "value" }), note = element("output", { className: "note" });
  const bars = element("div", { className: "bars" });
  headline.setAttribute("aria-live", "polite");
  root.append(
    element("div", { className: "controls" }, element("label", {}, "model ", model), element("label", {}, "rank r ", rank), element("label", {}, "tokens of a text N ", tokens)),
    choice, headline, bars, note);
  const whole = n => n.toLocaleString("en-US");

  function paint() {
    const r = Number(rank.value), N = Number(tokens.value), m = data.models.find(m => m.name === model.value);
    bars.replaceChildren();
    if (![r, N].every(n => Number.isInteger(n) && n > 0)) {
      headline.textContent = "give whole numbers above 0, such as 8 and 20";
      note.textContent = "";
      return;
    }
    const { full, lora } = loraCosts(m, data.classes, N, r, boxes.filter(box => box.checked).map(box => box.value));
    const step = full.forward + full.backward;
    const add = (name, share, text, tuned) => {
      const bar = element("span", { className: tuned ? "bar scores" : "bar" });
      bar.style.width = `${(60 * Math.min(1, share)).toFixed(2)}%`;
      bars.append(element("div", { className: "share" }, element("span", { className: "name", textContent: name }),
        element("span", { className: "track" }, bar, element("span", { textContent: text }))));
    };
    for (const [name, cost, tuned] of [["full", full, false], ["LoRA", lora, true]]) {
      add(`${name}: forward`, cost.forward / step, (cost.forward / step).toFixed(3), tuned);
      add(`${name}: backward`, cost.backward / step, (cost.backward / step).toFixed(3), tuned);
    }
    const megabytes = bytes => `${whole(Math.round(bytes / 1e6))} MB`, largest = 8 * full.trained;
    for (const [name, cost, tuned] of [["full", full, false], ["LoRA", lora, true]]) {
      add(`${name}: weights`, 4 * cost.weights / largest, megabytes(4 * cost.weights), tuned);
      add(`${name}: gradients`, 4 * cost.trained / largest, megabytes(4 * cost.trained), tuned);
      add(`${name}: Adam`, 8 * cost.trained / largest, megabytes(8 * cost.trained), tuned);
    }
    const share = (lora.forward + lora.backward) / step;
    headline.textContent = `${whole(lora.trained)} of ${whole(lora.weights)} numbers train, for ${share.toFixed(2)} of the arithmetic of full fine-tuning`;
    note.textContent = "First four bars: multiplications of a step, full fine-tuning's = 1. The others: bytes in float32, without activations. The head trains in both.";
  }

  for (const input of [model, rank, tokens, ...boxes]) input.addEventListener("input", paint);
  model.value = data.model; rank.value = data.rank; tokens.value = data.tokens;
  for (const box of boxes) box.checked = data.matrices.includes(box.value);
  paint();
}
