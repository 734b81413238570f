"""Model the resolved intent of a job and of one rank: frozen, plain, without I/O.

`JobSpec` is resolved on rank 0; `JobSpec.for_rank` returns the `RankSpec` with the rank overrides merged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvpnet.spec.log_parts import OLD_PARTS, PARTS
from mvpnet.spec.plain import changed, digest_of, plain
from mvpnet.spec.rank_set import RankSet
from mvpnet.spec.schema import Boot, CloudInit, Config, Image, ImageKind, Logging, Net, Qemu, SeedMode, Shutdown, Vm


@dataclass(frozen=True)
class Override:
    """A named rank override: its changes, and its ranks. `changes` holds only the given keys."""

    name: str
    on: RankSet
    changes: Mapping[str, Any]  # section → key → typed value


@dataclass(frozen=True)
class RankSpec:
    """The complete configuration of one rank."""

    rank: int
    world_size: int
    job_name: str
    run_dir: Path
    scratch_dir: str | None
    image: Image
    vm: Vm
    qemu: Qemu
    net: Net
    cloud_init: CloudInit
    logging: Logging
    boot: Boot
    shutdown: Shutdown

    @property
    def makes_seed(self) -> bool:
        """Return whether mvpnet creates a cloud-init seed for this guest. A ready one, cloud_init.path, replaces it."""
        asked = self.cloud_init.seed
        by_image = self.image.kind in (ImageKind.cloud, ImageKind.debian)
        return self.cloud_init.path is None and (asked is SeedMode.make or (asked is SeedMode.auto and by_image))

    @property
    def takes_user_keys(self) -> bool:
        """Return whether the guest lets in whom the starting user's own files let in."""
        return self.makes_seed and self.cloud_init.user_keys

    @property
    def lets_job_key_in(self) -> bool:
        """Return whether mvpnet gives this guest the job's public key: by the seed, or by the tiny guest's own way."""
        return self.makes_seed or self.image.kind is ImageKind.tiny


@dataclass(frozen=True)
class JobSpec:
    """The complete configuration of a job, resolved on rank 0 and the same on every rank."""

    world_size: int
    run_dir: Path
    config: Config
    overrides: tuple[Override, ...] = ()
    typed: tuple[str, ...] = ()  # the command line's overrides, as typed
    recipe: Path | None = None  # file of the requested recipe
    repeat: int = 1  # number of the sweep's repeat of this spec

    @property
    def name(self) -> str:
        return self.config.job.name

    def for_rank(self, rank: int) -> RankSpec:
        config = self.config
        for override in self.overrides:
            if override.on.holds(rank, self.world_size):
                config = changed(config, override.changes)
        return RankSpec(
            rank=rank,
            world_size=self.world_size,
            job_name=self.name,
            run_dir=self.run_dir,
            scratch_dir=config.job.scratch_dir,
            image=config.image,
            vm=config.vm,
            qemu=config.qemu,
            net=config.net,
            cloud_init=config.cloud_init,
            logging=config.logging,
            boot=config.boot,
            shutdown=config.shutdown,
        )

    def warnings(self) -> list[str]:
        """Return warnings about settings that have no effect, or are too low."""
        found = [
            f"ranks.{o.name}.on: no rank of this world of {self.world_size} is in {o.on.text!r}; nothing is overridden"
            for o in self.overrides
            if o.on.is_empty_in(self.world_size)
        ]
        found += [
            f"{place}logging.levels.{part}: is called {', '.join(OLD_PARTS[part])} now"
            for place, levels in self._log_levels()
            for part in levels
            if part in OLD_PARTS and part not in PARTS
        ]
        seed_keys = ", ".join(_changed_keys(self.config.cloud_init, CloudInit(), apart=("path", "seed", "validate")))
        if seed_keys and not any(self.for_rank(rank).makes_seed for rank in range(self.world_size)):
            found.append(
                f"cloud_init: mvpnet makes no guest a seed that {seed_keys} could go into; see cloud_init.seed"
            )
        least = self.config.recipe.ranks
        if least and self.world_size < least:
            found.append(f"this recipe is made for {least} ranks, and there are {self.world_size}: mpirun -n {least}")
        return found

    def _log_levels(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        """Yield the levels of single parts, and the key that set them."""
        yield "", self.config.logging.levels
        for override in self.overrides:
            yield f"ranks.{override.name}.", override.changes.get("logging", {}).get("levels", {})

    def digest(self) -> str:
        """Return the SHA-256 of all settings, except where the run is kept: equal specs are the same experiment."""
        return digest_of(plain(self))


def _changed_keys(section: Any, default: Any, apart: tuple[str, ...]) -> list[str]:
    names = (f.name for f in dataclasses.fields(section) if f.name not in apart)
    return [name for name in names if getattr(section, name) != getattr(default, name)]
