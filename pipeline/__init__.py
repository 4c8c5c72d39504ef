"""The library: values, stores, models, losses, training, evaluation. No command line, no DVC."""
