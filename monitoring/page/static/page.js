// A field above long tables that leaves only the rows with a word in them. It is of no use without scripts, so it
// is made here. Rows that arrive later are looked at as well.

const LONG = 12; // rows

for (const table of document.querySelectorAll("table[data-filter]")) {
  const panel = table.closest(".panel");
  if (table.querySelectorAll("tbody tr:not(.group)").length >= LONG) addFilter(panel);
}

function addFilter(panel) {
  const title = panel.querySelector("h2").textContent;
  const label = document.createElement("label");
  label.className = "filter";
  label.dataset.keep = "";
  const input = document.createElement("input");
  input.type = "search";
  input.placeholder = `Filter ${title.toLowerCase()}`;
  input.setAttribute("aria-label", input.placeholder);
  label.append(input);
  panel.querySelector("header").append(label);
  input.addEventListener("input", () => sift(panel, input.value));
  new MutationObserver(() => input.value && sift(panel, input.value)).observe(panel, { childList: true, subtree: true });
}

// sift hides the rows without all of the words; a group's row is shown if one of its rows is, and a group whose own
// name fits is shown whole.
function sift(panel, text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (s) => words.every((w) => s.toLowerCase().includes(w));
  for (const body of panel.querySelectorAll("tbody")) {
    const group = body.querySelector("tr.group");
    const name = group ? `${group.querySelector(".name").textContent} ` : "";
    let any = false;
    for (const row of body.querySelectorAll("tr:not(.group)")) {
      const on = fits(name + row.textContent);
      any ||= on;
      if (row.hidden === on) row.hidden = !on;
    }
    const show = any || fits(name);
    if (group && group.hidden === show) group.hidden = !show;
  }
}
