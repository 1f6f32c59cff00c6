"""Embed, rank, score, compare: the judge."""

import os

# Read when numpy is first imported. OpenBLAS' threads would go on for 20 ms after each product, looking for more to do,
# on the cores that then count ranks.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "12")
