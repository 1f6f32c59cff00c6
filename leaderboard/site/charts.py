"""Charts of a board, drawn by Vega-Lite when the site is built: pages hold plain SVG in the page's own colours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from benchmark.encoder_agreement import embedder_pairs
from leaderboard.site.data import model_key
from leaderboard.standings import Board, Embedder, Estimate, Row, Standings

WIDTH, HEIGHT = 540, 360
LABEL_PX = (6.4, 15)
"""Of a letter of a label: what is left of the room decides whether a name is written beside its point."""
LINK_BASE = "https://site.invalid/"
"""Vega makes links absolute; this is taken off again."""
CONFIG = {
    "background": "transparent",
    "font": "sans-serif",
    "axis": {
        **dict.fromkeys(("labelColor", "titleColor"), "var(--ink)"),
        **dict.fromkeys(("gridColor", "domainColor", "tickColor"), "var(--line)"),
        "labelFontSize": 12,
        "titleFontSize": 13,
        "titleFontWeight": "normal",
    },
    "text": {"color": "var(--ink)", "fontSize": 11},
    "view": {"stroke": "var(--line)"},
}

Points = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Chart:
    """A picture with what a reader must know of it. `embedder` is "" where it is of all of them."""

    title: str
    caption: str
    svg: str
    embedder: str = ""


def charts_of(board: Board, standings: Mapping[str, Standings]) -> list[Chart]:
    """The charts of a board. Args: standings: key of each embedder → its standings."""
    charts = []
    for embedder in board.embedders:
        of = standings[embedder.key]
        keys = {bundle.name: model_key(bundle) for bundle in board.bundles}
        fidelity = _scatter(embedder, of, keys, "clip_t", "prompt fidelity (CLIP-T)", frontier=True)
        if fidelity:
            caption = (
                "A good model keeps the identity and follows the prompt. The line joins the models that no other one "
                "beats in both. Copying the reference keeps the identity and ignores the prompt."
            )
            charts.append(Chart("Identity against prompt fidelity", caption, fidelity, embedder.key))
        similarity = _scatter(embedder, of, keys, "similarity", "pairwise similarity", frontier=False)
        if similarity:
            caption = (
                "If pairwise similarity told identity, the points would rise along a line. Models of one height show "
                "their individual equally well, however similar they seem."
            )
            charts.append(Chart("Similarity against mAP", caption, similarity, embedder.key))
    agreement = _agreement(board)
    if agreement:
        charts.append(agreement)
    return charts


def _scatter(
    embedder: Embedder, standings: Standings, keys: Mapping[str, str], metric: str, title: str, frontier: bool
) -> str:
    """mAP over another metric, with both intervals; "" where no model has it."""
    points = [point for row in standings.rows if (point := _point(row, metric, embedder, keys))]
    if not points:
        return ""
    anchors = [
        {"y": estimate["value"], "name": row.model}
        for row in standings.anchors
        if not row.bundle and (estimate := row.scores.get("mAP"))
    ]  # fmt: skip
    across, up = (_domain(points, anchors, axis) for axis in ("x", "y"))
    x = {"field": "x", "type": "quantitative", "title": title, "scale": {"domain": across, "nice": False}}
    y = {"field": "y", "type": "quantitative", "title": "mAP", "scale": {"domain": up, "nice": False}}
    layers: list[dict[str, Any]] = [
        {
            "data": {"values": anchors},
            "mark": {"type": "rule", "strokeDash": [4, 3], "color": "var(--anchor)"},
            "encoding": {"y": y, "description": {"field": "name"}},
        },
        {
            "data": {"values": anchors},
            "mark": {"type": "text", "align": "right", "dy": -5, "color": "var(--anchor)", "aria": False},
            "encoding": {"y": y, "x": {"value": WIDTH - 4}, "text": {"field": "name"}},
        },
    ]
    if frontier:
        best = _frontier(points)
        mark = {"type": "line", "color": "var(--faint)", "strokeWidth": 1.5, "aria": False}
        layers.append({"data": {"values": best}, "mark": mark, "encoding": {"x": x, "y": y}})
    bounds = {"type": "rule", "color": "var(--accent)", "opacity": 0.45, "aria": False}
    has_bounds = [point for point in points if point["y_low"] is not None]
    layers.append(
        {"data": {"values": has_bounds}, "mark": bounds,
         "encoding": {"x": x, "y": {**y, "field": "y_low"}, "y2": {"field": "y_high"}}}
    )  # fmt: skip
    has_bounds = [point for point in points if point["x_low"] is not None]
    layers.append(
        {"data": {"values": has_bounds}, "mark": bounds,
         "encoding": {"y": y, "x": {**x, "field": "x_low"}, "x2": {"field": "x_high"}}}
    )  # fmt: skip
    layers.append(
        {
            "mark": {"type": "point", "filled": True, "size": 70, "opacity": 1, "color": "var(--accent)"},
            "encoding": {"x": x, "y": y, "href": {"field": "href"}, "description": {"field": "label"}},
        }
    )
    for (align, dx, dy), own in _labelled(points, anchors, across, up).items():
        layers.append(
            {
                "data": {"values": own},
                "mark": {"type": "text", "align": align, "dx": dx, "dy": dy, "aria": False},
                "encoding": {"x": x, "y": y, "text": {"field": "short"}},
            }
        )
    return _svg({"data": {"values": points}, "width": WIDTH, "height": HEIGHT, "layer": layers})


def _domain(
    points: Sequence[Mapping[str, Any]], anchors: Sequence[Mapping[str, Any]], axis: str
) -> tuple[float, float]:
    """From where to where an axis goes: all intervals and anchors, and some room."""
    values = [point[key] for point in points for key in (axis, f"{axis}_low", f"{axis}_high") if point[key] is not None]
    values += [anchor[axis] for anchor in anchors if axis in anchor]
    low, high = min(values), max(values)
    room = max(0.06 * (high - low), 0.01)
    return round(low - room, 3), round(high + room, 3)


def _labelled(
    points: Points,
    anchors: Points,
    across: tuple[float, float],
    up: tuple[float, float],
) -> dict[tuple[str, int, int], list[Mapping[str, Any]]]:
    """Points whose names have room, by where these stand beside the point; the highest point chooses first."""

    def at(point: Mapping[str, Any]) -> tuple[float, float]:
        x = (point["x"] - across[0]) / (across[1] - across[0]) * WIDTH
        return x, (up[1] - point["y"]) / (up[1] - up[0]) * HEIGHT

    letter, line = LABEL_PX
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in map(at, points)]
    for anchor in anchors:
        y = (up[1] - anchor["y"]) / (up[1] - up[0]) * HEIGHT
        taken.append((WIDTH - letter * len(anchor["name"]) - 4, y - line, WIDTH, y))
    found: dict[tuple[str, int, int], list[Mapping[str, Any]]] = {}
    for point in sorted(points, key=lambda p: (-p["y"], p["x"], p["name"])):
        x, y = at(point)
        width = letter * len(point["short"])
        for align, dx, dy in (("left", 8, -7), ("right", -8, -7), ("left", 8, 9), ("right", -8, 9)):
            left = x + dx if align == "left" else x + dx - width
            box = (left, y + dy - line / 2, left + width, y + dy + line / 2)
            inside = box[0] >= 0 and box[2] <= WIDTH and box[1] >= 0 and box[3] <= HEIGHT
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                found.setdefault((align, dx, dy), []).append(point)
                break
    return found


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _point(row: Row, metric: str, embedder: Embedder, keys: Mapping[str, str]) -> dict[str, Any] | None:
    across, up = row.scores.get(metric), row.scores.get("mAP")
    if not across or across["value"] is None or not up:
        return None
    address = urlencode({"model": keys[row.bundle], "embedder": embedder.key})
    return {
        **_ends("x", across),
        **_ends("y", up),
        "name": row.model,
        "short": row.model if len(row.model) <= 24 else f"{row.model[:23]}…",
        "label": f"{row.model}: mAP {up['value']:.3f}, {across['value']:.3f}",
        "href": f"{LINK_BASE}neighbours.html#{address}",
    }


def _ends(axis: str, estimate: Estimate) -> dict[str, float | None]:
    return {axis: estimate["value"], f"{axis}_low": estimate["low"], f"{axis}_high": estimate["high"]}


def _frontier(points: Points) -> list[Mapping[str, Any]]:
    """Points that no other one beats in both, from left to right."""
    best: list[Mapping[str, Any]] = []
    for point in sorted(points, key=lambda p: (-p["x"], -p["y"])):
        if not best or point["y"] > best[-1]["y"]:
            best.append(point)
    return best[::-1]


def _agreement(board: Board) -> Chart | None:
    """Kendall's tau-b between the orders in which embedders put the models; None where no two share two models."""
    names = {embedder.fingerprint: f"({i}) {embedder.spec}" for i, embedder in enumerate(board.embedders, start=1)}
    means = {
        names[embedder.fingerprint]: {
            bundle.name: record.identity_means()
            for bundle, record in board.records[embedder.fingerprint]
            if not bundle.incomplete
        }
        for embedder in board.embedders
    }
    cells = []
    for pair in embedder_pairs(means):
        tau = "undefined" if pair.tau is None else f"{pair.tau:.2f}"
        bounds = "" if pair.low is None or pair.high is None else f"{pair.low:.2f} to {pair.high:.2f}"
        label = f"{pair.first} and {pair.second}: {tau} ({bounds or 'no interval'}), {pair.n_runs} models"
        for row, column in ((pair.first, pair.second), (pair.second, pair.first)):
            cells.append({"a": row, "b": column, "tau": pair.tau, "shown": tau, "bounds": bounds, "label": label})
    if not cells:
        return None
    caption = (
        "Kendall's tau-b between the orders in which two encoders put the models, with 95 % bootstrap intervals over "
        "identities: 1 where they agree on every pair, 0 where one says nothing of the other, −1 where one is the "
        "other upside down. A ranking that only one encoder supports is that encoder's opinion."
    )
    return Chart("Encoders' agreement", caption, _heat_map(list(means), cells))


def _heat_map(embedders: Sequence[str], cells: Sequence[Mapping[str, Any]]) -> str:
    axis = {"labelLimit": 260, "title": None, "labelOverlap": False}
    a = {"field": "a", "type": "nominal", "sort": list(embedders), "axis": axis}
    b = {"field": "b", "type": "nominal", "sort": list(embedders), "axis": {**axis, "labelAngle": -35}}
    colour = {
        "field": "tau", "type": "quantitative", "legend": None,
        "scale": {"domain": [-1, 0, 1], "range": ["#b35806", "#f7f7f7", "#542788"]},
    }  # fmt: skip
    ink = {"condition": {"test": "abs(datum.tau) > 0.6", "value": "#ffffff"}, "value": "#1d1f21"}
    small = {"type": "text", "aria": False, "dy": 11, "fontSize": 10}
    layers = [
        {"mark": "rect", "encoding": {"x": b, "y": a, "color": colour, "description": {"field": "label"}}},
        {"mark": {"type": "text", "aria": False, "dy": -4},
         "encoding": {"x": b, "y": a, "text": {"field": "shown"}, "color": ink}},
        {"mark": small, "encoding": {"x": b, "y": a, "text": {"field": "bounds"}, "color": ink}},
    ]  # fmt: skip
    step = {"step": 84}
    return _svg({"data": {"values": cells}, "width": step, "height": {"step": 48}, "layer": layers})


def _svg(specification: Mapping[str, Any]) -> str:
    import vl_convert

    schema = "https://vega.github.io/schema/vega-lite/v5.json"
    drawn = str(vl_convert.vegalite_to_svg({"$schema": schema, **specification, "config": CONFIG}))
    return drawn.replace(f'xlink:href="{LINK_BASE}', 'href="')
