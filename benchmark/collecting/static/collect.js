"use strict";
// Questions about pictures, one at a time. Answers stay in this browser until their file is handed over.
(() => {
  const study = JSON.parse(document.getElementById("study").textContent);
  const isRanking = study.kind === "ranking";
  const byId = (id) => document.getElementById(id);
  const LETTERS = "ABCDEFGHI";
  const DRAG_PX = 6; // a hand that clicks moves a little
  let session; // what this person said: { rater, started, ended, answers, mayGoBack }
  let order = []; // the trials as this person gets them
  let current = null; // the trial that can be answered now: { trial, shown, at }
  let items = []; // of a ranking: { name, label, entry, button }, nearest first
  let showing = 0; // counts what was shown, so that what loads late is not taken for the present
  let ahead = []; // pictures of the next trial, held so that the browser keeps them

  // FNV-1a over the text's UTF-8, mixed once more, as the last letters alone reach few bits.
  const hash = (text) => {
    let value = 0x811c9dc5;
    for (const byte of new TextEncoder().encode(text)) value = Math.imul(value ^ byte, 0x01000193);
    value = Math.imul(value ^ (value >>> 15), 0x2c1b3c6d);
    return (value ^ (value >>> 13)) >>> 0;
  };

  /** An order that study and rater alone decide, so that a reload shows the same. */
  const mixed = (names, about) =>
    names
      .map((name) => [hash(`${study.id} ${session.rater} ${about} ${name}`), name])
      .sort(([a, first], [b, second]) => a - b || (first < second ? -1 : 1))
      .map(([, name]) => name);

  const trialsInOrder = () => {
    const byName = new Map(study.trials.map((trial) => [trial.id, trial]));
    const asked = mixed([...byName.keys()], "trials").map((id) => byName.get(id));
    return [...study.practice, ...asked].map((trial) => ({ trial, shown: mixed(trial.images, trial.id) }));
  };

  const KEY = `finer-rank ${study.id}`;
  const kept = {
    works: true,
    read(name) {
      try {
        return JSON.parse(localStorage.getItem(`${KEY} ${name}`));
      } catch {
        return null;
      }
    },
    write(name, value) {
      try {
        localStorage.setItem(`${KEY} ${name}`, JSON.stringify(value));
      } catch {
        kept.works = false; // private windows, a full disk
      }
    },
  };
  const save = () => kept.write(`rater ${session.rater}`, session);

  const show = (section) => {
    for (const id of ["start", "trial", "end"]) byId(id).hidden = id !== section;
  };

  const nAsked = study.trials.length;
  const start = () => {
    session = null;
    document.title = byId("title").textContent = study.title;
    byId("task").textContent = study.question;
    byId("how").textContent = isRanking
      ? "Above stands the reference picture, below it several others. Put them in order, the most alike first. There is no time limit; take your first impression."
      : "Above stands the reference picture, below it two others. Choose the one that answers the question. There is no time limit; take your first impression.";
    const practice = study.practice.length ? ` after ${study.practice.length} for practice` : "";
    byId("amount").textContent = `${nAsked} questions${practice}.`;
    kept.write("works", true);
    byId("unkept").hidden = kept.works;
    byId("rater").value = kept.read("last") ?? "";
    byId("rater-wrong").textContent = "";
    show("start");
  };

  const enter = (event) => {
    event.preventDefault();
    // Telephones begin names with a capital: one person is one code all the same.
    const rater = byId("rater").value.trim().toLowerCase();
    if (!/^[a-z0-9]{1,32}$/.test(rater)) {
      byId("rater-wrong").textContent = "Use letters a to z and digits only, at most 32.";
      byId("rater").focus();
      return;
    }
    session = { rater };
    order = trialsInOrder();
    const before = kept.read(`rater ${rater}`);
    const fits =
      before?.rater === rater && Array.isArray(before.answers) && before.answers.length <= order.length &&
      before.answers.every((answer, i) => answer?.id === order[i].trial.id);
    session = fits ? before : { rater, started: new Date().toISOString(), ended: null, answers: [], mayGoBack: false };
    kept.write("last", rater);
    save();
    ask();
  };

  const isPractice = (i) => i < study.practice.length;
  const picture = (name) => `images/${name}`;

  const ask = () => {
    const i = session.answers.length;
    if (i === order.length) return finish();
    const { trial, shown } = order[i];
    current = null;
    byId("progress").textContent = isPractice(i)
      ? `Practice ${i + 1} of ${study.practice.length}`
      : `${i + 1 - study.practice.length} of ${nAsked}`;
    byId("ask").textContent = study.question;
    byId("keys").textContent = isRanking
      ? "Keys: arrows go from picture to picture, 1 to 9 put one at that place, space picks it up and arrows then move it. Or drag; or tap a picture, then the place it should take. Backspace: back."
      : "Keys: ← or A for the left, → or B for the right. Backspace: back.";
    byId("back").disabled = !mayGoBack();
    for (const id of ["again", "next", "done"]) byId(id).hidden = true;
    byId("choices").className = isRanking ? "row" : "two";
    items = shown.map((name, place) => choice(name, place));
    byId("choices").replaceChildren(...items.map((item) => item.entry));
    arrange();
    show("trial");
    byId("ask").focus();
    load(trial, shown);
    return undefined;
  };

  const choice = (name, place) => {
    const label = LETTERS[place];
    const entry = document.createElement("li");
    const button = document.createElement("button");
    const image = new Image();
    const caption = document.createElement("span");
    image.alt = "";
    image.draggable = false;
    button.type = "button";
    button.disabled = true;
    button.append(image, caption);
    entry.append(button);
    const item = { name, label, entry, button, caption, image };
    if (isRanking) {
      button.setAttribute("aria-pressed", "false");
      button.addEventListener("pointerdown", (event) => drag(event, item));
      button.addEventListener("click", () => pick(item));
    } else {
      caption.textContent = label;
      button.setAttribute("aria-label", `${label}, the ${["left", "right"][place]} picture`);
      // The second click of a double one was not meant for the trial that has come since.
      button.addEventListener("click", (event) => event.detail > 1 || answer(name));
    }
    return item;
  };

  /** A trial can be answered when all of its pictures are there. */
  const load = async (trial, shown) => {
    const turn = ++showing;
    const reference = byId("reference").querySelector("img");
    const slots = [[reference, trial.reference], ...items.map((item) => [item.image, item.name])];
    byId("trial").classList.add("loading");
    byId("trial").removeAttribute("data-ready");
    say("Loading the pictures …");
    try {
      await Promise.all(slots.map(([image, name]) => ((image.src = picture(name)), image.decode())));
    } catch {
      if (turn !== showing) return;
      say("A picture could not be loaded.");
      byId("again").hidden = false;
      return;
    }
    if (turn !== showing) return;
    byId("trial").classList.remove("loading");
    byId("trial").dataset.ready = trial.id;
    say("");
    for (const { button } of items) button.disabled = false;
    byId("done").hidden = !isRanking;
    current = { trial, shown, at: performance.now() };
    const next = order[session.answers.length + 1];
    ahead = next ? [next.trial.reference, ...next.shown].map((name) => Object.assign(new Image(), { src: picture(name) })) : [];
  };

  const say = (text) => (byId("status").textContent = text);

  const answer = (chosen) => {
    if (!current) return;
    const { trial, shown, at } = current;
    const practice = isPractice(session.answers.length);
    current = null;
    const ms = Math.round(performance.now() - at);
    session.answers.push({ id: trial.id, shown, choice: chosen, ms, practice });
    session.mayGoBack = !practice;
    save();
    if (!practice) {
      ask();
      return;
    }
    const right = items.find((item) => item.name === trial.right);
    const isRight = (isRanking ? chosen[0] : chosen) === trial.right;
    const where = isRanking ? "belongs first" : "was meant";
    say(isRight ? `Right: ${right.label} is the reference itself.` : `Not so: ${right.label} is the reference itself, and ${where}.`);
    for (const { button } of items) button.disabled = true;
    byId("done").hidden = true;
    byId("next").hidden = false;
    byId("next").focus();
  };

  const mayGoBack = () => session.mayGoBack && session.answers.length > study.practice.length;
  const back = () => {
    if (!mayGoBack()) return;
    session.answers.pop();
    session.mayGoBack = false;
    save();
    ask();
  };

  // Rankings

  const arrange = () => {
    if (!isRanking) return;
    items.forEach((item, place) => {
      item.caption.textContent = `${place + 1} · ${item.label}`;
      item.button.setAttribute("aria-label", `Picture ${item.label}, place ${place + 1} of ${items.length}`);
    });
  };

  const move = (item, place) => {
    const to = Math.max(0, Math.min(items.length - 1, place));
    items = items.filter((other) => other !== item).toSpliced(to, 0, item);
    byId("choices").append(...items.map(({ entry }) => entry));
    arrange();
    item.button.focus();
    say(`Picture ${item.label}: place ${to + 1} of ${items.length}`);
  };

  const picked = () => items.find(({ button }) => button.getAttribute("aria-pressed") === "true");
  const pick = (item) => {
    if (!current) return;
    const held = picked();
    if (held) held.button.setAttribute("aria-pressed", "false");
    if (!held) {
      item.button.setAttribute("aria-pressed", "true");
      say(`Picture ${item.label} is picked up`);
    } else if (held !== item) move(held, items.indexOf(item));
    else say(`Picture ${item.label} is put down at place ${items.indexOf(item) + 1}`);
  };

  const drag = (event, item) => {
    if (!current || !event.isPrimary || event.button !== 0) return;
    let target = null;
    const moved = (now) => {
      if (now.pointerId !== event.pointerId) return;
      if (target === null && Math.hypot(now.clientX - event.clientX, now.clientY - event.clientY) < DRAG_PX) return;
      item.entry.classList.add("dragged");
      const below = document.elementFromPoint(now.clientX, now.clientY);
      const over = items.findIndex(({ entry }) => entry.contains(below));
      target = over >= 0 ? over : (target ?? items.indexOf(item));
      // Only shown there so far: an element that is moved in the page loses its pointer.
      const planned = items.filter((other) => other !== item).toSpliced(target, 0, item);
      planned.forEach(({ entry }, place) => (entry.style.order = place));
    };
    const ended = (now) => {
      if (now.pointerId !== event.pointerId) return;
      stop.abort();
      item.entry.classList.remove("dragged");
      const planned = target;
      for (const { entry } of items) entry.style.order = "";
      if (planned === null || now.type === "pointercancel") return;
      // The click that a drag ends with, in some browsers, picks nothing up.
      document.addEventListener("click", (click) => click.stopPropagation(), { capture: true, once: true, signal: settled.signal });
      setTimeout(() => settled.abort());
      if (current) move(item, planned);
    };
    const stop = new AbortController();
    const settled = new AbortController();
    document.addEventListener("pointermove", moved, { signal: stop.signal });
    for (const type of ["pointerup", "pointercancel"]) document.addEventListener(type, ended, { signal: stop.signal });
  };

  // Keys

  const rankingKey = (event) => {
    const focused = items.findIndex(({ button }) => button === document.activeElement);
    const steps = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 };
    if (event.key in steps) {
      const held = picked();
      if (held) move(held, items.indexOf(held) + steps[event.key]);
      else items[Math.max(0, Math.min(items.length - 1, focused < 0 ? 0 : focused + steps[event.key]))].button.focus();
      return true;
    }
    const place = /^[1-9]$/.test(event.key) ? Number(event.key) : 0;
    if (focused >= 0 && place >= 1 && place <= items.length) {
      move(items[focused], place - 1);
      return true;
    }
    return false;
  };

  const onKey = (event) => {
    if (byId("trial").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Backspace" && !event.repeat) {
      back();
      event.preventDefault();
    } else if (current && isRanking) {
      if (rankingKey(event)) event.preventDefault();
    } else if (current) {
      const side = { arrowleft: 0, a: 0, arrowright: 1, b: 1 }[event.key.toLowerCase()];
      if (side === undefined || event.repeat) return; // a key that is held down answers once
      event.preventDefault();
      answer(current.shown[side]);
    }
  };

  // The end

  const result = () => JSON.stringify(
    {
      format: 1, study: study.id, kind: study.kind, rater: session.rater, started: session.started,
      ended: session.ended, trials: session.answers,
    },
    null,
    1,
  );

  const finish = () => {
    const isNew = !session.ended;
    session.ended ??= new Date().toISOString();
    session.mayGoBack = false;
    save();
    handOver(true);
    if (isNew) byId("file").click();
  };

  const handOver = (isOver) => {
    showing += 1;
    current = null;
    const text = result();
    const n = session.answers.filter(({ practice }) => !practice).length;
    byId("over").textContent = isOver ? "That was all. Thank you." : `Stopped after ${n} of ${nAsked}.`;
    const name = `judgements-${study.id}-${session.rater}.json`;
    byId("handing").textContent = `Please hand the file ${name} to whoever asked you.`;
    byId("text").value = text;
    URL.revokeObjectURL(byId("file").href);
    byId("file").href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    byId("file").download = name;
    byId("resume").hidden = isOver;
    show("end");
    byId("over").focus();
  };

  byId("enter").addEventListener("submit", enter);
  byId("again").addEventListener("click", ask);
  byId("next").addEventListener("click", ask);
  byId("done").addEventListener("click", () => answer(items.map(({ name }) => name)));
  byId("back").addEventListener("click", back);
  byId("stop").addEventListener("click", () => handOver(false));
  byId("resume").addEventListener("click", ask);
  byId("other").addEventListener("click", () => {
    start();
    byId("rater").value = "";
    byId("rater").focus();
  });
  byId("text").addEventListener("focus", () => byId("text").select());
  document.addEventListener("keydown", onKey);
  start();
})();
