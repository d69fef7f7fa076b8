"""The public API: routing, histories, fallback, rollout. No torch."""
