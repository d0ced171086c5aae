"""`benchmarks/prior.py` from images to a prior, on few of them; no figure of it is of interest."""

import json

import numpy as np
import prior as benchmark

from dnas.rng import numpy_stream
from dnas.space.architecture import Architecture
from dnas.space.darts import DARTS
from dnas.supernet.worth import load_prior


def test_varied_architectures_are_of_the_space_and_differ_more_than_uniform_ones():
    def shares(draw):
        rng = numpy_stream(0, "test")
        found = []
        for _ in range(60):
            architecture = draw(rng)
            assert not any(
                DARTS.objection(cell.nodes, k in architecture.reductions) for k, cell in enumerate(architecture.layers)
            )
            ops = [op for cell in architecture.layers for node in cell.nodes for op, _ in node]
            found.append([ops.count(name) / len(ops) for name in DARTS.primitives])
        return np.std(found, axis=0).mean()

    varied = shares(lambda rng: benchmark.varied(rng, 6))
    assert varied > 1.5 * shares(lambda rng: benchmark.sample(DARTS, rng, 6))


def test_a_prior_is_made_and_an_interrupted_command_goes_on(tmp_path, capsys):
    given = {"data": "digits", "seconds": 0.3, "layers": 5, "processes": 1, "out": tmp_path}
    benchmark.main(trainings=3, **given)
    before = (tmp_path / "trainings.jsonl").read_text()
    benchmark.main(trainings=5, **given)
    text = (tmp_path / "trainings.jsonl").read_text()
    assert text.startswith(before) and len(text.splitlines()) == 5
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["origin"] for line in lines] == ["varied", "varied", "varied", "proposed", "proposed"]
    assert all(len(Architecture.from_json(line["architecture"])) == 5 for line in lines)
    prior = load_prior(str(tmp_path / "prior.json"))
    assert prior.layers == 5 and prior.source == "5 trainings of 0.3 s on digits"
    assert "digits, proposed" in capsys.readouterr().out
    benchmark.main(trainings=5, **given)
    assert (tmp_path / "trainings.jsonl").read_text() == text


def test_accuracies_after_another_time_are_another_measure():
    rng = numpy_stream(1, "test")
    lines = [
        {
            "data": "digits",
            "seconds": seconds,
            "steps": round(9 * seconds),
            "accuracy": accuracy,
            "architecture": benchmark.varied(rng, 6).to_json(),
        }
        for seconds, base in ((1.0, 0.2), (60.0, 0.9))
        for accuracy in base + 0.01 * rng.standard_normal(8)
    ]
    short, long = lines[:8], lines[8:]
    both = benchmark.fitted(lines, 6)
    assert both.source == "8 trainings of 1 s on digits, 8 trainings of 60 s on digits" and both.steps == 540
    # As if each had been standardised alone: what is later is not better for that.
    gap = np.mean([both.of(Architecture.from_json(line["architecture"])) for line in long]) - np.mean(
        [both.of(Architecture.from_json(line["architecture"])) for line in short]
    )
    assert abs(gap) < 0.5
