"""A submission bundle: what one model scored on one gallery, as a folder that can be published.

manifest.json                       format, model, gallery, protocol; SHA-256 of every other file
records/EMBEDDER--FINGERPRINT/      a record as benchmark.records writes it, without this machine's paths
thumbnails/SHA256.webp              queries, shown neighbours and references, where the gallery allows it
"""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from benchmark.records import PROTOCOL
from galleries.images import sha256_of
from leaderboard.schema import Check, count, list_of, map_of, object_of, sha256, text

FORMAT = 1
MANIFEST = "manifest.json"
RECORD_FILES = ("record.json", "queries.parquet", "neighbours.parquet")

N_SHOWN = 5

SCHEMA: Check = object_of(
    {
        "format": count(FORMAT, FORMAT),
        "protocol": text(one_of=(PROTOCOL,)),
        "model": text(200, empty=False),
        "gallery": object_of(
            {"name": text(200, empty=False), "version": text(200, empty=False), "table_sha256": sha256,
             "images_sha256": sha256}
        ),
        "incomplete": list_of(text(2000, empty=False), 10),
        "records": list_of(text(300, empty=False), 1000),
        "references": list_of(object_of({"file_name": text(4096), "identity": text(4096), "image_sha256": sha256})),
        "files": map_of(sha256),
    }
)  # fmt: skip


def incomplete(manifest: Mapping[str, Any]) -> Sequence[str]:
    """What the run of a bundle lacks to be ranked, a line each; empty where it is complete."""
    reasons: Sequence[str] = manifest["incomplete"]
    return reasons


def gaps_of(asked: Iterable[tuple[str, str, str]], summary: Mapping[str, Any]) -> list[str]:
    """What a run lacks, in words that follow from its record alone.

    Args:
        asked: category, identity and prompt id of each query.
        summary: the content of `record.json`.
    """
    n_gallery_identities, n_refused = summary["n_gallery_identities"], summary["run"].get("n_refused", 0)
    rows = set(asked)
    n_missing = n_gallery_identities - len({identity for _, identity, _ in rows})
    gaps = [f"no image of {n_missing} of the gallery's {n_gallery_identities} identities"] if n_missing else []
    prompts = missing_prompts(rows)
    refused = f"{n_refused} images were refused by a filter" if n_refused else ""
    return [*gaps, *filter(None, (prompts, refused))]


def missing_prompts(asked: Iterable[tuple[str, str, str]]) -> str:
    """How many prompt ids identities lack that others of their category have, and the first; "" if none.

    Args:
        asked: category, identity and prompt id, "" where there is none.
    """
    has: dict[str, dict[str, set[str]]] = {}
    for category, identity, prompt_id in asked:
        own = has.setdefault(category, {}).setdefault(identity, set())
        own |= {prompt_id} - {""}
    wanted = {category: sorted(set().union(*of.values())) for category, of in has.items()}
    # Counted, not listed: a stranger's table may have a prompt for each of its million rows.
    n_missing = sum(len(wanted[category]) - len(own) for category, of in has.items() for own in of.values())
    if not n_missing:
        return ""
    missing = (
        f"{identity}: {prompt_id}"
        for category, of in sorted(has.items())
        for identity, own in sorted(of.items())
        for prompt_id in wanted[category]
        if prompt_id not in own
    )
    first = ", ".join(islice(missing, N_SHOWN))[:1000] + (" …" if n_missing > N_SHOWN else "")
    return f"no image for {n_missing} of the prompt_ids that others of the category have ({first})"


def folded(label: str) -> str:
    """What labels that a reader would confuse have in common."""
    return " ".join(unicodedata.normalize("NFKC", label).casefold().split())


def bundle_name(gallery: Mapping[str, Any], model: str) -> str:
    """The folder of a model's bundle. Models whose names differ in case or width alone share one."""
    return f"{_as_folder_name(gallery['name'])}-{_as_folder_name(gallery['version'])}--{_as_folder_name(model)}"


def record_folder(embedder: Mapping[str, Any]) -> str:
    spec = str(embedder["spec"]).partition("@")[0].rstrip(":")
    return f"records/{_as_folder_name(spec)}--{embedder['fingerprint'][:8]}"


def _as_folder_name(label: str) -> str:
    """A label as part of a folder's name, told apart from others that come to the same."""
    key = folded(label)
    name = "".join(c if (c.isascii() and c.isalnum()) or c in "-_." else "_" for c in key).strip("._")[:60]
    return name if name == key else f"{name}-{sha256_of(key.encode(errors='surrogatepass'))[:6]}"
