"use strict";
// One query at a time, or a page of them, with reference, generated image and nearest gallery photos.
(() => {
  const { element, name, number, state, load } = finerRank;
  const { loadModel, neighboursOf, strip } = finerRank.strips;
  const PER_PAGE = 12;
  const OUTCOMES = {
    "": ["any outcome", () => true],
    wrong: ["nearest photo is wrong", (query) => !query.isRight],
    right: ["nearest photo is right", (query) => query.isRight],
    copy: ["copies of a photo", (query) => query.isCopy],
    tied: ["tied", (query) => query.isTied],
  };
  const ORDERS = {
    worst: ["worst AP first", (query) => query.ap],
    best: ["best AP first", (query) => -query.ap],
    fooled: ["most similar to a wrong identity first", (query) => (query.topWrong === null ? Infinity : -query.topWrong)],
    similar: ["most similar to its reference first", (query) => -query.similarity],
    file: ["as in the run", (query) => query.index],
  };
  const byId = (id) => document.getElementById(id);
  let board, data, chosen;

  const texts = (values) => [...new Set(values)].filter((value) => value !== "").sort(new Intl.Collator("en", { numeric: true }).compare);

  const controls = () => {
    finerRank.options(byId("model"), board.models.map((model) => [model.key, model.name]), data.key);
    finerRank.options(byId("embedder"), board.embedders.map((each) => [each.key, each.spec]), data.embedder);
    const { queries } = data;
    const inCategory = queries.filter((query) => !state.get("category") || query.category === state.get("category"));
    finerRank.options(byId("category"), [["", "all"], ...texts(queries.map((q) => q.category)).map((c) => [c, c])], state.get("category"));
    finerRank.options(byId("identity"), [["", "all"], ...texts(inCategory.map((q) => q.identity)).map((i) => [i, i])], state.get("identity"));
    finerRank.options(byId("prompt"), [["", "all"], ...texts(queries.map((q) => q.prompt)).map((p) => [p, p])], state.get("prompt"));
    finerRank.options(byId("outcome"), Object.entries(OUTCOMES).map(([key, [label]]) => [key, label]), state.get("outcome"));
    finerRank.options(byId("order"), Object.entries(ORDERS).map(([key, [label]]) => [key, label]), state.get("order", "worst"));
  };

  const choose = () => {
    const [, passes] = OUTCOMES[state.get("outcome")] ?? OUTCOMES[""];
    const [, key] = ORDERS[state.get("order", "worst")] ?? ORDERS.worst;
    const matches = (query) =>
      passes(query) && ["category", "identity", "prompt"].every((field) => !state.get(field) || query[field] === state.get(field));
    return finerRank.inOrder(data.queries.filter(matches), key, false);
  };

  const details = (query) => {
    const entry = (label, ...value) => [element("dt", {}, label), element("dd", {}, ...value)];
    return element(
      "dl",
      {},
      ...entry("asked for", name(query.identity), query.category ? ` (${query.category})` : ""),
      ...(query.prompt ? entry("prompt", name(query.prompt)) : []),
      ...entry("AP", number(query.ap), `; first right photo at rank ${Number.isInteger(query.firstHit) ? query.firstHit : number(query.firstHit, 1)} of ${query.gallery}, ${query.relevant} are right`),
      ...entry("similarity", `${number(query.similarity)} to ${{ own_reference: "its reference", all_references: "all references", gallery_photos: "the identity's photos" }[data.similarityTo]}; ${query.topWrong === null ? "no wrong photo among the nearest" : `${number(query.topWrong)} to the nearest photo of another`}`),
      ...(query.isCopy ? entry("copy", element("span", { class: "flag" }, "near-duplicate of a photo")) : []),
      ...(query.isTied ? entry("ties", "right and wrong photos tie; the score is the expectation over their orders") : []),
      ...entry("file", name(query.file), query.seed ? `, seed ${query.seed}` : ""),
      ...entry("link", element("a", { href: state.link({ q: query.index, view: "" }) }, "this query")),
    );
  };

  let drawing = 0;
  const draw = async (places) => {
    const mine = ++drawing;
    const cards = await Promise.all(
      places.map(async (query) => {
        const neighbours = await neighboursOf(data, query.index);
        return element("article", { class: "query", "data-query": query.index }, strip(data, query, neighbours), details(query));
      }),
    );
    if (mine !== drawing) return;
    byId("query").replaceChildren(...cards);
  };

  const isGrid = () => state.get("view") === "page";
  const position = () => {
    const at = chosen.findIndex((query) => String(query.index) === state.get("q"));
    return at < 0 ? 0 : at;
  };

  // A step from query to query leaves the filters, and what passes them, as they are.
  let filtered = {};
  const filter = () => {
    const by = JSON.stringify(["category", "identity", "prompt", "outcome", "order"].map((field) => state.get(field)));
    if (filtered.data === data && filtered.by === by) return;
    controls();
    chosen = choose();
    filtered = { data, by };
  };

  const render = async () => {
    filter();
    byId("view").textContent = isGrid() ? "Show one at a time" : `Show ${PER_PAGE} at a time`;
    const at = position();
    const first = isGrid() ? at - (at % PER_PAGE) : at;
    const places = chosen.slice(first, first + (isGrid() ? PER_PAGE : 1));
    byId("place").textContent = places.length
      ? `${first + 1}${places.length > 1 ? `–${first + places.length}` : ""} of ${chosen.length}`
      : "none";
    byId("previous").disabled = first === 0;
    byId("next").disabled = first + places.length >= chosen.length;
    const right = chosen.filter((query) => query.isRight).length;
    finerRank.say(
      chosen.length
        ? `${chosen.length} of ${data.queries.length} queries; the nearest photo is right for ${right}.` +
            (data.model.hasPictures ? "" : " The gallery does not allow pictures: file names stand in their place.")
        : "No query is like that; choose another filter.",
    );
    await draw(places);
    // The next ones are read ahead, so that a step shows them at once.
    const ahead = chosen[first + places.length];
    if (ahead) preload(ahead);
  };

  const preload = async (query) => {
    const neighbours = await neighboursOf(data, query.index);
    for (const each of [query, ...query.references, ...neighbours]) if (each.picture) new Image().src = finerRank.thumbnail(each.picture);
  };

  const step = (by) => {
    if (!chosen?.length) return;
    const size = isGrid() ? PER_PAGE : 1;
    const target = Math.min(chosen.length - 1, Math.max(0, position() + by * size));
    state.set({ q: chosen[target].index });
  };
  const goTo = (target) => chosen?.length && state.set({ q: chosen.at(target).index });

  let shown = "";
  const show = async () => {
    const embedder = board.embedders.find((each) => each.key === state.get("embedder")) ?? board.embedders[0];
    const scored = board.models.find((each) => each.embedders.includes(embedder.key));
    const model = board.models.find((each) => each.key === state.get("model")) ?? scored;
    if (model.key !== state.get("model") || embedder.key !== state.get("embedder")) {
      state.set({ model: model.key, embedder: embedder.key });
      return;
    }
    const wanted = `${embedder.key}/${model.key}`;
    if (shown !== wanted) {
      shown = wanted;
      const found = await loadModel(embedder.key, model.key);
      if (shown !== wanted) return;
      if (!found) {
        shown = "";
        drawing++;
        chosen = [];
        byId("query").replaceChildren();
        byId("place").textContent = "none";
        byId("previous").disabled = byId("next").disabled = true;
        finerRank.options(byId("model"), board.models.map((each) => [each.key, each.name]), model.key);
        finerRank.options(byId("embedder"), board.embedders.map((each) => [each.key, each.spec]), embedder.key);
        finerRank.say(`${model.name} was not scored by ${embedder.spec}; choose another encoder.`);
        return;
      }
      data = found;
    }
    if (data && `${data.embedder}/${data.key}` === wanted) await render();
  };

  const start = async () => {
    board = await load("board");
    // A link may name the model's rivals' identity or prompt that this model was not asked for: filters start anew.
    const select = (id, clear = {}) =>
      byId(id).addEventListener("change", (event) => state.set({ [id]: event.target.value, ...clear }));
    select("model", { q: "" });
    select("embedder");
    select("category", { identity: "", q: "" });
    select("identity", { q: "" });
    select("prompt", { q: "" });
    select("outcome", { q: "" });
    byId("order").addEventListener("change", (event) => state.set({ order: event.target.value === "worst" ? "" : event.target.value, q: "" }));
    byId("previous").addEventListener("click", () => step(-1));
    byId("next").addEventListener("click", () => step(1));
    byId("view").addEventListener("click", () => state.set({ view: isGrid() ? "" : "page" }));
    document.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("select, input")) return;
      const act = { ArrowLeft: () => step(-1), ArrowRight: () => step(1), Home: () => goTo(0), End: () => goTo(-1) }[event.key];
      if (!act) return;
      event.preventDefault();
      act();
    });
    state.onChange(() => show().catch(finerRank.fail));
    await show();
  };
  start().catch(finerRank.fail);
})();
