// Which rank has which shard of a layer, what it sends in a step, and what share of the time the messages take.
// data: {models: [{name, width, heads, length, layers}], model, ranks, per_node, sequences, speed (FLOP/s),
//        inside: {latency, bandwidth}, between: {latency, bandwidth}}
// The formulas mirror course_utils.tensor.cost, course_utils.hybrid.cost and course_utils.plan.

function tensorProblem(m, ranks) {
  if (m.heads % ranks === 0) return "";
  const divisors = [];
  for (let n = 1; n <= Math.min(m.heads, 64); n++) if (m.heads % n === 0) divisors.push(n);
  return `${m.heads} attention heads cannot be shared by ${ranks} ranks: make a group of ${divisors.join(", ")} ranks`;
}

function tensorLayer(data, m, ranks, sequences, mode) {
  const h = m.width, s = m.length, t = ranks, sbh = s * sequences * h, size = 2 * sbh;
  const around = mode === "tensor" ? 1 : t;
  const gathers = mode === "again" ? 2 : 0, part = (t - 1) * size / t;
  const link = t > data.per_node ? data.between : data.inside;
  const half = (t - 1) * (link.latency + size / t / link.bandwidth);  // one reduce-scatter or all-gather around the ring
  const inputs = mode === "kept" ? 2 * 2 * sbh * (1 - 1 / t) : 0;
  return {
    held: (12 * h * h + 7 * h) / t + 6 * h, whole: 12 * h * h + 13 * h,
    sent: 8 * part + gathers * part,
    norms: 10 * sbh / around + inputs, products: 24 * sbh / t, scores: 5 * sequences * m.heads * s * s / t,
    compute: 72 * sbh * h * (1 + s / (6 * h)) / t / data.speed,
    messages: (8 + gathers) * half,
  };
}

function mount(root, data) {
  const options = (select, values) => { for (const [value, textContent] of values) select.append(element("option", { value, textContent })); return select; };
  const model = options(element("select"), data.models.map(m => [m.name, m.name]));
  const count = options(element("select"), [1, 2, 4, 8, 16, 32].map(n => [n, n]));
  const batch = options(element("select"), [1, 2, 4, 8].map(n => [n, n]));
  const mode = options(element("select"), [["tensor", "tensor"], ["kept", "and sequence, inputs kept"], ["again", "and sequence, inputs gathered again"]]);
  const chips = element("div", { className: "controls" });
  chips.setAttribute("role", "group");
  chips.setAttribute("aria-label", "rank to look at");
  const picture = svg("svg", { viewBox: "0 0 640 150", role: "img", style: "width: 100%; max-width: 44rem; display: block" });
  const headline = element("output", { className: "value" }), facts = element("output"), bars = element("div", { className: "bars" }), note = element("output", { className: "note" });
  headline.setAttribute("aria-live", "polite");
  root.append(
    element("div", { className: "controls" }, element("label", {}, "model ", model), element("label", {}, "ranks ", count),
      element("label", {}, "sequences ", batch), element("label", {}, "parallel ", mode)),
    chips, picture, headline, facts, bars, note);
  let rank = 0;

  // Matrices as they multiply from the right: [x, y, width, height], cut by columns or by rows; 36 units are h.
  const matrices = [["q", 4, 50, 36, 36, "columns"], ["k", 60, 50, 36, 36, "columns"], ["v", 116, 50, 36, 36, "columns"],
    ["out", 196, 50, 36, 36, "rows"], ["fc1", 300, 50, 144, 36, "columns"], ["fc2", 520, 0, 36, 144, "rows"]];

  function draw(t) {
    picture.replaceChildren();
    for (const [name, x, y, w, high, cut] of matrices) {
      for (let r = 0; r < t; r++) {
        const step = (cut === "columns" ? w : high) / t, mine = r === rank;
        const box = cut === "columns" ? { x: x + r * step, y, width: step, height: high } : { x, y: y + r * step, width: w, height: step };
        picture.append(svg("rect", { ...box, fill: mine ? (cut === "columns" ? "#0072B2" : "#E69F00") : "none", stroke: "#888", "stroke-width": 0.6 }));
      }
      picture.append(svg("text", { x: x + w + 3, y: y + high / 2 + 4, "font-size": 12, fill: "currentColor" }, name));
    }
    for (const x of [236, 586]) picture.append(svg("text", { x: x + 12, y: 110, "font-size": 12, fill: "currentColor" }, "+ sum"));
    picture.setAttribute("aria-label", `q, k, v and fc1 are cut by columns, out and fc2 by rows, into ${t} parts; part ${rank} is filled`);
  }

  const range = (total, t) => { const n = total / t; return n === 1 ? `${rank}` : `${(rank * n).toLocaleString("en")} to ${((rank + 1) * n - 1).toLocaleString("en")}`; };

  function bar(name, seconds, all, kind) {
    const track = element("div", { className: "track" }), fill = element("div", { className: `bar ${kind}` });
    fill.style.width = `${60 * seconds / all}%`;
    track.append(fill, `${(1e3 * seconds).toPrecision(3)} ms, ${Math.round(100 * seconds / all)} %`);
    return element("div", { className: "share" }, element("span", { className: "name", textContent: name }), track);
  }

  function paint() {
    const m = data.models.find(m => m.name === model.value), t = Number(count.value), problem = tensorProblem(m, t);
    rank = Math.min(rank, t - 1);
    chips.replaceChildren("rank ", ...Array.from({ length: t }, (_, r) => {
      const button = element("button", { type: "button", textContent: r });
      button.setAttribute("aria-pressed", r === rank);
      if (r === rank) button.style.cssText = "font-weight: 700; border-width: 2px; border-color: #0072B2";
      button.addEventListener("click", () => { rank = r; paint(); chips.querySelectorAll("button")[r].focus(); });
      return button;
    }));
    draw(t);
    if (problem) { headline.textContent = problem; facts.textContent = ""; bars.replaceChildren(); note.textContent = ""; return; }
    const l = tensorLayer(data, m, t, Number(batch.value), mode.value), kept = l.norms + l.products + l.scores;
    headline.textContent = `rank ${rank}: heads ${range(m.heads, t)}, hidden units ${range(4 * m.width, t)}`;
    facts.textContent = `${(l.held / 1e6).toPrecision(4)} M of a layer's ${(l.whole / 1e6).toPrecision(4)} M parameters; keeps ${(kept / 2 ** 30).toPrecision(3)} GiB of it for backward; `
      + `sends ${(l.sent / 1e9).toPrecision(3)} GB for it in a step, ${(l.sent * m.layers / 1e9).toPrecision(3)} GB for all ${m.layers} layers`;
    bars.replaceChildren(bar("products", l.compute, l.compute + l.messages, ""), bar("messages", l.messages, l.compute + l.messages, "mlp"));
    note.textContent = t === 1 ? "one GPU: nothing is sent" : t > data.per_node
      ? `the group spans ${Math.ceil(t / data.per_node)} machines: every ring runs at the pace of the network between them, ${data.between.bandwidth / 1e9} GB/s a GPU`
      : `the group fits into one machine of ${data.per_node} GPUs: ${data.inside.bandwidth / 1e9} GB/s a GPU`;
  }

  for (const control of [model, count, batch, mode]) control.addEventListener("change", paint);
  model.value = data.model;
  count.value = data.ranks;
  batch.value = data.sequences;
  paint();
}
