"""Speed as ratios measured side by side in one process, on made data or on the user's."""
