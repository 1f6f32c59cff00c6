"use strict";
// Paired comparison of two models: the numbers of `compare_paired` in benchmark/statistics.py, without its correction.
(() => {
  const finerRank = (window.finerRank = window.finerRank || {});

  // Python's math.fsum: the sum as if it were exact until it is rounded, once.
  const sum = (values) => {
    const partials = [];
    for (let value of values) {
      let kept = 0;
      for (let partial of partials) {
        if (Math.abs(value) < Math.abs(partial)) [value, partial] = [partial, value];
        const high = value + partial;
        const low = partial - (high - value);
        if (low) partials[kept++] = low;
        value = high;
      }
      partials.length = kept;
      if (value) partials.push(value);
    }
    let total = partials.pop() ?? 0;
    let low = 0;
    while (partials.length && !low) {
      const value = total;
      const partial = partials.pop();
      total = value + partial;
      low = partial - (total - value);
    }
    // Half-way cases are rounded to even only if nothing is left below them.
    if (partials.length && low < 0 === partials.at(-1) < 0) {
      const doubled = low * 2;
      const away = total + doubled;
      if (doubled === away - total) total = away;
    }
    return total;
  };

  // Of ascending values, between neighbours as numpy's "linear" method does.
  const quantile = (sorted, q) => {
    const place = q * (sorted.length - 1);
    const below = Math.floor(place);
    const lower = sorted[below];
    const upper = sorted[Math.min(below + 1, sorted.length - 1)];
    const share = place - below;
    const step = upper - lower;
    return share < 0.5 ? lower + step * share : upper - step * (1 - share);
  };

  const bytes = (base64) => {
    const text = atob(base64);
    const found = new Uint8Array(text.length);
    for (let i = 0; i < found.length; i++) found[i] = text.charCodeAt(i);
    return found;
  };

  const decodedDraws = new WeakMap();
  const decoded = (draws) => {
    if (!decodedDraws.has(draws)) {
      decodedDraws.set(draws, {
        weights: draws.weights === null ? null : bytes(draws.weights),
        signs: draws.signs === null ? null : bytes(draws.signs),
      });
    }
    return decodedDraws.get(draws);
  };

  const interval = (differences, value, weights, level) => {
    const n = differences.length;
    if (n < 2) return { low: null, high: null };
    const means = new Float64Array(weights.length / n);
    for (let draw = 0, at = 0; draw < means.length; draw++) {
      let total = 0;
      for (let i = 0; i < n; i++) total += weights[at++] * differences[i];
      means[draw] = total / n;
    }
    means.sort();
    // A constant score: only rounding is left.
    if (means[means.length - 1] - means[0] < 1e-12) return { low: value, high: value };
    return { low: quantile(means, (1 - level) / 2), high: quantile(means, (1 + level) / 2) };
  };

  // The sum of up to eight differences, for each byte that says which of them are subtracted; high bits first.
  const sumsByByte = (differences) => {
    const sums = new Float64Array(256);
    for (let byte = 0; byte < 256; byte++) {
      for (let i = 0; i < differences.length; i++) sums[byte] += byte & (128 >> i) ? -differences[i] : differences[i];
    }
    return sums;
  };

  const signFlips = (differences, signs) => {
    const n = differences.length;
    let observed = 0;
    let size = 0;
    for (const difference of differences) {
      observed += difference;
      size += Math.abs(difference);
    }
    const atLeast = Math.abs(observed) - 1e-12 * Math.max(1, size);
    let extreme = 0;
    if (signs === null) {
      for (let flip = 0; flip < 2 ** n; flip++) {
        let total = 0;
        for (let i = 0; i < n; i++) total += (flip >> i) & 1 ? -differences[i] : differences[i];
        if (Math.abs(total) >= atLeast) extreme++;
      }
      return { p: extreme / 2 ** n, smallestP: 2 / 2 ** n };
    }
    const tables = [];
    for (let start = 0; start < n; start += 8) tables.push(sumsByByte(differences.slice(start, start + 8)));
    const flips = signs.length / tables.length;
    for (let flip = 0, at = 0; flip < flips; flip++) {
      let total = 0;
      for (const table of tables) total += table[signs[at++]];
      if (Math.abs(total) >= atLeast) extreme++;
    }
    // The observed signs count among the flips.
    return { p: (extreme + 1) / (flips + 1), smallestP: 1 / (flips + 1) };
  };

  // Differences of one model's means from another's, one for each shared identity in the order of their names,
  // and the file `draws/n` for as many. The bounds are null where fewer than two identities allow no interval.
  const pairedDifference = (differences, draws) => {
    const n = differences.length;
    if (n === 0 || n !== draws.n) throw new RangeError(`${n} differences, and draws for ${draws.n}`);
    const { weights, signs } = decoded(draws);
    const value = sum(differences) / n;
    return { value, ...interval(differences, value, weights, draws.level), ...signFlips(differences, signs) };
  };

  finerRank.statistics = { pairedDifference, quantile, sum };
})();
