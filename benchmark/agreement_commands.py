"""`finer-rank agreement`: distances and people."""

import typer

app = typer.Typer(
    no_args_is_help=True,
    help="Do people agree? Hold any embedder or perceptual metric against human judgements, collect such judgements, "
    "tune metrics to them.",
)
