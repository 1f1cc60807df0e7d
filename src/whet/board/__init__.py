"""``whet board``: the ledger in a browser, read only.

``command`` serves it, ``guard`` decides who may read, ``app`` has the addresses, ``records`` reads ledger and store, and one module
makes the data of each kind of page: ``pages``, ``comparing``, ``pairs``, ``live``, ``lineage``, ``searching``. What goes into the
templates is escaped there; scripts and styles come from ``static`` alone.
"""
