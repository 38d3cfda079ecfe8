"use strict";
// Sorts and filters what the page holds; without it the page shows all rows by room.
(() => {
  const table = document.getElementById("claims");
  if (!table) return;
  const at = (id) => document.getElementById(id);
  const rows = [...table.tBodies[0].rows];
  const heads = [...table.tHead.rows[0].cells];
  const words = new Intl.Collator("en", { numeric: true });
  let sorted = null;

  const text = (row, column) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();

  function sort(column, down) {
    const number = "number" in heads[column].dataset;
    const keys = new Map(rows.map((row) => [row, text(row, column)]));
    const compare = (a, b) => (number ? Number(a) - Number(b) : words.compare(a, b)) * (down ? -1 : 1);
    // what has no value stands at the end either way; equal ones stay as listed
    const order = [...rows].sort((a, b) => {
      const [x, y] = [keys.get(a), keys.get(b)];
      return x === "" || y === "" ? (x === "") - (y === "") : compare(x, y);
    });
    table.tBodies[0].append(...order);
    heads.forEach((head, i) => {
      if (i === column) head.setAttribute("aria-sort", down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    sorted = { column, down };
    at("order").value = String(column);
  }

  function filter() {
    const wanted = { room: at("room").value, verdict: at("verdict").value };
    const fits = (e) => Object.entries(wanted).every(([name, value]) => !value || e.dataset[name] === value);
    document.querySelectorAll("[data-room]").forEach((e) => { e.hidden = !fits(e); });
    document.querySelectorAll(".group").forEach((e) => { e.hidden = !e.querySelector(".row:not([hidden])"); });
    at("seen").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
  }

  heads.forEach((head, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.addEventListener("click", () => sort(i, sorted?.column === i && !sorted.down));
    head.replaceChildren(button);
    at("order").add(new Option(button.textContent, String(i)));
  });
  at("order").addEventListener("change", (event) => {
    if (event.target.value !== "") return sort(Number(event.target.value), false);
    table.tBodies[0].append(...rows);
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    sorted = null;
  });
  ["room", "verdict"].forEach((id) => at(id).addEventListener("change", filter));
  at("controls").addEventListener("submit", (event) => event.preventDefault());
  at("controls").hidden = false;
  filter();
})();
