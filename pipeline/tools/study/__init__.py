"""Studies over several seeds or splits: which steps they run, how, and what comes out."""
