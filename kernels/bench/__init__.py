"""`slipstream bench kernels`: one module an op, each giving cases to time; `runner.py` checks first, then times."""
