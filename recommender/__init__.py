"""The model everybody shares: item tokens, prompts, presets, the loss and ranking metrics."""
