"""Races of training algorithms: several comparisons to fixed targets, judged together."""
