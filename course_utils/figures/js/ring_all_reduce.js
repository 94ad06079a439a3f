// A ring all-reduce, step by step: what every rank holds of every chunk, and which chunk goes where.
// data: {ranks, step}. Mirrors course_utils.data_parallel.collectives.ring_all_reduce and its trace.

const LETTERS = "abcdefgh", BLUE = "#0072B2", GREEN = "#009E73", ORANGE = "#E69F00";

function ringMoves(ranks, step) { // the messages of one step, 0 to 2 (ranks - 1) - 1; each rank sends one
  const reduce = step < ranks - 1, turn = reduce ? step : step - (ranks - 1);
  return Array.from({ length: ranks }, (_, source) => ({
    phase: reduce ? "reduce" : "gather", step: turn, source, destination: (source + 1) % ranks,
    chunk: (source - turn - (reduce ? 1 : 0) + 2 * ranks) % ranks,
  }));
}

function ringState(ranks, steps) { // after so many steps: [rank][chunk] -> whose numbers its sum holds
  const holds = Array.from({ length: ranks }, (_, rank) => Array.from({ length: ranks }, () => [rank]));
  for (let step = 0; step < steps; step++) {
    const sent = ringMoves(ranks, step).map(move => ({ ...move, whose: [...holds[move.source][move.chunk]] }));
    for (const { phase, destination, chunk, whose } of sent)
      holds[destination][chunk] = phase === "reduce" ? [...holds[destination][chunk], ...whose].sort() : whose;
  }
  return holds;
}

function mount(root, data) {
  const WIDTH = 640, TOP = 24, ROW = 30;
  const controls = element("div", { className: "controls" });
  const slider = (text, min, max, value) => {
    const input = element("input", { type: "range", min, max, step: 1, value }), shown = element("span", { className: "value" });
    controls.append(element("label", {}, text + " ", input, " ", shown));
    return [input, shown];
  };
  const [ranksInput, ranksShown] = slider("ranks N", 2, 8, data.ranks), [stepInput, stepShown] = slider("step", 0, 2 * data.ranks - 2, data.step);
  const back = element("button", { type: "button", textContent: "back" }), next = element("button", { type: "button", textContent: "next step" });
  controls.append(back, next);
  const drawing = svg("svg", { role: "img", fill: "currentColor" });
  drawing.style.cssText = "width:100%;height:auto;display:block";
  const result = element("output", { className: "value" }), note = element("output", { className: "note" });
  result.setAttribute("aria-live", "polite");
  root.append(controls, drawing, result, note);
  const number = x => Number(x.toFixed(3)).toString();

  function cell(x, y, width, whose, ranks, fresh) {
    const full = whose.length === ranks, colour = full ? GREEN : BLUE;
    const text = whose.map(rank => LETTERS[rank]).join("");
    return [
      svg("rect", { x, y, width, height: ROW - 6, rx: 3, fill: colour, "fill-opacity": full ? 0.55 : 0.08 + 0.3 * whose.length / ranks,
        stroke: fresh ? ORANGE : colour, "stroke-width": fresh ? 3 : 1 }),
      svg("text", { x: x + width / 2, y: y + 16.5, "text-anchor": "middle", "font-size": text.length > 6 ? 10.5 : 12.5 }, text),
    ];
  }

  function arrow(from, to, y) {
    return svg("path", { d: `M${from} ${y}H${to - 2}M${to - 7} ${y - 4}L${to - 1} ${y}L${to - 7} ${y + 4}`, stroke: ORANGE, "stroke-width": 2, fill: "none" });
  }

  function paint() {
    const ranks = Number(ranksInput.value), last = 2 * (ranks - 1);
    stepInput.max = last;
    const step = Math.min(Number(stepInput.value), last), holds = ringState(ranks, step), moves = step ? ringMoves(ranks, step - 1) : [];
    ranksInput.setAttribute("aria-valuetext", ranksShown.textContent = ranks);
    stepInput.setAttribute("aria-valuetext", stepShown.textContent = `${step} of ${last}`);
    back.disabled = step === 0;
    next.disabled = step === last;
    const gap = 26, width = (WIDTH - gap * (ranks + 1)) / ranks, left = rank => gap + rank * (width + gap);
    drawing.setAttribute("viewBox", `0 0 ${WIDTH} ${TOP + ranks * ROW}`);
    drawing.replaceChildren();
    for (let rank = 0; rank < ranks; rank++) {
      drawing.append(svg("text", { x: left(rank) + width / 2, y: 15, "text-anchor": "middle", "font-size": 12 }, ranks > 6 ? `${rank}` : `rank ${rank}`));
      for (let chunk = 0; chunk < ranks; chunk++) {
        const fresh = moves.some(move => move.destination === rank && move.chunk === chunk);
        drawing.append(...cell(left(rank), TOP + chunk * ROW, width, holds[rank][chunk], ranks, fresh));
      }
    }
    for (const { source, destination, chunk } of moves) {
      const y = TOP + chunk * ROW + (ROW - 6) / 2, out = left(source) + width + 2;
      drawing.append(arrow(out, out + gap - 3, y)); // the last rank's arrow leaves on the right ...
      if (destination === 0) drawing.append(arrow(1, gap - 1, y)); // ... and comes in again on the left
    }
    const phase = !step ? "before the first step" : step <= ranks - 1 ? "reduce-scatter: what comes is added" : "all-gather: what comes is kept";
    const finished = holds.flat().filter(whose => whose.length === ranks).length;
    result.textContent = `each rank has sent ${number(step / ranks)} S of ${number(last / ranks)} S`;
    note.textContent = `Step ${step} of ${last}; ${phase}. Finished sums: ${finished} of ${ranks * ranks} cells.`;
    drawing.setAttribute("aria-label", `Rows are chunks, columns ranks. ${note.textContent} ` +
      moves.map(move => `Rank ${move.source} sent chunk ${move.chunk} to rank ${move.destination}.`).join(" "));
  }

  const move = by => { stepInput.value = Number(stepInput.value) + by; paint(); };
  back.addEventListener("click", () => move(-1));
  next.addEventListener("click", () => move(1));
  for (const input of [ranksInput, stepInput]) input.addEventListener("input", paint);
  paint();
}
