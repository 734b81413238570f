"""vm.firmware: the drives that come of it, and what is refused before a guest starts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mvpnet.errors import ConfigError, HostError, ImageError, MvpnetError
from mvpnet.guest.drive_files import prepare_drives, remove_leftovers
from mvpnet.guest.drives import DrivePlan, firmware_warnings, plan_drives, plan_flash, with_seed
from mvpnet.records.inputs import rank_inputs
from mvpnet.snapshot.machine import machine_of, saved_disks, why_not
from mvpnet.spec.model import JobSpec, Override, RankSpec
from mvpnet.spec.rank_set import RankSet
from mvpnet.spec.schema import Config, Image, ImageKind, ImageUse, Job, Qemu, Vm

CODE_BYTES, VARIABLES_BYTES, VIRT_BYTES = 3653632, 540672, 64 * 2**20  # of OVMF_CODE_4M.fd and OVMF_VARS_4M.fd
FIRMWARE = {
    "x86_64": ("OVMF/OVMF_CODE_4M.fd", CODE_BYTES, "OVMF/OVMF_VARS_4M.fd", VARIABLES_BYTES),
    "aarch64": ("AAVMF/AAVMF_CODE.fd", VIRT_BYTES, "AAVMF/AAVMF_VARS.fd", VIRT_BYTES),
}
MACHINES = {
    "x86_64": "pc-i440fx-9.1  Standard PC (default)\\nq35  Standard PC (alias of pc-q35-9.1)",
    "aarch64": "virt  ARM Virtual Machine (alias of virt-9.1)\\nraspi3b  Raspberry Pi 3B",
}


class Host:
    """A qemu in a prefix of its own, which may have firmware in its share folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.share = root, root / "share"
        for arch, machines in MACHINES.items():
            qemu = self.file(root / "bin" / f"qemu-system-{arch}")
            qemu.write_text(f'#!/bin/sh\ncase "$*" in "-machine help") printf "{machines}\\n";; esac\n')
            qemu.chmod(0o755)

    @staticmethod
    def file(path: Path, size_bytes: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(size_bytes)
        return path

    def install(self, arch: str) -> tuple[Path, Path]:
        code, code_bytes, variables, variables_bytes = FIRMWARE[arch]
        return self.file(self.share / code, code_bytes), self.file(self.share / variables, variables_bytes)

    def spec(self, arch: str = "x86_64", rank: int = 0, **sections: Any) -> RankSpec:
        qemu = Qemu(binary=str(self.root / "bin" / f"qemu-system-{arch}"), extra_args=sections.pop("extra_args", []))
        image = sections.pop("image", Image(kind=ImageKind.file, path=str(self.root / "disk.raw")))
        config = Config(job=Job(name="j"), image=image, qemu=qemu, **sections)
        return JobSpec(4, self.root / "run", config).for_rank(rank)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    made = Host(tmp_path / "opt")
    made.file(made.root / "disk.raw", 2**20)
    # The firmware of the machine that the tests run on is hidden: its descriptors' names are taken.
    for path in Path("/usr/share/qemu/firmware").glob("*.json"):
        made.file(tmp_path / "config/qemu/firmware" / path.name)
    return made


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize(("arch", "machine"), [("x86_64", None), ("x86_64", "q35,smm=on"), ("aarch64", None)])
def test_each_rank_has_its_own_variables(host: Host, scratch: Path, arch: str, machine: str | None, rank: int) -> None:
    code, variables = host.install(arch)
    spec = host.spec(arch, rank, vm=Vm(firmware="auto", machine=machine))
    disk, *flash = plan_drives(spec, scratch)
    own = scratch / f"firmware-variables-{rank}.fd"
    assert disk.key == "image.path"
    assert [drive.option for drive in flash] == [
        f"file={code},format=raw,if=pflash,unit=0,read-only=on",
        f"file={own},format=raw,if=pflash,unit=1",
    ]
    prepare_drives(flash, pytest.fail)
    assert own.stat().st_size == variables.stat().st_size
    own.write_bytes(b"written by the guest")
    assert variables.read_bytes() == bytes(variables.stat().st_size), "the template stays as it is"
    remove_leftovers(flash, pytest.fail)
    assert list(scratch.iterdir()) == [] and code.exists() and variables.exists()


def test_a_guest_without_it_has_none(host: Host, scratch: Path) -> None:
    host.install("x86_64")
    assert plan_flash(host.spec(), scratch) == ()


@pytest.mark.parametrize(
    ("arch", "machine", "package"), [("x86_64", "microvm", "edk2-ovmf"), ("aarch64", "raspi3b", "qemu-efi-aarch64")]
)
def test_a_machine_that_has_none(host: Host, scratch: Path, arch: str, machine: str, package: str) -> None:
    host.install(arch)
    message = rf"^vm\.firmware: there is no UEFI firmware for {arch}, machine {machine}, on this host"
    with pytest.raises(HostError, match=message) as refused:
        plan_flash(host.spec(arch, vm=Vm(firmware="auto", machine=machine)), scratch)
    assert refused.value.hint and package in refused.value.hint


@pytest.mark.parametrize(
    ("sections", "has"),
    [
        ({}, True),
        ({"vm": Vm(machine="virt,gic-version=3")}, True),
        ({"vm": Vm(machine="raspi3b")}, False),
        ({"extra_args": ["-M", "raspi3b"]}, False),
        ({"extra_args": ["-bios", "/b"]}, False),
        ({"extra_args": ["-kernel", "/k"]}, False),
        ({"image": Image(kind=ImageKind.file, kernel="/k")}, False),
        ({"image": Image(kind=ImageKind.file, drives=["file=/x,if=pflash", "file=/d"])}, False),
    ],
)
def test_a_disk_on_arm_has_firmware_unasked(host: Host, scratch: Path, sections: dict[str, Any], has: bool) -> None:
    host.install("aarch64")
    assert bool(plan_flash(host.spec("aarch64", **sections), scratch)) is has


@pytest.mark.parametrize(
    ("sections", "place"),
    [
        ({"image": Image(kind=ImageKind.file, drives=["/d", "file=/x,if=pflash"])}, r"image\.drives\[1\]"),
        ({"image": Image(kind=ImageKind.file, drives=["/x,if=pflash,mvpctl="])}, r"image\.drives\[0\]"),
        ({"extra_args": ["-bios", "/b"]}, r"qemu\.extra_args \(-bios\)"),
        ({"extra_args": ["--pflash", "/b"]}, r"qemu\.extra_args \(--pflash\)"),
    ],
)
def test_firmware_twice_is_refused(host: Host, scratch: Path, sections: dict[str, Any], place: str) -> None:
    host.install("x86_64")
    with pytest.raises(ConfigError, match=rf"^vm\.firmware: {place}"):
        plan_flash(host.spec(vm=Vm(firmware="auto"), **sections), scratch)


def named(host: Host, code: Path, scratch: Path, arch: str = "x86_64", machine: str | None = None) -> list[DrivePlan]:
    return [*plan_flash(host.spec(arch, vm=Vm(firmware=str(code), machine=machine)), scratch)]


def test_a_file_and_the_variables_beside_it(host: Host, scratch: Path) -> None:
    code, variables = host.file(host.root / "OVMF_CODE_4M.fd", CODE_BYTES), host.root / "OVMF_VARS_4M.fd"
    [alone] = drives = named(host, code, scratch)
    assert alone.source == code
    [warning] = firmware_warnings(drives)
    assert str(code) in warning and "is lost when qemu ends" in warning
    host.file(variables, VARIABLES_BYTES)
    drives = named(host, code, scratch)
    assert [drive.source for drive in drives] == [code, variables]
    assert firmware_warnings(drives) == []


@pytest.mark.parametrize(
    ("arch", "code_bytes", "variables_bytes", "message"),
    [
        ("x86_64", 0, VARIABLES_BYTES, "has 0 bytes, and flash whole pages of 4096"),
        ("x86_64", 5000, VARIABLES_BYTES, "has 5000 bytes, and flash whole pages of 4096"),
        ("x86_64", CODE_BYTES, 1000, "OVMF_VARS.fd has 1000 bytes"),
        ("x86_64", 9 * 2**20, VARIABLES_BYTES, "a PC takes 8388608 for code and variables together"),
        ("x86_64", CODE_BYTES, 131072, "are not of one build"),
        ("aarch64", 2 * 2**20, VIRT_BYTES, "has 2097152 bytes, and flash of virt-9.1 64 MiB"),
        ("aarch64", VIRT_BYTES, 768 * 2**10, "has 786432 bytes, and flash of virt-9.1 64 MiB"),
    ],
)
def test_sizes_that_are_no_flash(
    host: Host, scratch: Path, arch: str, code_bytes: int, variables_bytes: int, message: str
) -> None:
    code = host.file(host.root / "OVMF_CODE.fd", code_bytes)
    host.file(host.root / "OVMF_VARS.fd", variables_bytes)
    with pytest.raises(ImageError, match=r"^vm\.firmware: ") as refused:
        named(host, code, scratch, arch)
    assert message in refused.value.message and refused.value.hint
    assert refused.value.exit_code == 4


@pytest.mark.parametrize("name", ["nothing.fd", "", "folder"])
def test_what_is_no_file(host: Host, scratch: Path, name: str) -> None:
    (host.root / "folder").mkdir()
    with pytest.raises(MvpnetError, match=r"^vm\.firmware: "):
        named(host, host.root / name, scratch)


def test_a_file_that_is_described_for_other_machines(host: Host, scratch: Path, tmp_path: Path) -> None:
    code = host.file(host.root / "SECURE_CODE.fd", CODE_BYTES)
    content = {
        "interface-types": ["uefi"],
        "mapping": {"device": "flash", "mode": "stateless", "executable": {"filename": str(code), "format": "raw"}},
        "targets": [{"architecture": "x86_64", "machines": ["pc-q35-*"]}],
        "features": ["secure-boot", "requires-smm"],
    }
    host.file(tmp_path / "config/qemu/firmware/10-secure.json").write_text(json.dumps(content))
    with pytest.raises(ImageError, match=r"is for x86_64 pc-q35-\*, and the guest is x86_64 pc-i440fx-9\.1"):
        named(host, code, scratch)
    assert [drive.source for drive in named(host, code, scratch, machine="q35")] == [code]


def test_ranks_may_have_their_own(host: Host, scratch: Path) -> None:
    host.install("x86_64")
    config = Config(job=Job(name="j"), qemu=host.spec().qemu, image=host.spec().image)
    override = Override("uefi", RankSet.parse("1"), {"vm": {"firmware": "auto"}})
    job = JobSpec(2, host.root / "run", config, (override,))
    assert [len(plan_flash(job.for_rank(rank), scratch)) for rank in range(2)] == [0, 2]


def test_records_and_saves_know_of_it(host: Host, scratch: Path) -> None:
    code, variables = host.install("x86_64")
    spec = host.spec(vm=Vm(firmware="auto"))
    drives = with_seed(plan_drives(spec, scratch), None)
    inputs = {one.key: one.path for one in rank_inputs(spec, drives, None, None)}
    assert inputs["vm.firmware"] == str(code) and inputs["vm.firmware.variables"] == str(variables)
    assert [drives[number].key for number in saved_disks(drives)] == ["image.path", "vm.firmware.variables"]
    assert why_not(drives, [], []) is None
    seen = machine_of([word for drive in drives for word in ("-drive", drive.option)])
    assert seen[1:] == ["-drive if=pflash,unit=0,read-only=on", "-drive if=pflash,unit=1"]


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
def test_variables_are_a_copy_whatever_the_disk_is(host: Host, scratch: Path) -> None:
    host.install("x86_64")
    for use in ImageUse:
        image = Image(kind=ImageKind.file, path=str(host.root / "disk.raw"), use=use)
        *_, variables = plan_drives(host.spec(vm=Vm(firmware="auto"), image=image), scratch)
        assert (variables.use, variables.writes) == (ImageUse.copy, True)
