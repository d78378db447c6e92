// Shows below a chart what the pointer is over. The page is complete without it.
for (const hits of document.querySelectorAll(".c-hits")) {
  const out = hits.closest("figure").querySelector(".readout"), svg = hits.closest("svg");
  if (!out) continue;
  const idle = out.textContent, all = [...hits.children];
  const show = (x) => {
    let at = null;
    for (const r of all) {
      const b = r.getBoundingClientRect();
      const over = x !== null && x >= b.left && x < b.right;
      r.classList.toggle("c-at", over);
      if (over) at = r;
    }
    out.textContent = at ? at.textContent : idle;
  };
  svg.addEventListener("pointermove", (e) => show(e.clientX));
  svg.addEventListener("pointerleave", () => show(null));
}
