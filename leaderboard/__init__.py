"""Results as people look at them. Reads records; never embeds."""
