"""Help of the commands, and the examples in it for stages: their commands in dvc.yaml, which a test compares.

The examples are not in the stages' own modules, which are dependencies in dvc.yaml: an edit of one would train again.
"""

from __future__ import annotations

EXAMPLES = {
    "prepare": """\
dlkdd prepare --manifest data/manifest.csv --quarantine data/quarantine.csv \\
  --dark data/dark""",
    "fit_enhancer": """\
dlkdd fit-enhancer --manifest data/manifest.csv --dark data/dark \\
  --out models/enhancer.safetensors --curve results/curves/enhancer.csv""",
    "train_teacher": """\
dlkdd train-teacher --manifest data/manifest.csv --frames data/enhanced \\
  --out models/teacher.safetensors --curve results/curves/teacher.csv""",
    "precompute_soft_targets": """\
dlkdd precompute-soft-targets --manifest data/manifest.csv \\
  --frames data/enhanced --teacher models/teacher.safetensors \\
  --out data/soft_targets.zarr""",
    "train_student": """\
dlkdd train-student --manifest data/manifest.csv --frames data/dark \\
  --soft-targets data/soft_targets.zarr --teacher models/teacher.safetensors \\
  --enhanced data/enhanced --out models/student.safetensors \\
  --curve results/curves/student.csv""",
    "train_baseline": """\
dlkdd train-baseline --manifest data/manifest.csv --frames data/dark \\
  --out models/baseline.safetensors --curve results/curves/baseline.csv""",
    "score_teacher": """\
dlkdd score-teacher --manifest data/manifest.csv --frames data/enhanced \\
  --model models/teacher.safetensors --out results/predictions/teacher.csv""",
    "score_student": """\
dlkdd score-student --manifest data/manifest.csv --frames data/dark \\
  --model models/student.safetensors --out results/predictions/student.csv""",
    "score_baseline": """\
dlkdd score-baseline --manifest data/manifest.csv --frames data/dark \\
  --model models/baseline.safetensors --out results/predictions/baseline.csv""",
    "evaluate": """\
dlkdd evaluate --manifest data/manifest.csv --light data/light.csv \\
  --teacher results/predictions/teacher.csv \\
  --student results/predictions/student.csv \\
  --baseline results/predictions/baseline.csv --metrics results/metrics.json \\
  --confusion results/confusion --tables results/tables""",
    "report": """\
dlkdd report --manifest data/manifest.csv --quarantine data/quarantine.csv \\
  --dark data/dark --enhanced data/enhanced \\
  --soft-targets data/soft_targets.zarr --models models \\
  --curves results/curves --metrics results/metrics.json \\
  --tables results/tables --out results/report.html""",
    "demo_videos": """\
dlkdd demo-videos --params demo/params.yaml --section demo_videos \\
  --out data/demo""",
}


def help_of(name: str, text: str) -> str:
    """A command's help from its docstring: paragraphs filled to the terminal's width, the stage's example below."""
    paragraphs = [*text.rstrip().split("\n\n"), *([f"Example:\n{EXAMPLES[name]}"] if name in EXAMPLES else [])]
    return "\n\n".join(part if "\\\n" in part else part.replace("\n", " ") for part in paragraphs)
