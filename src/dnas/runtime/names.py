"""Names of the files in a run folder, and of the stages of a run. Does not import torch."""

CONFIG_FILE = "config.toml"  # resolved settings
ARCHITECTURE_FILE = "architecture.json"
PRIOR_FILE = "prior.json"  # the prior from which candidates of the finals were drawn
DRAWING_FILE = "architecture.svg"
PARAMETERS_FILE = "architecture_parameters.safetensors"  # alpha, beta, gamma at the end of a search
TRAINING_IMAGES_FILE = "training_images.safetensors"  # a digest of each training image
SKIPPED_FILE = "skipped_images.json"  # images that --skip-broken left out, with the reason; only if there are any
MODEL_FILE = "model.safetensors"
ORIGIN_FILE = "origin.safetensors"  # the trained network of another run, whose weights the training started with
ORIGIN_IMAGES_FILE = "origin_images.safetensors"  # a digest of each image that it was trained on
RESULT_FILE = "result.json"  # exists once the run has finished
METRICS_FILE = "metrics.jsonl"
LOG_FILE = "log.txt"
PAGE_FILE = "report.html"
ANSWERS_FOLDER = "answers"  # runs for smaller values of a limit, by the same search
EXPORT_FOLDER = "export"  # exported networks
EXPORT_FILE = "export.json"  # in that folder and in the run folder: measurements of the exports
CHECKPOINTS = "checkpoints"  # folder

# In a folder of `dnas export`.
PREPROCESS_FILE = "preprocess.json"
PREPROCESS_CODE = "preprocess.py"
CARD_FILE = "README.md"
ONNX_METADATA = "dnas"  # key in the metadata of an ONNX file with the content of preprocess.json

# Stages of a run, as named in checkpoints, metrics.jsonl and the folders of TensorBoard.
SEARCH_STAGE = "search"
PLAN_STAGE = "plan"  # planning of the training by the budget, once the network is known
FINALS_STAGE = "finals"  # short trainings of candidates; the best one continues
TRAIN_STAGE = "train"  # training of the network of the run
BASELINE_PLAN_STAGE = "plan of the baseline"
BASELINE_STAGE = "baseline"  # training of the random baseline
ANSWERS_STAGE = "other networks"  # separate runs for smaller values of a limit
# Labels of stages for people, in order.
STAGE_LABELS = {SEARCH_STAGE: "search", TRAIN_STAGE: "training", BASELINE_STAGE: "baseline"}
# Stages of sessions within a stage of a run.
TRIAL_STAGE = "trial"  # short training of a candidate
TRYOUT_STAGE = "estimate"  # steps that measure speed

# Origin of a candidate of the finals; a published one has its own name.
FOUND, SECOND, PRIOR, RANDOM = "found", "second choice", "prior", "random"
