"""Consume, batch, step, checkpoint, publish: the weights that learn."""
