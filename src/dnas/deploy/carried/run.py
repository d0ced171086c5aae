"""Run and measure an exported network in a separate process in which some packages are hidden.

Called with the path of a JSON file (see `dnas.deploy.measure`); the working directory is the folder of the network.
"""

import json
import sys
import time
from pathlib import Path

PASSES, SECONDS, BATCH = 50, 3.0, 64


def main():
    told = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    for name in told["without"]:
        sys.modules[name] = None  # importing it fails from here on
    sys.path[:0] = [str(Path.cwd()), told["opened"]]
    import numpy as np

    before = peak()
    from opened import answer

    mean, std = (np.array(told[name], np.float32)[:, None, None] for name in ("mean", "std"))
    pixels = np.load(told["pixels"], mmap_mode="r")

    def prepared(start, count):
        return (pixels[start : start + count].astype(np.float32) / 255 - mean) / std

    times = []
    begin = time.perf_counter()
    while len(times) < PASSES and (time.perf_counter() - begin < SECONDS or len(times) < 5):
        image = prepared(len(times) % len(pixels), 1)
        start = time.perf_counter()
        answer(image)
        times.append(time.perf_counter() - start)
    most = peak()
    logits = np.concatenate([answer(prepared(start, BATCH)) for start in range(0, len(pixels), BATCH)])
    np.save(told["logits"], logits)
    # The first passes allocate memory and choose algorithms.
    low, median, high = np.quantile(times[min(5, len(times) // 2) :], [0.25, 0.5, 0.75]).tolist()
    figures = {
        "latency_seconds": median,
        "latency_quartiles": [low, high],
        "peak_memory_bytes": most,
        "network_memory_bytes": most - before,
        "missing": [name for name in told["without"] if sys.modules.get(name) is None],
    }
    Path(told["figures"]).write_text(json.dumps(figures), "utf-8")


def peak():
    """Return the peak memory of this process, in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage, which includes the memory of the parent process.
        found = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        if found:
            return int(found[0]) * 1024
    try:
        import resource
    except ImportError:
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
