"""Embed, rank, score, compare: the judge."""
