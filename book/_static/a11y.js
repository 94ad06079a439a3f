// Mends what the theme leaves out, for people who use a screen reader or a keyboard (axe-core's rules in brackets).
document.addEventListener("DOMContentLoaded", () => {
  // The triangles that unfold a part of the side bar have no name [summary-name].
  for (const summary of document.querySelectorAll(".bd-sidenav details > summary")) {
    const link = summary.closest("li")?.querySelector(":scope > a");
    if (!summary.textContent.trim()) summary.setAttribute("aria-label", `Sections of ${link ? link.textContent.trim() : "this part"}`);
  }
  // A label that hides the words on the button is worse than none [label-content-name-mismatch].
  for (const named of document.querySelectorAll(".search-button-field, summary[aria-label='Toggle hidden content']"))
    named.removeAttribute("aria-label");
  for (const button of document.querySelectorAll(".theme-switch-button")) {
    const words = Object.assign(document.createElement("span"), { className: "visually-hidden", textContent: "Color mode" });
    button.append(words);
    button.removeAttribute("aria-label");
  }
  // Works of the bibliography are not laid out as the list that their roles announce [aria-required-children].
  for (const part of document.querySelectorAll(".citation-list, .citation-list > .citation")) part.removeAttribute("role");
  // What scrolls sideways can be reached with the keyboard [scrollable-region-focusable].
  for (const box of document.querySelectorAll("div.cell_output .output, div.highlight pre, .course-figure"))
    if (box.scrollWidth > box.clientWidth && !box.querySelector("button, input, select, a")) box.tabIndex = 0;
});
