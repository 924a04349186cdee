"""`--mode=convert`: writes weights as a safetensors file, in the names of this project or of torchvision."""

from ctxseg.runs import convert


def run(values) -> None:
    print(convert.convert(values.input, values.output, values.names, values.overwrite))
