"""What people said of images: two-alternative choices, same or different, the odd one out, rankings, ratings."""
