"""Options that commands share."""

from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path, typer.Option(help="Folder to write; must not exist yet.")]
Name = Annotated[str, typer.Option(help="Name of the gallery; that of the folder by default.")]
Version = Annotated[str, typer.Option(help="Version of the gallery: raise it when the rows change.")]
Granularity = Annotated[
    str, typer.Option(help="instance (individuals) or category (identities are species, car models, …).")
]
Category = Annotated[
    str,
    typer.Option(help="One category for all photos: everybody is ranked among everybody.", show_default=False),
]
Include = Annotated[list[str] | None, typer.Option(help="Only identities of this name or pattern (dog*). Repeatable.")]
References = Annotated[
    int,
    typer.Option(min=0, help="Photos of each identity to set aside as references, where there is no split yet."),
]
Seed = Annotated[int, typer.Option(help="Seed of that choice.")]
Symlink = Annotated[bool, typer.Option(help="Link to the photos instead of copying them.")]
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", help="OURS=THEIRS, for example identity=subject. Repeatable.", show_default=False),
]
Constants = Annotated[
    list[str] | None,
    typer.Option("--set", help="OURS=VALUE for all rows, for example category=dog. Repeatable.", show_default=False),
]
Conditions = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        help="Take only rows with COLUMN=VALUE (several values of one column are alternatives) or COLUMN!=VALUE. "
        "Repeatable.",
        show_default=False,
    ),
]
Images = Annotated[
    Path | None, typer.Option(help="Folder that the table's paths start from; the table's own by default.")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs.")]
GalleryPath = Annotated[
    Path, typer.Argument(help="Gallery folder, folder tree, or folder of the reference code's CSVs.")
]
