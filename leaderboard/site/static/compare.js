"use strict";
// Two models side by side: paired differences, and the same query of both.
(() => {
  const { element, name, number, state, load, loadShared } = finerRank;
  const { loadModel, neighboursOf, strip } = finerRank.strips;
  const ORDERS = {
    apart: ["largest disagreement first", (pair) => -Math.abs(pair.difference)],
    first: ["first is better by most", (pair) => -pair.difference],
    second: ["second is better by most", (pair) => pair.difference],
  };
  const byId = (id) => document.getElementById(id);
  let board, both, pairs;

  const shared = (category = "") =>
    [...both[0].meanOf.keys()]
      .filter((identity) => both[1].meanOf.has(identity) && (!category || categoryOf.get(identity) === category))
      .sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
  let categoryOf = new Map();

  // Over the identities that both were asked for; as finer-rank compare computes it.
  const difference = async (identities) => {
    const values = identities.map((identity) => both[0].meanOf.get(identity) - both[1].meanOf.get(identity));
    return finerRank.statistics.pairedDifference(values, await loadShared(`draws/${values.length}`));
  };
  const mean = (data, identities) => identities.reduce((sum, identity) => sum + data.meanOf.get(identity), 0) / identities.length;
  const pText = (p) => (p < 0.0001 ? "<0.0001" : p.toFixed(4));
  const withInterval = ({ value, low, high }) =>
    `${value > 0 ? "+" : ""}${number(value)}${low === null ? "" : ` [${number(low)}, ${number(high)}]`}`;

  const cell = (text, value) => element("td", { class: "column-number", "data-value": value }, text);
  const rowOf = (label, identities, found) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, name(label)),
      cell(identities.length, identities.length),
      cell(number(mean(both[0], identities)), mean(both[0], identities)),
      cell(number(mean(both[1], identities)), mean(both[1], identities)),
      cell(withInterval(found), found.value),
      cell(pText(found.p), found.p),
    );

  const tables = async () => {
    const mine = both;
    const identities = shared();
    categoryOf = new Map(both.flatMap((data) => data.queries.map((query) => [query.identity, query.category])));
    const categories = [...new Set(identities.map((identity) => categoryOf.get(identity)))].sort();
    const parts = [["all", identities]];
    if (categories.length > 1) parts.push(...categories.map((category) => [category, shared(category)]));
    const found = await Promise.all(parts.map(([, own]) => difference(own)));
    if (both !== mine) return; // others were chosen while draws were read
    byId("categories").tBodies[0].replaceChildren(...parts.map(([label, own], i) => rowOf(label, own, found[i])));
    const byDifference = identities
      .map((identity) => [identity, both[0].meanOf.get(identity), both[1].meanOf.get(identity)])
      .sort((a, b) => Math.abs(b[1] - b[2]) - Math.abs(a[1] - a[2]));
    byId("identities").tBodies[0].replaceChildren(
      ...byDifference.map(([identity, first, second]) =>
        element(
          "tr",
          {},
          element("th", { scope: "row" }, name(identity)),
          element("td", {}, name(categoryOf.get(identity))),
          cell(number(first), first),
          cell(number(second), second),
          cell(`${first > second ? "+" : ""}${number(first - second)}`, first - second),
        ),
      ),
    );
    verdict(identities, found[0]);
  };

  const verdict = (identities, { value, low, high, p, smallestP }) => {
    const names = both.map((data) => board.models.find((model) => model.key === data.key).name);
    const better = value > 0 ? 0 : 1;
    const children = [];
    if (value === 0) children.push("Both have the same mAP");
    else
      children.push(
        name(names[better]),
        p < 0.05 ? " is better than " : " has the higher mAP, but is not told apart from ",
        name(names[1 - better]),
      );
    children.push(
      `: difference ${withInterval({ value, low, high })}, p ${p < 0.0001 ? "<0.0001" : `= ${pText(p)}`}, over ${identities.length} identities.`,
    );
    if (smallestP >= 0.05) children.push(` So few identities cannot give a p below ${smallestP.toFixed(3)}.`);
    byId("verdict").replaceChildren(...children);
  };

  // The queries of one identity belong together by prompt, then by their order.
  const keyed = (data) => {
    const seen = new Map();
    return new Map(
      data.queries.map((query) => {
        const base = JSON.stringify([query.identity, query.promptId || query.prompt]);
        const turn = seen.get(base) ?? 0;
        seen.set(base, turn + 1);
        return [`${base}${turn}`, query];
      }),
    );
  };
  const pairUp = () => {
    const [first, second] = both.map(keyed);
    pairs = [];
    for (const [key, query] of first)
      if (second.has(key)) pairs.push({ queries: [query, second.get(key)], difference: query.ap - second.get(key).ap });
    const alone = first.size + second.size - 2 * pairs.length;
    byId("pairing").textContent =
      `${pairs.length} queries are paired by identity and prompt, several of one prompt by their order.` +
      (alone ? ` ${alone} have no counterpart.` : "");
  };

  let ordered = [];
  let drawing = 0;
  const drawPair = async () => {
    const mine = ++drawing;
    const [, key] = ORDERS[state.get("order", "apart")] ?? ORDERS.apart;
    ordered = finerRank.inOrder(pairs, key, false);
    const at = Math.min(Math.max(0, Number.parseInt(state.get("pair", "0"), 10) || 0), Math.max(0, ordered.length - 1));
    byId("place").textContent = ordered.length ? `${at + 1} of ${ordered.length}` : "none";
    byId("previous").disabled = at === 0;
    byId("next").disabled = at >= ordered.length - 1;
    finerRank.options(byId("order"), Object.entries(ORDERS).map(([value, [label]]) => [value, label]), state.get("order", "apart"));
    const pair = ordered[at];
    if (!pair) return byId("pair").replaceChildren();
    const strips = await Promise.all(
      pair.queries.map(async (query, i) => {
        const neighbours = await neighboursOf(both[i], query.index);
        const model = board.models.find((each) => each.key === both[i].key);
        const link = new URLSearchParams({ model: model.key, embedder: both[i].embedder, q: query.index });
        return element(
          "article",
          {},
          element("h3", {}, element("a", { href: `neighbours.html#${link}` }, name(model.name)), `: AP ${number(query.ap)}`),
          strip(both[i], query, neighbours),
        );
      }),
    );
    if (mine !== drawing) return undefined;
    const [query] = pair.queries;
    return byId("pair").replaceChildren(
      element("p", {}, "Asked for ", name(query.identity), query.prompt ? ": “" : "", query.prompt ? name(query.prompt) : "", query.prompt ? "”" : "", ` Difference of AP: ${pair.difference > 0 ? "+" : ""}${number(pair.difference)}.`),
      ...strips,
    );
  };

  let shown = "";
  const show = async () => {
    const keys = board.models.map((model) => model.key);
    const embedder = board.embedders.find((each) => each.key === state.get("embedder")) ?? board.embedders[0];
    const standings = await load(`${embedder.key}/standings`);
    const ranked = [...standings.rows, ...standings.incomplete].map((row) => keys[row[0]]);
    const every = [...ranked, ...keys.filter((key) => !ranked.includes(key))];
    const first = keys.includes(state.get("first")) ? state.get("first") : every[0];
    const second = keys.includes(state.get("second")) ? state.get("second") : (every.find((key) => key !== first) ?? first);
    if (first !== state.get("first") || second !== state.get("second") || embedder.key !== state.get("embedder")) {
      state.set({ first, second, embedder: embedder.key });
      return;
    }
    const entries = board.models.map((model) => [model.key, model.name]);
    finerRank.options(byId("first"), entries, first);
    finerRank.options(byId("second"), entries, second);
    finerRank.options(byId("embedder"), board.embedders.map((each) => [each.key, each.spec]), embedder.key);
    const wanted = [embedder.key, first, second].join("/");
    if (shown !== wanted) {
      shown = wanted;
      const found = await Promise.all([first, second].map((key) => loadModel(embedder.key, key)));
      if (shown !== wanted) return;
      if (found.includes(null)) {
        shown = "";
        byId("comparison").hidden = true;
        finerRank.say(`One of the two was not scored by ${embedder.spec}; choose another encoder.`);
        return;
      }
      both = found;
      if (!shared().length) {
        byId("comparison").hidden = true;
        finerRank.say("The two were asked for no identity in common.");
        return;
      }
      pairUp();
      await tables();
      if (shown !== wanted) return;
      byId("comparison").hidden = false;
      finerRank.say(first === second ? "One model is compared with itself; choose another." : "");
    }
    if (both && shown === wanted) await drawPair();
  };

  const start = async () => {
    board = await load("board");
    for (const id of ["first", "second"]) byId(id).addEventListener("change", (event) => state.set({ [id]: event.target.value, pair: "" }));
    byId("embedder").addEventListener("change", (event) => state.set({ embedder: event.target.value, pair: "" }));
    byId("order").addEventListener("change", (event) => state.set({ order: event.target.value === "apart" ? "" : event.target.value, pair: "" }));
    byId("swap").addEventListener("click", () => state.set({ first: state.get("second"), second: state.get("first"), pair: "" }));
    const step = (by) => {
      const at = Number.parseInt(state.get("pair", "0"), 10) || 0;
      const target = Math.min(ordered.length - 1, Math.max(0, at + by));
      state.set({ pair: target ? String(target) : "" });
    };
    byId("previous").addEventListener("click", () => step(-1));
    byId("next").addEventListener("click", () => step(1));
    document.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("select, input, .scroll")) return;
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by) return;
      event.preventDefault();
      step(by);
    });
    state.onChange(() => show().catch(finerRank.fail));
    await show();
  };
  start().catch(finerRank.fail);
})();
