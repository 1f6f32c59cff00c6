"""The command `finer-rank`: each package brings its own part."""

import io
import sys
import warnings
from typing import TYPE_CHECKING

import typer

import benchmark.ablation_commands
import benchmark.agreement_commands
import benchmark.bench_commands
import benchmark.calibrate_command
import benchmark.commands
import benchmark.compare_commands
import benchmark.distance_command
import benchmark.embedder_commands
import benchmark.gallery_commands
import benchmark.index_commands
import benchmark.language_judge_commands
import benchmark.perception_commands
import benchmark.run_commands
import galleries.commands
import leaderboard.bench_command
import leaderboard.bundle_commands
import leaderboard.commands
import leaderboard.export_command
import leaderboard.plot_commands
import leaderboard.site_commands
import personalization_runs.commands

if TYPE_CHECKING:
    from galleries.leaks import Alike

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Is it still the same individual? Generated images as queries against galleries of look-alike real photos, "
    "scored by retrieval mAP.\n\n"
    "Start: finer-rank gallery check PHOTOS, then finer-rank evaluate --gallery PHOTOS --run IMAGES --embedder dinov2",
)
galleries.commands.app.add_typer(benchmark.gallery_commands.app)
app.add_typer(galleries.commands.app, name="gallery")
personalization_runs.commands.app.add_typer(benchmark.run_commands.app)
app.add_typer(personalization_runs.commands.app, name="run")
app.add_typer(personalization_runs.commands.demo_app)
app.add_typer(benchmark.commands.app)
app.add_typer(benchmark.compare_commands.app)
app.add_typer(benchmark.ablation_commands.app)
app.add_typer(benchmark.calibrate_command.app)
app.add_typer(benchmark.distance_command.app)
app.add_typer(benchmark.agreement_commands.app, name="agreement")
app.add_typer(benchmark.perception_commands.app, name="perception")
app.add_typer(benchmark.embedder_commands.app, name="embedder")
app.add_typer(benchmark.index_commands.app, name="index")
app.add_typer(benchmark.language_judge_commands.app)
benchmark.bench_commands.app.add_typer(leaderboard.bench_command.app)
app.add_typer(benchmark.bench_commands.app, name="bench")
app.add_typer(leaderboard.commands.app)
leaderboard.bundle_commands.app.add_typer(leaderboard.site_commands.app)
app.add_typer(leaderboard.bundle_commands.app, name="leaderboard")
app.add_typer(leaderboard.plot_commands.app, name="plot")
app.add_typer(leaderboard.export_command.app)


@app.callback()
def connect(ctx: typer.Context) -> None:
    # Galleries know no embedders; those that the leak gate may ask are handed down.
    ctx.obj = _alike


def _alike(embedder: str, near: float | None) -> "Alike":
    from benchmark.alike import alike_photos

    return alike_photos(embedder, near)


def main() -> None:
    """Run the command line. A mistake that the user can mend is printed without a traceback; exit code 2."""
    from galleries.errors import Faults, FinerRankError, printable

    # What Pillow warns of (oversized, truncated), is refused by our own checks, in one line.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a letter shows its number instead
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except FinerRankError as error:
        lines = error.lines() if isinstance(error, Faults) else [printable(str(error))]
        print("finer-rank:", "\n".join(lines), file=sys.stderr)
        sys.exit(2)
    except SystemExit as end:
        if end.code == 130:  # what typer makes of Ctrl-C
            print(
                "finer-rank: stopped; embeddings, masks, images and adapters made so far are kept",
                file=sys.stderr,
            )
        raise
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)


if __name__ == "__main__":
    main()
