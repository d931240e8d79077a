"""Other programs' model files, recognised so that an error can name what was given instead of a bundle."""

from pathlib import Path

STARTS = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file, as older Keras writes models and weights",
    b"\x80\x02": "a Python pickle, as older PyTorch writes models",
    b"\x1f\x8b": "a gzip archive",
}
SUFFIXES = {
    ".keras": "a Keras model",
    ".onnx": "an ONNX model",
    ".pb": "a TensorFlow graph",
    ".pt": "a PyTorch model",
    ".pth": "a PyTorch model",
    ".safetensors": "a safetensors file of weights",
}
"""For formats that are zips or have no signature of their own."""


def model_kind(path: Path) -> str | None:
    """The kind of another program's file or folder, such as "a Keras model"; None if unknown."""
    if path.is_dir():
        return "a TensorFlow SavedModel" if (path / "saved_model.pb").is_file() else None
    with path.open("rb") as file:
        head = file.read(512)
    if head[4:8] == b"TFL3":
        return "a LiteRT (TensorFlow Lite) model"
    if b"<net" in head and head.lstrip().startswith(b"<"):
        return "an OpenVINO model"
    known = next((kind for start, kind in STARTS.items() if head.startswith(start)), None)
    return known or SUFFIXES.get(path.suffix.lower())


def not_a_bundle(path: Path) -> str:
    """The error sentence for a file that is no bundle."""
    kind = model_kind(path)
    what = f"{path} is {kind}, not a bundle" if kind else f"{path} is not a bundle"
    return (
        f"{what}: a bundle also holds the network's preprocessing and its measured figures. "
        "Make one from cells with: bloodedge train DATA --model NAME --out RUN, then bloodedge convert RUN --int8"
    )
