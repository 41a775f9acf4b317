// Narrows the tables down. Everything is in the page without it.
"use strict";
(() => {
  const form = document.querySelector("form.filters");
  const rows = [...document.querySelectorAll("tr[data-user]")];
  if (!form || rows.length === 0) return;
  const field = (name) => form.elements.namedItem(name);
  const texts = rows.map((row) => row.textContent.toLowerCase());

  const apply = () => {
    const words = field("text").value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, at) => {
      const fits = ["user", "class", "decision"].every((name) => {
        const wanted = field(name).value;
        // A row that has no such thing, as a program has no class, stays.
        return !wanted || !(name in row.dataset) || row.dataset[name].split("\n").includes(wanted);
      });
      row.hidden = !(fits && words.every((word) => texts[at].includes(word)));
      if (!row.hidden) shown += 1;
    });
    const all = shown === rows.length;
    field("shown").value = all ? "All rows are shown." : `${shown} of ${rows.length} rows are shown. `;
    field("clear").hidden = all;
  };

  form.hidden = false;
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  field("clear").addEventListener("click", () => {
    form.reset();
    apply();
    field("text").focus();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(input|select|textarea)$/i.test(event.target.tagName)) {
      event.preventDefault();
      field("text").focus();
    }
  });
  apply();
})();
