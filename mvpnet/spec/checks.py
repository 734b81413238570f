"""Refuse values that cannot work on any host, naming their key."""

from __future__ import annotations

import math
import re
from dataclasses import fields, is_dataclass
from urllib.parse import urlsplit

from mvpnet.errors import ConfigError
from mvpnet.spec.cloud_init_checks import check_cloud_init
from mvpnet.spec.log_parts import OLD_PARTS, PARTS
from mvpnet.spec.model import JobSpec
from mvpnet.spec.near import near
from mvpnet.spec.plain import changed
from mvpnet.spec.rank_set import MAX_WORLD_SIZE
from mvpnet.spec.schema import Config, ImageKind, WaitFor
from mvpnet.spec.sizes import parse_size
from mvpnet.spec.urls import is_url, masked
from mvpnet.spec.user_names import check_user_name
from mvpnet.spec.user_network import parse_user_network

LOG_LEVELS = ("TRACE", "DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR", "CRITICAL")
_JOB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def check_job(spec: JobSpec) -> None:
    """Refuse a job that cannot work on any host.

    Raises:
        ConfigError: Names the key.
    """
    if not 1 <= spec.world_size <= MAX_WORLD_SIZE:
        raise ConfigError(f"a world of {spec.world_size} ranks does not fit: at most {MAX_WORLD_SIZE} have addresses")
    if not _JOB_NAME.fullmatch(spec.name):
        raise ConfigError(
            f"job.name: {spec.name!r} cannot be used in file names",
            hint="letters, digits, dot, dash and underscore, at most 63, a letter or digit first",
        )
    _at_least("sweep.repeat", spec.config.sweep.repeat, 1)
    _check_sections("", spec.config)
    for override in spec.overrides:
        _check_sections(f"ranks.{override.name}.", changed(spec.config, override.changes))


def _check_sections(prefix: str, config: Config) -> None:
    for check in (
        _check_numbers,
        _check_kernel,
        _check_vm,
        _check_waits,
        _check_net,
        _check_urls,
        _check_proxy,
        _check_levels,
        _check_users,
        check_cloud_init,
    ):
        check(prefix, config)


def _check_numbers(prefix: str, config: Config) -> None:
    """Refuse numbers that are none, or have no end: nothing that waits for so long, or counts so far, would stop."""
    for section in fields(config):
        values = getattr(config, section.name)
        for key, value in vars(values).items() if is_dataclass(values) else ():
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"{prefix}{section.name}.{key}: {value} is no number to wait or count by")
            for name, step in value.items() if (section.name, key) == ("app", "steps") else ():
                for limit, seconds in step.items():
                    if isinstance(seconds, float) and not math.isfinite(seconds):
                        raise ConfigError(f"app.steps.{name}.{limit}: {seconds} is no number to wait or count by")


def _check_kernel(prefix: str, config: Config) -> None:
    """Refuse a kernel of the user's where it would not be booted, and what goes with a kernel without one."""
    image = config.image
    for key in ("kernel", "initrd"):
        if getattr(image, key) and image.kind in (ImageKind.tiny, ImageKind.debian):
            raise ConfigError(
                f"{prefix}image.{key}: the {image.kind.name} guest boots a kernel of its own",
                hint=f"image=file image.path=DISK image.kernel=FILE{' image.initrd=FILE' if key == 'initrd' else ''}",
            )
    has_kernel = image.kernel or any(word.lstrip("-") == "kernel" for word in config.qemu.extra_args)
    for key in ("initrd", "kernel_args"):
        if getattr(image, key) and image.kind in (ImageKind.file, ImageKind.cloud) and not has_kernel:
            raise ConfigError(f"{prefix}image.{key}: has no effect without image.kernel", hint="image.kernel=FILE")


def _check_vm(prefix: str, config: Config) -> None:
    if parse_size(config.vm.memory, f"{prefix}vm.memory", bare="M") < 2**20:
        raise ConfigError(f"{prefix}vm.memory: {config.vm.memory!r} is less than 1M")
    parse_size(config.logging.recent, f"{prefix}logging.recent")
    _at_least(f"{prefix}vm.cpus", config.vm.cpus, 1)
    _at_least(f"{prefix}vm.restart", config.vm.restart, 0)


def _check_waits(prefix: str, config: Config) -> None:
    _at_least(f"{prefix}boot.timeout_s", config.boot.timeout_s, 1)
    _at_least(f"{prefix}qemu.answer_timeout_s", config.qemu.answer_timeout_s, 0.1)
    _at_least(f"{prefix}shutdown.powerdown_s", config.shutdown.powerdown_s, 0)
    _at_least(f"{prefix}shutdown.term_s", config.shutdown.term_s, 0)
    _at_least(f"{prefix}logging.digest_timeout_s", config.logging.digest_timeout_s, 0)
    if config.boot.wait_for is WaitFor.cloud_init and config.image.kind is ImageKind.tiny:
        raise ConfigError(
            f"{prefix}boot.wait_for: there is no cloud-init in the tiny guest",
            hint="boot.wait_for=ssh, or a cloud image such as image=debian12-built",
        )


def _check_net(prefix: str, config: Config) -> None:
    net = config.net
    if not 68 <= net.mtu <= 65521:  # RFC 791's minimum; the most that qemu's stream netdev carried in tests
        raise ConfigError(f"{prefix}net.mtu: {net.mtu} is not between 68 and 65521 bytes")
    parse_user_network(net.user_network, f"{prefix}net.user_network")
    # A read from a datagram link needs room for two of the longest frames (dataplane.frame.MAX_FRAME_BYTES).
    _at_least(f"{prefix}net.chunk_bytes", net.chunk_bytes, 140_000)
    _at_least(f"{prefix}net.credits", net.credits, 1)
    for key in ("peer_queue_bytes", "queue_bytes", "guest_queue_bytes", "drop_timeout_ms", "max_sleep_ms"):
        _at_least(f"{prefix}net.{key}", getattr(net, key), 1)
    for key in ("busy_poll_us", "coalesce_us"):  # 0: never
        _at_least(f"{prefix}net.{key}", getattr(net, key), 0)
    if net.sample_interval_s:  # 0: never
        _at_least(f"{prefix}net.sample_interval_s", net.sample_interval_s, 0.01)
    if not 1 <= net.ssh_port <= 65535:
        raise ConfigError(f"{prefix}net.ssh_port: {net.ssh_port} is no TCP port")


def _check_urls(prefix: str, config: Config) -> None:
    given = {"image.source": config.image.source, "image.checksums": config.image.checksums}
    for key, value in {**given, "cloud_init.proxy": config.cloud_init.proxy}.items():
        if value and "://" in value and not is_url(value):
            raise ConfigError(f"{prefix}{key}: {masked(value)} is no URL", hint="as in https://host:port/path")


def _check_proxy(prefix: str, config: Config) -> None:
    if config.cloud_init.proxy and urlsplit(config.cloud_init.proxy).password is not None:
        raise ConfigError(
            f"{prefix}cloud_init.proxy: has a password, which the run folder would tell",
            hint="set http_proxy and https_proxy in mpirun's environment, and cloud_init.proxy=env; "
            "what Hydra wrote into .hydra in the run folder has the password in it already",
        )


def _check_users(prefix: str, config: Config) -> None:
    if config.image.user is not None:
        check_user_name(config.image.user, f"{prefix}image.user")


def _check_levels(prefix: str, config: Config) -> None:
    for part in config.logging.levels:
        if part not in PARTS and part not in OLD_PARTS:
            raise ConfigError(
                f"{prefix}logging.levels.{part}: there is no part {part!r}{near(part, PARTS)}",
                hint=f"parts are {', '.join(PARTS)}",
            )
    for key, level in [
        ("level", config.logging.level),
        ("stderr_level", config.logging.stderr_level),
        *((f"levels.{part}", level) for part, level in config.logging.levels.items()),
    ]:
        if level not in LOG_LEVELS:
            raise ConfigError(f"{prefix}logging.{key}: {level!r} is no level", hint=f"one of {', '.join(LOG_LEVELS)}")


def _at_least(key: str, value: float, least: float) -> None:
    if value < least:
        raise ConfigError(f"{key}: {value:g} is less than {least:g}")
