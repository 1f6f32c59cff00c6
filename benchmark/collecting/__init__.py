"""A page on which people judge pictures: which questions it asks, and the folder that it is."""
