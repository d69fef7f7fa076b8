"""One folder an op: a reference, a Triton kernel and a README with its maths and bytes moved.

Import-light on purpose: `transformers` probes for a package of this name.
"""
