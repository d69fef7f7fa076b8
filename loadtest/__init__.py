"""Locust users and the open-loop driver. Its own extra, its own process."""
