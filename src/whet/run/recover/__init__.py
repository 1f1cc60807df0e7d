"""``whet recover``: finds what a compression or an update broke, chooses the data that repairs it, repairs it, proves it.

``plan`` writes the recipe that does this, ``proof`` judges before, after and reference and the asked-for bounds, ``page`` shows
the whole loop in one figure.
"""
