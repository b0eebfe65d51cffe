"""Building blocks of networks: batches of windows in, tensors out, no losses and no state."""
