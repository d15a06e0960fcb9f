"""Figures, from records only; in bits."""

from ipjax.plotting import ablation as ablation
from ipjax.plotting import attribution as attribution
from ipjax.plotting import planes as planes
from ipjax.plotting import theory as theory
from ipjax.plotting.planes import figures as figures
