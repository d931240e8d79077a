"""Whether a damaged or forged bundle is ever accepted: signed bundles, changed at random in many ways.

    python benchmarks/bundle_fuzz.py [--times 10000] [--seed 0]

Each is opened and verified as a board does it. Harmless: verified, and the manifest and every file have the bytes that
were signed (a change of what a zip says beside its files, such as a date). Accepted: verified with other bytes.
Crashed: anything but one of bloodedge's own errors.
"""

import argparse
import io
import json
import struct
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bloodedge.bundle import MANIFEST, SIGNATURE, Bundle
from bloodedge.errors import BloodedgeError
from bloodedge.files import write_json
from bloodedge.machine import hardware_name
from bloodedge.signing.keys import new_key, read_private_key
from bloodedge.signing.signature import Untrusted, sign_bundle, verify_bundle
from bloodedge.signing.trust import TrustStore, trust

RESULTS = Path(__file__).parent / "results" / "bundle_fuzz.json"
MODEL = Path(__file__).resolve().parents[1] / "models" / "simulated.bundle"

Files = dict[str, bytes]
Random = np.random.Generator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        good, other, trusted = prepare(folder)
        answers = {kind: Counter[str]() for kind in MUTATIONS}
        for number in range(options.times):
            kind = list(MUTATIONS)[number % len(MUTATIONS)]
            path = folder / "mutated.bundle"
            path.write_bytes(MUTATIONS[kind](rng, good, other))
            answers[kind][answer(path, trusted, contents(good))] += 1
    total = sum(answers.values(), Counter())
    result = {
        "command": f"python benchmarks/bundle_fuzz.py --times {options.times} --seed {options.seed}",
        "cpu": hardware_name(),
        "bundles": options.times,
        "accepted": total["accepted"],
        "crashed": sum(count for said, count in total.items() if said.startswith("crashed")),
        "harmless": total["harmless"],
        "refused": sum(count for said, count in total.items() if said.startswith("refused")),
        "by_mutation": {kind: dict(counts.most_common()) for kind, counts in answers.items()},
    }
    print(json.dumps(result, indent=2))
    write_json(RESULTS, result)


def prepare(folder: Path) -> tuple[bytes, bytes, TrustStore]:
    """(a signed bundle, the same signed by somebody else, who is trusted: the first's signer)."""
    signed = []
    for name in ("lab", "other"):
        private, _, public = new_key(name, folder)
        if name == "lab":
            trust(folder / "trusted", public)
        sign_bundle(MODEL, read_private_key(private), folder / f"{name}.bundle")
        signed.append((folder / f"{name}.bundle").read_bytes())
    return signed[0], signed[1], TrustStore.read(folder / "trusted")


def answer(path: Path, trusted: TrustStore, signed: Files) -> str:
    try:
        with Bundle(path) as bundle:
            verify_bundle(bundle, trusted)
            same = bundle.manifest_bytes == signed[MANIFEST] and all(
                bundle.read(name) == data for name, data in signed.items() if name not in {MANIFEST, SIGNATURE}
            )
    except Untrusted as error:
        return f"refused: {error.reason}"
    except BloodedgeError:
        return "refused: damaged"
    except Exception as error:  # that none comes is what is measured
        return f"crashed: {type(error).__name__}: {error}"
    return "harmless" if same else "accepted"


def contents(data: bytes) -> Files:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(entries: list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in entries:
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=method)
    return out.getvalue()


def bits(rng: Random, good: bytes, _: bytes) -> bytes:
    data = bytearray(good)
    for _turn in range(int(rng.integers(1, 9))):
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    return bytes(data)


def header_bits(rng: Random, good: bytes, _: bytes) -> bytes:
    """In the zip's own directory, where a change of any other place is drowned by the models' bytes."""
    data = bytearray(good)
    start = struct.unpack("<L", data[-6:-2])[0]
    for _turn in range(int(rng.integers(1, 5))):
        data[int(rng.integers(start, len(data)))] = int(rng.integers(256))
    return bytes(data)


def truncated(rng: Random, good: bytes, _: bytes) -> bytes:
    return good[: int(rng.integers(len(good)))]


def spliced(rng: Random, good: bytes, other: bytes) -> bytes:
    where, length = int(rng.integers(len(good))), int(rng.integers(1, 5000))
    start = int(rng.integers(len(other)))
    return good[:where] + other[start : start + length] + good[where + int(rng.integers(length + 1)) :]


def one_file_changed(rng: Random, good: bytes, _: bytes) -> bytes:
    files = contents(good)
    name = str(rng.choice(sorted(files)))
    data = bytearray(files[name])
    data[int(rng.integers(len(data)))] ^= int(rng.integers(1, 256))
    return packed(list({**files, name: bytes(data)}.items()))


def files_swapped(rng: Random, good: bytes, _: bytes) -> bytes:
    files = contents(good)
    one, two = rng.choice(sorted(files), 2, replace=False)
    files[str(one)], files[str(two)] = files[str(two)], files[str(one)]
    return packed(list(files.items()))


def file_missing(rng: Random, good: bytes, _: bytes) -> bytes:
    files = contents(good)
    del files[str(rng.choice(sorted(files)))]
    return packed(list(files.items()))


def file_added(rng: Random, good: bytes, _: bytes) -> bytes:
    names = ["extra", "../extra", "/etc/passwd", "artifacts/../golden.npz", "GOLDEN.NPZ", "a\\b", "setup.py"]
    return packed([*contents(good).items(), (str(rng.choice(names)), rng.bytes(int(rng.integers(100))))])


def file_twice(rng: Random, good: bytes, _: bytes) -> bytes:
    files = list(contents(good).items())
    name, data = files[int(rng.integers(len(files)))]
    copies = (
        [(name, data[:-1] + bytes([data[-1] ^ 1])), *files] if rng.random() < 0.5 else [*files, (name, data + b" ")]
    )
    return packed(copies)


def manifest_edited(rng: Random, good: bytes, _: bytes) -> bytes:
    files = contents(good)
    files[MANIFEST] = edited(rng, files[MANIFEST])
    return packed(list(files.items()))


def signature_edited(rng: Random, good: bytes, _: bytes) -> bytes:
    files = contents(good)
    files[SIGNATURE] = edited(rng, files[SIGNATURE])
    return packed(list(files.items()))


def edited(rng: Random, text: bytes) -> bytes:
    """JSON with one of its values, at any depth, replaced."""
    record = json.loads(text)
    place = record
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = keys[int(rng.integers(len(keys)))]
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.1:
            break
        place = inner
    values: list[object] = [None, 0, -1, 1e308, "", "x" * 1000, [], {}, True, "0" * 64, "../x", "2001-01-01T00:00:00Z"]
    place[key] = values[int(rng.integers(len(values)))]
    return json.dumps(record).encode()


def resigned_by_another(rng: Random, good: bytes, other: bytes) -> bytes:
    """Changed content under a signature that is whole, but of a key that is not trusted, or under the trusted one's."""
    files, theirs = contents(good), contents(other)
    if rng.random() < 0.5:
        return packed(list({**files, SIGNATURE: theirs[SIGNATURE]}.items()))
    ours, others = json.loads(files[SIGNATURE]), json.loads(theirs[SIGNATURE])
    ours[str(rng.choice(["signature", "key_id"]))] = others["signature" if rng.random() < 0.5 else "key_id"]
    return packed(list({**files, SIGNATURE: json.dumps(ours).encode()}.items()))


def model_replaced(rng: Random, good: bytes, _: bytes) -> bytes:
    """Another model, and a manifest that vouches for it: what somebody without the key can do best."""
    import hashlib

    files = contents(good)
    manifest = json.loads(files[MANIFEST])
    name = str(rng.choice(sorted(manifest["files"])))
    files[name] = rng.bytes(int(rng.integers(1, 1000)))
    manifest["files"][name] = hashlib.sha256(files[name]).hexdigest()
    for artifact in manifest["artifacts"]:
        if artifact["file"] == name:
            artifact["sha256"] = manifest["files"][name]
    files[MANIFEST] = json.dumps(manifest).encode()
    return packed(list(files.items()))


def packed_otherwise(rng: Random, good: bytes, _: bytes) -> bytes:
    """The same files, in another order and packing: harmless, so that not everything is refused."""
    files = list(contents(good).items())
    rng.shuffle(files)
    methods = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2]
    return packed(files, methods[int(rng.integers(len(methods)))])


def bytes_around(rng: Random, good: bytes, _: bytes) -> bytes:
    """Before or after a zip, where zip readers overlook them."""
    more = rng.bytes(int(rng.integers(1, 3000)))
    return more + good if rng.random() < 0.5 else good + more


def sizes_that_lie(rng: Random, good: bytes, _: bytes) -> bytes:
    """One entry's size, packed or unpacked, in the directory and its own header or in one of them."""
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        entries = archive.infolist()
    entry = entries[int(rng.integers(len(entries)))]
    size = entry.file_size if rng.random() < 0.5 else entry.compress_size
    lies = [0, size - 1, size + 1, size // 2, size * 2, 2**31, 2**32 - 1]
    lie = struct.pack("<L", lies[int(rng.integers(len(lies)))])
    return good.replace(struct.pack("<L", size), lie, int(rng.integers(1, 4)))


def zip64(rng: Random, good: bytes, _: bytes) -> bytes:
    """The same files behind a zip64 directory record (APPNOTE.TXT 4.3.14), whose figures may be wrong."""
    _, _, _, count, _, size, offset, _ = struct.unpack("<4s4H2LH", good[-22:])
    if rng.random() < 0.5:
        size, offset = (int(rng.integers(2**40)) for _ in range(2))
    body, end = good[:-22], bytearray(good[-22:])
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, offset)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(body), 1)
    if rng.random() < 0.5:
        end[8:20] = b"\xff" * 12
    return body + record + locator + bytes(end)


def noise(rng: Random, _good: bytes, _: bytes) -> bytes:
    return rng.bytes(int(rng.integers(0, 5000)))


MUTATIONS: dict[str, Callable[[Random, bytes, bytes], bytes]] = {
    one.__name__.replace("_", " "): one
    for one in (
        bits,
        header_bits,
        truncated,
        spliced,
        one_file_changed,
        files_swapped,
        file_missing,
        file_added,
        file_twice,
        manifest_edited,
        signature_edited,
        resigned_by_another,
        model_replaced,
        packed_otherwise,
        bytes_around,
        sizes_that_lie,
        zip64,
        noise,
    )
}


if __name__ == "__main__":
    main()
