// What each way to tune costs: numbers trained, numbers kept, and the arithmetic of a step beside full fine-tuning.
// data: course_utils.figures.prompt_costs.answers, and start: {model, length, tokens}.

function mount(root, data) {
  const { model, length, tokens } = data.costs.arguments, result = headline(), remark = note(), bars = element("div", { className: "bars" });
  const read = panel(root, data.start, {
    model: [menu, "model", model],
    length: [slider, "prompt length l", length],
    tokens: [slider, "tokens of a text N", tokens],
  }, paint);
  root.append(result, bars, remark);

  function paint() {
    const costs = lookUp(data.costs, read()), longest = Math.max(...Object.values(costs).map(cost => cost[2]));
    bars.replaceChildren();
    for (const [name, [trained, kept, step]] of Object.entries(costs)) bars.append(
      bar(name, step / longest, step.toFixed(2), name === "prompt tuning" ? "scores" : ""),
      element("div", { className: "below", textContent: `${thousands(trained)} trained${kept === trained ? "" : `, ${thousands(kept)} kept`}` }));
    const [trained, , step] = costs["prompt tuning"];
    result.textContent = `prompt tuning: ${thousands(trained)} of ${thousands(costs["full fine-tuning"][0])} numbers train, for ${step.toFixed(2)} of the arithmetic of full fine-tuning`;
    remark.textContent = `Bars: multiplications of a training step, full fine-tuning = 1. All train a head of ${thousands(costs["head alone"][0])}. ` +
      "A network that writes the prompt is left out of the arithmetic.";
  }

  paint();
}
