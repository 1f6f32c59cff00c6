"""What a distance looks at: the analyses of the DreamSim paper (arXiv 2306.09344)."""
