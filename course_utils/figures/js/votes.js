// What several ways of tuning answer together: each title gets the label that most of the chosen ones gave.
// data: course_utils.figures.votes.answers, and start: {ticked}.

function mount(root, data) {
  const result = headline(), remark = note(), bars = element("div", { className: "bars" });
  const read = panel(root, data.start, { ticked: [ticks, "who votes", data.ways] }, paint);
  root.append(result, remark, bars);

  function paint() {
    const { ticked } = read(), found = lookUp(data.votes, { ticked });
    bars.replaceChildren();
    if (found.refused) {
      [result.textContent, remark.textContent] = [found.refused, ""];
      return;
    }
    const voters = data.ways.filter((_, k) => ticked >> k & 1).length;
    const mistakes = found.mistakes.map(([label, answer, times]) => `${data.labels[label]} taken for ${data.labels[answer]} (${times})`);
    result.textContent = `${found.right} of ${data.titles} titles right: accuracy ${(found.right / data.titles).toFixed(3)}, macro-F1 ${found.macro_f1.toFixed(3)}`;
    remark.textContent = (voters > 1 ? `All ${voters} give the same answer to ${found.same} titles. ` : "") +
      `Most frequent mistakes: ${mistakes.join(", ") || "none"}. Bars: F1 of each label.`;
    data.labels.forEach((label, k) => bars.append(bar(label, found.f1[k] / 100, (found.f1[k] / 100).toFixed(2))));
  }

  paint();
}
