// What several ways of tuning answer together: each title gets the label that most of the chosen ones gave.
// data: {answers: {name: "one letter a title"}, truth: "one letter a title", labels: [names], ticked: [names]}
// A tie goes to the chosen one that stands first. Accuracy and F1 as in course_utils.news.evaluate.report.

function vote(answers) {
  return [...answers[0]].map((_, i) => {
    const counts = new Map();
    for (const each of answers) counts.set(each[i], (counts.get(each[i]) ?? 0) + 1);
    const most = Math.max(...counts.values());
    return answers.find(each => counts.get(each[i]) === most)[i];
  }).join("");
}

function scores(truth, answers, labels) {
  const letter = k => String.fromCharCode(97 + k);
  const hits = labels.map(() => 0), asked = labels.map(() => 0), said = labels.map(() => 0), pairs = new Map();
  let right = 0;
  for (let i = 0; i < truth.length; i++) {
    const t = truth.charCodeAt(i) - 97, a = answers.charCodeAt(i) - 97;
    asked[t]++; said[a]++;
    if (t === a) { right++; hits[t]++; }
    else pairs.set(letter(t) + letter(a), (pairs.get(letter(t) + letter(a)) ?? 0) + 1);
  }
  const f1 = labels.map((_, k) => asked[k] + said[k] ? 2 * hits[k] / (asked[k] + said[k]) : 0);
  const there = f1.filter((_, k) => asked[k] > 0);
  const confused = [...pairs].sort((x, y) => y[1] - x[1] || (x[0] < y[0] ? -1 : 1))
    .map(([pair, count]) => ({ label: pair.charCodeAt(0) - 97, answer: pair.charCodeAt(1) - 97, count }));
  return { right, accuracy: right / truth.length, macroF1: there.reduce((a, b) => a + b, 0) / there.length, f1, confused };
}

function agreement(answers) {
  let all = 0;
  for (let i = 0; i < answers[0].length; i++) if (answers.every(each => each[i] === answers[0][i])) all++;
  return all;
}

function mount(root, data) {
  const names = Object.keys(data.answers), boxes = new Map();
  const controls = element("div", { className: "controls" });
  for (const name of names) {
    const box = element("input", { type: "checkbox", checked: data.ticked.includes(name) });
    box.addEventListener("change", paint);
    boxes.set(name, box);
    controls.append(element("label", {}, box, ` ${name}`));
  }
  const headline = element("output", { className: "value" }), note = element("output", { className: "note" });
  const bars = element("div", { className: "bars" });
  headline.setAttribute("aria-live", "polite");
  root.append(controls, headline, note, bars);

  function paint() {
    const chosen = names.filter(name => boxes.get(name).checked).map(name => data.answers[name]);
    bars.replaceChildren();
    if (!chosen.length) {
      headline.textContent = "choose at least one";
      note.textContent = "";
      return;
    }
    const together = vote(chosen), found = scores(data.truth, together, data.labels);
    headline.textContent = `${found.right} of ${data.truth.length} titles right: accuracy ${found.accuracy.toFixed(3)}, macro-F1 ${found.macroF1.toFixed(3)}`;
    const worst = found.confused.slice(0, 3).map(c => `${data.labels[c.label]} taken for ${data.labels[c.answer]} (${c.count})`);
    const same = chosen.length > 1 ? `All ${chosen.length} give the same answer to ${agreement(chosen)} titles. ` : "";
    note.textContent = `${same}Most frequent mistakes: ${worst.join(", ") || "none"}. Bars: F1 of each label.`;
    data.labels.forEach((label, k) => {
      const bar = element("span", { className: "bar" });
      bar.style.width = `${(70 * found.f1[k]).toFixed(1)}%`;
      bars.append(element("div", { className: "share" }, element("span", { className: "name", textContent: label }),
        element("span", { className: "track" }, bar, element("span", { textContent: found.f1[k].toFixed(2) }))));
    });
  }

  paint();
}
