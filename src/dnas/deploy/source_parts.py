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
BRANCHES = '''

class Branches(nn.Module):
    """Two sequences side by side, of which each reads a half of the channels (`split`), or all.

    The channels of their outputs alternate: in each of the turns, the next ones of the left one and of the right one.
    """

    def __init__(self, left, right, split, turns):
        super().__init__()
        self.left, self.right, self.split, self.turns = left, right, split, turns

    def forward(self, x):
        left, right = x.chunk(2, 1) if self.split else (x, x)
        outputs = [self.left(left), self.right(right)]
        return torch.cat([each.unflatten(1, (self.turns, -1)) for each in outputs], 2).flatten(1, 2)
'''
