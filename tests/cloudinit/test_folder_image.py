"""A folder as an ISO image, read back by the library that wrote it."""

from __future__ import annotations

import os
from pathlib import Path

import pycdlib
import pytest

from mvpnet.cloudinit.folder_image import pack_folder
from mvpnet.errors import ImageError


def content(image: Path, names: str) -> dict[str, bytes]:
    """The files of an image by their paths; `names` is rr or joliet."""
    iso = pycdlib.PyCdlib()
    iso.open(str(image))
    found = {}
    for folder, _, files in iso.walk(**{f"{names}_path": "/"}):
        for name in files:
            path = f"{folder.rstrip('/')}/{name}"
            with iso.open_file_from_iso(**{f"{names}_path": path}) as file:
                found[path] = file.read()
    iso.close()
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "seed"
    (made / "scripts/per boot").mkdir(parents=True)
    (made / "user-data").write_bytes(b"#cloud-config\n{}\n")
    (made / "meta-data").write_bytes(b"instance-id: i\n")
    (made / "scripts/Über.sh").write_bytes(bytes(5000))
    (made / "scripts/per boot/empty").touch()
    (made / "link").symlink_to("user-data")
    return made


EXPECTED = {
    "/user-data": b"#cloud-config\n{}\n",
    "/meta-data": b"instance-id: i\n",
    "/link": b"#cloud-config\n{}\n",
    "/scripts/Über.sh": bytes(5000),
    "/scripts/per boot/empty": b"",
}


@pytest.mark.parametrize("names", ["rr", "joliet"])
def test_all_files_are_there_by_their_names(folder: Path, tmp_path: Path, names: str) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "dangling").symlink_to("nothing")
    image = tmp_path / "seed.iso"
    pack_folder(folder, image, "cloud_init.path")
    assert content(image, names) == EXPECTED
    assert image.read_bytes()[16 * 2048 + 40 :][:6] == b"cidata", "the volume's name (ISO 9660, 8.4.7)"
    assert image.stat().st_mode & 0o777 == 0o600


def test_a_folder_that_is_too_deep_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "loop").symlink_to(".")
    with pytest.raises(ImageError, match=r"^cloud_init\.path: .* is deeper than 7 folders") as refused:
        pack_folder(folder, tmp_path / "seed.iso", "cloud_init.path")
    assert refused.value.hint and "genisoimage" in refused.value.hint
    assert not (tmp_path / "seed.iso").exists()


@pytest.mark.parametrize("length", [64, 65, 255])
def test_long_names_are_packed_or_refused(folder: Path, tmp_path: Path, length: int) -> None:
    (folder / ("n" * length)).write_bytes(b"x")
    image = tmp_path / "seed.iso"
    if length <= 64:
        pack_folder(folder, image, "k")
        assert content(image, "rr")["/" + "n" * length] == b"x"
    else:
        with pytest.raises(ImageError, match=r"^k: .* cannot be packed"):
            pack_folder(folder, image, "k")


def test_many_files(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(300):
        (folder / f"file-{number}.txt").write_text(str(number))
    pack_folder(folder, tmp_path / "seed.iso", "k")
    assert content(tmp_path / "seed.iso", "rr") == {f"/file-{n}.txt": str(n).encode() for n in range(300)}
