"""Figures, from records only; in bits."""

from ipjax.plotting.planes import figures as figures
