"""The release store: versions of a model's weights, their manifests, checksums and retention. Read `store.py` first."""
