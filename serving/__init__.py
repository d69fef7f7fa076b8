"""One serving replica: the engine seam, the weight receiver and the replica's private API. Read `engine.py` first."""
