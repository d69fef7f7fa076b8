"""Quality, proved: baselines, the offline and the prequential protocol, and the tables they print."""
