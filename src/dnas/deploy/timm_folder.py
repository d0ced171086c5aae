"""Folder that timm can load."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnas.deploy.protocol import Exported, Format
from dnas.deploy.python_code import CODE_FILE, write_code
from dnas.pipeline.model import Trained
from dnas.runtime.names import MODEL_FILE
from dnas.space.architecture import Architecture

CODE = "timm_model.py"
# timm's crop modes for the resize rules of dnas. timm resizes before it crops, so pixels may differ by rounding.
CROPS = {"crop": "center", "pad": "border", "squeeze": "squash"}


class TimmFolder(Format):
    """Folder for timm. timm only finds registered architectures, so a module registers this one; the rest is timm's."""

    name = "timm"
    title = "timm model: a module that registers it, configuration and weights"
    files = (CODE, "config.json", CODE_FILE, MODEL_FILE)
    packages = ("timm",)
    install = "pip install timm"
    opening = """
import timm_model
import timm
import torch

torch.set_num_threads(1)
network = timm.create_model("local-dir:.", pretrained=True).eval()


def answer(images):
    with torch.inference_mode():
        return network(torch.from_numpy(images)).numpy()
"""
    usage = """import timm, torch, timm_model
from preprocess import CLASSES, prepare
network = timm.create_model("local-dir:.", pretrained=True).eval()
logits = network(torch.from_numpy(prepare("picture.png")))
print(CLASSES[logits[0].argmax()])
"""

    def objection(self, trained: Trained) -> str | None:
        if not isinstance(trained.subject, Architecture):
            return f"{trained.subject.name} is a reference network, and timm has its own versions of such networks"
        return super().objection(trained)

    def write(self, exported: Exported, folder: Path) -> Mapping[str, Any]:
        import timm  # type: ignore[import-not-found,import-untyped,unused-ignore]

        write_code(exported, folder)
        info = exported.trained.info
        features = exported.trained.network.get_submodule("classifier").in_features
        config = {
            "architecture": exported.name,
            "num_classes": len(info.classes),
            "num_features": features,
            "pretrained_cfg": {
                "input_size": [info.channels, info.image_size, info.image_size],
                "num_classes": len(info.classes),
                "mean": list(info.mean),
                "std": list(info.std),
                "interpolation": "bilinear",
                "crop_pct": 1.0,
                "crop_mode": CROPS[info.resize],
                "first_conv": "stem.0",
                "classifier": "classifier",
                "label_names": list(info.classes),
            },
        }
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", "utf-8")
        (folder / CODE).write_text(_code(exported.name, len(info.classes), info.channels, features), "utf-8")
        return {"architecture": exported.name, "timm": timm.__version__}


def _code(name: str, classes: int, channels: int, features: Any) -> str:
    return f'''\
"""Register {name}, the network of model.py, with timm; import this before timm.create_model("local-dir:FOLDER")."""

from model import Network
from timm.models import build_model_with_cfg, register_model
from torch import nn


class TimmNetwork(Network):
    """Network with the methods that timm calls. For num_classes other than {classes}, the classifier is new."""

    def __init__(self, num_classes={classes}, in_chans={channels}, global_pool="avg", **kwargs):
        if in_chans != {channels} or global_pool != "avg" or kwargs:
            given = dict(in_chans=in_chans, global_pool=global_pool, **kwargs)
            raise ValueError(f"only in_chans={channels} and global_pool='avg' are supported, got {{given}}")
        super().__init__()
        self.num_features = self.head_hidden_size = {features}
        self.reset_classifier(num_classes)

    def get_classifier(self):
        return self.classifier

    def reset_classifier(self, num_classes, global_pool=None):
        self.num_classes = num_classes
        self.classifier = nn.Linear({features}, num_classes) if num_classes else nn.Identity()

    def forward_features(self, images):
        return self.features(images)

    def forward_head(self, features, pre_logits=False):
        pooled = features.mean((2, 3))
        return pooled if pre_logits else self.classifier(pooled)


@register_model
def {name}(pretrained=False, **kwargs):
    return build_model_with_cfg(TimmNetwork, "{name}", pretrained, **kwargs)
'''
