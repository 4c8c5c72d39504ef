"""From files to data: annotation lists, splits, decoding; the stage that writes the manifest and the dark frames."""
