"""The picture of an agreement is one of its format, the same bytes again, for any number of embedders."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from agreement_cases import means_of
from PIL import Image

from benchmark.agreement_plot import draw_agreement
from benchmark.encoder_agreement import Agreement, encoder_agreement
from galleries.errors import FinerRankError
from galleries.figures import FORMATS


@pytest.fixture(scope="module")
def agreement() -> Agreement:
    rng = np.random.default_rng(2)
    means = means_of({e: {run: rng.uniform(0, 1, 8).tolist() for run in "abcd"} for e in ("clip $x$", "dino", "犬")})
    return encoder_agreement(means | means_of({"flat": {run: [0.5] * 8 for run in "abcd"}}), ())


@pytest.mark.parametrize("ending", FORMATS)
def test_a_picture_is_one_of_its_format_and_the_same_bytes_again(
    agreement: Agreement, tmp_path: Path, ending: str
) -> None:
    drawn = []
    for name in "one", "two":
        out = tmp_path / f"{name}{ending}"
        draw_agreement(agreement, dict.fromkeys(agreement.embedders, "unseen"), "mAP, $zoo$\n", out)
        drawn.append(out.read_bytes())
    assert drawn[0] == drawn[1]
    if ending == ".pdf":
        assert drawn[0].startswith(b"%PDF-")
    elif ending == ".svg":
        assert str(ElementTree.fromstring(drawn[0]).tag).endswith("svg")
    else:
        with Image.open(out) as image:
            assert image.format == {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}[ending]
            assert min(image.size) > 300
            assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 10


@pytest.mark.parametrize("n", [2, 9])
def test_any_number_of_embedders_is_drawn(tmp_path: Path, n: int) -> None:
    of = {"a": [0.1], "b": [0.2]}
    found = encoder_agreement(means_of({f"{'long' * 30} {i}": of for i in range(n)}), ())
    draw_agreement(found, dict.fromkeys(found.embedders, "same data set family"), "title", tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as image:
        assert min(image.size) > 300
    with pytest.raises(FinerRankError, match="cannot be written"):
        draw_agreement(found, dict.fromkeys(found.embedders, ""), "title", tmp_path / "nowhere" / "out.png")
