// What each way to tune costs: numbers trained, numbers kept, and the arithmetic of a step beside full fine-tuning.
// data: {models: [{name, width, depth, mlp_width, parameters}], model, length, tokens, classes}
// The formulas mirror course_utils.tuning.cost; parameters are those of the whole model, its head among them.

function tuningCosts(m, classes, tokens, length) {
  const D = m.width, L = m.depth, F = m.mlp_width, l = length, head = (D + 1) * classes;
  const prompt = l * D, prefix = 2 * L * l * D;
  const numbers = {  // trained, kept in the file; without the head
    "full": [m.parameters - head, m.parameters - head],
    "head": [0, 0],
    "prompt": [prompt, prompt],
    "mlp": [prompt + (D + 1) * D * 3, prompt],
    "lstm": [prompt + 8 * D * (2 * D + 2) + 8 * D * (3 * D + 2) + (2 * D + 1) * 3 * D, prompt],
    "prefix": [prefix, prefix],
    "written": [prompt + (D + 1) * (D + 2 * L * D), prefix],
  };
  const macs = {};
  for (const kind of ["full", "head", "prompt", "prefix"]) {
    const T = tokens + (kind === "prompt" ? l : 0), keys = T + (kind === "prefix" ? l : 0);
    const linear = 4 * T * D * D + 2 * T * D * F, scores = 2 * T * D * keys;
    const pooler = D * D, top = D * classes, forward = L * (linear + scores) + pooler + top;
    let backward = L * (linear + 2 * scores) + pooler + 2 * top;
    if (kind === "full") backward = 2 * forward;
    if (kind === "head") backward = top;
    if (kind === "prefix") backward -= 3 * T * D * D + scores / 2;
    macs[kind] = forward + backward;
  }
  const like = { full: "full", head: "head", prompt: "prompt", mlp: "prompt", lstm: "prompt", prefix: "prefix", written: "prefix" };
  return Object.keys(numbers).map(kind => ({
    kind, trained: numbers[kind][0] + head, kept: numbers[kind][1] + head, step: macs[like[kind]] / macs.full,
  }));
}

function mount(root, data) {
  const model = element("select");
  for (const m of data.models) model.append(element("option", { value: m.name, textContent: `${m.name} (width ${m.width}, depth ${m.depth})` }));
  const length = element("input", { type: "number", min: 1, max: 200, step: 1 });
  const tokens = element("input", { type: "number", min: 1, max: 512, step: 1 });
  const headline = element("output", { className: "value" }), note = element("output", { className: "note" });
  const bars = element("div", { className: "bars" });
  headline.setAttribute("aria-live", "polite");
  root.append(
    element("div", { className: "controls" }, element("label", {}, "model ", model), element("label", {}, "prompt length l ", length), element("label", {}, "tokens of a text N ", tokens)),
    headline, bars, note);
  const names = {
    full: "full fine-tuning", head: "head alone", prompt: "prompt tuning", mlp: "P-tuning, MLP", lstm: "P-tuning, LSTM",
    prefix: "prefix, P-tuning v2", written: "prefix with MLP",
  };
  const whole = n => n.toLocaleString("en-US");

  function paint() {
    const l = Number(length.value), N = Number(tokens.value), m = data.models.find(m => m.name === model.value);
    bars.replaceChildren();
    if (![l, N].every(n => Number.isInteger(n) && n > 0)) {
      headline.textContent = "give whole numbers above 0, such as 10 and 20";
      note.textContent = "";
      return;
    }
    const costs = tuningCosts(m, data.classes, N, l), longest = Math.max(...costs.map(c => c.step));
    for (const c of costs) {
      const bar = element("span", { className: c.kind === "prompt" ? "bar scores" : "bar" });
      bar.style.width = `${(60 * c.step / longest).toFixed(1)}%`;
      const kept = c.kept === c.trained ? "" : `, ${whole(c.kept)} kept`;
      bars.append(element("div", { className: "share" }, element("span", { className: "name", textContent: names[c.kind] }),
        element("span", { className: "track" }, bar, element("span", { textContent: `${c.step.toFixed(2)}` }))),
        element("div", { className: "numbers", style: "font-size: .85rem; margin: 0 0 .35rem 11rem", textContent: `${whole(c.trained)} trained${kept}` }));
    }
    const prompt = costs.find(c => c.kind === "prompt"), full = costs[0];
    headline.textContent = `prompt tuning: ${whole(prompt.trained)} of ${whole(m.parameters)} numbers train, for ${prompt.step.toFixed(2)} of the arithmetic of full fine-tuning`;
    note.textContent = `Bars: multiplications of a training step, full fine-tuning = 1. All train a head of ${whole(full.trained - (m.parameters - (m.width + 1) * data.classes))}. A network that writes the prompt is left out of the arithmetic.`;
  }

  for (const input of [model, length, tokens]) input.addEventListener("input", paint);
  model.value = data.model; length.value = data.length; tokens.value = data.tokens;
  paint();
}
