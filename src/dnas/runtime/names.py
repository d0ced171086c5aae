"""What the files of a run folder are called, and the stages that they tell of. Needs no torch."""

CONFIG_FILE = "config.toml"  # everything that was in force
ARCHITECTURE_FILE = "architecture.json"
PRIOR_FILE = "prior.json"  # what candidates of the finals were drawn from
DRAWING_FILE = "architecture.svg"
PARAMETERS_FILE = "architecture_parameters.safetensors"  # alpha, beta, gamma at the end of a search
TRAINING_IMAGES_FILE = "training_images.safetensors"  # a digest of each image that was trained on
SKIPPED_FILE = "skipped_images.json"  # those that --skip-broken left out, with the reason; where there are some
MODEL_FILE = "model.safetensors"
ORIGIN_FILE = "origin.safetensors"  # the trained network of another run, with whose weights a training began
ORIGIN_IMAGES_FILE = "origin_images.safetensors"  # a digest of each image that it had been trained on
RESULT_FILE = "result.json"  # there once the run has ended
METRICS_FILE = "metrics.jsonl"
LOG_FILE = "log.txt"
PAGE_FILE = "report.html"
ANSWERS_FOLDER = "answers"  # runs for tighter values of a limit, by the same search
EXPORT_FOLDER = "export"  # networks that run without dnas
EXPORT_FILE = "export.json"  # in that folder and in the run's: what was measured of them
CHECKPOINTS = "checkpoints"  # a folder

# In a folder of `dnas export`.
PREPROCESS_FILE = "preprocess.json"
PREPROCESS_CODE = "preprocess.py"
CARD_FILE = "README.md"
ONNX_METADATA = "dnas"  # the key of an ONNX file's metadata that has what is in preprocess.json

# Stages of a run, as checkpoints, metrics.jsonl and TensorBoard's folders name them.
SEARCH_STAGE = "search"
PLAN_STAGE = "plan"  # of what a budget allows, once the network is known
FINALS_STAGE = "finals"  # short trainings of candidates, of which the best goes on
TRAIN_STAGE = "train"  # of the network that the run is about
BASELINE_PLAN_STAGE = "plan of the baseline"
BASELINE_STAGE = "baseline"  # of a random network of the same size
ANSWERS_STAGE = "other networks"  # runs of their own, for tighter values of a limit
# What people are shown for each, in order.
STAGE_LABELS = {SEARCH_STAGE: "search", TRAIN_STAGE: "training", BASELINE_STAGE: "baseline"}
# Stages of sessions that are no run's own.
TRIAL_STAGE = "trial"  # of the short training of a candidate
TRYOUT_STAGE = "estimate"  # of steps that are tried for their speed

# Where a candidate of the finals comes from; one that stacks published cells has their name.
FOUND, SECOND, PRIOR, RANDOM = "found", "second choice", "prior", "random"
