"""Mutual-information estimators: frozen settings with one method, see `ipjax.estimators.base`."""

from ipjax.estimators.base import Estimate as Estimate
from ipjax.estimators.base import Estimator as Estimator
from ipjax.estimators.base import Labels as Labels
from ipjax.estimators.base import mutual_information as mutual_information
from ipjax.estimators.binned import Binned as Binned
from ipjax.estimators.dependence import CKA as CKA
from ipjax.estimators.dependence import HSIC as HSIC
from ipjax.estimators.gaussian import GaussianChannel as GaussianChannel
from ipjax.estimators.kde import KDE as KDE
from ipjax.estimators.ksg import KSG as KSG
from ipjax.estimators.probe import Probe as Probe
from ipjax.estimators.projected import Projected as Projected
from ipjax.estimators.renyi import Renyi as Renyi
from ipjax.estimators.ross import Ross as Ross
from ipjax.estimators.variational import NWJ as NWJ
from ipjax.estimators.variational import SMILE as SMILE
from ipjax.estimators.variational import Critic as Critic
from ipjax.estimators.variational import DonskerVaradhan as DonskerVaradhan
from ipjax.estimators.variational import InfoNCE as InfoNCE
