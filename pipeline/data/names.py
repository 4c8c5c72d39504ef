"""Names of files, classes and groups: which are data, which cannot be, and which are meant to be the same."""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath

VIDEO_SUFFIXES = (
    ".3g2", ".3gp", ".asf", ".avi", ".dav", ".divx", ".f4v", ".flv", ".m2t", ".m2ts", ".m4v", ".mkv", ".mod", ".mov",
    ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".qt", ".tod", ".ts", ".vob", ".webm", ".wmv",
)  # fmt: skip
# Videos in what pipeline/videos/reader.py does not open; pipeline/videos/containers.py tells what to do with them
UNREAD_SUFFIXES = (
    ".264", ".265", ".dv", ".gif", ".h264", ".h265", ".hevc", ".ivf", ".m1v", ".m2v", ".mjpeg", ".mjpg", ".nut", ".rm",
    ".rmvb", ".wtv", ".y4m",
)  # fmt: skip
IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png")
# What systems leave in folders: Windows, Synology, macOS, ext4. Names with a dot first are hidden on every other system
LITTER = frozenset(
    {"thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information", "@eadir", "#recycle",
     "__macosx", "icon\r", "lost+found"}
)  # fmt: skip
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
    **dict.fromkeys(("unlabelled", "unlabeled"), "unlabelled"),
}  # not eval, which is val to some and test to others
MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 4000  # of file systems; the root takes some of a path's 4,096


def is_litter(name: str) -> bool:
    """Whether a file or folder is not data, whatever it holds: hidden, or left there by a system (`._x.mp4`)."""
    return name.startswith(".") or name.lower() in LITTER


def is_video(name: str) -> bool:
    """Whether a file that no list names is a video, by its name."""
    return name.lower().endswith(VIDEO_SUFFIXES) and not is_litter(name)


def is_image(name: str) -> bool:
    """Whether a file may be a frame, by its name."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not is_litter(name)


def split_named(text: str) -> str | None:
    """The split that a folder or a field names in a usual spelling (Train, valid, test_set), or None."""
    match = re.fullmatch(r"([a-z]+?)[ _-]?(set|split|data|videos|clips)?", text.lower())
    return None if match is None else SPLIT_WORDS.get(match[1])


def without_suffix(path: str) -> str:
    """A path less the suffix of a video file; folders of frames keep their dots."""
    lowered = path.lower()
    suffix = next((suffix for suffix in VIDEO_SUFFIXES if lowered.endswith(suffix)), "")
    return path[: len(path) - len(suffix)]


def name_stem(path: str) -> str:
    """The source's part of a clip's file name: yt-LMhhb of yt-LMhhb_393.mp4, Q2Ea0 of Q2Ea0_000057_000067.mp4."""
    stem = without_suffix(PurePosixPath(path).name)
    return re.sub(r"(_[0-9]{6}_[0-9]{6}|_[0-9]+)$", "", stem) or stem


def same_form(text: str) -> str:
    """A text in Unicode's normal form C: macOS writes ä as two characters, other systems and keyboards as one."""
    return unicodedata.normalize("NFC", text)


def look(text: str, *, case: bool = True) -> str:
    """A text as a reader sees it: what looks the same is the same. case: whether a and A look the same as well."""
    seen = same_form(text)
    if not seen.isascii():  # Cf: zero-width characters, soft hyphens, marks of direction
        seen = "".join(char for char in seen if unicodedata.category(char) != "Cf")
    seen = " ".join(seen.split())  # on any blank
    return same_form(seen.casefold()) if case else seen


def spelt(text: str) -> str:
    """A text with escapes for what cannot be seen, or is seen as a part of another character."""
    return "".join(
        char if char == " " or unicodedata.category(char)[0] not in "MZC" else ascii(char)[1:-1] for char in text
    )


def path_problem(path: str) -> str | None:
    """Why a listed path cannot be one below the root, or None."""
    parts = PurePosixPath(path).parts
    if not parts:
        return "the path is empty"
    if "\\" in path:
        return f"{path!r} has backslashes; paths are written with /"
    if path.startswith("/") or re.match(r"[A-Za-z]:", path):
        return f"{path!r} is not below the root: paths are relative to it"
    if ".." in parts:
        return f"{path!r} has '..', which may lead out of the root"
    longest = max(len(part.encode("utf-8", "surrogatepass")) for part in parts)
    if longest > MAX_NAME_BYTES or len(path.encode("utf-8", "surrogatepass")) > MAX_PATH_BYTES:
        return f"{path!r} is longer than the names of files can be"
    return text_problem(path)


def text_problem(text: str) -> str | None:
    """Why a text cannot name a video, a class or a group, or None: line ends and control characters, and surrogates,
    which stand for bytes that are not UTF-8."""
    wrong = next((char for char in text if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")), None)
    return None if wrong is None else f"{text!r} has {wrong!r}: names have no control characters and are UTF-8"
