"""The random draws of paired comparisons as a script file, so that a page gets the numbers of `compare_paired`."""

import base64
import json

import numpy as np
import numpy.typing as npt

from benchmark.statistics import EXACT_UP_TO, LEVEL, resample_weights, sign_flips


def draws_script(n: int) -> str:
    """A script that hands the page the draws for n shared identities, as `draws/n`.

    They are `{n, level, weights, signs}`, the last two in base64, draw by draw. `weights` has a byte for each identity:
    how often it is drawn; null for a single identity. `signs` has a bit for each, 1 for a minus, high bits first, and
    each flip's are filled up to bytes; null where all 2^n flips are tried.

    Raises:
        ValueError: n is less than 1, or a count does not fit a byte.
    """
    if n < 1:
        raise ValueError(f"no draws of {n} identities")
    draws = {
        "n": n,
        "level": LEVEL,
        "weights": _base64(_bytes(resample_weights(n))) if n > 1 else None,
        "signs": _base64(np.packbits(sign_flips(n) < 0, axis=1)) if n > EXACT_UP_TO else None,
    }
    return f"finerRank.receive({json.dumps(f'draws/{n}')}, {json.dumps(draws)});\n"


def _bytes(counts: npt.NDArray[np.unsignedinteger]) -> npt.NDArray[np.uint8]:
    if counts.max() > 255:
        raise ValueError("an identity that is drawn more than 255 times does not fit a byte")
    return counts.astype(np.uint8)


def _base64(array: npt.NDArray[np.uint8]) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")
