"""What tests compare of a gallery: each photo with its labels."""

from galleries import Gallery


def labels_of(gallery: Gallery) -> set[tuple[str, str, str, bytes]]:
    """What a gallery says of each photo, and the photo itself."""
    return {(p.category, p.identity, p.split, p.path.read_bytes()) for p in gallery.photos}
