"""The command line: one thin module per stage. `dlkdd` is `python -m stages`."""
