"""Prepare an image (image.prepare): boot one guest from its source, run cloud-init, generalize the disk, and store it.

The same declaration from the same source is prepared once. The guest is a job of its own, run as a program, so that
everything about images, seeds, waiting and stopping applies to it too.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mvpnet.errors import ImageError
from mvpnet.images import debian, sysprep
from mvpnet.images.store.fetch import ensure, find
from mvpnet.images.store.inspection import inspect_disk
from mvpnet.images.store.prepared import source_of
from mvpnet.images.store.request import ImageRequest, check_architecture, declaration, parse_request
from mvpnet.images.store.sources import SourceRecord
from mvpnet.images.store.store import StoredImage
from mvpnet.paths import RunFolder, cache_base
from mvpnet.qemu.img import QemuImg, QemuImgError
from mvpnet.runtime.helper_python import helper_argv
from mvpnet.runtime.signals import die_with_parent
from mvpnet.spec.escape import resolved_already
from mvpnet.spec.plain import plain
from mvpnet.spec.schema import App, CloudInit, Config, ImageUse, Prepare, SeedMode, Shutdown, WaitFor
from mvpnet.util.files import file_digest
from mvpnet.util.text import Say, size_text, timestamp
from mvpnet.util.yaml_text import Quoted, yaml_text

_SCRIPT_IN_GUEST = "/root/mvpnet-prepare"
_RECIPE = "mvpnet-prepare"
_STDERR_FD = 2
_SECTIONS = ("job", "image", "vm", "qemu", "net", "cloud_init", "logging", "boot", "shutdown", "app")


def prepare(config: Config, say: Say, *, refresh: bool = False) -> StoredImage:
    """Return the prepared image that `config.image` declares, after preparing it if it is not in the store.

    Args:
        config: The configuration.
        say: Called with a line of text at each step.
        refresh: Fetch the source again, and prepare the image anew.

    Raises:
        ConfigError: The declaration is invalid.
        HostError: The host cannot prepare it.
        ImageError: The guest failed; the store is unchanged then.
    """
    image = config.image
    check_architecture(image, config.qemu.binary)
    want = parse_request(image)
    assert want and want.is_prepared
    base = _base(config, say, refresh=refresh)
    want = dataclasses.replace(want, sha256=None)  # the digest is compared with that of the prepared image
    with want.store.transfers.locked(want.address, want.name, say):
        had = find(want)
        if had and not refresh and (had.made_from or {}).get("base") == base:
            say(f"{want.name} is here already: sha256 {had.sha256}")
            return had
        with want.store.transfers.staging(want.address) as staging:
            work = staging / "work"
            work.mkdir()
            run_dir = _boot_once(preparing(config, work), say)
            made = want.store.publish(
                staging, _sealed(want, work, config.qemu.binary) | {"made_from": _record(config, base, run_dir)}
            )
        want.store.source_records.remember(SourceRecord(want.address, made.sha256, timestamp()))
    say(f"{want.name}: sha256 {made.sha256}, {size_text(made.size_bytes)}")
    return made


def _base(config: Config, say: Say, *, refresh: bool) -> str:
    """Return what identifies the source's bytes: their digest, or that of the build."""
    source = parse_request(source_of(config.image))
    if source:
        return ensure(source, say, refresh=refresh).sha256
    cache = cache_base(config.image.cache_dir) / "debian"
    return debian.ensure(cache, config.image.packages, say).digest


def preparing(config: Config, work: Path) -> Config:
    """Return the configuration of the job that prepares one guest, whose disk is a copy of the source in `work`.

    Its only user is root, with the job's key. Of the requesting job's settings only the proxy is used. This function is
    pure.
    """
    asked = config.image.prepare
    script = [f"chmod 700 {_SCRIPT_IN_GUEST} && {_SCRIPT_IN_GUEST}"] if asked.script else []
    runcmd = [*asked.runcmd, *script]
    cloud_init = CloudInit(
        seed=SeedMode.make,
        validate=config.cloud_init.validate,
        user_keys=False,
        hosts=False,
        packages=asked.packages,
        files={_SCRIPT_IN_GUEST: asked.script} if asked.script else {},
        runcmd=["set -e", *runcmd] if runcmd else [],  # cloud-init joins them into one script
        proxy=config.cloud_init.proxy,
        no_proxy=config.cloud_init.no_proxy,
        # root is listed unchanged: without users cloud-init would create the distribution's own
        user_data={"users": [{"name": "root", "lock_passwd": False}], **asked.user_data},
    )
    image = dataclasses.replace(
        config.image,
        prepare=Prepare(),
        size=asked.size,
        use=ImageUse.copy,
        copy_dir=str(work),
        keep_copies=True,
        drives=[],
        user="root",
    )
    seal_command = [
        sys.executable,
        "-P",
        str(Path(sysprep.__file__)),
        *(["--proxy"] if config.cloud_init.proxy else []),
    ]
    return dataclasses.replace(
        config,
        job=dataclasses.replace(config.job, ranks=None),
        image=image,
        cloud_init=cloud_init,
        boot=dataclasses.replace(config.boot, wait_for=WaitFor.cloud_init, timeout_s=asked.timeout_s),
        app=App(command=seal_command),
        shutdown=Shutdown(),  # the guest does not depend on standard input, for example
        ranks={},
    )


def _boot_once(config: Config, say: Say) -> Path:
    """Run the job and return its run folder.

    Raises:
        ImageError: The guest did not power itself off, as it was asked to.
    """
    run_dir = Path.cwd() / "runs" / f"prepare-{time.strftime('%Y-%m-%dT%H-%M-%S')}-{config.job.name}"
    say(f"preparing in one guest: {run_dir}")
    with tempfile.TemporaryDirectory(prefix="mvpnet-prepare-") as folder:
        write_recipe(config, Path(folder))
        command = helper_argv("mvpnet", "--config-dir", folder, f"recipe={_RECIPE}")
        command += [f"hydra.run.dir='{run_dir}'"]
        code = _run_job(command)
    if code:
        raise ImageError(
            f"image.prepare: the guest that was to be prepared failed, with exit code {code}",
            hint=f"its console and mvpnet's log are in {run_dir}",
        )
    [guest] = json.loads(RunFolder(run_dir).job_json.read_text())["guests"]
    if guest["how"] != "powered_off":
        raise ImageError(
            f"image.prepare: the guest did not power itself off, and its disk may not be whole: {guest['reason']}",
            hint=f"see {run_dir}",
        )
    return run_dir


def _run_job(command: list[str]) -> int:
    """Run a job that ends with this process, and return its exit code.

    Standard output is for results alone, so the job's goes to standard error.
    """
    job = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=_STDERR_FD, preexec_fn=lambda: die_with_parent(signal.SIGTERM)
    )
    try:
        return job.wait()
    except KeyboardInterrupt:  # the terminal sent it to the job too, which has a guest to stop
        job.wait()
        raise


def write_recipe(config: Config, folder: Path) -> None:
    """Write the job as a recipe into a config folder, such that it composes to `config` again."""
    recipe = folder / "recipe" / f"{_RECIPE}.yaml"
    recipe.parent.mkdir(parents=True)
    sections = {key: plain(getattr(config, key)) for key in _SECTIONS}
    recipe.write_text("# @package _global_\n" + yaml_text(_quoted(resolved_already(sections))))


def _quoted(value: Any) -> Any:
    """Return the value with all text in quotes.

    OmegaConf reads some text as numbers that YAML's writer leaves unquoted.
    """
    if isinstance(value, str):
        return Quoted(value)
    if isinstance(value, dict):
        return {key: _quoted(item) for key, item in value.items()}
    return [_quoted(item) for item in value] if isinstance(value, list) else value


def _record(config: Config, base: str, run_dir: Path) -> dict[str, Any]:
    """Return what the image was made from, without anything of a proxy."""
    _, what = declaration(config.image)
    return {**what, "base": base, "run_folder": str(run_dir)}


def _sealed(want: ImageRequest, work: Path, qemu_binary: str) -> dict[str, Any]:
    """Pack the guest's disk, the only file in `work`, into `disk` beside it; return the content of image.json.

    Raises:
        ImageError: The disk cannot be packed.
    """
    disk = work.with_name("disk")
    [used] = work.iterdir()
    qemu_img = QemuImg(qemu_binary)
    try:
        qemu_img.convert(used, disk)
    except QemuImgError as error:
        raise ImageError(f"image.prepare: the disk could not be packed: {error.message}") from error
    used.unlink()
    work.rmdir()
    facts = inspect_disk(disk, "qcow2", want.root, want.name, qemu_img)
    digest = file_digest(disk, "sha256")
    return {
        "sha256": digest,
        "size_bytes": disk.stat().st_size,
        "format": facts.format,
        "virtual_bytes": facts.virtual_bytes,
        "disk_sha256": digest,
        "disk_bytes": disk.stat().st_size,
        "compression": "none",
        "source": want.address,
        "fetched_at": timestamp(),
        "checked_by": "made here",
        "backing": None,
    }
