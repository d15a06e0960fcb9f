"""Information planes of a VGG: what each layer keeps of the input, what it knows of the label, and its ITE.

python -m experiments.vgg_ip
"""

from pathlib import Path

from experiments.runner import Config, command_line, run


def main(config: Config) -> Path:
    """Runs the experiment and returns the folder of its results."""
    return run("vgg_ip", config)


if __name__ == "__main__":
    command_line(main, Config(network="vgg16"))
