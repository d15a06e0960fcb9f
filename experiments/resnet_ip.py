"""Information planes of a ResNet: what each layer keeps of the input, what it knows of the label, and its ITE.

python -m experiments.resnet_ip
"""

from pathlib import Path

from experiments.runner import Config, command_line, run


def main(config: Config) -> Path:
    """Runs the experiment and returns the folder of its results."""
    return run("resnet_ip", config)


if __name__ == "__main__":
    command_line(main)
