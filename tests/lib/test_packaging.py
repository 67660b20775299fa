# SPDX-License-Identifier: GPL-2.0
"""What the packages are made of, as far as it can be judged without building a module."""

import importlib.machinery
import importlib.util
import os
import re
import subprocess

import pytest

from rusbip_env.cache import REPO

CHECK = REPO / "packaging/dkms/rust-metadata"
RUSTC = "rustc 1.85.1 (4eb161250 2025-03-15) (built from a source tarball)"


def text(path):
    return (REPO / path).read_text()


def found(pattern, path):
    return re.search(pattern, text(path), re.MULTILINE)[1]


def lines(*argv):
    return subprocess.run(argv, check=True, text=True, stdout=subprocess.PIPE).stdout.splitlines()


def test_all_packages_have_one_version():
    assert {found(pattern, path) for pattern, path in (
        (r"^rusbip-version := (\S+)$", "Kbuild"), (r'^PACKAGE_VERSION="(.*)"$', "dkms.conf"),
        (r"^rusbip \((.*)\)", "debian/changelog"), (r"^pkgver=(.*)$", "packaging/arch/PKGBUILD"),
        (r"^Version: *(\S+)$", "packaging/rpm/rusbip-dkms.spec"))} == {"0.1.0"}


def test_each_module_has_a_name_and_an_alias():
    sources = {one.parent.name for one in REPO.glob("drivers/usb/usbip/*/main.rs")}
    names = [line.split() for line in lines(REPO / "scripts/module-names")]
    assert len(names) == len(sources) >= 3
    assert ["vhci_hcd_rs", "vhci_hcd"] in names
    aliases = lines(REPO / "scripts/module-names", "--modprobe")
    assert [one for one in aliases if not one.startswith("#")] == [
        f"alias {c} {ours}" for ours, c in names]


def test_dkms_builds_each_module():
    script = '. "$1"; printf "%s\\n" "${BUILT_MODULE_NAME[@]}"'
    names = lines("bash", "-c", script, "bash", str(REPO / "dkms.conf"))
    assert names == [line.split()[0] for line in lines(REPO / "scripts/module-names")]


@pytest.fixture(name="complaints")
def complaints_of_check_modinfo():
    path = str(REPO / "scripts/check-modinfo")
    loader = importlib.machinery.SourceFileLoader("check_modinfo", path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("check_modinfo", loader))
    loader.exec_module(module)
    return lambda info: list(module.complaints("vhci_hcd_rs", info, "0.1.0"))


def test_check_modinfo_finds_each_lack(complaints):
    good = {"name": ["vhci_hcd_rs"], "version": ["0.1.0"], "license": ["GPL"], "author": ["A"],
            "description": ["D"], "alias": ["vhci_hcd"], "parm": ["size:how large (uint)"]}
    assert complaints(good) == []
    for name in ("name", "version", "license", "author", "description", "alias"):
        assert len(complaints({key: good[key] for key in good if key != name})) == 1
    assert complaints(good | {"version": ["0.2.0"]})
    assert complaints(good | {"alias": ["vhci_hcd", "platform:vhci_hcd"]})
    assert complaints(good | {"parm": ["size (uint)"]})
    assert complaints(good | {"parm": ["size:how large"]})


@pytest.fixture(name="headers")
def headers_of_a_kernel(tmp_path):
    """Headers that hold the metadata, and a rustc and a bindgen to go with them. What is called makes
    files of them and returns the status and the output of a check."""
    files = {"include/config/auto.conf": f"CONFIG_RUST=y\nCONFIG_RUSTC_VERSION_TEXT={RUSTC}\n",
             "Module.symvers": "", "rust/libkernel.rmeta": "", "rust/Makefile": "",
             "rust/bindgen_parameters": ""}
    tools = {"rustc": f"#!/bin/sh\necho '{RUSTC}'\n", "bindgen": "#!/bin/sh\n"}

    def check(kernel="7.2.12-1-arch", without=(), **changes):
        for name, content in {**files, **changes}.items():
            if name not in without:
                (tmp_path / "kdir" / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / "kdir" / name).write_text(content)
        for name, content in tools.items():
            (tmp_path / name).write_text(content)
            (tmp_path / name).chmod(0o755)
        env = os.environ | {
            "RUSTC": str(tmp_path / "rustc"), "RUSBIP_DKMS_CACHE": str(tmp_path / "cache"),
            "BINDGEN": str(tmp_path / "bindgen") if "bindgen" not in without else "/nowhere"}
        done = subprocess.run([CHECK, "check", kernel, tmp_path / "kdir"], env=env, text=True,
                              stdout=subprocess.PIPE, check=False)
        return done.returncode, done.stdout
    return check


def test_headers_with_metadata_are_taken_as_they_are(headers):
    assert headers() == (0, "")


def auto_conf(content):
    return {"include/config/auto.conf": content}


@pytest.mark.parametrize("reason, change", [
    ("it is older than Linux 7.2", {"kernel": "6.12.1"}),
    ("its headers are not installed", {"without": ["include/config/auto.conf"]}),
    ("the kernel has no support for Rust (CONFIG_RUST)", auto_conf("CONFIG_RUSTY=y\n")),
    ("rustc differs from the kernel's: ", auto_conf(
        "CONFIG_RUST=y\nCONFIG_RUSTC_VERSION_TEXT=rustc 1.96.1\n")),
    ("bindgen is not installed", {"without": ["bindgen"]}),
    ("the kernel's headers lack rust/Makefile", {"without": ["rust/Makefile"]}),
    ("hold no Rust metadata", {"without": ["rust/libkernel.rmeta"]}),
])
def test_a_kernel_is_refused_in_one_line(headers, reason, change):
    status, said = headers(**change)
    assert status == 77 and said.count("\n") == 1
    assert said.startswith("rusbip is not built for ") and reason in said


@pytest.mark.parametrize("source, reason", [
    (None, "linux-source-7.2 is not installed: apt install linux-source-7.2=7.2.12-1"),
    ("7.2.11-1", "linux-source-7.2 is 7.2.11-1, the kernel's headers are 7.2.12-1: install "
     "linux-source-7.2=7.2.12-1"),
    ("7.2.12-1", ""),
])
def test_source_and_headers_are_of_one_version(headers, tmp_path, monkeypatch, source, reason):
    """On Debian, where the metadata is made from the source."""
    for name in ("common", "bin"):
        (tmp_path / name).mkdir()
    query = tmp_path / "bin/dpkg-query"
    query.write_text("#!/bin/sh\nfor name; do :; done\ncase $name in\n"
                     "linux-headers-*) echo installed 7.2.12-1 ;;\n"
                     f"*) echo {f'installed {source}' if source else 'not-installed'} ;;\nesac\n")
    query.chmod(0o755)
    if source:
        (tmp_path / "linux-source-7.2.tar.xz").touch()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=os.pathsep)
    monkeypatch.setenv("RUSBIP_DKMS_SOURCES", str(tmp_path))
    status, said = headers(kernel="7.2.12-amd64", without=["rust/libkernel.rmeta"], **{
        ".kernelvariables": "", "Makefile": f"include {tmp_path}/common/Makefile\n"})
    assert (status, said) == ((77, f"rusbip is not built for 7.2.12-amd64: {reason}\n") if reason
                              else (0, ""))


def test_metadata_of_kernels_without_headers_is_forgotten(tmp_path):
    (tmp_path / "7.2.12-nowhere/objects").mkdir(parents=True)
    subprocess.run([CHECK, "prune"], env=os.environ | {"RUSBIP_DKMS_CACHE": str(tmp_path)},
                   check=True)
    assert not list(tmp_path.iterdir())
