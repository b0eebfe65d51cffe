"""Training loops that detectors share; a detector's own file keeps its loss, score and defaults."""
