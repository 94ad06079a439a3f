// Learning rate over a run: warm-up and cosine whose peak is tied to the global batch; the area bounds how far Adam moves a weight.
// data: course_utils.figures.schedule_area.answers, and start: {ranks, per_rank, epochs, lr, warmup, tied}.

function mount(root, data) {
  const { ranks, per_rank, epochs, lr } = data.areas.arguments, picture = drawing(), result = headline(), remark = note();
  const read = panel(root, data.start, {
    ranks: [slider, "processes", ranks],
    per_rank: [slider, "images on each", per_rank],
    epochs: [slider, "epochs", epochs],
    lr: [slider, `rate for a batch of ${data.lr_batch}`, lr, v => v.toExponential(0)],
    warmup: [slider, "warm-up", data.runs.arguments.warmup, v => `${Math.round(100 * v)} %`],
    tied: [tick, "rate grows with the batch"],
  }, paint);
  root.append(result, remark, picture);

  function paint() {
    const chosen = read(), run = lookUp(data.runs, chosen), { peak, area, times } = lookUp(data.areas, chosen), { rates } = lookUp(data.shapes, chosen);
    result.textContent = `a weight moves by at most ${area.toPrecision(3)}: ${short(times)} times what it began with`;
    remark.textContent = `global batch ${run.batch}, ${run.per_epoch} steps an epoch, ${run.steps} steps, warm-up ${run.rising}, largest rate ` +
      `${peak.toPrecision(2)}; a constant ${data.fine_tuning.toExponential(0)} (dashed) would come to ${run.plain.toPrecision(3)}`;
    const width = clear(picture, 250, `Learning rate over the run: ${remark.textContent}`);
    const left = 56, right = width - 12, top = 30, floor = 210, most = Math.max(peak, data.fine_tuning);
    const x = share => left + share * (right - left), y = rate => floor - rate / most * (floor - top);
    const line = rates.map((rate, k) => `${k ? "L" : "M"}${x(k / (rates.length - 1)).toFixed(1)} ${y(rate * peak).toFixed(1)}`).join("");
    picture.append(text(0, 12, "learning rate"), text((left + right) / 2, 246, "step", "middle"),
      text(left - 6, y(most) + 4, most.toPrecision(2), "end"), text(left - 6, floor + 4, "0", "end"),
      text(left, floor + 16, "0", "middle"), text(right, floor + 16, run.steps, "end"),
      svg("path", { d: `M${left} ${floor}H${right}`, stroke: "#888888" }),
      svg("path", { d: `${line}L${right} ${floor}L${left} ${floor}Z`, fill: "#0072B2", "fill-opacity": 0.25 }),
      svg("path", { d: line, fill: "none", stroke: "#0072B2", "stroke-width": 2.5 }),
      svg("path", { d: `M${left} ${y(data.fine_tuning)}H${right}`, stroke: "#D55E00", "stroke-dasharray": "6 4", "stroke-width": 2 }));
  }

  paint();
}
