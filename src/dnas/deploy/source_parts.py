"""Classes of torch modules that source code of a network includes if it uses them."""

SQUEEZE_EXCITE = '''

class SqueezeExcite(nn.Module):
    """Multiply each channel by a gate, which is computed from the means of all channels."""

    def __init__(self, channels, hidden, gate):
        super().__init__()
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.expand = nn.Conv2d(hidden, channels, 1)
        self.gate = gate

    def forward(self, x):
        means = x.mean((2, 3), keepdim=True)
        return x * self.gate(self.expand(F.relu(self.reduce(means))))
'''
