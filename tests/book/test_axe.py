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

# All listings are coloured by one style sheet and all signatures made by one template: the first few stand for the
# rest, which become plain text. They are most of a page's elements, and axe's time grows with these.
THIN = """() => {
  const rest = (selector, kept) => [...document.querySelectorAll(selector)].slice(kept);
  for (const e of [...rest("div.highlight pre", 6), ...rest("dt.sig", 10)]) e.textContent = e.textContent;
}"""


def test_pages_can_be_read_by_everyone(window: Window, pages: list[str], axe: str) -> None:
    found = []
    for path in filter(lambda page: not generated_by_sphinx(page), pages):
        page = window.open(path)
        page.add_style_tag(content="*, ::before, ::after { transition: none !important; }")  # no colours on their way
        page.evaluate(THIN)
        page.evaluate(axe)
        found += [f"{path}: {violation}" for violation in page.evaluate(AXE)]
        page.evaluate("document.documentElement.dataset.theme = 'dark'")
        page.wait_for_timeout(50)
        found += [f"{path}, dark: {violation}" for violation in page.evaluate(AXE, ["color-contrast"])]
    assert not found, "\n".join(found)
