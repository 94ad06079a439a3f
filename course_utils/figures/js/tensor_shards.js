// Which rank has which shard of a layer, what it sends in a step, and what share of the time the messages take.
// data: course_utils.figures.tensor_shards.answers, and start: {model, ranks, sequences, mode}.

// Matrices as they multiply from the right: name, x, y, width, height, cut by columns or by rows; 36 units are the model's width.
const WIDE = [["q", 4, 50, 36, 36, "columns"], ["k", 60, 50, 36, 36, "columns"], ["v", 116, 50, 36, 36, "columns"],
  ["out", 196, 50, 36, 36, "rows"], ["fc1", 300, 50, 144, 36, "columns"], ["fc2", 520, 0, 36, 144, "rows"]];
const NARROW = [["q", 2, 6, 36, 36, "columns"], ["k", 58, 6, 36, 36, "columns"], ["v", 114, 6, 36, 36, "columns"],
  ["out", 186, 6, 36, 36, "rows"], ["fc1", 2, 118, 144, 36, "columns"], ["fc2", 204, 64, 36, 144, "rows"]];

function mount(root, data) {
  const { model, ranks, sequences, mode } = data.layer.arguments, picture = drawing(), result = headline(), facts = element("output"), remark = note();
  const chips = element("div", { className: "controls" }), bars = element("div", { className: "bars" });
  chips.setAttribute("role", "group");
  chips.setAttribute("aria-label", "rank to look at");
  let rank = 0;
  const read = panel(root, data.start, {
    model: [menu, "model", model],
    ranks: [menu, "ranks", ranks],
    sequences: [menu, "sequences", sequences],
    mode: [menu, "parallel", mode, name => data.modes[name]],
  }, paint);
  root.append(chips, picture, result, facts, bars, remark);

  function draw(t) {
    const narrow = picture.getBoundingClientRect().width < 480;
    clear(picture, narrow ? 214 : 150, `q, k, v and fc1 are cut by columns, out and fc2 by rows, into ${t} parts; part ${rank} is filled`);
    for (const [name, x, y, w, high, cut] of narrow ? NARROW : WIDE) {
      for (let r = 0; r < t; r++) {
        const step = (cut === "columns" ? w : high) / t, box = cut === "columns" ? { x: x + r * step, width: step, y, height: high } : { x, width: w, y: y + r * step, height: step };
        picture.append(svg("rect", { ...box, fill: r !== rank ? "none" : cut === "columns" ? "#0072B2" : "#E69F00", stroke: "#888", "stroke-width": 0.6 }));
      }
      picture.append(text(x + w + 3, y + high / 2 + 4, name));
      if (cut === "rows") picture.append(text(x + w + 3, y + high / 2 + (name === "out" ? 28 : 22), "+ sum"));
    }
  }

  function paint() {
    const chosen = read(), t = chosen.ranks, l = lookUp(data.layer, chosen), { heads, hidden, layers } = data.models[chosen.model], { per_node, inside, between } = data.cluster;
    rank = Math.min(rank, t - 1);
    chips.replaceChildren("rank ", ...Array.from({ length: t }, (_, r) => {
      const button = element("button", { type: "button", textContent: r });
      button.setAttribute("aria-pressed", r === rank);
      button.addEventListener("click", () => { rank = r; paint(); chips.querySelectorAll("button")[r].focus(); });
      return button;
    }));
    draw(t);
    bars.replaceChildren();
    if (l.refused) {
      [result.textContent, facts.textContent, remark.textContent] = [l.refused, "", ""];
      return;
    }
    const range = (all, n = all / t) => (n === 1 ? `${rank}` : `${thousands(rank * n)} to ${thousands((rank + 1) * n - 1)}`);
    result.textContent = `rank ${rank}: heads ${range(heads)}, hidden units ${range(hidden)}`;
    facts.textContent = `${l.held.toPrecision(4)} M of a layer's ${l.whole.toPrecision(4)} M parameters; keeps ${l.kept.toPrecision(3)} GiB of it for backward; ` +
      `sends ${l.sent.toPrecision(3)} GB for it in a step, ${l.sent_by_all.toPrecision(3)} GB for all ${layers} layers`;
    for (const [name, kind] of [["products", ""], ["messages", "mlp"]]) {
      const share = l[name] / (l.products + l.messages);
      bars.append(bar(name, share, `${l[name].toPrecision(3)} ms, ${Math.round(100 * share)} %`, kind));
    }
    remark.textContent = t === 1 ? "one GPU: nothing is sent" : t > per_node
      ? `the group spans ${Math.ceil(t / per_node)} machines: every ring runs at the pace of the network between them, ${between} GB/s a GPU`
      : `the group fits into one machine of ${per_node} GPUs: ${inside} GB/s a GPU`;
  }

  paint();
}
