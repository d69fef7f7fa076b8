"""The door: the command `slipstream` and what users import."""
