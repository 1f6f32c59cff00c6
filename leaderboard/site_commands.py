"""`finer-rank leaderboard build` and `serve`."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

OUT = Path("site")


@app.command()
def build(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[FOLDER...]", help="Bundles, or folders of bundles.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the site; one that is there is replaced.")] = OUT,
) -> None:
    """Build the leaderboard's site: a folder that any host, or a double click on its index.html, serves.

    The same bundles give the same bytes. A bundle that cannot be read stops the build.

    Example: finer-rank leaderboard build leaderboard/records --out site
    """
    from galleries.console import progress_bars, say
    from leaderboard.published import read_bundles
    from leaderboard.site.build import build_site

    with progress_bars() as progress:
        bundles = read_bundles(folders or [Path("leaderboard/records")])
        n_records = sum(len(bundle.records) for bundle in bundles)
        build_site(bundles, out, progress("building pages", n_records) if progress else None)
    say(f"{out / 'index.html'}: {len(bundles)} bundles, {n_records} records")


@app.command()
def serve(
    site: Annotated[Path, typer.Argument(help="A folder that leaderboard build wrote.")] = OUT,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
) -> None:
    """Serve a site to this machine, to look at it over HTTP before it is published.

    Example: finer-rank leaderboard serve site
    """
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    from galleries.console import say
    from galleries.errors import FinerRankError
    from leaderboard.site.build import MARKER

    if not (site / MARKER).is_file():
        raise FinerRankError(f"{site}: no site; build one: finer-rank leaderboard build --out {site}")
    handler = partial(Quiet, directory=str(site))
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        raise FinerRankError(f"--port {port}: {error.strerror}; name another, or 0 for a free one") from None
    with server:
        say(f"http://127.0.0.1:{server.server_port}/ (Ctrl-C ends it)")
        server.serve_forever()
