"""A model's probabilities for every video of a split, and the CSV file that holds them."""
