"use strict";
const table = document.getElementById("task-table");
const body = table.tBodies[0];
const filter = document.getElementById("filter");
const unsolved = document.getElementById("unsolved");
const names = new Intl.Collator(undefined, { numeric: true });

function value(row, column) {
  const cell = row.cells[column];
  return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
}

/* Compares rows by name (column 0) or by number. Rows without a number come last in both directions. */
function compare(column, sign) {
  if (column === 0) return (a, b) => sign * names.compare(a.cells[0].textContent, b.cells[0].textContent);
  return (a, b) => {
    const [left, right] = [value(a, column), value(b, column)];
    if (left === null || right === null) return (left === null) - (right === null);
    return sign * (left - right);
  };
}

for (const button of table.querySelectorAll("thead button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement;
    const before = head.getAttribute("aria-sort");
    const rising = before === "none" ? head.cellIndex === 0 : before === "descending";
    for (const other of table.querySelectorAll("th[aria-sort]")) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", rising ? "ascending" : "descending");
    body.append(...[...body.rows].sort(compare(head.cellIndex, rising ? 1 : -1)));
  });
}

function show() {
  const wanted = filter.value.trim().toLowerCase();
  let count = 0;
  for (const row of body.rows) {
    const named = row.cells[0].textContent.toLowerCase().includes(wanted);
    row.hidden = !named || (unsolved !== null && unsolved.checked && !("unsolved" in row.dataset));
    count += row.hidden ? 0 : 1;
  }
  document.getElementById("shown").textContent = count === body.rows.length ? "" : `${count} of ${body.rows.length}`;
}

filter.addEventListener("input", show);
if (unsolved !== null) unsolved.addEventListener("change", show);
