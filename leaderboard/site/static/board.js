"use strict";
// The table of models on a gallery.
(() => {
  const { element, svg, state, load, number, interval, name } = finerRank;
  const MAX_ROWS = 100; // drawn at once, unless all are asked for: a browser takes long to lay out more
  const FIXED = 10; // entries of a row before its scores
  const DEFAULT = ["mAP", "AUC", "identity_retention", "similarity", "clip_t", "copy_rate"];
  const KINDS = { own_reference: "to its own reference", all_references: "to all references", gallery_photos: "to gallery photos" };
  const byId = (id) => document.getElementById(id);
  let board, metrics, shownColumns, standings;

  const asRow = (kind) => (entry) => ({
    kind,
    model: typeof entry[0] === "number" ? board.models[entry[0]] : { key: "", name: entry[0] },
    rank: entry[1],
    best: entry[2],
    worst: entry[3],
    tied: entry[4],
    queries: entry[5],
    identities: entry[6],
    flags: entry[7],
    kinds: { similarity: entry[8], clip_t: entry[9] },
    scores: Object.fromEntries(metrics.map((metric, i) => [metric.key, entry[FIXED + i] ?? null])),
  });

  const columns = () => {
    const chosen = state.get("columns") ? state.get("columns").split(",") : DEFAULT;
    const plain = [
      { key: "queries", label: "images", of: (row) => row.queries, better: null },
      { key: "identities", label: "identities", of: (row) => row.identities, better: null },
      { key: "method", label: "method", of: (row) => row.model.method ?? "", better: null, isText: true },
      { key: "base_model", label: "base model", of: (row) => row.model.base_model ?? "", better: null, isText: true },
    ];
    const scored = metrics.map((metric) => ({
      key: metric.key,
      label: metric.label,
      metric,
      better: metric.higher_is_better,
      of: (row) => row.scores[metric.key]?.[0] ?? null,
    }));
    return [...scored, ...plain].map((column) => ({ ...column, isShown: chosen.includes(column.key) }));
  };

  const FIRST = [
    { key: "rank", label: "rank", of: (row) => row.rank, better: false },
    { key: "model", label: "model", of: (row) => row.model.name, better: null, isText: true },
  ];

  const explanation = (column, id) => {
    const lines = [];
    if (column.key === "rank")
      lines.push(
        "The places that a model may hold: behind every model that is significantly better, before all that are " +
          "worse (paired sign-flip tests over identities, Holm's correction over all pairs, 5 %).",
      );
    if (column.metric) {
      const { meaning, low, high, higher_is_better, chance, ceiling } = column.metric;
      lines.push(meaning);
      lines.push(`Range: ${low === null ? "no lower bound" : number(low, 0)} to ${high === null ? "no bound" : number(high, 0)}.`);
      lines.push({ true: "Higher is better.", false: "Lower is better.", null: "Neither end is better by itself." }[higher_is_better]);
      lines.push(`Chance: ${chance}. Ceiling: ${ceiling}.`);
      lines.push("Brackets: 95 % bootstrap interval over identities.");
    }
    return lines.length ? element("span", { class: "tip", role: "tooltip", id }, lines.join(" ")) : null;
  };

  const arrow = (column) => ({ true: " ↑", false: " ↓" })[column.better] ?? "";

  const headings = (sorted, descending) => {
    const cells = shownColumns.map((column) => {
      const tip = explanation(column, `about-${column.key}`);
      const button = element(
        "button",
        {
          type: "button",
          "data-column": column.key,
          "aria-describedby": tip ? tip.id : null,
          onclick: () => {
            const again = state.get("sort", "mAP") === column.key;
            const now = state.get("order") || (startsDescending(column) ? "down" : "up");
            const order = again ? (now === "down" ? "up" : "down") : startsDescending(column) ? "down" : "up";
            state.set({ sort: column.key, order });
          },
        },
        column.label + arrow(column),
      );
      const direction = column.key === sorted ? (descending ? "descending" : "ascending") : null;
      return element(
        "th",
        { scope: "col", class: `column-${column.isText ? "text" : "number"}`, "aria-sort": direction },
        button,
        tip,
      );
    });
    const focused = document.activeElement?.dataset.column;
    byId("board").tHead.replaceChildren(element("tr", {}, ...cells));
    if (focused) byId("board").tHead.querySelector(`[data-column="${focused}"]`)?.focus();
  };

  const startsDescending = (column) => column.better === true || (column.metric && column.better === null);

  // Where value, interval and anchors lie between 0 and the end of the scale.
  const bar = (estimate, anchors, end) => {
    const [value, low, high] = estimate;
    const x = (v) => 3 + 94 * Math.min(1, Math.max(0, v / end));
    const drawing = svg("svg", { class: "bar", viewBox: "0 0 100 12", width: 100, height: 12, "aria-hidden": "true" });
    drawing.append(svg("line", { class: "axis", x1: 3, x2: 97, y1: 6, y2: 6 }));
    for (const anchor of anchors) drawing.append(svg("line", { class: "anchor", x1: x(anchor), x2: x(anchor), y1: 1, y2: 11 }));
    if (low !== null)
      drawing.append(svg("rect", { class: "interval", x: x(low), y: 3, width: Math.max(1, x(high) - x(low)), height: 6 }));
    drawing.append(svg("circle", { class: "value", cx: x(value), cy: 6, r: 3 }));
    return drawing;
  };

  const scoreCell = (row, column, anchors, end) => {
    const estimate = row.scores[column.key];
    const cell = element("td", { class: "column-number" });
    if (!estimate) {
      cell.append(element("span", { class: "missing" }, "–"));
      return cell;
    }
    const isFlagged = column.key === "copy_rate" && row.flags.includes("copies");
    const [value, low, high] = estimate;
    cell.append(element("span", { class: isFlagged ? "value flagged" : "value" }, number(value)));
    if (low !== null) cell.append(element("span", { class: "bounds" }, ` [${number(low)}, ${number(high)}]`));
    const kind = row.kinds[column.key];
    if (kind) cell.append(element("span", { class: "measured" }, KINDS[kind] ?? `by ${kind}`));
    if (isFlagged) cell.append(element("span", { class: "flag" }, " copies"));
    if (column.key === "mAP") cell.append(bar(estimate, anchors, end));
    return cell;
  };

  // A model alone is tied with nobody.
  const isTied = (row) => row.kind === "model" && row.tied && standings.rows.length > 1;

  const nameCell = (row) => {
    if (row.kind === "anchor") return element("th", { scope: "row", class: "column-text" }, name(row.model.name));
    const at = { model: row.model.key, embedder: state.get("embedder") };
    const link = element("a", { href: `neighbours.html#${new URLSearchParams(at)}` }, name(row.model.name));
    const cell = element("th", { scope: "row", class: "column-text" }, link);
    if (isTied(row)) cell.append(element("span", { class: "badge" }, "tied with best"));
    if (row.kind === "incomplete")
      cell.append(element("span", { class: "reasons" }, row.flags.filter((flag) => flag !== "copies").join("; ")));
    return cell;
  };

  const rankText = (row) => (row.best === row.worst ? `${row.best}` : `${row.best}–${row.worst}`);

  const tableRow = (row, anchors, end) => {
    const cells = shownColumns.map((column) => {
      if (column.key === "rank") {
        const text = row.kind === "model" ? rankText(row) : row.kind === "anchor" ? "anchor" : "not ranked";
        return element("td", { class: "column-number rank" }, text);
      }
      if (column.key === "model") return nameCell(row);
      if (column.metric) return scoreCell(row, column, anchors, end);
      const value = column.of(row);
      return element("td", { class: `column-${column.isText ? "text" : "number"}` }, value === null ? "–" : name(`${value}`));
    });
    const classes = [row.kind, isTied(row) ? "tied" : ""].filter(Boolean).join(" ");
    return element("tr", { class: classes }, ...cells);
  };

  let built = null; // rows of the table by what they were made of; sorting moves them

  const render = () => {
    if (!standings) return;
    const every = columns();
    shownColumns = [...FIRST, ...every.filter((column) => column.isShown)];
    const sorted = shownColumns.some((column) => column.key === state.get("sort", "mAP")) ? state.get("sort", "mAP") : "rank";
    const column = shownColumns.find((each) => each.key === sorted);
    const descending = (state.get("order") || (startsDescending(column) ? "down" : "up")) === "down";
    const madeOf = JSON.stringify([state.get("embedder"), state.get("category"), shownColumns.map((each) => each.key)]);
    if (built?.madeOf !== madeOf) {
      const anchors = standings.anchors.map((row) => row.scores.mAP?.[0]).filter((value) => value !== undefined);
      const nodes = new Map();
      const every = [...standings.rows, ...standings.anchors, ...standings.incomplete];
      // A tenth at least, and no more than needed: differences stay to be seen where all values are low.
      const highest = Math.max(...every.map((row) => row.scores.mAP?.[2] ?? row.scores.mAP?.[0] ?? 0));
      const end = Math.min(1, Math.max(0.1, Math.ceil(highest * 10) / 10));
      byId("scale").textContent = `from 0 to ${end.toFixed(1)}`;
      const nodeOf = (row) => {
        if (!nodes.has(row)) nodes.set(row, tableRow(row, anchors, end));
        return nodes.get(row);
      };
      built = { madeOf, nodeOf };
    }
    headings(sorted, descending);
    const wanted = state.get("search").toLowerCase();
    const matches = (row) =>
      row.kind === "anchor" ||
      !wanted ||
      [row.model.name, row.model.method ?? "", row.model.base_model ?? ""].some((text) => text.toLowerCase().includes(wanted));
    const ranked = [...standings.rows, ...(state.get("anchors") === "off" ? [] : standings.anchors)].filter(matches);
    const ordered = finerRank.inOrder(ranked, column.of, descending);
    // Anchors have no rank; by rank they stand where their mAP puts them.
    const shown =
      sorted === "rank" ? finerRank.inOrder(ranked, (row) => row.scores.mAP?.[0] ?? null, !descending) : ordered;
    const drawn = state.get("rows") === "all" ? shown : shown.slice(0, MAX_ROWS);
    byId("board").tBodies[0].replaceChildren(...drawn.map(built.nodeOf));
    byId("more").hidden = shown.length <= MAX_ROWS;
    byId("more").textContent = drawn.length < shown.length ? `Show all ${shown.length} rows` : `Show the first ${MAX_ROWS} rows`;
    const incomplete = standings.incomplete.filter(matches);
    byId("incomplete").hidden = !standings.incomplete.length;
    byId("incomplete-board").tHead.replaceChildren(
      element("tr", {}, ...shownColumns.map((each) => element("th", { scope: "col" }, each.label))),
    );
    byId("incomplete-board").tBodies[0].replaceChildren(...incomplete.map(built.nodeOf));
    const n = shown.filter((row) => row.kind === "model").length;
    const missing = every.filter((each) => each.isShown && each.metric && !shown.some((row) => row.scores[each.key]));
    const notes = [`${n} of ${standings.rows.length} models.`];
    if (!standings.canTell)
      notes.push("So few identities, or so many models, that no difference passes the corrected test: ranks are not told apart.");
    if (missing.length) notes.push(`No record here has ${missing.map((each) => each.label).join(", ")}.`);
    finerRank.say(notes.join(" "));
    shownRows = shown;
  };
  let shownRows = [];

  const controls = () => {
    finerRank.options(
      byId("embedder"),
      board.embedders.map((each) => [each.key, each.spec]),
      state.get("embedder"),
    );
    finerRank.options(
      byId("category"),
      [["", "all categories"], ...board.categories.map((category, i) => [String(i), category])],
      state.get("category"),
    );
    byId("search").value = state.get("search");
    const box = byId("columns");
    const focused = box.contains(document.activeElement) ? document.activeElement.value : null;
    box.replaceChildren(
      element("legend", {}, "Columns"),
      ...columns().map((column) =>
        element(
          "label",
          {},
          element("input", { type: "checkbox", value: column.key, checked: column.isShown }),
          ` ${column.label}`,
        ),
      ),
      element("label", {}, element("input", { type: "checkbox", value: "anchors", checked: state.get("anchors") !== "off" }), " anchors"),
    );
    if (focused) box.querySelector(`[value="${focused}"]`)?.focus();
  };

  let wantedFile = "";
  const show = async () => {
    const chosen = board.embedders.find((each) => each.key === state.get("embedder")) ?? board.embedders[0];
    if (state.get("embedder") !== chosen.key) {
      state.set({ embedder: chosen.key });
      return;
    }
    const category = Object.keys(board.categories).includes(state.get("category")) ? state.get("category") : "";
    if (state.get("category") !== category) {
      state.set({ category });
      return;
    }
    const file = `${chosen.key}/${category === "" ? "standings" : `category-${category}`}`;
    wantedFile = file;
    const found = await load(file);
    if (wantedFile !== file) return;
    if (standings?.file !== file) {
      built = null;
      standings = {
        file,
        rows: found.rows.map(asRow("model")),
        anchors: found.anchors.map(asRow("anchor")),
        incomplete: found.incomplete.map(asRow("incomplete")),
        canTell: found.canTell,
      };
    }
    controls();
    render();
    byId("seen").hidden = chosen.seen === "unseen";
    byId("seen").textContent =
      {
        "trained on it": `${chosen.spec} was trained on photos of this gallery: its scores flatter.`,
        "same data set family": `${chosen.spec} was trained on data akin to this gallery's: its scores may flatter.`,
      }[chosen.seen] ?? `It is not known whether ${chosen.spec} was trained on photos of this gallery.`;
  };

  // What is shown, for spreadsheets, programs and papers.
  const cellsOf = (row) =>
    shownColumns.flatMap((column) => {
      if (column.key === "rank") return [row.kind === "model" ? row.best : "", row.kind === "model" ? row.worst : ""];
      if (column.metric) return row.scores[column.key] ?? ["", "", ""];
      return [column.of(row) ?? ""];
    });
  const namesOfCells = () =>
    shownColumns.flatMap((column) => {
      if (column.key === "rank") return ["rank from", "rank to"];
      return column.metric ? [column.label, `${column.label} low`, `${column.label} high`] : [column.label];
    });
  const guarded = (value) => (typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${value}` : value);
  const asCsv = () =>
    [namesOfCells(), ...shownRows.map(cellsOf)]
      .map((cells) => cells.map((cell) => `"${String(guarded(cell ?? "")).replaceAll('"', '""')}"`).join(","))
      .join("\r\n") + "\r\n";
  const asJson = () => {
    const estimate = (of) => (of ? { value: of[0], low: of[1], high: of[2] } : null);
    const rows = shownRows.map((row) => ({
      model: row.model.name,
      kind: row.kind,
      ranks: row.kind === "model" ? [row.best, row.worst] : null,
      tied_with_best: row.kind === "model" ? row.tied : null,
      ...Object.fromEntries(
        shownColumns.filter((c) => !FIRST.includes(c)).map((c) => [c.key, c.metric ? estimate(row.scores[c.key]) : c.of(row) || null]),
      ),
    }));
    const { gallery, protocol } = board;
    const embedder = board.embedders.find((each) => each.key === state.get("embedder"));
    const category = state.get("category") === "" ? null : board.categories[Number(state.get("category"))];
    return `${JSON.stringify({ gallery, protocol, embedder, category, rows }, null, 1)}\n`;
  };
  const TEX = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}" };
  const tex = (text) => String(text).replace(/[\\~^&%$#_{}]/g, (c) => TEX[c] ?? `\\${c}`);
  const asLatex = () => {
    const inTex = (row, column) => {
      if (column.key === "rank") return row.kind === "model" ? rankText(row).replace("–", "--") : "";
      if (column.key === "model") return row.kind === "anchor" ? `\\textit{${tex(row.model.name)}}` : tex(row.model.name);
      if (!column.metric) return tex(column.of(row) ?? "--");
      const estimate = row.scores[column.key];
      if (!estimate) return "--";
      const bounds = estimate[1] === null ? "" : ` {\\scriptsize [${estimate[1].toFixed(3)}, ${estimate[2].toFixed(3)}]}`;
      return `$${estimate[0].toFixed(3)}$${bounds}`;
    };
    const arrows = { true: " $\\uparrow$", false: " $\\downarrow$" };
    const head = shownColumns.map((column) => tex(column.label) + (column.metric ? (arrows[column.better] ?? "") : ""));
    const lines = shownRows.map((row) => `${shownColumns.map((column) => inTex(row, column)).join(" & ")} \\\\`);
    const alignment = shownColumns.map((column) => (column.isText ? "l" : "r")).join("");
    return [`\\begin{tabular}{${alignment}}`, "\\toprule", `${head.join(" & ")} \\\\`, "\\midrule", ...lines, "\\bottomrule", "\\end{tabular}", ""].join("\n");
  };

  const start = async () => {
    board = await load("board");
    metrics = board.metrics;
    byId("embedder").addEventListener("change", (event) => state.set({ embedder: event.target.value }));
    byId("category").addEventListener("change", (event) => state.set({ category: event.target.value }));
    byId("search").addEventListener("input", (event) => state.set({ search: event.target.value }));
    byId("columns").addEventListener("change", (event) => {
      if (event.target.value === "anchors") return state.set({ anchors: event.target.checked ? "" : "off" });
      const chosen = [...byId("columns").querySelectorAll("input:checked")].map((box) => box.value).filter((key) => key !== "anchors");
      return state.set({ columns: chosen.join(",") === DEFAULT.join(",") ? "" : chosen.join(",") });
    });
    const base = `${board.gallery.name}-${board.gallery.version}`.replace(/[^\w.-]+/g, "_");
    byId("more").addEventListener("click", () => state.set({ rows: state.get("rows") === "all" ? "" : "all" }));
    byId("csv").addEventListener("click", () => finerRank.download(`${base}.csv`, "text/csv", asCsv()));
    byId("json").addEventListener("click", () => finerRank.download(`${base}.json`, "application/json", asJson()));
    byId("latex").addEventListener("click", () => finerRank.download(`${base}.tex`, "text/x-tex", asLatex()));
    state.onChange(() => show().catch(finerRank.fail));
    await show();
  };
  start().catch(finerRank.fail);
})();
