"""``whet compare``: variants of a recipe under one budget and several seeds, judged with statistics.

``plan`` reads what is asked for, ``carry`` runs it, ``spending`` counts what every variant cost, ``tuning`` gives each the
same trials, ``verdicts`` judges, ``target`` compares how soon a quality is reached, ``page`` shows it.
"""
