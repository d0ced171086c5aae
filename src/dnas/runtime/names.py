"""What the files of a run folder are called."""

CONFIG_FILE = "config.toml"  # everything that was in force
ARCHITECTURE_FILE = "architecture.json"
DRAWING_FILE = "architecture.svg"
PARAMETERS_FILE = "architecture_parameters.safetensors"  # alpha, beta, gamma at the end of a search
TRAINING_IMAGES_FILE = "training_images.safetensors"  # a digest of each image that was trained on
MODEL_FILE = "model.safetensors"
RESULT_FILE = "result.json"  # there once the run has ended
METRICS_FILE = "metrics.jsonl"
LOG_FILE = "log.txt"
PAGE_FILE = "report.html"
CHECKPOINTS = "checkpoints"  # a folder
