// The rank grid: choose the size of each axis and GPUs per node, click a rank; see its groups and what it sends on each.
// data: course_utils.figures.rank_grid.answers, and start: {model, a size for each axis, innermost, per_node, rank}.
// There are too many ranks for a table of their groups: makeGrid mirrors course_utils.hybrid.grid.

function makeGrid(sizes, order) { // sizes: ranks of each axis by name; order: the axes from the outermost to the innermost
  const stride = {}; // how far apart the numbers of two neighbours on an axis are
  const ranks = order.reduceRight((n, axis) => (stride[axis] = n) * sizes[axis], 1);
  const place = (rank, axis) => Math.floor(rank / stride[axis]) % sizes[axis];
  const group = (rank, axis) => Array.from({ length: sizes[axis] }, (_, n) => rank + (n - place(rank, axis)) * stride[axis]);
  const crosses = (axis, perNode) => { // whether any group of the axis lies on several nodes
    for (let rank = 0; rank < ranks; rank++) if (place(rank, axis) === 0) {
      if (Math.floor(rank / perNode) !== Math.floor(group(rank, axis).at(-1) / perNode)) return true;
    }
    return false;
  };
  return { ranks, place, group, crosses };
}

function mount(root, data) {
  const axes = data.axes.map(axis => axis.name), looks = Object.fromEntries(data.axes.map(axis => [axis.name, axis]));
  const picture = drawing(), result = headline(), lines = element("div"), remark = note();
  const read = panel(root, data.start, {
    model: [menu, "model", data.sent.arguments.model],
    ...Object.fromEntries(axes.map(axis => [axis, [menu, axis, data.sent.arguments[axis]]])),
    per_node: [menu, "GPUs per node", [1, 2, 4, 8, 16]],
    innermost: [menu, "innermost", [...axes].reverse()],
  }, paint);
  const number = element("input", { type: "number", min: 0, value: data.start.rank });
  root.lastChild.append(element("label", {}, "rank ", number));
  root.append(picture, result, lines, remark);

  function draw(grid, chosen, perNode, sentence) {
    const GAP = 6, width = clear(picture, 1, sentence), room = width - GAP;
    const cell = Math.max(15, Math.min(room / 8, grid.ranks <= 32 ? 34 : grid.ranks <= 128 ? 25 : 15)), columns = Math.min(perNode, Math.floor(room / cell));
    const rows = Math.ceil(Math.min(perNode, grid.ranks) / columns), wide = Math.min(perNode, grid.ranks, columns) * cell + GAP;
    const across = Math.max(1, Math.floor((width + 1) / wide)), nodes = Math.ceil(grid.ranks / perNode), high = rows * cell + GAP;
    const member = new Map(axes.flatMap(axis => grid.group(chosen, axis).map(rank => [rank, looks[axis]])));
    picture.setAttribute("viewBox", `0 0 ${width} ${Math.ceil(nodes / across) * high}`);
    for (let rank = 0; rank < grid.ranks; rank++) {
      const node = Math.floor(rank / perNode), i = rank % perNode, x = node % across * wide, y = Math.floor(node / across) * high;
      if (i === 0) picture.append(svg("rect", { x: x + 1, y: y + 1, width: wide - 4, height: high - 4, rx: 4, fill: "#88888822", stroke: "#888" }));
      const cx = x + 3 + i % columns * cell, cy = y + 3 + Math.floor(i / columns) * cell, own = rank === chosen;
      const { colour, letter } = !own && member.get(rank) || { colour: "#888888", letter: "" };
      const box = svg("rect", { x: cx + 1, y: cy + 1, width: cell - 2, height: cell - 2, rx: 2, fill: colour,
        "fill-opacity": own ? 0 : letter ? 0.45 : 0.12, stroke: own ? "currentColor" : colour, "stroke-width": own ? 3 : 0.7 });
      const item = svg("g", { "data-rank": rank, cursor: "pointer" }, svg("title", {}, `rank ${rank}`), box);
      const label = cell >= 25 ? `${letter}${rank}` : letter;
      if (label) item.append(text(cx + cell / 2, cy + cell / 2 + 4, label, "middle", cell >= 34 ? 12 : 10));
      item.addEventListener("click", () => { number.value = rank; paint(); });
      picture.append(item);
    }
  }

  function line(axis, group, stays, sent) {
    const { colour, letter } = looks[axis], shown = group.length > 8 ? [...group.slice(0, 3), "...", group.at(-1)] : group;
    const mark = svg("svg", { width: 18, height: 18, "aria-hidden": "true" }, svg("rect", { x: 1, y: 1, width: 16, height: 16, rx: 2, fill: colour, "fill-opacity": 0.45, stroke: colour }),
      text(9, 13, letter, "middle", 11));
    mark.style.cssText = "vertical-align:-3px;fill:currentColor";
    const bandwidth = stays ? data.inside : data.between, cost = sent === undefined ? "" : `sends ${short(sent)} GB a step, at ${bandwidth} GB/s ${short(sent / bandwidth)} s; `;
    const words = group.length === 1 ? "sends nothing" : `${cost}${stays ? "stays in" : "leaves"} the node`;
    return element("output", { className: axis }, mark, ` ${axis}: rank${group.length > 1 ? "s" : ""} ${shown.join(", ")}; ${words}`);
  }

  function paint() {
    const chosen = read(), perNode = chosen.per_node, grid = makeGrid(chosen, [...axes.filter(axis => axis !== chosen.innermost), chosen.innermost]);
    const asked = Number(number.value), rank = Math.min(Math.max(0, Number.isInteger(asked) ? asked : 0), grid.ranks - 1);
    number.max = grid.ranks - 1;
    if (number.value !== "" && asked !== rank) number.value = rank;
    const answer = lookUp(data.sent, chosen), stage = looks.pipeline ? grid.place(rank, "pipeline") : 0;
    const [layers, held, ...sent] = answer.refused ? [] : answer.rows[answer.stages[stage]];
    result.textContent = `${axes.map(axis => chosen[axis]).join(" x ")} = ${grid.ranks} ranks; rank ${rank}: ${axes.map(axis => `${looks[axis].place} ${grid.place(rank, axis)}`).join(", ")}`;
    draw(grid, rank, perNode, `${grid.ranks} ranks in nodes of ${perNode}; marked are rank ${rank} and the ranks of its groups`);
    lines.replaceChildren(...axes.map((axis, k) => line(axis, grid.group(rank, axis), !grid.crosses(axis, perNode), sent[k])).reverse());
    remark.textContent = answer.refused ?? `${layers} layers of ${chosen.model} on this stage, ${held.toPrecision(3)} billion parameters on this rank, ${answer.micro_batches} micro-batches a step`;
  }

  paint();
}
