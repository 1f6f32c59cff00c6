"""How well a distance agrees with what people said, and how well people agree with each other."""
