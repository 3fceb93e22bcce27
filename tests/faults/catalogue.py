"""The catalogue: what can be wrong with an input, and the line that the user then meets.

A line is compared whole; `...` stands for anything, HERE for the folder that the command ran in.
"""

import json
import os
import pickle
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image
from place import Command, Place, grey, pixels

from cityseg.labels import TRAIN_ID_OF_LABEL_ID


@dataclass(frozen=True)
class Fault:
    """One bad input."""

    kind: str
    what: str
    command: Command
    words: str
    line: str
    do: Callable[[Place], object] = lambda _: None
    code: int = 2
    """1 for a fault of the machine's, which is told as a failure."""
    gone: tuple[str, ...] = ()
    """Litter that goes."""


RUN: Final = "--config tiny.yaml --data data --name new"
OLD: Final = "--config tiny.yaml --data data --name old"
TRAIN: Final = "train --fold 1 --config tiny.yaml --data data --out cell"
LIST: Final = "; list them all with: python -m cityseg verify --data HERE/data"
ULM: Final = "ulm_000000_000019"
IMAGE: Final = f"leftImg8bit/train/ulm/{ULM}_leftImg8bit.png"
LABEL: Final = f"gtFine/train/ulm/{ULM}_gtFine_labelIds.png"


def cannot_use(path: str, why: str) -> str:
    listed = "; list them all with: python -m cityseg verify"
    return f"cannot use 1 file: HERE/data/{path}: {why}{listed}"


def png(width: int, height: int, bits: int, colour: int, rows: int | None = None) -> bytes:
    """A PNG file written by hand, black; it may claim more rows than it has."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    row = b"\0" + bytes((width * bits * channels + 7) // 8)
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = (b"IHDR", head), (b"IDAT", zlib.compress(row * (rows or height))), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def all_train_ids(place: Place) -> None:
    for path in place.labels():
        Image.fromarray(TRAIN_ID_OF_LABEL_ID[pixels(path)]).save(path)


def loop(path: Path) -> None:
    """A link to itself in the place of a file or folder."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.symlink_to(path.name)


def dangle(path: Path) -> None:
    """A link to nothing in the place of a folder."""
    shutil.rmtree(path)
    path.symlink_to("nowhere")


def move(place: Place, to: str) -> None:
    """The image under another name, or in another folder."""
    target = place.data / "leftImg8bit/train" / to
    target.parent.mkdir(exist_ok=True)
    place.image().rename(target)


def city_alone(place: Place, *cities: str) -> None:
    for kind in ("leftImg8bit", "gtFine"):
        for folder in (place.data / kind / "train").iterdir():
            if folder.name not in cities:
                shutil.rmtree(folder)


def cut(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


class Bomb:
    """Would leave a mark if it were unpickled."""

    def __reduce__(self):
        return os.mkdir, ("exploded",)


def pickled(place: Place, name: str) -> None:
    place.write(name, pickle.dumps(Bomb()))


def own_folds(place: Place, folds: object) -> None:
    place.write("folds.json", folds if isinstance(folds, str) else json.dumps(folds))


def names(place: Place) -> list[str]:
    return sorted(path.name.removesuffix("_gtFine_labelIds.png") for path in place.labels())


def tamper(place: Place, hashed: bool) -> None:
    """Swap two frames between folds, the hash in the file made to fit or not."""
    path = place.study.folds_file
    content = json.loads(path.read_text())
    one, two = content["folds"][:2]
    one[0], two[0] = two[0], one[0]
    if hashed:
        del content["hash"]
    path.write_text(json.dumps(content))


def full_disk(place: Place) -> None:
    """What is written first meets a disk without space, for real."""
    (place.study.folder / ".study.yaml.tmp").symlink_to("/dev/full")


DATA: Final = [
    Fault("data", "a label is missing", "run", RUN,
          f"HERE/data: 1 unpaired frame in train, the first {ULM}: got no label, expected a "
          f"gtFine_labelIds.png for every leftImg8bit.png{LIST}", lambda p: p.label().unlink()),
    Fault("data", "an image is missing", "run", RUN,
          f"HERE/data: 1 unpaired frame in train, the first {ULM}: got no image, expected a "
          f"gtFine_labelIds.png for every leftImg8bit.png{LIST}", lambda p: p.image().unlink()),
    Fault("data", "an image is empty", "run", RUN,
          cannot_use(IMAGE, "cannot decode it: got no picture, expected a PNG file"),
          lambda p: p.image().write_bytes(b"")),
    Fault("data", "an image is cut in its header", "run", RUN,
          cannot_use(IMAGE, "cannot decode it: got a PNG file that is cut short"),
          lambda p: cut(p.image(), 20)),
    Fault("data", "an image is cut in its pixels", "run", RUN,
          cannot_use(IMAGE, "cannot decode it: got a PNG file that is cut short"),
          lambda p: cut(p.image(), 4000)),
    Fault("data", "the end of an image is zeros, as after a crash", "run", RUN,
          cannot_use(IMAGE, "cannot decode it: got other bytes than were written (a checksum is "
                            "wrong)"),
          lambda p: p.image().write_bytes(p.image().read_bytes()[:4000].ljust(
              p.image().stat().st_size, b"\0"))),
    Fault("data", "a bit of a label is flipped", "run", RUN,
          cannot_use(LABEL, "cannot decode it: got other bytes than were written (a checksum is "
                            "wrong)"), lambda p: flip(p.label(), 90)),
    Fault("data", "a label is cut", "run", RUN,
          cannot_use(LABEL, "cannot decode it: got ..."), lambda p: cut(p.label(), 200)),
    Fault("data", "an image is a JPEG", "run", RUN,
          cannot_use(IMAGE, "cannot decode it: got a JPEG file, expected a PNG file"),
          lambda p: Image.new("RGB", (128, 64)).save(p.image(), "JPEG")),
    Fault("data", "a label is a web page", "cityseg", TRAIN,
          cannot_use(LABEL, "cannot decode it: got a web page, expected a PNG file"),
          lambda p: p.label().write_text("<html>log in first</html>")),
    Fault("data", "an image is a pointer of Git LFS", "cityseg", "prepare --data data",
          cannot_use(IMAGE, "cannot decode it: got a pointer of Git LFS; run `git lfs pull`, "
                            "expected a PNG file"),
          lambda p: p.image().write_text("version https://git-lfs.github.com/spec/v1\n")),
    Fault("data", "an image is of 16 bits", "run", RUN,
          cannot_use(IMAGE, "got 16 bits a channel, expected 8"),
          lambda p: p.image().write_bytes(png(128, 64, 16, 2))),
    Fault("data", "an image is of 16 bits with alpha", "run", RUN,
          cannot_use(IMAGE, "got 16 bits a channel, expected 8"),
          lambda p: p.image().write_bytes(png(128, 64, 16, 6))),
    Fault("data", "an image has a palette", "run", RUN,
          cannot_use(IMAGE, "got image mode P, expected RGB"),
          lambda p: Image.new("P", (128, 64)).save(p.image())),
    Fault("data", "an image has an alpha channel", "run", RUN,
          cannot_use(IMAGE, "got image mode RGBA, expected RGB"),
          lambda p: Image.new("RGBA", (128, 64)).save(p.image())),
    Fault("data", "an image is grey", "run", RUN,
          cannot_use(IMAGE, "got image mode L, expected RGB"),
          lambda p: Image.new("L", (128, 64)).save(p.image())),
    Fault("data", "an image claims a billion pixels", "run", RUN,
          cannot_use(IMAGE, "got 40000x40000 pixels, expected a street scene's"),
          lambda p: p.image().write_bytes(png(40000, 40000, 8, 2, rows=1))),
    Fault("data", "a label has another size than its image", "run", RUN,
          cannot_use(LABEL, "has 128x63, its image 128x64 pixels"),
          lambda p: grey(p.label(), size=(128, 63))),
    Fault("data", "three files are broken", "run", RUN,
          "cannot use 4 files: ...; ...; ...; and 1 more; list them all with: python -m cityseg "
          "verify",
          lambda p: [cut(path, 40) for path in (*p.labels()[:3], p.image())]),
    Fault("data", "the same frame is in two folds", "run", f"{RUN} --grouping cities",
          "HERE/data: 1 problem: leftImg8bit/train/bochum/bochum_000000_000019_leftImg8bit.png: "
          "is in fold 2 and, as aachen_000000_000019, in fold 1: a network would be scored on what "
          f"it was trained on; remove one of them, or put both into one fold by --folds-file{LIST}",
          lambda p: shutil.copy(p.image("aachen_000000_000019"), p.image("bochum_000000_000019"))),
    Fault("data", "no such folder", "run", "--data nowhere --name new",
          "no folder HERE/nowhere/leftImg8bit/train: expected the Cityscapes layout; give its root "
          "by --data"),
    Fault("data", "a split is empty", "run", RUN,
          "HERE/data/leftImg8bit/train holds no frame: expected {city}/*_leftImg8bit.png",
          lambda p: city_alone(p)),
    Fault("data", "fewer frames than folds", "run", f"{RUN} --folds 13",
          "cannot make 13 folds: got 12 frames"),
    Fault("data", "fewer cities than folds", "run", f"{RUN} --grouping cities --folds 4",
          "cannot make 4 folds: got 3 cities"),
    Fault("data", "fewer frames than a batch", "run", f"{RUN} train.batch_size=9",
          "train.batch_size: got 9, expected at most 8, the fewest frames that a fold's "
          "network is trained on"),
    Fault("data", "a file is a link to itself", "run", RUN,
          "cannot read HERE/data/...: got Too many levels of symbolic links",
          lambda p: loop(p.image())),
    Fault("data", "a city's folder is a link to itself", "run", RUN,
          "HERE/data: 4 unpaired frames in train, the first ulm_000000_000019: got no image...",
          lambda p: loop(p.image().parent)),
    Fault("data", "both of a city's folders are links to nowhere", "run", RUN,
          "HERE/data: 2 problems: leftImg8bit/train/ulm: is a link that leads nowhere, or to "
          f"itself; gtFine/train/ulm: is a link that leads nowhere, or to itself{LIST}",
          lambda p: [dangle(path.parent) for path in (p.image(), p.label())]),
    Fault("data", "the root is a link to itself", "run", "--data data --name new",
          "no such path data: got Symlink loop from ...", lambda p: loop(p.data)),
    Fault("data", "the root is in the home of nobody", "run", "--data ~nobody-of-this-name/data",
          "no such path ~nobody-of-this-name/data: got Could not determine home directory."),
    Fault("data", "the cache is in the home of nobody", "cityseg",
          "prepare --data data --cache-dir ~nobody-of-this-name/c",
          "no such path ~nobody-of-this-name/c: got Could not determine home directory."),
    Fault("data", "the root's name is too long", "run", f"--data {'x' * 300}",
          "HERE/xxx...: got File name too long"),
    Fault("data", "a folder in the place of a file", "run", RUN,
          cannot_use(IMAGE, "cannot decode it: got ...Is a directory..."),
          lambda p: (p.image().unlink(), p.image().mkdir())),
    Fault("data", "a frame in another city's folder", "run", RUN,
          f"file name HERE/data/leftImg8bit/train/aachen/{ULM}_leftImg8bit.png: expected "
          "aachen_000000_000000_leftImg8bit.png",
          lambda p: move(p, f"aachen/{ULM}_leftImg8bit.png")),
    Fault("data", "no name of a frame", "run", RUN,
          "file name HERE/data/leftImg8bit/train/ulm/street_leftImg8bit.png: expected "
          "ulm_000000_000000_leftImg8bit.png", lambda p: move(p, "ulm/street_leftImg8bit.png")),
]  # fmt: skip

LABELS: Final = [
    Fault("labels", "a value outside the ids", "run", RUN,
          f"HERE/data: 1 problem: {LABEL}: ids [99] are not in the official table{LIST}",
          lambda p: Image.fromarray(np.where(pixels(p.label()) == 23, 99, pixels(p.label()))
                                    .astype(np.uint8)).save(p.label())),
    Fault("labels", "train ids with 255", "run", RUN,
          "HERE/data: 12 problems: gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png: "
          "ids [255] are not in the official table; ...; ...; and 9 more" + LIST, all_train_ids),
    Fault("labels", "a colour label", "run", RUN,
          cannot_use(LABEL, "got image mode RGB, expected L"),
          lambda p: Image.new("RGB", (128, 64)).save(p.label())),
    Fault("labels", "a label with a palette", "run", RUN,
          cannot_use(LABEL, "got image mode P, expected L"),
          lambda p: Image.new("P", (128, 64)).save(p.label())),
    Fault("labels", "a label of 16 bits", "run", RUN,
          cannot_use(LABEL, "got image mode I;16, expected L"),
          lambda p: Image.new("I;16", (128, 64)).save(p.label())),
    Fault("labels", "a label of 4 bits, which would be scaled", "run", RUN,
          cannot_use(LABEL, "got 4 bits a channel, expected 8"),
          lambda p: p.label().write_bytes(png(128, 64, 4, 0))),
    Fault("labels", "a label of black and white", "run", RUN,
          cannot_use(LABEL, "got image mode 1, expected L"),
          lambda p: Image.new("1", (128, 64)).save(p.label())),
    Fault("labels", "an instance map in the place of labels", "cityseg", TRAIN,
          cannot_use(LABEL, "got image mode I;16, expected L"),
          lambda p: Image.new("I;16", (128, 64), 26001).save(p.label())),
]  # fmt: skip


def setting(what: str, word: str, line: str) -> Fault:
    return Fault("settings", what, "run", f"{RUN} '{word}'", f"tiny.yaml: {line}")


SETTINGS: Final = [
    setting("an unknown key", "train.learning_rate=1",
            "unknown key train.learning_rate, did you mean train...?"),
    setting("a key with a letter missing", "train.epoch=3",
            "unknown key train.epoch, did you mean train.epochs?"),
    setting("a word for a number", "train.epochs=many",
            "train.epochs: got 'many', expected: Input should be a valid integer, unable to parse "
            "string as an integer"),
    setting("half an epoch", "train.epochs=2.5",
            "train.epochs: got 2.5, expected: Input should be a valid integer, got a number with a "
            "fractional part"),
    setting("out of range", "train.lr=-1",
            "train.lr: got -1, expected: Input should be greater than 0"),
    setting("NaN", "train.lr=.nan", "train.lr: got nan, expected: Input should be ..."),
    setting("infinity", "resources.memory_gb=.inf",
            "resources.memory_gb: got inf, expected: Input should be a finite number"),
    setting("a huge number", "train.epochs=1" + 30 * "0",
            "train.epochs: got 1000000000000000000000000000000, expected: Input should be less "
            "than or equal to 100000"),
    setting("a number of ten thousand digits", "train.epochs=0x" + 10_000 * "f",
            "train.epochs: got a number of thousands of digits, expected: ..."),
    setting("a long text", "train.precision=" + 10_000 * "f",
            "train.precision: got 'fff...f..., expected: Input should be 'auto', ..."),
    setting("a section in the place of a value", "train.lr={a: 1}",
            "train.lr: got {'a': 1}, expected: Input should be a valid number"),
    setting("a value in the place of a section", "train=3",
            "train: got 3, expected: Input should be a valid dictionary or instance of Train"),
    setting("contradictory speed", "train={compile: true, deterministic: true}",
            "train.deterministic goes without train.compile: set one to false"),
    setting("a setting that another puts out of use", "inference.overlap=0.3",
            "inference.overlap does nothing with inference.window=null: leave it at 0.5"),
    setting("a checksum without a file", f"model.weights_sha256={64 * 'a'}",
            "weights_sha256 goes with a weights file, not with none"),
    setting("a path with a zero byte", 'resources.cache_dir="a\\0b"',
            "resources.cache_dir: got a path with a zero byte, expected one without"),
    setting("a control sequence in a key", '"\\e[2J"=1'.replace("\\e", "\x1b"),
            "unknown key \"\\x1b[2J\", known are ..."),
    Fault("settings", "no setting at all", "run", f"{RUN} train.lr",
          "setting: got 'train.lr', expected KEY=VALUE, such as train.lr=3e-4"),
    Fault("settings", "a value that is no YAML", "run", f"{RUN} train.lr=[1",
          "setting train.lr: got '[1', expected a YAML value"),
    Fault("settings", "two problems at once", "run", f"{RUN} train.lr=-1 seed=-1",
          "tiny.yaml: seed: got -1, expected: Input should be greater than or equal to 0; "
          "train.lr: got -1, expected: Input should be greater than 0"),
    Fault("settings", "a search outside the ranges", "run",
          f"{RUN} 'search.space={{train.lr: {{low: 0, high: 1}}}}' --variants 3",
          "search.space: train.lr: got 0, expected: Input should be greater than 0"),
    Fault("settings", "a search over nothing known", "run",
          f"{RUN} 'search.space={{train.lrr: [1, 2]}}' --variants 3",
          "search.space: unknown key train.lrr, did you mean train.lr?"),
    Fault("settings", "a range upside down", "run",
          f"{RUN} 'search.space={{train.lr: {{low: 1e-2, high: 1e-3}}}}' --variants 3",
          "search.space: train.lr: low 0.01 is not below high 0.001"),
    Fault("settings", "more rows than are given", "run", f"{RUN} --variants 3",
          "search.variants: got 3 rows, but only 1 are given, expected search.space to draw the "
          "others from; such as configs/search.yaml has"),
    Fault("settings", "a grid of no list", "run", f"{RUN} --grid train.lr=1",
          "--grid...: got ..., expected ..."),
]  # fmt: skip


def yaml_file(what: str, content: str | bytes, line: str) -> Fault:
    return Fault("yaml", what, "run", "--config bad.yaml --data data --name new", line,
                 lambda place: place.write("bad.yaml", content))  # fmt: skip


BILLION_LAUGHS: Final = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 11)
)

YAML: Final = [
    yaml_file("empty", "", "bad.yaml: got an empty file, expected a mapping of settings"),
    yaml_file("binary", b"\x89PNG\r\n\x1a\n\x00\xff",
              "bad.yaml is not a YAML file: got bytes that are no text"),
    yaml_file("a list", "- 1\n", "bad.yaml: got a list, expected a mapping of settings"),
    yaml_file("no YAML", "train: [1\n", "bad.yaml is no file of settings: while parsing ..."),
    yaml_file("a control character", "a: \x07\n",
              "bad.yaml is no file of settings: unacceptable character ..."),
    yaml_file("a tag that would run code", "a: !!python/object/apply:os.mkdir ['exploded']\n",
              "bad.yaml is no file of settings: could not determine a constructor for the tag ..."),
    yaml_file("a tag that lies", "seed: !!int ''\n",
              "bad.yaml is no file of settings: a value that is not what it claims to be (...)"),
    yaml_file("a key twice", "train:\n  lr: 1e-3\n  epochs: 2\n  lr: 1e-4\n",
              "bad.yaml is no file of settings: the key lr stands twice, in lines 2 and 4"),
    yaml_file("a section twice", "train: {lr: 1e-3}\nseed: 1\ntrain: {epochs: 2}\n",
              "bad.yaml is no file of settings: the key train stands twice, in lines 1 and 3"),
    yaml_file("a billion laughs", BILLION_LAUGHS,
              "bad.yaml is no file of settings: more than 1000000 values in what begins in line 7, "
              "its aliases followed"),
    yaml_file("an alias to itself", "a: &a [*a]\n",
              "bad.yaml is no file of settings: the alias in line 1 refers to itself"),
    yaml_file("nested without end", "a: " + 500 * "[",
              "bad.yaml is no file of settings: nested deeper than 100 levels"),
    yaml_file("no date", "a: 2001-99-99\n",
              "bad.yaml is no file of settings: a value that is not what it claims to be (...)"),
    yaml_file("two documents", "seed: 1\n---\nseed: 2\n",
              "bad.yaml is no file of settings: expected a single document ..."),
    yaml_file("a key that is no word", "1: 2\n",
              "bad.yaml: got the key 1, expected keys that are words"),
    Fault("yaml", "a file that never ends", "run", "--config /dev/zero --data data --name new",
          "/dev/zero is no file of settings: got more than 16777216 bytes"),
    Fault("yaml", "a folder", "run", "--config data/gtFine --data data --name new",
          "cannot read data/gtFine: got Is a directory"),
    Fault("yaml", "no such file", "run", "--config no.yaml --data data --name new",
          "no file no.yaml: expected a YAML file, or one of ablation.yaml, ..., vanilla.yaml"),
    Fault("yaml", "a name too long", "run", f"--config {'x' * 300} --data data --name new",
          "xxx...: got File name too long"),
]  # fmt: skip

COMMANDS: Final = [
    Fault("command line", "an option misspelt", "run", "--floods 3",
          "Unrecognized options: --floods, 3; Perhaps you meant: --folds ...; see: python -m "
          "study.run --help"),
    Fault("command line", "an option without its value", "cityseg", "verify --data",
          "Missing value for argument '--data'. Expected 1 values; see: cityseg verify --help"),
    Fault("command line", "a word for a number", "cityseg", "train --fold one",
          "Error parsing --fold: invalid literal for int() with base 10: 'one'; see: ..."),
    Fault("command line", "a choice of none", "cityseg", "train --fold 1 --grouping towns",
          "invalid choice 'towns' for argument '--grouping'. Expected one of (...); see: ..."),
    Fault("command line", "no such command", "cityseg", "trian",
          "Unrecognized options: trian; Available subcommands: train, evaluate, ..."),
    Fault("command line", "no command", "cityseg", "",
          "Expected one of {train, evaluate, ...}; see: cityseg --help"),
    Fault("command line", "a word too many", "status", "a b",
          "Unrecognized options: b; see: python -m study.status --help"),
    Fault("command line", "half a comparison", "analyze", "--compare a",
          "Error parsing --compare: ..."),
    Fault("command line", "a fold that is none", "cityseg", TRAIN.replace("fold 1", "fold 4"),
          "fold: got 4, expected 1 to 3"),
    Fault("command line", "a split that is none", "cityseg", "verify --data data --split dev",
          "--split: got dev, expected some of train,val,test"),
    Fault("command line", "folds by a file and by a number", "cityseg",
          "verify --data data --folds 3 --folds-file folds.json",
          "--folds-file: expected no --folds, --grouping or --seed beside it"),
    Fault("command line", "a file in the place of a cell", "cityseg",
          TRAIN.replace("cell", "tiny.yaml"), "tiny.yaml: got File exists"),
    Fault("command line", "a file in the place of an export's folder", "cityseg",
          "export --weights best.safetensors --out tiny.yaml/x.onnx", "tiny.yaml: got File exists"),
    Fault("command line", "a file in the place of the counts' folder", "cityseg",
          "evaluate --weights best.safetensors --data data --out tiny.yaml",
          "tiny.yaml: got File exists"),
    Fault("command line", "no data set", "cityseg", "verify",
          "no data set; give its root by --data or CITYSCAPES_DATASET"),
    Fault("command line", "a study's name that is a path", "run", RUN.replace("new", "../new"),
          "--name: got '../new', expected the name of one folder"),
    Fault("command line", "a study's name that is hidden", "run", RUN.replace("new", ".new"),
          "--name: got '.new', expected the name of one folder"),
    Fault("command line", "a study's name that is no text", "run",
          RUN.replace("new", "'a\x1b[2Jb'"),
          "--name: got 'a\\x1b[2Jb', expected the name of one folder"),
    Fault("command line", "a study's name that is too long", "run", RUN.replace("new", 300 * "n"),
          "HERE/results/nnn...: got File name too long"),
    Fault("command line", "no such study", "analyze", "absent",
          "no study absent: got neither results/absent nor absent holds a study.yaml, expected one "
          "of old"),
    Fault("command line", "a storage that is none", "run", f"{RUN} --storage redis://x",
          "--storage: got the unknown kind of database redis, expected sqlite, journal, or "
          "postgresql://user@host/database"),
    Fault("command line", "a storage that is a word", "run", f"{RUN} --storage postgres",
          "--storage: got no URL of a database, expected sqlite, journal, or "
          "postgresql://user@host/database"),
]  # fmt: skip


def folds_file(what: str, line: str, folds: Callable[[Place], object]) -> Fault:
    return Fault("folds", what, "run", f"{RUN} --folds 2 --folds-file folds.json", line,
                 lambda place: own_folds(place, folds(place)))  # fmt: skip


FOLDS: Final = [
    folds_file("no JSON", "folds.json: content: got Invalid JSON: ...", lambda _: "{"),
    folds_file("a list", "folds.json: content: got [], expected an object", lambda _: []),
    folds_file("nothing in it", "folds.json: folds: got Field required", lambda _: {}),
    folds_file("folds twice", "folds.json: content: got Invalid JSON: the key 'folds' stands twice",
               lambda _: '{"folds": [["a"], ["b"]], "folds": [["b"], ["a"]]}'),
    folds_file("nested without end", "folds.json: content: got Invalid JSON: ...",
               lambda _: 100_000 * "["),
    folds_file("numbers for names", "folds.json: folds.0.0: got Input should be a valid string",
               lambda _: {"folds": [[1], [2]]}),
    folds_file("one fold", "folds.json: folds: got List should have at least 2 items after "
               "validation, not 1", lambda p: {"folds": [names(p)]}),
    folds_file("three folds for two", "folds.json: got 3 folds, expected 2 (--folds)",
               lambda p: {"folds": [names(p)[i::3] for i in range(3)]}),
    folds_file("a frame in two folds",
               "folds.json: 1 in more than one fold, the first aachen_000000_000019",
               lambda p: {"folds": [names(p), names(p)[:1]]}),
    folds_file("a frame in no fold", f"folds.json: 1 in the data but in no fold, the first {ULM}",
               lambda p: {"folds": [[n for n in names(p) if n < ULM],
                                    [n for n in names(p) if n > ULM]]}),
    folds_file("a frame of another data set",
               "folds.json: 1 in a fold but not in the data, the first x",
               lambda p: {"folds": [names(p), ["x"]]}),
    folds_file("a fold with nothing in it", "folds.json: 1 empty, the first fold 2",
               lambda p: {"folds": [names(p), []]}),
    folds_file("another hash", "folds.json was changed since it was written: got hash abc, "
               "expected ...; restore it, or start a new study with --folds-file and the hash "
               "taken out", lambda p: {"folds": [names(p)[::2], names(p)[1::2]], "hash": "abc"}),
    Fault("folds", "of a study, tampered with", "run", OLD,
          "HERE/results/old/folds.json was changed since it was written: got hash ..., expected "
          "...; restore it, or ...",
          lambda p: edit(p.study.folds_file, "aachen_000000", "aachen_000009")),
    Fault("folds", "of a study, tampered with, the hash too", "run", OLD,
          "study old was begun otherwise (folds.json: not the one this study began with); give "
          "another --name, or take the change back", lambda p: tamper(p, hashed=True)),
    Fault("folds", "of a study that is analysed, tampered with, the hash too", "analyze", "old",
          "results/old/folds.json is not the one this study began with: got hash ..., expected "
          "..., as study.yaml says; restore it: scores by other folds are not this study's",
          lambda p: tamper(p, hashed=True)),
]  # fmt: skip

STUDIES: Final = [
    Fault("study", "another configuration", "run", f"{OLD} train.lr=1e-3",
          "study old was begun otherwise (train.lr: 0.0001 -> 0.001); give another --name, or take "
          "the change back"),
    Fault("study", "data that changed since", "run", OLD,
          "study old was begun otherwise (data: 12 frames -> 12, other names or sizes); ...",
          lambda p: grey(p.label())),
    Fault("study", "another data set", "run", OLD,
          "study old was begun otherwise (data: 12 frames -> 8, other names or sizes); ...",
          lambda p: city_alone(p, "aachen", "bochum")),
    Fault("study", "a record of another version", "run", OLD,
          "HERE/results/old/study.yaml: got schema_version 99, expected 1; it was written by "
          "another version of this program",
          lambda p: edit(p.study.record_file, "schema_version: 1", "schema_version: 99")),
    Fault("study", "a record cut short", "run", OLD,
          "HERE/results/old/study.yaml...", lambda p: cut(p.study.record_file, 300)),
    Fault("study", "a record that is empty", "analyze", "old",
          "results/old/study.yaml: got an empty file, expected a mapping of settings",
          lambda p: p.study.record_file.write_bytes(b"")),
    Fault("study", "results of another layout", "run", RUN,
          "HERE/results/new holds results in another layout: got f1/epochs.csv, expected "
          "v000/f1/epochs.csv and a study.yaml; they are of another program or version; give "
          "another --name", lambda p: p.write("results/new/f1/epochs.csv", "epoch\n1\n")),
    Fault("study", "a cell without its study", "run", OLD,
          "HERE/results/old holds results in another layout: got v000/f1/epochs.csv, ...",
          lambda p: p.study.record_file.unlink()),
    Fault("study", "a file in the place of the results", "run", f"{RUN} --results tiny.yaml",
          "cannot make HERE/tiny.yaml/new: got Not a directory"),
    Fault("study", "results that are read-only", "run", f"{RUN} --results /proc/nowhere",
          "cannot make /proc/nowhere/new: got No such file or directory"),
    Fault("study", "a full disk", "run", OLD,
          "cannot write HERE/results/old/study.yaml: No space left on device (...); mend that, and "
          "run the same command again", full_disk, code=1,
          gone=("results/old/.study.yaml.tmp",)),
    Fault("study", "a lock that is a folder", "run", OLD,
          "cannot write to HERE/results/old: got Is a directory; ...",
          lambda p: (p.study.lock_file.unlink(missing_ok=True), p.study.lock_file.mkdir())),
    Fault("study", "a cell of another training", "cityseg", f"{TRAIN} train.lr=1e-3",
          "cell holds a training by another configuration (train.lr: 0.0001 -> 0.001); give "
          "another folder",
          lambda p: (shutil.copytree(p.study.cell(0, 1).folder, p.here / "cell"),
                     shutil.copy(p.here / "tiny.yaml", p.here / "cell/config.yaml"),
                     p.write("cell/.lock", ""))),
]  # fmt: skip

PREDICT: Final = f"predict data/{IMAGE} --out out --weights"
WEIGHTS: Final = [
    Fault("weights", "none there", "cityseg", f"{PREDICT} no.safetensors",
          "cannot read weights from no.safetensors: got ...No such file or directory..."),
    Fault("weights", "cut short", "cityseg", f"{PREDICT} best.safetensors",
          "cannot read weights from best.safetensors: got ...",
          lambda p: cut(p.weights, 2000)),
    Fault("weights", "empty", "cityseg", f"{PREDICT} best.safetensors",
          "cannot read weights from best.safetensors: got ...", lambda p: cut(p.weights, 0)),
    Fault("weights", "a pickle in disguise", "cityseg", f"{PREDICT} bad.safetensors",
          "bad.safetensors: got a pickle (a .pt or .pth file), expected safetensors",
          lambda p: pickled(p, "bad.safetensors")),
    Fault("weights", "PyTorch's archive in disguise", "cityseg", f"{PREDICT} bad.safetensors",
          "bad.safetensors: got a pickle (a .pt or .pth file), expected safetensors",
          lambda p: torch.save({"a": torch.zeros(1)}, p.here / "bad.safetensors")),
    Fault("weights", "of another program", "cityseg", f"{PREDICT} bad.safetensors",
          "bad.safetensors: got safetensors without our metadata, expected a best.safetensors of "
          "ours", lambda p: foreign(p)),
    Fault("weights", "a tensor missing", "cityseg", f"{PREDICT} bad.safetensors",
          "bad.safetensors: 1 missing, 0 unknown tensors; lacks head.1.bias",
          lambda p: p.save_tensors("bad.safetensors", {"head.1.bias": None})),
    Fault("weights", "a tensor too many", "cityseg", f"{PREDICT} bad.safetensors",
          "bad.safetensors: 0 missing, 1 unknown tensors; has an unknown extra",
          lambda p: p.save_tensors("bad.safetensors", {"extra": torch.zeros(1)})),
    Fault("weights", "of other classes", "cityseg", f"{PREDICT} bad.safetensors",
          "bad.safetensors: shape of head.1.bias: got (20,), expected (19,)",
          lambda p: p.save_tensors("bad.safetensors", {"head.1.bias": torch.zeros(20)})),
    Fault("weights", "with a NaN", "cityseg", f"{PREDICT} bad.safetensors",
          "bad.safetensors: values of head.1.bias: got NaN or inf, expected numbers",
          lambda p: p.save_tensors("bad.safetensors", {"head.1.bias": torch.zeros(19) / 0})),
    Fault("weights", "a first encoder that is not there", "run", f"{RUN} model.weights=no.pth",
          "model.weights: no file HERE/no.pth: expected IMAGENET1K_V1, none, or the path of a "
          "file"),
    Fault("weights", "a cell's first encoder that is not there", "cityseg",
          f"{TRAIN} model.weights=no.pth", "model.weights: no file HERE/no.pth: ..."),
    Fault("weights", "a first encoder in the home of nobody", "run",
          f"{RUN} model.weights=~nobody-of-this-name/w.pth",
          "no such path ~nobody-of-this-name/w.pth: got Could not determine home directory."),
    Fault("weights", "a first encoder without its checksum", "run", f"{RUN} model.weights=w.pth",
          "model.weights: checksum of HERE/w.pth: got ..., expected model.weights_sha256 beside "
          "it; if it is the file you mean, set model.weights_sha256=...",
          lambda p: p.write("w.pth", "weights")),
    Fault("weights", "a first encoder of another name", "run", f"{RUN} model.weights=IMAGENET1K_V9",
          "model.weights for resnet18: got IMAGENET1K_V9, expected IMAGENET1K_V1, none or a file"),
]  # fmt: skip


def foreign(place: Place) -> None:
    import safetensors.torch

    safetensors.torch.save_file({"a": torch.zeros(1)}, place.here / "bad.safetensors")


SEGMENT: Final = "predict {} --out out --weights best.safetensors"
PICTURES: Final = [
    Fault("pictures", "none there", "cityseg", SEGMENT.format("no.png"),
          "no picture at no.png: expected a PNG or JPEG, or a folder of them"),
    Fault("pictures", "none at all", "cityseg", SEGMENT.format("bad.png"),
          "cannot decode bad.png: got ...", lambda p: p.write("bad.png", "no picture")),
    Fault("pictures", "a PostScript program", "cityseg",
          SEGMENT.format("bad.png"), "cannot decode bad.png: got ...",
          lambda p: p.write("bad.png", "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")),
    Fault("pictures", "one of 16 bits with alpha", "cityseg", SEGMENT.format("bad.png"),
          "bad.png: got 16 bits a channel, expected 8",
          lambda p: p.write("bad.png", png(8, 8, 16, 6))),
    Fault("pictures", "predictions that lack a frame", "cityseg",
          "evaluate --predictions out --data data",
          "...none for 2 frames (bonn_000000_000019, bonn_000001_000019)...",
          lambda p: (p.here / "out").mkdir()),
    Fault("pictures", "predictions of train ids with 255", "cityseg",
          "evaluate --predictions out --data data", "...: got value 255, expected label ids...",
          lambda p: predictions(p, 255)),
]  # fmt: skip


def predictions(place: Place, value: int) -> None:
    (place.here / "out").mkdir()
    for i in range(2):
        grey(place.here / f"out/bonn_{i:06}_000019_pred.png", value)


CATALOGUE: Final = [
    *DATA, *LABELS, *SETTINGS, *YAML, *COMMANDS, *FOLDS, *STUDIES, *WEIGHTS, *PICTURES
]  # fmt: skip
