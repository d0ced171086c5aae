"""The few functions for which native kernels or special formulas are faster than calls of torch."""

from dnas.kernels.depthwise import DepthwiseConv2d as DepthwiseConv2d
from dnas.kernels.depthwise import depthwise as depthwise
from dnas.kernels.depthwise import depthwise_statistics as depthwise_statistics
from dnas.kernels.mixture import channel_moments as channel_moments
from dnas.kernels.mixture import mixed_product as mixed_product
from dnas.kernels.mixture import weighted_sum as weighted_sum
