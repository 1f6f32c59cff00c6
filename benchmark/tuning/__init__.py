"""Distances tuned to what people said: DreamSim's recipe on encoders, CLPIPS' on the weights of LPIPS."""
