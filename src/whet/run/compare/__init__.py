"""``whet compare``: variants of a recipe under one budget and several seeds, judged with statistics.

``plan`` reads what is asked for (``variants``, ``graph``), ``carry`` runs it as ``jobs``, ``arms`` holds what each variant gave,
``spending`` counts what it cost, ``tuning`` gives each the same trials, ``verdicts`` judges, ``stopping`` says who has lost early, ``target`` compares how soon
a quality is reached, ``record`` keeps its ``summary`` in the ledger, ``page`` shows it.
"""
