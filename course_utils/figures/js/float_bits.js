// The bits of a number in a chosen format: click a bit, or type a number.
// data: {formats: [{name, exponent_bits, mantissa_bits, bias, specials}], format: name, value: number}
// The arithmetic mirrors course_utils.precision.formats; codes have at most 32 bits and are held as plain numbers.

function decode(f, code) {
  const m = f.mantissa_bits, top = 2 ** (f.exponent_bits + m);
  const negative = code >= top, magnitude = code % top;
  const E = Math.floor(magnitude / 2 ** m), M = magnitude % 2 ** m;
  if (f.specials === "ieee" && E === 2 ** f.exponent_bits - 1) return M ? NaN : negative ? -Infinity : Infinity;
  if (f.specials === "fn" && magnitude === top - 1) return NaN;
  const value = (E ? 2 ** m + M : M) * 2 ** (Math.max(E, 1) - f.bias - m);
  return negative ? -value : value;
}

function roundHalfEven(t) {
  const below = Math.floor(t), rest = t - below;
  return rest > 0.5 || (rest === 0.5 && below % 2) ? below + 1 : below;
}

function encode(f, x) {
  const m = f.mantissa_bits, top = 2 ** (f.exponent_bits + m);
  const largest = f.specials === "ieee" ? top - 2 ** m - 1 : f.specials === "fn" ? top - 2 : top - 1;
  const nan = f.specials === "ieee" ? top - 2 ** (m - 1) : top - 1;
  if (Number.isNaN(x)) return f.specials === "finite" ? 0 : nan;
  const negative = x < 0 || Object.is(x, -0), size = Math.abs(x);
  let code = largest + 1;
  if (size !== Infinity) {
    const smallest = 1 - f.bias;
    let leading = smallest;
    while (leading < 1023 && size >= 2 ** (leading + 1)) leading++;
    code = (leading - smallest) * 2 ** m + roundHalfEven(size / 2 ** leading * 2 ** m);
  }
  if (code > largest) code = f.specials === "finite" ? largest : f.specials === "fn" ? nan : largest + 1;
  return negative ? code + top : code;
}

function mount(root, data) {
  const select = element("select");
  for (const f of data.formats) select.append(element("option", { value: f.name, textContent: `${f.name}  (1/${f.exponent_bits}/${f.mantissa_bits})` }));
  const input = element("input", { type: "text", inputMode: "decimal", spellcheck: false });
  const bits = element("div", { className: "bits" });
  const value = headline(), formula = element("output"), remark = note();
  root.append(
    element("div", { className: "controls" }, element("label", {}, "format ", select), element("label", {}, "number ", input)),
    bits, value, formula, remark);

  let format = data.formats.find(f => f.name === data.format), code = encode(format, data.value), asked = data.value;
  const width = () => 1 + format.exponent_bits + format.mantissa_bits;
  const show = x => (Object.is(x, -0) ? "-0" : String(x));

  function layout() {
    bits.replaceChildren();
    const groups = [["sign", 1], ["exponent", format.exponent_bits], ["mantissa", format.mantissa_bits]];
    let place = width();
    for (const [name, count] of groups) {
      const row = element("div", { className: "cells" });
      for (let i = 0; i < count; i++) {
        const weight = 2 ** --place, label = `${name} bit ${count - 1 - i}`;
        const button = element("button", { type: "button", className: "bit" });
        button.addEventListener("click", () => {
          code += Math.floor(code / weight) % 2 ? -weight : weight;
          asked = decode(format, code);
          input.value = show(asked);
          paint();
        });
        button.dataset.weight = weight; button.dataset.label = label;
        row.append(button);
      }
      bits.append(element("div", { className: `field ${name}` }, element("span", { className: "name", textContent: `${name} (${count})` }), row));
    }
  }

  function paint() {
    for (const button of bits.querySelectorAll("button")) {
      const bit = Math.floor(code / button.dataset.weight) % 2;
      button.textContent = bit;
      button.setAttribute("aria-pressed", bit === 1);
      button.setAttribute("aria-label", `${button.dataset.label}: ${bit}`);
    }
    const x = decode(format, code), m = format.mantissa_bits, top = 2 ** (format.exponent_bits + m);
    const magnitude = code % top, E = Math.floor(magnitude / 2 ** m), M = magnitude % 2 ** m, sign = code >= top ? "−" : "";
    value.textContent = `= ${show(x)}`;
    formula.textContent = Number.isNaN(x) ? "not a number" : !Number.isFinite(x) ? "infinity: all exponent bits set, mantissa 0"
      : E ? `E = ${E}, M = ${M}:  ${sign}2^(${E} − ${format.bias}) × (1 + ${M}/${2 ** m})`
          : `E = 0, M = ${M}, subnormal:  ${sign}2^(1 − ${format.bias}) × ${M}/${2 ** m}`;
    const power = Math.max(E, 1) - format.bias - m, step = `2^${power} (${(2 ** power).toPrecision(3)})`.replace("-", "−");
    remark.textContent = Number.isNaN(asked) ? "type a number such as 25.125, 0.2 or 1e-8"
      : !Number.isFinite(x) ? "" : asked === x ? `exact; the next number is ${step} further out`
      : `you asked for ${show(asked)}; rounded by ${(x - asked).toPrecision(3)}; numbers here are ${step} apart`;
  }

  select.addEventListener("change", () => { format = data.formats.find(f => f.name === select.value); code = encode(format, asked); layout(); paint(); });
  input.addEventListener("input", () => { asked = input.value.trim() === "" ? NaN : Number(input.value); if (!Number.isNaN(asked)) code = encode(format, asked); paint(); });
  select.value = format.name;
  input.value = show(data.value);
  layout();
  paint();
}
