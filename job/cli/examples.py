"""Examples, which the help of each command shows at its end."""

from textwrap import dedent

_EXAMPLES = {
    "": """
        lora-job validate study.yaml
        lora-job run study.yaml
        lora-job status runs/study --follow
    """,
    "init": """
        lora-job init pictures
        lora-job init s3://bucket/pictures.zip --destination s3://bucket/runs
    """,
    "run": """
        lora-job run study.yaml
        lora-job run study.yaml --set name=longer --set training.steps=2000
        lora-job run s3://bucket/study.yaml --workdir /scratch
    """,
    "validate": """
        lora-job validate study.yaml
        lora-job validate study.yaml --offline
    """,
    "plan": """
        lora-job plan study.yaml
        lora-job plan study.yaml --set training.steps=2000 --json
    """,
    "schema": """
        lora-job schema > lora-job.schema.json
        lora-job schema --report
    """,
    "convert": """
        lora-job convert config.toml > study.yaml
        lora-job convert train.sh --output study.yaml
    """,
    "status": """
        lora-job status runs/study
        lora-job status s3://bucket/runs/study --follow
    """,
    "report": """
        lora-job report runs/study
        lora-job report runs/study --ratings anna.json ben.json
        lora-job report runs/at-384 runs/at-512
    """,
    "collect": """
        lora-job collect s3://bucket/runs/study study
        lora-job collect s3://bucket/runs/study study --adapters
    """,
    "verify": """
        lora-job verify runs/study
        lora-job verify s3://bucket/runs/study
    """,
    "sample": """
        lora-job sample runs/study --prompts prompts.txt
        lora-job sample runs/study --prompt "a snake --d 7" --best --base
        lora-job sample adapter.safetensors --base-model SOURCE --prompt "a snake"
    """,
    "export": """
        lora-job export runs/study --variant blip --format both
        lora-job export adapter.safetensors --merge base.safetensors --dtype fp16
        lora-job export runs/study --variant blip --average 800,900,1000 --resize 4
    """,
    "compare": """
        lora-job compare one.safetensors other.safetensors
        lora-job compare runs/study:blip@100 runs/study:blip@last --json
    """,
    "render": """
        lora-job render kubernetes study.yaml --image registry/lora-job > job.yaml
    """,
    "render kubernetes": """
        lora-job render kubernetes study.yaml --image registry/lora-job > job.yaml
        lora-job render kubernetes study.yaml --image registry/lora-job --gpus 0
    """,
    "render aws-batch": """
        lora-job render aws-batch study.yaml --image registry/lora-job --queue gpus
    """,
    "render gcp-batch": """
        lora-job render gcp-batch study.yaml --image registry/lora-job \\
        --location us-central1 --machine-type g2-standard-4
    """,
}


def examples(*command: str) -> str:
    """The examples of a command, for its help, a line each.

    Args:
        command: its words, such as "render", "kubernetes"; none for the program itself.
    """
    return f"Examples:\n{dedent(_EXAMPLES[' '.join(command)]).strip()}"
