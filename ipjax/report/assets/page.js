// What makes the page answer: drawing at the width there is, tables that sort, selectors, light and dark, printing.
const data = JSON.parse(document.getElementById("data").textContent);
document.documentElement.classList.add("js");

const widths = new WeakMap();

function drawAll() {
  for (const place of document.querySelectorAll("[data-charts]")) {
    const width = place.clientWidth;
    if (!width || widths.get(place) === width) continue;
    widths.set(place, width);
    place.replaceChildren(...drawn(data[place.dataset.charts], place.dataset.label, width));
  }
}

drawAll();
let waiting = 0;
addEventListener("resize", () => {
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(drawAll);
});

function sortBy(table, column, button) {
  const header = button.closest("th"), ascending = header.getAttribute("aria-sort") === "descending" || !header.hasAttribute("aria-sort") && !button.dataset.numeric;
  for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const value = (row) => {
    const cell = row.cells[column];
    if (cell.dataset.sort !== undefined) return Number(cell.dataset.sort);
    return cell.textContent.trim() === "–" || !cell.textContent.trim() ? null : cell.textContent.trim();
  };
  const compared = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
  const rows = [...table.tBodies[0].rows].map((row) => [value(row), row]);
  rows.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : ascending ? compared(a, b) : compared(b, a)));
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

for (const table of document.querySelectorAll("table[data-sortable]")) {
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    const button = html("button", { type: "button" }, header.textContent);
    const cells = [...table.tBodies[0].rows].map((row) => row.cells[column]);
    if (column && cells.some((cell) => cell.dataset.sort !== undefined)) button.dataset.numeric = "yes"; // largest first
    header.replaceChildren(button);
    button.addEventListener("click", () => sortBy(table, column, button));
  });
}

for (const select of document.querySelectorAll("[data-filters]")) {
  const rows = document.querySelectorAll(`#table-${select.dataset.filters} tbody tr`);
  const filter = () => {
    rows.forEach((row) => { row.hidden = select.value !== "" && row.dataset.group !== select.value; });
    rows[0].closest("table").classList.toggle("one", select.value !== ""); // the column that says which is left out
  };
  select.addEventListener("change", filter);
  filter();
}

const theme = document.getElementById("theme"), system = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : system.matches);
const showTheme = () => {
  theme.textContent = isDark() ? "light" : "dark";
  theme.setAttribute("aria-label", `switch to ${theme.textContent} colours`);
};
theme.addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  showTheme();
});
system.addEventListener("change", showTheme);
showTheme();

let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const one of opened) one.open = true;
});
addEventListener("afterprint", () => {
  for (const one of opened) one.open = false;
});
