"""A model's probabilities for the videos of a split, and the table that keeps them."""
