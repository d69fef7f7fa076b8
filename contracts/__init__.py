"""Every message that crosses a process: events, items, releases, the replica's private API, topic names.

Plain msgspec structs, so that any room may import them and none pulls in torch. Read `event.py` first.
"""
