"""Compiled loops of `benchmark.rank`: exact cosines, and counting along rows of a float32 product.

Compiled by numba when first used, and kept beside this file, or in numba's cache folder where that cannot be written.
They release the interpreter's lock, so that threads share the queries. Arrays are handed on whole, with unsigned
indices into them: a view costs more than many of these loops, and a signed index keeps them from being vectorised.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
U = np.uintp

STRETCH = 256
"""Photos whose doubtful pairs are looked for together."""
N_DOUBTFUL = 1 << 15
"""Pairs that are evaluated together; more than a stretch has, which is at most `STRETCH * MANY_RELEVANT`."""
MANY_RELEVANT = 24
"""Above so many relevant photos of one query, looking up a photo's place among them is quicker than a pass for each."""
SHORT = 64
"""So many numbers are sorted here; numpy's sort takes seconds to compile."""
N_CELLS = 1024
"""Of the table that a photo's place among many relevant ones is looked up in."""


def _compiled(**options: Any) -> Callable[..., Any]:
    def compiled(function: Callable[..., Any]) -> Any:
        given = {"nogil": True, "error_model": "numpy", **options}
        try:
            return numba.njit(cache=True, **given)(function)
        except RuntimeError:  # no folder that a cache could lie in
            return numba.njit(**given)(function)

    return compiled


@_compiled()
def exact_dot(left: Rows, a: int, right: Rows, b: int, sums: Floats) -> Any:
    """Inner product of row `a` of one array and row `b` of another; `sums` is `[D]` to work in.

    Products of float32 are exact in float64. They are summed by halving: the second half is added to the first, an odd
    one out to the first sum, until one is left. The order depends on the number of products alone.
    """
    p, q, n, f = U(a), U(b), U(left.shape[1]), np.float64
    if n % U(8) == U(0):  # three halvings at once
        n //= U(8)
        n2, n3, n4, n5, n6, n7 = n * U(2), n * U(3), n * U(4), n * U(5), n * U(6), n * U(7)
        for i in range(n):
            sums[i] = (
                (
                    (f(left[p, i]) * f(right[q, i]) + f(left[p, i + n4]) * f(right[q, i + n4]))
                    + (f(left[p, i + n2]) * f(right[q, i + n2]) + f(left[p, i + n6]) * f(right[q, i + n6]))
                )
                + (
                    (f(left[p, i + n]) * f(right[q, i + n]) + f(left[p, i + n5]) * f(right[q, i + n5]))
                    + (f(left[p, i + n3]) * f(right[q, i + n3]) + f(left[p, i + n7]) * f(right[q, i + n7]))
                )
            )  # fmt: skip
    else:
        for i in range(n):
            sums[i] = f(left[p, i]) * f(right[q, i])
    while n > U(8) and n % U(8) == U(0):
        n //= U(8)
        n2, n3, n4, n5, n6, n7 = n * U(2), n * U(3), n * U(4), n * U(5), n * U(6), n * U(7)
        for i in range(n):
            first = (sums[i] + sums[i + n4]) + (sums[i + n2] + sums[i + n6])
            sums[i] = first + ((sums[i + n] + sums[i + n5]) + (sums[i + n3] + sums[i + n7]))
    if n == U(8):
        return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]))
    while n > U(1):
        half = n // U(2)
        for i in range(half):
            sums[i] += sums[half + i]
        if n % U(2):
            sums[0] += sums[n - U(1)]
        n = half
    return sums[0]


@_compiled()
def product_error(dim: int, similarity: float) -> float:
    """Bound on |float32 product - exact cosine| of rows of nearly unit length, for any order of summation.

    Each of at most `dim` additions is off by half a unit in the last place of its result, a sum of some of the
    products (Higham, Accuracy and Stability of Numerical Algorithms, section 4.2). Of products whose absolute values
    sum up to 1 at most (Cauchy-Schwarz) and that sum up to s, no part sums up to more than (1 + |s|) / 2. The constant
    covers the rounding of products and thresholds, and rows whose length is 1 up to `NEARLY_UNIT`.

    Args:
        similarity: the threshold; the bound holds for cosines and products within it.
    """
    at_most = min(1.0, (1 + abs(similarity)) / 2 + (dim + 20) * 2.0**-24)
    return (dim * at_most + 20) * 2.0**-24 * 1.01


@_compiled()
def product_errors(dim: int, similarity: Floats) -> Floats:
    """`product_error` at each of many thresholds."""
    found = np.empty(len(similarity))
    for i in range(len(similarity)):
        found[i] = product_error(dim, similarity[i])
    return found


@_compiled()
def fill_norms(rows: Rows, norms: Floats) -> None:
    """The Euclidean length of each row whose entry in `norms` is NaN."""
    sums = np.empty(max(rows.shape[1], 1))
    for i in range(len(rows)):
        if np.isnan(norms[i]):
            norms[i] = np.sqrt(exact_dot(rows, i, rows, i, sums))


@_compiled()
def cosines(
    queries: Rows, rows: Rows, query: Indices, row: Indices, query_norms: Floats, norms: Floats, found: Floats
) -> None:
    """Exact cosine of chosen pairs, `[P]`, into `found`. Norms that are NaN are filled in."""
    sums = np.empty(max(queries.shape[1], 1))
    for p in range(len(query)):
        q, g = query[p], row[p]
        if np.isnan(norms[g]):
            norms[g] = np.sqrt(exact_dot(rows, g, rows, g, sums))
        found[p] = exact_dot(queries, q, rows, g, sums) / (query_norms[q] * norms[g])


@_compiled()
def sort_short_descending(similarity: Floats, starts: Indices) -> None:
    """Sort the parts, which begin at `starts[q]`, of up to `SHORT` numbers from the highest to the lowest."""
    for q in range(len(starts) - 1):
        own = similarity[starts[q] : starts[q + 1]]
        if own.size <= SHORT:
            for i in range(1, own.size):
                value, place = own[i], i
                while place and own[place - 1] < value:
                    own[place] = own[place - 1]
                    place -= 1
                own[place] = value


@_compiled()
def count_in_small_pools(
    query: Indices,
    pools: Indices,
    queries: Rows,
    query_norms: Floats,
    rows: Rows,
    norms: Floats,
    relevant: Indices,
    starts: Indices,
    excluded: Indices,
    excluded_starts: Indices,
    similarity: Floats,
    higher: Indices,
    equal: Indices,
) -> None:
    """Counts of the queries `query` from the exact cosine of each photo of their pools; see `scan`.

    Args:
        relevant, starts: gallery rows of the relevant photos of each query.
        similarity, higher, equal: of these, from the highest to the lowest; filled.
    """
    sums = np.empty(max(queries.shape[1], 1))
    exact = np.empty((pools[:, 1] - pools[:, 0]).max())
    for item in range(len(query)):
        q = query[item]
        first, n, a, b = pools[q, 0], pools[q, 1] - pools[q, 0], starts[q], starts[q + 1]
        for i in range(n):
            g = first + i
            if np.isnan(norms[g]):
                norms[g] = np.sqrt(exact_dot(rows, g, rows, g, sums))
            exact[i] = exact_dot(queries, q, rows, g, sums) / (query_norms[q] * norms[g])
        for r in range(a, b):
            value, place = exact[relevant[r] - first], r
            while place > a and similarity[place - 1] < value:
                similarity[place] = similarity[place - 1]
                place -= 1
            similarity[place] = value
        for e in range(excluded_starts[q], excluded_starts[q + 1]):
            exact[excluded[e] - first] = np.nan  # neither above nor equal to anything
        for r in range(a, b):
            n_higher, n_equal, value = 0, -1, similarity[r]  # a photo equals itself
            for i in range(n):
                n_higher += exact[i] > value
                n_equal += exact[i] == value
            higher[r], equal[r] = n_higher, n_equal


@_compiled()
def leave_out(
    excluded: Floats,
    excluded_starts: Indices,
    starts: Indices,
    similarity: Floats,
    higher: Indices,
    equal: Indices,
) -> None:
    """Take the photos that a query excludes, whose similarities are given, out of the counts."""
    for q in range(len(starts) - 1):
        for e in range(excluded_starts[q], excluded_starts[q + 1]):
            for r in range(starts[q], starts[q + 1]):
                higher[r] -= excluded[e] > similarity[r]
                equal[r] -= excluded[e] == similarity[r]


@_compiled(fastmath={"reassoc", "nsz"})
def _count_beyond(product: Rows, start: int, end: int, low: np.float32, high: np.float32) -> Any:
    """How many of `product[start:end]` are above `high`, and how many at least `low`.

    Sums of ones, exact in any order, and so vectorised.
    """
    n_above, n_at_least = np.float32(0), np.float32(0)
    for i in range(U(start), U(end)):
        n_above += np.float32(1) if product[i] > high else np.float32(0)
        n_at_least += np.float32(1) if product[i] >= low else np.float32(0)
    return n_above, n_at_least


@_compiled(fastmath={"reassoc", "nsz"})
def _place_between(product: Rows, start: int, end: int, low: np.float32, high: np.float32) -> Any:
    """Place, from `start`, of the one of `product[start:end]` that is within `low` and `high`."""
    place = np.float32(0)
    position = np.float32(0)
    for i in range(U(start), U(end)):
        is_between = (product[i] >= low) & (product[i] <= high)
        place += position if is_between else np.float32(0)
        position += np.float32(1)
    return place


@_compiled()
def scan(
    product: Rows,
    item_query: Indices,
    item_offset: Indices,
    item_row: Indices,
    item_size: Indices,
    queries: Rows,
    query_norms: Floats,
    rows: Rows,
    norms: Floats,
    first_row: int,
    starts: Indices,
    similarity: Floats,
    higher: Indices,
    equal: Indices,
    near: Indices,
    near_similarity: Floats,
    n_near: Indices,
    excluded: Indices,
    excluded_starts: Indices,
) -> None:
    """Count along stretches of float32 products, and keep the nearest photos. All arrays of queries are of all queries.

    Args:
        product: flat.
        item_query, item_offset, item_row, item_size: of each stretch: its query, where its products begin in
            `product`, the gallery row that the first is of, and how many there are.
        rows, norms: of the gallery, from `first_row` on.
        starts, similarity: of the relevant photos, from the highest to the lowest of each query.
        higher, equal: per relevant photo; added to.
        near, near_similarity, n_near: `[Q, k]` gallery rows and cosines of the nearest so far, and how many there are.
        excluded, excluded_starts: gallery rows that cannot be near, ascending for each query.
    """
    dim = queries.shape[1]
    sums = np.empty(max(dim, 1))
    table = np.empty(N_CELLS, dtype=np.int64)
    doubtful, order = np.empty((3, N_DOUBTFUL), dtype=np.int64), np.empty(N_DOUBTFUL, dtype=np.int64)
    n_doubtful = 0
    for item in range(len(item_query)):
        q, offset, size, row = item_query[item], item_offset[item], item_size[item], item_row[item] - first_row
        n_relevant = starts[q + 1] - starts[q]
        if n_relevant > MANY_RELEVANT:
            _count_by_place(
                product, offset, size, queries, q, query_norms[q], rows, row, norms,
                starts[q], starts[q + 1], similarity, higher, equal, table, sums,
            )  # fmt: skip
        elif n_relevant:
            done = 0
            while done < size:
                n_doubtful, done = _count_by_passes(
                    product, offset, size, dim, q, row, starts[q], starts[q + 1], similarity, higher,
                    doubtful, n_doubtful, done,
                )  # fmt: skip
                if done < size:
                    _count_doubtful(
                        doubtful, n_doubtful, order, queries, query_norms, rows, norms, similarity, higher, equal, sums
                    )
                    n_doubtful = 0
        if near.shape[1]:
            _keep_nearest(
                product, offset, size, queries, q, query_norms[q], rows, row, norms,
                first_row, near, near_similarity, n_near, excluded, excluded_starts, sums,
            )  # fmt: skip
    _count_doubtful(doubtful, n_doubtful, order, queries, query_norms, rows, norms, similarity, higher, equal, sums)


@_compiled()
def _count_by_passes(
    product: Rows,
    offset: int,
    size: int,
    dim: int,
    q: int,
    row: int,
    first: int,
    end: int,
    similarity: Floats,
    higher: Indices,
    doubtful: Indices,
    n_doubtful: int,
    start: int,
) -> Any:
    """A pass per relevant photo over the stretches from `start` on, until `doubtful` may be full.

    Returns:
        How many doubtful pairs there are now, and where to go on.
    """
    while start < size and n_doubtful + STRETCH * (end - first) <= doubtful.shape[1]:
        n = min(STRETCH, size - start)
        at = offset + start
        for r in range(end - 1, first - 1, -1):
            band = product_error(dim, similarity[r])
            low, high = np.float32(similarity[r] - band), np.float32(similarity[r] + band)
            n_above, n_at_least = _count_beyond(product, at, at + n, low, high)
            if n_at_least == 0:  # nor is any near the relevant photos of higher similarity
                break
            higher[r] += int(n_above)
            if n_at_least - n_above == 1:  # as most often: its place is known without a look at each
                place = int(_place_between(product, at, at + n, low, high))
                doubtful[0, n_doubtful], doubtful[1, n_doubtful] = row + start + place, q
                doubtful[2, n_doubtful] = r
                n_doubtful += 1
            elif n_at_least > n_above:
                for i in range(n):
                    if (product[at + i] >= low) & (product[at + i] <= high):
                        doubtful[0, n_doubtful], doubtful[1, n_doubtful] = row + start + i, q
                        doubtful[2, n_doubtful] = r
                        n_doubtful += 1
        start += STRETCH
    return n_doubtful, start


@_compiled()
def _count_doubtful(
    doubtful: Indices,
    n_doubtful: int,
    order: Indices,
    queries: Rows,
    query_norms: Floats,
    rows: Rows,
    norms: Floats,
    similarity: Floats,
    higher: Indices,
    equal: Indices,
    sums: Floats,
) -> None:
    """Evaluate pairs (row, query, relevant photo) exactly, row after row, as memory is quickest read in order."""
    ends = np.zeros(len(rows) + 1, dtype=np.int64)
    for d in range(n_doubtful):
        ends[doubtful[0, d] + 1] += 1
    for g in range(len(rows)):
        ends[g + 1] += ends[g]
    for d in range(n_doubtful):
        order[ends[doubtful[0, d]]] = d
        ends[doubtful[0, d]] += 1
    last_g, last_q, exact = -1, -1, 0.0
    for place in range(n_doubtful):
        d = order[place]
        g, q, r = doubtful[0, d], doubtful[1, d], doubtful[2, d]
        if g != last_g or q != last_q:
            exact = exact_dot(queries, q, rows, g, sums) / (query_norms[q] * norms[g])
            last_g, last_q = g, q
        if exact > similarity[r]:
            higher[r] += 1
        elif exact == similarity[r]:
            equal[r] += 1


@_compiled()
def _count_by_place(
    product: Rows,
    offset: int,
    size: int,
    queries: Rows,
    q: int,
    query_norm: float,
    rows: Rows,
    row: int,
    norms: Floats,
    first: int,
    end: int,
    similarity: Floats,
    higher: Indices,
    equal: Indices,
    table: Indices,
    sums: Floats,
) -> None:
    """A photo's place among the relevant ones, from a table of evenly spaced values; then sums over places."""
    n = end - first
    band = product_error(queries.shape[1], max(abs(similarity[first]), abs(similarity[end - 1])))
    lowest = np.float32(similarity[end - 1] - band)
    highest = np.float32(similarity[first] - band)
    scale = np.float32(N_CELLS - 1) / max(highest - lowest, np.float32(1e-6))
    # Of values in a cell, at least so many, and so the last ones, of the relevant photos lie below.
    below = 0
    for cell in range(N_CELLS):
        while below < n and int((np.float32(similarity[end - 1 - below] - band) - lowest) * scale) < cell:
            below += 1
        table[cell] = below
    places = np.zeros(n + 1, dtype=np.int64)
    for i in range(size):
        value = product[offset + i]
        if value < lowest:
            continue
        below = table[min(int((value - lowest) * scale), N_CELLS - 1)]
        while below < n and np.float32(similarity[end - 1 - below] - band) <= value:
            below += 1
        if below and value <= np.float32(similarity[end - below] + band):
            g = row + i
            exact = exact_dot(queries, q, rows, g, sums) / (query_norm * norms[g])
            while below and similarity[end - below] >= exact:
                if similarity[end - below] == exact:
                    equal[end - below] += 1
                below -= 1
        places[below] += 1
    above = 0
    for below in range(n, 0, -1):
        above += places[below]
        higher[end - below] += above


@_compiled()
def _keep_nearest(
    product: Rows,
    offset: int,
    size: int,
    queries: Rows,
    q: int,
    query_norm: float,
    rows: Rows,
    row: int,
    norms: Floats,
    first_row: int,
    near: Indices,
    near_similarity: Floats,
    n_near: Indices,
    excluded: Indices,
    excluded_starts: Indices,
    sums: Floats,
) -> None:
    """Insert photos that are nearer than the last of those near; equally near ones come in the order of their rows."""
    dim, k = queries.shape[1], near.shape[1]
    cut = _least_near(near_similarity[q, k - 1], dim, n_near[q] == k)
    for start in range(0, size, STRETCH):
        at, n = offset + start, min(STRETCH, size - start)
        if _count_beyond(product, at, at + n, cut, cut)[1] == 0:
            continue
        for i in range(n):
            if product[at + i] < cut:
                continue
            g = row + start + i
            if _holds(excluded, excluded_starts[q], excluded_starts[q + 1], first_row + g):
                continue
            exact = exact_dot(queries, q, rows, g, sums) / (query_norm * norms[g])
            if n_near[q] == k and exact <= near_similarity[q, k - 1]:
                continue
            if n_near[q] < k:
                n_near[q] += 1
            place = n_near[q] - 1
            while place and near_similarity[q, place - 1] < exact:
                near_similarity[q, place], near[q, place] = near_similarity[q, place - 1], near[q, place - 1]
                place -= 1
            near_similarity[q, place], near[q, place] = exact, first_row + g
            cut = _least_near(near_similarity[q, k - 1], dim, n_near[q] == k)


@_compiled()
def _holds(ascending: Indices, low: int, end: int, value: int) -> bool:
    """Whether a value is among `ascending[low:end]`."""
    high = end
    while low < high:
        middle = (low + high) // 2
        if ascending[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low < end and ascending[low] == value


@_compiled()
def _least_near(last: float, dim: int, is_full: bool) -> Any:
    """No product below it can be of a photo that is nearer than the last of those near."""
    return np.float32(last - product_error(dim, last)) if is_full else np.float32(-np.inf)
