"use strict";
// A query with its reference and its nearest gallery photos; a model's data.
(() => {
  const { element, name, number, load } = finerRank;
  const SCALE = 10000; // numbers of queries come in ten-thousandths
  const CHUNK = 500;

  const whole = (value) => (value === null || value === undefined ? null : value / SCALE);

  // All that is known of a model's queries under an encoder, but their neighbours; null where it has no such record.
  const loadModel = async (embedder, key) => {
    const board = await load("board");
    if (!board.models.find((each) => each.key === key).embedders.includes(embedder)) return null;
    const [model, scores, photos, labels] = await Promise.all([
      load(`models/${key}`),
      load(`${embedder}/${key}/queries`),
      load("photos"),
      load("identities"),
    ]);
    const count = model.files.length;
    const identity = (place) => labels.identities[place];
    const categoryOf = (place) => board.categories[labels.categories[place]] ?? "";
    const queries = Array.from({ length: count }, (_, i) => ({
      index: i,
      file: model.files[i],
      picture: model.hasPictures ? model.pictures[i] : null,
      identity: identity(model.identities[i]),
      category: categoryOf(model.identities[i]),
      prompt: model.promptTexts[model.prompts[i]],
      promptId: model.promptIdTexts[model.promptIds[i]],
      seed: model.seeds[i],
      references: model.referencesOf[i].map((r) => ({ ...model.references[r], picture: model.hasPictures ? model.references[r].picture : null })),
      referenceFile: model.referenceFiles[i],
      ap: whole(scores.ap[i]),
      auc: scores.auc[i],
      firstHit: scores.firstHit[i],
      isRight: identity(photos.identities[scores.nearest[i]]) === identity(model.identities[i]),
      isTied: scores.tied[i] === 1,
      isCopy: scores.copy ? scores.copy[i] === 1 : null,
      relevant: scores.relevant[i],
      gallery: scores.gallery[i],
      similarity: whole(scores.similarity[i]),
      topWrong: whole(scores.topWrong[i]),
      nearestIdentity: identity(photos.identities[scores.nearest[i]]),
    }));
    const meanOf = new Map(scores.means.map(([place, mean]) => [identity(place), mean]));
    return { key, embedder, model, queries, photos, labels, board, meanOf, identity, categoryOf, similarityTo: scores.similarityTo };
  };

  // The nearest gallery photos of one query, the nearest first.
  const neighboursOf = async (data, index) => {
    const chunk = await load(`${data.embedder}/${data.key}/neighbours-${Math.floor(index / CHUNK)}`);
    const at = index % CHUNK;
    return chunk.photos[at].map((photo, i) => {
      const identity = data.identity(data.photos.identities[photo]);
      return {
        rank: i + 1,
        file: data.photos.files[photo],
        picture: data.model.hasPictures ? data.photos.pictures[photo] : null,
        identity,
        isRight: identity === data.queries[index].identity,
        similarity: whole(chunk.similarities[at][i]),
      };
    });
  };

  // A picture with what it shows; where the licence allows no picture, its name.
  const picture = ({ kind, thumbnail, alternative, file, lines, lazy = true }) =>
    element(
      "figure",
      { class: `picture ${kind}` },
      element(
        "div",
        { class: "frame" },
        thumbnail
          ? element("img", { src: finerRank.thumbnail(thumbnail), alt: alternative, loading: lazy ? "lazy" : "eager", decoding: "async" })
          : element("span", { class: "no-picture" }, file ? name(file) : "no picture"),
      ),
      element("figcaption", {}, ...lines),
    );

  const line = (...children) => element("div", {}, ...children);

  // References, the generated image and its neighbours, side by side.
  const strip = (data, query, neighbours) => {
    const references = query.references.length
      ? query.references.map((reference) =>
          picture({
            kind: "reference",
            thumbnail: reference.picture,
            alternative: `reference photo of ${query.identity}`,
            file: reference.file,
            lines: [line("reference"), line(name(query.identity))],
          }),
        )
      : [picture({ kind: "reference", thumbnail: null, file: query.referenceFile, lines: [line("reference"), line(name(query.identity))] })];
    const generated = picture({
      kind: "generated",
      thumbnail: query.picture,
      alternative: `generated image, asked for ${query.identity}`,
      file: query.file,
      lines: [line("generated"), line(`AP ${number(query.ap)}`)],
    });
    const nearest = neighbours.map((neighbour) =>
      picture({
        kind: neighbour.isRight ? "right" : "wrong",
        thumbnail: neighbour.picture,
        alternative: `gallery photo of ${neighbour.identity}, rank ${neighbour.rank}, ${neighbour.isRight ? "right" : "wrong"}`,
        file: neighbour.file,
        lines: [
          line(element("span", { class: "mark" }, neighbour.isRight ? "✓ right" : "✗ wrong"), ` ${neighbour.rank}.`),
          line(name(neighbour.identity)),
          line(number(neighbour.similarity)),
        ],
      }),
    );
    return element("div", { class: "strip" }, ...references, generated, ...nearest);
  };

  finerRank.strips = { loadModel, neighboursOf, strip };
})();
