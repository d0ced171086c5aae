"""F06. A checkpoint that is truncated or has a flipped bit, anywhere, is never loaded: the one before it is, and it is said."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from checkpoint_tools import assert_holds, flip, save_number

from dnas.runtime.checkpoint import newest


def test_no_flipped_bit_or_truncation_is_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    for number in (1, 2):
        save_number(folder, number)
    draw = random.Random(0)
    for path in (folder / "00000002.json", folder / "00000002.safetensors"):
        original = path.read_bytes()
        for trial in range(250):
            if trial % 3 == 0:
                path.write_bytes(original[: draw.randrange(len(original))])
            else:
                flip(path, draw.randrange(len(original)), draw.randrange(8))
            loaded, warnings = newest(folder)
            assert_holds(loaded, 1)
            assert len(warnings) == 1 and str(folder / "00000002.json") in warnings[0]
            path.write_bytes(original)
        for impostor in (b"", original + b"\0", original * 2, original[::-1]):
            path.write_bytes(impostor)
            assert_holds(newest(folder)[0], 1)
            path.write_bytes(original)
    assert_holds(newest(folder)[0], 2)


def test_files_that_are_missing_swapped_or_folders(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    for number in (1, 2):
        save_number(folder, number)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}

    def restored() -> None:
        shutil.rmtree(folder)
        folder.mkdir()
        for name, data in whole.items():
            (folder / name).write_bytes(data)

    def refused() -> None:
        loaded, warnings = newest(folder)
        assert_holds(loaded, 1)
        assert len(warnings) == 1

    (folder / "00000002.safetensors").unlink()
    refused()
    (folder / "00000002.safetensors").mkdir()
    refused()
    restored()
    (folder / "00000002.json").unlink()
    (folder / "00000002.json").mkdir()
    refused()
    restored()
    (folder / "00000002.safetensors").write_bytes(whole["00000001.safetensors"])
    refused()
    restored()
    (folder / "00000002.json").write_bytes(whole["00000001.json"])
    refused()
    restored()
    for name in ("00000001.json", "00000002.json"):
        (folder / name).write_text("{}")
    loaded, warnings = newest(folder)
    assert loaded is None and len(warnings) == 2
