"use strict";
// Confusion between identities: whose photo is nearest to the images of whom.
(() => {
  const { element, name, number, state, load } = finerRank;
  const { loadModel } = finerRank.strips;
  const MAX_CELLS = 48; // identities of a table that can still be read
  const MAX_ROWS = 40;
  const byId = (id) => document.getElementById(id);
  const collator = new Intl.Collator("en", { numeric: true });
  let board, data;

  const link = (asked) => {
    const at = { model: data.key, embedder: data.embedder, identity: asked, outcome: "wrong" };
    return `neighbours.html#${new URLSearchParams(at)}`;
  };

  const matrix = (queries, identities) => {
    const box = byId("matrix");
    if (identities.length > MAX_CELLS) {
      box.replaceChildren(element("p", { class: "faint" }, `${identities.length} identities are too many for a matrix; choose a category, or read the tables below.`));
      return;
    }
    const counts = new Map();
    const totals = new Map();
    for (const query of queries) {
      const key = JSON.stringify([query.identity, query.nearestIdentity]);
      counts.set(key, (counts.get(key) ?? 0) + 1);
      totals.set(query.identity, (totals.get(query.identity) ?? 0) + 1);
    }
    // Photos of nobody who is asked for stand together in the last column.
    const known = new Set(identities);
    const others = [...new Set(queries.map((query) => query.nearestIdentity))].filter((identity) => !known.has(identity));
    const columns = [...identities, ...(others.length ? [null] : [])];
    const count = (asked, found) =>
      (found === null ? others : [found]).reduce((sum, each) => sum + (counts.get(JSON.stringify([asked, each])) ?? 0), 0);
    const head = element(
      "tr",
      {},
      element("th", { scope: "col" }, "asked for \\ turned into"),
      ...columns.map((identity) => element("th", { scope: "col", class: "slanted" }, element("span", {}, identity === null ? "distractors" : name(identity)))),
    );
    const rows = identities.map((asked) =>
      element(
        "tr",
        {},
        element("th", { scope: "row" }, name(asked)),
        ...columns.map((found) => {
          const n = count(asked, found);
          const share = n / totals.get(asked);
          const level = n ? Math.max(1, Math.ceil(share * 5)) : 0;
          const kind = asked === found ? "kept" : "lost";
          return element("td", { class: `cell ${kind} level-${level}` }, n ? String(n) : "");
        }),
      ),
    );
    box.replaceChildren(
      element(
        "table",
        { class: "confusion" },
        element("caption", {}, "Images by the identity of their nearest photo; the framed diagonal is what was asked for."),
        element("thead", {}, head),
        element("tbody", {}, ...rows),
      ),
    );
  };

  const cell = (text, value) => element("td", { class: "column-number", "data-value": value }, text);

  const tables = (queries) => {
    const pairs = new Map();
    const totals = new Map();
    for (const query of queries) {
      totals.set(query.identity, (totals.get(query.identity) ?? 0) + 1);
      const key = JSON.stringify([query.identity, query.nearestIdentity]);
      if (!pairs.has(key)) pairs.set(key, { asked: query.identity, found: query.nearestIdentity, n: 0, ap: 0 });
      const pair = pairs.get(key);
      pair.n += 1;
      pair.ap += query.ap;
    }
    const every = [...pairs.values()];
    const lost = every
      .filter((pair) => pair.asked !== pair.found)
      .sort((a, b) => b.n / totals.get(b.asked) - a.n / totals.get(a.asked) || b.n - a.n || collator.compare(a.asked, b.asked));
    byId("confusions").tBodies[0].replaceChildren(
      ...lost.slice(0, MAX_ROWS).map((pair) =>
        element(
          "tr",
          {},
          element("th", { scope: "row" }, name(pair.asked)),
          element("td", {}, name(pair.found)),
          cell(pair.n, pair.n),
          cell(number(pair.n / totals.get(pair.asked), 2), pair.n / totals.get(pair.asked)),
          cell(number(pair.ap / pair.n), pair.ap / pair.n),
          element("td", {}, element("a", { href: link(pair.asked), "aria-label": `wrong neighbours of ${pair.asked}` }, "neighbours")),
        ),
      ),
    );
    const into = new Map();
    for (const pair of every) {
      if (!into.has(pair.found)) into.set(pair.found, { identity: pair.found, n: 0, from: 0, kept: 0 });
      const entry = into.get(pair.found);
      if (pair.asked === pair.found) entry.kept = pair.n;
      else {
        entry.n += pair.n;
        entry.from += 1;
      }
    }
    const attractors = [...into.values()].filter((entry) => entry.n).sort((a, b) => b.n - a.n || b.from - a.from);
    byId("attractors").tBodies[0].replaceChildren(
      ...attractors.slice(0, MAX_ROWS).map((entry) => {
        const total = totals.get(entry.identity) ?? 0;
        return element(
          "tr",
          {},
          element("th", { scope: "row" }, name(entry.identity)),
          cell(entry.n, entry.n),
          cell(entry.from, entry.from),
          total ? cell(`${entry.kept} of ${total}`, entry.kept / total) : cell("not asked for", ""),
        );
      }),
    );
    const kept = queries.filter((query) => query.isRight).length;
    const cut = lost.length > MAX_ROWS ? ` The ${MAX_ROWS} most frequent of ${lost.length} confusions are listed.` : "";
    finerRank.say(`The nearest photo shows the right identity for ${kept} of ${queries.length} images.${cut}`);
  };

  let shown = "";
  const show = async () => {
    const embedder = board.embedders.find((each) => each.key === state.get("embedder")) ?? board.embedders[0];
    const scored = board.models.find((each) => each.embedders.includes(embedder.key));
    const model = board.models.find((each) => each.key === state.get("model")) ?? scored;
    if (model.key !== state.get("model") || embedder.key !== state.get("embedder")) {
      state.set({ model: model.key, embedder: embedder.key });
      return;
    }
    finerRank.options(byId("model"), board.models.map((each) => [each.key, each.name]), model.key);
    finerRank.options(byId("embedder"), board.embedders.map((each) => [each.key, each.spec]), embedder.key);
    const wanted = `${embedder.key}/${model.key}`;
    if (shown !== wanted) {
      shown = wanted;
      const found = await loadModel(embedder.key, model.key);
      if (shown !== wanted) return;
      if (!found) {
        shown = "";
        for (const body of [byId("matrix"), byId("confusions").tBodies[0], byId("attractors").tBodies[0]]) body.replaceChildren();
        finerRank.say(`${model.name} was not scored by ${embedder.spec}; choose another encoder.`);
        return;
      }
      data = found;
    }
    if (!data || `${data.embedder}/${data.key}` !== wanted) return;
    const categories = [...new Set(data.queries.map((query) => query.category))].sort(collator.compare);
    // Identities of different categories are never confused: each is ranked within its own.
    const category = categories.includes(state.get("category")) ? state.get("category") : "";
    finerRank.options(byId("category"), [["", "all"], ...categories.map((each) => [each, each])], category);
    const queries = data.queries.filter((query) => !category || query.category === category);
    const identities = [...new Set(queries.map((query) => query.identity))];
    const categoryOf = new Map(queries.map((query) => [query.identity, query.category]));
    identities.sort((a, b) => collator.compare(categoryOf.get(a), categoryOf.get(b)) || collator.compare(a, b));
    matrix(queries, identities);
    tables(queries);
  };

  const start = async () => {
    board = await load("board");
    byId("model").addEventListener("change", (event) => state.set({ model: event.target.value }));
    byId("embedder").addEventListener("change", (event) => state.set({ embedder: event.target.value }));
    byId("category").addEventListener("change", (event) => state.set({ category: event.target.value }));
    state.onChange(() => show().catch(finerRank.fail));
    await show();
  };
  start().catch(finerRank.fail);
})();
