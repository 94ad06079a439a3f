"""Every page held to the rules of accessibility by axe-core, in the light and in the dark.

In a file of its own: it is the longest test of the site, and other workers have the other pages' tests meanwhile.
"""

from __future__ import annotations

from site_window import Window, generated_by_sphinx

# In the dark only the colours differ, so only their rules are run again.
AXE = """async (rules) => {
  const options = rules ? {runOnly: {type: "rule", values: rules}} : {};
  const {violations} = await axe.run(document, {...options, resultTypes: ["violations"]});
  return violations.filter((v) => ["serious", "critical"].includes(v.impact))
    .map((v) => [v.id, `${v.nodes.length} x`, v.nodes[0].html.slice(0, 160), v.nodes[0].failureSummary].join(" "));
}"""

# All listings are coloured by one style sheet, all formulas set by one library, all signatures and entries of the API
# made by one template, a drawing is one image to it, and the frame is the same round every page: the first few stand
# for the rest, which become plain text or go. They are most of a page's elements, and axe's time grows with these.
THIN = """(frame) => {
  const rest = (selector, kept) => [...document.querySelectorAll(selector)].slice(kept);
  for (const e of [...rest("div.highlight pre", 3), ...rest("dt.sig", 6)]) e.textContent = e.textContent;
  for (const e of rest("article svg[role=img]", 1)) e.replaceChildren();
  for (const e of rest("mjx-container", 4)) e.replaceWith("formula");
  for (const e of [...rest("article dl.py", 12), ...rest("tbody tr", 40)]) e.remove();
  if (!frame) for (const e of document.querySelectorAll("nav")) e.replaceChildren();
}"""


def test_pages_can_be_read_by_everyone(window: Window, pages: list[str], axe: str) -> None:
    found = []
    for number, path in enumerate(page for page in pages if not generated_by_sphinx(page)):
        page = window.open(path)
        page.add_style_tag(content="*, ::before, ::after { transition: none !important; }")  # no colours on their way
        page.evaluate(THIN, number < 3)
        page.evaluate(axe)
        found += [f"{path}: {violation}" for violation in page.evaluate(AXE)]
        page.evaluate("document.documentElement.dataset.theme = 'dark'")
        page.wait_for_timeout(50)
        found += [f"{path}, dark: {violation}" for violation in page.evaluate(AXE, ["color-contrast"])]
    assert not found + window.troubles, "\n".join(found + window.troubles)
