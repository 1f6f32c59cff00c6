"""Votes as files write them: how many, and shares of them with few decimals."""

MOST_VOTES = 1_000_000


def number_of_votes(text: str) -> int | None:
    """How many people judged, 1 to `MOST_VOTES`; None where the text says no such number."""
    text = text.strip()
    if not text.isdecimal() or len(text) > len(str(MOST_VOTES)):
        return None
    return int(text) if 1 <= int(text) <= MOST_VOTES else None


def exact_share(share: float, n_votes: int) -> float | None:
    """The share of `n_votes` votes that a rounded one stands for; None where it can be none.

    >>> exact_share(0.67, 3)
    0.6666666666666666
    """
    if not 0 <= share <= 1:  # neither is NaN
        return None
    n_for = round(share * n_votes)
    return n_for / n_votes if abs(share * n_votes - n_for) <= min(0.1, 0.005 * n_votes) + 1e-9 else None
