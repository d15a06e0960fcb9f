"""Information-plane analysis of neural networks in JAX."""

from ipjax import attribution as attribution
from ipjax import bottleneck as bottleneck
from ipjax import channels as channels
from ipjax import estimators as estimators
from ipjax import graph as graph
from ipjax import quadrature as quadrature
from ipjax import readout as readout
from ipjax.adapters import from_linen as from_linen
from ipjax.adapters import from_nnx as from_nnx
from ipjax.assessment import assess as assess
from ipjax.channels import measure_channels as measure_channels
from ipjax.conductance import completeness_gap as completeness_gap
from ipjax.conductance import contrast_weights as contrast_weights
from ipjax.conductance import layer_conductance as layer_conductance
from ipjax.conductance import neuron_conductance as neuron_conductance
from ipjax.conductance import sensitivity as sensitivity
from ipjax.efficiency import information_transformation_efficiency as information_transformation_efficiency
from ipjax.estimators import Estimate as Estimate
from ipjax.estimators import mutual_information as mutual_information
from ipjax.information_plane import InformationPlane as InformationPlane
from ipjax.information_plane import measure_plane as measure_plane
from ipjax.information_plane import profile as profile
from ipjax.leakage import Leak as Leak
from ipjax.leakage import target_leakage as target_leakage
from ipjax.taps import Network as Network
from ipjax.taps import from_function as from_function
