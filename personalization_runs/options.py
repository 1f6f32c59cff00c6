"""Options that commands which make or name images share."""

from typing import Annotated

import typer

ClassWords = Annotated[
    list[str] | None,
    typer.Option(
        "--class-word",
        help="[NAME=]WORD: what prompts call an identity or a category (patterns: dog*=dog); by default the category. "
        "Repeatable.",
        show_default=False,
    ),
]
