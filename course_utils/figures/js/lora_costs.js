// What LoRA costs beside full fine-tuning: numbers trained, the arithmetic of a step, and the memory of what trains.
// data: course_utils.figures.lora_costs.answers, and start: {model, rank, tokens, matrices}.

function mount(root, data) {
  const { model, rank, tokens } = data.macs.arguments, result = headline(), remark = note(), bars = element("div", { className: "bars" });
  const read = panel(root, data.start, {
    model: [menu, "model", model],
    rank: [slider, "rank r", rank],
    tokens: [slider, "tokens of a text N", tokens],
    matrices: [ticks, "matrices with an update", data.matrices],
  }, paint);
  root.append(result, bars, remark);

  function paint() {
    const chosen = read(), { added, trained } = lookUp(data.numbers, chosen), macs = lookUp(data.macs, chosen), all = data.full[chosen.model];
    const rows = [["full", all, all, { forward: 1 / 3, backward: 2 / 3 }, ""], ["LoRA", all + added, trained, macs, "scores"]];
    bars.replaceChildren();
    for (const [name, , , step, kind] of rows) for (const pass of ["forward", "backward"]) bars.append(
      bar(`${name}: ${pass}`, step[pass], step[pass].toFixed(3), kind));
    for (const [name, held, moved, , kind] of rows) for (const [part, bytes] of [["weights", 4 * held], ["gradients", 4 * moved], ["Adam", 8 * moved]])
      bars.append(bar(`${name}: ${part}`, bytes / (8 * all), `${thousands(Math.round(bytes / 1e6))} MB`, kind));
    result.textContent = `${thousands(trained)} of ${thousands(all + added)} numbers train, for ${macs.step.toFixed(2)} of the arithmetic of full fine-tuning`;
    remark.textContent = "First four bars: multiplications of a step, full fine-tuning's = 1. The others: bytes in float32, without activations. The head trains in both.";
  }

  paint();
}
