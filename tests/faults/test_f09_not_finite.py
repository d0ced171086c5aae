"""F09. A NaN in an image, a layer, a loss or a gradient at step t stops the run before the step is applied: exit 1, one line
with step, stage and place; the newest checkpoint is the one before t, valid and finite."""

import torch
from faults.harness import TINY, invoke

from dnas.runtime.checkpoint import newest
from dnas.searching import search as supernet_search
from dnas.training import batches, trainer, updates

SEARCH_STEP, TRAIN_STEP = 3, 4  # 1-based; in the search, the first step after the warm-up


def broken_at(monkeypatch, module, name, times, change):
    """Change the result of the `times`-th call of a function."""
    original, calls = getattr(module, name), []

    def called(*arguments, **options):
        calls.append(name)
        result = original(*arguments, **options)
        return change(result) if len(calls) == times else result

    monkeypatch.setattr(module, name, called)


def fails(folder, images, monkeypatch, stage, step, *words):
    run = folder / "run"
    outcome = invoke("run", "--data", images, *TINY, "--out", run, "--checkpoint-every", 0, "--quiet")
    assert outcome.code == 1, outcome
    assert outcome.out == "" and len(outcome.lines) == 1
    for word in ("error: ", "nan", f"at step {step} of {stage} (", *words):
        assert word in outcome.err, outcome.err
    checkpoint, damaged = newest(run / "checkpoints")
    assert not damaged
    assert checkpoint.state["stage"] == stage and checkpoint.state["step"] == step - 1
    assert checkpoint.tensors
    for name, tensor in checkpoint.tensors.items():
        assert torch.isfinite(tensor).all(), name
    assert not (run / "result.json").exists()


def poison(tensor):
    return tensor * torch.nan


def poison_first(result):
    loss, grads = result
    return loss, (poison(grads[0]), *grads[1:])


def test_image_in_search(tmp_path, images, monkeypatch):
    # Before step 3, two steps of the warm-up: call 3 is the validation half of step 3.
    broken_at(monkeypatch, batches, "augment", SEARCH_STEP, poison)
    fails(tmp_path, images, monkeypatch, "search", SEARCH_STEP, "the validation loss", "the input images")


def test_image_in_training(tmp_path, images, monkeypatch):
    broken_at(monkeypatch, trainer, "_inputs", TRAIN_STEP, lambda inputs: (poison(inputs[0]), *inputs[1:]))
    fails(tmp_path, images, monkeypatch, "train", TRAIN_STEP, "the loss", "the input images")


def test_loss_of_the_weights_in_search(tmp_path, images, monkeypatch):
    broken_at(monkeypatch, supernet_search.Search, "weight_loss", SEARCH_STEP, poison)
    fails(tmp_path, images, monkeypatch, "search", SEARCH_STEP, "the training loss", "(first seen in the loss)")


def test_loss_of_the_architecture_in_search(tmp_path, images, monkeypatch):
    broken_at(monkeypatch, supernet_search.Search, "architecture_loss", 2, poison)
    fails(tmp_path, images, monkeypatch, "search", SEARCH_STEP + 1, "the validation loss", "(first seen in the loss)")


def test_loss_in_training(tmp_path, images, monkeypatch):
    broken_at(monkeypatch, trainer, "_loss", TRAIN_STEP, lambda result: (result[0], poison(result[1])))
    fails(tmp_path, images, monkeypatch, "train", TRAIN_STEP, "the loss", "(first seen in the loss)")


def test_gradient_of_the_weights_in_search(tmp_path, images, monkeypatch):
    broken_at(monkeypatch, updates, "sparse_gradients", 2, poison_first)
    fails(tmp_path, images, monkeypatch, "search", 2, "the gradient norm", "the gradient of stem")


def test_gradient_of_the_architecture_in_search(tmp_path, images, monkeypatch):
    broken_at(monkeypatch, updates, "first_order", 1, poison_first)
    fails(tmp_path, images, monkeypatch, "search", SEARCH_STEP, "gradient norm", "the gradient of alpha")


def test_gradient_in_training(tmp_path, images, monkeypatch):
    original, steps = trainer._loss, []

    def loss(network, *arguments):
        steps.append(1)
        if len(steps) == TRAIN_STEP:
            network.cells[1].preprocess[0][-1].weight.register_hook(poison)
        return original(network, *arguments)

    monkeypatch.setattr(trainer, "_loss", loss)
    fails(tmp_path, images, monkeypatch, "train", TRAIN_STEP, "the gradient norm", "gradient of cells.1.preprocess.0")


def test_the_layer_in_which_it_first_appeared(tmp_path, images, monkeypatch):
    """From step 4 on, a layer in the middle of the network gives NaN; all that follow do so as a consequence."""
    original, steps = trainer._loss, []

    def loss(network, *arguments):
        steps.append(1)
        if len(steps) == TRAIN_STEP:
            network.cells[1].preprocess[1].register_forward_hook(lambda module, inputs, out: poison(out))
        return original(network, *arguments)

    monkeypatch.setattr(trainer, "_loss", loss)
    fails(tmp_path, images, monkeypatch, "train", TRAIN_STEP, "(first seen in layer cells.1.preprocess.1)")
