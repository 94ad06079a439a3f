// What fills a GPU: model, precision, batch and ranks in; a stacked bar, whether it fits, and the time of a step out.
// data: {models, ledgers, gpus: lists of the package's own descriptions, start: {model, gpu, ledger, batch}}
// The arithmetic mirrors course_utils.plan.planner, activations and transformer.

const GIB = 2 ** 30;
const PARTS = [
  ["weights", "weights", "#0072B2"], ["gradients", "gradients", "#56B4E9"], ["master_weights", "master weights", "#009E73"],
  ["moments", "moments", "#CC79A7"], ["activations", "activations", "#D55E00"], ["recomputed", "working again", "#E69F00"],
  ["head", "logits", "#888888"]];

function modelParameters(m) {
  const rows = m.vocab + (m.positions === "learned" ? m.length : 0) + 2 * m.embedding_norm;
  const layer = 12 * m.width ** 2 + 13 * m.width;
  return m.layers * layer + rows * m.width + (2 + (m.tied ? 0 : m.vocab)) * m.width;
}

function planProblem(p) {
  for (const name of ["batch", "micro_batch", "data", "pipeline", "tensor"])
    if (p[name] < 1) return `${name} ${p[name]} is no count: choose a whole number of at least 1`;
  if (p.model.heads % p.tensor) return `${p.model.heads} heads cannot be divided over ${p.tensor} tensor-parallel ranks`;
  if (p.model.layers < p.pipeline) return `${p.model.layers} layers are too few for ${p.pipeline} pipeline stages`;
  const unit = p.data * p.micro_batch;
  if (p.batch % unit)
    return `a batch of ${p.batch} cannot be cut into micro-batches of ${p.micro_batch} on ${p.data} replicas: `
      + `choose a multiple of ${unit}, such as ${Math.max(1, Math.floor(p.batch / unit)) * unit}`;
  return "";
}

function layerActivations(p, recompute) {
  const number = p.ledger.name === "FP32" ? 4 : 2, sbh = p.length * p.micro_batch * p.model.width;
  const around = p.sequence_parallel ? p.tensor : 1;
  if (recompute === "full") return number * sbh / around;
  const kept = p.dropout ? 2 * number + 1 : number, heads = p.micro_batch * p.model.heads * p.length;
  const scores = p.kernel === "written_out" ? heads * p.length * kept : 4 * heads;
  return (4 * number + 2 * p.dropout) * sbh / around + 12 * number * sbh / p.tensor
    + (recompute === "selective" ? 0 : scores / p.tensor);
}

function stageLayers(layers, stages) {
  const each = Math.floor(layers / stages), rest = layers % stages;
  const inner = [...Array(stages).keys()].filter(s => s > 0 && s < stages - 1);
  const ends = [0, stages - 1].slice(0, Math.min(2, stages));
  const more = new Set([...inner, ...ends].slice(0, rest));
  return [...Array(stages).keys()].map(s => each + (more.has(s) ? 1 : 0));
}

function rankParameters(m, layers, tensor, first, last) {
  const h = m.width, table = Math.ceil(m.vocab * h / tensor);
  let held = layers * (Math.ceil((12 * h * h + 7 * h) / tensor) + 6 * h);
  if (first) held += table + ((m.positions === "learned" ? m.length : 0) + 2 * m.embedding_norm) * h;
  if (last) held += 2 * h + (m.tied && first ? 0 : table);
  return held;
}

function stageMemory(p, stage) {
  const first = stage === 0, last = stage === p.pipeline - 1, layers = stageLayers(p.model.layers, p.pipeline)[stage];
  const held = rankParameters(p.model, layers, p.tensor, first, last), l = p.ledger;
  const shard = z => (p.zero >= z ? p.data : 1), number = l.name === "FP32" ? 4 : 2;
  const kept = layerActivations(p, p.recompute), waiting = Math.min(p.batch / (p.data * p.micro_batch), p.pipeline - stage);
  const logits = p.length * p.micro_batch * (2 * number * p.model.width + 4 * p.model.vocab) / p.tensor;
  return {
    weights: held * l.weights / shard(3), gradients: held * (l.gradients + l.gradient_sum) / shard(2),
    master_weights: held * l.master_weights / shard(1), moments: held * l.moments / shard(1),
    activations: waiting * layers * kept, recomputed: layerActivations(p, "none") - kept, head: last ? logits : 0,
  };
}

const total = memory => PARTS.reduce((sum, [key]) => sum + memory[key], 0);

function gpuMemory(p) {
  const stages = [...Array(p.pipeline).keys()].map(s => stageMemory(p, s));
  return stages.reduce((most, memory) => (total(memory) > total(most) ? memory : most));
}

function stepFlops(p, recompute) {
  const m = p.model, s = p.length, tokens = p.batch * s;
  const scores = 4 * m.layers * s * m.width * tokens, layers = 24 * m.layers * m.width ** 2 * tokens + scores;
  const head = 2 * m.width * m.vocab * tokens;
  return 3 * (layers + head) + { none: 0, selective: scores, full: layers }[recompute];
}

function planTime(p) {
  const gpus = p.data * p.pipeline * p.tensor, bubble = (p.pipeline - 1) / (p.batch / (p.data * p.micro_batch));
  const seconds = stepFlops(p, p.recompute) / (gpus * p.gpu.peak * p.busy) * (1 + bubble);
  return { gpus, bubble, seconds, mfu: stepFlops(p, "none") / (seconds * gpus * p.gpu.peak) };
}

function mount(root, data) {
  const fields = {};
  const add = (name, label, input) => { fields[name] = input; return element("label", {}, `${label} `, input); };
  const choose = (name, label, options) => {
    const select = element("select");
    for (const [value, text] of options) select.append(element("option", { value, textContent: text }));
    return add(name, label, select);
  };
  const count = (name, label, value) => add(name, label, element("input", { type: "number", min: 1, step: 1, value }));
  const tick = (name, label, checked) => add(name, label, element("input", { type: "checkbox", checked }));
  const named = list => list.map(item => [item.name, item.name]);
  const busy = element("input", { type: "range", min: 10, max: 90, step: 5, value: 50 });

  const value = element("output", { className: "value" }), note = element("output", { className: "note" });
  const bar = element("div", { className: "stack" }), legend = element("div", { className: "legend" });
  const facts = element("output");
  value.setAttribute("aria-live", "polite");
  bar.setAttribute("role", "img");
  root.append(
    element("div", { className: "controls" },
      choose("model", "model", named(data.models)), choose("gpu", "GPU", named(data.gpus)),
      choose("ledger", "precision", data.ledgers.map(l => [l.name, l.name]))),
    element("div", { className: "controls" },
      count("batch", "sequences a step", data.start.batch), count("micro_batch", "micro-batch", 1), count("length", "tokens", 1)),
    element("div", { className: "controls" },
      count("data", "data", 1), count("pipeline", "× pipeline", 1), count("tensor", "× tensor", 1),
      choose("zero", "ZeRO", [0, 1, 2, 3].map(z => [z, z || "off"])), tick("sequence_parallel", "sequence parallel", false)),
    element("div", { className: "controls" },
      choose("recompute", "recompute", [["none", "nothing"], ["selective", "scores"], ["full", "layers"]]),
      choose("kernel", "attention", [["written_out", "written out"], ["fused", "fused"]]), tick("dropout", "dropout", true),
      add("busy", "busy", busy)),
    value, bar, legend, facts, note);
  if (!root.querySelector("style")) root.append(element("style", { textContent: `
    .stack { position: relative; display: flex; height: 2.2rem; margin: .5rem 0 .3rem; border: 1px solid #8888; }
    .stack div { height: 100%; } .stack .limit { position: absolute; top: -.35rem; bottom: -.35rem; height: auto; border-left: 3px dashed; }
    .legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .9rem; margin-bottom: .4rem; }
    .legend i { display: inline-block; width: .8rem; height: .8rem; margin-right: .35rem; border-radius: .15rem; }` }));

  const find = (list, name) => list.find(item => item.name === name);
  const whole = field => (/^\d+$/.test(field.value.trim()) ? Number(field.value) : NaN);
  const size = bytes => `${(bytes / GIB).toFixed(bytes < 100 * GIB ? 1 : 0)} GiB`;
  const short = x => (x < 100 ? x.toPrecision(3) : Math.round(x).toLocaleString("en"));
  const duration = s => (s < 120 ? `${s.toPrecision(3)} s` : s < 7200 ? `${(s / 60).toFixed(0)} min` : s < 172800 ? `${(s / 3600).toFixed(0)} h`
    : s < 63072000 ? `${(s / 86400).toFixed(0)} days` : `${(s / 31557600).toFixed(0)} years`);

  function read() {
    const plan = { model: find(data.models, fields.model.value), gpu: find(data.gpus, fields.gpu.value), ledger: find(data.ledgers, fields.ledger.value) };
    for (const name of ["batch", "micro_batch", "length", "data", "pipeline", "tensor"]) plan[name] = whole(fields[name]);
    for (const name of ["recompute", "kernel"]) plan[name] = fields[name].value;
    for (const name of ["dropout", "sequence_parallel"]) plan[name] = fields[name].checked;
    return { ...plan, zero: Number(fields.zero.value), busy: Number(busy.value) / 100 };
  }

  function paint() {
    const plan = read();
    busy.setAttribute("aria-valuetext", `${busy.value} % of the peak while computing`);
    const incomplete = ["batch", "micro_batch", "length", "data", "pipeline", "tensor"].some(name => !(plan[name] >= 1));
    const problem = incomplete ? "give whole numbers of at least 1" : planProblem(plan);
    legend.replaceChildren(); bar.replaceChildren();
    if (problem) {
      value.textContent = "does not divide"; facts.textContent = ""; note.textContent = problem;
      bar.setAttribute("aria-label", problem);
      return;
    }
    const memory = gpuMemory(plan), sum = total(memory), scale = Math.max(sum, plan.gpu.memory) * 1.02, time = planTime(plan);
    for (const [key, name, colour] of PARTS) {
      const piece = element("div", { title: `${name}: ${size(memory[key])}` });
      Object.assign(piece.style, { width: `${100 * memory[key] / scale}%`, background: colour });
      bar.append(piece);
      const mark = element("i");
      mark.style.background = colour;
      legend.append(element("span", {}, mark, `${name} ${size(memory[key])}`));
    }
    const limit = element("div", { className: "limit", title: `${plan.gpu.name}: ${size(plan.gpu.memory)}` });
    limit.style.left = `${100 * plan.gpu.memory / scale}%`;
    bar.append(limit);
    const room = 0.9 * plan.gpu.memory;
    value.textContent = `${size(sum)} of ${size(plan.gpu.memory)}: ` + (sum <= room ? "fits" : sum <= plan.gpu.memory ? "fits, with less than a tenth to spare" : "does not fit");
    bar.setAttribute("aria-label", `${value.textContent}: ` + PARTS.map(([key, name]) => `${name} ${size(memory[key])}`).join(", "));
    const tokens = plan.batch * plan.length;
    facts.textContent = `${time.gpus.toLocaleString("en")} GPU${time.gpus > 1 ? "s" : ""}, each step ${short(stepFlops(plan, plan.recompute) / 1e15)} PFLOP in `
      + `${duration(time.seconds)}; MFU ${(100 * time.mfu).toFixed(1)} %; 300 billion tokens in ${duration(3e11 / tokens * time.seconds)}`;
    note.textContent = `${(modelParameters(plan.model) / 1e9).toFixed(2)} billion parameters; ${plan.batch / (plan.data * plan.micro_batch)} micro-batches a replica; `
      + `bubble ${(100 * time.bubble).toFixed(1)} % on top; the fullest GPU is shown; communication is not counted`;
  }

  fields.model.addEventListener("change", () => { fields.length.value = find(data.models, fields.model.value).length; });
  root.addEventListener("input", paint);
  root.addEventListener("change", paint);
  fields.model.value = data.start.model; fields.gpu.value = data.start.gpu; fields.ledger.value = data.start.ledger;
  fields.length.value = find(data.models, data.start.model).length;
  paint();
}
