"""A gallery's embeddings on disk, for nearest-neighbour search in millions of photos: to look at, never to score with.

    index/index.json            what it is of, how it was made, digests of the other files
    index/photos.parquet        a row per photo, sorted by category and file name; row i has FAISS's id i
    index/flat.faiss            all embeddings, float32
    index/approximate.faiss     of the kinds ivf and hnsw

FAISS compares in float32 and orders ties arbitrarily. What it finds is evaluated again in float64 and ordered by
(similarity, file name), so that exact answers are the first of the ranking that scores are made of.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.embed import Progress, embed_images, image_files
from benchmark.embedders import Embedder
from benchmark.embedders.weights import sha256_of_file
from benchmark.index_card import APPROXIMATE, BUILD, CARD, FLAT, PHOTOS, IndexCard, how_embedded, read_card
from benchmark.index_settings import ADD_BLOCK, IndexSettings
from benchmark.rank import Floats, Indices, Rows, pair_similarity, product_error, row_norms
from benchmark.store import Root, print_to_stderr
from galleries.downloads import first_line
from galleries.errors import FinerRankError, raise_if_any
from galleries.gallery import Gallery
from galleries.image_set import new_folder, refuse_existing

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

RECALL_AT = 10
SAMPLE = 256
"""Photos that are asked for their neighbours when recall is measured."""
SEARCHED_AT_ONCE = 4_000_000
"""Entries of FAISS's answers held in memory."""
GPU_DEPTH = 2048
"""The most neighbours, and the most lists, that FAISS looks at on a GPU."""


@dataclass(frozen=True)
class IndexedPhoto:
    """A photo of an index; see `galleries.gallery.Photo`. `image_sha256` is of the file's bytes."""

    file_name: str
    category: str
    identity: str
    split: str
    image_sha256: str


@dataclass(frozen=True)
class Neighbour:
    """A photo, and the cosine of its embedding with the query's, in [-1, 1] up to rounding."""

    photo: IndexedPhoto
    similarity: float


class GalleryIndex:
    """Nearest photos of a gallery. Made by `build` or `open`.

    Args:
        photos: table with the fields of `IndexedPhoto`, sorted by category and file name.
        flat: FAISS index of their embeddings, of unit length.
        approximate: another of the same embeddings; none of kind `flat`.
        gpu: number of the GPU to search on what FAISS can search there.
    """

    def __init__(
        self, card: IndexCard, photos: "pa.Table", flat: Any, approximate: Any, gpu: int | None = None
    ) -> None:
        import faiss
        import pyarrow.compute as pc

        self.card = card
        self._photos = photos
        self._flat = flat
        self._approximate = approximate
        # A view: of a file that is mapped into memory, only the rows that are looked at are read.
        self._rows: Rows = faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d).reshape(flat.ntotal, flat.d)
        self._slices: dict[str, slice] = {}
        start = 0
        for entry in pc.value_counts(photos.column("category")).to_pylist():
            self._slices[entry["values"]] = slice(start, start + entry["counts"])
            start += entry["counts"]
        self._gpu: Any = None
        if gpu is not None:
            remedy = "write --device auto, which leaves the search to the CPU"
            if gpu >= faiss.get_num_gpus():
                raise FinerRankError(f"--device cuda: FAISS sees {faiss.get_num_gpus()} GPUs; {remedy}")
            if card.kind == "hnsw":
                raise FinerRankError(f"--device cuda: FAISS searches no hnsw index on a GPU; {remedy}")
            self._resources = faiss.StandardGpuResources()
            self._gpu = faiss.index_cpu_to_gpu(self._resources, gpu, approximate or flat)

    @classmethod
    def build(
        cls,
        gallery: Gallery,
        embedder: Embedder,
        store_root: Root,
        out: Path,
        settings: IndexSettings | None = None,
        *,
        batch_size: int | None = None,
        progress: Progress | None = None,
        warn: "Callable[[str], None]" = print_to_stderr,
    ) -> "GalleryIndex":
        """Embed the photos that queries are ranked among, which references are not, and write their index to `out`.

        Raises:
            Faults: photos that cannot be used.
            FinerRankError: `out` exists; too few photos for an approximate index; see also `embed_images`.
        """
        settings = settings or IndexSettings()
        refuse_existing(out)
        photos = sorted(gallery.split("gallery", "distractor"), key=lambda photo: (photo.category, photo.file_name))
        settings.refuse_too_few(len(photos), str(gallery.root))
        files, faults = image_files([(gallery.root, photos)], decode=False, progress=progress)
        raise_if_any(str(gallery.root), faults)
        found = embed_images(
            list(files.values()), embedder, store_root, batch_size=batch_size, progress=progress, warn=warn
        )
        raise_if_any(str(gallery.root), found.faults)
        digests = [files[photo.path].digest for photo in photos]
        return cls.write(
            out,
            [
                IndexedPhoto(photo.file_name, photo.category, photo.identity, photo.split, digest)
                for photo, digest in zip(photos, digests, strict=True)
            ],
            found.rows[[found.row_of[digest] for digest in digests]],
            settings,
            gallery={"name": gallery.card.name, "version": gallery.card.version, "table_sha256": gallery.digest},
            embedder=how_embedded(embedder),
            progress=progress,
        )

    @classmethod
    def write(
        cls,
        out: Path,
        photos: Sequence[IndexedPhoto],
        rows: Rows,
        settings: IndexSettings,
        *,
        gallery: Mapping[str, Any],
        embedder: Mapping[str, Any],
        progress: Progress | None = None,
    ) -> "GalleryIndex":
        """Write the index of photos that are embedded already, `[N, D]` float32 of length 1, and open it.

        Raises:
            FinerRankError: `out` exists, or cannot be written; too few photos for an approximate index.
            ValueError: rows that are not of length 1, or not one per photo.
        """
        import faiss
        import pyarrow as pa
        import pyarrow.parquet as pq

        if rows.ndim != 2 or len(rows) != len(photos):
            raise ValueError(f"rows {rows.shape} must be [N, D], a row for each of {len(photos)} photos")
        if not (np.abs(row_norms(rows) - 1) < 2.0**-22).all():
            raise ValueError("rows must be finite and of length 1")
        settings.refuse_too_few(len(photos), str(out))
        order = sorted(range(len(photos)), key=lambda i: (photos[i].category, photos[i].file_name))
        columns = {f.name: [getattr(photos[i], f.name) for i in order] for f in fields(IndexedPhoto)}
        table = pa.table(columns)
        flat = faiss.IndexFlatIP(rows.shape[1])
        for start in range(0, len(order), ADD_BLOCK):
            flat.add(np.ascontiguousarray(rows[order[start : start + ADD_BLOCK]], dtype=np.float32))
        parameters = settings.parameters(len(photos))
        card = IndexCard(
            gallery, embedder, settings.kind, parameters, 0, [], len(photos), rows.shape[1], faiss.__version__, {}
        )
        index = cls(card, table, flat, None)
        with new_folder(out) as folder:
            pq.write_table(table, folder / PHOTOS)
            _write(flat, folder / FLAT)
            if settings.kind != "flat":
                index._approximate = settings.index(index._rows, progress)
                _write(index._approximate, folder / APPROXIMATE)
            recall = index._recall_of(settings)
            best = max(recall, key=lambda entry: float(entry["recall"]), default={"effort": 0})
            content = {
                **asdict(card),
                "effort": best["effort"],
                "recall": recall,
                "files": {path.name: sha256_of_file(path) for path in sorted(folder.iterdir())},
            }
            text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
            (folder / CARD).write_text(f"{text}\n", encoding="utf-8")
        return cls.open(out)

    @classmethod
    def open(cls, folder: Path | str, gpu: int | None = None) -> "GalleryIndex":
        """Open an index. The embeddings are mapped into memory, not read, once their digest has been checked.

        Raises:
            FinerRankError: no index, one that is damaged or of another format, or no such GPU.
        """
        import faiss
        import pyarrow as pa
        import pyarrow.parquet as pq

        root = Path(folder)
        card = read_card(root)
        for name, digest in card.files.items():
            try:
                is_own = sha256_of_file(root / name) == digest
            except OSError as error:
                raise FinerRankError(f"{root / name}: cannot be read ({error.strerror}); {BUILD}") from None
            if not is_own:
                raise FinerRankError(f"{root / name}: damaged, or of another index; {BUILD}")
        try:
            photos = pq.ParquetFile(root / PHOTOS).read()
            flat, *others = [
                faiss.read_index(str(root / name), faiss.IO_FLAG_MMAP_IFC)
                for name in (FLAT, APPROXIMATE)
                if name in card.files
            ]
        except (pa.ArrowException, RuntimeError, OSError) as error:
            what = f"cannot be read by FAISS {faiss.__version__} ({first_line(error)})"
            raise FinerRankError(f"{root}: {what}, written by {card.faiss}; {BUILD}") from None
        sizes = {(len(photos), flat.d), *((each.ntotal, each.d) for each in (flat, *others))}
        columns = [f.name for f in fields(IndexedPhoto)]
        kinds = {"flat": faiss.IndexFlatIP, "ivf": faiss.IndexIVF, "hnsw": faiss.IndexHNSW}
        are_own = [isinstance(flat, kinds["flat"]), *(isinstance(each, kinds[card.kind]) for each in others)]
        if sizes != {(card.n_photos, card.dimension)} or photos.column_names != columns or not all(are_own):
            raise FinerRankError(f"{root}: its files do not belong together; {BUILD}")
        return cls(card, photos, flat, others[0] if others else None, gpu)

    def search(
        self, rows: Rows, k: int, *, category: str | None = None, effort: int | None = None, exact: bool = False
    ) -> list[list[Neighbour]]:
        """The k nearest photos of each query, nearest first; all photos where there are fewer.

        Args:
            rows: `[Q, D]` float32, finite and not zero.
            category: search it alone. Answers are exact then, whatever the kind.
            effort: in place of the card's. Queries for which it yields fewer than k photos are answered exactly.
            exact: compare with every photo, whatever the kind.

        Raises:
            FinerRankError: an unknown category, or an effort that this index has no use for.
            ValueError: shapes do not fit, or a row has no direction.
        """
        queries = np.ascontiguousarray(rows, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.card.dimension or k < 1:
            raise ValueError(f"rows {queries.shape} must be [Q, {self.card.dimension}], and k at least 1")
        if not (row_norms(queries) > 0).all() or not np.isfinite(queries).all():
            raise ValueError("rows must be finite and not zero")
        if self.is_exact(category, effort, exact):
            among = slice(0, self.card.n_photos) if category is None else self._slices[category]
            found = self._exact(queries, k, among)
        else:
            found = self._approximated(queries, k, effort or self.card.effort)
        numbers = [number for ids, _ in found for number in ids.tolist()]
        photos = iter([IndexedPhoto(**row) for row in self._photos.take(np.array(numbers, dtype=np.int64)).to_pylist()])
        return [[Neighbour(next(photos), value) for value in similarity.tolist()] for _, similarity in found]

    def measured_recall(self, effort: int) -> Mapping[str, Any] | None:
        """The entry of the card's recall with the largest effort up to this one."""
        tried = (entry for entry in self.card.recall if entry["effort"] <= effort)
        return max(tried, key=lambda entry: int(entry["effort"]), default=None)

    def refuse_other_embedder(self, embedder: Embedder, where: str) -> None:
        """Raise a `FinerRankError` unless the embedder is the one that the index was made with."""
        made_with = self.card.embedder
        if embedder.fingerprint != made_with["fingerprint"]:
            raise FinerRankError(
                f"{where}: made with {made_with['spec']} of fingerprint {made_with['fingerprint'][:12]}, and "
                f"{embedder.spec} has {embedder.fingerprint[:12]}: other weights, preprocessing or packages; name "
                f"those weights with --embedder NAME@FILE, or {BUILD}"
            )

    def is_exact(self, category: str | None = None, effort: int | None = None, exact: bool = False) -> bool:
        """Whether `search` compares with every photo.

        Raises:
            FinerRankError: see `search`.
        """
        if category is not None and category not in self._slices:
            near = get_close_matches(category, self._slices, n=1)
            known = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(list(self._slices)[:10])}"
            raise FinerRankError(f"--category {category}: not in this index; {known}")
        is_exact = exact or category is not None or self.card.kind == "flat"
        if is_exact and effort is not None:
            raise FinerRankError("--effort: is for searches that are not exact; leave it out")
        return is_exact

    def _exact(self, queries: Rows, k: int, among: slice) -> list[tuple[Indices, Floats]]:
        """Ids and similarity of the k nearest photos of a slice."""
        import faiss

        n_among = among.stop - among.start
        unit = (queries / row_norms(queries)[:, None]).astype(np.float32)
        found: dict[int, tuple[Indices, Floats]] = {}
        is_all = n_among == self.card.n_photos
        library: Any = faiss  # its own types know few of its parameters
        selected = None if is_all else library.SearchParameters(sel=faiss.IDSelectorRange(among.start, among.stop))
        depth = min(n_among, 2 * k)
        while len(found) < len(queries):
            still = [q for q in range(len(queries)) if q not in found]
            at_once = max(1, SEARCHED_AT_ONCE // depth)
            on_gpu = self._gpu is not None and is_all and self.card.kind == "flat" and depth <= GPU_DEPTH
            for chunk in (still[i : i + at_once] for i in range(0, len(still), at_once)):
                searched = self._gpu if on_gpu else self._flat
                products, ids = searched.search(unit[chunk], depth, params=selected)
                for q, product, own in zip(chunk, products, ids, strict=True):
                    nearest, similarity = self._ordered(queries[q], own, k)
                    # Photos that FAISS left out may still tie with the last, within the error of its product.
                    last = similarity[-1] if len(nearest) == k else -np.inf
                    if depth == n_among or product[-1] < last - 2 * product_error(self.card.dimension):
                        found[q] = nearest, similarity
            depth = min(n_among, 4 * depth)
        return [found[q] for q in range(len(queries))]

    def _approximated(self, queries: Rows, k: int, effort: int) -> list[tuple[Indices, Floats]]:
        import faiss

        wanted = min(k, self.card.n_photos)
        depth = min(2 * k, self.card.n_photos)
        unit = (queries / row_norms(queries)[:, None]).astype(np.float32)
        searched = self._gpu or self._approximate
        if self._gpu is not None and max(depth, effort) > GPU_DEPTH:
            raise FinerRankError(
                f"-k {k}, effort {effort}: a GPU takes up to k {GPU_DEPTH // 2} and effort {GPU_DEPTH}"
            )
        library: Any = faiss
        if self.card.kind == "ivf":
            params = library.SearchParametersIVF(nprobe=effort)
        else:
            params = library.SearchParametersHNSW(efSearch=max(effort, depth))
        found = []
        at_once = max(1, SEARCHED_AT_ONCE // depth)
        for start in range(0, len(unit), at_once):
            _, ids = searched.search(unit[start : start + at_once], depth, params=params)
            found += [self._ordered(queries[start + i], own[own >= 0], k) for i, own in enumerate(ids)]
        short = [q for q, (ids, _) in enumerate(found) if len(ids) < wanted]
        for q, answer in zip(short, self._exact(queries[short], k, slice(0, self.card.n_photos)), strict=True):
            found[q] = answer
        return found

    def _ordered(self, query: Rows, ids: Indices, k: int) -> tuple[Indices, Floats]:
        """The first k of some photos by exact similarity, ties by file name."""
        rows = self._rows[ids]
        same = np.zeros(len(ids), dtype=np.int64)
        similarity = pair_similarity(
            query[None], rows, same, np.arange(len(ids)), row_norms(query[None]), row_norms(rows)
        )
        names = self._photos.column("file_name").take(ids).to_pylist()
        order = sorted(range(len(ids)), key=lambda i: (-similarity[i], names[i]))[:k]
        return ids[order], similarity[order]

    def _recall_of(self, settings: IndexSettings) -> list[dict[str, float]]:
        """Recall at growing effort, up to that which reaches the one asked for; photos are the queries."""
        if settings.kind == "flat":
            return []
        n = self.card.n_photos
        asked = np.unique(np.linspace(0, n - 1, min(n, SAMPLE)).astype(np.int64))
        rows = self._rows[asked]
        nearest = [
            _without(q, own, RECALL_AT)
            for q, own in zip(asked, self._exact(rows, RECALL_AT + 1, slice(0, n)), strict=True)
        ]
        recall: list[dict[str, float]] = []
        for effort in settings.efforts(n):
            found = [
                _without(q, own, RECALL_AT)
                for q, own in zip(asked, self._approximated(rows, RECALL_AT + 1, effort), strict=True)
            ]
            hits = sum(int((own >= best[-1]).sum()) for own, best in zip(found, nearest, strict=True))
            recall.append({"effort": effort, "recall": hits / (RECALL_AT * len(asked))})
            if recall[-1]["recall"] >= settings.recall:
                break
        return recall


def _write(index: Any, path: Path) -> None:
    import faiss

    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:
        raise FinerRankError(f"{path.parent}: cannot be written ({first_line(error)}); check the disk") from None


def _without(query: int, found: tuple[Indices, Floats], k: int) -> Floats:
    """Similarity of the k nearest photos to a photo, itself left out."""
    ids, similarity = found
    others: Floats = similarity[ids != query]
    return others[:k]
