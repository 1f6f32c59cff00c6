"""Shares of votes, which files write with few decimals."""


def exact_share(share: float, n_votes: int) -> float | None:
    """The share of `n_votes` votes that a rounded one stands for; None where it can be none.

    >>> exact_share(0.67, 3)
    0.6666666666666666
    """
    if not 0 <= share <= 1:  # neither is NaN
        return None
    n_for = round(share * n_votes)
    return n_for / n_votes if abs(share * n_votes - n_for) <= min(0.1, 0.005 * n_votes) + 1e-9 else None
