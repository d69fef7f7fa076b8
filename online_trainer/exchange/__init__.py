"""Several workers, one set of weights: `GradientExchange` and its two implementations. ADR 0006 has the design."""
