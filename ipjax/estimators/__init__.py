"""Mutual-information estimators: frozen settings with one method, see `ipjax.estimators.base`."""

from ipjax.estimators.base import Estimate as Estimate
from ipjax.estimators.base import Estimator as Estimator
from ipjax.estimators.base import Labels as Labels
from ipjax.estimators.base import mutual_information as mutual_information
from ipjax.estimators.binned import Binned as Binned
from ipjax.estimators.kde import KDE as KDE
from ipjax.estimators.probe import Probe as Probe
