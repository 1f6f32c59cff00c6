"use strict";
// Charts came with the page as SVG: here those of one encoder are shown, and points say their names.
(() => {
  const { state } = finerRank;
  const select = document.getElementById("embedder");
  const show = () => {
    const keys = [...select.options].map((option) => option.value);
    const chosen = keys.includes(state.get("embedder")) ? state.get("embedder") : keys[0];
    if (chosen !== state.get("embedder")) return state.set({ embedder: chosen });
    select.value = chosen;
    for (const chart of document.querySelectorAll("figure[data-embedder]")) chart.hidden = chart.dataset.embedder !== chosen;
    return undefined;
  };
  select.addEventListener("change", () => state.set({ embedder: select.value }));
  const ask = (event) => {
    const mark = event.target.closest("[aria-label]") ?? event.target.querySelector?.("[aria-label]");
    if (mark?.closest("svg")) finerRank.say(mark.getAttribute("aria-label"));
  };
  for (const chart of document.querySelectorAll("figure.chart")) {
    chart.addEventListener("pointerover", ask);
    chart.addEventListener("focusin", ask);
  }
  state.onChange(show);
  show();
})();
