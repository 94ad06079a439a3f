// What fills a GPU: model, precision, batch and ranks in; a stacked bar, whether it fits, and the time of a step out.
// data: course_utils.figures.planner.answers(), and start: {model, gpu, states, batch}
// The arithmetic mirrors course_utils.plan.planner, activations and transformer, and course_utils.pipeline.

const GIB = 2 ** 30;
const PARTS = [
  ["weights", "weights", "#0072B2"], ["gradients", "gradients", "#56B4E9"], ["master_weights", "master weights", "#009E73"],
  ["moments", "moments", "#CC79A7"], ["gathered", "gathered", "#F0E442"], ["activations", "activations", "#D55E00"], ["recomputed", "working again", "#E69F00"],
  ["head", "logits", "#888888"]];
const AXES = ["data", "pipeline", "tensor", "context", "expert"];

const sum = numbers => numbers.reduce((a, b) => a + b, 0);
const replicas = p => p.data * p.expert;
const microBatches = p => p.batch / (replicas(p) * p.micro_batch);
const layerOf = (m, number) => m.kinds[number < m.dense ? 0 : 1];

function planProblem(p) {
  const m = p.model, stages = p.pipeline * p.chunks, unit = replicas(p) * p.micro_batch;
  for (const name of ["batch", "micro_batch", "chunks", ...AXES, "length"])
    if (p[name] < 1) return `${name} ${p[name]} is no count: choose a whole number of at least 1`;
  if (m.heads % p.tensor) return `${m.heads} heads cannot be divided over ${p.tensor} tensor-parallel ranks`;
  if (m.groups % p.tensor && p.tensor % m.groups) return `${m.groups} key-value heads cannot be divided over ${p.tensor} tensor-parallel ranks`;
  if (m.layers < stages) return `${m.layers} layers are too few for ${stages} pipeline stages`;
  if (p.length % p.context) return `${p.length} tokens cannot be divided over ${p.context} context-parallel ranks`;
  if (p.expert > 1 && (!m.experts || m.experts % p.expert)) return `${m.experts || "no"} experts of ${m.name} cannot be divided over ${p.expert} ranks`;
  if (p.batch % unit)
    return `a batch of ${p.batch} cannot be cut into micro-batches of ${p.micro_batch} on ${replicas(p)} replicas: `
      + `choose a multiple of ${unit}, such as ${Math.max(1, Math.floor(p.batch / unit)) * unit}`;
  const count = microBatches(p), fewer = Math.floor(count / p.pipeline) * p.pipeline;
  if (p.chunks > 1 && count > p.pipeline && count % p.pipeline)
    return `interleaved 1F1B cannot deal ${count} micro-batches out to ${p.pipeline} ranks in groups of ${p.pipeline}: `
      + `choose a multiple of ${p.pipeline}, such as ${fewer} or ${fewer + p.pipeline}`;
  return "";
}

function keptActivations(p, layer, recompute) {
  const number = p.states.number, tokens = p.length / p.context * p.micro_batch, around = p.sequence_parallel ? p.tensor : 1;
  const kept = origins => sum(layer.kept.filter(([origin]) => origins.includes(origin)).map(([origin, region, pieces, count]) =>
    tokens * count * (origin === "mask" ? +p.dropout : number) / (region === "norms" ? around : Math.min(p.tensor, pieces))));
  const rows = 4 * tokens * p.model.heads / p.tensor;
  if (recompute === "full") return kept(["input"]);
  if (recompute === "pointwise") return kept(["input", "product"]) + rows;
  if (recompute === "alternate")
    return kept(["input"]) + rows + number * tokens * sum(layer.products.map(([pieces, count]) => count / (pieces ? Math.min(p.tensor, pieces) : around)));
  const scores = p.kernel === "fused" ? rows : tokens * p.model.heads * p.length * (p.dropout ? 2 * number + 1 : number) / p.tensor;
  return kept(["input", "product", "pointwise", "mask"]) + (recompute === "selective" ? 0 : scores);
}

function stageLayers(layers, stages) {
  const each = Math.floor(layers / stages), rest = layers % stages;
  const inner = [...Array(stages).keys()].filter(s => s > 0 && s < stages - 1);
  const ends = [0, stages - 1].slice(0, Math.min(2, stages));
  const more = new Set([...inner, ...ends].slice(0, rest));
  return [...Array(stages).keys()].map(s => each + (more.has(s) ? 1 : 0));
}

function layersOf(p, stage) { // the numbers of the layers that a pipeline rank holds
  const sizes = stageLayers(p.model.layers, p.pipeline * p.chunks), numbers = [];
  for (let one = stage; one < sizes.length; one += p.pipeline)
    for (let n = 0; n < sizes[one]; n++) numbers.push(sum(sizes.slice(0, one)) + n);
  return numbers;
}

function held(p, numbers, first, last) { // parameters on one rank: outside of the experts, and of the experts
  const m = p.model, table = Math.ceil(m.vocab * m.width / p.tensor);
  const found = [0, 1].map(expert => sum(numbers.map(number => {
    const layer = layerOf(m, number), copies = expert ? m.experts / p.expert : 1, byRanks = {};
    for (const [pieces, count] of layer.divided[expert]) {
      const ranks = Math.min(p.tensor, pieces);
      byRanks[ranks] = (byRanks[ranks] || 0) + copies * count;
    }
    return copies * layer.whole[expert] + sum(Object.entries(byRanks).map(([ranks, count]) => Math.ceil(count / ranks)));
  })));
  if (first) found[0] += table + m.rest;
  if (last) found[0] += m.norm + (m.tied && first ? 0 : table);
  return found;
}

function peakLive(p, stage) { // stages' activations that a rank of 1F1B holds
  const m = microBatches(p);
  if (p.chunks === 1) return Math.min(m, p.pipeline - stage);
  return Math.min(p.chunks * m, (p.chunks - 1) * Math.min(p.pipeline, m) + 2 * (p.pipeline - 1 - stage) + 1);
}

function stageMemory(p, stage) {
  const first = stage === 0, last = stage === p.pipeline - 1, numbers = layersOf(p, stage), s = p.states;
  const all = held(p, numbers, first, last), alike = [replicas(p) * p.context, p.data * p.context];
  const divided = from => all[0] / (p.zero >= from ? alike[0] : 1) + all[1] / (p.zero >= from ? alike[1] : 1);
  const units = [numbers.slice(0, 2), numbers.slice(-2)].map(some => held(p, some, first, last));
  const unit = sum(units[1]) > sum(units[0]) ? units[1] : units[0], shared = (alike[0] > 1) * unit[0] + (alike[1] > 1) * unit[1];
  const kept = numbers.map(number => keptActivations(p, layerOf(p.model, number), p.recompute));
  const whole = numbers.map(number => keptActivations(p, layerOf(p.model, number), "none"));
  const tokens = p.length / p.context * p.micro_batch / p.tensor, logits = last * tokens * p.model.vocab;
  const atLoss = {
    weights: divided(3) * s.weights, gradients: divided(2) * (s.gradients + s.gradient_sum), master_weights: divided(1) * s.master_weights,
    moments: divided(1) * s.moments, gathered: shared * (p.zero >= 3) * s.unit,
    activations: sum(kept) * peakLive(p, stage) / p.chunks, recomputed: 0,
    head: last * tokens * 2 * s.number * p.model.width + (s.number + (p.tensor > 1 ? 16 : 12)) * logits,
  };
  const atLayer = { ...atLoss, gathered: atLoss.gathered + shared * (p.zero >= 2) * s.gradients, recomputed: Math.max(...whole.map((bytes, n) => bytes - kept[n])), head: s.number * logits };
  return total(atLayer) > total(atLoss) ? atLayer : atLoss;
}

const total = memory => sum(PARTS.map(([key]) => memory[key]));

function gpuMemory(p) {
  const stages = [...Array(p.pipeline).keys()].map(s => stageMemory(p, s));
  return stages.reduce((most, memory) => (total(memory) > total(most) ? memory : most));
}

function stepFlops(p, recompute) {
  const m = p.model, tokens = p.batch * p.length, counts = [m.dense, m.layers - m.dense];
  return 6 * m.width * m.vocab * tokens + sum(m.kinds.map(({ flops }, kind) => {
    const scores = flops.pairs * p.length, all = flops.products + scores;
    return counts[kind] * tokens * (3 * all + { none: 0, selective: scores, pointwise: 0, alternate: flops.alternate, full: all }[recompute]);
  }));
}

function planTime(p) {
  const gpus = AXES.reduce((n, axis) => n * p[axis], 1), m = microBatches(p);
  const bubble = (p.pipeline - 1 + (p.chunks - 1) * Math.max(0, p.pipeline - m)) / (m * p.chunks);
  const seconds = stepFlops(p, p.recompute) / (gpus * p.gpu.peak * p.busy) * (1 + bubble);
  return { gpus, bubble, seconds, mfu: stepFlops(p, "none") / (seconds * gpus * p.gpu.peak) };
}

function mount(root, data) {
  const result = headline(), stack = element("div", { className: "stack" }), legend = element("div", { className: "controls" }), facts = element("output"), remark = note();
  const find = (list, name) => list.find(item => item.name === name), names = list => list.map(item => item.name);
  const start = { micro_batch: 1, length: find(data.models, data.start.model).length, data: 1, context: 1, expert: 1, pipeline: 1, chunks: 1, tensor: 1, zero: 0, sequence_parallel: false,
    recompute: "none", kernel: "written_out", dropout: true, busy: 50, ...data.start };
  const words = { none: "nothing", selective: "scores", pointwise: "what is no product", alternate: "every other product", full: "layers", written_out: "written out", fused: "fused" }, inWords = name => words[name];
  const counts = { batch: "sequences a step", micro_batch: "micro-batch", length: "tokens", data: "data", pipeline: "× pipeline", tensor: "× tensor", context: "× context", expert: "× experts", chunks: "chunks a rank" };
  const read = panel(root, start, {
    model: [menu, "model", names(data.models)], gpu: [menu, "GPU", names(data.gpus)], states: [menu, "precision", names(data.states)],
    ...Object.fromEntries(Object.entries(counts).map(([name, label]) => [name, [count, label]])),
    zero: [menu, "ZeRO", [0, 1, 2, 3], stage => stage || "off"], sequence_parallel: [tick, "sequence parallel"],
    recompute: [menu, "recompute", data.recompute, inWords], kernel: [menu, "attention", ["written_out", "fused"], inWords],
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
    const memory = gpuMemory(plan), full = total(memory), room = plan.gpu.memory, scale = Math.max(full, room) * 1.02, time = planTime(plan);
    for (const [part, name, colour] of PARTS) {
      const piece = element("div", { title: `${name}: ${size(memory[part])}` });
      Object.assign(piece.style, { width: `${100 * memory[part] / scale}%`, background: colour });
      stack.append(piece);
      legend.append(key(colour, `${name} ${size(memory[part])}`));
    }
    const limit = element("div", { className: "limit", title: `${plan.gpu.name}: ${size(room)}` });
    limit.style.left = `${100 * room / scale}%`;
    stack.append(limit);
    result.textContent = `${size(full)} of ${size(room)}: ` + (full <= 0.9 * room ? "fits" : full <= room ? "fits, with less than a tenth to spare" : "does not fit");
    stack.setAttribute("aria-label", `${result.textContent}: ` + PARTS.map(([part, name]) => `${name} ${size(memory[part])}`).join(", "));
    facts.textContent = `${thousands(time.gpus)} GPU${time.gpus > 1 ? "s" : ""}, each step ${short(stepFlops(plan, plan.recompute) / 1e15)} PFLOP in `
      + `${duration(time.seconds)}; MFU ${(100 * time.mfu).toFixed(1)} %; 1 trillion tokens in ${duration(1e12 / (plan.batch * plan.length) * time.seconds)}`;
    remark.textContent = `${(plan.model.parameters / 1e9).toFixed(2)} billion parameters; ${microBatches(plan)} micro-batches a replica; `
      + `bubble ${(100 * time.bubble).toFixed(1)} % on top; the fullest GPU is shown (dashed: its memory); communication is not counted`;
  }

  const [model] = root.querySelectorAll("select"), tokens = root.querySelectorAll("input")[2];
  model.addEventListener("input", () => { tokens.value = find(data.models, model.value).length; }); // before the panel paints
  paint();
}
