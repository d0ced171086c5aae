"""The few functions below the networks that are worth more than a call of torch: one signature each."""

from dnas.kernels.depthwise import depthwise as depthwise
