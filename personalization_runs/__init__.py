"""Images that a generator made: what is judged."""

from personalization_runs.run import CLASS_ONLY, GeneratedImage, Query, Run, RunCard

__all__ = ["CLASS_ONLY", "GeneratedImage", "Query", "Run", "RunCard"]
