"""Items with titles, data-set readers and their replay in time order, popularity and co-occurrence.

Popularity is the shelf that is never empty, and the baseline every model has to beat.
"""
