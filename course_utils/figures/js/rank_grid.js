// The rank grid: choose data x pipeline x tensor and GPUs per node, click a rank; see its three groups and what it sends on each.
// data: {models: [{name, layers, width, heads, vocab, length, first, last, tied, batch, micro_batch, number, gradient, all_reduces}],
//   model, data, pipeline, tensor, perNode, rank, order, inside, between}; first, last: parameters of the end stages besides layers
//   and table; inside, between: bytes per second. Mirrors course_utils.hybrid.grid, .planner and .hybrid.

const AXES = ["data", "pipeline", "tensor"];
const LOOKS = { data: ["#0072B2", "D"], pipeline: ["#E69F00", "P"], tensor: ["#009E73", "T"] };

function gridStride(grid, axis) { return grid.order.slice(grid.order.indexOf(axis) + 1).reduce((n, other) => n * grid[other], 1); }

function gridCoordinates(grid, rank) { return AXES.map(axis => Math.floor(rank / gridStride(grid, axis)) % grid[axis]); }

function gridGroup(grid, rank, axis) {
  const stride = gridStride(grid, axis), first = rank - gridCoordinates(grid, rank)[AXES.indexOf(axis)] * stride;
  return Array.from({ length: grid[axis] }, (_, place) => first + place * stride);
}

function gridCrosses(grid, axis, perNode) { // whether any group of the axis lies on several nodes
  const at = AXES.indexOf(axis), ranks = grid.data * grid.pipeline * grid.tensor;
  for (let rank = 0; rank < ranks; rank++) if (gridCoordinates(grid, rank)[at] === 0) {
    const group = gridGroup(grid, rank, axis);
    if (Math.floor(group[0] / perNode) !== Math.floor(group.at(-1) / perNode)) return true;
  }
  return false;
}

function planProblem(model, grid) { // why the package refuses the plan; empty when it does not
  if (model.heads % grid.tensor) return `${model.heads} heads cannot be divided over ${grid.tensor} tensor-parallel ranks`;
  if (model.layers < grid.pipeline) return `${model.layers} layers are too few for ${grid.pipeline} pipeline stages`;
  const unit = grid.data * model.micro_batch;
  return model.batch % unit ? `a batch of ${model.batch} cannot be cut into micro-batches of ${model.micro_batch} on ${grid.data} replicas` : "";
}

function stageLayers(layers, stages) { // stages at the ends get the fewer
  const each = Math.floor(layers / stages), cut = Array(stages).fill(each);
  const innerFirst = [...cut.keys()].sort((a, b) => (a === 0 || a === stages - 1) - (b === 0 || b === stages - 1) || a - b);
  for (const stage of innerFirst.slice(0, layers % stages)) cut[stage] += 1;
  return cut;
}

function rankTraffic(model, grid, stage) { // bytes that a rank of a stage sends in one step, and parameters that it holds
  const layers = stageLayers(model.layers, grid.pipeline)[stage], h = model.width, t = grid.tensor, p = grid.pipeline;
  const first = stage === 0, last = stage === p - 1, m = model.batch / (grid.data * model.micro_batch);
  const table = Math.ceil(model.vocab * h / t);
  const held = layers * (Math.ceil((12 * h * h + 7 * h) / t) + 6 * h) + (first ? table + model.first : 0)
    + (last ? model.last + (model.tied && first ? 0 : table) : 0);
  const message = model.micro_batch * model.length * h * model.number;
  return { held, layers, micro_batches: m,
    data: 2 * (grid.data - 1) * held * model.gradient / grid.data,
    pipeline: ((last ? 0 : 1) + (first ? 0 : 1)) * m * message,
    tensor: layers * m * model.all_reduces * 2 * (t - 1) * message / t };
}

function gridBytes(n) {
  const [size, unit] = [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB"]].find(([size]) => n >= size) || [1, "bytes"];
  return `${Number((n / size).toPrecision(3))} ${unit}`;
}

function mount(root, data) {
  const controls = element("div", { className: "controls" }), inputs = {};
  const choose = (name, text, options) => {
    inputs[name] = element("select", {}, ...options.map(([value, label]) => element("option", { value, textContent: label })));
    inputs[name].value = data[name];
    controls.append(element("label", {}, text + " ", inputs[name]));
  };
  const whole = values => values.map(n => [n, n]);
  choose("model", "model", data.models.map(m => [m.name, m.name]));
  choose("data", "data", whole([1, 2, 4, 8, 16]));
  choose("pipeline", "pipeline", whole([1, 2, 4, 6, 8, 12]));
  choose("tensor", "tensor", whole([1, 2, 3, 4, 8]));
  choose("perNode", "GPUs per node", whole([1, 2, 4, 8, 16]));
  choose("order", "innermost", [["data,pipeline,tensor", "tensor"], ["tensor,data,pipeline", "pipeline"], ["tensor,pipeline,data", "data"]]);
  inputs.rank = element("input", { type: "number", min: 0, value: data.rank });
  controls.append(element("label", {}, "rank ", inputs.rank));
  const drawing = svg("svg", { role: "img", fill: "currentColor" });
  drawing.style.cssText = "width:100%;height:auto;display:block";
  const result = element("output", { className: "value" }), lines = element("div", {}), note = element("output", { className: "note" });
  result.setAttribute("aria-live", "polite");
  root.append(controls, drawing, result, lines, note);

  function draw(grid, chosen, perNode) {
    const ranks = grid.data * grid.pipeline * grid.tensor, WIDTH = 660, GAP = 6;
    const cell = ranks <= 32 ? 34 : ranks <= 128 ? 25 : 15, columns = Math.min(perNode, Math.floor((WIDTH - GAP) / cell));
    const rows = Math.ceil(Math.min(perNode, ranks) / columns), wide = Math.min(perNode, ranks, columns) * cell + GAP;
    const across = Math.max(1, Math.floor(WIDTH / wide)), nodes = Math.ceil(ranks / perNode), high = rows * cell + GAP;
    const member = new Map(AXES.flatMap(axis => gridGroup(grid, chosen, axis).map(rank => [rank, axis])));
    drawing.setAttribute("viewBox", `0 0 ${WIDTH} ${Math.ceil(nodes / across) * high}`);
    drawing.replaceChildren();
    for (let node = 0; node < nodes; node++) {
      const x = node % across * wide, y = Math.floor(node / across) * high;
      drawing.append(svg("rect", { x: x + 1, y: y + 1, width: wide - 4, height: high - 4, rx: 4, fill: "#88888822", stroke: "#888" }));
      for (let rank = node * perNode; rank < Math.min(ranks, (node + 1) * perNode); rank++) {
        const i = rank - node * perNode, cx = x + 3 + i % columns * cell, cy = y + 3 + Math.floor(i / columns) * cell;
        const axis = rank === chosen ? null : member.get(rank), [colour, letter] = axis ? LOOKS[axis] : ["#888888", ""];
        const box = svg("rect", { x: cx + 1, y: cy + 1, width: cell - 2, height: cell - 2, rx: 2, fill: colour,
          "fill-opacity": rank === chosen ? 0 : axis ? 0.45 : 0.12, stroke: rank === chosen ? "currentColor" : colour, "stroke-width": rank === chosen ? 3 : 0.7 });
        const item = svg("g", { "data-rank": rank, cursor: "pointer" }, svg("title", {}, `rank ${rank}`), box);
        const label = cell >= 25 ? `${letter}${rank}` : rank === chosen ? "" : letter;
        if (label) item.append(svg("text", { x: cx + cell / 2, y: cy + cell / 2 + 4, "text-anchor": "middle", "font-size": cell >= 34 ? 12 : 10 }, label));
        item.addEventListener("click", () => { inputs.rank.value = rank; paint(); });
        drawing.append(item);
      }
    }
  }

  function paint() {
    const model = data.models.find(m => m.name === inputs.model.value), perNode = Number(inputs.perNode.value);
    const grid = { order: inputs.order.value.split(",") };
    for (const axis of AXES) grid[axis] = Number(inputs[axis].value);
    const ranks = grid.data * grid.pipeline * grid.tensor, asked = Number(inputs.rank.value);
    const chosen = Math.min(Math.max(0, Number.isInteger(asked) ? asked : 0), ranks - 1);
    inputs.rank.max = ranks - 1;
    if (inputs.rank.value !== "" && asked !== chosen) inputs.rank.value = chosen;
    const [replica, stage, slice] = gridCoordinates(grid, chosen), problem = planProblem(model, grid);
    draw(grid, chosen, perNode);
    result.textContent = `${grid.data} x ${grid.pipeline} x ${grid.tensor} = ${ranks} ranks; rank ${chosen}: replica ${replica}, stage ${stage}, slice ${slice}`;
    drawing.setAttribute("aria-label", `${ranks} ranks in nodes of ${perNode}; marked are rank ${chosen} and the ranks of its three groups`);
    lines.replaceChildren();
    const sent = problem ? null : rankTraffic(model, grid, stage);
    for (const axis of [...AXES].reverse()) {
      const group = gridGroup(grid, chosen, axis), slow = gridCrosses(grid, axis, perNode), [colour, letter] = LOOKS[axis];
      const shown = group.length > 8 ? [...group.slice(0, 3), "...", group.at(-1)].join(", ") : group.join(", ");
      const bandwidth = slow ? data.between : data.inside;
      const cost = grid[axis] === 1 ? "sends nothing" : (sent ? `sends ${gridBytes(sent[axis])} a step, at ${bandwidth / 1e9} GB/s ${Number((sent[axis] / bandwidth).toPrecision(3))} s; ` : "") + (slow ? "leaves the node" : "stays in the node");
      const key = svg("svg", { width: 18, height: 18, "aria-hidden": "true" }, svg("rect", { x: 1, y: 1, width: 16, height: 16, rx: 2, fill: colour, "fill-opacity": 0.45, stroke: colour }),
        svg("text", { x: 9, y: 13, "text-anchor": "middle", "font-size": 11, fill: "currentColor" }, letter));
      key.style.verticalAlign = "-3px";
      lines.append(element("output", { className: axis }, key, ` ${axis}: ranks ${shown}; ${cost}`));
    }
    note.textContent = problem || `${sent.layers} layers of ${model.name} on this stage, ${(sent.held / 1e9).toPrecision(3)} billion parameters on this rank, ${sent.micro_batches} micro-batches a step`;
  }

  for (const control of Object.values(inputs)) control.addEventListener("input", paint);
  paint();
}
