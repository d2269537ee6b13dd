// Sorts tables, filters ranked tables and opens the fold of a link's target; without it all lines are shown.
"use strict";
(() => {
  const number = (cell) => {
    if (!cell) return NaN;
    const text = cell.dataset.value ?? cell.textContent.trim().replaceAll(",", "").replace("−", "-");
    return parseFloat(text.replace(/^< /, ""));
  };
  const words = new Intl.Collator("en", { numeric: true });

  function compare(a, b, numeric, way) {
    if (!numeric) return way * words.compare(a?.textContent ?? "", b?.textContent ?? "");
    const [x, y] = [number(a), number(b)];
    // Gaps stay last in both directions.
    return Number.isNaN(x) ? (Number.isNaN(y) ? 0 : 1) : Number.isNaN(y) ? -1 : way * (x - y);
  }

  function sort(table, head) {
    const lines = [...table.tBodies[0].rows];
    const column = head.cellIndex;
    const numeric = !head.classList.contains("name") || lines.every((line) => !Number.isNaN(number(line.cells[column])));
    const before = head.getAttribute("aria-sort");
    const up = before ? before === "descending" : !(numeric && head.textContent.includes("↑"));
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    lines.sort((a, b) => compare(a.cells[column], b.cells[column], numeric, up ? 1 : -1));
    for (const line of lines) line.classList.remove("group");
    table.tBodies[0].append(...lines);
  }

  function sortable(table) {
    for (const head of table.tHead.rows[0].cells) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => sort(table, head));
    }
  }

  function select(label, options) {
    const field = document.createElement("label");
    const choice = document.createElement("select");
    for (const [value, text] of options) choice.add(new Option(text, value));
    field.append(`${label} `, choice);
    return [field, choice];
  }

  function filters(ranked) {
    const lines = [...ranked.querySelectorAll("tbody tr")];
    const distinct = (key) => [...new Set(lines.map((line) => line.dataset[key]))];
    const sizes = distinct("size").sort((a, b) => a - b).map((n) => [n, Number(n).toLocaleString("en")]);
    const [sizeField, size] = select("networks", [["largest", "each method's largest"], ...sizes, ["", "all"]]);
    const families = distinct("family").sort().map((name) => [name, name]);
    const [familyField, family] = select("method", [["", "all"], ...families]);
    const show = () => {
      for (const line of lines) {
        const fits = size.value === "" || (size.value === "largest" ? "largest" in line.dataset : line.dataset.size === size.value);
        line.hidden = !fits || (family.value !== "" && line.dataset.family !== family.value);
      }
    };
    const controls = document.createElement("div");
    controls.className = "controls";
    controls.append(sizeField, familyField);
    ranked.prepend(controls);
    size.addEventListener("change", show);
    family.addEventListener("change", show);
    show();
  }

  function reveal() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
    target.scrollIntoView();
  }

  document.querySelectorAll("table.sortable").forEach(sortable);
  document.querySelectorAll(".ranked").forEach(filters);
  if (window.matchMedia("(max-width: 64rem)").matches) document.querySelector("nav details").open = false;
  window.addEventListener("hashchange", reveal);
  reveal();
})();
