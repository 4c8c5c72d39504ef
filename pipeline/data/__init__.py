"""What a clip is and where it is stored: lists and manifest, the frame store, views, and batches of training clips."""
