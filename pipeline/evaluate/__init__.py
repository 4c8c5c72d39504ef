"""What models recognise, from their predictions: metrics with intervals, tables by class and light, evaluation.json."""
