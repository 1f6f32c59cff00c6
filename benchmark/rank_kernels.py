"""Compiled loops of `benchmark.rank`: exact cosines, and counting along rows of a float32 product.

Compiled by numba when first used, and kept beside this file, or in numba's cache folder where that cannot be written.
They release the interpreter's lock, so that threads share the queries. `scratch` is `[D]` float64.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

STRETCH = 128
"""Photos whose doubtful pairs are looked for together."""
FEW = 16
"""Photos of a stretch that are looked at one by one where one of them is doubtful."""
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
def exact_dot(a: Rows, b: Rows, scratch: Floats) -> float:
    """Inner product. Products of float32 are exact in float64; they are summed by halving: the second half is added to
    the first, an odd one out to the first sum, until one is left. The order depends on the number of products alone.
    """
    n = a.size
    if n % 8:
        for i in range(n):
            scratch[i] = np.float64(a[i]) * np.float64(b[i])
    else:
        n = _three_halvings_of_products(a, b, scratch)
    while n > 8 and n % 8 == 0:
        n = _three_halvings(n, scratch)
    if n == 8:
        s = scratch
        return float(((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7])))
    while n > 1:
        half = n // 2
        for i in range(half):
            scratch[i] += scratch[half + i]
        if n % 2:
            scratch[0] += scratch[n - 1]
        n = half
    return float(scratch[0])


@_compiled()
def _three_halvings_of_products(a: Rows, b: Rows, scratch: Floats) -> int:
    # Slices, as loops over an offset index are not vectorised.
    n, f = a.size // 8, np.float64
    a0, a1, a2, a3 = a[:n], a[n : 2 * n], a[2 * n : 3 * n], a[3 * n : 4 * n]
    a4, a5, a6, a7 = a[4 * n : 5 * n], a[5 * n : 6 * n], a[6 * n : 7 * n], a[7 * n : 8 * n]
    b0, b1, b2, b3 = b[:n], b[n : 2 * n], b[2 * n : 3 * n], b[3 * n : 4 * n]
    b4, b5, b6, b7 = b[4 * n : 5 * n], b[5 * n : 6 * n], b[6 * n : 7 * n], b[7 * n : 8 * n]
    s = scratch[:n]
    for i in range(n):
        s[i] = (
            ((f(a0[i]) * f(b0[i]) + f(a4[i]) * f(b4[i])) + (f(a2[i]) * f(b2[i]) + f(a6[i]) * f(b6[i])))
            + ((f(a1[i]) * f(b1[i]) + f(a5[i]) * f(b5[i])) + (f(a3[i]) * f(b3[i]) + f(a7[i]) * f(b7[i])))
        )  # fmt: skip
    return n


@_compiled()
def _three_halvings(n: int, s: Floats) -> int:
    n //= 8
    s0, s1, s2, s3 = s[:n], s[n : 2 * n], s[2 * n : 3 * n], s[3 * n : 4 * n]
    s4, s5, s6, s7 = s[4 * n : 5 * n], s[5 * n : 6 * n], s[6 * n : 7 * n], s[7 * n : 8 * n]
    for i in range(n):
        s0[i] = ((s0[i] + s4[i]) + (s2[i] + s6[i])) + ((s1[i] + s5[i]) + (s3[i] + s7[i]))
    return n


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
    scratch = np.empty(max(rows.shape[1], 1))
    for i in range(len(rows)):
        if np.isnan(norms[i]):
            norms[i] = np.sqrt(exact_dot(rows[i], rows[i], scratch))


@_compiled()
def cosines(
    queries: Rows, rows: Rows, query: Indices, row: Indices, query_norms: Floats, norms: Floats, found: Floats
) -> None:
    """Exact cosine of chosen pairs, `[P]`, into `found`. Norms that are NaN are filled in."""
    scratch = np.empty(max(queries.shape[1], 1))
    for p in range(len(query)):
        q, g = query[p], row[p]
        if np.isnan(norms[g]):
            norms[g] = np.sqrt(exact_dot(rows[g], rows[g], scratch))
        found[p] = exact_dot(queries[q], rows[g], scratch) / (query_norms[q] * norms[g])


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
def _count_beyond(products: Rows, low: np.float32, high: np.float32) -> tuple[np.float32, np.float32]:
    """How many are above `high`, and how many at least `low`: sums of ones, exact in any order, and so vectorised."""
    n_above, n_at_least = np.float32(0), np.float32(0)
    for i in range(products.size):
        n_above += np.float32(products[i] > high)
        n_at_least += np.float32(products[i] >= low)
    return n_above, n_at_least


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
    scratch = np.empty(max(queries.shape[1], 1))
    table = np.empty(N_CELLS, dtype=np.int64)
    exact = np.empty(STRETCH)
    for item in range(len(item_query)):
        q, first = item_query[item], item_row[item] - first_row
        products = product[item_offset[item] : item_offset[item] + item_size[item]]
        query, query_norm = queries[q], query_norms[q]
        photos, lengths = rows[first : first + products.size], norms[first : first + products.size]
        a, b = starts[q], starts[q + 1]
        own, above, same = similarity[a:b], higher[a:b], equal[a:b]
        if b - a > MANY_RELEVANT:
            _count_by_place(products, query, query_norm, photos, lengths, own, above, same, table, scratch)
        elif b > a:
            _count_by_passes(products, query, query_norm, photos, lengths, own, above, same, exact, scratch)
        if near.shape[1]:
            out = excluded[excluded_starts[q] : excluded_starts[q + 1]]
            at, of, values, n = item_row[item], near[q], near_similarity[q], n_near[q]
            n_near[q] = _keep_nearest(products, query, query_norm, photos, lengths, at, out, of, values, n, scratch)


@_compiled()
def _count_by_passes(
    products: Rows,
    query: Rows,
    query_norm: float,
    rows: Rows,
    norms: Floats,
    similarity: Floats,
    higher: Indices,
    equal: Indices,
    exact: Floats,
    scratch: Floats,
) -> None:
    """A pass per relevant photo; doubtful pairs are evaluated once for all of them."""
    for start in range(0, products.size, STRETCH):
        stretch = products[start : start + STRETCH]
        is_fresh = False
        for r in range(similarity.size - 1, -1, -1):
            band = product_error(query.size, similarity[r])
            low, high = np.float32(similarity[r] - band), np.float32(similarity[r] + band)
            n_above, n_at_least = _count_beyond(stretch, low, high)
            if n_at_least == 0:  # nor is any near the relevant photos of higher similarity
                break
            higher[r] += int(n_above)
            if n_above == n_at_least:
                continue
            if not is_fresh:
                exact[:] = np.nan
                is_fresh = True
            for some in range(0, stretch.size, FEW):
                n_above, n_at_least = _count_beyond(stretch[some : some + FEW], low, high)
                if n_above == n_at_least:
                    continue
                for i in range(some, min(some + FEW, stretch.size)):
                    if stretch[i] < low or stretch[i] > high:
                        continue
                    if np.isnan(exact[i]):
                        exact[i] = exact_dot(query, rows[start + i], scratch) / (query_norm * norms[start + i])
                    if exact[i] > similarity[r]:
                        higher[r] += 1
                    elif exact[i] == similarity[r]:
                        equal[r] += 1


@_compiled()
def _count_by_place(
    products: Rows,
    query: Rows,
    query_norm: float,
    rows: Rows,
    norms: Floats,
    similarity: Floats,
    higher: Indices,
    equal: Indices,
    table: Indices,
    scratch: Floats,
) -> None:
    """A photo's place among the relevant ones, from a table of evenly spaced values; then sums over places."""
    n = similarity.size
    band = product_error(query.size, max(abs(similarity[0]), abs(similarity[n - 1])))
    lowest = np.float32(similarity[n - 1] - band)
    highest = np.float32(similarity[0] - band)
    scale = np.float32(N_CELLS - 1) / max(highest - lowest, np.float32(1e-6))
    # Of values in cell c, at least so many, and so the last ones, of the relevant photos lie below.
    below = 0
    for cell in range(N_CELLS):
        while below < n and int((np.float32(similarity[n - 1 - below] - band) - lowest) * scale) < cell:
            below += 1
        table[cell] = below
    places = np.zeros(n + 1, dtype=np.int64)
    for i in range(products.size):
        value = products[i]
        if value < lowest:
            continue
        below = table[min(int((value - lowest) * scale), N_CELLS - 1)]
        while below < n and np.float32(similarity[n - 1 - below] - band) <= value:
            below += 1
        if below and value <= np.float32(similarity[n - below] + band):
            exact = exact_dot(query, rows[i], scratch) / (query_norm * norms[i])
            while below and similarity[n - below] >= exact:
                if similarity[n - below] == exact:
                    equal[n - below] += 1
                below -= 1
        places[below] += 1
    above = 0
    for below in range(n, 0, -1):
        above += places[below]
        higher[n - below] += above


@_compiled()
def _keep_nearest(
    products: Rows,
    query: Rows,
    query_norm: float,
    rows: Rows,
    norms: Floats,
    first: int,
    excluded: Indices,
    near: Indices,
    near_similarity: Floats,
    n_near: int,
    scratch: Floats,
) -> int:
    """Insert photos that are nearer than the last of `near`; equally near ones come in the order of their rows."""
    k = near.size
    cut = _least_near(near_similarity, query.size) if n_near == k else np.float32(-np.inf)
    for start in range(0, products.size, STRETCH):
        stretch = products[start : start + STRETCH]
        if _count_beyond(stretch, cut, cut)[1] == 0:
            continue
        for i in range(stretch.size):
            if stretch[i] < cut:
                continue
            at = first + start + i
            if _holds(excluded, at):
                continue
            exact = exact_dot(query, rows[start + i], scratch) / (query_norm * norms[start + i])
            if n_near == k and exact <= near_similarity[k - 1]:
                continue
            if n_near < k:
                n_near += 1
            place = n_near - 1
            while place and near_similarity[place - 1] < exact:
                near_similarity[place], near[place] = near_similarity[place - 1], near[place - 1]
                place -= 1
            near_similarity[place], near[place] = exact, at
            if n_near == k:
                cut = _least_near(near_similarity, query.size)
    return n_near


@_compiled()
def _holds(ascending: Indices, value: int) -> bool:
    low, high = 0, ascending.size
    while low < high:
        middle = (low + high) // 2
        if ascending[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low < ascending.size and ascending[low] == value


@_compiled()
def _least_near(near_similarity: Floats, dim: int) -> np.float32:
    """No product below it can be of a photo that is nearer than the last."""
    last = near_similarity[near_similarity.size - 1]
    return np.float32(last - product_error(dim, last))
