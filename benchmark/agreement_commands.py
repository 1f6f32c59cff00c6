"""`finer-rank agreement`: distances and people."""

import typer

import benchmark.agreement_score_command
import benchmark.collect_command
import benchmark.gallery_triplets_command
import benchmark.identity_agreement_command
import benchmark.show_judgements_command
import benchmark.tune_command

app = typer.Typer(
    no_args_is_help=True,
    help="Do people agree? Hold any embedder or perceptual metric against human judgements, collect such judgements, "
    "tune metrics to them.",
)
app.add_typer(benchmark.agreement_score_command.app)
app.add_typer(benchmark.collect_command.app)
app.add_typer(benchmark.gallery_triplets_command.app)
app.add_typer(benchmark.identity_agreement_command.app)
app.add_typer(benchmark.show_judgements_command.app)
app.add_typer(benchmark.tune_command.app)
