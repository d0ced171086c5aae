"""Architectures drawn by hypothesis, and architecture files: for tests of architectures and of genotypes."""

from hypothesis import strategies as st

from dnas.rng import numpy_stream
from dnas.space import sampling
from dnas.space.darts import DARTS

SEP, SKIP, MAX = "sep_conv_3x3", "skip_connect", "max_pool_3x3"


@st.composite
def architectures(draw):
    """Uniform ones of 3 to 8 layers in the space of DARTS."""
    seed, layers = draw(st.integers(0, 2**31)), draw(st.integers(3, 8))
    return sampling.sample(DARTS, numpy_stream(seed, "test"), layers)


def written(tmp_path, content):
    """An architecture file that holds a text or bytes, whatever they are."""
    path = tmp_path / "architecture.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path
