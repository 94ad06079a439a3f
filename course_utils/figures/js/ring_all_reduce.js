// A ring all-reduce, step by step: what every rank holds of every chunk, and which chunk goes where.
// data: course_utils.figures.ring_all_reduce.answers, and start: {ranks, step}.

function ringState(steps, done) { // after so many steps: [rank][chunk] -> whose numbers its sum holds
  const ranks = steps[0].length, holds = Array.from({ length: ranks }, (_, rank) => Array(ranks).fill([rank]));
  steps.slice(0, done).forEach((moves, step) => {
    const sent = moves.map(([source, destination, chunk]) => [destination, chunk, holds[source][chunk]]);
    for (const [rank, chunk, whose] of sent) holds[rank][chunk] = step < ranks - 1 ? [...holds[rank][chunk], ...whose].sort() : whose;
  });
  return holds;
}

function mount(root, data) {
  const TOP = 24, ROW = 30, BLUE = "#0072B2", GREEN = "#009E73", ORANGE = "#E69F00", picture = drawing(), result = headline(), remark = note();
  const step = element("input", { type: "range", min: 0, max: 2 * data.start.ranks - 2, step: 1, value: data.start.step }), stepShown = element("span", { className: "chosen" });
  const back = element("button", { type: "button", textContent: "back" }), next = element("button", { type: "button", textContent: "next step" });
  const read = panel(root, data.start, { ranks: [slider, "ranks N", data.ring.arguments.ranks] }, paint);
  root.lastChild.append(element("label", {}, "step ", element("span", { className: "slider" }, step, " ", stepShown)), back, next);
  root.append(picture, result, remark);

  function cell(x, y, width, whose, ranks, fresh) {
    const full = whose.length === ranks, colour = full ? GREEN : BLUE, letters = whose.map(rank => "abcdefgh"[rank]).join("");
    const size = Math.min(12.5, 1.6 * (width - 2) / letters.length); // on a phone eight letters fit as well
    return [svg("rect", { x, y, width, height: ROW - 6, rx: 3, fill: colour, "fill-opacity": full ? 0.55 : 0.08 + 0.3 * whose.length / ranks,
      stroke: fresh ? ORANGE : colour, "stroke-width": fresh ? 3 : 1 }), text(x + width / 2, y + 16.5, letters, "middle", size)];
  }

  function arrow(from, to, y) {
    return svg("path", { d: `M${from} ${y}H${to - 2}M${to - 6} ${y - 4}L${to - 1} ${y}L${to - 6} ${y + 4}`, stroke: ORANGE, "stroke-width": 2, fill: "none" });
  }

  function paint() {
    const { ranks } = read(), { steps } = lookUp(data.ring, { ranks }), last = steps.length, half = last / 2;
    step.max = last;
    const done = Number(step.value), moves = done ? steps[done - 1] : [], holds = ringState(steps, done);
    step.setAttribute("aria-valuetext", stepShown.textContent = `${done} of ${last}`);
    back.disabled = done === 0;
    next.disabled = done === last;
    const phase = !done ? "before the first step" : done <= half ? "reduce-scatter: what comes is added" : "all-gather: what comes is kept";
    const finished = holds.flat().filter(whose => whose.length === ranks).length;
    result.textContent = `each rank has sent ${short(done / ranks)} S of ${short(last / ranks)} S`;
    remark.textContent = `Step ${done} of ${last}; ${phase}. Finished sums: ${finished} of ${ranks * ranks} cells.`;
    const width = clear(picture, TOP + ranks * ROW, `Rows are chunks, columns ranks. ${remark.textContent} ` +
      moves.map(([source, destination, chunk]) => `Rank ${source} sent chunk ${chunk} to rank ${destination}.`).join(" "));
    const gap = width < 480 ? 14 : 26, wide = (width - gap * (ranks + 1)) / ranks, left = rank => gap + rank * (wide + gap);
    for (let rank = 0; rank < ranks; rank++) {
      picture.append(text(left(rank) + wide / 2, 15, wide < 40 ? `${rank}` : `rank ${rank}`, "middle"));
      for (let chunk = 0; chunk < ranks; chunk++) picture.append(...cell(left(rank), TOP + chunk * ROW, wide, holds[rank][chunk], ranks,
        moves.some(move => move[1] === rank && move[2] === chunk)));
    }
    for (const [source, destination, chunk] of moves) {
      const y = TOP + chunk * ROW + (ROW - 6) / 2, out = left(source) + wide + 2;
      picture.append(arrow(out, out + gap - 3, y)); // the last rank's arrow leaves on the right
      if (destination === 0) picture.append(arrow(1, gap - 1, y)); // and comes in again on the left
    }
  }

  const move = by => { step.value = Number(step.value) + by; paint(); };
  back.addEventListener("click", () => move(-1));
  next.addEventListener("click", () => move(1));
  paint();
}
