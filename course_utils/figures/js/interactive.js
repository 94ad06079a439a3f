// What the interactive figures are made of: controls, drawings, sentences. It stands before a figure's own script, in the same scope.

function element(tag, attributes = {}, ...children) {
  const e = Object.assign(document.createElement(tag), attributes);
  e.append(...children);
  return e;
}

function svg(tag, attributes, ...children) {
  const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, value);
  e.append(...children);
  return e;
}

function lookUp(table, chosen) { // an answer of figures.tabulate by its fields; {refused: why} where the package gave none
  const entry = Object.entries(table.arguments).reduce((at, [name, values]) => at[values.indexOf(chosen[name])], table.entries);
  return typeof entry === "string" ? { refused: entry } : Object.fromEntries(table.fields.map((field, k) => [field, entry[k]]));
}

// Controls: each is put into a box, set to a start value, and returns what reads it.

function slider(box, start, words, values, say = String) { // over a list, whose chosen value it says
  const value = values.reduce((best, v, k) => (Math.abs(v - start) < Math.abs(values[best] - start) ? k : best), 0);
  const input = element("input", { type: "range", min: 0, max: values.length - 1, step: 1, value }), shown = element("span", { className: "chosen" });
  box.append(element("label", {}, words + " ", element("span", { className: "slider" }, input, " ", shown)));
  return () => {
    input.setAttribute("aria-valuetext", shown.textContent = say(values[input.value]));
    return values[input.value];
  };
}

function menu(box, start, words, values, say = String) {
  const select = element("select", {}, ...values.map(value => element("option", { value, textContent: say(value) })));
  select.value = start;
  box.append(element("label", {}, words + " ", select));
  return () => values[select.selectedIndex];
}

function count(box, start, words) { // a whole number; NaN while something else stands there
  const input = element("input", { type: "number", min: 1, step: 1, value: start });
  box.append(element("label", {}, words + " ", input));
  return () => (/^\d+$/.test(input.value) ? Number(input.value) : NaN);
}

function tick(box, start, words) {
  const input = element("input", { type: "checkbox", checked: start });
  box.append(element("label", {}, input, " " + words));
  return () => input.checked;
}

function ticks(box, start, words, names) { // several boxes, read as a number: bit k is box k
  const inputs = names.map((value, k) => element("input", { type: "checkbox", value, checked: start >> k & 1 }));
  box.append(element("fieldset", { className: "controls" }, element("legend", { textContent: words }),
    ...inputs.map((input, k) => element("label", {}, input, " " + names[k]))));
  return () => inputs.reduce((sum, input, k) => sum + input.checked * 2 ** k, 0);
}

function panel(root, start, controls, paint) { // controls: [kind, words, ...] by name; returns what reads them all
  const box = element("div", { className: "controls" });
  root.append(box);
  const read = Object.entries(controls).map(([name, [kind, ...more]]) => [name, kind(box, start[name], ...more)]);
  box.addEventListener("input", paint);
  let width = root.clientWidth; // drawings have text of one size whatever their width: another width, another drawing
  new ResizeObserver(() => { if (width !== (width = root.clientWidth)) paint(); }).observe(root);
  return () => Object.fromEntries(read.map(([name, value]) => [name, value()]));
}

// Drawings and sentences.

function drawing() {
  const picture = svg("svg", { role: "img", fill: "currentColor" });
  picture.style.cssText = "width:100%;height:auto;display:block";
  return picture;
}

function clear(picture, height, sentence) { // ready to be drawn into, with room for its text; returns the width
  const width = Math.round(Math.min(640, picture.getBoundingClientRect().width || 640));
  picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
  picture.setAttribute("aria-label", sentence);
  picture.replaceChildren();
  return width;
}

function text(x, y, words, anchor = "start", size = 12) {
  return svg("text", { x, y, "text-anchor": anchor, "font-size": size }, words);
}

function headline() { // read aloud when it changes
  const output = element("output", { className: "value" });
  output.setAttribute("aria-live", "polite");
  return output;
}

function note() { return element("output", { className: "note" }); }

function bar(name, share, words, kind = "") { // a name, a bar of a share of the room, and what is said behind it
  const filled = element("span", { className: `bar ${kind}` });
  filled.style.width = `${60 * Math.min(1, share)}%`;
  return element("div", { className: "share" }, element("span", { className: "name", textContent: name }),
    element("span", { className: "track" }, filled, element("span", { textContent: words })));
}

function key(colour, words) { // an entry of a legend
  const box = element("span", { className: "key" });
  box.style.background = colour;
  return element("span", {}, box, words);
}

function thousands(n) { return n.toLocaleString("en-US"); }

function short(x, digits = 3) { // to so many digits, without zeros behind them
  const rounded = Number(x.toPrecision(digits));
  return Math.abs(rounded) < 1000 ? String(rounded) : thousands(rounded);
}
