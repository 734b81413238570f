"""Sizes, rank sets, overrides: what a spec is made of."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvpnet.errors import ConfigError, RankSetError
from mvpnet.spec.checks import check_job
from mvpnet.spec.model import JobSpec, Override
from mvpnet.spec.plain import changed, plain
from mvpnet.spec.rank_set import MAX_WORLD_SIZE, RankSet
from mvpnet.spec.schema import Config, Image, ImageUse, Job, Logging, Net, Recipe, Sweep, Vm
from mvpnet.spec.sizes import parse_size


def job(world_size: int = 4, overrides: tuple[Override, ...] = (), **sections: object) -> JobSpec:
    config = changed(Config(job=Job(name="test")), {})
    return JobSpec(world_size, Path("/runs/x"), Config(**{"job": config.job, **sections}), overrides)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("512M", 512 * 2**20), ("4G", 4 * 2**30), ("1.5G", 1536 * 2**20), ("64k", 65536), ("1024", 1024), ("2GiB", 2**31)],
)
def test_sizes_are_powers_of_1024(text: str, size_bytes: int) -> None:
    assert parse_size(text, "vm.memory") == size_bytes


def test_a_bare_number_takes_the_unit_that_its_key_has() -> None:
    assert parse_size("256", "vm.memory", bare="M") == 256 * 2**20


@pytest.mark.parametrize("text", ["", "G", "-1G", "1X", "1 2M", "0x10", "1e3M", "0.3"])
def test_what_is_no_size_is_refused_by_the_name_of_its_key(text: str) -> None:
    with pytest.raises(ConfigError, match=r"vm\.memory"):
        parse_size(text, "vm.memory")


@given(st.sets(st.integers(0, 50), min_size=1), st.integers(1, 60))
def test_a_rank_set_of_numbers_holds_just_those(ranks: set[int], world_size: int) -> None:
    wanted = RankSet.parse(",".join(map(str, sorted(ranks))))
    assert {rank for rank in range(world_size) if wanted.holds(rank, world_size)} == {
        r for r in ranks if r < world_size
    }
    assert wanted.is_empty_in(world_size) == (min(ranks) >= world_size)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1), st.integers(1, 40))
def test_a_rank_set_of_ranges_holds_their_union(pairs: list[tuple[int, int]], world_size: int) -> None:
    ranges = [(min(pair), max(pair)) for pair in pairs]
    wanted = RankSet.parse(", ".join(f"{first}-{last}" for first, last in ranges))
    held = {rank for rank in range(world_size) if wanted.holds(rank, world_size)}
    assert held == {rank for first, last in ranges for rank in range(first, last + 1) if rank < world_size}


@given(st.integers(1, 100))
def test_the_words(world_size: int) -> None:
    def held(text: str) -> list[int]:
        return [rank for rank in range(world_size) if RankSet.parse(text).holds(rank, world_size)]

    assert held("all") == list(range(world_size))
    assert held("even") == list(range(0, world_size, 2))
    assert held("odd") == list(range(1, world_size, 2))
    assert held("last") == [world_size - 1]
    assert held("0,last") == sorted({0, world_size - 1})
    assert held("1-") == list(range(1, world_size))
    assert RankSet.parse("1-").is_empty_in(world_size) == (world_size == 1)
    for word in ("all", "even", "odd", "last"):
        assert RankSet.parse(word).is_empty_in(world_size) == (not held(word))


@given(st.text(alphabet="0123456789-, alevndostx:", max_size=12))
def test_any_text_is_a_rank_set_or_is_refused(text: str) -> None:
    try:
        wanted = RankSet.parse(text, "ranks.a.on")
    except RankSetError as error:
        assert "ranks.a.on" in str(error)
    else:
        assert wanted.is_empty_in(7) == (not any(wanted.holds(rank, 7) for rank in range(7)))


@pytest.mark.parametrize("text", ["", "x", "1,", "3-1", "-1", "1--2", "1-2-", "-", "all but 3", "0:1"])
def test_what_is_no_rank_set_is_refused(text: str) -> None:
    with pytest.raises(RankSetError):
        RankSet.parse(text)


def test_overrides_are_merged_in_order() -> None:
    first = Override("first", RankSet.parse("all"), {"vm": {"memory": "2G", "cpus": 2}})
    second = Override("second", RankSet.parse("0"), {"vm": {"memory": "8G"}})
    spec = job(overrides=(first, second))
    assert spec.for_rank(0).vm == Vm(memory="8G", cpus=2)
    assert spec.for_rank(1).vm == Vm(memory="2G", cpus=2)


def test_an_override_of_a_dict_adds_to_it_and_of_a_list_replaces_it() -> None:
    override = Override("o", RankSet.parse("1"), {"image": {"properties": {"cache": "none"}, "drives": ["b"]}})
    spec = job(overrides=(override,), image=Image(properties={"aio": "io_uring"}, drives=["a"]))
    assert spec.for_rank(1).image == Image(properties={"aio": "io_uring", "cache": "none"}, drives=["b"])
    assert spec.for_rank(0).image == spec.config.image


@given(st.integers(0, 3), st.sampled_from(["1G", "2G", "512M"]))
def test_an_override_changes_nothing_but_what_it_names(rank: int, memory: str) -> None:
    spec = job(overrides=(Override("o", RankSet.parse(str(rank)), {"vm": {"memory": memory}}),))
    for other in range(4):
        expected = memory if other == rank else Vm().memory
        assert spec.for_rank(other).vm == Vm(memory=expected)
        assert spec.for_rank(other).image == Image()


def test_a_recipe_for_more_ranks_than_there_are_is_a_warning() -> None:
    assert job(2, recipe=Recipe(ranks=2)).warnings() == []
    [warning] = job(1, recipe=Recipe(ranks=2)).warnings()
    assert "made for 2 ranks, and there are 1: mpirun -n 2" in warning


def test_an_override_that_no_rank_is_in_is_a_warning() -> None:
    spec = job(2, (Override("far", RankSet.parse("7-9"), {}), Override("near", RankSet.parse("1"), {})))
    assert [w for w in spec.warnings() if "ranks.far.on" in w] == spec.warnings()
    assert len(spec.warnings()) == 1


def test_an_old_name_of_a_log_part_is_a_warning() -> None:
    override = Override("a", RankSet.parse("0"), {"logging": {"levels": {"experiment": "INFO"}}})
    assert job(2, (override,), logging=Logging(levels={"guest": "INFO", "hands": "INFO"})).warnings() == [
        "logging.levels.hands: is called control now",
        "ranks.a.logging.levels.experiment: is called app, records, sweep, report now",
    ]


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"vm": Vm(memory="1X")}, "vm.memory"),
        ({"vm": Vm(memory="4096b")}, "vm.memory"),
        ({"vm": Vm(cpus=0)}, "vm.cpus"),
        ({"net": Net(mtu=10)}, "net.mtu"),
        ({"net": Net(mtu=70000)}, "net.mtu"),
        ({"net": Net(ssh_port=0)}, "net.ssh_port"),
        ({"net": Net(user_network="10.9.0.0/16")}, "net.user_network"),
        ({"net": Net(chunk_bytes=1000)}, "net.chunk_bytes"),
        ({"net": Net(credits=0)}, "net.credits"),
        ({"net": Net(coalesce_us=-1)}, "net.coalesce_us"),
        ({"logging": Logging(level="LOUD")}, "logging.level"),
        ({"logging": Logging(levels={"guest": "LOUD"})}, "logging.levels.guest"),
        (
            {"logging": Logging(levels={"gest": "INFO"})},
            r"levels\.gest: .*did you mean guest.*\n.*parts are api, app, ",
        ),
        ({"job": Job(name="a/b")}, "job.name"),
        ({"job": Job(name="")}, "job.name"),
    ],
)
def test_what_cannot_work_is_refused_by_the_name_of_its_key(sections: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        check_job(job(**sections))


def test_an_override_is_checked_under_its_own_name() -> None:
    with pytest.raises(ConfigError, match=r"ranks\.big\.vm\.memory"):
        check_job(job(overrides=(Override("big", RankSet.parse("0"), {"vm": {"memory": "lots"}}),)))


def test_a_world_without_addresses_for_all_is_refused() -> None:
    check_job(job(MAX_WORLD_SIZE))
    with pytest.raises(ConfigError, match="addresses"):
        check_job(job(MAX_WORLD_SIZE + 1))


def test_the_digest_is_of_what_was_asked_for_and_not_of_where_it_is_kept() -> None:
    spec = job()
    other = Config(job=Job(name="other", ranks=4), sweep=Sweep(repeat=3))
    moved = JobSpec(4, Path("/elsewhere"), other, (), ("job.name=other",), repeat=2)
    assert spec.digest() == moved.digest()
    assert spec.digest() != job(vm=Vm(cpus=2)).digest()
    assert spec.digest() != job(3).digest()


def test_plain_is_jsons_types() -> None:
    spec = job(overrides=(Override("o", RankSet.parse("0,last"), {"image": {"use": ImageUse.copy}}),))
    assert plain(spec)["overrides"] == [{"name": "o", "on": "0,last", "changes": {"image": {"use": "copy"}}}]
    assert plain(spec)["config"]["image"]["use"] == "overlay"
    assert plain(spec)["run_dir"] == "/runs/x"
