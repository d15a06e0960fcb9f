"""Figures, from records only."""


def figures(plane, profile):
    return {}
