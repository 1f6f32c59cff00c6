"""`finer-rank embedder`: the zoo's cards, their weights, and encoders as folders."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmark.options import Device, one_of
from benchmark.train_command import train
from galleries.options import AsJson

if TYPE_CHECKING:
    from benchmark.embedders.base import Preprocessing
    from benchmark.embedders.zoo import EncoderCard

app = typer.Typer(no_args_is_help=True, help="Encoders: what there is, what each has seen, fetching their weights.")
app.command()(train)

KINDS = ("generic", "specialised")
OfGallery = Annotated[
    Path | None,
    typer.Option("--gallery", "-g", help="Say of each encoder whether it saw this gallery's photos in training."),
]


@app.command("list")
def list_embedders(
    kind: Annotated[str, typer.Option(help="Only generic, or only specialised ones.", show_default=False)] = "",
    gallery: OfGallery = None,
    markdown: Annotated[bool, typer.Option(help="As the table of docs/embedders.md.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the encoders that have a name. Any other model of timm, OpenCLIP, torchvision or transformers has a spec.

    Example: finer-rank embedder list --gallery birds
    """
    from benchmark.embedders.zoo import data_set_of, seen_state, training_data, zoo
    from galleries.console import note, print_json, print_table, say
    from galleries.gallery import Gallery

    one_of("--kind", kind or None, KINDS)
    cards = [card for card in zoo().values() if kind in ("", card.kind)]
    source = Gallery.open(gallery).card.source if gallery else ""
    if as_json:
        states = [{"gallery_seen": seen_state(card.trained_on, source)} if gallery else {} for card in cards]
        print_json([{**as_record(card), **state} for card, state in zip(cards, states, strict=True)])
        return
    if markdown:
        for line in as_markdown(cards):
            say(line)
        return
    columns = ["name", "encoder", "kind", "length", "pixels", "licence", "this gallery" if gallery else "trained on"]
    rows = [
        [
            card.name, card.title, card.kind, str(card.dimension), geometry(card.preprocessing), card.licence,
            seen_state(card.trained_on, source) if gallery else training_of(card),
        ]
        for card in cards
    ]  # fmt: skip
    print_table("encoders by name", columns, rows)
    if gallery and not data_set_of(source):
        known = ", ".join(name for name, each in training_data().items() if each.sources)
        what = f"names the source {source!r}, which is none of {known}" if source else "names no source"
        note(f"note: {gallery}: gallery.toml {what}: nobody knows which encoders have seen its photos")


@app.command()
def show(
    name: Annotated[
        str, typer.Argument(help="A name that finer-rank embedder list shows, NAME@FILE, or checkpoint:FOLDER.")
    ],
    as_json: AsJson = False,
) -> None:
    """Show all that is known of an encoder: weights, preprocessing, licence, what it has seen.

    Example: finer-rank embedder show dinov2
    """
    from benchmark.embedders import load_embedder
    from benchmark.embedders.zoo import seen_state, training_data, zoo
    from galleries.console import note, print_json, say
    from galleries.errors import FinerRankError

    card, state_of = zoo().get(name), None
    if card is None:
        embedder = load_embedder(name, device="cpu")
        if embedder.members:
            known = ", ".join(f"{member.weight:.3g} {member.embedder.spec}" for member in embedder.members)
            raise FinerRankError(f"{name}: an ensemble of {known}; ask for each of them")
        card, state_of = embedder.card, embedder.seen_state
    if card is None:
        raise FinerRankError(f"{name}: no card speaks of it; finer-rank embedder list shows those that have one")
    galleries = {each.title: each.sources[0] for each in training_data().values() if each.sources}
    states = {
        title: state_of(source) if state_of else seen_state(card.trained_on, source)
        for title, source in galleries.items()
    }
    if state_of and card.name in zoo() and "unknown" in states.values():
        note(f"note: {name}: if these are not the published weights, only who made them knows what they have seen")
    if as_json:
        print_json({**as_record(card), "galleries_seen": states})
        return
    record = as_record(card)
    published = record.pop("published") or {}
    fields = {
        **record,
        "weights": published.get("repository") or _without_published_weights(card),
        "file": published.get("file", ""),
        "revision": published.get("revision") or ("the newest: none is pinned" if published else ""),
        "SHA-256": published.get("sha256") or ("not known" if published else ""),
        "trained_on": training_of(card),
        "preprocessing": _in_words(card.preprocessing),
    }
    for key, value in fields.items():
        if value not in ("", None):
            say(f"{key.replace('_', ' '):<14} {value}")
    say("galleries")
    for title, state in states.items():
        say(f"  {title}: {state}")


@app.command()
def fetch(
    names: Annotated[list[str], typer.Argument(help="Names or specs.")],
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Download an encoder's weights once, check them, and try them on a picture. Afterwards no network is needed.

    Where it has a text side, a text is embedded too, which fetches its tokenizer.

    HF_ENDPOINT names another hub. FINER_RANK_MIRROR names a folder that stands in for the hub (OWNER/NAME/FILE) and
    for other servers (FILE).

    Example: finer-rank embedder fetch dinov2 miewid
    """
    from benchmark.embedders import load_embedder
    from galleries.console import note, print_json, print_table
    from galleries.errors import FinerRankError

    fetched = []
    for name in names:
        embedder = load_embedder(name, device=device)
        for one in [member.embedder for member in embedder.members] or [embedder]:
            note(f"{one.spec}: fetching")
            length = one.embed(_picture()).shape[1]
            if one.card and one.card.dimension != length:
                raise FinerRankError(
                    f"{one.spec}: embeddings of length {length}, its card says {one.card.dimension}: not its weights"
                )
            if one.model.embed_texts:
                try:
                    one.embed_texts(["a photo"])
                except FinerRankError as error:
                    note(f"note: ready for images, not for prompts (--clip-t): {error}")
            files = [str(file) for file in one.model.files]
            fetched.append(
                {"name": one.spec, "length": length, "weights_sha256": one.model.weights_digest, "files": files}
            )
    if as_json:
        print_json(fetched)
        return
    rows = [[e["name"], str(e["length"]), str(e["weights_sha256"])[:12], ", ".join(e["files"])] for e in fetched]
    print_table("ready, also without a network", ["name", "length", "SHA-256", "files"], rows)


@app.command()
def export(
    name: Annotated[str, typer.Argument(help="A name or spec: timm:, torchvision:, open_clip: or miewid:.")],
    out: Annotated[Path, typer.Option(help="Folder to make: embedder.toml and model.safetensors.")],
) -> None:
    """Write an encoder as a folder that describes itself: weights as safetensors, with architecture and preprocessing.

    Example: finer-rank embedder export torchvision:squeezenet1_1@squeezenet1_1.pth --out squeezenet, then
    finer-rank evaluate … --embedder checkpoint:squeezenet
    """
    from benchmark.embedders import load_embedder
    from benchmark.embedders.checkpoint import export as write
    from galleries.console import say

    write(load_embedder(name, device="cpu"), out)
    say(f"{out}: use it as checkpoint:{out}")


def _without_published_weights(card: "EncoderCard") -> str:
    from benchmark.embedders.zoo import zoo

    if card.trained_on == ():
        return "none"
    if card.spec.startswith("checkpoint:"):
        return "in this package" if zoo().get(card.name) == card else "in its folder"
    return f"nobody publishes them: train it, and write {card.name}@FILE"


def _picture() -> list[Any]:
    from PIL import Image

    return [Image.merge("RGB", [Image.linear_gradient("L"), Image.radial_gradient("L"), Image.linear_gradient("L")])]


def as_record(card: "EncoderCard") -> dict[str, Any]:
    """A card as JSON holds it."""
    from dataclasses import asdict

    return asdict(card)


def geometry(preprocessing: "Preprocessing | None") -> str:
    """Size and way of resizing in a few characters: `224 (256)` crops 224 out of a short side of 256 pixels."""
    if preprocessing is None:
        return "as its files say"
    size, to = preprocessing.size[0], preprocessing.resize_to[0]
    return f"{size} squash" if preprocessing.resize == "squash" else f"{size}" if size == to else f"{size} ({to})"


def _in_words(preprocessing: "Preprocessing | None") -> str:
    if preprocessing is None:
        return "as the configuration beside the weights says"
    size, to = preprocessing.size[0], preprocessing.resize_to[0]
    how = f"both sides to {to} px" if preprocessing.resize == "squash" else f"short side to {to} px, centre {size} px"
    values = (", ".join(f"{v:.4g}" for v in triple) for triple in (preprocessing.mean, preprocessing.std))
    mean, std = values
    return f"{how}, {preprocessing.interpolation}; mean {mean}; std {std}"


def training_of(card: "EncoderCard") -> str:
    from benchmark.embedders.zoo import training_data

    if card.trained_on is None:
        return "not known"
    return ", ".join(training_data()[name].title for name in card.trained_on) or "nothing"


def as_markdown(cards: "Sequence[EncoderCard]") -> list[str]:
    """The table of the documentation: a row per card, generic ones first."""
    head = ["name", "encoder", "pixels", "embedding", "length", "weights", "licence", "trained on"]
    lines = []
    for kind in KINDS:
        lines += ["", f"**{kind}**", "", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
        for card in cards:
            if card.kind == kind:
                cells: Mapping[str, str] = {
                    "name": f"`{card.name}`",
                    "encoder": ", ".join(filter(None, [card.title, card.paper])),
                    "pixels": _pixels(card.preprocessing),
                    "embedding": card.token,
                    "length": str(card.dimension),
                    "weights": _weights(card),
                    "licence": card.licence or "not stated",
                    "trained on": training_of(card),
                }
                lines.append(f"| {' | '.join(cells[column] for column in head)} |")
    return lines[1:]


def _pixels(preprocessing: "Preprocessing | None") -> str:
    if preprocessing is None:
        return geometry(None)
    return f"{geometry(preprocessing)}, {preprocessing.interpolation}"


def _weights(card: "EncoderCard") -> str:
    published = card.published
    if published is None:
        own = "in this package" if card.spec.startswith("checkpoint:") else "your own"
        return "none" if card.trained_on == () else own
    pins = [published.revision[:7] and f"revision {published.revision[:7]}", published.sha256 and "SHA-256 known"]
    return ", ".join([published.repository.removeprefix("https://"), *filter(None, pins)])
