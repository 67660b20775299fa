# SPDX-License-Identifier: GPL-2.0
"""The parts of the set-up that decide something."""

import re
from pathlib import Path

import pytest

from lib import lanes
from rusbip_env import cache, kernels, uml
from rusbip_env.run import Failure


def packages(release, image="linux-binary-"):
    series = ".".join(release.split(".")[:2])
    return {f"linux-headers-{release}", f"linux-modules-{release}", f"linux-base-{release}",
            f"linux-source-{series}", image + release}


def test_the_newest_point_release_is_chosen():
    names = packages("7.2.9+deb13-amd64") | packages("7.2.12+deb13-amd64")
    chosen, needed = kernels.choose("7.2", names)
    assert chosen == "7.2.12+deb13-amd64"
    assert "linux-binary-7.2.12+deb13-amd64" in needed


def test_the_signed_image_is_preferred_the_unsigned_taken():
    release = "7.3.4+deb13-amd64"
    unsigned = packages(release, "linux-binary-unsigned-")
    assert f"linux-binary-unsigned-{release}" in kernels.choose("7.3", unsigned)[1]
    assert f"linux-binary-{release}" in kernels.choose("7.3", unsigned | packages(release))[1]


def test_an_incomplete_release_is_passed_over():
    names = packages("7.2.9+deb13-amd64") | {"linux-headers-7.2.12+deb13-amd64"}
    assert kernels.choose("7.2", names)[0] == "7.2.9+deb13-amd64"


def test_other_flavours_and_series_do_not_count():
    names = packages("7.2.12+deb13-rt-amd64") | packages("7.20.1+deb13-amd64")
    with pytest.raises(Failure, match="no linux-headers-7.2"):
        kernels.choose("7.2", names)
    with pytest.raises(Failure, match="lacks linux-modules"):
        kernels.choose("7.2", {"linux-headers-7.2.12+deb13-amd64"})


def test_a_lost_kernel_option_is_noticed():
    config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=m\n"
    assert uml.lost_options({"CONFIG_A": "CONFIG_A=y", "CONFIG_B": None}, config) == []
    assert uml.lost_options({"CONFIG_C": "CONFIG_C=y"}, config) == [
        "CONFIG_C: wanted CONFIG_C=y, have CONFIG_C=m"]
    assert uml.lost_options({"CONFIG_B": "CONFIG_B=y"}, config) == [
        "CONFIG_B: wanted CONFIG_B=y, have off"]
    assert uml.lost_options({"CONFIG_A": None}, config) == [
        "CONFIG_A: wanted off, have CONFIG_A=y"]


def test_the_fragments_can_be_read():
    for name in uml.MAKE:
        options = uml.wanted(name)
        assert options["CONFIG_RUST"] == "CONFIG_RUST=y" and options["CONFIG_SLUB_TINY"] is None


def test_nothing_checks_where_it_is_measured():
    options = uml.wanted(uml.BENCH)
    # As in Debian's own configuration.
    usual = {f"CONFIG_DEBUG_{one}" for one in ("KERNEL", "BUGVERBOSE", "FS", "LIST", "INFO_NONE")}
    found = {name for name, line in options.items() if line and any(word in name for word in (
        "_DEBUG_", "KASAN", "PROVE_", "LOCKDEP", "FAULT_INJECTION", "HUNG_TASK", "WATCHDOG"))}
    assert found <= usual
    assert options["CONFIG_SMP"] is None and options["CONFIG_HZ"] == "CONFIG_HZ=250"


def test_only_the_benchmark_has_its_kernel_built():
    """Setting up and testing do not; the keys of the debug kernels do not depend on it."""
    assert {*uml.DEBUG, uml.BENCH} == set(uml.MAKE)
    assert uml.BENCH not in {one for some in lanes.KERNELS.values() for one in some}
    for name in uml.DEBUG:
        assert not any(uml.BENCH in str(one) for one in uml.inputs(name))
    assert {file.name for file in uml.inputs(uml.BENCH) if isinstance(file, Path)} == {
        "uml-common.config", "uml-bench.config", "uml-bench.Kconfig"}


def test_the_debug_kernels_call_all_that_makes_them_fast():
    source = (uml.FRAGMENTS / "uml-fast.c").read_text()
    assert set(re.findall(r"\b__wrap_(\w+)\(", source)) == set(uml.WRAPPED)
    for name in uml.DEBUG:
        assert uml.FRAGMENTS / "uml-fast.c" in uml.inputs(name)
        assert all(f"--wrap={one} " in uml.KERNEL_MAKE[name] for one in uml.WRAPPED)


def test_a_digest_changes_with_names_and_contents(tmp_path):
    (tmp_path / "a").write_text("1")
    first = cache.digest(tmp_path)
    (tmp_path / "a").write_text("2")
    second = cache.digest(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({first, second, cache.digest(tmp_path)}) == 3
    assert cache.digest("ab", "c") != cache.digest("a", "bc")
