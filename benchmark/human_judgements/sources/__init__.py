"""Readers of judgements, one data set a module.

Each has `NAME`, `is_here(path)`, which says whether a file or folder looks like it, and
`read(path, kind) -> list[Judgements]`.
"""
