"""Kafka: the `EventLog` seam, bounded producing, dead letters and topic set-up. Read `event_log.py` first."""
