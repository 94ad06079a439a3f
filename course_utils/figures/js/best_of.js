// What the best of several equally good models seems to be worth, when the set that reports is the one that chose.
// data: course_utils.figures.best_of.answers, and start: {images, candidates, accuracy: per cent}.

function mount(root, data) {
  const { images, accuracy } = data.flattery.arguments, picture = drawing(), result = headline(), remark = note();
  const read = panel(root, data.start, {
    images: [slider, "test images", images, thousands],
    candidates: [slider, "models or epochs to choose from", data.candidates],
    accuracy: [slider, "true accuracy of each", accuracy, v => `${v} %`],
  }, paint);
  root.append(picture, result, remark);

  function paint() {
    const chosen = read(), k = chosen.candidates, { error, points } = lookUp(data.flattery, chosen), high = points[data.candidates.indexOf(k)];
    result.textContent = `the best of ${k} seems to be ${(chosen.accuracy + high).toFixed(2)} %, ${high.toFixed(2)} points too high`;
    remark.textContent = `One accuracy on ${thousands(chosen.images)} images has a standard error of ${error.toFixed(2)} points. ` +
      "Models that err on the same images, as the epochs of one run do, are fewer than their number.";
    const width = clear(picture, 226, `Points by which the best accuracy is too high, against the number of models: ${result.textContent}`);
    const left = 44, right = width - 16, top = 24, floor = 182, most = Math.max(1, Math.ceil(points.at(-1)));
    const x = count => left + (count - 1) / 99 * (right - left), y = value => floor - value / most * (floor - top);
    for (let i = 0; i <= 4; i++) picture.append(text(left - 8, y(most * i / 4) + 4, (most * i / 4).toFixed(2), "end"),
      svg("line", { x1: left, x2: right, y1: y(most * i / 4), y2: y(most * i / 4), stroke: "currentColor", opacity: 0.15 }));
    for (const count of [1, 25, 50, 75, 100]) picture.append(text(x(count), floor + 18, count, "middle"));
    picture.append(text(0, 12, "points too high"), text((left + right) / 2, 220, "models to choose from", "middle"),
      svg("polyline", { points: points.map((value, i) => `${x(data.candidates[i])},${y(value)}`).join(" "), fill: "none", stroke: "#0072B2", "stroke-width": 2.5 }),
      svg("circle", { cx: x(k), cy: y(high), r: 6, fill: "#D55E00" }));
  }

  paint();
}
