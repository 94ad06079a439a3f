// What fills a GPU: model, precision, batch and ranks in; a stacked bar, whether it fits, and the time of a step out.
// data: {models, states, gpus: lists of the package's own descriptions, start: {model, gpu, states, batch}}
// The arithmetic mirrors course_utils.plan.planner, activations and transformer, and course_utils.pipeline.

const GIB = 2 ** 30;
const PARTS = [
  ["weights", "weights", "#0072B2"], ["gradients", "gradients", "#56B4E9"], ["master_weights", "master weights", "#009E73"],
  ["moments", "moments", "#CC79A7"], ["gathered", "gathered", "#F0E442"], ["activations", "activations", "#D55E00"], ["recomputed", "working again", "#E69F00"],
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
  const number = p.states.name === "FP32" ? 4 : 2, sbh = p.length * p.micro_batch * p.model.width;
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
  const held = rankParameters(p.model, layers, p.tensor, first, last), l = p.states;
  const shard = z => (p.zero >= z ? p.data : 1), number = l.name === "FP32" ? 4 : 2;
  const kept = layerActivations(p, p.recompute), waiting = Math.min(p.batch / (p.data * p.micro_batch), p.pipeline - stage);
  const atWork = rankParameters(p.model, Math.min(layers, 2), p.tensor, first, last);
  const whole = p.data > 1 ? (p.zero >= 2) * l.gradients + (p.zero >= 3) * l.weights : 0;
  const logits = p.length * p.micro_batch * (2 * number * p.model.width + 4 * p.model.vocab) / p.tensor;
  return {
    weights: held * l.weights / shard(3), gradients: held * (l.gradients + l.gradient_sum) / shard(2),
    master_weights: held * l.master_weights / shard(1), moments: held * l.moments / shard(1),
    gathered: atWork * whole, activations: waiting * layers * kept, recomputed: layerActivations(p, "none") - kept, head: last ? logits : 0,
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
  const result = headline(), stack = element("div", { className: "stack" }), legend = element("div", { className: "controls" }), facts = element("output"), remark = note();
  const find = (list, name) => list.find(item => item.name === name), names = list => list.map(item => item.name);
  const start = { micro_batch: 1, length: find(data.models, data.start.model).length, data: 1, pipeline: 1, tensor: 1, zero: 0, sequence_parallel: false,
    recompute: "none", kernel: "written_out", dropout: true, busy: 50, ...data.start };
  const words = { none: "nothing", selective: "scores", full: "layers", written_out: "written out", fused: "fused" }, inWords = name => words[name];
  const counts = { batch: "sequences a step", micro_batch: "micro-batch", length: "tokens", data: "data", pipeline: "× pipeline", tensor: "× tensor" };
  const read = panel(root, start, {
    model: [menu, "model", names(data.models)], gpu: [menu, "GPU", names(data.gpus)], states: [menu, "precision", names(data.states)],
    ...Object.fromEntries(Object.entries(counts).map(([name, label]) => [name, [count, label]])),
    zero: [menu, "ZeRO", [0, 1, 2, 3], stage => stage || "off"], sequence_parallel: [tick, "sequence parallel"],
    recompute: [menu, "recompute", ["none", "selective", "full"], inWords], kernel: [menu, "attention", ["written_out", "fused"], inWords],
    dropout: [tick, "dropout"], busy: [slider, "busy", Array.from({ length: 17 }, (_, k) => 10 + 5 * k), share => `${share} % of the peak`],
  }, paint);
  stack.setAttribute("role", "img");
  root.append(result, stack, legend, facts, remark);

  const size = bytes => `${(bytes / GIB).toFixed(bytes < 100 * GIB ? 1 : 0)} GiB`;
  const duration = s => (s < 120 ? `${s.toPrecision(3)} s` : s < 7200 ? `${(s / 60).toFixed(0)} min` : s < 172800 ? `${(s / 3600).toFixed(0)} h`
    : s < 63072000 ? `${(s / 86400).toFixed(0)} days` : `${(s / 31557600).toFixed(0)} years`);

  function paint() {
    const chosen = read();
    const plan = { ...chosen, model: find(data.models, chosen.model), gpu: find(data.gpus, chosen.gpu), states: find(data.states, chosen.states), busy: chosen.busy / 100 };
    const problem = Object.keys(counts).every(name => plan[name] >= 1) ? planProblem(plan) : "give whole numbers of at least 1";
    legend.replaceChildren(); stack.replaceChildren();
    if (problem) {
      [result.textContent, facts.textContent, remark.textContent] = ["does not divide", "", problem];
      stack.setAttribute("aria-label", problem);
      return;
    }
    const memory = gpuMemory(plan), sum = total(memory), room = plan.gpu.memory, scale = Math.max(sum, room) * 1.02, time = planTime(plan);
    for (const [part, name, colour] of PARTS) {
      const piece = element("div", { title: `${name}: ${size(memory[part])}` });
      Object.assign(piece.style, { width: `${100 * memory[part] / scale}%`, background: colour });
      stack.append(piece);
      legend.append(key(colour, `${name} ${size(memory[part])}`));
    }
    const limit = element("div", { className: "limit", title: `${plan.gpu.name}: ${size(room)}` });
    limit.style.left = `${100 * room / scale}%`;
    stack.append(limit);
    result.textContent = `${size(sum)} of ${size(room)}: ` + (sum <= 0.9 * room ? "fits" : sum <= room ? "fits, with less than a tenth to spare" : "does not fit");
    stack.setAttribute("aria-label", `${result.textContent}: ` + PARTS.map(([part, name]) => `${name} ${size(memory[part])}`).join(", "));
    facts.textContent = `${thousands(time.gpus)} GPU${time.gpus > 1 ? "s" : ""}, each step ${short(stepFlops(plan, plan.recompute) / 1e15)} PFLOP in `
      + `${duration(time.seconds)}; MFU ${(100 * time.mfu).toFixed(1)} %; 300 billion tokens in ${duration(3e11 / (plan.batch * plan.length) * time.seconds)}`;
    remark.textContent = `${(modelParameters(plan.model) / 1e9).toFixed(2)} billion parameters; ${plan.batch / (plan.data * plan.micro_batch)} micro-batches a replica; `
      + `bubble ${(100 * time.bubble).toFixed(1)} % on top; the fullest GPU is shown (dashed: its memory); communication is not counted`;
  }

  const [model] = root.querySelectorAll("select"), tokens = root.querySelectorAll("input")[2];
  model.addEventListener("input", () => { tokens.value = find(data.models, model.value).length; }); // before the panel paints
  paint();
}
