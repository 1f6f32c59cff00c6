"use strict";
// What every page shares: data files, the state in the address, numbers, tables.
(() => {
  const finerRank = (window.finerRank = window.finerRank || {});
  const root = document.documentElement.dataset.root;
  const version = document.documentElement.dataset.version;

  // Data comes as scripts that call `receive`: pages opened from disk may not fetch.
  const received = new Map();
  const waiting = new Map();

  finerRank.receive = (name, value) => {
    received.set(name, value);
    waiting.get(name)?.resolve(value);
  };

  // A data file of this board by its name, or of the site (`load(name, root)`); rejects where there is none.
  finerRank.load = (name, base = "") => {
    if (received.has(name)) return Promise.resolve(received.get(name));
    if (waiting.has(name)) return waiting.get(name).promise;
    const pending = {};
    pending.promise = new Promise((resolve, reject) => Object.assign(pending, { resolve, reject }));
    waiting.set(name, pending);
    const script = document.createElement("script");
    script.src = `${base}data/${name}.js?v=${version}`;
    script.addEventListener("error", () => {
      waiting.delete(name);
      pending.reject(new Error(`${script.src} could not be read`));
    });
    script.addEventListener("load", () => script.remove());
    document.head.append(script);
    return pending.promise;
  };
  finerRank.loadShared = (name) => finerRank.load(name, root);
  finerRank.thumbnail = (key) => `${root}thumbnails/${key}.webp`;

  // State in the address, so that every view can be linked.
  const listeners = [];
  finerRank.state = {
    get: (name, fallback = "") => new URLSearchParams(location.hash.slice(1)).get(name) ?? fallback,
    // Values of "" or null are left out.
    set(changes) {
      const hash = finerRank.state.link(changes);
      if (hash === location.hash || (hash === "#" && !location.hash)) return;
      history.replaceState(null, "", hash);
      notify();
    },
    link(changes) {
      const now = new URLSearchParams(location.hash.slice(1));
      for (const [name, value] of Object.entries(changes)) {
        if (value === "" || value === null || value === undefined) now.delete(name);
        else now.set(name, value);
      }
      return `#${now}`;
    },
    onChange(listener) {
      listeners.push(listener);
    },
  };
  const notify = () => {
    followEmbedder();
    for (const listener of listeners) listener();
  };
  window.addEventListener("hashchange", notify);

  // Pages of one board keep the embedder that was chosen.
  const followEmbedder = () => {
    const embedder = finerRank.state.get("embedder");
    for (const link of document.querySelectorAll("nav a[data-page]"))
      link.hash = embedder ? new URLSearchParams({ embedder }).toString() : "";
  };

  // An element; children are nodes or text, never markup.
  finerRank.element = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "onclick") node.addEventListener("click", value);
      else if (value === true) node.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  };
  finerRank.svg = (tag, attributes = {}, ...children) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };
  // A name that a stranger chose: its letters may run the other way, and must not turn what follows.
  finerRank.name = (text) => finerRank.element("bdi", {}, text);

  finerRank.number = (value, digits = 3) =>
    value === null || value === undefined ? "–" : value.toFixed(digits).replace("-", "−");
  finerRank.interval = (estimate, digits = 3) => {
    if (!estimate) return "–";
    const [value, low, high] = estimate;
    const bounds = low === null ? "" : ` [${finerRank.number(low, digits)}, ${finerRank.number(high, digits)}]`;
    return finerRank.number(value, digits) + bounds;
  };

  finerRank.options = (select, entries, chosen) => {
    select.replaceChildren(
      ...entries.map(([value, label]) => finerRank.element("option", { value, selected: value === chosen }, label)),
    );
    select.value = chosen;
  };

  finerRank.say = (message) => {
    const status = document.getElementById("status");
    if (status) status.textContent = message;
  };
  finerRank.fail = (error) => {
    finerRank.say(`This page could not be shown: ${error.message}`);
    document.getElementById("status")?.classList.add("failed");
  };

  finerRank.download = (fileName, type, text) => {
    const url = URL.createObjectURL(new Blob([text], { type }));
    const link = finerRank.element("a", { href: url, download: fileName });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  };

  // Rows of a table in the order of a column. Missing values come last whichever way it is sorted.
  finerRank.inOrder = (rows, valueOf, descending) => {
    const sign = descending ? -1 : 1;
    const isMissing = (value) => value === null || value === undefined || value === "" || Number.isNaN(value);
    return rows
      .map((row, place) => ({ row, place, value: valueOf(row) }))
      .sort((a, b) => {
        const lacks = isMissing(a.value) - isMissing(b.value);
        if (lacks || isMissing(a.value)) return lacks || a.place - b.place;
        const order =
          typeof a.value === "string" ? collator.compare(a.value, b.value) : a.value < b.value ? -1 : a.value > b.value ? 1 : 0;
        return order ? sign * order : a.place - b.place;
      })
      .map(({ row }) => row);
  };
  const collator = new Intl.Collator("en", { numeric: true });

  // Tables that came with the page: a button in each heading sorts by the cells' `data-value`, or their text.
  const makeSortable = (table) => {
    const body = table.tBodies[0];
    table.querySelectorAll("th button").forEach((button) => {
      const heading = button.closest("th");
      button.addEventListener("click", () => {
        const descending = heading.getAttribute("aria-sort") !== "descending";
        table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
        const valueOf = (row) => {
          const cell = row.cells[heading.cellIndex];
          const value = cell.dataset.value;
          return value === undefined ? cell.textContent.trim() : value === "" ? null : Number(value);
        };
        body.replaceChildren(...finerRank.inOrder([...body.rows], valueOf, descending));
      });
    });
  };

  // Light, dark, or what the system says.
  const themeButton = () => {
    const button = document.getElementById("theme");
    if (!button) return;
    const show = (theme) => {
      if (theme) document.documentElement.dataset.theme = theme;
      else delete document.documentElement.dataset.theme;
      button.textContent = { light: "Theme: light", dark: "Theme: dark" }[theme] ?? "Theme: system";
    };
    const remembered = () => {
      try {
        return localStorage.getItem("theme");
      } catch {
        return null;
      }
    };
    show(remembered());
    button.addEventListener("click", () => {
      const next = { light: "dark", dark: null }[document.documentElement.dataset.theme] ?? "light";
      const theme = document.documentElement.dataset.theme === "dark" ? null : next;
      show(theme);
      try {
        if (theme) localStorage.setItem("theme", theme);
        else localStorage.removeItem("theme");
      } catch {
        // Without storage the choice holds for this page.
      }
    });
  };

  // The link would put its target in the place of the state.
  const skipLink = () => {
    const main = document.getElementById("main");
    document.querySelector("a.skip").addEventListener("click", (event) => {
      event.preventDefault();
      main.tabIndex = -1;
      main.focus();
    });
  };

  document.addEventListener("DOMContentLoaded", () => {
    themeButton();
    skipLink();
    followEmbedder();
    document.querySelectorAll("table.sortable").forEach(makeSortable);
  });
})();
