// What every interactive figure uses to draw; it stands before the figure's own script, in the same scope.

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

function valueSlider(controls, text, values, start, say = String) { // over a list; returns what reads it, and says it beside it
  const far = v => (v === start ? 0 : Math.abs(Math.log(v / start)));
  const value = values.reduce((best, v, k) => (far(v) < far(values[best]) ? k : best), 0);
  const input = element("input", { type: "range", min: 0, max: values.length - 1, step: 1, value });
  const shown = element("span", { className: "value" });
  controls.append(element("label", {}, text + " ", input, " ", shown));
  return () => {
    input.setAttribute("aria-valuetext", shown.textContent = say(values[input.value]));
    return values[input.value];
  };
}

function menu(controls, text, options, start) { // options: text by value; returns what reads it
  const select = element("select");
  for (const [value, textContent] of Object.entries(options)) select.append(element("option", { value, textContent }));
  select.value = String(start);
  controls.append(element("label", {}, text + " ", select));
  return () => select.value;
}
