"""`slipstream demo`: the whole loop on real data, and the evidence that it did what it says.

Read `story.py` first: it is the demo from start to end; the other files are what it calls.
"""
